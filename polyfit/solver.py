r"""The small algebra of least squares: (degree + 1) x (degree + 1) matrices, and no data.

For the Gram matrix ``G = V.T W V`` of a fit, everything follows from a matrix B of directions with ::

    B B.T = the pseudo-inverse of (G + penalty)  on the coefficients that are free

the correction ``B (B.T g)`` that answers to the moments g of the residuals, and the covariance ``s**2 B B.T``.
Columns are scaled to one length before anything is said about rank and condition, as numpy.polyfit does.

All tensors are float64 on the CPU.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps


class Directions(NamedTuple):
    """What the data determine.

    Attributes:
        basis: B, (degree + 1, rank).
        null: orthonormal directions that the data leave open, (degree + 1, free - rank); None where there is none.
        condition: of the scaled columns: the largest singular value over the smallest.
    """

    basis: Tensor
    null: Tensor | None
    condition: float

    @property
    def rank(self) -> int:
        """Coefficients, or combinations of them, that are determined."""
        return self.basis.shape[1]

    def correction(self, moments: Tensor) -> Tensor:
        """The change of coefficients (degree + 1,) that takes the moments (degree + 1,) of the residuals to zero."""
        return torch.mv(self.basis, torch.mv(self.basis.t(), moments))


@functools.lru_cache(maxsize=64)
def _products(size: int) -> tuple[Tensor, Tensor]:
    index = torch.arange(size, device="cpu")
    return index[:, None] + index, (index[:, None] - index).abs()


def gram(of_x: Tensor, degree: int) -> Tensor:
    """The Gram matrix (..., degree + 1, degree + 1) from moments sum(w T_k), k = 0 .. 2 degree.

    By T_i T_j = (T_{i+j} + T_{|i-j|}) / 2.
    """
    sums, differences = _products(degree + 1)
    return 0.5 * (of_x[..., sums] + of_x[..., differences])


def from_gram(gram: Tensor, penalty: Tensor | None = None, free: Tensor | None = None) -> Directions:
    """Directions by the eigenvalues of a Gram matrix, which has squares of singular values.

    Args:
        gram: G, (p, p).
        penalty: what is added to it, (p, p).
        free: orthonormal columns that span what may change, (p, q); None for everything.
    """
    matrix = gram if penalty is None else gram + penalty
    if free is not None:
        matrix = free.t() @ matrix @ free
    scale = _scale(matrix.diagonal().sqrt())
    values, vectors = torch.linalg.eigh(matrix * scale * scale.unsqueeze(1))
    n_values = values.tolist()
    largest = max(n_values[-1], 0.0) if n_values else 0.0
    # A Gram matrix is known to a rounding or so of its entries.
    rank = sum(value > 8.0 * len(n_values) * _EPS * largest for value in n_values)
    cut = len(n_values) - rank
    singular = values[cut:].sqrt()
    condition = math.sqrt(largest / n_values[0]) if n_values and n_values[0] > 0.0 else math.inf
    return _directions(vectors, singular, cut, scale, free, condition)


def from_triangle(
    triangle: Tensor, n_samples: int, penalty_root: Tensor | None = None, free: Tensor | None = None
) -> Directions:
    """Directions by the singular values of a triangular factor R with R.T R = G.

    Args:
        triangle: R, (p, p).
        n_samples: that it comes from; their number decides what counts as zero, as in numpy.linalg.matrix_rank.
        penalty_root: rows below R, whose product with their transpose is the penalty, (m, p).
        free: as in `from_gram`.
    """
    rows = triangle if penalty_root is None else torch.cat((triangle, penalty_root))
    if free is not None:
        rows = rows @ free
    scale = _scale(torch.linalg.vector_norm(rows, dim=0))
    _, singular, right = torch.linalg.svd(rows * scale, full_matrices=False)
    values = singular.tolist()
    largest = values[0] if values else 0.0
    rank = sum(value > max(n_samples, len(values)) * _EPS * largest for value in values)
    condition = largest / values[-1] if values and values[-1] > 0.0 else math.inf
    vectors = right.t().flip(1)  # smallest first, as eigenvalues come
    return _directions(vectors, singular[:rank].flip(0), len(values) - rank, scale, free, condition)


def _scale(norms: Tensor) -> Tensor:
    """What brings columns to length one; columns of zeros stay."""
    return torch.where(norms > 0.0, norms, 1.0).reciprocal_()


def _directions(
    vectors: Tensor, singular: Tensor, cut: int, scale: Tensor, free: Tensor | None, condition: float
) -> Directions:
    scaled = vectors * scale.unsqueeze(1)
    if free is not None:
        scaled = free @ scaled
    basis = scaled[:, cut:] / singular
    if not cut:
        return Directions(basis, None, condition)
    null = torch.linalg.qr(scaled[:, :cut]).Q
    # Of all solutions the one with the least coefficients: nothing along what is open.
    return Directions(basis - null @ (null.t() @ basis), null, condition)


class Fixed(NamedTuple):
    """Linear conditions on coefficients, ``rows @ c = values``.

    Attributes:
        rows: (f, p).
        values: (f,).
        free: orthonormal columns of what they leave free, (p, p - f).
        to_coef: (p, f), a right inverse of rows.
    """

    rows: Tensor
    values: Tensor
    free: Tensor
    to_coef: Tensor


def fixed(rows: Tensor, values: Tensor) -> Fixed:
    """The conditions ``rows @ c = values`` for independent rows (f, p)."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    full, triangle = torch.linalg.qr((rows / norms.unsqueeze(1)).t(), mode="complete")
    count = rows.shape[0]
    inverse = torch.linalg.solve_triangular(triangle[:count].t(), torch.diag(1.0 / norms), upper=False)
    return Fixed(rows, values, full[:, count:], full[:, :count] @ inverse)
