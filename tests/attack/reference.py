r"""Least squares to at least 50 digits, and the digits that the data allow.

`Reference` solves the problem of the given floating-point numbers by the normal equations in mpmath, in Chebyshev
polynomials on the range of the data, with as many digits as these lose and 50 more. It is written without polyfit.

What "right" means (one definition for all answers of a fit)
    The data are given in float64, so a relative change of eps = 2**-52 of each number of the data cannot be seen. To
    first order such a change moves the linear functional l.c of the coefficients c by at most ::

        S(l) = eps sum_n w_n |l.h_n| (|y_n| + |p'(x_n) x_n| + |r_n|) + eps sum_n w_n |l.h'_n x_n r_n|
             + eps ridge sum_k |l.C m_k c_k|

    where C is the inverse of the penalised normal equations, h_n = C v(x_n) with the basis functions v, h'_n its
    derivative to x_n, r_n the residuals, and c_k = m_k.c the coefficients of the user. An answer is right if its error
    is at most `DATA_ROUNDINGS` S, beside the rounding of the answer itself and 2**-98 of its largest term, the rounding
    of double-double arithmetic. S is Skeel's componentwise backward error; Björck (1996) 1.4.5 has the formula.

    polyfit states more for precision="extended" without fixed coefficients, ridge or sigma: the internal coefficients
    are good to 2**-66 of the largest (see `polyfit.least_squares.refinement`). There an answer must be right to that,
    if the weights are within six orders of magnitude. With weights over 20 orders 2**-56 was seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import mpmath
import numpy as np
from oracle import NUMPY_CLASSES, TO_POWER

EPS = 2.0**-52
DATA_ROUNDINGS = 64.0
ctx = mpmath.mp.clone()
Number = Any  # ctx.mpf
Row = list[Number]
Domain = Sequence[float] | None


class SingularError(Exception):
    """The data do not determine the coefficients."""


def exactly(value: Fraction | float | int) -> Number:
    """A rational number as a number of the context."""
    value = Fraction(value)
    return ctx.mpf(value.numerator) / ctx.mpf(value.denominator)


def dot(a: Sequence[Number], b: Sequence[Number]) -> Number:
    """The inner product."""
    return ctx.fdot(a, b)


def times_t(series: Row, scale: Number, shift: Number) -> Row:
    """The Chebyshev series times ``scale t + shift``."""
    result = [shift * value for value in series] + [ctx.zero]
    for j, value in enumerate(series):
        half = scale * value / 2
        result[j + 1] += half
        result[abs(j - 1)] += half
    return result


def user_functions(basis: str, domain: Domain, internal: tuple[Fraction, Fraction], degree: int) -> list[Row]:
    """The functions of a basis on a domain as Chebyshev series on the internal domain, (degree + 1) rows."""
    lo, hi = internal
    scale, shift = (hi - lo) / 2, (hi + lo) / 2  # x = scale t + shift
    if domain is not None:
        start, stop = map(Fraction, NUMPY_CLASSES[basis].window.tolist())
        lower, upper = map(Fraction, domain)
        factor = (stop - start) / (upper - lower)
        scale, shift = scale * factor, start + (shift - lower) * factor
    at, about = exactly(scale), exactly(shift)
    rows = []
    for k in range(degree + 1):
        series = [ctx.zero]
        for value in reversed(powers_of(basis, k)):
            series = times_t(series, at, about)[: degree + 1]
            series[0] += exactly(value)
        rows.append([*series, *[ctx.zero] * (degree + 1 - len(series))])
    return rows


def powers_of(basis: str, k: int) -> list[Fraction]:
    """P_k(t) as coefficients of powers of t."""
    unit = np.array([Fraction(int(j == k)) for j in range(k + 1)], dtype=object)
    return [Fraction(value) for value in TO_POWER[basis](unit)]


def inverse_of_triangle(rows: list[Row]) -> list[Row]:
    """The inverse of a lower triangular matrix."""
    size = len(rows)
    inverse = [[ctx.zero] * size for _ in range(size)]
    for j in range(size):
        inverse[j][j] = 1 / rows[j][j]
        for i in range(j + 1, size):
            inverse[i][j] = -ctx.fsum(rows[i][k] * inverse[k][j] for k in range(j, i)) / rows[i][i]
    return inverse


def inverse_of_gram(matrix: list[Row]) -> list[Row]:
    """The inverse of a symmetric positive matrix, by Cholesky on its scaled form."""
    size = len(matrix)
    if any(matrix[k][k] <= 0 for k in range(size)):
        raise SingularError
    scale = [1 / ctx.sqrt(matrix[k][k]) for k in range(size)]
    least = ctx.mpf(10) ** (-(ctx.dps // 2))
    factor = [[ctx.zero] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            value = matrix[i][j] * scale[i] * scale[j] - dot(factor[i][:j], factor[j][:j])
            if i == j:
                if value < least:
                    raise SingularError
                factor[i][i] = ctx.sqrt(value)
            else:
                factor[i][j] = value / factor[j][j]
    inner = inverse_of_triangle(factor)
    columns = list(zip(*inner, strict=True))
    return [[dot(columns[i], columns[j]) * scale[i] * scale[j] for j in range(size)] for i in range(size)]


class Reference:
    """The exact fit of the numbers given, for samples of nonzero weight.

    Args:
        samples: x, y and the weights, which are positive.
        degree: of the polynomial.
        basis: of the user's coefficients.
        domain: of the user's coefficients.
        fixed: values of the user's coefficients that are not fitted.
        ridge: factor of the sum of squares of the user's coefficients, the constant exempt.

    Raises:
        SingularError: the data do not determine all coefficients.
    """

    def __init__(
        self,
        samples: Sequence[Sequence[Fraction]],
        degree: int,
        basis: str,
        domain: Domain,
        fixed: Mapping[int, float] | None = None,
        ridge: float = 0.0,
    ) -> None:
        x, y, weight = samples
        lo, hi = min(x), max(x)
        if lo == hi:
            size = max(abs(lo), Fraction(1))
            lo, hi = lo - size, hi + size
        self.n, self.degree, self.basis, self.domain = len(x), degree, basis, domain
        self.ridge, self.fixed = ridge, dict(fixed or {})
        self.internal = lo, hi
        # Digits that are lost: twice by the change of basis, twice by its inverse; and 150 for data and weights.
        ctx.dps = 150
        rows = user_functions(basis, domain, self.internal, degree)
        lost = max(0, *(int(ctx.log10(abs(value) / abs(row[k]) + 1)) for k, row in enumerate(rows) for value in row))
        ctx.dps = self.dps = 150 + 4 * lost
        self.functions = user_functions(basis, domain, self.internal, degree)  # [k][j]: P_k in T_j
        inverse = inverse_of_triangle(self.functions)  # T_j in P_k
        self.to_user = [list(column) for column in zip(*inverse, strict=True)]  # c_user[k] = to_user[k].c
        self.x, self.y, self.weight = (list(map(exactly, values)) for values in (x, y, weight))
        self._slope = 2 / exactly(hi - lo)
        self._centre = exactly(lo + hi) / 2
        self._solve()

    def row(self, x: Number) -> Row:
        """T_k at x."""
        t = (x - self._centre) * self._slope
        values = [ctx.one, t]
        for _ in range(self.degree - 1):
            values.append(2 * t * values[-1] - values[-2])
        return values[: self.degree + 1]

    def row_of_slopes(self, x: Number) -> Row:
        """dT_k/dx at x: k U_{k-1}."""
        t = (x - self._centre) * self._slope
        second = [ctx.one, 2 * t]
        for _ in range(self.degree - 1):
            second.append(2 * t * second[-1] - second[-2])
        return [ctx.zero, *(self._slope * k * second[k - 1] for k in range(1, self.degree + 1))]

    def _solve(self) -> None:
        p = self.degree + 1
        free = [k for k in range(p) if k not in self.fixed]
        self.rows = [self.row(x) for x in self.x]
        weighted = [[w * value for value in row] for w, row in zip(self.weight, self.rows, strict=True)]
        columns, heavy = list(zip(*self.rows, strict=True)), list(zip(*weighted, strict=True))
        self.gram = [[dot(columns[i], heavy[j]) for j in range(p)] for i in range(p)]
        moments = [dot(heavy[j], self.y) for j in range(p)]
        start = [ctx.zero] * p
        for k, value in self.fixed.items():
            start = [a + exactly(value) * b for a, b in zip(start, self.functions[k], strict=True)]
        rest = [b - dot(row, start) for b, row in zip(moments, self.gram, strict=True)]
        free_rows = [self.functions[k] for k in free]
        by_gram = [[dot(row, column) for column in self.gram] for row in free_rows]  # gram is symmetric
        inner = [[dot(a, b) for b in free_rows] for a in by_gram]
        for i, k in enumerate(free):
            if k:
                inner[i][i] += exactly(self.ridge)
        inverse = inverse_of_gram(inner) if free else []
        # C = B (B.T G B + ridge)^-1 B.T in internal terms
        half = [[dot(column, values) for values in zip(*free_rows, strict=True)] for column in inverse]
        self.inverse = [
            [ctx.fsum(free_rows[i][a] * half[i][b] for i in range(len(free))) for b in range(p)] for a in range(p)
        ]
        self.coef = [s + dot(row, rest) for s, row in zip(start, self.inverse, strict=True)]
        self.user_coef = [dot(row, self.coef) for row in self.to_user]
        for k, value in self.fixed.items():
            self.user_coef[k] = exactly(value)
        self.residuals = [y - dot(self.coef, row) for y, row in zip(self.y, self.rows, strict=True)]
        self.rss = ctx.fsum(w * r * r for w, r in zip(self.weight, self.residuals, strict=True))
        self.cofactors = self.inverse
        n_free = ctx.mpf(len(free))
        if self.ridge and free:
            by = [[dot(row, column) for column in zip(*self.gram, strict=True)] for row in self.inverse]
            n_free = ctx.fsum(by[k][k] for k in range(p))
            self.cofactors = [[dot(row, column) for column in self.inverse] for row in by]
        self.freedom = self.n - n_free
        self.free = free
        # Influence of each sample, and the derivative of its row.
        self.influence = [[dot(row, v) for row in self.inverse] for v in self.rows]
        slopes = [self.row_of_slopes(x) for x in self.x]
        self.slopes = [dot(self.coef, row) for row in slopes]
        self.influence_of_slope = [[dot(row, v) for row in self.inverse] for v in slopes]

    # --- values ---

    def value(self, x: Number) -> Number:
        """The polynomial at x."""
        return dot(self.coef, self.row(x))

    def variance(self, row: Row) -> Number:
        """Of row.c, for residuals of variance one."""
        return ctx.fsum(a * dot(inner, row) for a, inner in zip(row, self.cofactors, strict=True))

    @cached_property
    def total(self) -> Number:
        """The sum of squares that R^2 relates to: about the mean, or about the fixed constant."""
        about = exactly(self.fixed[0]) if 0 in self.fixed else dot(self.weight, self.y) / ctx.fsum(self.weight)
        return ctx.fsum(w * (y - about) ** 2 for w, y in zip(self.weight, self.y, strict=True))

    # --- what errors are allowed ---

    @cached_property
    def _seen(self) -> list[Number]:
        """|y_n| + |p'(x_n) x_n|: what a relative change of the data changes in a residual."""
        return [abs(y) + abs(s * x) for y, s, x in zip(self.y, self.slopes, self.x, strict=True)]

    def sensitivity(self, row: Sequence[Number]) -> Number:
        """S(row), see the module."""
        total = ctx.zero
        samples = zip(
            self.weight, self.influence, self.influence_of_slope, self._seen, self.residuals, self.x, strict=True
        )
        for w, h, h_slope, seen, r, x in samples:
            total += w * (abs(dot(row, h)) * (seen + abs(r)) + abs(dot(row, h_slope) * x * r))
        if self.ridge:
            by = [dot(column, row) for column in self.inverse]
            for k in range(1, self.degree + 1):
                total += exactly(self.ridge) * abs(dot(by, self.to_user[k]) * self.user_coef[k])
        return total * EPS

    @cached_property
    def largest(self) -> Number:
        """Of the internal coefficients."""
        return max(map(abs, self.coef))

    def allowed(self, row: Sequence[Number], *, is_extended: bool) -> Number:
        """The error that row.c may have beside its own rounding."""
        size = self.largest * ctx.fsum(map(abs, row))
        by_data = DATA_ROUNDINGS * self.sensitivity(row) + ctx.ldexp(size, -98)
        return min(by_data, ctx.ldexp(size, -66)) if is_extended else by_data

    @cached_property
    def error_of_rss(self) -> Number:
        """Of rounding its n terms, and of residuals that change by what the data allow; n + 8 roundings."""
        total = ctx.zero
        for w, r, seen in zip(self.weight, self.residuals, self._seen, strict=True):
            total += w * (2 * abs(r) * seen + 8 * EPS * seen**2)
        return DATA_ROUNDINGS * EPS * total + (2 * self.n + 8) * EPS * self.rss

    @cached_property
    def condition(self) -> float:
        """Of the columns sqrt(w) T_k, restricted to the free directions, each scaled to length one.

        With ridge, of these and the rows of the penalty.
        """
        rows = self.functions if not self.fixed else [self.functions[k] for k in self.free]
        directions = self._orthonormal(rows) if self.fixed or self.ridge else self._unit()
        roots = map(ctx.sqrt, self.weight)
        table = [[s * dot(v, d) for d in directions] for s, v in zip(roots, self.rows, strict=True)]
        if self.ridge:
            root = ctx.sqrt(exactly(self.ridge))
            table += [[root * dot(row, d) for d in directions] for row in self.to_user[1:]]
        return scaled_condition(table)

    def _unit(self) -> list[Row]:
        return [[ctx.one if i == j else ctx.zero for j in range(self.degree + 1)] for i in range(self.degree + 1)]

    @staticmethod
    def _orthonormal(rows: list[Row]) -> list[Row]:
        """Gram and Schmidt."""
        done: list[Row] = []
        for row in rows:
            for other in done:
                part = dot(row, other)
                row = [a - part * b for a, b in zip(row, other, strict=True)]  # noqa: PLW2901
            length = ctx.norm(row)
            done.append([a / length for a in row])
        return done

    def error_of_std(self, row: Row, variance: Number, *, is_known: bool, is_value: bool) -> tuple[Number, Number]:
        """The standard error of row.c and the error that it may have.

        Args:
            row: of a coefficient, or with is_value of the polynomial at some x.
            variance: of the residuals.
            is_known: whether the variance is given.
            is_value: then terms of row.c may cancel: near a point that fixed coefficients pin, the error is that of
                the largest internal standard error.

        Singular values are good to (degree + 1) eps times the condition (from a QR factor), or its square up to a
        condition of 1e4 (from the Gram matrix, see `refinement`); sums over the scaled columns grow that once more by
        the condition. To it comes the error of the residual variance, and what the data allow in the cofactor.
        """
        cofactor = self.variance(row)
        if cofactor <= 0:
            return ctx.zero, ctx.zero
        std = ctx.sqrt(variance * cofactor)
        condition = self.condition
        digits = 32.0 * (self.degree + 2) * EPS * (condition**2 if condition < 2e4 else condition)
        by_data = ctx.zero
        for w, h, h_slope, x in zip(self.weight, self.influence, self.influence_of_slope, self.x, strict=True):
            a, b = dot(row, h), dot(row, h_slope)
            by_data += w * (2 * abs(a * b * x) + a * a)
        relative = digits * condition + DATA_ROUNDINGS * EPS * by_data / cofactor / 2
        if self.ridge:  # C G C is the difference of C and its penalised part
            inverse = ctx.fsum(a * dot(inner, row) for a, inner in zip(row, self.inverse, strict=True))
            relative += digits * inverse / cofactor
        if is_value:
            largest = max(ctx.sqrt(abs(self.cofactors[k][k])) for k in range(self.degree + 1))
            relative += digits * largest * ctx.fsum(map(abs, row)) / ctx.sqrt(cofactor)
        if not is_known:
            high = (self.rss + self.error_of_rss) / self.freedom
            if not high:
                return ctx.zero, ctx.zero
            relative += (ctx.sqrt(high) - ctx.sqrt(variance)) / ctx.sqrt(high)
            std_high = ctx.sqrt(high * cofactor)
        else:
            std_high = std
        return std, std_high * (relative + 8 * EPS)


def scaled_condition(table: list[Row]) -> float:
    """Condition of a matrix with columns scaled to length one."""
    lengths = [ctx.norm(column) for column in zip(*table, strict=True)]
    if not lengths:
        return 1.0
    if not all(lengths):
        return math.inf
    scaled = np.array([[float(a / b) for a, b in zip(row, lengths, strict=True)] for row in table])
    values = np.linalg.svd(scaled, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0.0 else math.inf
