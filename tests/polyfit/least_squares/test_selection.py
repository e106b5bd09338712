"""Degree selection against refitting, fold by fold and degree by degree."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import exact
import numpy as np
import pytest
import torch
from torch import Tensor

import polyfit
from polyfit import FitWarning

MAX_DEGREE = 8


def make_data(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, generator=generator, dtype=torch.float64) * 6 - 2
    y = torch.sin(x) + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    return x, y, torch.rand(n, generator=generator, dtype=torch.float64) + 0.5


def exact_rss(x: Tensor, y: Tensor, weight: Tensor, degree: int) -> float:
    return float(exact.fit(x, y, degree, weight=weight).rss)


@pytest.fixture(params=["few", "long"])
def size(request, set_sizes) -> int:
    """Few samples, and more than are kept at once."""
    if request.param == "long":
        set_sizes(few_samples=64)
    return 203


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("criterion", ["aic", "aicc", "bic"])
def test_information_criteria_are_those_of_every_fit(criterion, is_weighted, size):
    x, y, weight = make_data(size)
    weight = weight if is_weighted else torch.ones_like(weight)
    fit = polyfit.select_degree(x, y, MAX_DEGREE, criterion=criterion, weight=weight if is_weighted else None)
    selection = fit.selection
    assert selection is not None
    expected = []
    for degree in range(MAX_DEGREE + 1):
        rss = exact_rss(x, y, weight, degree)
        assert selection.rss[degree] == pytest.approx(rss, rel=1e-11)
        k = degree + 2
        penalty = {"aic": 2 * k, "aicc": 2 * k + 2 * k * (k + 1) / (size - k - 1), "bic": k * math.log(size)}
        expected.append(size * math.log(rss / size) + penalty[criterion])
    assert selection.values == pytest.approx(expected, rel=1e-11)
    assert selection.degrees == tuple(range(MAX_DEGREE + 1))
    assert fit.degree == selection.degree == int(np.argmin(expected))
    alone = polyfit.fit(x, y, fit.degree, weight=weight if is_weighted else None)
    assert torch.equal(fit.coef, alone.coef)
    assert torch.equal(fit.covariance, alone.covariance)


def errors_of_refitting(x: Tensor, y: Tensor, weight: Tensor, max_degree: int, folds: int) -> np.ndarray:
    """The weighted sum of squared errors of each degree, at samples that a fit of the others has not seen.

    Sums over the others are those over all less those over the fold, which rational numbers allow. Coefficients
    are of order 1.
    """
    of_all = exact.power_sums(x, y, weight, max_degree)
    errors = [Fraction(0)] * (max_degree + 1)
    for fold in range(folds):
        here = slice(fold, None, folds)
        of_fold = exact.power_sums(x[here], y[here], weight[here], max_degree)
        of_x, of_y = (
            [a - b for a, b in zip(whole, part, strict=True)]
            for whole, part in zip(of_all[:2], of_fold[:2], strict=True)
        )
        samples = list(zip(*(exact.fractions(values[here]) for values in (x, y, weight)), strict=True))
        for degree in range(max_degree + 1):
            hankel = [of_x[k : k + degree + 1] for k in range(degree + 1)]
            solution = exact.solve(hankel, [[value] for value in of_y[: degree + 1]])
            coef = [Fraction(round(row[0] * 10**50), 10**50) for row in solution]  # exact numbers would take seconds
            for place, value, w in samples:
                p = Fraction(0)
                for c in reversed(coef):
                    p = p * place + c
                errors[degree] += w * (value - p) ** 2
    return np.array([float(value) for value in errors])


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("folds", [2, 5, 203])
def test_cross_validation_is_refitting(folds, is_weighted, size):
    x, y, weight = make_data(size)
    fit = polyfit.select_degree(x, y, 5, criterion="cv", folds=folds, weight=weight if is_weighted else None)
    weight = weight if is_weighted else torch.ones_like(weight)
    errors = errors_of_refitting(x, y, weight, 5, folds)
    assert fit.selection is not None
    assert fit.selection.values == pytest.approx(errors / float(weight.sum()), rel=1e-10)
    assert fit.degree == int(np.argmin(errors))
    assert fit.selection.folds == folds


def test_a_known_variance_counts_as_one_parameter_less():
    x, y, _ = make_data(200)
    sigma = torch.full_like(x, 0.1)
    fit = polyfit.select_degree(x, y, MAX_DEGREE, criterion="bic", sigma=sigma, absolute_sigma=True)
    expected = [exact_rss(x, y, sigma**-2, degree) + (degree + 1) * math.log(200) for degree in range(MAX_DEGREE + 1)]
    assert fit.selection is not None
    assert fit.selection.values == pytest.approx(expected, rel=1e-11)


def test_a_small_signal_on_a_large_offset_and_trend():
    # From moments about zero, residuals of 1e-6 beside y of 1e12 would drown: 1e-12 of 1e24 is 12 digits below eps.
    x, y, _ = make_data(300)
    y = 1e6 + 1e3 * x + 1e-4 * torch.sin(3 * x)
    fit = polyfit.select_degree(x, y, 14)
    assert fit.selection is not None
    for degree in (3, 8, 14):
        assert fit.selection.rss[degree] == pytest.approx(polyfit.fit(x, y, degree).rss, rel=1e-4)


@pytest.mark.parametrize("criterion", ["aicc", "bic", "cv"])
def test_an_exact_polynomial_is_found(criterion):
    x = torch.linspace(-3, 5, 100, dtype=torch.float64)
    y = 2 + x - x**3 / 4 + 1e-9 * torch.sin(1e4 * x)
    assert polyfit.select_degree(x, y, 10, criterion=criterion).degree == 3


def test_degrees_that_the_data_do_not_tell_apart_are_left_out():
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64).repeat(20)
    y = x**2 + 0.1 * torch.randn(80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.warns(FitWarning, match="do not determine degrees from 4 on"):
        fit = polyfit.select_degree(x, y, 8)
    assert fit.degree == 2
    assert fit.selection is not None
    assert fit.selection.degrees == (0, 1, 2, 3)


# --- few samples, no noise, ill-conditioned data, extreme units ---


@pytest.mark.parametrize("n", [6, 10, 15])
def test_degrees_without_degrees_of_freedom_are_left_out(n):
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    y = 2 * x + 1 + 0.1 * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    for criterion in ("aic", "bic"):
        with pytest.warns(
            FitWarning, match=rf"coefficients for {n} samples; it is meant for many .*criterion='aicc' or 'cv'"
        ):
            selection = polyfit.select_degree(x, y, n - 1, criterion=criterion).selection
        assert selection is not None
        assert selection.degrees == tuple(range(n - 1))
    assert polyfit.select_degree(x, y, n - 1, criterion="aicc").degree == 1
    assert polyfit.select_degree(x, y, n // 3 - 1, criterion="bic").degree == 1
    # A known variance needs no degrees of freedom.
    selection = polyfit.select_degree(x, y, n - 1, sigma=0.1, absolute_sigma=True).selection
    assert selection is not None
    assert (selection.degree, len(selection.degrees)) == (1, n)


def test_a_single_sample():
    x = torch.ones(1, dtype=torch.float64)
    assert polyfit.select_degree(x, x, 0, criterion="aicc").degree == 0


@pytest.mark.parametrize("criterion", ["aic", "aicc", "bic", "cv"])
def test_polynomials_without_noise_are_found(criterion):
    # Integer coefficients: y has roundings alone, or none.
    rng = random.Random(3)
    for _ in range(40):
        n, degree = rng.choice([20, 50, 100]), rng.randint(0, 6)
        coef = [rng.randint(-9, 9) for _ in range(degree)] + [rng.choice([-3, -2, -1, 1, 2, 3])]
        start, stop = rng.uniform(-5, 0), rng.uniform(0.5, 9)
        places = [
            [float(k - n // 2) for k in range(n)],
            [start + (stop - start) * k / (n - 1) for k in range(n)],
            [rng.uniform(start, stop) for _ in range(n)],
        ]
        x = torch.tensor(rng.choice(places), dtype=torch.float64)
        y = sum((c * x**k for k, c in enumerate(coef)), torch.zeros_like(x))
        assert polyfit.select_degree(x, y, 10, criterion=criterion).degree == degree


def ill_conditioned(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x over two to four orders of magnitude, weights over four: condition up to 1e9 at degree 8."""
    rng = random.Random(seed)
    x = 10 ** torch.linspace(0, rng.uniform(2, 4), 25, dtype=torch.float64)
    y = torch.log(x) + 0.3 * torch.tensor([rng.gauss(0, 1) for _ in range(25)], dtype=torch.float64)
    return x, y, torch.tensor([10 ** rng.uniform(-2, 2) for _ in range(25)], dtype=torch.float64)


