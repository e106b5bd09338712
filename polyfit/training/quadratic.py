r"""The squared loss of a polynomial as data: a quadratic function of the coefficients.

Two passes over the data give, for every series, the Hessian H and loss and gradient at a center near the minimum. All
that descent does follows from these, at a cost that does not depend on the number of samples.

The internal basis is that of Chebyshev polynomials on the range of the data, where the Hessian is well conditioned:
the range of all series, or that of each where they differ much. Samples at one place have no range: they are an end of
an interval about as wide as the user's domain. The matrix T takes coefficients to the internal basis. With a reference
r and d, the internal coefficients of r less those of the center ::

    w = T (c - r) + d,    L(c) = L(center) + w.(g + H' w / 2),    grad L(c) = T' (H' d + g) + H (c - r)

where g and H' are gradient and Hessian in the internal basis and H = T' H' T. For the loss, Q T stands for T: the rows
of Q are eigenvectors of H' times the roots of half their eigenvalues. L is then a sum of squares. None of its terms
cancel, not even along directions that the data do not determine.

The reference is the minimum in the user's basis, rounded, if that costs few digits. Then descent can approach it to the
last digit. In a basis that is ill conditioned on the data, such as powers of x on [1990, 2020], the coefficients of the
minimum are large numbers that cancel, and an error of rounding in them is an error of size 1 in the polynomial. There
the reference is the start of the run. Rounding is then that of a loop over the data: relative to the way that the
coefficients have gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit import bases
from polyfit._problem import Problem
from polyfit.backends import operators, sizes
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array, to_array
from polyfit.least_squares.design import DesignMatrix

OVERFLOWS = (
    "the curvature of the squared loss overflows float64: the polynomials of the basis are too large on these x; pass"
    " domain=(lowest, highest x), or scale x"
)
# Digits of float64 that a reference at the minimum may cost: roundings of its coefficients, as polynomials, and the
# rounding of H along the direction of its smallest eigenvalue. It leaves 12 digits of the loss at the start.
_LARGEST_AMPLIFICATION = 1e3
_LARGEST_CONDITION = 1e8
# Eigenvalues above this share of the largest have 12 digits as they are.
_SMALL_EIGENVALUE = 1e-4


@dataclass(frozen=True)
class Quadratic:
    """The loss of S series, each with its coefficients; the loss is the sum over the series.

    Attributes:
        hessian: in the user's basis, (S, p, p).
        reference: coefficients (S, p) in the user's basis: the minimum or the start.
        gradient: at the reference, in the user's basis, (S, p).
        loss: at the center, (S,): the smallest loss.
        to_internal: the matrix Q T that takes coefficients to coordinates in which the loss is a sum of squares,
            (S, p, p), or (1, p, p) for all series.
        internal_hessian: the Hessian there, diagonal, (S, p, p).
        offset: coordinates of the reference less those of the center, (S, p).
        internal_gradient: at the center, in these coordinates, (S, p).
        minimum: coefficients of the smallest loss in the user's basis, rounded, (S, p).
        eigenvalues: of the Hessians in the user's basis, ascending, (S, p); not negative. The first keeps its digits
            however small it is; it is 0 where the data do not determine the coefficients.
        eigenvectors: in columns, (S, p, p).
    """

    hessian: Array
    reference: Array
    gradient: Array
    loss: Array
    to_internal: Array
    internal_hessian: Array
    offset: Array
    internal_gradient: Array
    minimum: Array
    eigenvalues: Array
    eigenvectors: Array

    def gradients(self, coef: Array) -> Array:
        """The gradient (S, p) at coef (S, p)."""
        return times(self.hessian, coef - self.reference) + self.gradient

    def losses(self, coef: Array) -> Array:
        """The losses (..., S) at coef (..., S, p)."""
        with np.errstate(all="ignore"):  # the losses show that a run diverges
            internal = times(self.to_internal, coef - self.reference) + self.offset
            slope = self.internal_gradient + 0.5 * times(self.internal_hessian, internal)
            total = self.loss + (internal * slope).sum(-1)
            return np.maximum(total, 0.0)  # along directions that the data do not determine, rounding has either sign

    def losses_along(self, start: Array, moves: Array) -> Array:
        """The losses (n, S) after moves (S, p, n) from start (S, p) along the eigenvectors."""
        with np.errstate(all="ignore"):
            internal = (self.to_internal @ self.eigenvectors) @ moves
            internal += (times(self.to_internal, start - self.reference) + self.offset)[..., None]
            slope = internal * (0.5 * np.diagonal(self.internal_hessian, axis1=1, axis2=2))[..., None]
            slope += self.internal_gradient[..., None]
            slope *= internal
            total = slope.sum(1)
            total += self.loss[:, None]
            return np.maximum(total, 0.0, out=total).T  # as in `losses`

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The attributes up to `internal_gradient`, contiguous, as a compiled loop reads them."""
        parts = (
            self.hessian, self.reference, self.gradient, self.loss, self.to_internal, self.internal_hessian,
            self.offset, self.internal_gradient,
        )  # fmt: skip
        # All in one copy to the device. Each begins at a multiple of 16 bytes: kernels are compiled for that.
        sizes = [part.size + part.size % 2 for part in parts]
        packed = torch.zeros(sum(sizes), dtype=torch.float64, device="cpu")
        for part, place in zip(parts, packed.split(sizes), strict=True):
            place[: part.size].numpy()[:] = part.ravel()
        places = packed.to(device).split(sizes)
        return tuple(place[: part.size].view(part.shape) for part, place in zip(parts, places, strict=True))


