"""Weighted least squares in rational numbers: what a fit of the given floating-point numbers is, without a rounding.

Written without polyfit: power sums, the change of basis by numpy's own tables, and fraction-free elimination.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from oracle import NUMPY_CLASSES, TO_POWER
from torch import Tensor

Domain = Sequence[float] | None
Numbers = Tensor | np.ndarray | Sequence[float]
Rows = list[list[Fraction]]


def fractions(values: Numbers) -> list[Fraction]:
    """The numbers as they are stored."""
    return [Fraction(value) for value in (values if isinstance(values, Sequence) else values.tolist())]


def digits(actual: float, exact: Fraction) -> float:
    """Correct digits: minus the decimal logarithm of the relative error, at most 17; absolute where `exact` is zero."""
    error = abs(Fraction(actual) - exact)
    error = error / abs(exact) if exact else error
    return 17.0 if error < Fraction(1, 10**17) else -_log10(error)


def _log10(value: Fraction) -> float:
    return (math.log2(value.numerator) - math.log2(value.denominator)) * math.log10(2.0)


def root(value: Fraction) -> Fraction:
    """The square root to 60 digits."""
    scale = 10**60 * max(1, value.denominator // max(1, value.numerator))
    return Fraction(math.isqrt(int(value * scale * scale)), scale)


def solve(matrix: Rows, right: Rows) -> Rows:
    """The solution of ``matrix @ X = right``, by elimination without fractions (Bareiss); the matrix is regular."""
    size = len(matrix)
    rows = []
    for row, more in zip(matrix, right, strict=True):
        whole = [*row, *more]
        common = math.lcm(*(value.denominator for value in whole))
        rows.append([int(value * common) for value in whole])
    before = 1
    for k in range(size):
        pivot = next(i for i in range(k, size) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        for i in range(size):
            if i != k:
                head, factor = rows[i][k], rows[k][k]
                rows[i] = [(factor * a - head * b) // before for a, b in zip(rows[i], rows[k], strict=True)]
        before = rows[k][k]
    return [[Fraction(value, row[k]) for value in row[size:]] for k, row in enumerate(rows)]


def product(a: Rows, b: Rows) -> Rows:
    """The product of two matrices."""
    columns = list(zip(*b, strict=True))
    return [[sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in a]


def transposed(matrix: Rows) -> Rows:
    """Columns as rows."""
    return [list(column) for column in zip(*matrix, strict=True)]


def unit(size: int) -> Rows:
    """The unit matrix."""
    return [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]


def in_powers(basis: str, domain: Domain, degree: int) -> Rows:
    """The functions of a basis on a domain as polynomials in x: (degree + 1, degree + 1), a column each."""
    scale, shift = Fraction(1), Fraction(0)
    if domain is not None:
        start, stop = map(Fraction, NUMPY_CLASSES[basis].window.tolist())
        lo, hi = map(Fraction, domain)
        scale, shift = (stop - start) / (hi - lo), (start * hi - stop * lo) / (hi - lo)
    powers = [[Fraction(1)]]  # of t
    for _ in range(degree):
        last = powers[-1]
        powers.append([a * shift + b * scale for a, b in zip([*last, 0], [0, *last], strict=True)])
    columns = []
    for k in range(degree + 1):
        series = TO_POWER[basis](np.array([Fraction(int(j == k)) for j in range(k + 1)], dtype=object))
        column = [Fraction(0)] * (degree + 1)
        for value, power in zip(series, powers, strict=False):
            for j, part in enumerate(power):
                column[j] += Fraction(value) * part
        columns.append(column)
    return transposed(columns)


@dataclass(frozen=True)
class ExactFit:
    """Coefficients in the basis and the domain that were asked for, and what there is to say of them.

    Attributes:
        coef: (degree + 1,).
        rss: the weighted sum of squared residuals.
        cofactors: the covariance of the coefficients for a residual variance of one; zero for those that were fixed.
        freedom: samples less free coefficients; with ridge less the trace of the hat matrix.
        r_squared: about the weighted mean, or about the constant where it was fixed; None where that is 0/0.
        basis: of coef.
        domain: of coef.
    """

    coef: list[Fraction]
    rss: Fraction
    cofactors: Rows
    freedom: Fraction
    r_squared: Fraction | None
    basis: str
    domain: Domain

    @property
    def variance(self) -> Fraction:
        """Of the residuals."""
        return self.rss / self.freedom

    def covariance(self, variance: Fraction | None = None) -> Rows:
        """Of the coefficients: for the residual variance, or for one that is given."""
        factor = self.variance if variance is None else variance
        return [[value * factor for value in row] for row in self.cofactors]

    def std_err(self, variance: Fraction | None = None) -> list[Fraction]:
        """Standard errors."""
        return [root(row[k]) for k, row in enumerate(self.covariance(variance))]

    def to(self, basis: str, domain: Domain) -> ExactFit:
        """The same fit in another basis on another domain."""
        degree = len(self.coef) - 1
        matrix = solve(in_powers(basis, domain, degree), in_powers(self.basis, self.domain, degree))
        coef = [row[0] for row in product(matrix, [[value] for value in self.coef])]
        cofactors = product(product(matrix, self.cofactors), transposed(matrix))
        return ExactFit(coef, self.rss, cofactors, self.freedom, self.r_squared, basis, domain)

    def functions(self, x: float) -> list[Fraction]:
        """The functions of the basis at x."""
        matrix = in_powers(self.basis, self.domain, len(self.coef) - 1)
        powers = [[Fraction(x) ** k for k in range(len(self.coef))]]
        return product(powers, matrix)[0]

    def value(self, x: float) -> Fraction:
        """The polynomial at x."""
        return sum((c * p for c, p in zip(self.coef, self.functions(x), strict=True)), Fraction(0))

    def variance_at(self, x: float) -> Fraction:
        """The variance of the polynomial at x, for a residual variance of one."""
        row = [self.functions(x)]
        return product(product(row, self.cofactors), transposed(row))[0][0]


def power_sums(x: Any, y: Any, weight: Any, degree: int) -> tuple[list[Fraction], list[Fraction], Fraction]:
    """The sums of w x**k up to 2 degree, of w y x**k up to degree, and of w y**2; in scaled integers."""
    columns, shifts = [], []
    for values in (x, y, weight):
        exact = fractions(values)
        shift = max(value.denominator.bit_length() - 1 for value in exact)
        columns.append([int(value * 2**shift) for value in exact])
        shifts.append(shift)
    (xs, ys, ws), (x_shift, y_shift, w_shift) = columns, shifts
    of_x, of_y, powers = [], [], ws
    for k in range(2 * degree + 1):
        of_x.append(Fraction(sum(powers), 2 ** (w_shift + k * x_shift)))
        if k <= degree:
            total = sum(p * b for p, b in zip(powers, ys, strict=True))
            of_y.append(Fraction(total, 2 ** (w_shift + k * x_shift + y_shift)))
        powers = [p * a for p, a in zip(powers, xs, strict=True)]
    squares = sum(w * b * b for w, b in zip(ws, ys, strict=True))
    return of_x, of_y, Fraction(squares, 2 ** (w_shift + 2 * y_shift))


def fit(
    x: Numbers,
    y: Numbers,
    degree: int,
    *,
    weight: Numbers | None = None,
    basis: str = "power",
    domain: Domain = None,
    fixed: Mapping[int, float] | None = None,
    ridge: float = 0.0,
) -> ExactFit:
    """Least squares for data that determine all coefficients."""
    n, size = len(x), degree + 1
    of_x, of_y, squares = power_sums(x, y, [1.0] * n if weight is None else weight, degree)
    matrix = in_powers(basis, domain, degree)
    hankel = [of_x[k : k + size] for k in range(size)]
    plain = product(product(transposed(matrix), hankel), matrix)
    moments = [row[0] for row in product(transposed(matrix), [[value] for value in of_y])]
    gram = [[value + Fraction(ridge) * (i == j > 0) for j, value in enumerate(row)] for i, row in enumerate(plain)]
    values = {k: Fraction(value) for k, value in (fixed or {}).items()}
    free = [k for k in range(size) if k not in values]
    right = [[moments[k] - sum((gram[k][j] * value for j, value in values.items()), Fraction(0))] for k in free]
    inner = [[gram[i][j] for j in free] for i in free]
    solution = solve(inner, [row + more for row, more in zip(right, unit(len(free)), strict=True)])
    coef = [values.get(k, Fraction(0)) for k in range(size)]
    inverse = [row[1:] for row in solution]
    if ridge:
        spread = product(inverse, [[plain[i][j] for j in free] for i in free])
        freedom = n - sum((spread[k][k] for k in range(len(free))), Fraction(0))
        inverse = product(spread, inverse)
    else:
        freedom = Fraction(n - len(free))
    cofactors = [[Fraction(0)] * size for _ in range(size)]
    for k, row, spread in zip(free, solution, inverse, strict=True):
        coef[k] = row[0]
        for j, value in zip(free, spread, strict=True):
            cofactors[k][j] = value
    through = sum((c * m for c, m in zip(coef, moments, strict=True)), Fraction(0))
    bent = sum((a * b * plain[i][j] for i, a in enumerate(coef) for j, b in enumerate(coef)), Fraction(0))
    rss = squares - 2 * through + bent
    about = values.get(0, of_y[0] / of_x[0])
    total = squares - 2 * about * of_y[0] + about**2 * of_x[0]
    return ExactFit(coef, rss, cofactors, freedom, 1 - rss / total if total else None, basis, domain)
