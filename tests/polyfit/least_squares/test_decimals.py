"""Matrices of decimal numbers, against rational numbers."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import exact
import numpy as np
import pytest

from polyfit.least_squares import decimals
from polyfit.least_squares.decimals import Decimals

DIGITS = 60


@pytest.fixture(autouse=True)
def in_sixty_digits():
    with decimals.digits(DIGITS):
        yield


def fractions(values: Decimals) -> exact.Rows:
    return [list(map(Fraction, row)) for row in values]


def hilbert(size: int) -> exact.Rows:
    return [[Fraction(1, i + j + 1) for j in range(size)] for i in range(size)]


def largest(rows: exact.Rows) -> float:
    return float(max(abs(value) for row in rows for value in row))


def difference(a: exact.Rows, b: exact.Rows) -> exact.Rows:
    return [[x - y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def test_floats_are_exact_and_come_back():
    values = np.array([[0.1, -1e300], [5e-324, 0.0]])
    numbers = decimals.from_floats(values)
    assert fractions(numbers) == [list(map(Fraction, row)) for row in values.tolist()]
    assert np.array_equal(decimals.to_floats(numbers), values)


def test_parts_hold_what_one_float_does_not():
    third = decimals.from_fractions([[Fraction(1, 3), Fraction(10) ** 400]])
    parts = decimals.to_parts(third[:, :1], 3)
    assert parts.shape == (3, 1, 1)
    assert abs(sum(map(Fraction, parts.ravel().tolist())) - Fraction(1, 3)) < Fraction(1, 2**156)
    assert decimals.from_parts(parts)[0, 0] == sum(map(Decimal, parts.ravel().tolist()))
    assert decimals.to_parts(third, 2)[0].tolist() == [[float(Fraction(1, 3)), np.inf]]


def test_a_product_without_a_common_dimension_is_zero():
    assert fractions(decimals.product(decimals.zeros(2, 0), decimals.zeros(0, 3))) == [[0] * 3] * 2


def test_lengths():
    lengths = decimals.norms(decimals.from_fractions([[Fraction(3), Fraction(4)], [Fraction(0), Fraction(0)]]))
    assert lengths.tolist() == [5, 0]


def test_columns_become_orthonormal_and_keep_their_span():
    # The condition of Hilbert's matrix of size 8 is 1.5e10.
    rows = hilbert(8)
    columns = decimals.orthonormal_columns(decimals.from_fractions(rows)[:, :5])
    found = fractions(columns)
    assert largest(difference(exact.product(exact.transposed(found), found), exact.unit(5))) < 1e-58
    given = [row[:5] for row in rows]
    residual = difference(given, exact.product(found, exact.product(exact.transposed(found), given)))
    assert largest(residual) < 1e-58


@pytest.mark.parametrize("size", [1, 4, 10])
def test_cholesky(size):
    rows = hilbert(size)
    factor, lost = decimals.cholesky(decimals.from_fractions(rows))
    found = fractions(factor)
    assert largest(difference(exact.product(found, exact.transposed(found)), rows)) < 1e-58
    assert all(found[i][j] == 0 for i in range(size) for j in range(i + 1, size))
    inverse = fractions(decimals.inverse_of_lower(factor))
    assert largest(difference(exact.product(inverse, found), exact.unit(size))) < 10.0 ** (lost - 56)
    # The last pivot is the reciprocal of the last entry of the inverse.
    expected = exact.solve(rows, exact.unit(size))[-1][-1] * rows[-1][-1]
    assert lost >= len(str(int(expected))) - 1


def test_a_matrix_that_is_not_positive_definite_has_no_digits_left():
    rows = [[Fraction(1), Fraction(2)], [Fraction(2), Fraction(1)]]
    assert decimals.cholesky(decimals.from_fractions(rows))[1] == DIGITS


def test_orders_of_magnitude():
    assert [decimals.orders(Decimal(text)) for text in ("1", "9.99", "10", "0.01")] == [1, 1, 2, -1]
    assert decimals.orders(Decimal(0)) < -(10**6)
