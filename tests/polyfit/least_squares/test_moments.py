"""Moments against sums in rational numbers and numpy, and the fits that are made of them against fits of the data."""

from __future__ import annotations

import copy
import io
import itertools
import math
import operator
import warnings
from fractions import Fraction

import exact
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from torch import Tensor

import polyfit
from polyfit import FitWarning, Moments
from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import BasisMatrix

EPS = torch.finfo(torch.float64).eps


def make_data(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, generator=generator, dtype=torch.float64) * 5 - 1
    y = torch.sin(x) + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.5
    return x.to(dtype), y.to(dtype), weight.to(dtype)


def assert_sums(moments: Moments, x: Tensor, y: Tensor, weight: Tensor | None) -> None:
    """As numpy's functions of the same samples give them; a sum of n terms is good to some roundings of their sizes."""
    degree, (lo, hi) = moments.degree, moments.domain
    t = (x.double().numpy() - lo) * (2 / (hi - lo)) - 1
    w = np.ones(len(t)) if weight is None else weight.double().numpy()
    values, rows = y.double().numpy(), chebyshev.chebvander(t, 2 * degree)
    # Twice, since T_{d+j} comes from T_d T_j; the map to t costs degree roundings in T_k near the ends.
    allowed = 8 * EPS * (2 * degree + 2) ** 2
    assert np.all(np.abs(moments.of_x.numpy() - w @ rows) <= allowed * w.sum())
    sizes = (w * np.abs(values)).sum()
    assert np.all(np.abs(moments.of_y.numpy() - (w * values) @ rows[:, : degree + 1]) <= allowed * sizes)
    assert abs(moments.of_y_squared - (w * values**2).sum()) <= 8 * EPS * (w * values**2).sum()
    assert moments.total_weight == pytest.approx(w.sum(), rel=8 * EPS)
    assert moments.n_samples == len(t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 5, 12])
def test_the_sums_are_those_of_the_samples(degree, is_weighted, dtype, small_chunks):
    x, y, weight = make_data(301, dtype=dtype)
    moments = Moments(degree, domain=(-1, 4)).update(x, y, weight if is_weighted else None)
    assert_sums(moments, x, y, weight if is_weighted else None)


def test_long_data():
    x, y, weight = make_data(200_001)
    assert_sums(Moments(4, domain=(-1, 4)).update(x, y, weight), x, y, weight)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    offset=st.sampled_from([0.0, 1.0, -3e7, 1e12]),
    seed=st.integers(0, 100),
)
def test_however_the_data_are_cut_the_sums_are_the_same(cuts, offset, seed):
    x, y, weight = make_data(60, seed)
    y = y + offset
    whole = Moments(3, domain=(-1, 4)).update(x, y, weight)
    bounds = [0, *sorted(cuts), 60]
    pieces = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    chunks = Moments(3, domain=(-1, 4))
    merged = Moments(3, domain=(-1, 4))
    for piece in reversed(pieces):
        chunks.update(x[piece], y[piece], weight[piece])
        merged = Moments(3, domain=(-1, 4)).update(x[piece], y[piece], weight[piece]) + merged
    for other in (chunks, merged):
        assert other.n_samples == 60
        # Each part is summed in float64, 60 terms about an offset: a few roundings of their sizes, whatever y's is.
        torch.testing.assert_close(other.of_x, whole.of_x, rtol=0, atol=60 * EPS * whole.total_weight)
        first, second = (moments.fit() for moments in (other, whole))
        # y itself has been rounded where the offset was added.
        noise = 60 * EPS * (1 + abs(offset))
        torch.testing.assert_close(first.coef, second.coef, rtol=1e-12, atol=noise)
        assert first.rss == pytest.approx(second.rss, rel=1e-10, abs=60 * noise)


