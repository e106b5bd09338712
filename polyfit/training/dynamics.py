r"""Descent on a quadratic: which rates are stable, and any epoch in closed form.

Plain descent, and descent with momentum, are affine maps of the coefficients. On the eigenvectors of H they are one
recurrence for each eigenvalue v, with ``x = lr v`` ::

    z_t = z_0 - (slope of z_0) phi_t,    phi_t = (1 - (1 - x)**t) / v        (plain)

so that epoch t costs as much as epoch 1.

References:
    Polyak, USSR Comput. Math. 4 (1964), for momentum; Nocedal & Wright, Numerical Optimization (2006), 3.3, for plain
    descent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyfit.optimizers import SGD, Array
from polyfit.training.quadratic import Quadratic, times

# A spectral radius is at most so much above 1 by rounding: some 1e3 roundings. To be derived.
_ROUNDING = 1e-12


# --- stability ---


def spectral_radius(rule: SGD, values: Array, lr: float | Array) -> Array:
    """The factor (...) by which an update multiplies the slowest error in the long run.

    Args:
        rule: gradient descent.
        values: eigenvalues of the Hessian, (..., p).
        lr: the rate, a number or (..., 1).
    """
    slopes = values + rule.weight_decay
    if not rule.momentum:
        return np.abs(1.0 - lr * slopes).max(-1)
    return np.abs(np.linalg.eigvals(_momentum_step(rule, slopes, lr))).max((-2, -1))


def _momentum_step(rule: SGD, slopes: Array, lr: float | Array) -> Array:
    """The matrices (..., 2, 2) of an update of (error, momentum), one for each slope."""
    new = 1.0 - rule.dampening
    ahead, kept = (1.0 + rule.momentum, rule.momentum**2) if rule.nesterov else (new, rule.momentum)
    rows = [
        [1.0 - lr * ahead * slopes, -lr * kept * np.ones_like(slopes)],
        [new * slopes, np.full_like(slopes, rule.momentum)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def largest_stable_lr(rule: SGD, values: Array) -> Array:
    """The largest rates (...) at which a rule does not diverge, for eigenvalues (..., p); infinite where all are zero.

    2 / v for plain descent and 2 (1 + m) / v with momentum m. With nesterov it is less, and found by bisection to a
    relative 1e-13.
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


@dataclass(frozen=True, eq=False)
class Descent:
    """Gradient descent at a constant rate on quadratics.

    Attributes:
        rule: with a constant rate.
        values: eigenvalues of the Hessians, (S, p), ascending.
        lr: the rate, a number or (S, 1).
    """

    rule: SGD
    values: Array
    lr: float | Array

    @functools.cached_property
    def radius(self) -> Array:
        """See `spectral_radius`, (S,)."""
        with np.errstate(all="ignore"):
            return spectral_radius(self.rule, self.values, self.lr)

    @functools.cached_property
    def is_stable(self) -> NDArray[np.bool_]:
        """Whether runs stay bounded, up to rounding, (S,)."""
        return self.radius <= 1.0 + _ROUNDING

    @functools.cached_property
    def largest_lr(self) -> Array:
        """See `largest_stable_lr`, (S,)."""
        return largest_stable_lr(self.rule, self.values)


