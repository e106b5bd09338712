"""Small matrices of least squares, against numpy's pseudo-inverse and rational numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import exact
import numpy as np
import pytest
from numpy.polynomial import chebyshev

from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array, Directions

EPS = float(np.finfo(np.float64).eps)


def matrix(n: int = 12, p: int = 5) -> Array:
    return np.random.default_rng(0).standard_normal((n, p))


def of(rows: Array, method: str) -> Directions:
    if method == "gram":
        return algebra.from_gram(rows.T @ rows)
    return algebra.from_triangle(np.asarray(np.linalg.qr(rows)[1]), len(rows))


METHODS = ["gram", "triangle"]


@pytest.mark.parametrize("degree", [0, 1, 4, 9])
def test_moments_and_gram_matrix_by_the_identity(degree):
    # In rational numbers: sums over a few t of products of T_i and T_j.
    t = [Fraction(k, 8) for k in (-8, -5, -1, 0, 3, 7)]
    weights = [Fraction(k, 4) for k in (1, 3, 5, 2, 8, 1)]
    rows = [[Fraction(1)] * len(t), t]
    for _ in range(2 * degree):
        rows.append([2 * a * b - c for a, b, c in zip(t, rows[-1], rows[-2], strict=True)])

    def total(*factors: list[Fraction]) -> float:
        return float(sum(map(math.prod, zip(weights, *factors, strict=True))))

    low = np.array([total(rows[k]) for k in range(degree + 1)])
    high = np.array([total(rows[degree], rows[k]) for k in range(degree + 1)])
    moments = algebra.moments_of_products(low, high)
    scale = 8 * EPS * float(sum(weights))
    np.testing.assert_allclose(moments, [total(rows[k]) for k in range(2 * degree + 1)], rtol=0, atol=scale)
    expected = [[total(rows[i], rows[j]) for j in range(degree + 1)] for i in range(degree + 1)]
    np.testing.assert_allclose(algebra.gram(moments, degree), expected, rtol=0, atol=scale)


@pytest.mark.parametrize("method", METHODS)
def test_root_is_that_of_the_inverse(method):
    rows = matrix()
    directions = of(rows, method)
    inverse = np.linalg.inv(rows.T @ rows)
    condition = np.linalg.cond(rows / np.linalg.norm(rows, axis=0))
    tolerance = 64 * EPS * condition**2 * np.abs(inverse).max()
    np.testing.assert_allclose(directions.root @ directions.root.T, inverse, rtol=0, atol=tolerance)
    assert directions.condition == pytest.approx(condition, rel=1e-12)
    assert (directions.rank, directions.undetermined) == (5, None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["a column of zeros", "equal columns", "both", "two pairs"])
def test_undetermined_directions(kind, method):
    rows = matrix()
    if kind in {"a column of zeros", "both"}:
        rows[:, 1] = 0.0
    if kind in {"equal columns", "both", "two pairs"}:
        rows[:, 3] = -2.0 * rows[:, 0]
    if kind == "two pairs":
        rows[:, 4] = rows[:, 2]
    n_undetermined = 2 if kind in {"both", "two pairs"} else 1
    directions = of(rows, method)
    assert directions.rank == 5 - n_undetermined
    assert directions.undetermined is not None
    np.testing.assert_allclose(
        directions.undetermined.T @ directions.undetermined, np.eye(n_undetermined), rtol=0, atol=8 * EPS
    )
    np.testing.assert_allclose(rows @ directions.undetermined, 0.0, rtol=0, atol=1e-13)
    y = np.arange(12.0)
    solution = directions.correction(rows.T @ y)
    # The minimum-norm solution.
    np.testing.assert_allclose(solution, np.linalg.pinv(rows) @ y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(directions.undetermined_part(solution), 0.0, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_ones_and_zeros(method):
    # T_0 .. T_4 at t = 0. One direction is determined, and two columns are zero.
    rows = np.tile([1.0, 0.0, -1.0, 0.0, 1.0], (30, 1))
    directions = of(rows, method)
    assert directions.rank == 1
    solution = directions.correction(rows.T @ np.full(30, 1.5))
    np.testing.assert_allclose(solution, [0.5, 0.0, -0.5, 0.0, 0.5], rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_no_columns(method):
    nothing = of(np.zeros((5, 0)), method)
    assert (nothing.rank, nothing.condition, nothing.correction(np.zeros(0)).shape) == (0, 1.0, (0,))


def test_the_root_of_a_gram_matrix():
    rows = matrix()
    rows[:, 3] = 1e-3 * rows[:, 0]  # singular: an eigenvalue may be negative by rounding
    gram = rows.T @ rows
    root = algebra.root_of_gram(gram)
    lengths = np.linalg.norm(rows, axis=0)
    assert np.all(np.abs(root.T @ root - gram) <= 16 * EPS * lengths * lengths[:, None])


def test_the_spread_under_a_penalty():
    rows, penalty = matrix(), np.diag([0.0, 1.0, 2.0, 0.5, 1.0])
    gram = rows.T @ rows
    inverse = np.linalg.inv(gram + penalty)
    spread, n_effective = algebra.penalised_spread(algebra.from_gram(gram + penalty).root, gram)
    np.testing.assert_allclose(spread @ spread.T, inverse @ gram @ inverse, rtol=0, atol=1e-13)
    assert n_effective == pytest.approx(np.trace(gram @ inverse), rel=1e-13)


@pytest.mark.parametrize("n_systems", [3, 40])
def test_corrections_of_many_systems(n_systems):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((n_systems, 9, 4))
    rows[1, :, 3] = rows[1, :, 2]
    rows[2, :, 0] = 0.0
    y = rng.standard_normal((n_systems, 9))
    grams = np.swapaxes(rows, 1, 2) @ rows
    of_y = (np.swapaxes(rows, 1, 2) @ y[..., None])[..., 0]
    found = algebra.corrections(grams, of_y, algebra.eigensystem(grams))
    for solution, system, values in zip(found, rows, y, strict=True):
        np.testing.assert_allclose(solution, np.linalg.pinv(system) @ values, rtol=0, atol=1e-10)


def test_the_root_of_an_ill_conditioned_triangle():
    # Columns 1, t, t**2 near one another: the inverse by rational numbers.
    t = 1.0 + np.arange(8) / 2.0**12
    rows = np.asarray(chebyshev.chebvander(t, 2), np.float64)
    directions = of(rows, "triangle")
    fractions = [[Fraction(value) for value in row] for row in rows.tolist()]
    gram = exact.product(exact.transposed(fractions), fractions)
    unit = [[Fraction(int(i == j)) for j in range(3)] for i in range(3)]
    inverse = np.array([[float(value) for value in row] for row in exact.solve(gram, unit)])
    # A root by singular values is good to eps times the condition, not to its square.
    tolerance = 64 * EPS * directions.condition * np.abs(inverse).max()
    np.testing.assert_allclose(directions.root @ directions.root.T, inverse, rtol=0, atol=tolerance)