def test_a_million_parts_lose_no_more_than_one():
    # 0.1 is not a float64: adding it up in float64 is off by 1e-11 after a million times.
    part = Moments(0, (-1, 1)).update(
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        torch.full((1,), 0.1, dtype=torch.float64),
    )
    total = part
    for _ in range(20):  # doubling: 2^20 parts
        total = total + total
    assert total.total_weight == float(Fraction(0.1) * 2**20)
    one_by_one = Moments(0, (-1, 1))
    for _ in range(1000):
        one_by_one = one_by_one + part
    assert one_by_one.total_weight == float(Fraction(0.1) * 1000)


@pytest.mark.parametrize("degree", [0, 2, 6])
@pytest.mark.parametrize("ridge", [0.0, 3.0])
def test_a_fit_is_that_of_the_data(degree, ridge):
    x, y, weight = make_data(500)
    fit = Moments(6, domain=(-1, 4)).update(x, y, weight).fit(degree, ridge=ridge)
    expected = polyfit.fit(x, y, degree, weight=weight, domain=(-1, 4), ridge=ridge)
    torch.testing.assert_close(fit.coef, expected.coef, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(fit.covariance, expected.covariance, rtol=1e-10, atol=1e-15)
    assert fit.rss == pytest.approx(expected.rss, rel=1e-12)
    assert fit.r_squared == pytest.approx(expected.r_squared, rel=1e-12)
    assert (fit.status, fit.rank, fit.domain) == ("ok", degree + 1, (-1.0, 4.0))


def test_an_offset_of_y_costs_nothing():
    x, y, weight = make_data(500)
    fit = Moments(4, domain=(-1, 4)).update(x, y + 2.0**40, weight).fit()
    shifted = (y + 2.0**40) - 2.0**40  # what rounding has left of y
    expected = Moments(4, domain=(-1, 4)).update(x, shifted, weight).fit()
    assert fit.rss == pytest.approx(expected.rss, rel=1e-12)
    assert fit.r_squared == pytest.approx(expected.r_squared, rel=1e-12)
    torch.testing.assert_close(fit.std_err, expected.std_err, rtol=1e-11, atol=0)


def test_residuals_that_moments_cannot_tell_are_said_to_be_so():
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    moments = Moments(3, (-1, 1)).update(x, x**2)
    with pytest.warns(FitWarning, match="Fit the data themselves with polyfit.fit"):
        fit = moments.fit()
    assert 0.0 <= fit.rss <= 100 * EPS * float((x**4).sum())


def test_undetermined_coefficients():
    x = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    moments = Moments(3, (-1, 1)).update(x, torch.tensor([1.0, 2.0, 1.5, 2.5], dtype=torch.float64))
    with pytest.warns(FitWarning, match="determine 2 of 4 coefficients"):
        fit = moments.fit()
    assert (fit.status, fit.rank) == ("rank_deficient", 2)
    # On two points T_2 looks like T_0 and T_3 like T_1: in the minimum-norm solution they are equal.
    torch.testing.assert_close(fit.coef, torch.tensor([0.875, 0.25, 0.875, 0.25], dtype=torch.float64))
    assert fit.std_err.isnan().all()


@pytest.mark.parametrize("degree", range(9))
def test_all_x_in_the_middle_of_the_domain(degree):
    # Odd T_k are zero there, so that their columns are zero, and even T_k are 1 and -1 in turn.
    x, y = torch.full((30,), 1.0, dtype=torch.float64), torch.linspace(1, 2, 30, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        fit = Moments(degree, domain=(0, 2)).update(x, y).fit()
    n_even = degree // 2 + 1
    expected = [0.0 if k % 2 else (-1.0) ** (k // 2) * 1.5 / n_even for k in range(degree + 1)]
    torch.testing.assert_close(fit.coef, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)
    assert fit.rank == 1


def test_state_goes_through_a_file_and_copies_are_apart():
    x, y, weight = make_data(100)
    moments = Moments(3, domain=(-1, 4)).update(x, y, weight)
    file = io.BytesIO()
    torch.save(moments.state_dict(), file)
    file.seek(0)
    again = Moments(3, domain=(-1, 4))
    again.load_state_dict(torch.load(file))
    before = again.fit().coef
    for other in (again, copy.deepcopy(again)):
        assert torch.equal(other.of_x, moments.of_x)
        assert torch.equal(other.fit().coef, moments.fit().coef)
    moments.update(x, y)
    assert torch.equal(again.fit().coef, before)
    again.update(x, y)
    assert torch.equal(again.fit().coef, moments.fit().coef)


def test_ridge_determines_more_coefficients_than_there_are_samples():
    x, y, weight = make_data(3)
    fit = Moments(4, domain=(-1, 4)).update(x, y, weight).fit(ridge=0.1)
    truth = exact.fit(x, y, 4, weight=weight, basis="chebyshev", domain=(-1.0, 4.0), ridge=0.1)
    np.testing.assert_allclose(fit.coef.numpy(), [float(value) for value in truth.coef], rtol=1e-12)
    assert fit.rank == 5
    # Degrees of freedom are a difference of the number of samples and a trace.
    assert fit.degrees_of_freedom == pytest.approx(float(truth.freedom), rel=1e-9)


def test_a_constant_is_not_called_inaccurate():
    moments = Moments(2, domain=(-1, 4)).update(make_data(50)[0], torch.full((50,), 0.1, dtype=torch.float64))
    with pytest.warns(FitWarning, match="residuals are smaller than the rounding errors"):
        assert moments.fit().status == "ok"


def test_empty_moments_add_nothing():
    x, y, _ = make_data(50)
    moments = Moments(2, domain=(-1, 4)).update(x, y)
    empty = Moments(2, domain=(-1, 4)).update(x[:0], y[:0])
    for total in (moments + empty, empty + moments):
        assert torch.equal(total.of_x, moments.of_x)
        assert torch.equal(total.fit().coef, moments.fit().coef)
    unweighted = Moments(2, domain=(-1, 4)).update(x, y, torch.zeros_like(x))
    assert unweighted.n_samples == 0
    with pytest.raises(ValueError, match="0 samples do not determine 3 coefficients"):
        unweighted.fit()


def test_bad_input_is_refused_and_changes_nothing():
    x, y, weight = make_data(20)
    moments = Moments(2, domain=(-1, 4)).update(x, y)
    before = moments.of_x
    bad = y.clone()
    bad[7] = math.nan
    with pytest.raises(ValueError, match=r"y has 1 value that is not finite, the first is y\[7\] = nan"):
        moments.update(x, bad)
    with pytest.raises(ValueError, match="1 weights are negative"):
        moments.update(x, y, torch.where(weight == weight[3], -weight, weight))
    with pytest.raises(ValueError, match=r"y has shape \(19,\) and x \(20,\)"):
        moments.update(x, y[1:])
    with pytest.raises(ValueError, match="lies far outside of domain"):
        moments.update(x + 1e200, y)
    with pytest.raises(ValueError, match="impl='compile'"):
        moments.update(x, y, impl="compile")
    with pytest.raises(ValueError, match="cannot be added"):
        operator.add(moments, Moments(3, domain=(-1, 4)))
    with pytest.raises(TypeError):
        operator.add(moments, 1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ValueError, match="above that of the moments"):
        moments.fit(3)
    with pytest.raises(ValueError, match="version 99"):
        moments.load_state_dict({**moments.state_dict(), "version": 99})
    with pytest.raises(ValueError, match="state lacks low"):
        moments.load_state_dict({key: value for key, value in moments.state_dict().items() if key != "low"})
    with pytest.raises(ValueError, match="state is of degree 3"):
        moments.load_state_dict(Moments(3, (-1, 1)).state_dict())
    with pytest.raises(TypeError, match="domain"):
        Moments(2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="domain=None is not a pair of numbers"):
        Moments(2, None)  # pyright: ignore[reportArgumentType]
    for degree in (-1, True):
        with pytest.raises(ValueError, match="is not a degree"):
            Moments(degree, (-1, 1))
    with pytest.raises(TypeError, match="pass an int"):
        Moments(2.0, (-1, 1))  # pyright: ignore[reportArgumentType]
    assert torch.equal(moments.of_x, before)
    assert moments.n_samples == 20


def test_no_matrix_of_the_data_is_made(monkeypatch, set_sizes):
    # The matrix of a chunk has 16 samples for each thread, or one block, whatever n is.
    set_sizes(chunk_of_a_thread=16)
    laid_out = []
    make = BasisMatrix.__init__
    monkeypatch.setattr(
        BasisMatrix, "__init__", lambda self, *args, **kw: (laid_out.append(args[2]), make(self, *args, **kw))[1]
    )
    x, y, _ = make_data(5000)
    Moments(3, domain=(-1, 4)).update(x, y)
    assert max(laid_out) <= max(16 * torch.get_num_threads(), sizes.current().block)


# --- sums of moments, and states ---


def test_moments_add_up_by_sum():
    x, y, weight = make_data(90)
    parts = [Moments(3, (-1, 4)).update(x[k::3], y[k::3], weight[k::3]) for k in range(3)]
    total, expected = sum(parts), parts[0] + parts[1] + parts[2]
    assert isinstance(total, Moments)
    assert torch.equal(total.of_x, expected.of_x)
    assert total.n_samples == 90
    before = parts[0].of_x
    sum(parts[:1]).update(x, y)  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(parts[0].of_x, before)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"high": torch.zeros(3, dtype=torch.float64)}, r"high has shape \(3,\) in place of \(9,\)"),
        ({"low": torch.full((9,), math.nan, dtype=torch.float64)}, "low is not finite"),
        ({"high": "text"}, "high is str"),
        ({"high": torch.zeros(9, dtype=torch.complex64)}, "high is torch.complex64"),
        ({"high": torch.zeros(9, dtype=torch.float64)}, "damaged.*sum 0.0"),
        ({"n_samples": -1}, "n_samples=-1"),
        ({"n_samples": 2.5}, "n_samples=2.5"),
        ({"n_samples": 0}, "sums of no samples are not zero"),
        ({"offset": math.nan}, "damaged.*offset nan"),
        ({"offset": None}, "damaged"),
        ({"weights": (2.0, 1.0)}, "damaged.*weights from 2.0 to 1.0"),
        ({"weights": 1.0}, "damaged"),
        ({"degree": "2"}, "damaged.*degree='2'"),
        ({"domain": None}, "damaged.*domain=None"),
        ({"domain": (4.0, -1.0)}, "damaged.*lo < hi"),
        ({"version": "1"}, "version '1'"),
        ({"version": None}, "version None"),
    ],
)
def test_damaged_states_are_named_and_change_nothing(change, match):
    x, y, _ = make_data(20)
    moments = Moments(2, domain=(-1, 4)).update(x, y)
    state, before = moments.state_dict(), moments.of_y
    with pytest.raises(ValueError, match=match):
        moments.load_state_dict({**state, **change})
    with pytest.raises(ValueError, match="state is not a dict"):
        moments.load_state_dict(None)  # pyright: ignore[reportArgumentType]
    assert torch.equal(moments.of_y, before)
    assert moments.n_samples == 20


