"""Adam and AdamW on the quadratic of one series: an update in ten calls of numpy, which take all of the time.

The means of the gradient and of its square lie in one buffer M. One product gives the gradient g, times factors, for
both of them: with c - r the way from the reference, and with the share k that is kept of each mean ::

    ((1 - k_1) g, sqrt(1 - k_2) g) = A (c - r, 1),    M <- k M + ((1 - k_1) g, (1 - k_2) g**2)
"""

from __future__ import annotations

import numpy as np

from polyfit.optimizers import Adam, AdamW, Array, table
from polyfit.training.engines.base import State
from polyfit.training.engines.stepping import Pass, Stepping
from polyfit.training.quadratic import Quadratic
from polyfit.training.supervision import Mask, Observer


class Adaptive(Stepping[Array]):
    """`Stepping` by Adam or AdamW on the quadratic of one series.

    Args:
        rule: the update rule.
        quadratic: the loss.
        measure: gives its values, for records.
        lr_scale: a factor of the rate (1, 1), or None.
    """

    def __init__(self, rule: Adam | AdamW, quadratic: Quadratic, measure: Pass, lr_scale: Array | None) -> None:
        super().__init__(rule, measure, np.zeros_like(quadratic.reference), lr_scale)
        hessian, gradient, reference = quadratic.hessian[0], quadratic.gradient[0], quadratic.reference[0]
        if isinstance(rule, Adam):  # the gradient of the penalty
            hessian = hessian + rule.weight_decay * np.eye(len(reference))
            gradient = gradient + rule.weight_decay * reference
        affine = np.concatenate((hessian, gradient[:, None]), 1)
        first, second = rule.betas
        self._affine = np.concatenate(((1.0 - first) * affine, np.sqrt(1.0 - second) * affine))
        self._kept = np.repeat(rule.betas, len(reference))
        self._reference, self._eps = reference, np.array(rule.eps)
        self._shrinks = rule.weight_decay if isinstance(rule, AdamW) else 0.0

    def _whole(
        self, state: State[Array], stop: int, gradient: Array | None, observer: Observer, frozen: Mask | None
    ) -> State[Array]:
        """See `Stepping`. The gradient is computed again where it is known: the same bits, wherever a run is cut."""
        size, epoch = len(self._reference), state.epoch
        coef, means = state.coef[0].copy(), np.concatenate(state.memory, 1)[0]
        way, new, step = np.ones(size + 1), np.empty(2 * size), np.empty(size)
        position, squares, mean, square = way[:size], new[size:], means[:size], means[size:]
        affine, kept, reference, eps = self._affine, self._kept, self._reference, self._eps
        add, divide, multiply, subtract, root = np.add, np.divide, np.multiply, np.subtract, np.sqrt
        rows = table(self._rule, epoch, stop)
        rates = rows[:, 0] if self._lr_scale is None else rows[:, 0] * self._lr_scale[0]
        shares = 1.0 - rates * self._shrinks if self._shrinks else rates
        # Numbers of numpy: a ufunc takes them in less time than those of Python.
        for rate, of_root, share in zip(rates * rows[:, 1], rows[:, 2], shares, strict=True):
            if observer.is_interrupted:
                break
            subtract(coef, reference, position)
            affine.dot(way, new)
            multiply(squares, squares, squares)
            multiply(means, kept, means)
            add(means, new, means)
            root(square, step)
            multiply(step, of_root, step)
            add(step, eps, step)
            divide(mean, step, step)
            multiply(step, rate, step)
            if self._shrinks:
                multiply(coef, share, coef)
            subtract(coef, step, coef)
            epoch += 1
        return State(epoch, coef[None], (mean[None].copy(), square[None].copy()))
