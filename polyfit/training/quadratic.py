r"""The squared loss of a polynomial as what it is, a quadratic function of the coefficients; and descent on it.

Two passes over the data give, for every series, the Hessian H, a reference c* at the minimum or near it, and loss and
gradient there. All that a descent does follows from these, at a cost that does not depend on the number of samples ::

    grad L(c) = H e + grad L(c*),    L(c) = L(c*) + grad L(c*).e + e.H e / 2,    e = c - c*

No term of L cancels: e.H e is taken in Chebyshev polynomials on the range of the data, where H is well conditioned.

Plain descent, and descent with momentum, are affine maps of the coefficients. In the eigenvectors of H they fall apart
into one recurrence for each eigenvalue v, with ``x = lr v`` ::

    z_t = z_0 - (slope of z_0) phi_t,    phi_t = (1 - (1 - x)**t) / v        (plain)

so that epoch t costs what epoch 1 costs. (Any text on descent; Polyak, USSR Comput. Math. 4 (1964), for momentum.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from polyfit import bases
from polyfit._problem import Problem
from polyfit.backends import operators
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.residuals import to_array
from polyfit.optimizers import SGD

# How much above 1 a spectral radius may be by rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Quadratic:
    """The loss of S series, each with its coefficients; the loss is the sum over the series.

    Attributes:
        hessian: (S, p, p).
        reference: coefficients at the minimum, or near it, (S, p).
        gradient: at the reference, (S, p).
        loss: at the reference, (S,).
        to_own: takes coefficients to Chebyshev polynomials on the range of the data, (p, p).
        own_hessian: the Hessian there, (S, p, p).
    """

    hessian: Array
    reference: Array
    gradient: Array
    loss: Array
    to_own: Array
    own_hessian: Array

    def gradients(self, coef: Array) -> Array:
        """The gradient (S, p) at coef (S, p)."""
        return (self.hessian @ (coef - self.reference)[..., None])[..., 0] + self.gradient

    def losses(self, coef: Array) -> Array:
        """The losses (..., S) at coef (..., S, p)."""
        left = coef - self.reference
        with np.errstate(all="ignore"):  # a run that diverges says so by its losses
            own = left @ self.to_own.T
            curved = (own * (self.own_hessian @ own[..., None])[..., 0]).sum(-1)
            return self.loss + (left * self.gradient).sum(-1) + 0.5 * curved

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """All of them in the order in which they stand above, contiguous: what a compiled loop reads."""
        parts = (self.hessian, self.reference, self.gradient, self.loss, self.to_own, self.own_hessian)
        return tuple(torch.from_numpy(np.array(part, order="C")).to(device) for part in parts)

    def eigenvalues(self) -> Array:
        """Of the Hessians, ascending, (S, p); not negative."""
        return np.maximum(np.linalg.eigvalsh(self.hessian), 0.0)


def quadratic(problem: Problem, scale: float) -> Quadratic:
    """The quadratic function that the squared loss of a problem is.

    Args:
        problem: canonical, with the squared loss.
        scale: what the sum over all samples is multiplied with.
    """
    x, coef = problem.x, problem.coef
    degree, n_series = coef.shape[-1] - 1, coef.shape[0] if coef.dim() == 2 else 1
    own = bases.widened(*(float(bound) for bound in torch.aminmax(x)))
    impl = "torch" if problem.impl == "compile" else problem.impl
    change = bases.conversion_matrix(problem.model.basis, "chebyshev", problem.domain, own, degree)
    to_own = np.eye(degree + 1) if change is None else change.numpy()

    sums = operators.moments(problem.x, problem.y, problem.weight, degree, own, None, impl)
    assert sums.of_x is not None
    parts = (sums.of_x, sums.of_residuals)
    n_distinct = max(len(part) for part in parts)  # one, where all series have the same data
    of_x, of_y = (np.broadcast_to(to_array(part), (n_distinct, part.shape[-1])) for part in parts)
    grams = algebra.gram(of_x, degree)
    own_best = algebra.corrections(grams, of_y)
    best = bases.convert_rows(torch.from_numpy(own_best), "chebyshev", problem.model.basis, own, problem.domain).numpy()
    # Residuals about what the reference has been rounded to.
    about = torch.from_numpy(best @ to_own.T).to(x.device)
    sums = operators.moments(problem.x, problem.y, problem.weight, degree, own, about, impl, want_gram=False)
    own_hessian = 2.0 * scale * grams

    def of_all(values: Array) -> Array:
        return np.broadcast_to(values, (n_series, *values.shape[1:]))

    return Quadratic(
        hessian=of_all(to_own.T @ own_hessian @ to_own),
        reference=of_all(best),
        gradient=of_all(-2.0 * scale * (to_array(sums.of_residuals) @ to_own)),
        loss=of_all(scale * to_array(sums.squares)),
        to_own=to_own,
        own_hessian=of_all(own_hessian),
    )


# --- stability ---


def spectral_radius(rule: SGD, values: Array, lr: float | Array) -> Array:
    """By how much an update multiplies the worst error in the long run, (...) for eigenvalues (..., p) of the Hessian.

    The rate is a number, or (..., 1).
    """
    slopes = values + rule.weight_decay
    if not rule.momentum:
        return np.abs(1.0 - lr * slopes).max(-1)
    return np.abs(np.linalg.eigvals(_momentum_step(rule, slopes, lr))).max((-2, -1))


def _momentum_step(rule: SGD, slopes: Array, lr: float | Array) -> Array:
    """The matrices (..., 2, 2) of an update of (error, momentum) for each slope."""
    new = 1.0 - rule.dampening
    ahead, kept = (1.0 + rule.momentum, rule.momentum**2) if rule.nesterov else (new, rule.momentum)
    rows = [
        [1.0 - lr * ahead * slopes, -lr * kept * np.ones_like(slopes)],
        [new * slopes, np.full_like(slopes, rule.momentum)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def largest_stable_lr(rule: SGD, values: Array) -> Array:
    """The largest rates (...) at which a rule does not diverge, for eigenvalues (..., p); infinite where all are zero.

    2 / v for plain descent, 2 (1 + m) / v with momentum m, less with nesterov: by bisection to a relative 1e-13.
    """
    largest = np.asarray(values.max(-1) + rule.weight_decay)
    limit = 2.0
    if rule.momentum:
        slope = np.ones(1)
        plain = SGD(1.0, rule.momentum, rule.dampening, 0.0, rule.nesterov)
        low, high = 0.0, 8.0 * (1.0 + rule.momentum) * (1.0 + max(rule.dampening, 0.0))
        for _ in range(60):
            limit = 0.5 * (low + high)
            is_stable = bool(spectral_radius(plain, slope, limit) <= 1.0 + _ROUNDING)
            low, high = (limit, high) if is_stable else (low, limit)
        limit = low
    return np.where(largest > 0.0, limit / np.where(largest > 0.0, largest, 1.0), np.inf)


def is_stable(rule: SGD, values: Array, lr: float | Array) -> NDArray[np.bool_]:
    """Whether runs (...) at these rates stay bounded, give or take rounding."""
    return spectral_radius(rule, values, lr) <= 1.0 + _ROUNDING


# --- descent in closed form ---


def closed_form(loss: Quadratic, start: Array, rule: SGD, lr: float | Array, epochs: Sequence[int]) -> Array:
    """Coefficients (len(epochs), S, p) after so many updates each, ascending, from start (S, p).

    The rate is a number, or one for each series, (S, 1).
    """
    values, vectors = np.linalg.eigh(loss.hessian)
    decay = rule.weight_decay
    back = np.swapaxes(vectors, -1, -2)
    position = (back @ (start - loss.reference)[..., None])[..., 0]  # (S, p)
    constant = (back @ (loss.gradient + decay * loss.reference)[..., None])[..., 0]
    slopes = values + decay
    with np.errstate(all="ignore"):
        if rule.momentum:
            moves = _moves_with_momentum(rule, slopes, slopes * position + constant, lr, epochs)
        else:
            counts = np.array(epochs, dtype=np.float64)[:, None, None]
            moves = -(slopes * position + constant) * _phi(lr * slopes, counts, lr)
        return start + (vectors @ moves[..., None])[..., 0]


def _phi(x: Array, counts: Array, lr: float | Array) -> Array:
    """The function lr (1 - (1 - x)**t) / x of t = counts, without cancellation where x t is small."""
    slow = -np.expm1(counts * np.log1p(-np.minimum(x, 0.5)))
    fast = 1.0 - np.where(counts % 2 == 1, np.sign(1.0 - x), 1.0) * np.abs(1.0 - x) ** counts
    share = np.where(x < 0.5, slow, fast) / np.where(x == 0.0, 1.0, x)
    return lr * np.where(x == 0.0, counts, share)


def _moves_with_momentum(rule: SGD, slopes: Array, gradient: Array, lr: float | Array, epochs: Sequence[int]) -> Array:
    """How far (len(epochs), S, p) each eigenvector's coordinate has moved, with its gradient at the start (S, p)."""
    # State: move, momentum, and one, for what is constant: the gradient at a move m is slope m + gradient.
    step = np.zeros((*slopes.shape, 3, 3))
    step[..., :2, :2] = _momentum_step(rule, slopes, lr)
    step[..., 1, 2] = (1.0 - rule.dampening) * gradient
    ahead = 1.0 + rule.momentum * (1.0 - rule.dampening) if rule.nesterov else 1.0 - rule.dampening
    step[..., 0, 2] = -lr * ahead * gradient
    step[..., 2, 2] = 1.0
    first = np.stack((-lr * (1.0 + rule.momentum if rule.nesterov else 1.0) * gradient, gradient), -1)
    state = np.concatenate((first, np.ones((*slopes.shape, 1))), -1)  # after the first update, which has no past
    moves, done, powers = [], 1, {}
    for epoch in epochs:
        if epoch == 0:
            moves.append(np.zeros_like(gradient))
            continue
        ahead_by = epoch - done
        if ahead_by not in powers:
            powers[ahead_by] = np.linalg.matrix_power(step, ahead_by)
        state = (powers[ahead_by] @ state[..., None])[..., 0]
        done = epoch
        moves.append(state[..., 0])
    return np.stack(moves)