def test_the_state_of_no_samples_is_a_state():
    moments = Moments(2, domain=(-1, 4))
    moments.load_state_dict(Moments(2, domain=(-1, 4)).state_dict())
    x, y, _ = make_data(20)
    assert moments.update(x, y).n_samples == 20


def test_moments_know_whether_weights_differ():
    x, y, weight = make_data(30)
    first, second = (Moments(1, (-1, 4)).update(x, y, value) for value in (0.25, 4.0))
    expected = polyfit.fit(x, y, 1).interval(x, kind="prediction")
    for ours, theirs in zip(first.fit().interval(x, kind="prediction"), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    again = Moments(1, (-1, 4))
    again.load_state_dict((first + second).state_dict())
    for moments in (first + second, again, Moments(1, (-1, 4)).update(x, y, weight)):
        with pytest.raises(ValueError, match="different weights"):
            moments.fit().interval(x, kind="prediction")


# --- domains that the data do not fill ---


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 100.0])
@pytest.mark.parametrize("degree", [1, 3, 5])
def test_a_fit_is_right_or_says_that_the_domain_is_not(degree, scale):
    x = torch.arange(1990.0, 2021.0, dtype=torch.float64)
    y = torch.sin(torch.arange(31, dtype=torch.float64) / 5) + 0.1 * torch.cos(77 * x)
    moments = Moments(degree, (1990.0 - 30.0 * scale, 2020.0 + 10.0 * scale)).update(x, y)
    truth = exact.fit(x, y, degree)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = moments.fit()
    messages = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert len(messages) == len(caught)
    if any("Collect moments on a domain that the data fill" in message for message in messages):
        assert scale > 0.5
        assert fit.condition > 1e5
        return
    assert truth.r_squared is not None
    assert fit.r_squared == pytest.approx(float(truth.r_squared), rel=1e-6)
    for place in (1990.0, 2001.5, 2020.0):
        assert float(fit(place)) == pytest.approx(float(truth.value(place)), abs=1e-5)


