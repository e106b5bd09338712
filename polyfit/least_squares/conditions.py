"""Ridge and fixed coefficients of a fit, in terms of its internal coefficients."""

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
from polyfit.least_squares.estimate import in_basis


class Conditions(NamedTuple):
    """What is asked of the coefficients besides fitting the data, in terms of those on Data.domain.

    Attributes:
        penalty: added to the Gram matrix, (p, p), or None.
        penalty_root: with ``root.T @ root`` the penalty.
        fixed: coefficients that keep a value, or None.
        missing: what the values of the fixed coefficients lack, for coefficients high and low: (f,).
    """

    penalty: Array | None = None
    penalty_root: Array | None = None
    fixed: algebra.Fixed | None = None
    missing: Callable[[Array, Array], Array] | None = None

    @property
    def free(self) -> Array | None:
        """Orthonormal columns of what may change."""
        return None if self.fixed is None else self.fixed.free


def fixed_values(fixed: Mapping[int, float]) -> dict[int, float]:
    """Values of coefficients by their index, as plain numbers."""
    try:
        return {operator.index(k): float(value) for k, value in fixed.items()}
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            f"fixed={fixed!r} does not map whole numbers to numbers; pass the values of coefficients by their index,"
            " {0: 0.0} for no constant"
        ) from None


def make_conditions(
    degree: int, own: Interval, basis: str, domain: Interval, ridge: float, values: dict[int, float]
) -> Conditions:
    """Penalty and fixed coefficients of `basis` and `domain`, for Chebyshev coefficients on `own`."""
    if not ridge and not values:
        return Conditions()
    change = bases.conversion_matrix("chebyshev", basis, own, domain, degree)
    matrix = np.eye(degree + 1) if change is None else change.numpy()
    penalty = root = None
    if ridge:
        root = math.sqrt(ridge) * matrix[1:]
        penalty = root.T @ root
    if not values:
        return Conditions(penalty, root)
    index, wanted = list(values), np.array(list(values.values()))

    def missing(high: Array, low: Array) -> Array:
        return wanted - in_basis(high, low, basis, own, domain).numpy()[index]

    return Conditions(penalty, root, algebra.fixed(matrix[index]), missing)
