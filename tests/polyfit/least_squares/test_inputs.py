"""Data as people have them: arrays, lists, integers, columns of tables, single numbers, several dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pytest
import torch
from columns import Column
from fit_cases import EPS, F64
from torch import Tensor

import polyfit
from polyfit import Fit, FitWarning, Moments

X, Y = [3, 1, 0, 2, 5, 7], [2, 0, 1, 1, 4, 9]  # integers, which every kind holds


def filtered(values: Any) -> Any:
    """A column of pandas whose index has gaps and begins at 1."""
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"value": [-1, *values, 99]})
    return table[(table.value >= 0) & (table.value < 99)].value


KINDS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "list of floats": lambda values: [float(value) for value in values],
    "tuple": tuple,
    "float64": lambda values: np.array(values, dtype=np.float64),
    "float32": lambda values: np.array(values, dtype=np.float32),
    "int8": lambda values: np.array(values, dtype=np.int8),
    "big-endian": lambda values: np.array(values, dtype=">f8"),
    "reversed": lambda values: np.array(values[::-1])[::-1],
    "tensor of integers": torch.tensor,
    "column": Column,
    "pandas": lambda values: pytest.importorskip("pandas").Series(values, index=list("fedcba")),
    "pandas, filtered": filtered,
    "pandas, nullable": lambda values: pytest.importorskip("pandas").Series(values, dtype="Int64"),
    "polars": lambda values: pytest.importorskip("polars").Series(values),
}


def assert_is_truth(fit: Fit, degree: int) -> None:
    truth = exact.fit([float(v) for v in X], [float(v) for v in Y], degree, basis=fit.basis, domain=fit.domain)
    assert fit.coef.dtype == fit.std_err.dtype == fit.covariance.dtype == F64
    assert fit.coef.device.type == "cpu"
    np.testing.assert_allclose(fit.coef.numpy(), [float(value) for value in truth.coef], rtol=1e-13)
    np.testing.assert_allclose(fit.std_err.numpy(), [float(value) for value in truth.std_err()], rtol=1e-12)
    assert fit.rss == pytest.approx(float(truth.rss), rel=1e-12)
    assert fit.n_samples == 6


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_fitted(name):
    x, y = KINDS[name](X), KINDS[name](Y)
    for mode in (torch.device("cpu"), torch.device("meta")):
        with mode:
            assert_is_truth(polyfit.fit(x, y, 2), 2)
            assert_is_truth(polyfit.fit(x, y, 1, weight=1, basis="power"), 1)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_collected(name):
    x, y = KINDS[name](X), KINDS[name](Y)
    with torch.device("meta"):
        fit = Moments(2, (0, 7)).update(x, y).fit()
    assert_is_truth(fit, 2)
    for value in (fit.rss, fit.r_squared, fit.residual_std, fit.degrees_of_freedom, fit.condition):
        assert type(value) is float


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_selected_from(name):
    fit = polyfit.select_degree(KINDS[name](X), KINDS[name](Y), 2, criterion="aic")
    assert fit.degree == 2
    assert_is_truth(fit, 2)
    for value in (fit.rss, fit.r_squared, fit.residual_std, fit.condition):
        assert type(value) is float


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_a_place(name):
    fit = polyfit.fit(X, Y, 2)
    truth = exact.fit([float(v) for v in X], [float(v) for v in Y], 2)
    expected = [float(truth.value(float(place))) for place in X]
    places = KINDS[name](X)
    with torch.device("meta"):
        values, std = fit.predict(places, return_std=True)
        called, (lower, upper) = fit(places), fit.interval(places)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-13)
    assert torch.equal(values, called)
    for result in (values, std, lower, upper):
        assert (result.dtype, result.device.type, result.shape) == (F64, "cpu", (6,))


def test_true_and_false_are_numbers():
    fit = polyfit.fit([False, True, True, False], [1.0, 4.0, 2.0, 1.0], 1, basis="power")
    np.testing.assert_allclose(fit.coef.numpy(), [1.0, 2.0], rtol=4 * EPS)


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float16"), ("float16", "bfloat16")])
def test_dtypes_may_differ(dtypes):
    x, y = (torch.tensor(values, dtype=getattr(torch, name)) for values, name in zip((X, Y), dtypes, strict=True))
    assert_is_truth(polyfit.fit(x, y, 2), 2)
    assert_is_truth(Moments(2, (0, 7)).update(x, y, weight=torch.ones(6)).fit(), 2)


@pytest.mark.parametrize("weight", [4.0, 4, np.float32(4.0), torch.tensor(4.0), np.array(4)])
def test_one_weight_is_for_all_samples(weight):
    expected = polyfit.fit(X, Y, 2, weight=[4.0] * 6)
    for fit in (polyfit.fit(X, Y, 2, weight=weight), polyfit.fit(X, Y, 2, sigma=1.0 / math.sqrt(float(weight)))):
        assert torch.equal(fit.coef, expected.coef)
        assert fit.rss == expected.rss
        assert fit.sample_weight == 4.0
    moments = Moments(2, (0, 7)).update(X, Y, weight)
    assert moments.total_weight == 24.0
    assert (
        polyfit.select_degree(X, Y, 2, weight=weight).selection
        == polyfit.select_degree(X, Y, 2, weight=[4.0] * 6).selection
    )


CALLS: dict[str, Callable[..., Any]] = {
    "fit": lambda x, y, **options: polyfit.fit(x, y, 1, **options),
    "select_degree": lambda x, y, **options: polyfit.select_degree(x, y, 1, **options),
    "Moments": lambda x, y, **options: Moments(1, (0, 7)).update(x, y, **options),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("x", "y", "options", "error", "match"),
    [
        ([1j] * 6, Y, {}, TypeError, "x is list of complex128, .*pass real numbers, for example x.real"),
        (torch.tensor(X) + 1j, Y, {}, TypeError, "x is torch.complex64, .*pass x.real"),
        (X, list("abcdef"), {}, TypeError, "y is list of <U1, .*dtype=float"),
        (X, [1.0, None, 2.0, 3.0, 4.0, 5.0], {}, TypeError, "y is list, .*NaN for what is missing"),
        (X, Y, {"weight": [1j] * 6}, TypeError, "weight is list of complex128"),
        (X, Y[:5], {}, ValueError, r"y has shape \(5,\) and x \(6,\)"),
        (X, Y, {"weight": [1.0]}, ValueError, r"weight has shape \(1,\) and x \(6,\)"),
        (X, Y, {"weight": -1.0}, ValueError, "weights are negative"),
        (X, Y, {"weight": math.nan}, ValueError, "weight has 6 values that are not finite"),
        (torch.zeros(6, device="meta"), Y, {}, ValueError, "y is on cpu and x is on meta"),
    ],
)
def test_other_data_are_refused(call, x, y, options, error, match):
    with pytest.raises(error, match=match):
        call(x, y, **options)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_places_in_errors_are_those_of_the_data_given(call):
    x, weight = np.arange(8.0), np.ones(8)
    y = x.copy()
    weight[:3], y[1], y[5] = 0.0, math.nan, math.inf
    with pytest.raises(ValueError, match=r"^y has 1 value that is not finite, the first is y\[5\] = inf: "):
        call(x, y, weight=weight)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_a_sample_of_weight_zero_is_left_out(bad):
    x, y = torch.tensor([*X, bad], dtype=F64), torch.tensor([*Y, 1.0], dtype=F64)
    weight = torch.ones(7, dtype=F64)
    weight[-1] = 0.0
    for places, values in ((x, y), (y, x)):
        moments = Moments(2, (0, 9)).update(places, values, weight)
        expected = Moments(2, (0, 9)).update(places[:6], values[:6], weight[:6])
        assert (moments.n_samples, moments.total_weight) == (6, 6.0)
        assert torch.equal(moments.of_x, expected.of_x)
        assert torch.equal(moments.of_y, expected.of_y)
        chosen = polyfit.select_degree(places, values, 2, weight=weight, criterion="cv", folds=3)
        assert chosen.selection == polyfit.select_degree(places[:6], values[:6], 2, criterion="cv", folds=3).selection


# --- digits that x has lost ---


def test_time_stamps_in_float32_are_warned_of():
    stamps = 1.7e9 + 60.0 * torch.arange(48, dtype=F64)
    y = torch.sin(torch.arange(48, dtype=F64) / 8.0)
    for other in (y, y.float()):
        with pytest.warns(
            FitWarning, match=r"48 samples have 23 different x.*128 apart.*: pass x in float64, or subtract"
        ) as caught:
            polyfit.fit(stamps.float(), other, 2)
        assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(FitWarning, match="48 samples have 23 different x") as caught:
        polyfit.select_degree(stamps.float(), y, 3)
    assert [warning.filename for warning in caught] == [__file__]
    for places in (stamps, (stamps - 1.7e9).float()):
        polyfit.fit(places, y, 2)


def test_nanoseconds_are_warned_of():
    stamps = 1_700_000_000_000_000_000 + torch.arange(2000)
    with pytest.warns(FitWarning, match=r"2000 samples have 9 different x.*256 apart.*: subtract an origin from x"):
        polyfit.fit(stamps, torch.sin(torch.arange(2000.0) / 300.0), 2)
    polyfit.fit(stamps - stamps[0], torch.sin(torch.arange(2000.0) / 300.0), 2)


def nearly_the_same(x: Tensor) -> Tensor:
    return 1.0 + torch.sin(7.0 * torch.arange(len(x), dtype=F64)).to(x.dtype)


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(100_000, generator=torch.Generator().manual_seed(0)).half(),  # many samples, near zero
        (2000.0 + torch.arange(40_000) % 5).float(),  # few places, and exact
        torch.full((20,), 2000.0),
        16_777_216.0 + 2.0 * torch.arange(10),  # the numbers next to each other
    ],
)
def test_equal_x_that_are_meant_are_not_warned_of(x):
    polyfit.fit(x, nearly_the_same(x), 0)


def negated(values: Any) -> Tensor:
    """A view that torch negates when it is read."""
    tensor = torch.tensor(values, dtype=F64)
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg()
    return view


def test_views_that_torch_negates_lazily_are_data():
    x, y, weight = (torch.tensor(values, dtype=F64) for values in (X, Y, [1, 2, 3, 4, 5, 6]))
    truth = exact.fit(x, y, 1, weight=weight)
    fit = polyfit.fit(negated(X), negated(Y), 1, weight=negated([1, 2, 3, 4, 5, 6]), basis="power")
    moments = Moments(1, domain=(0.0, 7.0)).update(negated(X), negated(Y), negated([1, 2, 3, 4, 5, 6])).fit()
    for result in (fit, moments.in_basis("power")):
        for ours, exactly in zip(result.coef.tolist(), truth.coef, strict=True):
            assert ours == pytest.approx(float(exactly), rel=64 * EPS)
    assert fit(negated([2.0]))[0] == pytest.approx(float(truth.value(2.0)), rel=8 * EPS)
