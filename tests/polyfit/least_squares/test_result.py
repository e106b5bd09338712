"""What can be done with a `Fit`: other bases, predictions and bounds, numpy's series, copies, text."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from fractions import Fraction
from typing import Any

import exact
import numpy as np
import pytest
import torch
from oracle import NUMPY_CLASSES
from result_cases import EPS, F64, assert_same, data, deficient, fits

import polyfit
from polyfit import FitWarning

BASES = list(NUMPY_CLASSES)
DOMAINS = [None, (2.0, 8.0), (0.0, 20.0), (-1e3, 1e3)]


# --- other bases ---


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("to", BASES)
@pytest.mark.parametrize("basis", BASES)
def test_conversion_takes_covariance_along(basis, to, domain):
    x, y, weight = data()
    fit = polyfit.fit(x, y, 4, weight=weight, basis=basis, domain=(1.0, 9.0))
    other = fit.in_basis(to, domain)
    assert (other.basis, other.domain) == (to, domain)
    truth = exact.fit(x, y, 4, weight=weight).to(to, domain)
    for ours, theirs in zip(other.coef.tolist(), truth.coef, strict=True):
        assert exact.digits(ours, theirs) >= 15.6  # one rounding: of the exact coefficient
    # The root of the covariance is converted in float64: terms cancel by the condition of the conversion.
    own = exact.in_powers("chebyshev", fit.estimate.domain, 4)
    matrix = exact.solve(exact.in_powers(to, domain, 4), own)
    largest = max(float(value) for value in truth.to("chebyshev", fit.estimate.domain).std_err())
    scale = np.array([float(sum(map(abs, row), Fraction(0))) for row in matrix]) * largest
    allowed = 64 * EPS * fit.condition**2 * scale
    errors = np.array([float(value) for value in truth.std_err()])
    assert np.all(np.abs(other.std_err.numpy() - errors) <= allowed)
    covariance = np.array([[float(value) for value in row] for row in truth.covariance()])
    assert np.all(np.abs(other.covariance.numpy() - covariance) <= 2 * np.outer(allowed, scale))
    # Nothing but the form has changed, and the way back is the way it came.
    for name in ("rss", "r_squared", "rank", "condition", "status", "n_samples"):
        assert getattr(other, name) == getattr(fit, name)
    assert torch.equal(other(x), fit(x))
    back = other.in_basis(basis, (1.0, 9.0))
    assert torch.equal(back.coef, fit.coef)
    assert torch.equal(back.covariance, fit.covariance)


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
def test_conversion_of_timestamps_keeps_the_digits_that_rounded_coefficients_have_not():
    x, y, _ = data()
    x = 1.7e9 + x
    fit = polyfit.fit(x, y, 3).in_basis("power")
    truth = exact.fit(x, y, 3)
    for ours, theirs in zip(fit.coef.tolist(), truth.coef, strict=True):
        assert exact.digits(ours, theirs) >= 15.6
    again = fit.in_basis("chebyshev", (1.7e9, 1.7e9 + 10.0))
    for ours, theirs in zip(again.coef.tolist(), truth.to("chebyshev", (1.7e9, 1.7e9 + 10.0)).coef, strict=True):
        assert exact.digits(ours, theirs) >= 15.6
    # Values too: they are not taken from powers, whose terms are of size 1e27.
    for place in (x[0], x[7]):
        assert float(fit(place)) == pytest.approx(float(truth.value(float(place))), rel=1e-13)


def test_conversion_of_fixed_coefficients():
    x, y, _ = data()
    fit = polyfit.fit(x, y, 3, basis="power", fixed={0: 0.5})
    other = fit.in_basis("chebyshev", (0.0, 10.0))
    truth = exact.fit(x, y, 3, fixed={0: 0.5}).to("chebyshev", (0.0, 10.0))
    errors = [float(value) for value in truth.std_err()]
    np.testing.assert_allclose(other.std_err.numpy(), errors, rtol=1e-11)
    assert (other.std_err > 0).all()
    back = other.in_basis("power", (-1, 1))
    # It is known to be fixed no more, but has no error to speak of.
    assert float(back.coef[0]) == pytest.approx(0.5, rel=1e-14)
    assert float(back.std_err[0]) <= 1e-13 * float(back.std_err[1])


def test_conversion_of_undetermined_coefficients():
    fit = deficient()
    other = fit.in_basis("power", (0.0, 4.0))
    # t = (x - 2)/2: values at t = -1/2, 0 and 1/2 tell the constant and the quadratic; T_3 holds t and t**3.
    assert fit.std_err.isnan().tolist() == [False, True, False, True]
    assert other.std_err.isnan().tolist() == [False, True, False, True]
    x, y = torch.tensor([1.0, 2.0, 3.0] * 5, dtype=F64), data(15)[1]
    truth = exact.fit(x, y, 2, basis="power", domain=(0.0, 4.0))
    for k in (0, 2):
        assert float(other.coef[k]) == pytest.approx(float(truth.coef[k]), rel=1e-13)
        assert float(other.std_err[k]) == pytest.approx(float(truth.std_err()[k]), rel=1e-12)
    # All coefficients of powers of x are undetermined: (x - 1)(x - 2)(x - 3) has no coefficient that is zero.
    plain = fit.in_basis("power")
    assert plain.std_err.isnan().all()
    assert plain.covariance.isnan().all()
    for place in (1.0, 2.0, 3.0):
        assert float(plain(place)) == pytest.approx(float(truth.value(place)), rel=1e-13)


def test_same_basis_is_the_same_fit():
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    assert fit.in_basis("chebyshev", fit.domain) is fit


def test_the_same_map_keeps_what_is_fixed():
    x, y, _ = data()
    fit = polyfit.fit(x, y, 3, basis="power", fixed={0: 0.1, 2: 0.0})
    other = fit.in_basis("power", (-1, 1))  # t = x too
    assert (other.domain, other.fixed) == ((-1.0, 1.0), (0, 2))
    for again in (other, other.in_basis("power")):
        assert torch.equal(again.coef, fit.coef)
        assert again.std_err[[0, 2]].tolist() == [0.0, 0.0]
        assert torch.equal(again.covariance, fit.covariance)


def test_writing_to_a_result_changes_nothing():
    x, y, _ = data()
    fit, twin = polyfit.fit(x, y, 3), polyfit.fit(x, y, 3)
    for name in ("coef", "std_err", "covariance"):
        getattr(fit, name).zero_()
    assert_same(fit, twin)
    assert str(fit) == str(twin)
    with pytest.raises(AttributeError):
        fit.coef = twin.coef  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (("monomial",), ValueError, "basis='monomial' is unknown"),
        (("power", (1.0, 0.0)), ValueError, "lo < hi"),
        (("power", 3.0), TypeError, "pair of numbers"),
    ],
)
def test_bad_input_of_in_basis_is_named(arguments, error, match):
    x, y, _ = data()
    with pytest.raises(error, match=match):
        polyfit.fit(x, y, 2).in_basis(*arguments)


# --- values, predictions, bounds ---


@pytest.mark.parametrize("basis", BASES)
def test_predictions_against_rational_numbers(basis):
    x, y, weight = data()
    fit = polyfit.fit(x, y, 3, weight=weight, basis=basis, domain=(0.0, 10.0))
    truth = exact.fit(x, y, 3, weight=weight)
    where = torch.tensor([[2.0, 3.3, 5.0], [7.9, -1.0, 15.0]], dtype=F64)  # beyond the data too
    values, std = fit.predict(where, return_std=True)
    assert torch.equal(fit.predict(where), values)
    assert torch.equal(fit(where), values)
    for place, value, error in zip(where.flatten().tolist(), values.flatten(), std.flatten(), strict=True):
        assert float(value) == pytest.approx(float(truth.value(place)), rel=1e-12, abs=1e-12)
        expected = exact.root(truth.variance_at(place) * truth.variance)
        assert float(error) == pytest.approx(float(expected), rel=1e-11)


def test_standard_error_of_the_curve_is_that_of_its_covariance():
    x, y, _ = data()
    for fit in (polyfit.fit(x, y, 4), polyfit.fit(x, y, 4, ridge=3.0), polyfit.fit(x, y, 4, fixed={1: 0.5})):
        plain = fit.in_basis("power")
        where = torch.linspace(1.0, 9.0, 9, dtype=F64)
        rows = where[:, None] ** torch.arange(5)
        expected = (rows @ plain.covariance * rows).sum(1).sqrt()
        # Powers up to 9**4 cancel.
        torch.testing.assert_close(fit.predict(where, return_std=True)[1], expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["confidence", "prediction"])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_bounds(is_absolute, kind, level):
    stats = pytest.importorskip("scipy.stats")
    x, y, sigma = data(9)
    fit = polyfit.fit(x, y, 2, sigma=sigma, absolute_sigma=is_absolute)
    truth = exact.fit(x, y, 2, weight=sigma**-2)
    variance = Fraction(1) if is_absolute else truth.variance
    where, of_new = torch.tensor([2.0, 4.5, 11.0], dtype=F64), [0.25, 0.5, 2.0]
    bounds = [fit.interval(where, level, kind=kind)] if kind == "confidence" else []
    if kind == "prediction":
        bounds.append(fit.interval(where, level, kind=kind, sigma=of_new))
        bounds.append(fit.interval(where, level, kind=kind, weight=torch.tensor(of_new).pow(-2)))
    # The variance is known with absolute sigma, and has 6 degrees of freedom without.
    quantile = (stats.norm if is_absolute else stats.t(6)).ppf(0.5 + level / 2)
    for lower, upper in bounds:
        for place, low, high, new in zip(where.tolist(), lower.tolist(), upper.tolist(), of_new, strict=True):
            spread = (truth.variance_at(place) + (Fraction(new) ** 2 if kind == "prediction" else 0)) * variance
            half = quantile * float(exact.root(spread))
            value = float(truth.value(place))
            assert low == pytest.approx(value - half, rel=1e-11, abs=1e-11)
            assert high == pytest.approx(value + half, rel=1e-11, abs=1e-11)


def test_bounds_of_a_known_variance_are_normal():
    # By hand: the weights are 64, x is -1, 0, 1 about its mean, and so var p(1) = sigma**2 / 3. The quantile is 1.96.
    fit = polyfit.fit([0, 1, 2], [1, 2.125, 2.875], 1, sigma=[0.125] * 3, absolute_sigma=True)
    lower, upper = fit.interval(1.0)
    assert float(upper - lower) / 2 == pytest.approx(1.959963984540054 * 0.125 / math.sqrt(3.0), rel=1e-13)
    lower, upper = fit.interval(1.0, kind="prediction")
    assert float(upper - lower) / 2 == pytest.approx(1.959963984540054 * 0.125 * math.sqrt(4.0 / 3.0), rel=1e-13)
    # Also where there are no degrees of freedom: at a sample the variance of the line is that of the sample.
    fit = polyfit.fit([0, 1], [1.0, 2.0], 1, sigma=0.125, absolute_sigma=True)
    lower, upper = fit.interval([0.0, 1.0])
    np.testing.assert_allclose((upper - lower) / 2, 1.959963984540054 * 0.125, rtol=1e-13)


@pytest.mark.parametrize(
    "options", [{"sigma": 0.0625}, {"weight": 256.0}, {"weight": torch.full((9,), 256.0).double()}]
)
def test_a_new_sample_has_the_weight_that_all_samples_have(options):
    x, y, _ = data(9)
    expected = polyfit.fit(x, y, 2).interval(x, kind="prediction")
    bounds = polyfit.fit(x, y, 2, **options).interval(x, kind="prediction")
    for ours, theirs in zip(bounds, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


def test_a_new_sample_among_samples_of_different_weights_needs_its_own(tmp_path):
    x, y, sigma = data(9)
    fit = polyfit.fit(x, y, 2, sigma=sigma)
    fit.save(tmp_path / "fit.json")
    for other in (fit, fit.in_basis("power"), polyfit.Fit.load(tmp_path / "fit.json")):
        with pytest.raises(ValueError, match=r"different weights.*pass sigma= or weight= of the new sample"):
            other.interval(x, kind="prediction")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sigma": 1.0, "weight": 1.0}, "weight and sigma are both given"),
        ({"sigma": -1.0}, "sigma of new samples is not positive and finite"),
        ({"weight": [0.0] * 40}, "weight of new samples is not positive and finite"),
        ({"weight": math.nan}, "weight of new samples is not positive and finite"),
        ({"sigma": [1.0, 2.0]}, r"sigma has shape \(2,\) and x \(40,\)"),
        ({"kind": "confidence", "sigma": 1.0}, "pass kind='prediction'"),
    ],
)
def test_bad_sigma_of_a_new_sample_is_named(options, match):
    x, y, _ = data()
    with pytest.raises(ValueError, match=match):
        polyfit.fit(x, y, 1).interval(x, **{"kind": "prediction", **options})


def test_bounds_hold_the_truth_as_often_as_they_say():
    generator = torch.Generator().manual_seed(1)
    x = torch.linspace(0.0, 1.0, 12, dtype=F64)
    hits, n_runs = 0, 400
    for _ in range(n_runs):
        fit = polyfit.fit(x, 1.0 + x + torch.randn(12, generator=generator, dtype=F64), 1)
        lower, upper = fit.interval(0.3, 0.9)
        hits += bool(lower <= 1.3 <= upper)
    # Within four standard deviations of a binomial variable.
    assert abs(hits - 0.9 * n_runs) <= 4.0 * math.sqrt(n_runs * 0.9 * 0.1)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, math.nan])
def test_level_that_is_no_probability_is_named(level):
    x, y, _ = data()
    with pytest.raises(ValueError, match=r"level=.* is not a probability"):
        polyfit.fit(x, y, 1).interval(x, level)


def test_kind_that_is_not_known_is_named():
    x, y, _ = data()
    with pytest.raises(ValueError, match="kind='tolerance' is unknown; pass 'confidence'"):
        polyfit.fit(x, y, 1).interval(x, kind="tolerance")


def test_bounds_are_nan_where_nothing_is_known():
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    interpolating = polyfit.fit(x, x**2, 2)
    assert interpolating.status == "interpolates"
    assert interpolating.predict(x, return_std=True)[1].isnan().all()
    assert all(bound.isnan().all() for bound in interpolating.interval(x))
    lower, upper = deficient().interval(torch.tensor([1.0, 1.5, 2.0], dtype=F64))
    assert lower.isnan().tolist() == upper.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_values_are_float64(dtype):
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    where = torch.tensor([[2.0, 4.5], [7.0, 3.0]], dtype=dtype)
    truth = exact.fit(x, y, 2)
    values, std = fit.predict(where, return_std=True)
    lower, _ = fit.interval(where)
    assert torch.equal(fit(where), values)
    assert values.dtype == std.dtype == lower.dtype == F64
    expected = [float(truth.value(place)) for place in where.flatten().tolist()]
    # Terms of up to 10 or so, a handful of roundings.
    np.testing.assert_allclose(values.flatten(), expected, rtol=0, atol=80 * EPS)
    variances = [float(truth.variance_at(place) * truth.variance) for place in where.flatten().tolist()]
    np.testing.assert_allclose(std.flatten().square(), variances, rtol=1e-12)


def test_standard_errors_at_float32_do_not_underflow():
    x, y, _ = data()
    errors = polyfit.fit(x, 1e-30 * y, 2).predict(x.float(), return_std=True)[1]
    expected = polyfit.fit(x, y, 2).predict(x.float(), return_std=True)[1]
    np.testing.assert_allclose(errors, 1e-30 * expected, rtol=1e-12)


def test_gradients_reach_x():
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    where = torch.tensor([2.0, 4.5], requires_grad=True)
    fit(where).sum().backward()
    series = fit.to_numpy().deriv()
    assert where.grad is not None
    assert where.grad.dtype == torch.float32
    np.testing.assert_allclose(where.grad, series(where.detach().double().numpy()), rtol=1e-6)


def test_numbers_and_lists_are_places_too():
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    truth = exact.fit(x, y, 2)
    places: list[Any] = [3, 3.0, np.float32(3), [3.0], torch.tensor(3), np.array([3.0])]
    for place in places:
        value = fit(place)
        assert value.dtype == F64
        assert float(value) == pytest.approx(float(truth.value(3.0)), rel=1e-14)
    assert fit([]).shape == (0,)
    assert fit.predict(torch.zeros(0, 3), return_std=True)[1].shape == (0, 3)


@pytest.mark.parametrize("domain", DOMAINS[1:])
@pytest.mark.parametrize("basis", BASES)
def test_to_numpy_evaluates_the_same(basis, domain):
    x, y, _ = data()
    for fit in (polyfit.fit(x, y, 3, basis=basis, domain=domain), polyfit.fit(x, y, 3).in_basis(basis)):
        series = fit.to_numpy()
        assert type(series) is NUMPY_CLASSES[basis]
        assert series.coef.tolist() == fit.coef.tolist()
        where = torch.linspace(2.0, 8.0, 13, dtype=F64)
        # Coefficients as they are, in the basis they are in, cancel by their size.
        allowed = 64 * EPS * float(fit.coef.abs().max()) * np.abs(series(where.numpy())).max() * 1e3
        np.testing.assert_allclose(series(where.numpy()), fit(where).numpy(), rtol=0, atol=allowed)


# --- copies ---


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
@pytest.mark.parametrize("name", fits())
def test_copies_and_pickles(name):
    fit = fits()[name]
    for is_used_before in (False, True):
        if is_used_before:
            assert fit.covariance.shape == (fit.degree + 1,) * 2  # kept from now on
        for other in (copy.copy(fit), copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
            assert_same(other, fit)


# --- text ---


@pytest.mark.parametrize("name", [name for name in fits() if name != "not finite"])
def test_what_is_printed_is_the_polynomial(name):
    fit = fits()[name]
    text = str(fit)
    series, _, mapping = text.partition(", t = ")
    symbols = {"chebyshev": "T", "legendre": "P", "hermite": "H", "hermite_e": "He", "laguerre": "L"}
    rest = series.removeprefix("y = ").replace(" - ", " + -").split(" + ")
    coef = [float(term.split()[0].replace("--", "")) for term in rest]
    np.testing.assert_allclose(coef, fit.coef.tolist(), rtol=5.1e-6)
    for k, term in enumerate(rest[1:], start=1):
        variable = "t" if mapping else "x"
        power = f"{variable}^{k}" if k > 1 else variable
        assert term.split()[1] == (power if fit.basis == "power" else f"{symbols[fit.basis]}_{k}({variable})")
    if mapping:  # takes the domain to the window
        assert fit.domain is not None
        ends = [eval(mapping, {"x": bound}) for bound in fit.domain]
        np.testing.assert_allclose(ends, NUMPY_CLASSES[fit.basis].window, atol=2e-3)
    shown = repr(fit)
    assert text in shown
    assert fit.status in shown
    assert f"degree {fit.degree} to {fit.n_samples} samples" in shown
    assert f"R^2 {fit.r_squared:.6g}" in shown


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
@pytest.mark.parametrize(
    ("places", "options"),
    [
        ((0.4375, 87.875), {}),
        ((0.4375, 87.875), {"basis": "laguerre"}),
        ((0.4375, 87.875), {"basis": "power", "domain": "data"}),
        ((0.4375, 87.875), {"basis": "power"}),
        ((1.7e9 + 0.5, 1.7e9 + 86400.25), {}),
        ((1.7e9 + 0.5, 1.7e9 + 86400.25), {"basis": "power", "domain": "data"}),
        ((1990.0, 2020.0), {"basis": "power"}),
    ],
)
def test_the_text_rebuilds_the_fit(places, options):
    x = torch.linspace(places[0], places[1], 41, dtype=F64)
    y = 100.0 * torch.sin(torch.linspace(0.0, 3.0, 41, dtype=F64))
    fit = polyfit.fit(x, y, 3, **options)
    series, _, mapping = str(fit).partition(", t = ")
    terms = series.removeprefix("y = ").replace(" - ", " + -").split(" + ")
    to_power = {"power": np.eye(4), **{"chebyshev": chebyshev_to_powers(), "laguerre": laguerre_to_powers()}}[fit.basis]
    coef = [Fraction(term.split()[0]) for term in terms]
    in_powers = [sum((Fraction(float(a)) * c for a, c in zip(row, coef, strict=True)), Fraction(0)) for row in to_power]
    shift, scale = Fraction(0), Fraction(1)
    if mapping:
        origin, _, divisor = mapping.strip("(").partition(")/")
        sign, size = origin.split()[1:]
        shift, scale = Fraction(sign + size), Fraction(divisor)
    for place in x.tolist():
        t = (Fraction(place) + shift) / scale
        value = sum((c * t**k for k, c in enumerate(in_powers)), Fraction(0))
        # Six digits of each coefficient; up to ten times as much where terms cancel.
        assert float(value) == pytest.approx(float(fit(place)), rel=0, abs=100.0 * 5e-5)


def chebyshev_to_powers() -> np.ndarray:
    return np.array([[1, 0, -1, 0], [0, 1, 0, -3], [0, 0, 2, 0], [0, 0, 0, 4]])


def laguerre_to_powers() -> np.ndarray:
    return np.array([[1, 1, 1, 1], [0, -1, -2, -3], [0, 0, 0.5, 1.5], [0, 0, 0, -1 / 6]])


def test_coefficients_that_cancel_are_warned_of(tmp_path):
    x = torch.arange(1990.0, 2021.0, dtype=F64)
    y = torch.sin(torch.arange(31, dtype=F64) / 5.0) + 9.0
    match = r"the coefficients of power of x cancel when .*: about 1[56] of 16 digits are lost.*fit\(x\)"
    fit = polyfit.fit(x, y, 10)
    with pytest.warns(FitWarning, match=match) as caught:
        powers = fit.in_basis("power")
    with pytest.warns(FitWarning, match=match) as more:
        assert torch.equal(polyfit.fit(x, y, 10, basis="power").coef, powers.coef)
    with pytest.warns(FitWarning, match=match) as of_numpy:
        powers.to_numpy()
    with pytest.warns(FitWarning, match=match):
        powers.as_arguments()
    assert {warning.filename for warning in [*caught, *more, *of_numpy]} == {__file__}
    # The advice helps.
    again = powers.in_basis("power", (1990.0, 2020.0))
    np.testing.assert_allclose(polyfit.polyval(x, **again.as_arguments()), fit(x), rtol=1e-12)
    np.testing.assert_allclose(again.to_numpy()(x.numpy()), fit(x), rtol=1e-12)
    # At degree 3 the terms are up to 1e7 times as large as y: float64 keeps some digits, float32 none.
    cubic = polyfit.fit(x, y, 3, basis="power")
    np.testing.assert_allclose(polyfit.polyval(x, **cubic.as_arguments()), cubic(x), rtol=1e-8)
    with pytest.warns(FitWarning, match=r"about [67] of 7 digits are lost"):
        cubic.as_arguments(torch.float32)


def test_coefficients_that_overflow_are_warned_of():
    x = torch.linspace(-1.0, 1.0, 30, dtype=F64)
    y = torch.exp(x) + 0.01 * torch.cos(40.0 * x)
    fit = polyfit.fit(1e-30 * x, y, 11)
    exact_coef = exact.fit(1e-30 * x, y, 11, basis="legendre").to("laguerre", (-1.0, 1.0)).coef
    assert max(map(abs, exact_coef)) > 10**309
    with pytest.warns(FitWarning, match=r"coefficients of laguerre on the domain .* overflow float64.*fit\(x\)") as one:
        other = fit.in_basis("laguerre", (-1.0, 1.0))
    assert not other.coef.isfinite().all()
    with pytest.warns(FitWarning, match="overflow float64") as two:
        other.to_numpy()
    with pytest.warns(FitWarning, match="overflow float64") as three:
        other.as_arguments()
    with pytest.warns(FitWarning, match="overflow float64") as four:
        polyfit.fit(1e-30 * x, y, 11, basis="laguerre", domain=(-1.0, 1.0))
    assert [len(caught) for caught in (one, two, three, four)] == [1, 1, 1, 1]
    assert {warning.filename for caught in (one, two, three, four) for warning in caught} == {__file__}
    np.testing.assert_allclose(other(1e-30 * x), fit(1e-30 * x))
    with pytest.warns(FitWarning, match=r"coefficients of power on x overflow float16"):
        polyfit.fit(x, 1e5 * y, 1, basis="power").as_arguments(torch.float16)


def test_powers_that_underflow_are_warned_of():
    # x**12 is 1e-360 and its coefficient is about 1e191: a product with a power of x loses it.
    x = 1e-30 * torch.linspace(-1.0, 1.0, 30, dtype=F64)
    with pytest.warns(FitWarning, match="about 16 of 16 digits are lost"):
        polyfit.fit(x, 1e-160 * torch.exp(1e30 * x), 12, basis="power")


def test_coefficients_that_float64_does_not_hold_are_warned_of():
    x = 1e200 * torch.linspace(1.0, 2.0, 20, dtype=F64)
    fit = polyfit.fit(x, torch.linspace(0.0, 1.0, 20, dtype=F64) ** 2, 3)
    with pytest.warns(FitWarning, match="about 16 of 16 digits are lost"):
        fit.in_basis("power")  # the coefficient of x**3 is about 1e-600


def test_a_fit_does_not_change():
    fit = polyfit.fit(*data()[:2], 2)
    with pytest.raises(AttributeError):
        fit.rss = 0.0  # pyright: ignore[reportAttributeAccessIssue]


# --- pictures ---


def test_plot_shows_curve_band_data_and_residuals():
    pytest.importorskip("matplotlib")
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    figure = fit.plot(x, y)
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    drawn = [np.asarray(line.get_xydata()) for line in lines]
    collections = [np.asarray(part.get_offsets()) for axes in figure.axes for part in axes.collections]
    clouds = [points for points in drawn + collections if points.shape == (40, 2)]
    order = np.argsort(x.numpy())
    for values in (y, y - fit(x)):
        wanted = np.stack((x.numpy(), values.numpy()), 1)[order]
        assert any(np.allclose(cloud[np.argsort(cloud[:, 0])], wanted, rtol=0, atol=1e-12) for cloud in clouds)
    curves = [points for points in drawn if len(points) > 40]
    truth = exact.fit(x, y, 2)
    for place, value in curves[0][::50]:
        assert value == pytest.approx(float(truth.value(float(place))), rel=1e-10, abs=1e-10)


def test_plot_takes_data_of_every_kind_and_spans_them():
    pytest.importorskip("matplotlib")
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    lo, hi = fit.estimate.domain
    for places, values in (([0, 20], [1.0, 90.0]), (np.array([0.0, np.nan, 20.0]), np.ones(3))):
        curve = fit.plot(places, values).axes[0].get_lines()[1].get_xdata()
        assert (np.min(curve), np.max(curve)) == (0.0, 20.0)
    curve = fit.plot(x[:3], y[:3]).axes[0].get_lines()[1].get_xdata()
    assert (np.min(curve), np.max(curve)) == (lo, hi)


@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        ([], [], ValueError, "x and y hold no samples; pass samples to show, or leave both out"),
        ([1.0, 2.0], [1.0], ValueError, r"y has shape \(1,\) and x \(2,\)"),
        ([1.0], None, ValueError, "only one of x and y is given"),
        ([1j], [1.0], TypeError, "pass real numbers"),
    ],
)
def test_data_that_cannot_be_shown_are_named(x, y, error, match):
    pytest.importorskip("matplotlib")
    with pytest.raises(error, match=match):
        polyfit.fit(*data()[:2], 2).plot(x, y)


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [
        ("scipy.special", lambda fit: fit.interval(1.0), "stats"),
        ("scipy.special", lambda fit: fit.plot(), "stats"),
        ("matplotlib.figure", lambda fit: fit.plot(), "cli"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, call, extra):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}: .*pip install 'fused-polyfit\[{extra}\]'"):
        call(polyfit.fit(*data()[:2], 2))


def test_normal_bounds_need_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    x, y, sigma = data()
    lower, upper = polyfit.fit(x, y, 2, sigma=sigma, absolute_sigma=True).interval(x)
    assert (lower < upper).all()
