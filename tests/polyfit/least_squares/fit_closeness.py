"""How near a fit has to be to the exact one, and the comparison with it."""

from __future__ import annotations

import math
from fractions import Fraction

import exact
import numpy as np
from fit_cases import EPS
from numpy.polynomial import chebyshev
from torch import Tensor

from polyfit import Fit


def row_sums(fit: Fit) -> list[float]:
    """The factor by which errors of the internal coefficients may grow in each coefficient of the fit."""
    internal = exact.in_powers("chebyshev", fit.estimate.domain, fit.degree)
    matrix = exact.solve(exact.in_powers(fit.basis, fit.domain, fit.degree), internal)
    return [float(sum(map(abs, row), Fraction(0))) for row in matrix]


def design(fit: Fit, x: Tensor) -> np.ndarray:
    """Chebyshev polynomials on the internal domain, (N, degree + 1); t is rounded once."""
    lo, hi = map(Fraction, fit.estimate.domain)
    t = [float((2 * Fraction(value) - lo - hi) / (hi - lo)) for value in x.tolist()]
    return chebyshev.chebvander(t, fit.degree)


def allowed_error(fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor, weight: Tensor | None) -> float:
    """The error that internal coefficients may have.

    "extended": refinement ends where the next correction is expected below 2**-70 of the largest coefficient; a
    correction by QR may leave up to 2**-66. With fixed coefficients, the free directions are rounded to float64, and
    residuals come through by that rounding. "double": residuals have an error of about degree + 2 roundings of the
    largest of y and of the terms of the polynomial. With kappa the condition of the scaled columns, coefficients
    change by kappa times as much, and by kappa**2 eps r for the rounding of the moments of residuals r (Björck 1996,
    1.4.3).
    """
    internal = truth.to("chebyshev", fit.estimate.domain)
    largest = float(max(map(abs, internal.coef)))
    w = np.ones(len(x)) if weight is None else weight.double().numpy()
    lengths = np.sqrt(w @ design(fit, x) ** 2)
    growth = 8.0 * (fit.degree + 2) * EPS * fit.condition * math.sqrt(w.sum()) / lengths.min()
    residual = fit.condition * math.sqrt(float(truth.rss) / w.sum())
    if fit.precision == "extended":
        return 2.0**-66 * largest + (growth * residual if fit.fixed else 0.0)
    return growth * (max(float(y.double().abs().max()), (fit.degree + 1) * largest) + residual)


def error_of_rss(fit: Fit, truth: exact.ExactFit, x: Tensor, weight: Tensor | None, tolerance: float) -> float:
    """The error that rss may have: rounding of a sum of n squares, and residuals changed by `tolerance`."""
    total_weight = float(len(x)) if weight is None else float(weight.double().sum())
    off = tolerance * (fit.degree + 1) * math.sqrt(total_weight)
    rss = float(truth.rss)
    return 2.0 * len(x) * EPS * rss + 2.0 * math.sqrt(rss) * off + off**2


def assert_exact(
    fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor, weight: Tensor | None = None, variance: float | None = None
) -> None:
    """Coefficients, residuals, covariance and standard errors are exact but for roundings."""
    tolerance, sums = allowed_error(fit, truth, x, y, weight), row_sums(fit)
    for k, (ours, value) in enumerate(zip(fit.coef.tolist(), truth.coef, strict=True)):
        off = float(abs(Fraction(ours) - value))
        assert off <= 1.01 * 2.0**-53 * abs(float(value)) + tolerance * sums[k] + 5e-324, k
    rss_error = error_of_rss(fit, truth, x, weight, tolerance)
    assert abs(fit.rss - float(truth.rss)) <= rss_error
    if truth.freedom <= 0:
        return
    # Singular values are good to eps times the condition, and their squares to eps times its square.
    digits = 32.0 * (fit.degree + 1) * EPS * fit.condition ** (1 if fit.solver == "qr" else 2)
    expected = float(truth.variance) if variance is None else variance
    error = rss_error / float(truth.freedom) if variance is None else 0.0
    internal = truth.to("chebyshev", fit.estimate.domain)
    largest = max(math.sqrt(row[k]) for k, row in enumerate(internal.cofactors))
    scale = [largest * value for value in sums]  # before anything cancels in the change of basis
    of_std = digits * math.sqrt(expected) + math.sqrt(expected + error) - math.sqrt(expected)
    covariance = truth.covariance(None if variance is None else Fraction(variance))
    for k, (ours, row) in enumerate(zip(fit.covariance.tolist(), covariance, strict=True)):
        assert abs(float(fit.std_err[k]) - float(exact.root(row[k]))) <= of_std * scale[k], k
        for j, value in enumerate(row):
            assert abs(ours[j] - float(value)) <= (2.0 * digits * expected + error) * scale[k] * scale[j], (k, j)


def assert_r_squared(fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
    """R^2 is one less a quotient of two sums of n squares, so that the condition does not matter."""
    if truth.r_squared is None:
        assert math.isnan(fit.r_squared)
        return
    unexplained = float(1 - truth.r_squared)
    rss, n = float(truth.rss), len(x)
    rss_error = error_of_rss(fit, truth, x, weight, allowed_error(fit, truth, x, y, weight))
    allowed = EPS + unexplained * (4.0 * n * EPS + (rss_error / rss if rss else 0.0))
    assert abs(fit.r_squared - float(truth.r_squared)) <= allowed
