"""What can be done with a `Fit`: other bases, predictions and bounds, numpy's series, copies, text."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction
from typing import Any

import exact
import numpy as np
import pytest
import torch
from oracle import NUMPY_CLASSES
from result_cases import EPS, F64, assert_same, data, deficient, fits, same

import polyfit

BASES = list(NUMPY_CLASSES)
DOMAINS = [None, (2.0, 8.0), (0.0, 20.0), (-1e3, 1e3)]


# --- other bases ---


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
def test_bounds_are_students(is_absolute, kind, level):
    stats = pytest.importorskip("scipy.stats")
    x, y, sigma = data(9)
    fit = polyfit.fit(x, y, 2, sigma=sigma, absolute_sigma=is_absolute)
    truth = exact.fit(x, y, 2, weight=sigma**-2)
    variance = Fraction(1) if is_absolute else truth.variance
    where = torch.tensor([2.0, 4.5, 11.0], dtype=F64)
    lower, upper = fit.interval(where, level, kind=kind)
    for place, low, high in zip(where.tolist(), lower.tolist(), upper.tolist(), strict=True):
        spread = truth.variance_at(place) * variance + (variance if kind == "prediction" else 0)
        half = stats.t.ppf(0.5 + level / 2, 6) * float(exact.root(spread))
        value = float(truth.value(place))
        assert low == pytest.approx(value - half, rel=1e-11, abs=1e-11)
        assert high == pytest.approx(value + half, rel=1e-11, abs=1e-11)


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
def test_values_come_in_the_dtype_of_x(dtype):
    x, y, _ = data()
    fit = polyfit.fit(x, y, 2)
    where = torch.tensor([[2.0, 4.5], [7.0, 3.0]], dtype=dtype)
    truth = exact.fit(x, y, 2)
    values = fit(where)
    assert values.dtype == dtype
    assert values.shape == (2, 2)
    expected = [float(truth.value(place)) for place in where.flatten().tolist()]
    # Terms of up to 10 or so, a handful of roundings.
    np.testing.assert_allclose(values.double().flatten(), expected, rtol=0, atol=80 * torch.finfo(dtype).eps)


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


@pytest.mark.parametrize("name", fits())
def test_copies_and_pickles(name):
    fit = fits()[name]
    for is_used_before in (False, True):
        if is_used_before:
            assert fit.covariance.shape == (fit.degree + 1,) * 2  # kept from now on
        for other in (copy.copy(fit), copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
            assert_same(other, fit)
    twin = copy.deepcopy(fit)
    twin.coef.zero_()
    assert same(fit.coef, fits()[name].coef)


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
