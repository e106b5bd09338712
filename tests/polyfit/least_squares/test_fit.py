"""`polyfit.fit` against certified values, rational numbers, numpy and scipy."""

from __future__ import annotations

import functools
import itertools
import json
import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import exact
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from oracle import NUMPY_CLASSES, to_window
from torch import Tensor

import polyfit
from polyfit import Fit, FitWarning
from polyfit.backends import sizes

F64 = torch.float64
EPS = torch.finfo(F64).eps
BASES = list(NUMPY_CLASSES)
PRECISIONS = ["double", "extended"]
NIST = Path(__file__).parents[2] / "data" / "nist"


def quiet(*args: Any, **options: Any) -> Fit:
    """A fit whose warnings are of no interest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polyfit.fit(*args, **options)


# --- how near a fit has to be ---


def row_sums(fit: Fit) -> list[float]:
    """By how much an error of all coefficients on the range of the data may come through to those of the fit."""
    own = exact.in_powers("chebyshev", fit.estimate.domain, fit.degree)
    matrix = exact.solve(exact.in_powers(fit.basis, fit.domain, fit.degree), own)
    return [float(sum(map(abs, row), Fraction(0))) for row in matrix]


def design(fit: Fit, x: Tensor) -> np.ndarray:
    """Chebyshev polynomials on the range of the data, at arguments that were rounded once."""
    lo, hi = map(Fraction, fit.estimate.domain)
    t = [float((2 * Fraction(value) - lo - hi) / (hi - lo)) for value in x.tolist()]
    return chebyshev.chebvander(t, fit.degree)


def allowed_error(fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor, weight: Tensor | None) -> float:
    """Of coefficients on the range of the data.

    "extended": refinement ends where a correction is below 2**-70 of the largest coefficient, give or take a factor for
    what it leaves. What fixed coefficients leave free are directions in float64, and there a multiplier of the size of
    the residuals stands against their rounding. "double": residuals are off by some (degree + 2) roundings of the
    largest of y and of the terms of the polynomial. With kappa the condition of the columns, each divided by its
    length, that changes coefficients by kappa times as much, and rounding the moments of residuals r by kappa**2 times
    eps r (Björck 1996, 1.4.3).
    """
    own = truth.to("chebyshev", fit.estimate.domain)
    largest = float(max(map(abs, own.coef)))
    w = np.ones(len(x)) if weight is None else weight.double().numpy()
    lengths = np.sqrt(w @ design(fit, x) ** 2)
    growth = 8.0 * (fit.degree + 2) * EPS * fit.condition * math.sqrt(w.sum()) / lengths.min()
    residual = fit.condition * math.sqrt(float(truth.rss) / w.sum())
    if fit.precision == "extended":
        return 2.0**-66 * largest + (growth * residual if fit.fixed else 0.0)
    return growth * (max(float(y.double().abs().max()), (fit.degree + 1) * largest) + residual)


def error_of_rss(fit: Fit, truth: exact.ExactFit, x: Tensor, weight: Tensor | None, tolerance: float) -> float:
    """That of a sum of n squares, of residuals that are off by as much as coefficients may be."""
    total_weight = float(len(x)) if weight is None else float(weight.double().sum())
    off = tolerance * (fit.degree + 1) * math.sqrt(total_weight)
    rss = float(truth.rss)
    return 2.0 * len(x) * EPS * rss + 2.0 * math.sqrt(rss) * off + off**2


def assert_exact(
    fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor, weight: Tensor | None = None, variance: float | None = None
) -> None:
    """Coefficients, residuals, covariance and standard errors are those of the data, but for roundings."""
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
    own = truth.to("chebyshev", fit.estimate.domain)
    largest = max(math.sqrt(row[k]) for k, row in enumerate(own.cofactors))
    scale = [largest * value for value in sums]  # before anything cancels in the change of basis
    of_std = digits * math.sqrt(expected) + math.sqrt(expected + error) - math.sqrt(expected)
    covariance = truth.covariance(None if variance is None else Fraction(variance))
    for k, (ours, row) in enumerate(zip(fit.covariance.tolist(), covariance, strict=True)):
        assert abs(float(fit.std_err[k]) - float(exact.root(row[k]))) <= of_std * scale[k], k
        for j, value in enumerate(row):
            assert abs(ours[j] - float(value)) <= (2.0 * digits * expected + error) * scale[k] * scale[j], (k, j)


def assert_r_squared(fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
    """R^2 is one less a quotient of two sums of n squares, whatever the condition of the fit."""
    if truth.r_squared is None:
        assert math.isnan(fit.r_squared)
        return
    unexplained = float(1 - truth.r_squared)
    rss, n = float(truth.rss), len(x)
    rss_error = error_of_rss(fit, truth, x, weight, allowed_error(fit, truth, x, y, weight))
    allowed = EPS + unexplained * (4.0 * n * EPS + (rss_error / rss if rss else 0.0))
    assert abs(fit.r_squared - float(truth.r_squared)) <= allowed


# --- certified ---

# Digits of the worst coefficient that have to be right, "double" and "extended".
CERTIFIED = {
    "Norris": (12.0, 14.0),
    "Pontius": (12.0, 13.4),
    "NoInt1": (13.0, 14.0),
    "Filip": (13.0, 13.9),
    "Wampler1": (9.5, 14.9),
    "Wampler2": (12.5, 13.1),
    "Wampler3": (9.5, 14.9),
}


def nist(name: str) -> tuple[dict[str, Any], Tensor, Tensor, dict[str, Any]]:
    """A file, its x and y, and what a fit in powers of x needs besides."""
    data = json.loads((NIST / f"{name}.json").read_text())
    x, y = (torch.tensor([float(text) for text in data[key]], dtype=F64) for key in "xy")
    return data, x, y, {} if data["intercept"] else {"fixed": {0: 0.0}}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("is_asked_for", [True, False], ids=["power", "in_basis"])
@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_digits(name, is_asked_for, precision):
    data, x, y, options = nist(name)
    if is_asked_for or options:
        options = {"basis": "power", "domain": (-1, 1), **options}
    fit = polyfit.fit(x, y, data["degree"], precision=precision, **options)
    fit = fit if is_asked_for else fit.in_basis("power")
    wanted = CERTIFIED[name][PRECISIONS.index(precision)]
    kept = data["coef_degrees"]
    certified = data["certified"]
    for k, coef, std_err in zip(kept, certified["coef"], certified["std_err"], strict=True):
        assert exact.digits(float(fit.coef[k]), Fraction(coef)) >= wanted, k
        assert exact.digits(float(fit.std_err[k]), Fraction(std_err)) >= wanted - 1.0, k
    # Each of these comes from residuals, as the standard errors do.
    for ours, theirs in (
        (fit.rss, certified["rss"]),
        (fit.r_squared, certified["r_squared"]),
        (fit.residual_std, certified["residual_std"]),
    ):
        scale = float(y.abs().max()) if not Fraction(theirs) else 1.0  # zero: absolute, in units of y
        assert exact.digits(ours / scale, Fraction(theirs)) >= wanted - 1.0
    assert fit.degrees_of_freedom == len(x) - len(kept)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_data_as_float64_has_them(name, precision):
    data, x, y, options = nist(name)
    truth = exact.fit(x, y, data["degree"], **options)
    # The oracle is right: these were computed elsewhere.
    for k, *known in zip(
        data["coef_degrees"], *(data["exact_float64_input"][key] for key in ("coef", "std_err")), strict=True
    ):
        assert exact.digits(float(truth.coef[k]), Fraction(known[0])) >= 15.5
        assert abs(truth.std_err()[k] - Fraction(known[1])) <= Fraction(1, 10**30) * (1 + Fraction(known[1]))
    fit = polyfit.fit(x, y, data["degree"], basis="power", domain=(-1, 1), precision=precision, **options)
    assert_exact(fit, truth, x, y)


# --- hard data ---


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def uniform(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def line(n: int) -> Tensor:
    return torch.linspace(-1.0, 1.0, n, dtype=F64)


def curve(n: int) -> Tensor:
    t = line(n)
    return 1.0 + t - 2.0 * t**2 + 0.1 * noise(n)


Problem = tuple[Tensor, Tensor, Tensor | None, int]

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "a quadratic": lambda: (line(50), curve(50), None, 2),
    "shuffled": lambda: (line(50).flip(0)[torch.randperm(50)], curve(50), None, 3),
    "timestamps": lambda: (1.7e9 + 60.0 * torch.arange(48, dtype=F64), curve(48), None, 3),
    "timestamps, fractions of a second": lambda: (1.7e9 + uniform(40), curve(40), None, 4),
    "y around 1e12": lambda: (line(50), 1e12 + curve(50), None, 3),
    "y around 1e15": lambda: (line(50), 1e15 + curve(50), None, 3),
    "y nearly x": lambda: (line(50), line(50) * (1.0 + 1e-9 * noise(50)), None, 3),
    "as many as coefficients": lambda: (uniform(6), noise(6), None, 5),
    "a mean": lambda: (uniform(30), noise(30), None, 0),
    "a mean at one x": lambda: (torch.full((9,), 3.0, dtype=F64), noise(9), None, 0),
    "a single sample": lambda: (torch.tensor([-7.0], dtype=F64), torch.tensor([0.3], dtype=F64), None, 0),
    "repeated x": lambda: (torch.arange(40, dtype=F64) % 5, noise(40), None, 4),
    "weights over 20 orders": lambda: (line(50), curve(50), 10.0 ** (20.0 * uniform(50) - 10.0), 3),
    "weights that fall over 20 orders": lambda: (line(50), curve(50), 10.0 ** -torch.linspace(0, 20, 50, dtype=F64), 3),
    "weights around 1e-200": lambda: (line(50), curve(50), 1e-200 * (0.5 + uniform(50)), 3),
    "weights around 1e200": lambda: (line(50), curve(50), 1e200 * (0.5 + uniform(50)), 3),
    "two clusters": lambda: (torch.cat((1e-6 * uniform(25), 1 + 1e-6 * uniform(25, 2))), curve(50), None, 3),
    "an outlier at 1000": lambda: (torch.cat((line(49), torch.tensor([1e3], dtype=F64))), curve(50), None, 3),
    "x over 6 orders": lambda: (10.0 ** (3.0 * line(50)), curve(50), None, 5),
    "x around 1e-300": lambda: (1e-300 * line(50), curve(50), None, 2),
    "x up to 1e300": lambda: (1e300 * line(50), curve(50), None, 2),
    "y around 1e-140": lambda: (line(50), 1e-140 * curve(50), None, 2),
    "y around 1e150": lambda: (line(50), 1e150 * curve(50), None, 2),
    "y zero": lambda: (line(20), torch.zeros(20, dtype=F64), None, 2),
    "y one number": lambda: (line(20), torch.full((20,), 0.1, dtype=F64), None, 2),
    "an equispaced degree 12": lambda: (line(60), torch.sin(5 * line(60)) + 0.1 * noise(60), None, 12),
}
ILL = {"weights that fall over 20 orders", "two clusters", "an outlier at 1000"}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_hard_data(name, precision):
    x, y, weight, degree = PROBLEMS[name]()
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision)
    truth = exact.fit(x, y, degree, weight=weight, basis="chebyshev", domain=fit.domain)
    assert (fit.solver == "qr") == (name in ILL)
    assert fit.status == ("ok" if truth.freedom else "interpolates")
    assert fit.rank == degree + 1
    assert_exact(fit, truth, x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_r_squared_of_hard_data(name, precision):
    x, y, weight, degree = PROBLEMS[name]()
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision)
    assert_r_squared(fit, exact.fit(x, y, degree, weight=weight), x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "name", ["a quadratic", "timestamps", "weights over 20 orders", "an outlier at 1000", "an equispaced degree 12"]
)
def test_hard_data_in_powers_of_x(name, precision):
    x, y, weight, degree = PROBLEMS[name]()
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision, basis="power", domain=(-1, 1))
    assert_exact(fit, exact.fit(x, y, degree, weight=weight), x, y, weight)


@functools.cache
def degree_40() -> tuple[Tensor, Tensor, np.ndarray, np.ndarray, float]:
    """x, y on 128 Chebyshev nodes; to 50 digits: coefficients, their covariance, the residual sum of squares."""
    n, degree = 128, 40
    x = torch.cos((torch.arange(n, dtype=F64) + 0.5) * math.pi / n)
    y = torch.exp(x) * torch.cos(20.0 * x) + noise(n)
    with mpmath.workdps(50):
        lo, hi = mpmath.mpf(float(x.min())), mpmath.mpf(float(x.max()))
        rows, values = mpmath.matrix(n, degree + 1), mpmath.matrix(y.tolist())
        for i, place in enumerate(x.tolist()):
            t = (2 * mpmath.mpf(place) - lo - hi) / (hi - lo)
            rows[i, 0], rows[i, 1] = mpmath.mpf(1), t
            for k in range(2, degree + 1):
                rows[i, k] = 2 * t * rows[i, k - 1] - rows[i, k - 2]
        inverse = (rows.T * rows) ** -1  # the nodes are nearly orthogonal: no digit to speak of is lost
        coef = inverse * (rows.T * values)
        residual = values - rows * coef
        rss = (residual.T * residual)[0]
        covariance = np.array((inverse * rss / (n - degree - 1)).tolist(), dtype=float)
        return x, y, np.array(coef.tolist(), dtype=float)[:, 0], covariance, float(rss)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_degree_40_on_chebyshev_nodes(precision):
    x, y, coef, covariance, rss = degree_40()
    degree, largest = 40, float(np.abs(coef).max())
    fit = polyfit.fit(x, y, degree, precision=precision)
    assert fit.condition < 1.5
    # "extended": both sides are rounded once. "double": T_40 is off by 40**2 / 2 roundings of t near the ends.
    allowed = 2 * EPS * largest if precision == "extended" else degree**2 * EPS * float(y.abs().max())
    np.testing.assert_allclose(fit.coef.numpy(), coef, rtol=0, atol=allowed)
    # The factor of the covariance comes from T_k at rounded t, in either precision: (degree + 1) * 40**2 / 2 roundings.
    digits = (degree + 1) * degree**2 * EPS
    np.testing.assert_allclose(fit.covariance.numpy(), covariance, rtol=0, atol=digits * float(covariance.max()))
    assert fit.rss == pytest.approx(rss, rel=128 * EPS)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e160, 1e200, 1e300])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_y_whose_squares_float64_does_not_hold(precision, scale):
    x, y = line(50), scale * curve(50)
    fit = polyfit.fit(x, y, 2, precision=precision)
    truth = exact.fit(x, y, 2, basis="chebyshev", domain=fit.domain)
    # Some roundings of the largest coefficient, which is of the size of y.
    np.testing.assert_allclose(
        fit.coef.numpy() / scale, [float(value / Fraction(scale)) for value in truth.coef], atol=1e-15
    )
    # Standard errors are of the size of y, and known; the sum of squares may be beyond float64.
    errors = [float(error) for error in truth.std_err()]
    np.testing.assert_allclose(fit.std_err.numpy() / scale, np.array(errors) / scale, rtol=1e-12)
    assert fit.r_squared == pytest.approx(float(truth.r_squared or 0), rel=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("largest", [8e307, 1.7e308])
def test_x_near_the_largest_number(largest, precision):
    x, y = largest * line(50), curve(50)
    fit = polyfit.fit(x, y, 2, precision=precision)
    assert_exact(fit, exact.fit(x, y, 2, basis="chebyshev", domain=fit.domain), x, y)
    assert "T_2(t)" in repr(fit)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_x_too_narrow_to_be_mapped_is_named(precision):
    with pytest.raises(ValueError, match="too narrow or too wide to be mapped"):
        polyfit.fit(1e-310 * line(50), curve(50), 2, precision=precision)


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("outlier", [1e6, 1e12])
def test_r_squared_where_the_condition_is_huge(outlier, degree):
    x, y = torch.cat((line(49), torch.tensor([outlier], dtype=F64))), curve(50)
    fit = quiet(x, y, degree)
    if fit.status == "ok":
        assert_r_squared(fit, exact.fit(x, y, degree), x, y)
    # Whatever was determined, rss is about what its polynomial leaves, and R^2 belongs to rss.
    total = (y - y.mean()).square().sum()
    assert fit.r_squared == pytest.approx(1.0 - fit.rss / float(total), abs=1e-13)


# --- dtypes and layouts ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_narrow_data_are_fitted_as_the_numbers_they_are(is_weighted, dtype, precision):
    x, y = (3.0 + line(60)).to(dtype), (100.0 * curve(60)).to(dtype)
    weight = uniform(60).to(dtype) if is_weighted else None
    fit = polyfit.fit(x, y, 4, weight=weight, precision=precision)
    assert fit.coef.dtype == fit.std_err.dtype == fit.covariance.dtype == F64
    assert_exact(fit, exact.fit(x, y, 4, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sigma_of_narrow_dtypes_keeps_its_digits(dtype):
    x, y, sigma = line(40).to(dtype), curve(40).to(dtype), (1e-4 * (1.0 + uniform(40))).to(dtype)
    fit = polyfit.fit(x, y, 2, sigma=sigma)
    weight = sigma.double() ** -2
    assert_exact(fit, exact.fit(x, y, 2, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layouts(precision):
    x, y, weight = line(60), curve(60), uniform(60)
    expected = polyfit.fit(x, y, 3, weight=weight, precision=precision)
    columns = torch.stack((x, y, weight), 1)
    flipped = torch.stack((weight, y, x)).flip(0)
    for parts in (columns.unbind(1), flipped.unbind(0), torch.stack((x, x, y, y, weight, weight), 1)[:, ::2].unbind(1)):
        fit = polyfit.fit(parts[0], parts[1], 3, weight=parts[2], precision=precision)
        torch.testing.assert_close(fit.coef, expected.coef, rtol=8 * EPS, atol=8 * EPS)
        assert fit.rss == pytest.approx(expected.rss, rel=60 * EPS)
    one = torch.ones((), dtype=F64)
    fit = polyfit.fit(x, one.expand(60), 1, weight=one.expand(60), precision=precision)  # stride 0
    torch.testing.assert_close(fit.coef, torch.tensor([1.0, 0.0], dtype=F64), rtol=0, atol=8 * EPS)


def test_data_are_not_written():
    tensors = x, y, weight = line(60), curve(60), uniform(60)
    copies = [tensor.clone() for tensor in tensors]
    for precision, size in itertools.product(PRECISIONS, (8, 8192)):
        with sizes.using(sizes.Sizes(few_samples=size)):
            polyfit.fit(x, y, 3, weight=weight, precision=precision)
    assert all(map(torch.equal, tensors, copies))


# --- long data ---


def long_data(dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor]:
    n = 20_000
    x = uniform(n) ** 3
    return x.to(dtype), (torch.sin(3.0 * x) + 0.01 * noise(n)).to(dtype), uniform(n, 5).to(dtype)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_long_data(is_weighted, dtype, precision):
    x, y, weight = long_data(dtype)
    weight = weight if is_weighted else None
    fit = polyfit.fit(x, y, 4, weight=weight, precision=precision)
    assert_exact(fit, exact.fit(x, y, 4, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


def test_auto_is_extended_for_data_of_usual_size_and_double_for_millions():
    x = uniform(100_001)
    assert polyfit.fit(x[:-1], x[:-1], 1).precision == "extended"
    assert polyfit.fit(x, x, 1).precision == "double"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("few", [8, 49])
@pytest.mark.parametrize("name", ["timestamps", "y around 1e12", "weights over 20 orders", *sorted(ILL)])
def test_chunks(name, few, precision, small_chunks, set_sizes):
    x, y, weight, degree = PROBLEMS[name]()
    set_sizes(few_samples=few)
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision)
    assert (fit.solver == "qr") == (name in ILL)
    assert_exact(fit, exact.fit(x, y, degree, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["one x", "far off", "no weight"])
def test_a_first_guess_that_is_of_no_use(kind, precision, set_sizes):
    # With FEW = 20 it comes from each fifth of 100 samples: from those that are like no others.
    set_sizes(few_samples=20)
    x, y, weight = line(100), curve(100), torch.ones(100, dtype=F64)
    if kind == "one x":
        x[::5] = 0.5
    elif kind == "far off":
        y[::5] += 1e10
    else:
        weight[::5] = 1e-200
    fit = polyfit.fit(x, y, 3, weight=weight, precision=precision)
    assert_exact(fit, exact.fit(x, y, 3, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


# --- bases, domains, fixed coefficients, ridge ---

DOMAINS = [None, (-1.0, 1.0), (0.0, 10.0), (5.0, 5.5), (-1e3, 2e3)]
FIXED = [{0: 0.0}, {1: 0.5}, {0: 0.25, 3: -1.0}, {4: 0.0}, {0: 1.0, 1: 2.0, 2: 0.0, 3: 0.0}]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("basis", BASES)
def test_bases_and_domains(basis, domain, precision):
    x, y = 5.0 + 3.0 * line(40), curve(40)
    fit = polyfit.fit(x, y, 4, basis=basis, domain=domain, precision=precision)
    assert fit.basis == basis
    assert fit.domain == (domain or (2.0, 8.0))
    assert_exact(fit, exact.fit(x, y, 4, basis=basis, domain=fit.domain), x, y)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fixed", FIXED, ids=str)
@pytest.mark.parametrize("domain", [None, (0.0, 10.0)])
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
    for options in ({"basis": "power", "domain": (-1, 1), "fixed": {0: 1.0}}, {"basis": "legendre", "fixed": {2: 0.5}}):
        fit = polyfit.fit(x, y, degree, weight=weight, precision=precision, **options)
        truth = exact.fit(x, y, degree, basis=fit.basis, domain=fit.domain, fixed=options["fixed"])
        assert_exact(fit, truth, x, y, weight)


def test_all_fixed_leaves_the_residuals():
    x, y = line(40), curve(40)
    fit = polyfit.fit(x, y, 2, basis="power", domain=(-1, 1), fixed={0: 1.0, 1: 1.0, 2: -2.0})
    residual = y - (1.0 + x - 2.0 * x**2)
    assert fit.coef.tolist() == [1.0, 1.0, -2.0]
    assert fit.rss == pytest.approx(float(residual @ residual), rel=100 * EPS)
    assert (fit.status, fit.rank, fit.degrees_of_freedom) == ("ok", 0, 40)
    assert not fit.std_err.any()
    assert not fit.covariance.any()


def test_fewer_samples_where_some_are_fixed():
    x, y = torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, 4.0], dtype=F64)
    fit = polyfit.fit(x, y, 2, basis="power", domain=(-1, 1), fixed={0: 0.0})
    # Through the origin, (1, 3) and (2, 4): 4 x - x**2.
    torch.testing.assert_close(fit.coef, torch.tensor([0.0, 4.0, -1.0], dtype=F64), rtol=4 * EPS, atol=0)
    assert fit.status == "interpolates"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("ridge", [1e-6, 0.3, 1e4])
@pytest.mark.parametrize("domain", [None, (0.0, 10.0)])
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


def test_ridge_determines_what_the_data_leave_open():
    x, y = torch.tensor([1.0, 2.0] * 5, dtype=F64), noise(10)
    fit = polyfit.fit(x, y, 3, ridge=0.5)
    truth = exact.fit(x, y, 3, basis="chebyshev", domain=(1.0, 2.0), ridge=0.5)
    assert (fit.status, fit.rank) == ("ok", 4)
    np.testing.assert_allclose(fit.coef.numpy(), [float(value) for value in truth.coef], rtol=1e-13, atol=1e-15)
    errors = [float(value) for value in truth.std_err()]
    np.testing.assert_allclose(fit.std_err.numpy(), errors, rtol=1e-12, atol=1e-13)
    assert fit.degrees_of_freedom == pytest.approx(float(truth.freedom), rel=1e-13)


# --- weights and sigma ---


def test_sigma_is_a_weight():
    x, y, sigma = line(40), curve(40), 0.1 + uniform(40)
    fit, same = polyfit.fit(x, y, 3, sigma=sigma), polyfit.fit(x, y, 3, weight=sigma**-2)
    assert torch.equal(fit.coef, same.coef)
    assert torch.equal(fit.covariance, same.covariance)


@pytest.mark.parametrize("is_absolute", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sigma_against_scipy(precision, is_absolute):
    optimize = pytest.importorskip("scipy.optimize")
    x, y, sigma = line(40), curve(40), 0.1 + uniform(40)
    fit = polyfit.fit(
        x, y, 2, sigma=sigma, absolute_sigma=is_absolute, basis="power", domain=(-1, 1), precision=precision
    )
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
    fit = polyfit.fit(x, y, 1, sigma=sigma, absolute_sigma=True, basis="power", domain=(-1, 1))
    assert fit.status == "interpolates"
    # y_0 and y_1 - y_0.
    np.testing.assert_allclose(fit.covariance.numpy(), [[0.25, -0.25], [-0.25, 4.25]], rtol=1e-14)
    assert polyfit.fit(x, y, 1, sigma=sigma).std_err.isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_samples_of_weight_zero_may_hold_anything(precision, bad):
    x, y, weight = line(30), curve(30), uniform(30)
    expected = polyfit.fit(x[2:], y[2:], 3, weight=weight[2:], precision=precision)
    x[0], y[1], weight[:2] = bad, bad, 0.0
    fit = polyfit.fit(x, y, 3, weight=weight, precision=precision)
    assert fit.n_samples == 28
    assert torch.equal(fit.coef, expected.coef)
    assert torch.equal(fit.std_err, expected.std_err)
    x[0], y[1] = 7.0, 7.0
    assert polyfit.fit(x, y, 3, weight=weight, precision=precision).domain == expected.domain


# --- what the data do not determine ---


def least_coefficients(x: Tensor, y: Tensor, degree: int, domain: tuple[float, float]) -> list[Fraction]:
    """Of all fits the one with the least Chebyshev coefficients, for fewer different x than coefficients."""
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
    expected = least_coefficients(x, y, degree, fit.estimate.domain)
    size = float(max(map(abs, expected)))
    # As for a condition of what is determined, which is small here.
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


def test_standard_errors_of_what_is_open_are_nan_and_others_known():
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
    with pytest.warns(FitWarning, match=r"condition is \d.*lower degree.*ridge"):
        fit = polyfit.fit(x, curve(50), 3, precision=precision)
    truth = exact.fit(x, curve(50), 3, basis="chebyshev", domain=fit.domain)
    assert fit.status == "ok"
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


# --- properties ---

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
    fit = quiet(x, y, len(coef) - 1, basis="power", domain=(-1, 1), precision=precision)
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


# --- what is not finite ---


@pytest.mark.parametrize("few", [8, 8192])
def test_raise_names_how_many_and_where(few, set_sizes):
    set_sizes(few_samples=few)
    x, y, weight = line(30), curve(30), uniform(30)
    y[[4, 17]] = torch.tensor([math.nan, math.inf], dtype=F64)
    with pytest.raises(ValueError, match=r"y has 2 values that are not finite, the first is y\[4\] = nan.*'omit'"):
        polyfit.fit(x, y, 2)
    x[29] = -math.inf
    with pytest.raises(ValueError, match=r"x has 1 value that is not finite, the first is x\[29\] = -inf; y has 2"):
        polyfit.fit(x, y, 2)
    for bad in (math.nan, math.inf):
        weight[3] = bad
        with pytest.raises(ValueError, match=rf"weight has 1 value.*weight\[3\] = {bad}"):
            polyfit.fit(line(30), curve(30), 2, weight=weight)
    sigma = uniform(30)
    sigma[5] = math.nan
    with pytest.raises(ValueError, match=r"sigma has 1 value.*sigma\[5\] = nan"):
        polyfit.fit(line(30), curve(30), 2, sigma=sigma)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_omit_leaves_out_what_is_not_finite(precision):
    x, y, weight = line(30), curve(30), uniform(30)
    kept = torch.ones(30, dtype=torch.bool)
    kept[[0, 7, 8, 29]] = False
    expected = polyfit.fit(x[kept], y[kept], 3, weight=weight[kept], precision=precision)
    x[0], y[7], weight[8], y[29] = math.nan, math.inf, math.nan, -math.inf
    fit = polyfit.fit(x, y, 3, weight=weight, nan_policy="omit", precision=precision)
    assert fit.n_samples == 26
    assert torch.equal(fit.coef, expected.coef)
    assert torch.equal(fit.covariance, expected.covariance)
    sigma = weight**-0.5
    with_sigma = polyfit.fit(x, y, 3, sigma=sigma, nan_policy="omit", precision=precision)
    torch.testing.assert_close(with_sigma.coef, expected.coef, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["x", "y", "weight", "sigma"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_propagate_gives_a_fit_of_nan(bad, name, tmp_path):
    data: dict[str, Any] = {"x": line(30), "y": curve(30)}
    if name in {"weight", "sigma"}:
        data[name] = uniform(30)
    data[name][11] = bad
    if name == "sigma" and bad == math.inf:  # a weight of zero
        assert polyfit.fit(**data, degree=2, nan_policy="propagate").n_samples == 29
        return
    fit = polyfit.fit(**data, degree=2, nan_policy="propagate")
    assert fit.status == "not_finite"
    for values in (fit.coef, fit.std_err, fit.covariance, fit(data["x"]), *fit.interval(data["y"])):
        assert values.isnan().all()
    assert fit.coef.shape == (3,)
    assert math.isnan(fit.rss)
    assert math.isnan(fit.r_squared)
    assert fit.in_basis("power").coef.isnan().all()
    assert "nan" in str(fit)
    fit.save(tmp_path / "fit.json")
    assert Fit.load(tmp_path / "fit.json").coef.isnan().all()


def test_propagate_leaves_finite_data_alone():
    x, y = line(30), curve(30)
    y[:2] = 1.7e308  # finite, but not their sum
    for policy in ("propagate", "omit", "raise"):
        fit = polyfit.fit(x, y, 2, nan_policy=policy)
        truth = exact.fit(x, y, 2, basis="chebyshev", domain=fit.domain)
        for ours, theirs in zip(fit.coef.tolist(), truth.coef, strict=True):
            assert exact.digits(ours, theirs) >= 14.0


# --- autograd around it ---


@pytest.mark.parametrize("few", [8, 8192])
@pytest.mark.parametrize(
    "options", [{}, {"ridge": 0.1}, {"fixed": {0: 0.0}}, {"basis": "power"}, {"precision": "double"}], ids=str
)
def test_results_are_usable_in_autograd(options, few, set_sizes):
    set_sizes(few_samples=few)
    fit = polyfit.fit(line(30), curve(30), 2, **options)
    for tensor in (fit.coef, fit.std_err, fit.covariance):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        leaf = tensor.clone().requires_grad_()
        (leaf * tensor).sum().backward()  # tensor is saved for the way back
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, tensor)
    x = line(30).requires_grad_()
    values = fit(x)
    values.square().sum().backward()
    assert x.grad is not None
    # d p^2/dx = 2 p p', by numpy's derivative.
    series = fit.to_numpy()
    t = x.detach().numpy()
    np.testing.assert_allclose(x.grad.numpy(), 2.0 * series(t) * series.deriv()(t), rtol=0, atol=1e-12)


def test_in_other_bases_results_are_usable_in_autograd_too():
    fit = quiet(torch.tensor([1.0, 2.0] * 4).double(), noise(8), 3).in_basis("power")
    for tensor in (fit.coef, fit.std_err, fit.covariance):
        leaf = tensor.clone().requires_grad_()
        (leaf * tensor).sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes(mode: Callable[[], Any]):
    x, y, weight = line(30), curve(30), uniform(30)
    expected = polyfit.fit(x, y, 2, weight=weight)
    with mode():
        fit = polyfit.fit(x.clone(), y.clone(), 2, weight=weight.clone())
        assert torch.equal(fit.coef, expected.coef)
        assert torch.equal(fit.std_err, expected.std_err)
        assert torch.equal(fit(x), expected(x))
    leaves = [tensor.clone().requires_grad_() for tensor in (x, y, weight)]
    with mode():
        fit = polyfit.fit(leaves[0], leaves[1], 2, weight=leaves[2])
    assert torch.equal(fit.coef, expected.coef)
    assert not fit.coef.requires_grad
    assert not fit.covariance.requires_grad


def test_under_autocast():
    x, y = line(30), curve(30)
    expected = polyfit.fit(x, y, 2)
    with torch.autocast("cpu", torch.bfloat16):
        fit = polyfit.fit(x, y, 2)
        assert torch.equal(fit.covariance, expected.covariance)
    assert torch.equal(fit.coef, expected.coef)


def test_default_dtype_and_device_do_not_matter():
    x, y = line(30), curve(30)
    expected = quiet(x, y, 2, ridge=0.1, fixed={1: 0.5})
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            fit = quiet(x, y, 2, ridge=0.1, fixed={1: 0.5})
            covariance = fit.covariance
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(fit.coef, expected.coef)
    assert torch.equal(covariance, expected.covariance)


# --- bad input ---

GOOD: dict[str, Any] = {"x": line(10), "y": curve(10), "degree": 2}
ONES = torch.ones(10, dtype=F64)


def with_first(value: float) -> Tensor:
    return torch.cat((torch.tensor([value], dtype=F64), ONES[1:]))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": [1.0] * 10}, TypeError, "x is list; pass a torch.Tensor"),
        ({"y": curve(10).numpy()}, TypeError, "y is ndarray; pass a torch.Tensor"),
        ({"x": torch.arange(10)}, TypeError, r"x is torch.int64.*x.to\(torch.float32\)"),
        ({"y": curve(10).float()}, TypeError, "y is torch.float32 and x is torch.float64"),
        ({"weight": ONES.float()}, TypeError, "weight is torch.float32 and x is torch.float64"),
        ({"x": line(10)[:9]}, ValueError, r"y has shape \(10,\) and x \(9,\)"),
        ({"weight": ONES[:1]}, ValueError, r"weight has shape \(1,\)"),
        ({"x": line(10)[None], "y": curve(10)[None]}, ValueError, r"x has shape \(1, 10\).*one series"),
        ({"x": torch.tensor(1.0), "y": torch.tensor(1.0)}, ValueError, r"x has shape \(\).*one series"),
        (
            {"x": line(10)[:2], "y": curve(10)[:2]},
            ValueError,
            "2 samples do not determine 3 coefficients.*degree=1 or less",
        ),
        ({"degree": 10}, ValueError, "10 samples do not determine 11 coefficients.*degree=9 or less"),
        ({"degree": 10, "fixed": {}}, ValueError, "10 samples do not determine 11 coefficients"),
        ({"x": line(10)[:0], "y": curve(10)[:0]}, ValueError, "no samples"),
        ({"y": math.nan * ONES, "nan_policy": "omit"}, ValueError, "no samples are left"),
        (
            {"y": with_first(math.nan)[[0, 0, 0, 0, 0, 0, 0, 0, 1, 2]], "nan_policy": "omit"},
            ValueError,
            "2 samples do not",
        ),
        ({"weight": 0.0 * ONES}, ValueError, "all 10 weights are zero"),
        ({"weight": with_first(-0.5)}, ValueError, r"weight\[0\] is -0.5, and 1 weights are negative"),
        ({"weight": with_first(-math.inf)}, ValueError, r"weight\[0\] is -inf"),
        ({"weight": torch.cat((ONES[:2], 0.0 * ONES[2:]))}, ValueError, "2 samples do not determine 3"),
        ({"weight": ONES, "sigma": ONES}, ValueError, "weight and sigma are both given"),
        ({"sigma": with_first(0.0)}, ValueError, r"sigma\[0\] is 0.0"),
        ({"sigma": with_first(-1.0)}, ValueError, r"sigma\[0\] is -1.0"),
        ({"degree": -1}, ValueError, "degree=-1.*pass an int from 0 on"),
        ({"degree": 2.0}, TypeError, "degree=2.0 is float"),
        ({"degree": "2"}, TypeError, "degree='2' is str"),
        ({"degree": True}, ValueError, "degree=True"),
        ({"basis": "monomial"}, ValueError, "basis='monomial' is unknown; pass one of 'power'"),
        ({"domain": (1.0, 1.0)}, ValueError, "lo < hi"),
        ({"domain": (0.0, math.inf)}, ValueError, "finite"),
        ({"domain": 3.0}, TypeError, "pair of numbers"),
        ({"ridge": -1.0}, ValueError, "ridge=-1.0"),
        ({"ridge": math.nan}, ValueError, "ridge=nan"),
        ({"ridge": math.inf}, ValueError, "ridge=inf"),
        ({"fixed": {3: 0.0}}, ValueError, "fixed has an index 3; the coefficients of degree 2 are 0 to 2"),
        ({"fixed": {-1: 0.0}}, ValueError, "fixed has an index -1"),
        ({"fixed": {0.5: 0.0}}, TypeError, "fixed"),
        ({"fixed": {0: math.nan}}, ValueError, "not finite"),
        ({"fixed": [0.0]}, TypeError, "fixed"),
        ({"nan_policy": "drop"}, ValueError, "nan_policy='drop' is unknown; pass one of 'raise', 'omit', 'propagate'"),
        ({"precision": "single"}, ValueError, "precision='single' is unknown; pass one of 'auto'"),
        ({"impl": "cuda"}, ValueError, "impl='cuda'"),
    ],
)
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        polyfit.fit(**{**GOOD, **change})


def test_whole_numbers_of_other_kinds_are_degrees():
    expected = polyfit.fit(**GOOD)
    for degree in (np.int64(2), np.uint8(2), torch.tensor(2)):
        assert torch.equal(polyfit.fit(**{**GOOD, "degree": degree}).coef, expected.coef)
    kinds: Any = {np.int64(1): np.float32(0.5)}
    fixed = polyfit.fit(**GOOD, fixed=kinds)
    assert fixed.coef[1] == 0.5


# --- domains far from the data ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("domain", [(1e6, 1e6 + 1.0), (-1e9, 1e9), (0.0, 1e-20)])
def test_domains_far_from_the_data(domain, basis, precision):
    x, y = line(40), curve(40)
    fit = polyfit.fit(x, y, 3, basis=basis, domain=domain, precision=precision)
    assert_exact(fit, exact.fit(x, y, 3, basis=basis, domain=domain), x, y)


@pytest.mark.parametrize("degree", [0, 1, 5])
@pytest.mark.parametrize("basis", BASES)
def test_as_numpy_fits(basis, degree):
    x, y, weight = 5.0 + 3.0 * line(40), curve(40), uniform(40)
    root = weight.sqrt().numpy()
    fit = polyfit.fit(x, y, degree, weight=weight, basis=basis)
    truth = exact.fit(x, y, degree, weight=weight, basis=basis, domain=fit.domain)
    assert_exact(fit, truth, x, y, weight)
    # numpy means the same by its arguments. How near it comes to the truth is up to its BLAS: at worst m n eps times
    # the condition of its columns, which it scales (Higham 2002, 20.1).
    series = NUMPY_CLASSES[basis].fit(x.numpy(), y.numpy(), degree, w=root)
    assert tuple(series.domain) == fit.domain
    t = to_window(x, fit.domain, basis).numpy()
    rows = np.stack([NUMPY_CLASSES[basis](unit)(t) for unit in np.eye(degree + 1)], 1) * root[:, None]
    condition = np.linalg.cond(rows / np.linalg.norm(rows, axis=0))
    coef = np.array([float(value) for value in truth.coef])
    np.testing.assert_allclose(series.coef, coef, rtol=0, atol=rows.size * EPS * condition * np.abs(coef).max())
