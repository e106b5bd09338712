"""The engine that computes any epoch from one eigenproblem."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polyfit.optimizers import SGD, Array, rate
from polyfit.training.dynamics import Trajectory, closed_form
from polyfit.training.engines.base import Engine, State, gradient_norms, next_record, with_rows
from polyfit.training.engines.launching import MOST_RECORDED
from polyfit.training.quadratic import Quadratic
from polyfit.training.supervision import Mask, Observer, Supervisor


class ClosedForm(Engine[Array]):
    """Any epoch from the eigenproblem of the Hessian; see `polyfit.training.dynamics`.

    Args:
        rule: gradient descent at a constant rate.
        quadratic: the squared loss.
        lr_scale: factors of the rate (S, 1), or None.
    """

    def __init__(self, rule: SGD, quadratic: Quadratic, lr_scale: Array | None = None) -> None:
        self._rule, self._quadratic = rule, quadratic
        self._lr: float | Array = rate(rule.lr, 0) if lr_scale is None else rate(rule.lr, 0) * lr_scale
        self._from: Array = np.empty(0)

    def start(self, coef: Array) -> State[Array]:
        """See `Engine`."""
        self._from = coef
        return State(0, coef, ())

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State[Array]:
        """Not called: a run in closed form begins again, which costs nothing."""
        raise AssertionError

    def losses(self, coef: Array) -> Array:
        """See `Engine`."""
        return self._quadratic.losses(coef)

    def put(self, coef: Array, rows: Mask, values: Array) -> Array:
        """See `Engine`."""
        return with_rows(coef.copy(), rows, values)

    def settle(
        self,
        supervisor: Supervisor,
        state: State[Array],
        seen: int,
        series: Mask,
        anchor: State[Array] | None = None,
    ) -> Array:
        """See `Engine`. By bisection: a series that became NaN or infinite stays so."""
        coef = state.coef
        low, high = np.zeros((2, len(supervisor.groups(series))), np.int64)
        low, high = low - 1, high + seen
        while (high - low > 1).any():
            middle = (low + high) // 2
            where = np.unique(middle)
            losses = supervisor.totals(self._at(where).losses())
            is_over = ~np.isfinite(losses[np.searchsorted(where, middle), np.arange(len(middle))])
            low, high = np.where(is_over, low, middle), np.where(is_over, middle, high)
        supervisor.set_divergence(supervisor.groups(series), high)
        for epoch in np.unique(high):
            rows = series & np.broadcast_to(high == epoch, len(series))
            coef = self.put(coef, rows, self._at(epoch[None]).coef(0)[rows])
        return coef

    def _at(self, epochs: NDArray[np.int64]) -> Trajectory:
        return closed_form(self._quadratic, self._from, self._rule, self._lr, epochs)

    def run(self, state: State[Array], until: int, observer: Observer) -> State[Array]:
        """See `Engine`."""
        epochs = np.arange(next_record(state.epoch, observer.every), until, observer.every, dtype=np.int64)
        most = max(1, MOST_RECORDED // self._from.size)
        path = self._at(np.append(epochs[:most], until))
        final = path.coef(-1)
        for first in range(0, len(epochs), most):
            part = epochs[first : first + most]
            if first:
                path = self._at(part)
            losses = path.losses()[: len(part)]
            if isinstance(observer, Supervisor) and observer.takes_all(losses):
                observer.record_all(part, losses)
                continue
            for i, epoch in enumerate(part.tolist()):
                coef = path.coef(i)
                ends = observer.look(
                    epoch,
                    losses[i],
                    lambda coef=coef: gradient_norms(self._quadratic.gradients(coef)),
                    lambda coef=coef: coef,
                )
                if ends is not None:
                    final = np.where(ends.series[:, None], coef, final)
                    if ends.diverged.any():
                        assert isinstance(observer, Supervisor)
                        final = self.settle(observer, State(until, final, ()), epoch, ends.diverged)
                if observer.is_over:
                    return State(epoch, final if ends is not None else coef, ())
        return State(until, final, ())
