"""Standard errors, covariance, rank, condition and warnings of a fit."""

from __future__ import annotations

from fractions import Fraction

import exact
import numpy as np
import pytest
import torch
from fit_cases import EPS, F64, PRECISIONS, PROBLEMS, curve, line, noise, quiet, uniform
from fit_closeness import assert_exact
from numpy.polynomial import chebyshev
from oracle import to_window
from torch import Tensor

import polyfit
from polyfit import FitWarning


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sigma_against_scipy(precision, is_absolute):
    optimize = pytest.importorskip("scipy.optimize")
    x, y, sigma = line(40), curve(40), 0.1 + uniform(40)
    fit = polyfit.fit(x, y, 2, sigma=sigma, absolute_sigma=is_absolute, basis="power", precision=precision)
    coef, covariance = optimize.curve_fit(
        lambda x, a, b, c: a + b * x + c * x**2, x.numpy(), y.numpy(), np.ones(3), sigma.numpy(), is_absolute
    )
    # Its Jacobian is made of differences, good to the root of eps.
    np.testing.assert_allclose(fit.coef.numpy(), coef, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance.numpy(), covariance, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_absolute_sigma_against_the_formula(precision):
    x, y, sigma = line(40), curve(40), 0.1 + uniform(40)
    weight = sigma**-2
    fit = polyfit.fit(x, y, 3, sigma=sigma, absolute_sigma=True, precision=precision)
    truth = exact.fit(x, y, 3, weight=weight, basis="chebyshev", domain=fit.domain)
    assert_exact(fit, truth, x, y, weight, variance=1.0)


def test_absolute_sigma_knows_errors_without_degrees_of_freedom():
    x, y, sigma = (
        torch.tensor([0.0, 1.0], dtype=F64),
        torch.tensor([5.0, 6.0], dtype=F64),
        torch.tensor([0.5, 2.0]).double(),
    )
    fit = polyfit.fit(x, y, 1, sigma=sigma, absolute_sigma=True, basis="power")
    assert fit.status == "interpolates"
    # y_0 and y_1 - y_0.
    np.testing.assert_allclose(fit.covariance.numpy(), [[0.25, -0.25], [-0.25, 4.25]], rtol=1e-14)
    assert polyfit.fit(x, y, 1, sigma=sigma).std_err.isnan().all()


# --- what the data do not determine ---


def minimum_norm(x: Tensor, y: Tensor, degree: int, domain: tuple[float, float]) -> list[Fraction]:
    """The minimum-norm solution in Chebyshev coefficients, for fewer different x than coefficients."""
    places = sorted(set(x.tolist()))
    means = [
        sum((Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if a == place), Fraction(0))
        / x.tolist().count(place)
        for place in places
    ]
    powers = [[Fraction(place) ** k for k in range(degree + 1)] for place in places]
    rows = exact.product(powers, exact.in_powers("chebyshev", domain, degree))
    columns = exact.transposed(rows)
    return [row[0] for row in exact.product(columns, exact.solve(exact.product(rows, columns), [[m] for m in means]))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("few", [8, 8192])
@pytest.mark.parametrize(("n_places", "degree"), [(1, 1), (1, 4), (2, 2), (3, 3), (3, 6), (7, 8)])
def test_rank_deficient(n_places, degree, few, precision, set_sizes):
    set_sizes(few_samples=few)
    x, y = 0.1 + (torch.arange(30) % n_places).double() ** 1.5, noise(30)
    message = f"determine {n_places} of {degree + 1} coefficients.*degree={n_places - 1} or less.*ridge"
    with pytest.warns(FitWarning, match=message) as caught:
        fit = polyfit.fit(x, y, degree, precision=precision)
    assert caught[0].filename == __file__
    assert (fit.status, fit.rank) == ("rank_deficient", n_places)
    assert fit.degrees_of_freedom == 30 - n_places
    expected = minimum_norm(x, y, degree, fit.estimate.domain)
    size = float(max(map(abs, expected)))
    # The condition of the determined part is small here.
    np.testing.assert_allclose(fit.coef.numpy(), [float(v) for v in expected], rtol=0, atol=1e-12 * size)
    # rss and values at the samples are those of the fit that the data determine.
    plain = exact.fit(x, y, n_places - 1)
    assert fit.rss == pytest.approx(float(plain.rss), rel=1e-12)
    assert fit.r_squared == pytest.approx(float(plain.r_squared or 0), abs=1e-12)
    values, std = fit.predict(x[:n_places], return_std=True)
    for k in range(n_places):
        assert float(values[k]) == pytest.approx(float(plain.value(float(x[k]))), rel=1e-12, abs=1e-12)
        expected_std = exact.root(plain.variance_at(float(x[k])) * plain.variance)
        assert float(std[k]) == pytest.approx(float(expected_std), rel=1e-11)
    # Nothing is known between and beyond.
    assert fit.predict(torch.tensor([0.3, 100.0]).double(), return_std=True)[1].isnan().all()


def test_standard_errors_of_undetermined_coefficients_are_nan():
    # At t = -1, 0, 1: T_1 = T_3, and T_0 and T_2 are told apart.
    x, y = torch.tensor([1.0, 2.0, 3.0] * 4, dtype=F64), noise(12)
    fit = quiet(x, y, 3)
    plain = exact.fit(x, y, 2, basis="chebyshev", domain=(1.0, 3.0))
    errors = plain.std_err()
    assert fit.std_err.isnan().tolist() == [False, True, False, True]
    for k in (0, 2):
        assert float(fit.std_err[k]) == pytest.approx(float(errors[k]), rel=1e-13)
    assert fit.coef[1] == pytest.approx(float(plain.coef[1]) / 2, rel=1e-13)
    covariance = fit.covariance
    assert covariance[[1, 3]].isnan().all()
    assert covariance[:, [1, 3]].isnan().all()
    np.testing.assert_allclose(
        covariance[[0, 0, 2], [0, 2, 2]].tolist(),
        [float(plain.covariance()[i][j]) for i, j in ((0, 0), (0, 2), (2, 2))],
    )


def test_rank_deficient_with_a_fixed_coefficient():
    x, y = torch.tensor([1.0, 2.0] * 6, dtype=F64), noise(12)
    fixed = {0: 0.25}
    fit = quiet(x, y, 3, fixed=fixed)
    assert (fit.status, fit.rank, fit.degrees_of_freedom) == ("rank_deficient", 2, 10)
    # With values at t = -1 and 1 given: c_1 + c_3 and c_2 are determined.
    first, second = (float(y[k::2].mean()) for k in (0, 1))
    odd, even = (second - first) / 2, (second + first) / 2 - 0.25
    np.testing.assert_allclose(fit.coef.tolist(), [0.25, odd / 2, even, odd / 2], rtol=1e-13)
    assert fit.std_err.isnan().tolist() == [False, True, False, True]
    assert fit.std_err[0] == 0.0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_just_determined_is_a_warning(precision):
    x = torch.cat((line(49), torch.tensor([1e6], dtype=F64)))
    # In "double" some BLAS libraries lead to corrections that do not converge, which is another warning.
    words = r"condition is \d.*lower degree.*ridge" + (
        "|did not converge at condition" if precision == "double" else ""
    )
    with pytest.warns(FitWarning, match=words):
        fit = polyfit.fit(x, curve(50), 3, precision=precision)
    truth = exact.fit(x, curve(50), 3, basis="chebyshev", domain=fit.domain)
    assert fit.status in ({"ok"} if precision == "extended" else {"ok", "inaccurate"})
    if precision == "extended":  # all digits, all the same
        for ours, theirs in zip(fit.coef.tolist(), truth.coef, strict=True):
            assert exact.digits(ours, theirs) >= 15.0
    # Singular values are good to eps times the condition.
    errors = [float(value) for value in truth.std_err()]
    np.testing.assert_allclose(fit.std_err.numpy(), errors, rtol=64 * EPS * fit.condition)


def test_condition_is_that_of_the_scaled_columns():
    for name in ("a quadratic", "weights over 20 orders", "two clusters", "an equispaced degree 12"):
        x, y, weight, degree = PROBLEMS[name]()
        fit = polyfit.fit(x, y, degree, weight=weight)
        rows = chebyshev.chebvander(to_window(x, fit.domain).numpy(), degree)
        if weight is not None:
            rows = rows * np.sqrt(weight.numpy())[:, None]
        expected = np.linalg.cond(rows / np.linalg.norm(rows, axis=0))
        assert fit.condition == pytest.approx(expected, rel=1e-6)