@pytest.mark.parametrize("few", [16, 4096])
def test_rss_of_ill_conditioned_data(few, set_sizes):
    set_sizes(few_samples=few)
    for seed in range(12):
        x, y, weight = ill_conditioned(seed)
        fit = polyfit.select_degree(x, y, MAX_DEGREE, criterion="aic", weight=weight)
        expected = [exact_rss(x, y, weight, degree) for degree in range(MAX_DEGREE + 1)]
        assert fit.selection is not None
        # Residuals have the roundings of the terms of the polynomial, which are much larger than y.
        assert fit.selection.rss == pytest.approx(expected, rel=1e-8)
        values = [25 * math.log(rss / 25) + 2 * (degree + 2) for degree, rss in enumerate(expected)]
        assert fit.degree == int(np.argmin(values))


def test_rss_where_the_largest_degree_interpolates_with_terms_that_cancel():
    # x approach 2005 from above: the interpolating polynomial has coefficients up to 9e10, 3e11 times as large as y.
    distance = torch.tensor(3.1, dtype=torch.float64) ** -torch.arange(9, dtype=torch.float64)
    x = 2005.0 + 15.0 * distance
    y = torch.tensor([0.02, 0.26, 0.13, 0.12, 0.0, 0.13, -0.04, 0.02, -0.04], dtype=torch.float64)
    fit = polyfit.select_degree(x, y, MAX_DEGREE, criterion="aicc")
    assert fit.selection is not None
    expected = [exact_rss(x, y, torch.ones_like(x), degree) for degree in fit.selection.degrees]
    # At degree 7 the condition is 5e9: float64 promises 6 digits there.
    assert fit.selection.rss == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("folds", [3, 5, 25])
