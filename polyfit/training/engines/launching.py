"""The engine that makes many epochs in one call of a compiled loop: C++, or a kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.optimizers import Array, Rule, constant_row, table
from polyfit.training.engines.base import Engine, State, n_records, next_record, with_rows
from polyfit.training.supervision import Mask, Observer, Supervisor, Unobserved

# coef, memory, table, first, last, every, losses, norms, path: see `Launching`.
Loop = Callable[[Tensor, Tensor, Tensor, int, Tensor, int, Tensor, Tensor, Tensor | None], None]

# Seconds that a launch should take: Ctrl-C and monitors wait for its end, and no watchdog of a GPU may. To be measured
# on a GPU.
_LAUNCH_SECONDS = 0.2
# The most by which a launch is longer than the one before.
_LARGEST_GROWTH = 10.0
# Epochs of the first launch, at least.
_SHORTEST_FIRST = 1000
# Values that the records of a launch may hold: 128 MB of float64.
MOST_RECORDED = 1 << 24


class _Records(NamedTuple):
    """The records of a launch: losses (R, S) and norms (R, S) on the host, coefficients (R, S, p) or None."""

    losses: Array
    norms: Array
    path: Tensor | None


class Launching(Engine[Tensor]):
    """Many epochs in one call of a compiled loop. Calls are short enough to be observed and interrupted.

    Args:
        rule: the update rule.
        loop: takes coef (S, p) and memory (S, k, p), which it changes; a table of the rule; the first epoch; the last
            epoch of each series; the number of epochs between records; and where to write losses (R, S), norms (R, S)
            and coefficients (R, S, p). All are contiguous.
        losses: gives the losses (S,) of coefficients.
        zeros: a tensor like the coefficients, of the dtype and on the device of the loop.
        first_launch: epochs of one series that surely take no longer than a launch should; the first launch makes as
            many, or 1000.
        takes_one_row: whether the table may be one row (3,) for all epochs.
    """

    def __init__(
        self,
        rule: Rule,
        loop: Loop,
        losses: Callable[[Tensor], Array],
        zeros: Tensor,
        *,
        first_launch: int,
        takes_one_row: bool = False,
    ) -> None:
        self._rule, self._loop, self._losses, self._zeros = rule, loop, losses, zeros
        row = constant_row(rule) if takes_one_row else None
        self._row = None if row is None else torch.from_numpy(row).to(zeros.device)
        self._length = max(_SHORTEST_FIRST, first_launch // len(zeros))

    def start(self, coef: Array) -> State[Tensor]:
        """See `Engine`."""
        memory = self._rule.start(torch.zeros_like(self._zeros))
        return State(0, torch.from_numpy(np.array(coef, order="C")).to(self._zeros), memory)

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State[Tensor]:
        """See `Engine`."""
        return State(epoch, coef.to(self._zeros, copy=True), tuple(part.to(self._zeros, copy=True) for part in memory))

    def losses(self, coef: Tensor) -> Array:
        """See `Engine`."""
        return self._losses(coef)

    def put(self, coef: Tensor, rows: Mask, values: Tensor) -> Tensor:
        """See `Engine`."""
        return with_rows(coef.clone(), rows, values)

    def run(self, state: State[Tensor], until: int, observer: Observer) -> State[Tensor]:
        """See `Engine`."""
        while state.epoch < until and not observer.is_over:
            stop = self._stop(state.epoch, until, observer)
            last = np.full(self._zeros.shape[0], stop, np.int64)
            if observer.ended is not None:
                last[observer.ended] = 0
            began = time.perf_counter()
            new, records = self._launch(state, stop, last, observer)
            self._adapt_length(stop - state.epoch, time.perf_counter() - began)
            state = self._observe(state, new, last, observer, records)
        return state

    def _stop(self, epoch: int, until: int, observer: Observer) -> int:
        """The last epoch of the next launch: as long as it should take, with no more records than memory is for."""
        n_series, n_coef = self._zeros.shape
        most = max(1, MOST_RECORDED // (n_series * (n_coef if observer.wants_coef else 2)))
        stop = min(until, epoch + self._length)
        if n_records(epoch, stop, observer.every) > most:
            stop = min(stop, next_record(epoch, observer.every) + most * observer.every)
        return stop

    def _adapt_length(self, n_epochs: int, seconds: float) -> None:
        """Choose the length of the next launch by the time that the last one took."""
        if seconds <= 0.0:
            return
        growth = min(_LAUNCH_SECONDS / seconds, _LARGEST_GROWTH)
        is_short = growth == _LARGEST_GROWTH
        self._length = int(self._length * _LARGEST_GROWTH) if is_short else max(1, int(n_epochs * growth))

    def _launch(
        self, state: State[Tensor], stop: int, last: NDArray[np.int64], observer: Observer
    ) -> tuple[State[Tensor], _Records]:
        """Call the loop: the state after it, and the records."""
        n_series, n_coef = self._zeros.shape
        device, count = self._zeros.device, n_records(state.epoch, stop, observer.every)
        rows = self._row
        if rows is None:
            rows = torch.from_numpy(table(self._rule, state.epoch, stop)).to(device)
        measured = torch.zeros((2, count, n_series), dtype=torch.float64, device=device)
        path = self._zeros.new_zeros((count, n_series, n_coef)) if observer.wants_coef else None
        coef = state.coef.clone(memory_format=torch.contiguous_format)
        memory = self._zeros.new_zeros((n_series, len(state.memory), n_coef))
        for i, part in enumerate(state.memory):
            memory[:, i] = part
        ends = torch.from_numpy(last).to(device)
        self._loop(coef, memory, rows, state.epoch, ends, observer.every, measured[0], measured[1], path)
        on_host = measured.cpu().numpy()
        return State(stop, coef, tuple(memory.unbind(1))), _Records(on_host[0], on_host[1], path)

    def _observe(
        self,
        before: State[Tensor],
        after: State[Tensor],
        last: NDArray[np.int64],
        observer: Observer,
        records: _Records,
    ) -> State[Tensor]:
        """Show the records of a launch to the observer; the state after that.

        Where series end within the launch it is made again, each series up to its end.
        """
        epochs = range(next_record(before.epoch, observer.every), after.epoch, observer.every)
        if not epochs:
            return after
        if isinstance(observer, Supervisor) and observer.takes_all(records.losses):
            observer.record_all([*epochs], records.losses)
            self.anchor = before
            return after
        has_ends, end_of_run = False, after.epoch
        divergences: list[tuple[int, Mask]] = []
        for i, epoch in enumerate(epochs):
            ends = observer.look(epoch, records.losses[i], lambda i=i: records.norms[i], lambda i=i: _row(records, i))
            if ends is None:
                continue
            has_ends = True
            last[ends.series] = epoch
            if ends.diverged.any():
                divergences.append((epoch, ends.diverged))
            if observer.is_over:
                end_of_run = epoch
                break
        if has_ends:
            stop = max(before.epoch + 1, end_of_run)
            again, _ = self._launch(before, stop, np.minimum(last, end_of_run), Unobserved())
            after = State(end_of_run, again.coef, again.memory)
        for epoch, series in divergences:
            assert isinstance(observer, Supervisor)
            # The state before this launch was finite, unless its own record is the first to show the divergence.
            anchor = None if epoch == epochs[0] and self.anchor is not None else before
            after = after.with_coef(self.settle(observer, after, epoch, series, anchor))
        self.anchor = before
        return after


def _row(records: _Records, i: int) -> Tensor:
    assert records.path is not None
    return records.path[i]
