"""Small matrices of decimal numbers of any precision: numpy arrays of `decimal.Decimal`.

Conditions on the coefficients of a basis that lies far from the data have singular values over a hundred orders of
magnitude. Their algebra needs more digits than two or three float64 numbers hold, and exponents beyond float64. The
matrices are as small as the degree: a product of two 10 x 10 matrices takes about 0.2 ms.

All functions compute with the precision of the enclosing ``with digits(n)``.

References:
    Golub & Van Loan, Matrix Computations (2013), 4.2 for Cholesky, 5.2 for Gram-Schmidt.
"""

from __future__ import annotations

import contextlib
import decimal
import math
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

# An array of dtype object that holds `Decimal` numbers.
Decimals = NDArray[Any]

ZERO = Decimal(0)
# The rounding of float64.
EPS = Decimal(2) ** -52
# Decimal digits of a float64 number: 53 bits are 15.95.
DIGITS_OF_FLOAT = 16


@contextlib.contextmanager
def digits(precision: int) -> Iterator[None]:
    """Compute with this many decimal digits. Nothing raises: an undefined result is NaN."""
    context = decimal.Context(prec=precision, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])
    with decimal.localcontext(context):
        yield


def from_floats(values: NDArray[np.float64]) -> Decimals:
    """The numbers of an array of any shape, exactly."""
    return _array(map(Decimal.from_float, values.ravel().tolist()), values.shape)


def from_fractions(rows: Sequence[Sequence[Fraction]]) -> Decimals:
    """Rational numbers, (m, n), rounded once."""
    shape = (len(rows), len(rows[0]) if rows else 0)
    return _array((Decimal(value.numerator) / value.denominator for row in rows for value in row), shape)


def zeros(*shape: int) -> Decimals:
    """An array of zeros."""
    return np.full(shape, ZERO, dtype=object)


def _array(values: Iterable[Decimal], shape: tuple[int, ...]) -> Decimals:
    array = np.empty(math.prod(shape), dtype=object)
    array[:] = list(values)
    return array.reshape(shape)


def to_floats(values: Decimals) -> NDArray[np.float64]:
    """The numbers, rounded to float64; infinite where they overflow."""
    return np.array([float(value) for value in values.ravel()], dtype=np.float64).reshape(values.shape)


def to_scaled_floats(rows: Decimals) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows (m, n) as float64 numbers near 1, and the exponents of two by which they are to be multiplied, (m,)."""
    largest = [max((value for value in map(abs, row) if value), default=Decimal(1)) for row in rows]
    exponents = [round(value.adjusted() * math.log2(10.0)) for value in largest]
    scaled = [row * Decimal(2) ** -exponent for row, exponent in zip(rows, exponents, strict=True)]
    return to_floats(np.array(scaled, dtype=object).reshape(rows.shape)), np.array(exponents, np.int64)


def to_parts(values: Decimals, count: int) -> NDArray[np.float64]:
    """The numbers as unevaluated sums of `count` float64 numbers, (count, ...)."""
    parts = np.zeros((count, *values.shape))
    for k in range(count):
        parts[k] = to_floats(values)
        if not np.isfinite(parts[k]).all():
            break
        values = values - from_floats(parts[k])
    return parts


def from_parts(parts: NDArray[np.float64]) -> Decimals:
    """The sums of unevaluated sums, (count, ...)."""
    return from_floats(parts).sum(0)


def product(a: Decimals, b: Decimals) -> Decimals:
    """``a @ b``, also where the common dimension is 0."""
    if not a.shape[-1]:
        return zeros(*a.shape[:-1], *b.shape[1:])
    return a @ b


def norms(rows: Decimals) -> Decimals:
    """The lengths of the rows, (m,)."""
    return _array((_root(row) for row in rows), rows.shape[:1])


def _root(row: Decimals) -> Decimal:
    return sum((value * value for value in row), ZERO).sqrt()


def orthonormal_columns(matrix: Decimals) -> Decimals:
    """Orthonormal columns that span those of a matrix of full rank, (p, q).

    By Gram-Schmidt, each column twice. It loses as many digits as the columns, each of length one, have in their
    condition.
    """
    basis = zeros(*matrix.shape)
    for k in range(matrix.shape[1]):
        column = matrix[:, k]
        for _ in range(2):
            length = _root(column)
            column = column / length
            column = column - product(basis[:, :k], product(basis[:, :k].T, column))
        basis[:, k] = column / _root(column)
    return basis


def cholesky(matrix: Decimals) -> tuple[Decimals, int]:
    """The lower factor L of a positive definite matrix L @ L.T, and how many digits cancelled in its pivots.

    The number of digits is the whole precision where a pivot is not positive.
    """
    factor, smallest = zeros(*matrix.shape), Decimal(1)
    for k in range(len(matrix)):
        column = matrix[k:, k] - product(factor[k:, :k], factor[k, :k])
        pivot = column[0]
        if not pivot > 0:
            return factor, decimal.getcontext().prec
        smallest = min(smallest, pivot / matrix[k, k])
        factor[k:, k] = column / pivot.sqrt()
    return factor, -smallest.adjusted()


def inverse_of_lower(factor: Decimals) -> Decimals:
    """The inverse of a lower triangular matrix."""
    inverse = zeros(*factor.shape)
    for k, row in enumerate(factor):
        inverse[k] = -product(row[:k], inverse[:k]) / row[k]
        inverse[k, k] = 1 / row[k]
    return inverse


def orders(value: Decimal) -> int:
    """The decimal logarithm, rounded up; a very small number for zero."""
    return value.adjusted() + 1 if value else -(10**9)