@np.errstate(all="ignore")  # what overflows is refused
def make_quadratic(problem: Problem, scale: float) -> Quadratic:
    """The squared loss of a problem as a quadratic.

    Args:
        problem: canonical, with the squared loss. Its coefficients are the start.
        scale: a factor for the sum over all samples.
    """
    coef = problem.coef
    degree, n_series = coef.shape[-1] - 1, coef.shape[0] if coef.dim() == 2 else 1
    internal = _shared_basis(problem) if _ranges_are_alike(problem.x) else _basis_of_each(problem)

    of_x, of_y, of_residuals = _moments(problem, internal)
    grams = algebra.gram(of_x, degree)
    system = algebra.eigensystem(grams)
    center = algebra.corrections(grams, of_y, system)
    best = internal.to_user(center)
    internal_hessian = 2.0 * scale * grams
    hessian = np.swapaxes(internal.to_internal, 1, 2) @ internal_hessian @ internal.to_internal
    if not np.isfinite(hessian).all():
        raise ValueError(OVERFLOWS)
    system = system._replace(values=2.0 * scale * system.values)  # that of the internal Hessian
    eigenvalues, eigenvectors = _eigensystem(hessian, system, internal.from_internal)

    is_from_start = _costs_digits(best, center, internal.to_internal) | (
        eigenvalues[:, -1] > _LARGEST_CONDITION * eigenvalues[:, 0]
    )
    reference, offset = best, np.zeros_like(center)
    if not is_from_start.all():  # the center is the reference as it is after rounding
        center = np.where(is_from_start[:, None], center, internal.of_user(best))
    if is_from_start.any():
        start = np.array(to_array(coef.detach()).reshape(n_series, -1))
        reference = np.where(is_from_start[:, None], start, best)
        offset = np.where(is_from_start[:, None], internal.of_user(start) - center, 0.0)
    moments, squares = of_residuals(center)
    internal_gradient = -2.0 * scale * moments
    at_reference = times(internal_hessian, offset) + internal_gradient
    least, to_squares, curvature, slope, shift = _as_squares(scale * squares, internal_gradient, system)

    def of_all(values: Array) -> Array:
        return values if len(values) == n_series else np.broadcast_to(values, (n_series, *values.shape[1:]))

    return Quadratic(
        hessian=of_all(hessian),
        reference=of_all(reference),
        gradient=of_all(times(np.swapaxes(internal.to_internal, 1, 2), at_reference)),
        loss=of_all(least),
        to_internal=to_squares @ internal.to_internal,
        internal_hessian=of_all(curvature),
        offset=of_all(times(to_squares, offset) + shift),
        internal_gradient=of_all(slope),
        minimum=of_all(best),
        eigenvalues=of_all(eigenvalues),
        eigenvectors=of_all(eigenvectors),
    )


# Gives moments (S, p) and sums of squares (S,) of the residuals about internal coefficients (S, p).
_OfResiduals = Callable[[Array], tuple[Array, Array]]


def _moments(problem: Problem, internal: _InternalBasis) -> tuple[Array, Array, _OfResiduals]:
    """The moments (S, 2 p - 1) of x and (S, p) of y, and those of residuals; S is 1 where all series have one data.

    The basis functions of few samples are kept for the second pass.
    """
    y, weight, degree = problem.y, problem.weight, problem.coef.shape[-1] - 1
    if is_few(problem):
        matrix = DesignMatrix.of_samples(internal.x, y, weight, degree, internal.interval)
        of_x, of_y = matrix.moments()

        def of_few(center: Array) -> tuple[Array, Array]:
            moments, squares = matrix.residuals(center[0])
            return moments[None], np.array([squares])

        return of_x[None], of_y[None], of_few
    impl = "torch" if problem.impl == "compile" else problem.impl
    sums = operators.moments(internal.x, y, weight, degree, internal.interval, None, impl)
    assert sums.of_x is not None
    parts = (sums.of_x, sums.of_residuals)
    n_distinct = max(len(part) for part in parts)
    of_x, of_y = (np.broadcast_to(to_array(part), (n_distinct, part.shape[-1])) for part in parts)

    def of_residuals(center: Array) -> tuple[Array, Array]:
        about = torch.from_numpy(center).to(y.device)
        sums = operators.moments(internal.x, y, weight, degree, internal.interval, about, impl, want_gram=False)
        return to_array(sums.of_residuals), to_array(sums.squares)

    return of_x, of_y, of_residuals


