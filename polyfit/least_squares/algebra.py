r"""The small algebra of least squares: (degree + 1) x (degree + 1) matrices, and no data.

For the Gram matrix ``G = V.T W V`` of a fit, everything follows from a matrix B of directions with ::

    B B.T = the pseudo-inverse of (G + penalty)  on the coefficients that are free

the correction ``B (B.T g)`` that answers to the moments g of the residuals, and the covariance ``s**2 B B.T``.
Columns are scaled to one length before anything is said about rank and condition, as numpy.polyfit does.

All arrays are numpy's, in float64.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# In place of the length of a column of zeros.
_TINY = 1e-150


class Directions(NamedTuple):
    """What the data determine.

    Attributes:
        basis: B, (degree + 1, rank).
        null: orthonormal directions that the data leave open, (degree + 1, free - rank); None where there is none.
        condition: of the scaled columns: the largest singular value over the smallest.
    """

    basis: Array
    null: Array | None
    condition: float

    @property
    def rank(self) -> int:
        """Coefficients, or combinations of them, that are determined."""
        return self.basis.shape[1]

    def correction(self, moments: Array) -> Array:
        """The change of coefficients (degree + 1,) that takes the moments (degree + 1,) of the residuals to zero."""
        return self.basis @ (moments @ self.basis)

    def without_open(self, coef: Array) -> Array:
        """What coefficients (degree + 1,) have along the open directions: to be taken away."""
        return np.zeros_like(coef) if self.null is None else self.null @ (coef @ self.null)


@functools.lru_cache(maxsize=64)
def _products(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    index = np.arange(size)
    return index[:, None] + index, np.abs(index[:, None] - index)


def gram(of_x: Array, degree: int) -> Array:
    """The Gram matrix (..., degree + 1, degree + 1) from moments sum(w T_k), k = 0 .. 2 degree.

    By T_i T_j = (T_{i+j} + T_{|i-j|}) / 2.
    """
    sums, differences = _products(degree + 1)
    both = of_x[..., sums]
    both += of_x[..., differences]
    both *= 0.5
    return both


def from_gram(gram: Array, penalty: Array | None = None, free: Array | None = None) -> Directions:
    """Directions by the eigenvalues of a Gram matrix, which has squares of singular values.

    Args:
        gram: G, (p, p).
        penalty: what is added to it, (p, p).
        free: orthonormal columns that span what may change, (p, q); None for everything.
    """
    matrix = gram if penalty is None else gram + penalty
    if free is not None:
        matrix = free.T @ matrix @ free
    if not len(matrix):
        return _nothing_free(len(gram))
    scale = 1.0 / np.sqrt(np.maximum(matrix.diagonal(), _TINY**2))
    values, vectors = np.linalg.eigh(matrix * scale * scale[:, None])
    # A Gram matrix is known to a rounding or so of its entries.
    largest, smallest = float(values[-1]), float(values[0])
    least = 8.0 * len(values) * _EPS * largest
    cut = 0 if smallest > least else int((values <= least).sum())
    condition = math.sqrt(largest / smallest) if smallest > 0.0 else math.inf
    return _directions(vectors, np.sqrt(values[cut:]), cut, scale, free, condition)


# Up to so many systems are solved one by one; more go together, which takes less for each.
_FEW_SYSTEMS = 16


def corrections(grams: Array, moments: Array) -> Array:
    """What `from_gram` and `Directions.correction` give for many systems (S, p, p) with moments (S, p)."""
    if len(grams) <= _FEW_SYSTEMS:
        return np.stack([from_gram(gram).correction(b) for gram, b in zip(grams, moments, strict=True)])
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(grams, axis1=1, axis2=2), _TINY**2))
    values, vectors = np.linalg.eigh(grams * scale[:, None, :] * scale[:, :, None])
    is_known = values > 8.0 * values.shape[1] * _EPS * values[:, -1:]
    along = (np.swapaxes(vectors, 1, 2) @ (scale * moments)[..., None])[..., 0]
    found = scale * (vectors @ np.where(is_known, along / np.where(is_known, values, 1.0), 0.0)[..., None])[..., 0]
    for i in np.flatnonzero(~is_known.all(1)):  # of all solutions the one with the least coefficients
        found[i] = from_gram(grams[i]).correction(moments[i])
    return found


def from_triangle(
    triangle: Array, n_samples: int, penalty_root: Array | None = None, free: Array | None = None
) -> Directions:
    """Directions by the singular values of a triangular factor R with R.T R = G.

    Args:
        triangle: R, (p, p).
        n_samples: that it comes from; their number decides what counts as zero, as in numpy.linalg.matrix_rank.
        penalty_root: rows below R, whose product with their transpose is the penalty, (m, p).
        free: as in `from_gram`.
    """
    rows = triangle if penalty_root is None else np.concatenate((triangle, penalty_root))
    if free is not None:
        rows = rows @ free
    if not rows.shape[1]:
        return _nothing_free(len(triangle))
    scale = 1.0 / np.maximum(np.linalg.norm(rows, axis=0), _TINY)
    _, singular, right = np.linalg.svd(rows * scale, full_matrices=False)
    largest, smallest = float(singular[0]), float(singular[-1])
    cut = int((singular <= max(n_samples, len(singular)) * _EPS * largest).sum())
    condition = largest / smallest if smallest > 0.0 else math.inf
    # Smallest first, as eigenvalues come.
    return _directions(right[::-1].T, singular[::-1][cut:], cut, scale, free, condition)


def _nothing_free(size: int) -> Directions:
    return Directions(np.zeros((size, 0)), None, 1.0)


def _directions(
    vectors: Array, singular: Array, cut: int, scale: Array, free: Array | None, condition: float
) -> Directions:
    scaled = vectors * scale[:, None]
    if free is not None:
        scaled = free @ scaled
    if not cut:
        return Directions(scaled / singular, None, condition)
    basis = scaled[:, cut:] / singular
    null = np.linalg.qr(scaled[:, :cut])[0]
    # Of all solutions the one with the least coefficients: nothing along what is open.
    return Directions(basis - null @ (null.T @ basis), null, condition)


class Fixed(NamedTuple):
    """Linear conditions on coefficients, ``rows @ c = values``.

    Attributes:
        free: orthonormal columns of what they leave free, (p, p - f).
        to_coef: (p, f), a right inverse of the rows (f, p).
    """

    free: Array
    to_coef: Array


def fixed(rows: Array) -> Fixed:
    """The conditions of independent rows (f, p)."""
    norms = np.linalg.norm(rows, axis=1)
    full, triangle = np.linalg.qr((rows / norms[:, None]).T, mode="complete")
    count = len(rows)
    return Fixed(full[:, count:], full[:, :count] @ np.linalg.solve(triangle[:count].T, np.diag(1.0 / norms)))
