"""Ridge and fixed coefficients in a basis that lies far from the data, against rational numbers.

A coefficient b and its standard error s for variance one have to be right to 1e-11 (|b| + s max|y|), a standard error
to 1e-6: the limits of `allowed_error` in `fit_closeness` for the conditions here, up to 1e4. Values have to be right to
1e-12. No problem is allowed to warn that it is ill-conditioned or inaccurate.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import exact
import numpy as np
import pytest
import torch
from fit_cases import BASES, F64, PRECISIONS
from torch import Tensor

import polyfit
from polyfit import Fit, FitWarning
from polyfit.least_squares import refinement
from polyfit.least_squares.unknowns import ConstrainedUnknowns, Unknowns

# Coefficients far from the data are right, and of little use in polyval: that is said too.
CANCEL = "ignore:the coefficients of .* cancel when they are evaluated:polyfit.FitWarning"
pytestmark = pytest.mark.filterwarnings(CANCEL)
POWERS: dict[str, Any] = {"basis": "power", "domain": (-1, 1)}


def assert_close(fit: Fit, truth: exact.ExactFit, x: Tensor, y: Tensor) -> None:
    size = float(y.abs().max())
    for k, (ours, value) in enumerate(zip(fit.coef.tolist(), truth.coef, strict=True)):
        unit = float(exact.root(truth.cofactors[k][k]))
        assert abs(Fraction(ours) - value) <= 1e-11 * (abs(float(value)) + unit * size), k
    for place in (x[0], x[len(x) // 2], x[-1]):
        value = float(truth.value(float(place)))
        assert abs(float(fit(place)) - value) <= 1e-12 * max(size, abs(value))
    freedom = float(truth.freedom)
    assert fit.degrees_of_freedom == pytest.approx(freedom, rel=1e-9, abs=1e-20)
    if freedom > 1e-15 and float(truth.rss) > 1e-20 * size**2:
        assert fit.rss == pytest.approx(float(truth.rss), rel=1e-9)
        expected = [float(value) for value in truth.std_err()]
        # A coefficient that is fixed in another basis has the error 0, and a rounding of that here.
        np.testing.assert_allclose(fit.std_err.numpy(), expected, rtol=1e-6, atol=1e-40 * max(expected))
        covariance = [[float(value) for value in row] for row in truth.covariance()]
        scale = np.outer(expected, expected)
        assert np.all(np.abs(fit.covariance.numpy() - covariance) <= 4e-6 * scale + 1e-40 * scale.max())


# --- problems from practice ---


def test_ridge_for_years_in_powers():
    x = torch.linspace(1990, 2020, 31, dtype=F64)
    y = torch.sin(x) + 0.05 * (x - 2005)
    fit = polyfit.fit(x, y, 8, **POWERS, ridge=1.0)
    truth = exact.fit(x, y, 8, ridge=1.0)
    assert fit.r_squared == pytest.approx(float(truth.r_squared or 0), rel=1e-12)
    assert_close(fit, truth, x, y)


def test_ridge_for_timestamps_in_powers():
    x = 1.7e9 + 60.0 * torch.arange(60, dtype=F64)
    y = torch.sin((x - 1.7e9) / 500.0)
    for degree in (4, 8):
        fit = polyfit.fit(x, y, degree, **POWERS, ridge=1.0)
        assert_close(fit, exact.fit(x, y, degree, ridge=1.0), x, y)


@pytest.mark.parametrize("degree", [2, 5, 6, 9])
def test_the_highest_power_alone(degree):
    # A scalar regression on x**degree.
    x, y = torch.linspace(100, 101, 21, dtype=F64), torch.sin(torch.arange(21, dtype=F64) / 3) + 2
    fixed = dict.fromkeys(range(degree), 0.0)
    fit = polyfit.fit(x, y, degree, **POWERS, fixed=fixed)
    power: list[Fraction] = [Fraction(value) ** degree for value in x.tolist()]
    moment = sum((a * Fraction(b) for a, b in zip(power, y.tolist(), strict=True)), Fraction(0))
    slope = moment / sum((a * a for a in power), Fraction(0))
    assert abs(Fraction(float(fit.coef[degree])) - slope) <= Fraction(2, 10**16) * abs(slope)
    assert_close(fit, exact.fit(x, y, degree, fixed=fixed), x, y)


# --- problems at random ---


def problem(rng: random.Random, kind: str) -> tuple[Tensor, Tensor, int, dict[str, Any]]:
    """Data, degree and options; the data lie at up to 1e12 of their width from zero."""
    n, degree = rng.choice([8, 12, 20, 31]), rng.randint(1, 6)
    center = rng.choice([-1, 1]) * rng.choice([0.0, 1.0, 10.0, 100.0, 2005.0, 1.7e9])
    width = rng.choice([1e-3, 0.1, 1.0, 30.0, 3600.0])
    width = max(width, abs(center) * 1e-12 * n)
    t = torch.tensor([k / (n - 1) - 0.5 if rng.random() < 0.9 else rng.random() for k in range(n)], dtype=F64)
    x = center + width * t
    noise = torch.tensor([rng.gauss(0, 1) for _ in range(n)], dtype=F64)
    y = torch.sin(rng.uniform(1, 6) * t) + rng.choice([1e-3, 0.1]) * noise + rng.choice([0.0, 2.0, 1e4])
    options: dict[str, Any] = {
        "basis": rng.choice([*BASES, "power", "power"]),
        "domain": rng.choice([(0.0, 1.0), (-1.0, 1.0), (-5.0, 5.0), (0.0, 1e3)]),
        "weight": torch.tensor([rng.uniform(0.2, 3) for _ in range(n)], dtype=F64) if rng.random() < 0.4 else None,
    }
    if kind != "fixed":
        options["ridge"] = 10.0 ** rng.uniform(-4, 4)
    if "fixed" in kind:
        count = rng.randint(1, degree)
        index = sorted(rng.sample(range(degree + 1), count)) if rng.random() < 0.5 else range(count)
        options["fixed"] = {k: rng.choice([0.0, 0.0, 1.0, rng.gauss(0, 1)]) for k in index}
    if kind == "ridge for few samples":
        keep = sorted(rng.sample(range(n), rng.randint(2, min(n, degree + 1))))
        x, y = x[keep], y[keep]
        options["weight"] = None if options["weight"] is None else options["weight"][keep]
    return x, y, degree, options


@pytest.mark.filterwarnings("error", CANCEL)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["ridge", "fixed", "ridge and fixed"])
def test_random_problems(kind, precision):
    rng = random.Random(7)
    for _ in range(40):
        x, y, degree, options = problem(rng, kind)
        fit = polyfit.fit(x, y, degree, precision=precision, **options)
        assert fit.status == "ok"
        assert_close(fit, exact.fit(x, y, degree, **options), x, y)


@pytest.mark.filterwarnings("ignore::polyfit.FitWarning")  # of conditions above 1e10
def test_ridge_determines_more_coefficients_than_there_are_samples():
    rng = random.Random(8)
    for _ in range(40):
        x, y, degree, options = problem(rng, "ridge for few samples")
        fit = polyfit.fit(x, y, degree, **options)
        assert fit.rank == degree + 1
        assert_close(fit, exact.fit(x, y, degree, **options), x, y)


def test_other_bases_keep_the_digits_too(tmp_path):
    rng = random.Random(9)
    for kind in ("ridge", "fixed", "ridge and fixed") * 4:
        x, y, degree, options = problem(rng, kind)
        fit, truth = polyfit.fit(x, y, degree, **options), exact.fit(x, y, degree, **options)
        fit.save(tmp_path / "fit.json")
        for one in (fit, polyfit.Fit.load(tmp_path / "fit.json")):
            for basis, domain in (("power", None), ("legendre", fit.estimate.domain), ("hermite", (0.0, 3.0))):
                assert_close(one.in_basis(basis, domain), truth.to(basis, domain), x, y)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", [{"ridge": 3.0}, {"fixed": {0: 0.0, 1: 1e-3}}, {"ridge": 3.0, "fixed": {2: 1e-9}}])
def test_long_data(options, precision, set_sizes):
    set_sizes(few_samples=64)
    x = 2000.0 + torch.linspace(0, 20, 500, dtype=F64)
    y = torch.cos(x / 4)
    fit = polyfit.fit(x, y, 5, **POWERS, **options, precision=precision)
    assert_close(fit, exact.fit(x, y, 5, **options), x, y)


def test_undetermined_coefficients_beside_fixed_ones():
    # Two different x: of the powers 3, 4, 5 two combinations are determined.
    x, y = torch.tensor([100.0, 101.0] * 6, dtype=F64), torch.sin(torch.arange(12, dtype=F64))
    with pytest.warns(FitWarning, match="determine 2 of 3 coefficients"):
        fit = polyfit.fit(x, y, 5, **POWERS, fixed={0: 0.0, 1: 0.0, 2: 0.0})
    assert fit.std_err.isnan().tolist() == [False] * 3 + [True] * 3
    means = [float(y[k::2].mean()) for k in (0, 1)]
    np.testing.assert_allclose(fit(x[:2]).tolist(), means, rtol=1e-13)
    coef = [Fraction(value) for value in fit.coef.tolist()]
    for place, mean in zip((100, 101), means, strict=True):
        assert float(sum(c * place**k for k, c in enumerate(coef))) == pytest.approx(mean, rel=1e-12)


# --- what is not right is said ---


@pytest.mark.parametrize("options", [{}, {**POWERS, "ridge": 1.0}, {**POWERS, "fixed": {1: 0.0}}])
def test_corrections_that_do_not_converge_are_said(options, monkeypatch):
    x = torch.linspace(1, 2, 20, dtype=F64)
    kind = ConstrainedUnknowns if options else Unknowns
    correct = kind.correct

    def too_much(self: Any, moments: np.ndarray) -> np.ndarray:
        return correct(self, -2.0 * moments)

    monkeypatch.setattr(kind, "correct", too_much)
    with pytest.warns(FitWarning, match="coefficients are inaccurate: corrections did not converge"):
        fit = polyfit.fit(x, torch.sin(x), 2, **options)
    assert fit.status == "inaccurate"


def test_a_basis_too_far_for_float64_is_said():
    # All functions are constant to 30 digits: internal coefficients lie below the smallest number of float64.
    x = 1e-30 + 1e-31 * torch.linspace(-1, 1, 20, dtype=F64)
    fixed = {**dict.fromkeys((2, 4, 7, 10, 11), 0.0), **dict.fromkeys((1, 5, 8, 9), 1e-9)}
    with pytest.warns(FitWarning, match="lies too far from the data for float64"):
        fit = polyfit.fit(x, torch.sin(2e31 * x), 11, basis="hermite", domain=(0, 1), ridge=2e12, fixed=fixed)
    assert fit.status == "inaccurate"


def test_a_fit_worse_than_a_constant_is_said(monkeypatch):
    x = torch.linspace(1, 2, 20, dtype=F64)
    y = torch.sin(9 * x)
    original = refinement.Solution

    def worse(*args: Any, **fields: Any) -> refinement.Solution:
        high, low, gram, rss, moments = args
        return original(high, low, gram, 100.0 * rss + 20.0, moments, **fields)

    monkeypatch.setattr(refinement, "Solution", worse)
    with pytest.warns(FitWarning, match="coefficients are inaccurate"):
        fit = polyfit.fit(x, y, 2)
    assert fit.status == "inaccurate"
    assert math.isfinite(fit.rss)