def test_the_warning_of_a_domain_says_where_the_data_are():
    x = torch.arange(1990.0, 2021.0, dtype=torch.float64)
    moments = Moments(3, (0, 3000)).update(x, torch.sin(x))
    # The mean is 2005, the variance (31**2 - 1) / 12 = 80.
    with pytest.warns(
        FitWarning, match=r"domain is \(0, 3000\), and x has the mean 2005 and the standard deviation 8.9"
    ):
        moments.fit()


def test_large_weights():
    # sum(w y)**2 would be 1e402.
    x, y, weight = make_data(50)
    weight = 1e200 * weight
    fit = Moments(2, domain=(-1, 4)).update(x, y, weight).fit()
    truth = exact.fit(x, y, 2, weight=weight, basis="chebyshev", domain=(-1.0, 4.0))
    assert truth.r_squared is not None
    assert fit.r_squared == pytest.approx(float(truth.r_squared), rel=1e-13)
    for ours, exactly in zip(fit.coef.tolist(), truth.coef, strict=True):
        assert ours == pytest.approx(float(exactly), rel=1e-12)


@pytest.mark.parametrize(("y_unit", "weight"), [(1e-160, 1e-200), (1e-160, 1.0), (1.0, 1e-300)])
def test_sums_that_underflow_are_said(y_unit, weight):
    x = torch.linspace(0.0, 1.0, 20, dtype=torch.float64)
    y = torch.cos(3.0 * x)
    with pytest.warns(FitWarning, match="their terms underflow float64.*Scale y, or weight"):
        Moments(2, domain=(0, 1)).update(x, y_unit * y, weight)
    # The advice helps: powers of two are exact.
    fit = Moments(2, domain=(0, 1)).update(x, y).fit()
    truth = exact.fit(x, y, 2, basis="chebyshev", domain=(0.0, 1.0))
    np.testing.assert_allclose(fit.coef.numpy(), [float(value) for value in truth.coef], rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 2.0**-530, 3.0])
def test_equal_y_underflow_nothing(value):
    x = torch.linspace(0.0, 1.0, 20, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moments = Moments(2, domain=(0, 1)).update(x, torch.full_like(x, value))
    assert moments.n_samples == 20


def test_parts_whose_sum_overflows_are_refused():
    x, y = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([1e154, -1e154], dtype=torch.float64)
    first, second = (Moments(0, domain=(0, 1)).update(x[:1], torch.zeros_like(x[:1])) for _ in range(2))
    first.update(x, 0.9 * y)
    second.update(x, 0.9 * y)
    with pytest.raises(ValueError, match="the sums of both data overflow float64; collect moments of y in a larger"):
        operator.add(first, second)
    before = first.state_dict()["high"]
    with pytest.raises(ValueError, match="too large to be squared"):
        first.update(x, 0.9 * y)
    assert torch.equal(first.state_dict()["high"], before)
