"""`polyfit.fit` against certified values, rational numbers and numpy; its arguments; autograd around it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import exact
import mpmath
import numpy as np
import pytest
import torch
from fit_cases import BASES, EPS, F64, ILL, PRECISIONS, PROBLEMS, curve, line, noise, quiet, uniform
from fit_closeness import assert_exact
from oracle import NUMPY_CLASSES, to_window
from torch import Tensor

import polyfit

NIST = Path(__file__).parents[2] / "data" / "nist"


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
        options = {"basis": "power", **options}
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
    fit = polyfit.fit(x, y, data["degree"], basis="power", precision=precision, **options)
    assert_exact(fit, truth, x, y)


# --- hard data ---


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


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "name", ["a quadratic", "timestamps", "weights over 20 orders", "an outlier at 1000", "an equispaced degree 12"]
)
def test_hard_data_in_powers_of_x(name, precision):
    x, y, weight, degree = PROBLEMS[name]()
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision, basis="power")
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


# --- bases, domains, fixed coefficients, ridge ---


DOMAINS = ["auto", "data", None, (-1.0, 1.0), (0.0, 10.0), (5.0, 5.5), (-1e3, 2e3)]


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("basis", BASES)
def test_bases_and_domains(basis, domain, precision):
    x, y = 5.0 + 3.0 * line(40), curve(40)
    fit = polyfit.fit(x, y, 4, basis=basis, domain=domain, precision=precision)
    assert fit.basis == basis
    if isinstance(domain, str):
        domain = None if domain == "auto" and basis == "power" else (2.0, 8.0)
    assert fit.domain == domain
    assert_exact(fit, exact.fit(x, y, 4, basis=basis, domain=fit.domain), x, y)


def test_coefficients_of_powers_are_those_of_x():
    x = torch.linspace(2.0, 8.0, 25, dtype=F64)
    y = 1.0 - x + 0.25 * x**2 + 0.1 * noise(25)
    fit = polyfit.fit(x, y, 3, basis="power")
    truth = exact.fit(x, y, 3)
    assert fit.domain is None
    assert all(exact.digits(ours, value) >= 15.6 for ours, value in zip(fit.coef.tolist(), truth.coef, strict=True))
    expected = [float(truth.value(place)) for place in x.tolist()]
    # 7 roundings of terms of up to 30.
    np.testing.assert_allclose(polyfit.polyval(x, fit.coef).numpy(), expected, rtol=0, atol=200 * EPS)


def test_a_line_through_the_origin():
    x, y = torch.tensor([2.0, 3.0, 5.0], dtype=F64), torch.tensor([4.5, 5.5, 10.5], dtype=F64)
    fit = polyfit.fit(x, y, 1, basis="power", fixed={0: 0.0})
    # sum(x y) / sum(x x) = (9 + 16.5 + 52.5) / 38
    np.testing.assert_allclose(fit.coef.tolist(), [0.0, 78.0 / 38.0], rtol=2 * EPS)
    assert float(fit(0.0)) == pytest.approx(0.0, abs=8 * EPS)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("domain", ["auto", "data", None, (0.0, 10.0)])
@pytest.mark.parametrize("basis", BASES)
def test_arguments_lead_back_into_the_operators(basis, domain, dtype):
    x, y = (5.0 + 3.0 * line(20)).to(dtype), curve(20).to(dtype)
    fit = polyfit.fit(x, y, 2, basis=basis, domain=domain)
    truth = exact.fit(x, y, 2)
    arguments = fit.as_arguments(dtype)
    expected = torch.tensor([float(truth.value(place)) for place in x.tolist()], dtype=F64)
    # Terms of t = x are of up to a few hundred times the coefficients.
    allowed = 1e3 * float(arguments["coef"].abs().max()) * torch.finfo(dtype).eps
    values = polyfit.polyval(x, **arguments)
    np.testing.assert_allclose(values.double().numpy(), expected.numpy(), rtol=0, atol=allowed)
    rss = polyfit.polynomial_loss(x, y, **arguments, reduction="sum")
    assert float(rss) == pytest.approx(float(truth.rss), rel=1e-4 if dtype == torch.float32 else 1e-10)
    assert fit.as_arguments()["coef"].dtype == F64
    start = polyfit.train(x, y, **arguments, optimizer=polyfit.optimizers.SGD(lr=1e-9), epochs=1).losses.values[0]
    assert float(start) == pytest.approx(float(truth.rss) / 20, rel=1e-4 if dtype == torch.float32 else 1e-10)


def test_changed_arguments_do_not_change_the_fit():
    fit = polyfit.fit(line(20), curve(20), 2)
    before = fit.coef.clone()
    fit.as_arguments()["coef"].zero_()
    assert torch.equal(fit.coef, before)


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
        ({"absolute_sigma": True}, ValueError, "absolute_sigma=True, and sigma is not given; pass sigma"),
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
        ({"domain": "range"}, ValueError, "domain='range' is unknown; pass one of 'auto', 'data', a pair"),
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


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
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
    fit = polyfit.fit(x, y, degree, weight=weight, basis=basis, domain="data")
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