def test_cross_validation_of_ill_conditioned_data(folds):
    for seed in range(3):
        x, y, weight = ill_conditioned(seed)
        order = torch.tensor(random.Random(seed).sample(range(25), 25))
        x, y, weight = x[order], y[order], weight[order]
        fit = polyfit.select_degree(x, y, 6, criterion="cv", folds=folds, weight=weight)
        errors = errors_of_refitting(x, y, weight, 6, folds)
        assert fit.selection is not None
        # A fit without a fold has a condition of up to 1e9, by QR.
        assert fit.selection.values == pytest.approx(errors / float(weight.sum()), rel=1e-6)
        assert fit.degree == int(np.argmin(errors))


def test_a_fold_with_nearly_all_of_the_weight():
    x, y, _ = make_data(60)
    weight = torch.ones(60, dtype=torch.float64)
    weight[::3] = 2.0**40
    fit = polyfit.select_degree(x, y, 4, criterion="cv", folds=3, weight=weight)
    assert fit.selection is not None
    errors = errors_of_refitting(x, y, weight, 4, 3)
    assert fit.selection.values == pytest.approx(errors / float(weight.sum()), rel=1e-10)


@pytest.mark.parametrize("criterion", ["bic", "cv"])
@pytest.mark.parametrize(("y_exponent", "w_exponent"), [(-600, 0), (500, -900), (0, 800), (-200, 300), (-1000, -1000)])
def test_units(y_exponent, w_exponent, criterion):
    x, y, weight = make_data(100)
    usual = polyfit.select_degree(x, y, 6, criterion=criterion, weight=weight).selection
    y, weight = y * 2.0**y_exponent, weight * 2.0**w_exponent
    selection = polyfit.select_degree(x, y, 6, criterion=criterion, weight=weight).selection
    assert usual is not None
    assert selection is not None
    assert selection.degree == usual.degree
    exponent = 2 * y_exponent + w_exponent
    if -1000 < exponent < 1000:
        assert selection.rss == pytest.approx([2.0**exponent * value for value in usual.rss], rel=1e-13)
    if criterion == "bic":
        expected = [value + 100 * exponent * math.log(2) for value in usual.values]
        assert selection.values == pytest.approx(expected, rel=1e-12)
    elif abs(y_exponent) < 500:
        assert selection.values == pytest.approx([4.0**y_exponent * value for value in usual.values], rel=1e-13)


