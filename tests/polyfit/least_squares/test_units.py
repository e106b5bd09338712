"""Data in extreme units: results are those of the data in usual units, times powers of the units.

Units are powers of two, so that the scaled data are exact, and rational numbers give the results.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import exact
import numpy as np
import pytest
import torch
from exact import fractions
from fit_cases import EPS, F64, PRECISIONS, curve, line, uniform
from torch import Tensor

import polyfit
from polyfit import Fit

N, DEGREE = 30, 3
X, Y, SIGMA = line(N), curve(N), 0.5 + uniform(N)


def scaled(truth: exact.ExactFit, y_unit: Fraction, weight_unit: Fraction) -> exact.ExactFit:
    """The exact fit for y times one unit and weights times another."""
    return dataclasses.replace(
        truth,
        coef=[value * y_unit for value in truth.coef],
        rss=truth.rss * y_unit**2 * weight_unit,
        cofactors=[[value / weight_unit for value in row] for row in truth.cofactors],
    )


def assert_results(fit: Fit, truth: exact.ExactFit, x: Tensor, variance: Fraction | None = None) -> None:
    assert fit.status == "ok"
    coef, errors = [float(value) for value in truth.coef], [float(value) for value in truth.std_err(variance)]
    # In "double" roundings are relative to the largest coefficient.
    np.testing.assert_allclose(fit.coef.numpy(), coef, rtol=4 * EPS, atol=EPS * max(map(abs, coef)))
    np.testing.assert_allclose(fit.std_err.numpy(), errors, rtol=64 * EPS)
    with np.errstate(over="ignore"):
        covariance = np.outer(errors, errors)
    is_normal = np.isfinite(covariance) & (covariance > 1e-290)
    rows = truth.covariance(variance)
    expected = [[float(value) if abs(value) < 10**300 else math.inf for value in row] for row in rows]
    off = np.abs(fit.covariance.numpy()[is_normal] - np.array(expected)[is_normal])
    assert np.all(off <= 256 * EPS * covariance[is_normal])
    assert fit.residual_std == pytest.approx(float(exact.root(truth.variance)), rel=16 * EPS)
    std = fit.predict(x[4], return_std=True)[1]
    expected_std = exact.root(truth.variance_at(float(x[4])) * (truth.variance if variance is None else variance))
    assert float(std) == pytest.approx(float(expected_std), rel=64 * EPS)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("exponent", [-700, -480, 480, 700])
def test_y(exponent, precision):
    truth = exact.fit(X, Y, DEGREE, basis="chebyshev", domain=(-1.0, 1.0))
    fit = polyfit.fit(X, Y * 2.0**exponent, DEGREE, precision=precision)
    assert_results(fit, scaled(truth, Fraction(2) ** exponent, Fraction(1)), X)


@pytest.mark.parametrize("few", [8, 4096])
@pytest.mark.parametrize("exponent", [-1000, -500, 500, 1000])
def test_weights(exponent, few, set_sizes):
    set_sizes(few_samples=few)
    weight = SIGMA * 2.0**exponent
    truth = exact.fit(X, Y, DEGREE, weight=weight, basis="chebyshev", domain=(-1.0, 1.0))
    fit = polyfit.fit(X, Y, DEGREE, weight=weight)
    assert_results(fit, truth, X)
    assert fit.rss == pytest.approx(float(truth.rss), rel=64 * EPS)


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("exponent", [-1000, -530, 530, 1000])
def test_sigma(exponent, is_absolute):
    # 1/sigma**2 is exact for the powers of two 1/2, 1 and 2.
    usual = torch.exp2(torch.arange(N, dtype=F64) % 3 - 1)
    truth = exact.fit(X, Y, DEGREE, weight=usual**-2, basis="chebyshev", domain=(-1.0, 1.0))
    truth = scaled(truth, Fraction(1), Fraction(2) ** (-2 * exponent))
    fit = polyfit.fit(X, Y, DEGREE, sigma=usual * 2.0**exponent, absolute_sigma=is_absolute)
    assert_results(fit, truth, X, Fraction(1) if is_absolute else None)


@pytest.mark.parametrize("few", [8, 4096])
@pytest.mark.parametrize("fixed", [{1: 0.0, 2: 1.0}, {0: 3.0}])
@pytest.mark.parametrize("exponent", [-1000, -530, 400])
def test_fixed_coefficients_of_another_size_than_y(exponent, fixed, few, set_sizes):
    set_sizes(few_samples=few)
    y = Y * 2.0**exponent
    truth = exact.fit(X, y, DEGREE, basis="power", fixed=fixed)
    fit = polyfit.fit(X, y, DEGREE, basis="power", fixed=fixed)
    assert fit.status == "ok"
    coef, errors = [float(value) for value in truth.coef], [float(value) for value in truth.std_err()]
    largest = max(map(abs, coef))  # some coefficients are smaller than its rounding: x is symmetric about zero
    np.testing.assert_allclose(fit.coef.numpy(), coef, rtol=16 * EPS, atol=EPS * largest)
    np.testing.assert_allclose(fit.std_err.numpy(), errors, rtol=256 * EPS)
    assert fit.rss == pytest.approx(float(truth.rss), rel=256 * EPS)
    values = fractions(y)
    about = Fraction(fixed[0]) if 0 in fixed else sum(values, Fraction(0)) / N
    share = truth.rss / sum(((value - about) ** 2 for value in values), Fraction(0))
    expected = 1.0 - float(share) if share < 10**300 else -math.inf
    assert fit.r_squared == pytest.approx(expected, rel=256 * EPS, abs=16 * EPS)


def test_a_fixed_value_is_kept_whatever_the_unit_of_y_is():
    fit = polyfit.fit(X, Y * 2.0**-1000, DEGREE, basis="power", fixed={1: 1e200})
    assert float(fit.coef[1]) == 1e200
    assert fit.std_err.isfinite().all()


def test_fixed_coefficients_whose_polynomial_overflows_are_refused():
    # 4 x**3 is 3 T_1 + T_3, times 1e600.
    with pytest.raises(ValueError, match=r"reach 3e\+600 on the range of x, and overflow float64; pass smaller"):
        polyfit.fit(X * 1e200, Y, DEGREE, basis="power", fixed={3: 4.0, 2: 0.0, 1: 0.0, 0: 0.0})


@pytest.mark.parametrize("y_exponent", [-600, 0, 600])
def test_ridge_has_the_units_of_the_weights(y_exponent):
    weight = SIGMA * 2.0**600
    truth = exact.fit(X, Y, DEGREE, weight=SIGMA, basis="power", ridge=0.75)
    fit = polyfit.fit(
        X, Y * 2.0**y_exponent, DEGREE, weight=weight, ridge=0.75 * 2.0**600, basis="power", domain=(-1, 1)
    )
    np.testing.assert_allclose(fit.coef.numpy() / 2.0**y_exponent, [float(value) for value in truth.coef], rtol=1e-14)
    assert fit.degrees_of_freedom == pytest.approx(float(truth.freedom), rel=1e-14)


@pytest.mark.parametrize(
    ("unit", "degree"), [(2.0**-100, 6), (2.0**660, 1), (2.0**60, 12), (2.0**-500, 2)], ids=lambda value: f"{value:g}"
)
def test_x(unit, degree):
    # Standard errors of powers of x have squares that overflow or underflow.
    x = unit * (X + 0.25)
    fit, truth = polyfit.fit(x, Y, degree, basis="power", domain=(-1, 1)), exact.fit(x, Y, degree)
    assert fit.status == "ok"
    expected = np.array([float(value) for value in truth.std_err()])
    is_normal = (expected > 1e-300) & np.isfinite(expected)
    assert is_normal.sum() > 1
    np.testing.assert_allclose(fit.std_err.numpy()[is_normal], expected[is_normal], rtol=1e-10)


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel when they are evaluated:polyfit.FitWarning")
def test_time_stamps_in_nanoseconds():
    x = 1.7e18 + 1e9 * torch.arange(N, dtype=F64)
    fit, truth = polyfit.fit(x, Y, 12, basis="power", domain=(-1, 1)), exact.fit(x, Y, 12)
    np.testing.assert_allclose(fit.std_err.numpy(), [float(value) for value in truth.std_err()], rtol=1e-10)


def test_standard_errors_of_predictions_do_not_underflow_in_the_dtype_of_x():
    x, y = X.float(), (1e-30 * Y).float()
    fit, truth = polyfit.fit(x, y, 2), exact.fit(x, y, 2)
    std = fit.predict(x, return_std=True)[1]
    expected = [float(exact.root(truth.variance_at(place) * truth.variance)) for place in x.tolist()]
    np.testing.assert_allclose(std.numpy(), expected, rtol=64 * EPS)


def test_weights_that_vanish_beside_others_are_refused():
    sigma = torch.ones(N, dtype=F64)
    sigma[4] = 1e-200
    with pytest.raises(ValueError, match=r"sigma\[0\] is 1.0 and sigma\[4\] is 1e-200: the quotient of their weights"):
        polyfit.fit(X, Y, 2, sigma=sigma)
    weight = torch.ones(N, dtype=F64)
    weight[4], weight[5] = 1e300, 1e-300
    with pytest.raises(ValueError, match=r"weight\[5\] is 1e-300 and weight\[4\] is 1e\+300"):
        polyfit.fit(X, Y, 2, weight=weight)


def test_messages_name_sigma_where_sigma_was_given():
    with pytest.raises(ValueError, match="all 30 sigma are infinite; pass finite sigma"):
        polyfit.fit(X, Y, 2, sigma=torch.full((N,), math.inf, dtype=F64))
    sigma = SIGMA.clone()
    sigma[3] = math.nan
    with pytest.raises(ValueError, match=r"sigma\[3\] = nan"):
        polyfit.fit(X, Y, 2, sigma=sigma)


def test_a_new_sample_needs_its_sigma_where_weights_overflow():
    fit = polyfit.fit(X, Y, 2, sigma=torch.full((N,), 1e-200, dtype=F64), absolute_sigma=True)
    with pytest.raises(ValueError, match="pass sigma= or weight= of the new sample"):
        fit.interval(0.5, kind="prediction")
    lower, upper = fit.interval(0.5, kind="prediction", sigma=1e-200)
    std = float(fit.predict(0.5, return_std=True)[1])
    assert math.isfinite(float(upper - lower))
    assert std > 0.0


@pytest.mark.filterwarnings("ignore:.* cancel when they are evaluated:polyfit.FitWarning")
@pytest.mark.parametrize(
    ("x_unit", "y_exponent", "sigma_exponent", "basis", "degree"),
    [
        (1e-30, 0, 530, "hermite", 5),  # the conversion reaches 1e150, the spread 1e160
        (1e200, 490, 0, "power", 5),  # squares of the conversion underflow, and at the highest degrees itself
        (1e200, 0, 0, "power", 2),
        (1e-30, -200, 0, "legendre", 11),
    ],
)
def test_standard_errors_whose_factors_are_beyond_float64(x_unit, y_exponent, sigma_exponent, basis, degree):
    x, y, weight = X * x_unit, Y * 2.0**y_exponent, torch.exp2(-2.0 * (torch.arange(N, dtype=F64) % 3 - 1))
    truth = exact.fit(x, y, degree, weight=weight, basis=basis)
    with np.errstate(all="ignore"):
        fit = polyfit.fit(x, y, degree, sigma=weight**-0.5 * 2.0**sigma_exponent, basis=basis, domain=None)
    # Exact zero counts as right below the smallest normal number.
    expected = [float(value) if value < Fraction(10) ** 308 else math.inf for value in truth.std_err()]
    np.testing.assert_allclose(fit.std_err.numpy(), expected, rtol=1e-10, atol=1e-307)


def test_standard_errors_where_the_deviation_overflows():
    # The residual standard deviation is 2**1050 times that of the usual units.
    y, sigma = Y * 2.0**490, 2.0**-560 * torch.exp2(torch.arange(N, dtype=F64) % 3 - 1)
    truth = scaled(exact.fit(X, Y, DEGREE, weight=(sigma * 2.0**560) ** -2), Fraction(2) ** 490, Fraction(1))
    fit = polyfit.fit(X, y, DEGREE, sigma=sigma, basis="power")
    assert fit.rss == fit.residual_std == math.inf
    np.testing.assert_allclose(fit.std_err.numpy(), [float(value) for value in truth.std_err()], rtol=256 * EPS)
    place = float(X[4])
    variance = truth.variance_at(place) * truth.variance
    std = fit.predict(X[4], return_std=True)[1]
    assert float(std) == pytest.approx(float(exact.root(variance)), rel=64 * EPS)
    low, high = fit.interval(X[4], 0.5, kind="prediction", sigma=2.0**-560)
    curve_low, curve_high = fit.interval(X[4], 0.5)
    ratio = exact.root((variance + truth.variance) / variance)
    assert float((high - low) / (curve_high - curve_low)) == pytest.approx(float(ratio), rel=1e-12)
