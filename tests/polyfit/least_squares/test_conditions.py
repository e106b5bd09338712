"""Fixed coefficients and ridge."""

from __future__ import annotations

import math
from typing import Any

import exact
import numpy as np
import pytest
import torch
from fit_cases import BASES, EPS, F64, PRECISIONS, PROBLEMS, curve, line, long_data, noise, uniform
from fit_closeness import assert_exact, assert_r_squared
from oracle import NUMPY_CLASSES, to_window

import polyfit

FIXED = [{0: 0.0}, {1: 0.5}, {0: 0.25, 3: -1.0}, {4: 0.0}, {0: 1.0, 1: 2.0, 2: 0.0, 3: 0.0}]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fixed", FIXED, ids=str)
@pytest.mark.parametrize("domain", ["data", None, (0.0, 10.0)])
@pytest.mark.parametrize("basis", BASES)
def test_fixed_coefficients(basis, domain, fixed, precision):
    x, y, weight = 5.0 + 3.0 * line(40), curve(40), uniform(40)
    fit = polyfit.fit(x, y, 4, weight=weight, basis=basis, domain=domain, fixed=fixed, precision=precision)
    for k, value in fixed.items():
        assert fit.coef[k] == value
        assert fit.std_err[k] == 0.0
        assert not fit.covariance[k].any()
    truth = exact.fit(x, y, 4, weight=weight, basis=basis, domain=fit.domain, fixed=fixed)
    assert fit.degrees_of_freedom == 40 - 5 + len(fixed)
    assert fit.rank == 5 - len(fixed)
    assert_exact(fit, truth, x, y, weight)
    assert_r_squared(fit, truth, x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fixed_on_long_and_on_ill_conditioned_data(precision, small_chunks, set_sizes):
    set_sizes(few_samples=16)
    x, y, weight, degree = PROBLEMS["an outlier at 1000"]()
    for options in ({"basis": "power", "fixed": {0: 1.0}}, {"basis": "legendre", "fixed": {2: 0.5}}):
        fit = polyfit.fit(x, y, degree, weight=weight, precision=precision, **options)
        truth = exact.fit(x, y, degree, basis=fit.basis, domain=fit.domain, fixed=options["fixed"])
        assert_exact(fit, truth, x, y, weight)


def test_all_fixed_leaves_the_residuals():
    x, y = line(40), curve(40)
    fit = polyfit.fit(x, y, 2, basis="power", fixed={0: 1.0, 1: 1.0, 2: -2.0})
    residual = y - (1.0 + x - 2.0 * x**2)
    assert fit.coef.tolist() == [1.0, 1.0, -2.0]
    assert fit.rss == pytest.approx(float(residual @ residual), rel=100 * EPS)
    assert (fit.status, fit.rank, fit.degrees_of_freedom) == ("ok", 0, 40)
    assert not fit.std_err.any()
    assert not fit.covariance.any()


def test_fewer_samples_where_some_are_fixed():
    x, y = torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, 4.0], dtype=F64)
    fit = polyfit.fit(x, y, 2, basis="power", fixed={0: 0.0})
    # Through the origin, (1, 3) and (2, 4): 4 x - x**2.
    torch.testing.assert_close(fit.coef, torch.tensor([0.0, 4.0, -1.0], dtype=F64), rtol=4 * EPS, atol=0)
    assert fit.status == "interpolates"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("ridge", [1e-6, 0.3, 1e4])
@pytest.mark.parametrize("domain", ["data", (0.0, 10.0)])
@pytest.mark.parametrize("basis", BASES)
def test_ridge_is_augmented_least_squares(basis, domain, ridge, precision):
    x, y, weight = 5.0 + 3.0 * line(40), curve(40), uniform(40)
    fit = polyfit.fit(x, y, 4, weight=weight, basis=basis, domain=domain, ridge=ridge, precision=precision)
    t = to_window(x, fit.domain, basis).numpy()
    rows = np.stack([NUMPY_CLASSES[basis](unit)(t) for unit in np.eye(5)], 1)
    root = weight.sqrt().numpy()
    stacked = np.vstack((rows * root[:, None], math.sqrt(ridge) * np.eye(5)[1:]))  # the penalty spares the constant
    # The oracle's ridge is that of the stacked rows. numpy solves those to m n eps times their condition, at most.
    truth = exact.fit(x, y, 4, weight=weight, basis=basis, domain=fit.domain, ridge=ridge)
    size = float(max(map(abs, truth.coef)))
    condition = np.linalg.cond(stacked)
    theirs = np.linalg.lstsq(stacked, np.concatenate((y.numpy() * root, np.zeros(4))), rcond=None)[0]
    exact_coef = np.array([float(value) for value in truth.coef])
    np.testing.assert_allclose(theirs, exact_coef, rtol=0, atol=stacked.size * EPS * condition * size)
    # Penalty and Gram matrix are squares in float64: good to eps times the square of a condition, in either basis.
    digits = 8 * EPS * max(fit.condition, condition) ** 2
    assert np.all(np.abs(fit.coef.numpy() - exact_coef) <= digits * size)
    assert fit.rss == pytest.approx(float(truth.rss), rel=1e-12)
    assert fit.degrees_of_freedom == pytest.approx(float(truth.freedom), rel=1e-12)
    errors = np.array([float(value) for value in truth.std_err()])
    # Where the penalty holds a coefficient much tighter than others, it is a difference of theirs.
    np.testing.assert_allclose(fit.std_err.numpy(), errors, rtol=0, atol=digits * errors.max())
    covariance = np.array([[float(value) for value in row] for row in truth.covariance()])
    np.testing.assert_allclose(fit.covariance.numpy(), covariance, rtol=0, atol=2.0 * digits * errors.max() ** 2)


def test_ridge_of_long_data_with_a_fixed_coefficient():
    x, y, weight = long_data()
    options: dict[str, Any] = {"basis": "legendre", "domain": (0.0, 2.0), "ridge": 7.0, "fixed": {2: 0.5}}
    truth = exact.fit(x, y, 3, weight=weight, **options)
    for precision in PRECISIONS:
        fit = polyfit.fit(x, y, 3, weight=weight, precision=precision, **options)
        np.testing.assert_allclose(fit.coef.numpy(), [float(value) for value in truth.coef], rtol=1e-13)
        np.testing.assert_allclose(fit.std_err.numpy(), [float(value) for value in truth.std_err()], rtol=1e-11)
        assert fit.rss == pytest.approx(float(truth.rss), rel=1e-12)


def test_ridge_determines_all_coefficients():
    x, y = torch.tensor([1.0, 2.0] * 5, dtype=F64), noise(10)
    fit = polyfit.fit(x, y, 3, ridge=0.5)
    truth = exact.fit(x, y, 3, basis="chebyshev", domain=(1.0, 2.0), ridge=0.5)
    assert (fit.status, fit.rank) == ("ok", 4)
    np.testing.assert_allclose(fit.coef.numpy(), [float(value) for value in truth.coef], rtol=1e-13, atol=1e-15)
    errors = [float(value) for value in truth.std_err()]
    np.testing.assert_allclose(fit.std_err.numpy(), errors, rtol=1e-12, atol=1e-13)
    assert fit.degrees_of_freedom == pytest.approx(float(truth.freedom), rel=1e-13)