def test_it_passes_on_what_fit_takes():
    x, y, _ = make_data(100)
    fit = polyfit.select_degree(x, y, 6, basis="legendre", domain=(-3, 5), precision="double", impl="torch")
    assert (fit.basis, fit.domain, fit.precision) == ("legendre", (-3.0, 5.0), "double")
    bad = y.clone()
    bad[3] = math.nan
    assert polyfit.select_degree(x, bad, 6, nan_policy="omit").n_samples == 99
    assert polyfit.select_degree(x, bad, 6, nan_policy="propagate").status == "not_finite"
    with pytest.raises(ValueError, match=r"y\[3\] = nan"):
        polyfit.select_degree(x, bad, 6)


def test_bad_input():
    x, y, _ = make_data(10)
    with pytest.raises(ValueError, match="criterion='r2' is unknown"):
        polyfit.select_degree(x, y, 3, criterion="r2")
    with pytest.raises(ValueError, match="folds=1 leaves no samples"):
        polyfit.select_degree(x, y, 3, criterion="cv", folds=1)
    with pytest.raises(ValueError, match="folds=0 leaves no samples"):
        polyfit.select_degree(x, y, 3, criterion="cv", folds=0)
    with pytest.raises(ValueError, match="folds=11 is more than the 10 samples"):
        polyfit.select_degree(x, y, 3, criterion="cv", folds=11)
    with pytest.raises(ValueError, match="8 samples outside a fold do not determine 9"):
        polyfit.select_degree(x, y, 8, criterion="cv")
    with pytest.raises(ValueError, match=r"10 samples do not determine 11 .* pass max_degree=9"):
        polyfit.select_degree(x, y, 10)
    with pytest.raises(TypeError, match=r"max_degree=2\.5 is float"):
        polyfit.select_degree(x, y, 2.5)  # pyright: ignore[reportArgumentType]


def test_the_picture_shows_every_degree():
    x, y, _ = make_data(100)
    for criterion in ("aicc", "cv"):
        selection = polyfit.select_degree(x, y, 6, criterion=criterion).selection
        assert selection is not None
        (axes,) = selection.plot().axes
        line, mark = axes.get_lines()
        assert np.asarray(line.get_xdata()).tolist() == list(range(7))
        assert np.asarray(line.get_ydata()).tolist() == list(selection.values)
        assert np.asarray(mark.get_xdata()).tolist() == [selection.degree]
        assert axes.get_ylabel().startswith({"aicc": "AICc", "cv": "mean squared error, 5 folds"}[criterion])


def test_warnings_point_to_the_caller_and_come_once():
    x = torch.arange(1990.0, 2021.0, dtype=torch.float64)
    y = torch.sin(torch.arange(31, dtype=torch.float64) / 3)
    with pytest.warns(FitWarning) as caught:
        fit = polyfit.select_degree(x, y, 12, basis="power")
    assert fit.domain is None
    assert [warning.filename for warning in caught] == [__file__]
    assert "cancel" in str(caught[0].message)


def test_words_and_errors_are_those_of_fit():
    x, y = torch.linspace(2.0, 8.0, 20, dtype=torch.float64), torch.linspace(0.0, 1.0, 20, dtype=torch.float64) ** 3
    assert polyfit.select_degree(x, y, 3, basis="power").domain is None
    assert polyfit.select_degree(x, y, 3, basis="power", domain="data").domain == (2.0, 8.0)
    assert polyfit.select_degree(x, y, 3).domain == (2.0, 8.0)
    assert polyfit.select_degree(x, y, 3, domain=None).domain is None
    with pytest.raises(ValueError, match="domain='range' is unknown"):
        polyfit.select_degree(x, y, 3, domain="range")
    with pytest.raises(ValueError, match="absolute_sigma=True, and sigma is not given"):
        polyfit.select_degree(x, y, 3, absolute_sigma=True)
    for options in ({"precision": "single"}, {"nan_policy": "drop"}, {"basis": "monomial"}):
        with pytest.raises(ValueError, match="is unknown; pass one of"):
            polyfit.select_degree(x, y, 3, **options)  # pyright: ignore[reportArgumentType]