def is_few(problem: Problem) -> bool:
    """Whether all series share few samples on a CPU."""
    x, y, weight = problem.x, problem.y, problem.weight
    return (
        x.dim() == y.dim() == 1
        and (weight is None or weight.dim() == 1)
        and x.shape[0] <= sizes.current().few_samples
        and x.device.type == "cpu"
        and problem.impl != "triton"
    )


def _as_squares(loss: Array, gradient: Array, system: algebra.EigenSystem) -> tuple[Array, Array, Array, Array, Array]:
    """A quadratic in coordinates in which it is a sum of squares.

    Where loss and gradient at w = 0 and the Hessian are L, g and H, gives L', Q, H', g' and q with ::

        L + w.(g + H w / 2) = L' + v.(g' + H' v / 2),    v = Q w + q

    H' is diagonal: 2 along coordinates that the data determine, where g' is 0, and 0 along the others.

    Args:
        loss: (S,).
        gradient: (S, p).
        system: of H, (1 or S).
    """
    is_determined = system.is_determined
    roots = np.sqrt(np.where(is_determined, 0.5 * system.values, 1.0))
    along = times(np.swapaxes(system.back, 1, 2), gradient)
    shift = np.where(is_determined, 0.5 * along / roots, 0.0)
    curvature = np.where(is_determined, 2.0, 0.0)[:, :, None] * np.eye(roots.shape[1])
    least = np.where(np.isfinite(loss), np.maximum(loss - (shift**2).sum(-1), 0.0), loss)
    return least, roots[:, :, None] * system.to, curvature, np.where(is_determined, 0.0, along), shift


def times(matrices: Array, rows: Array) -> Array:
    """The products (..., S, p) of matrices (S or 1, p, p) and rows (..., S, p)."""
    if len(matrices) == 1:  # one product of two matrices: as many products as rows take ten times as long
        return (rows.reshape(-1, rows.shape[-1]) @ matrices[0].T).reshape(rows.shape)
    return (matrices @ rows[..., None])[..., 0]


# --- the internal basis ---


class _InternalBasis(NamedTuple):
    """Chebyshev polynomials on the range of the data, and the way there from the user's basis and back.

    Attributes:
        x: the samples as `operators.moments` takes them.
        interval: the domain of the Chebyshev polynomials.
        to_internal: the matrix that takes the user's coefficients to the internal ones, (1 or S, p, p).
        from_internal: its inverse.
        of_user: takes rows of coefficients (1 or S, p) to the internal basis.
        to_user: takes internal ones back.
    """

    x: Tensor
    interval: bases.Interval
    to_internal: Array
    from_internal: Array
    of_user: Callable[[Array], Array]
    to_user: Callable[[Array], Array]


# The range of a series may be so much narrower than that of all: to a quarter, T_k on the whole range still tell the
# samples of the series apart.
_NARROWEST_SHARE = 0.25


def _ranges_are_alike(x: Tensor) -> bool:
    """Whether the ranges of all series are much of the range of all together."""
    if x.dim() == 1 or not x.numel():
        return True
    low, high = torch.aminmax(x, dim=-1)
    whole = high.max().double() - low.min().double()
    return bool(((high.double() - low.double()) >= _NARROWEST_SHARE * whole).all())


def _ranges(problem: Problem, x: Tensor) -> tuple[Array, Array]:
    """Smallest and largest x of each row, (S,).

    Where both are one number, the farther end of the user's domain is the other bound. The change of basis is then
    small, and the Chebyshev polynomials are 1 or -1 at the samples: moments keep their digits, which they lose near the
    middle of an interval.
    """
    if x.dim() == 1:
        low, high = (np.array([float(bound)]) for bound in torch.aminmax(x))
    else:
        low, high = to_array(torch.stack(torch.aminmax(x, dim=-1)))
    first, last = problem.domain or bases.BASES[problem.model.basis].window
    is_below = 0.5 * high - 0.5 * first < 0.5 * last - 0.5 * low  # nearer to the lower end
    is_one_place = low == high
    return np.where(is_one_place & ~is_below, first, low), np.where(is_one_place & is_below, last, high)


