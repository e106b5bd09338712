r"""The algebra of least squares that needs no data: matrices of size (degree + 1) x (degree + 1), in numpy and float64.

A fit has the Gram matrix ``G = V.T W V``: V holds the basis functions of the samples, W the weights. A matrix B with ::

    B B.T = the pseudo-inverse of G

gives the rest: the correction ``B (B.T g)`` for the moments g = V.T W r of the residuals r, and the covariance
``s**2 B B.T``. Columns of V are scaled to length one before rank and condition are determined, as numpy.polyfit does.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# It replaces the length of a column of zeros. Its square is a normal number.
_TINY = 1e-150
# A Gram matrix of p scaled columns is known to a spectral norm of this many p eps: |E|_2 <= p max |E_ij|. Measured
# against extended precision: at most 5.2 (n from 10 to 8192, degrees 1 to 20; even, random, clustered x; weights).
_GRAM_ROUNDINGS = 8.0


def to_array(rows: Tensor) -> Array:
    """A tensor as float64 on the CPU; a tensor that is both already shares its memory with the result."""
    if rows.dtype != torch.float64 or not rows.is_cpu:
        rows = rows.double().cpu()
    return rows.numpy()


def row_lengths(rows: Array) -> Array:
    """The lengths of rows (m, n), also where squares overflow or underflow."""
    largest = np.abs(rows).max(1, initial=0.0)
    # A power of two, so that no digit changes; 1 for rows of zeros.
    scale = np.ldexp(1.0, np.clip(np.frexp(largest)[1], -1000, 1000))
    return np.linalg.norm(rows / scale[:, None], axis=1) * scale


# --- moments of Chebyshev polynomials: T_i T_j = (T_{i+j} + T_{|i-j|}) / 2 ---


def moments_of_products(low: Array, high: Array) -> Array:
    """The moments sum(w T_k), k = 0 .. 2 degree.

    Args:
        low: sum(w T_k), k = 0 .. degree.
        high: sum(w T_degree T_k), k = 0 .. degree: half the sum of the moments degree + k and degree - k.
    """
    return np.concatenate((low, 2.0 * high[1:] - low[-2::-1]))


@functools.lru_cache(maxsize=64)
def _sums_and_differences(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    index = np.arange(size)
    return index[:, None] + index, np.abs(index[:, None] - index)


def gram(of_x: Array, degree: int) -> Array:
    """The Gram matrix sum(w T_i T_j), (..., degree + 1, degree + 1), from the moments sum(w T_k), k = 0 .. 2 degree."""
    sums, differences = _sums_and_differences(degree + 1)
    both = of_x.take(sums, -1)
    both += of_x.take(differences, -1)
    both *= 0.5
    return both


# --- the pseudo-inverse of a Gram matrix ---


class Directions(NamedTuple):
    """The directions in the space of coefficients that the data determine, and those that they do not.

    Attributes:
        root: B, (degree + 1, rank); ``B B.T`` is the pseudo-inverse.
        undetermined: orthonormal columns, (degree + 1, free - rank): the data do not change along them. None where the
            data determine everything.
        condition: the largest singular value of the scaled columns over the smallest.
    """

    root: Array
    undetermined: Array | None
    condition: float

    @property
    def rank(self) -> int:
        """The number of coefficients, or of combinations of them, that the data determine."""
        return self.root.shape[1]

    def correction(self, moments: Array) -> Array:
        """The change of coefficients (degree + 1,) that makes the moments (degree + 1,) of the residuals zero."""
        return self.root @ (moments @ self.root)

    def undetermined_part(self, coef: Array) -> Array:
        """The part of coefficients (degree + 1,) along the undetermined directions; zero for the minimum norm."""
        return np.zeros_like(coef) if self.undetermined is None else self.undetermined @ (coef @ self.undetermined)


def from_gram(gram: Array) -> Directions:
    """Directions by the eigenvalues of a Gram matrix G, (p, p), which are squares of singular values."""
    if not len(gram):
        return _NOTHING_FREE
    scale = 1.0 / np.sqrt(np.maximum(gram.diagonal(), _TINY**2))
    scaled = gram * scale
    scaled *= scale[:, None]
    values, vectors = np.linalg.eigh(scaled)
    largest, smallest = float(values[-1]), float(values[0])
    rounding = _GRAM_ROUNDINGS * len(values) * _EPS * largest
    n_undetermined = 0 if smallest > rounding else int((values <= rounding).sum())
    condition = math.sqrt(largest / smallest) if smallest > 0.0 else math.inf
    if n_undetermined:
        scale = np.where(gram.diagonal() == 0.0, 1.0, scale)
    return _directions(vectors, np.sqrt(values[n_undetermined:]), n_undetermined, scale, condition)


def root_of_gram(gram: Array) -> Array:
    """A matrix R, (p, p), with R.T R = G, by eigenvalues; those that are negative by rounding count as zero."""
    lengths = np.sqrt(np.maximum(gram.diagonal(), _TINY**2))
    values, vectors = np.linalg.eigh(gram / lengths / lengths[:, None])
    return (vectors * np.sqrt(np.maximum(values, 0.0))).T * lengths


class EigenSystem(NamedTuple):
    """Gram matrices (S, p, p), diagonal in other coordinates: ``G = to.T @ diag(values) @ to``.

    Attributes:
        values: eigenvalues of the matrices with columns scaled to length one, ascending, (S, p).
        is_determined: which of them are not zero but for rounding, (S, p).
        to: takes coefficients to coordinates, (S, p, p).
        back: its inverse, (S, p, p).
    """

    values: Array
    is_determined: NDArray[np.bool_]
    to: Array
    back: Array


def eigensystem(grams: Array) -> EigenSystem:
    """Gram matrices (S, p, p) in terms of the eigenvectors of these matrices with scaled columns."""
    squares = np.diagonal(grams, axis1=1, axis2=2)
    lengths = np.where(squares == 0.0, 1.0, np.sqrt(np.maximum(squares, _TINY**2)))
    scale = 1.0 / lengths
    values, vectors = np.linalg.eigh(grams * scale[:, None, :] * scale[:, :, None])
    is_determined = values > _GRAM_ROUNDINGS * values.shape[1] * _EPS * values[:, -1:]
    return EigenSystem(
        values, is_determined, np.swapaxes(vectors, 1, 2) * lengths[:, None, :], scale[:, :, None] * vectors
    )


def corrections(grams: Array, moments: Array, system: EigenSystem) -> Array:
    """The corrections of `from_gram` for systems (S, p, p) with moments (S, p)."""
    is_determined = system.is_determined
    along = (np.swapaxes(system.back, 1, 2) @ moments[..., None])[..., 0]
    along = np.where(is_determined, along / np.where(is_determined, system.values, 1.0), 0.0)
    solutions = (system.back @ along[..., None])[..., 0]
    if not is_determined.all():
        for i in np.flatnonzero(~is_determined.all(1)):  # the minimum-norm solution
            solutions[i] = from_gram(grams[i]).correction(moments[i])
    return solutions


def from_triangle(rows: Array, n_samples: int) -> Directions:
    """Directions by the singular values of a matrix R with R.T R = G.

    Args:
        rows: R, (m, p) with m at least p: a triangular factor, or one times columns.
        n_samples: the number of rows that R comes from. Singular values below max(n_samples, p) eps of the largest
            count as zero, as in numpy.linalg.matrix_rank.
    """
    if not rows.shape[1]:
        return _NOTHING_FREE
    lengths = np.linalg.norm(rows, axis=0)
    scale = 1.0 / np.maximum(lengths, _TINY)
    _, singular, right = np.linalg.svd(rows * scale, full_matrices=False)
    largest, smallest = float(singular[0]), float(singular[-1])
    n_undetermined = int((singular <= max(n_samples, len(singular)) * _EPS * largest).sum())
    condition = largest / smallest if smallest > 0.0 else math.inf
    if n_undetermined:
        scale = np.where(lengths == 0.0, 1.0, scale)
    # Smallest first, the order of eigenvalues.
    return _directions(right[::-1].T, singular[::-1][n_undetermined:], n_undetermined, scale, condition)


# Where all coefficients are fixed.
_NOTHING_FREE = Directions(np.zeros((0, 0)), None, 1.0)


def _directions(vectors: Array, singular: Array, n_undetermined: int, scale: Array, condition: float) -> Directions:
    """Directions of the unscaled problem.

    Args:
        vectors: right singular vectors of the scaled columns, smallest singular value first, (q, q).
        singular: the singular values that are not zero, (q - n_undetermined,).
        n_undetermined: how many of the first vectors are undetermined.
        scale: the factor of each column, (q,); 1 for a column of zeros. An undetermined vector may have entries there
            and elsewhere, and a factor of 1 / _TINY would leave nothing of the others.
        condition: of the scaled columns.
    """
    unscaled = vectors * scale[:, None]
    if not n_undetermined:
        return Directions(unscaled / singular, None, condition)
    root = unscaled[:, n_undetermined:] / singular
    undetermined = np.linalg.qr(unscaled[:, :n_undetermined])[0]
    # The minimum-norm solution has no part along the undetermined directions.
    return Directions(root - undetermined @ (undetermined.T @ root), undetermined, condition)


# --- a penalty ---


def penalised_spread(root: Array, gram: Array) -> tuple[Array, float]:
    """A root of the covariance for variance one, (p, r), and the effective number of coefficients, under a penalty P.

    With ``B B.T`` the inverse of G + P, the solution ``B B.T V.T W y`` has the covariance ``B (B.T G B) B.T`` for
    weights 1/sigma**2. The trace of the inner matrix is that of the hat matrix: the effective number of coefficients.

    Args:
        root: B, (p, p).
        gram: G, (p, p).
    """
    values, vectors = np.linalg.eigh(root.T @ gram @ root)
    return root @ (vectors * np.sqrt(np.maximum(values, 0.0))), float(values.sum())
