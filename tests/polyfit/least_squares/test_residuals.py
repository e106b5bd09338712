"""Residuals of few samples, in float64 and in twice its digits, against rational numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from fit_cases import F64, curve, line, uniform
from torch import Tensor

from polyfit.least_squares.algebra import Array
from polyfit.least_squares.design import DesignMatrix
from polyfit.least_squares.residuals import ExtendedResiduals

Domain = tuple[float, float]


def exact_functions(x: Tensor, degree: int, domain: Domain) -> list[list[Fraction]]:
    """T_0 .. T_degree of the samples, (degree + 1, N)."""
    lo, hi = map(Fraction, domain)
    t = [(2 * Fraction(value) - lo - hi) / (hi - lo) for value in x.tolist()]
    rows = [[Fraction(1)] * len(t), t]
    while len(rows) <= degree:
        rows.append([2 * a * b - c for a, b, c in zip(t, rows[-1], rows[-2], strict=True)])
    return rows[: degree + 1]


def exact_sums(
    x: Tensor, y: Tensor, weight: Tensor | None, high: Array, low: Array, domain: Domain
) -> tuple[list[Fraction], Fraction]:
    """Moments and sum of squares of the residuals."""
    rows = exact_functions(x, len(high) - 1, domain)
    coef = [Fraction(a) + Fraction(b) for a, b in zip(high.tolist(), low.tolist(), strict=True)]
    w = [Fraction(1)] * len(x) if weight is None else [Fraction(value) for value in weight.tolist()]
    values = [sum((c * row[n] for c, row in zip(coef, rows, strict=True)), Fraction(0)) for n in range(len(x))]
    r = [Fraction(a) - b for a, b in zip(y.tolist(), values, strict=True)]
    moments = [sum((a * b * c for a, b, c in zip(w, r, row, strict=True)), Fraction(0)) for row in rows]
    return moments, sum((a * b * b for a, b in zip(w, r, strict=True)), Fraction(0))


def nearly_solved(x: Tensor, degree: int, domain: Domain) -> tuple[Tensor, Array, Array]:
    """Coefficients, and y that float64 rounds from their polynomial: residuals are roundings of y."""
    rng = np.random.default_rng(0)
    high = rng.standard_normal(degree + 1)
    low = 2.0**-54 * high * rng.random(degree + 1)
    rows = exact_functions(x, degree, domain)
    values = [sum((Fraction(c) * row[n] for c, row in zip(high.tolist(), rows, strict=True))) for n in range(len(x))]
    return torch.tensor([float(value) for value in values], dtype=F64), high, low


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 7])
@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.0, 1.0), (1.7e9, 1.7e9 + 1e4), (-1e-300, 1e-300), (-1e300, 1e300)])
def test_extended_residuals_keep_their_digits_where_all_of_float64_cancels(domain, degree, is_weighted):
    x = torch.tensor(domain[0], dtype=F64) + (0.5 * domain[1] - 0.5 * domain[0]) * (1.0 + line(40))
    x = x.clamp(*domain)
    weight = uniform(40) if is_weighted else None
    y, high, low = nearly_solved(x, degree, domain)
    moments, squares = ExtendedResiduals(x, y, weight, degree, domain)(high, low)
    expected, expected_squares = exact_sums(x, y, weight, high, low, domain)
    # Residuals of size 2**-54, with an error of 2**-90 of the coefficients; sums of 40 of them.
    size = 40 * float(np.abs(high).sum())
    for ours, theirs in zip(moments.tolist(), expected, strict=True):
        assert abs(Fraction(ours) - theirs) <= Fraction(2.0**-88 * size) + abs(theirs) * Fraction(2) ** -52
    assert squares == pytest.approx(float(expected_squares), rel=1e-9)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_chunks_give_the_sums_of_all(is_weighted, monkeypatch):
    x, y, weight = line(50), curve(50), uniform(50) if is_weighted else None
    high, low = np.array([1.0, -0.5, 0.25]), np.zeros(3)
    whole = ExtendedResiduals(x, y, weight, 2, (-1.0, 1.0))
    assert whole.only_chunk is not None
    assert whole.only_chunk is whole.only_chunk
    monkeypatch.setattr("polyfit.least_squares.residuals._SHORTEST", 7)
    monkeypatch.setattr("polyfit.least_squares.residuals._CHUNK", 7)
    parts = ExtendedResiduals(x, y, weight, 2, (-1.0, 1.0))
    assert parts.only_chunk is None
    expected, expected_squares = exact_sums(x, y, weight, high, low, (-1.0, 1.0))
    for residuals in (whole, parts):
        moments, squares = residuals(high, low)
        np.testing.assert_allclose(moments, [float(value) for value in expected], rtol=2.0**-52)
        assert squares == pytest.approx(float(expected_squares), rel=64 * 2.0**-52)


def test_a_domain_that_cannot_be_mapped_is_named():
    with pytest.raises(ValueError, match="too narrow or too wide"):
        ExtendedResiduals(line(5), line(5), None, 1, (0.0, 5e-324))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("degree", [0, 1, 5])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_design_matrix(is_weighted, degree, dtype):
    x, y = line(40).to(dtype), curve(40).to(dtype)
    weight = uniform(40).to(dtype) if is_weighted else None
    matrix = DesignMatrix.of_samples(x, y, weight, degree, (-1.0, 1.0))
    of_x, of_y = matrix.moments()
    rows = exact_functions(x, 2 * degree, (-1.0, 1.0))
    w = [Fraction(1)] * 40 if weight is None else [Fraction(value) for value in weight.tolist()]
    expected = [float(sum(a * b for a, b in zip(w, row, strict=True))) for row in rows]
    # Terms of up to one (of y, two), and errors of T_k that grow as k**2 roundings of t.
    tolerance = 40 * (degree + 2) ** 2 * 2.0**-52
    np.testing.assert_allclose(of_x, expected, rtol=0, atol=tolerance)
    high = np.arange(1.0, degree + 2.0)
    sums, squares = exact_sums(x, y, weight, np.zeros(degree + 1), np.zeros(degree + 1), (-1.0, 1.0))
    np.testing.assert_allclose(of_y, [float(value) for value in sums], rtol=0, atol=4 * tolerance)
    moments, squares = matrix.residuals(high)
    sums, exact_squares = exact_sums(x, y, weight, high, np.zeros(degree + 1), (-1.0, 1.0))
    size = float(high.sum() + y.double().abs().max())
    np.testing.assert_allclose(moments, [float(value) for value in sums], rtol=0, atol=tolerance * size)
    assert squares == pytest.approx(float(exact_squares), rel=1e-12)
