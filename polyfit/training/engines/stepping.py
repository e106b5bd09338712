"""Engines that make one update after another: in Python, and on a GPU as replays of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.optimizers import Array, Rule, Values, table
from polyfit.training.engines.base import Engine, State, as_array, chosen, copied_like, gradient_norms, with_rows
from polyfit.training.supervision import Mask, Observer, Supervisor

# Gives the losses (S,) of coefficients (S, p), None where they are not wanted, and the gradient (S, p).
Pass = Callable[[Any, bool], tuple[Any, Any]]
# Gives, for the number of an epoch, the functions that give the gradient of each of its batches.
Batches = Callable[[int], Iterable[Callable[[Any], Any]]]


class Stepping(Engine[Values]):
    """One update after another, by plain arithmetic on (S, p) arrays or tensors.

    Args:
        rule: the update rule.
        measure: gives losses and gradient.
        zeros: an array or a tensor like the coefficients.
        lr_scale: factors of the rate (S, 1), or None.
        batches: the batches of an epoch; None for one batch of all samples.
        n_batches: number of batches in an epoch.
    """

    def __init__(
        self,
        rule: Rule,
        measure: Pass,
        zeros: Values,
        lr_scale: Values | None = None,
        batches: Batches | None = None,
        n_batches: int = 1,
    ) -> None:
        self._rule, self._measure, self._zeros, self._lr_scale = rule, measure, zeros, lr_scale
        self._batches, self._n_batches = batches, n_batches

    def start(self, coef: Array) -> State[Values]:
        """See `Engine`."""
        return State(0, copied_like(coef, self._zeros), self._rule.start(self._zeros))

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State[Values]:
        """See `Engine`."""
        parts = tuple(copied_like(part, self._zeros) for part in memory)
        return State(epoch, copied_like(coef, self._zeros), parts)

    def losses(self, coef: Values) -> Array:
        """See `Engine`."""
        with np.errstate(all="ignore"):
            return as_array(self._measure(coef, True)[0])

    def put(self, coef: Values, rows: Mask, values: Values) -> Values:
        """See `Engine`."""
        return with_rows(copied_like(coef, self._zeros), rows, values)

    def run(self, state: State[Values], until: int, observer: Observer) -> State[Values]:
        """See `Engine`."""
        make_epochs = self._whole if self._batches is None else self._batched
        with np.errstate(all="ignore"):  # the losses show that a run diverges
            while state.epoch < until and not observer.is_over:
                gradient = None
                if state.epoch % observer.every == 0:
                    state, gradient = self._record(state, observer)
                    if observer.is_over:
                        break
                stop = min(until, state.epoch - state.epoch % observer.every + observer.every)
                state = make_epochs(state, stop, gradient, observer, self._mask(observer.ended))
        return state

    def _record(self, state: State[Values], observer: Observer) -> tuple[State[Values], Any]:
        """Show a state to the observer; the state after that, and its gradient."""
        losses, gradient = self._measure(state.coef, True)
        coef = state.coef
        ends = observer.look(state.epoch, as_array(losses), lambda: gradient_norms(gradient), lambda: coef)
        if ends is not None and ends.diverged.any():
            assert isinstance(observer, Supervisor)
            state = state.with_coef(self.settle(observer, state, state.epoch, ends.diverged))
        self.anchor = state
        return state, gradient

    def _whole(
        self, state: State[Values], stop: int, gradient: Values | None, observer: Observer, frozen: Any
    ) -> State[Values]:
        """Epochs of one update each. The gradient of the first one may be known; frozen series keep their state."""
        epoch, coef, memory = state.epoch, state.coef, state.memory
        measure, step, lr_scale = self._measure, self._rule.step, self._lr_scale
        for lr, a, b in table(self._rule, epoch, stop).tolist():
            if observer.is_interrupted:
                break
            if gradient is None:
                gradient = measure(coef, False)[1]
            assert gradient is not None
            new, memory = step(coef, gradient, memory, lr if lr_scale is None else lr * lr_scale, a, b)
            coef = new if frozen is None else chosen(frozen, coef, new)
            gradient = None
            epoch += 1
        return State(epoch, coef, memory)

    def _batched(
        self, state: State[Values], stop: int, gradient: Values | None, observer: Observer, frozen: Any
    ) -> State[Values]:
        """Epochs of one update a batch. The gradient over all samples is not used."""
        assert self._batches is not None
        epoch, coef, memory = state.epoch, state.coef, state.memory
        n = self._n_batches
        rows = iter(table(self._rule, epoch * n, stop * n, n).tolist())
        while epoch < stop and not observer.is_interrupted:
            for gradient_of_batch in self._batches(epoch):
                lr, a, b = next(rows)
                lr = lr if self._lr_scale is None else lr * self._lr_scale
                new, memory = self._rule.step(coef, gradient_of_batch(coef), memory, lr, a, b)
                coef = new if frozen is None else chosen(frozen, coef, new)
            epoch += 1
        return State(epoch, coef, memory)

    def _mask(self, ended: Mask | None) -> Any:
        """The series that have ended, (S, 1), as `chosen` takes it."""
        if ended is None:
            return None
        column = ended[:, None]
        return torch.from_numpy(column.copy()).to(self._zeros.device) if isinstance(self._zeros, Tensor) else column


# Rows of the rule's table that a graph reads before the host writes new ones: 24 kB. To be measured.
_ROWS = 1024


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """The launches of a function on the current GPU, as a CUDA graph: a call replays them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a first run compiles and allocates, which a capture may not
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class Graphed(Stepping[Tensor]):
    """The same on a GPU: an epoch is one replay of a CUDA graph, as launches cost the host a microsecond or so each."""

    _replay: Callable[[], None] | None = None

    def _whole(
        self, state: State[Tensor], stop: int, gradient: Tensor | None, observer: Observer, frozen: Any
    ) -> State[Tensor]:
        if self._replay is None:
            self._capture()
        assert self._replay is not None
        self._coef.copy_(state.coef)
        for held, part in zip(self._memory, state.memory, strict=True):
            held.copy_(part)
        self._frozen.fill_(False) if frozen is None else self._frozen.copy_(frozen)
        epoch = state.epoch
        while epoch < stop and not observer.is_interrupted:
            rows = table(self._rule, epoch, min(stop, epoch + _ROWS))
            self._rows[: len(rows)].copy_(torch.from_numpy(rows))
            self._place.zero_()
            for _ in range(len(rows)):
                if observer.is_interrupted:
                    break
                self._replay()
                epoch += 1
        return State(epoch, self._coef.clone(), tuple(held.clone() for held in self._memory))

    def _capture(self) -> None:
        """Capture an epoch that works on buffers of this object and reads its row of the table from memory."""
        self._coef = torch.zeros_like(self._zeros)
        self._memory = tuple(torch.zeros_like(part) for part in self._rule.start(self._zeros))
        self._frozen = torch.zeros_like(self._zeros[:, :1], dtype=torch.bool)
        self._rows = self._zeros.new_ones((_ROWS, 3), dtype=torch.float64)
        self._place = torch.zeros(1, dtype=torch.int64, device=self._zeros.device)

        def epoch() -> None:
            lr, a, b = self._rows.index_select(0, self._place).squeeze(0).unbind(0)
            lr = lr if self._lr_scale is None else lr.to(self._zeros.dtype) * self._lr_scale
            gradient = self._measure(self._coef, False)[1]
            new, memory = self._rule.step(self._coef, gradient, self._memory, lr, a, b)
            self._coef.copy_(torch.where(self._frozen, self._coef, new))
            for held, part in zip(self._memory, memory, strict=True):
                held.copy_(part)
            self._place += 1

        self._replay = captured(epoch)