# --- descent in closed form ---


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Coefficients of S series after n numbers of epochs, as steps from the start along eigenvectors of the Hessian.

    Attributes:
        quadratic: the loss.
        start: coefficients (S, p).
        moves: steps (S, p, n).
    """

    quadratic: Quadratic
    start: Array
    moves: Array

    def coef(self, i: int) -> Array:
        """The coefficients (S, p) of number i."""
        with np.errstate(all="ignore"):  # the losses show that a run diverges
            return self.start + times(self.quadratic.eigenvectors, self.moves[..., i])

    def losses(self) -> Array:
        """The losses (n, S)."""
        return self.quadratic.losses_along(self.start, self.moves)


def closed_form(
    loss: Quadratic, start: Array, rule: SGD, lr: float | Array, epochs: Sequence[int] | NDArray[np.int64]
) -> Trajectory:
    """Coefficients after so many updates each, ascending, from start (S, p).

    The rate is a number, or one for each series, (S, 1).
    """
    values, vectors = loss.eigenvalues, loss.eigenvectors
    decay = rule.weight_decay
    back = np.swapaxes(vectors, -1, -2)
    position = times(back, start - loss.reference)  # (S, p)
    constant = times(back, loss.gradient + decay * loss.reference)
    slopes = values + decay
    with np.errstate(all="ignore"):
        if rule.momentum:
            return Trajectory(loss, start, _moves_with_momentum(rule, slopes, slopes * position + constant, lr, epochs))
        # phi = lr gone / x, as rows (S, p, n): numpy loops over the last axis, and p is small.
        x = lr * slopes
        phi = _gone(x, np.array(epochs, dtype=np.float64))
        phi /= np.where(x == 0.0, 1.0, x)[..., None]
        phi *= -(lr * (slopes * position + constant))[..., None]
        return Trajectory(loss, start, phi)


# Counts from which powers are products of two: to be worth the more calls.
_MANY = 64


def _gone(x: Array, counts: Array) -> Array:
    """1 - (1 - x)**t, the share of an error that is gone, for x (S, p) and t = counts (n,): (S, p, n). t for x = 0.

    Of many counts at equal distances, all but the last, with a and b the shares for t_a and t_b, that for t_a + t_b is
    a + b - a b. For a stable x below 1/2 none of it cancels, and for others no more than in 1 - (1 - x)**t.
    """
    first, step = float(counts[0]), float(counts[1] - counts[0]) if len(counts) > _MANY else 0.0
    is_regular = step > 0.0 and (counts[1:-1] - counts[:-2] == step).all() and (np.abs(1.0 - x) <= 1.0).all()
    if not is_regular:
        gone = _gone_at_each(x, counts)
    else:
        n = len(counts) - 1
        width = math.isqrt(n)
        n_coarse = -(-n // width)
        coarse = first + step * width * np.arange(n_coarse, dtype=np.float64)
        fine = step * np.arange(width, dtype=np.float64)
        of_both = _gone_at_each(x, np.concatenate((coarse, fine, counts[-1:])))
        of_coarse, of_fine = of_both[..., :n_coarse, None], of_both[..., None, n_coarse:-1]
        gone = np.empty((*x.shape, n_coarse * width + 1))
        products = gone[..., :-1].reshape(*x.shape, n_coarse, width)
        np.multiply(1.0 - of_coarse, of_fine, out=products)
        products += of_coarse
        gone[..., n] = of_both[..., -1]
        gone = gone[..., : n + 1]
    gone[x == 0.0] = counts
    return gone


def _gone_at_each(x: Array, counts: Array) -> Array:
    is_slow = x < 0.5
    if is_slow.all():
        return -np.expm1(np.log1p(-x)[..., None] * counts)
    gone = np.empty((*x.shape, len(counts)))
    gone[is_slow] = -np.expm1(np.log1p(-x[is_slow])[:, None] * counts)
    base = 1.0 - x[~is_slow][:, None]
    gone[~is_slow] = 1.0 - np.where(counts % 2 == 1, np.sign(base), 1.0) * np.abs(base) ** counts
    return gone


def _moves_with_momentum(
    rule: SGD, slopes: Array, gradient: Array, lr: float | Array, epochs: Sequence[int] | NDArray[np.int64]
) -> Array:
    """The change (S, p, len(epochs)) of the coordinate along each eigenvector, for its gradient (S, p) at the start."""
    # State: change, momentum, and 1 for the constant terms. The gradient after a change m is slope m + gradient.
    step = np.zeros((*slopes.shape, 3, 3))
    step[..., :2, :2] = _momentum_step(rule, slopes, lr)
    step[..., 1, 2] = (1.0 - rule.dampening) * gradient
    ahead = 1.0 + rule.momentum * (1.0 - rule.dampening) if rule.nesterov else 1.0 - rule.dampening
    step[..., 0, 2] = -lr * ahead * gradient
    step[..., 2, 2] = 1.0
    first = np.stack((-lr * (1.0 + rule.momentum if rule.nesterov else 1.0) * gradient, gradient), -1)
    state = np.concatenate(
        (first, np.ones((*slopes.shape, 1))), -1
    )  # after the first update, before which there is no momentum
    moves, done, powers = [], 1, {}
    for epoch in map(int, epochs):
        if epoch == 0:
            moves.append(np.zeros_like(gradient))
            continue
        ahead_by = epoch - done
        if ahead_by not in powers:
            powers[ahead_by] = np.linalg.matrix_power(step, ahead_by)
        state = (powers[ahead_by] @ state[..., None])[..., 0]
        done = epoch
        moves.append(state[..., 0])
    return np.stack(moves, -1)
