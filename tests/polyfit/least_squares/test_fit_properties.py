"""Properties of `polyfit.fit` on data that hypothesis makes."""

from __future__ import annotations

import math
from fractions import Fraction

import exact
import numpy as np
import pytest
import torch
from fit_cases import EPS, F64, PRECISIONS, quiet
from fit_closeness import assert_exact, row_sums
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyfit.backends import sizes

coefficients = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=7)


def places(minimum: int, maximum: int = 40) -> st.SearchStrategy[list[float]]:
    return st.lists(st.integers(-200, 200), min_size=minimum, max_size=maximum, unique=True).map(
        lambda values: [value / 4.0 for value in values]
    )


@given(coef=coefficients, data=st.data(), precision=st.sampled_from(PRECISIONS))
@settings(max_examples=60)
def test_polynomials_are_recovered(coef, data, precision):
    x = torch.tensor(data.draw(places(len(coef), 20)), dtype=F64)
    # Values that float64 holds, so that nothing but the fit can be off.
    values = [sum(Fraction(c) * Fraction(a) ** k for k, c in enumerate(coef)) for a in x.tolist()]
    assume(all(Fraction(float(value)) == value for value in values))
    y = torch.tensor([float(value) for value in values], dtype=F64)
    fit = quiet(x, y, len(coef) - 1, basis="power", precision=precision)
    assume(fit.status != "rank_deficient")
    if precision == "extended" and fit.condition < 1e8:
        # Roundings of 2**-100 of sizes that coefficients and the conversion may have.
        sums = row_sums(fit)
        size = Fraction(float(np.abs(fit.estimate.high).max()))
        for k, (ours, theirs) in enumerate(zip(fit.coef.tolist(), coef, strict=True)):
            assert (
                abs(Fraction(ours) - Fraction(theirs))
                <= abs(Fraction(theirs)) * 2**-53 + Fraction(2.0**-66) * size * sums[k]
            )
    truth = exact.fit(x, y, len(coef) - 1)
    assert truth.coef == [Fraction(value) for value in coef]
    if fit.condition < 1e8:
        assert_exact(fit, truth, x, y)


@st.composite
def samples(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    x = draw(places(8))
    y = draw(st.lists(st.integers(-4096, 4096), min_size=len(x), max_size=len(x)))
    degree = draw(st.integers(0, 4))
    return torch.tensor(x, dtype=F64), torch.tensor(y, dtype=F64) / 64.0, degree


@given(given=samples(), shift=st.integers(-(2**20), 2**20), exponent=st.integers(-40, 40))
@settings(max_examples=40)
def test_shift_and_scale_of_x_change_nothing_but_the_domain(given, shift, exponent):
    x, y, degree = given
    moved = (x + shift) * 2.0**exponent  # exactly
    fit, other = (quiet(part, y, degree) for part in (x, moved))
    # The same t to the last of its many digits: each result is rounded once, from the same exact value.
    scale = float(fit.coef.abs().max())
    torch.testing.assert_close(other.coef, fit.coef, rtol=2 * EPS, atol=2.0**-60 * scale)
    torch.testing.assert_close(other.std_err, fit.std_err, rtol=1e3 * EPS * fit.condition**2, atol=0)
    assert other.rss == pytest.approx(fit.rss, rel=100 * EPS, abs=2.0**-120 * scale**2)
    assert other.domain == tuple((bound + shift) * 2.0**exponent for bound in fit.domain or ())


@given(given=samples(), shift=st.integers(-(2**30), 2**30), exponent=st.integers(-60, 60))
@settings(max_examples=40)
def test_shift_and_scale_of_y_do_the_same_to_the_fit(given, shift, exponent):
    x, y, degree = given
    fit, other = quiet(x, y, degree), quiet(x, (y + shift) * 2.0**exponent, degree)
    expected = fit.coef.clone()
    expected[0] += shift
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        other.coef * 2.0**-exponent, expected, rtol=2 * EPS, atol=2.0**-60 * scale + EPS * shift * 0
    )
    torch.testing.assert_close(other.std_err * 2.0**-exponent, fit.std_err, rtol=1e-12, atol=2.0**-60 * scale)
    if math.isfinite(fit.r_squared):
        assert other.r_squared == pytest.approx(fit.r_squared, abs=1e-12)


@given(given=samples(), seed=st.integers(0, 1000), precision=st.sampled_from(PRECISIONS))
@settings(max_examples=40)
def test_order_does_not_matter(given, seed, precision):
    x, y, degree = given
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    fit, other = quiet(x, y, degree, precision=precision), quiet(x[order], y[order], degree, precision=precision)
    digits = 2 * EPS if precision == "extended" else 64 * (degree + 2) * EPS * fit.condition**2
    torch.testing.assert_close(other.coef, fit.coef, rtol=digits, atol=digits * float(y.abs().max()))
    assert other.rss == pytest.approx(fit.rss, rel=1e-12, abs=1e-24 * float(y.abs().max()) ** 2)


@given(given=samples(), counts=st.data(), precision=st.sampled_from(PRECISIONS))
@settings(max_examples=40)
def test_weights_are_repetitions(given, counts, precision):
    x, y, degree = given
    times = torch.tensor(counts.draw(st.lists(st.integers(1, 5), min_size=len(x), max_size=len(x))))
    fit = quiet(x, y, degree, weight=times.double(), precision=precision)
    other = quiet(x.repeat_interleave(times), y.repeat_interleave(times), degree, precision=precision)
    digits = 2 * EPS if precision == "extended" else 64 * (degree + 2) * EPS * fit.condition**2
    torch.testing.assert_close(other.coef, fit.coef, rtol=digits, atol=digits * float(y.abs().max()))
    assert other.rss == pytest.approx(fit.rss, rel=1e-12, abs=1e-24 * float(y.abs().max()) ** 2)
    assert other.n_samples == int(times.sum())
    # The same but for the degrees of freedom.
    freedom = other.n_samples - degree - 1
    assert other.degrees_of_freedom == freedom
    scale = math.sqrt((len(x) - degree - 1) / freedom)
    torch.testing.assert_close(
        other.std_err, fit.std_err * scale, rtol=1e3 * EPS * fit.condition**2 + 1e-12, atol=1e-14 * float(y.abs().max())
    )


@given(given=samples(), size=st.integers(8, 30), precision=st.sampled_from(PRECISIONS))
@settings(max_examples=40)
def test_chunks_do_not_matter(given, size, precision):
    x, y, degree = given
    whole = quiet(x, y, degree, precision=precision)
    per_thread = -(-size // torch.get_num_threads())
    with sizes.using(sizes.Sizes(few_samples=7, chunk_of_a_thread=per_thread, block=4, longest_block=7)):
        parts = quiet(x, y, degree, precision=precision)
    digits = 2 * EPS if precision == "extended" else 64 * (degree + 2) * EPS * whole.condition**2
    torch.testing.assert_close(parts.coef, whole.coef, rtol=digits, atol=digits * float(y.abs().max()))
    assert parts.rss == pytest.approx(whole.rss, rel=1e-12, abs=1e-24 * float(y.abs().max()) ** 2)