def _shared_basis(problem: Problem) -> _InternalBasis:
    """One interval for all series; conversions are exact and rounded once."""
    low, high = _ranges(problem, problem.x.reshape(-1))
    interval = (float(low[0]), float(high[0]))
    degree = problem.coef.shape[-1] - 1
    user, internal = (problem.model.basis, problem.domain), ("chebyshev", interval)

    def matrix(old: tuple[str, Any], new: tuple[str, Any]) -> Array:
        change = bases.conversion_matrix(old[0], new[0], old[1], new[1], degree)
        return np.eye(degree + 1)[None] if change is None else change.numpy()[None]

    def convert(rows: Array, old: tuple[str, Any], new: tuple[str, Any]) -> Array:
        if len(rows) == 1 and (row := bases.convert_row(rows[0].tolist(), old[0], new[0], old[1], new[1])) is not None:
            return np.array([row])
        return bases.convert_rows(torch.from_numpy(rows), old[0], new[0], old[1], new[1]).numpy()

    return _InternalBasis(
        problem.x, interval, matrix(user, internal), matrix(internal, user),
        lambda rows: convert(rows, user, internal), lambda rows: convert(rows, internal, user),
    )  # fmt: skip


def _basis_of_each(problem: Problem) -> _InternalBasis:
    """An interval for each series; the samples are taken to [-1, 1]. Conversions round as an evaluation does."""
    x = problem.x.double()
    low, high = _ranges(problem, x)
    bounds = np.stack([0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low])
    matrices = _chebyshev_rows(problem, *bounds)
    middle, half = torch.from_numpy(bounds).unsqueeze(-1).to(x.device)
    inverses = np.linalg.inv(matrices).astype(np.float64)  # of triangles: by substitution
    return _InternalBasis(
        (x - middle) / half, (-1.0, 1.0), matrices, inverses,
        lambda rows: times(matrices, rows), lambda rows: times(inverses, rows),
    )  # fmt: skip


def _chebyshev_rows(problem: Problem, middle: Array, half: Array) -> Array:
    """The matrices (S, p, p) that take coefficients to Chebyshev polynomials of u, for x = middle + half u.

    Column k is P_k as a series in u, by the recurrence of the basis.
    """
    size = problem.coef.shape[-1]
    center, factor, shift = problem.model.affine_map or (0.0, 1.0, 0.0)
    constant, slope = ((middle - center) * factor + shift)[:, None], (half * factor)[:, None]

    def times_t(series: Array) -> Array:
        """T = constant + slope u times a series: u T_0 = T_1, u T_k = (T_{k+1} + T_{k-1}) / 2."""
        by_u = np.zeros_like(series)
        by_u[:, 1:] = 0.5 * series[:, :-1]
        by_u[:, 1:2] += 0.5 * series[:, :1]
        by_u[:, :-1] += 0.5 * series[:, 1:]
        return constant * series + slope * by_u

    columns = [np.zeros((len(middle), size))]
    columns[0][:, 0] = 1.0
    for k, (a, b, c) in enumerate(bases.BASES[problem.model.basis].steps(size - 1)):
        after = a * times_t(columns[k]) + b * columns[k]
        columns.append(after - c * columns[k - 1] if k else after)
    return np.stack(columns, -1)


# --- which reference ---


def _costs_digits(coef: Array, internal: Array, to_internal: Array) -> NDArray[np.bool_]:
    """Whether polynomials (S,) lose digits as coefficients (S, p) in the user's basis, with these internal ones."""
    sizes = times(np.abs(to_internal), np.abs(coef)).max(-1)
    return ~(sizes <= _LARGEST_AMPLIFICATION * np.abs(internal).max(-1))


def _eigensystem(hessian: Array, system: algebra.EigenSystem, from_internal: Array) -> tuple[Array, Array]:
    """The eigenvalues (S, p) of Hessians, and their eigenvectors (S, p, p) in columns.

    The smallest is 1 over the largest of the inverse, which the internal Hessian, well conditioned, gives with its
    digits. That of H itself is lost in rounding where it is below eps times the largest.

    Args:
        hessian: in the user's basis, (S, p, p).
        system: of the internal Hessian, S.
        from_internal: takes internal coefficients to the user's, (1 or S, p, p).
    """
    values, of_hessian = np.linalg.eigh(hessian)
    values = np.maximum(values, 0.0)
    is_lost = values[:, 0] < _SMALL_EIGENVALUE * values[:, -1]
    if not is_lost.any():
        return values, of_hessian
    internal, back, is_determined = system.values[is_lost], system.back[is_lost], system.is_determined[is_lost, 0]
    inverse = from_internal if len(from_internal) == 1 else from_internal[is_lost]
    roots = inverse @ (back / np.sqrt(np.where(is_determined[:, None], internal, 1.0))[:, None, :])
    smallest = 1.0 / np.linalg.svd(roots, compute_uv=False)[:, 0] ** 2
    values[is_lost, 0] = np.where(is_determined, smallest, 0.0)
    return np.maximum(values, values[:, :1]), of_hessian
