r"""Conditions on the coefficients of a fit: ridge and fixed values, in terms of the internal coefficients.

Users state both for the coefficients b of their basis and domain. The solution is computed for the coefficients c of
Chebyshev polynomials on the internal domain, with b = M c. M has singular values over many orders of magnitude where
the domain lies far from the data. So the conditions are solved in decimal numbers, with M in rational numbers::

    c = start + free @ z,        the penalty is  ridge |offset + slope @ z|**2

The columns of `free` are orthonormal. They span the columns of the inverse of M that belong to free coefficients: the
functions that may be changed. `start` satisfies the conditions and is orthogonal to them. The rows of `slope` are those
of M @ free for the coefficients that ridge shrinks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from polyfit import bases
from polyfit.bases import Interval
from polyfit.least_squares import decimals
from polyfit.least_squares.decimals import Decimals

# Digits beyond those that cancel: more than two float64 numbers hold.
_SPARE_DIGITS = 50


@dataclass(frozen=True, eq=False)
class Conditions:
    """Ridge and fixed coefficients; see the module for the symbols. All arrays hold decimal numbers.

    Attributes:
        start: (p,).
        free: (p, q); None for the unit matrix, where no coefficient is fixed.
        ridge: the factor of the penalty; 0 for none.
        slope: (m, q); m is 0 without ridge.
        offset: (m,).
        to_user: M, (p, p).
        precision: the number of digits with which to compute.
    """

    start: Decimals
    free: Decimals | None
    ridge: Decimal
    slope: Decimals
    offset: Decimals
    to_user: Decimals
    precision: int

    @property
    def size(self) -> Decimal:
        """The largest magnitude of a coefficient of `start`."""
        return max(map(abs, self.start))

    def in_unit(self, unit: float) -> Conditions:
        """The same for coefficients that are measured in a unit, a power of two."""
        if unit == 1.0:
            return self
        with decimals.digits(self.precision):
            return replace(self, start=self.start / Decimal(unit), offset=self.offset / Decimal(unit))

    @property
    def n_free(self) -> int:
        """The number q of free coefficients."""
        return len(self.start) if self.free is None else self.free.shape[1]

    def expand(self, z: Decimals) -> Decimals:
        """``free @ z``."""
        return z if self.free is None else decimals.product(self.free, z)

    def reduce(self, values: Decimals) -> Decimals:
        """``free.T @ values``."""
        return values if self.free is None else decimals.product(self.free.T, values)


def checked_fixed(fixed: Mapping[int, float] | None, degree: int) -> dict[int, float]:
    """The values of fixed coefficients by their index, in ascending order, as plain numbers."""
    try:
        values = {} if fixed is None else {operator.index(k): float(value) for k, value in fixed.items()}
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            f"fixed={fixed!r} does not map integers to numbers; pass the values of coefficients by their index, for"
            " example {0: 0.0} for no constant"
        ) from None
    for k, value in values.items():
        if not 0 <= k <= degree:
            raise ValueError(f"fixed has an index {k}; the coefficients of degree {degree} are 0 to {degree}")
        if not math.isfinite(value):
            raise ValueError(f"fixed={{{k}: {value!r}}} is not finite; pass a finite value for the coefficient")
    return dict(sorted(values.items()))


def make_conditions(
    degree: int,
    internal_domain: Interval,
    basis: str,
    domain: Interval | None,
    ridge: float,
    fixed: dict[int, float],
    sigma_unit: float = 1.0,
) -> Conditions | None:
    """The conditions for Chebyshev coefficients on the internal domain; None where there are none.

    Args:
        degree: of the polynomial.
        internal_domain: the domain of the internal coefficients.
        basis: the basis in which ridge and fixed are meant.
        domain: its domain.
        ridge: the factor of the squared coefficients; the constant is exempt.
        fixed: values of fixed coefficients by their index.
        sigma_unit: weights are measured in 1/sigma_unit**2.
    """
    if not ridge and not fixed:
        return None
    there = bases.exact_conversion("chebyshev", basis, internal_domain, domain, degree)
    back = bases.exact_conversion(basis, "chebyshev", domain, internal_domain, degree)
    with decimals.digits(_SPARE_DIGITS):
        # The product of the largest lengths bounds the condition of M, and with it how many digits may cancel.
        lengths = decimals.norms(decimals.from_fractions(there)), decimals.norms(decimals.from_fractions(back).T)
        lost = decimals.orders(max(lengths[0]) * max(lengths[1]))
    precision = _SPARE_DIGITS + 2 * max(lost, 0)
    with decimals.digits(precision):
        to_user, functions = decimals.from_fractions(there), decimals.from_fractions(back)
        index = [k for k in range(degree + 1) if k not in fixed]
        start, free = decimals.zeros(degree + 1), None
        if fixed:
            free = decimals.orthonormal_columns(functions[:, index])
            for k, value in fixed.items():
                start = start + functions[:, k] * Decimal(value)
            for _ in range(2):
                start = start - decimals.product(free, decimals.product(free.T, start))
        rows = to_user[[k for k in index if k] if ridge else []]
        slope = rows if free is None else decimals.product(rows, free)
        offset = decimals.product(rows, start)
        penalty = Decimal(ridge) * Decimal(sigma_unit) ** 2
    return Conditions(start, free, penalty, slope, offset, to_user, precision)
