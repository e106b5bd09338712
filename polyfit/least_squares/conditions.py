"""What a fit demands of its coefficients: ridge and fixed values, in terms of the internal coefficients.

Users state both for the coefficients of their basis and domain. The solution is computed for Chebyshev polynomials on
the internal domain. With M the matrix that takes internal coefficients to those of the user, ridge is the penalty
``ridge M1.T M1``, M1 being M without its first row, and fixed coefficients are linear constraints with rows of M.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from polyfit import bases
from polyfit.bases import Interval
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.estimate import convert_internal


class Conditions(NamedTuple):
    """Penalty and fixed coefficients of a fit, for its internal coefficients.

    Attributes:
        penalty: a matrix that is added to the Gram matrix, (p, p), or None.
        penalty_root: (m, p); ``penalty_root.T @ penalty_root`` is the penalty.
        constraints: those of the fixed coefficients, or None.
        errors: a function of coefficients, high and low, (p,) each: the fixed values less the present ones, (f,).
    """

    penalty: Array | None = None
    penalty_root: Array | None = None
    constraints: algebra.LinearConstraints | None = None
    errors: Callable[[Array, Array], Array] | None = None

    @property
    def free(self) -> Array | None:
        """Orthonormal columns that span the changes that are allowed; None for all."""
        return None if self.constraints is None else self.constraints.free


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
    degree: int, internal_domain: Interval, basis: str, domain: Interval | None, ridge: float, fixed: dict[int, float]
) -> Conditions:
    """The conditions for Chebyshev coefficients on the internal domain.

    Args:
        degree: of the polynomial.
        internal_domain: the domain of the internal coefficients.
        basis: the basis in which ridge and fixed are meant.
        domain: its domain, or None for t = x.
        ridge: the factor of the squared coefficients; the constant is exempt.
        fixed: values of fixed coefficients by their index.
    """
    if not ridge and not fixed:
        return Conditions()
    change = bases.conversion_matrix("chebyshev", basis, internal_domain, domain, degree)
    matrix = np.eye(degree + 1) if change is None else change.numpy()
    penalty = root = None
    if ridge:
        root = math.sqrt(ridge) * matrix[1:]
        penalty = root.T @ root
    if not fixed:
        return Conditions(penalty, root)
    index, values = list(fixed), np.array(list(fixed.values()))

    def errors(high: Array, low: Array) -> Array:
        return values - convert_internal(high, low, internal_domain, basis, domain).numpy()[index]

    return Conditions(penalty, root, algebra.linear_constraints(matrix[index]), errors)
