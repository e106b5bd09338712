"""What every engine tells of a run on its way: losses recorded, early stopping, monitors, Ctrl-C.

Engines call `Watch.look` at each record, before the update that follows, and end a series where they are told to.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.monitor import Losses
from polyfit.monitor.calling import MonitorGroup
from polyfit.optimizers import Array
from polyfit.training.result import EarlyStopping, Reason

Mask = NDArray[np.bool_]


class Watch:
    """The records of a run, and who has ended.

    A group is what has a loss of its own: each series with ``per_series=True``, all of them together without.

    Args:
        every: epochs from record to record.
        n_series: S.
        per_series: whether each series has its own loss.
        early_stopping: when to end, or None.
        watchers: the monitors.
        as_coef: makes of an engine's coefficients (S, p) a copy as the caller has them.
        keep_path: whether coefficients are kept at each record.
    """

    def __init__(
        self,
        every: int,
        n_series: int,
        *,
        per_series: bool,
        early_stopping: EarlyStopping | None,
        watchers: MonitorGroup,
        as_coef: Callable[[Any], Tensor],
        keep_path: bool,
    ) -> None:
        self.every, self.is_interrupted = every, False
        self._n_series, self._per_series, self._early_stopping = n_series, per_series, early_stopping
        self._watchers, self._as_coef, self._keep_path = watchers, as_coef, keep_path
        n_groups = n_series if per_series else 1
        self._epochs: list[int] = []
        self._values: list[Array] = []  # (records, G) each
        self._path: list[Tensor] = []
        self._is_going = np.ones(n_groups, bool)
        self._n_going = n_groups
        self._updates = np.zeros(n_groups, np.int64)
        self._reasons = np.zeros(n_groups, np.int8)
        self._best = np.full(n_groups, np.inf)
        self._best_epoch = np.zeros(n_groups, np.int64)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done."""
        return self.is_interrupted or not self._n_going

    @property
    def wants_coef(self) -> bool:
        """Whether coefficients are looked at on the way."""
        return self._keep_path or bool(self._watchers)

    @property
    def is_plain(self) -> bool:
        """Whether records are all that is wanted."""
        return not self.wants_coef and self._early_stopping is None

    @property
    def ended(self) -> Mask | None:
        """Which series (S,) have ended; None if none has."""
        return None if self._n_going == len(self._is_going) else self._of_series(~self._is_going)

    def _of_series(self, of_groups: Any) -> Any:
        return of_groups if self._per_series else np.broadcast_to(of_groups, self._n_series)

    def totals(self, losses: Array) -> Array:
        """The losses of groups (..., G) from those of series (..., S)."""
        return losses if self._per_series else losses.sum(-1, keepdims=True)

    def look(
        self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]
    ) -> tuple[Mask, Mask] | None:
        """Record the losses (S,) after so many epochs.

        Args:
            epoch: how many.
            losses: of each series.
            norms: gives the norms (S,) of their gradients.
            coef: gives their coefficients (S, p).

        Returns:
            Which series (S,) end here, and which of these have left the finite numbers; None if none ends.
        """
        totals = np.asarray(self.totals(losses), np.float64)
        if self._n_going < len(totals):
            totals = np.where(self._is_going, totals, self._values[-1][-1])
        self._record(epoch, totals, coef)
        ends = self._is_going & ~np.isfinite(totals)
        has_diverged = ends
        if ends.any():
            self._end(ends, epoch, Reason.DIVERGED)
        stopping = self._early_stopping
        if stopping is not None:
            is_less = totals < self._best - stopping.min_delta
            self._best = np.where(is_less, totals, self._best)
            self._best_epoch = np.where(is_less, epoch, self._best_epoch)
            for is_met, reason in self._conditions(stopping, epoch, totals, norms):
                now = self._is_going & is_met
                if now.any():
                    self._end(now, epoch, reason)
                    ends = ends | now
        return (self._of_series(ends), self._of_series(has_diverged)) if ends.any() else None

    def _conditions(
        self, stopping: EarlyStopping, epoch: int, totals: Array, norms: Callable[[], Array]
    ) -> list[tuple[Mask, Reason]]:
        conditions = []
        if stopping.loss is not None:
            conditions.append((totals <= stopping.loss, Reason.LOSS))
        if stopping.gradient_norm is not None:
            norm = norms()
            norm = norm if self._per_series else np.sqrt((norm * norm).sum(keepdims=True))
            conditions.append((norm <= stopping.gradient_norm, Reason.GRADIENT))
        if stopping.patience is not None:
            conditions.append((epoch - self._best_epoch >= stopping.patience, Reason.PATIENCE))
        return conditions

    def _end(self, groups: Mask, epoch: int, reason: Reason) -> None:
        self._is_going = self._is_going & ~groups
        self._n_going = int(self._is_going.sum())
        self._updates[groups], self._reasons[groups] = epoch, reason

    def _record(self, epoch: int, totals: Array, coef: Callable[[], Any], *, is_last: bool = False) -> None:
        self._epochs.append(epoch)
        self._values.append(totals[None])
        if self._keep_path:
            now, ended = self._as_coef(coef()), self.ended
            if ended is not None and self._path:  # a loop that has gone on meanwhile may show where they would be
                kept = torch.from_numpy(ended.copy()).view(*now.shape[:-1], 1).to(now.device)
                now = torch.where(kept, self._path[-1], now)
            self._path.append(now)
        if self._watchers:
            try:
                self._watchers(epoch, lambda: float(np.mean(totals)), lambda: self._as_coef(coef()), is_last=is_last)
            except KeyboardInterrupt:  # from within a monitor: as at any other place
                self.is_interrupted = True

    def record_all(self, epochs: list[int], losses: Array) -> None:
        """Records (R, S) of a whole run at once, where `is_plain` and all are finite."""
        self._epochs, self._values = [*epochs], [self.totals(losses)]

    def has_left(self, groups: Mask, epochs: NDArray[np.int64]) -> None:
        """These groups left the finite numbers after so many epochs (G,), which was seen at a later record."""
        self._updates = np.where(groups, epochs, self._updates)
        if len(groups) == 1:  # the record that saw it is of the coefficients of that epoch
            self._epochs[-1] = int(epochs[0])

    def groups(self, series: Mask) -> Mask:
        """Groups (G,) of series (S,)."""
        return series if self._per_series else np.array([series.any()])

    def finish(self, epoch: int, losses: Array, coef: Any) -> Mask | None:
        """The end of the run after so many epochs; gives the series (S,) that left the finite numbers only now."""
        totals = np.asarray(self.totals(losses), np.float64)
        if self._epochs and self._n_going < len(totals):
            totals = np.where(self._is_going, totals, self._values[-1][-1])
        left = self._is_going & ~np.isfinite(totals)
        if not self._epochs or (self._epochs[-1] < epoch and self._is_going.any()):
            self._record(epoch, totals, lambda: coef, is_last=True)
        if left.any():
            self._end(left, epoch, Reason.DIVERGED)
        going = self._is_going
        self._updates[going] = epoch
        self._reasons[going] = Reason.INTERRUPTED if self.is_interrupted else Reason.EPOCHS
        return self._of_series(left) if left.any() else None

    def _records(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.array(self._epochs)), torch.from_numpy(np.concatenate(self._values))

    def losses(self, batch: torch.Size) -> Losses:
        """All records."""
        epochs, values = self._records()
        return Losses(epochs, values.view(-1, *batch) if self._per_series else values[:, 0])

    def path(self) -> Tensor | None:
        """The coefficients of all records."""
        return torch.stack(self._path) if self._keep_path else None

    def outcome(self, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Epochs made, and codes of reasons: () or (*batch)."""
        shape = batch if self._per_series else ()
        return torch.from_numpy(self._updates).view(shape), torch.from_numpy(self._reasons).view(shape)

    # --- what a run goes on from ---

    def state(self) -> dict[str, Any]:
        """All of it, in tensors."""
        epochs, values = self._records()
        return {
            "epochs": epochs,
            "values": values,
            "path": self.path(),
            **{name: torch.from_numpy(getattr(self, f"_{name}").copy()) for name in _KEPT},
        }

    def load(self, state: dict[str, Any], epoch: int, *, goes_on: bool) -> None:
        """Take over what `state` gave after so many epochs; series that were stopped early go on if asked to."""
        for name in _KEPT:
            setattr(self, f"_{name}", state[name].numpy().copy())
        always = [Reason.EPOCHS, Reason.INTERRUPTED]
        stopped = [] if not goes_on else [Reason.LOSS, Reason.PATIENCE, Reason.GRADIENT]
        self._is_going = np.isin(self._reasons, [*always, *stopped])
        self._n_going = int(self._is_going.sum())
        kept = torch.ones(len(state["epochs"]), dtype=torch.bool)
        if self._n_going:  # the last record is made anew where it is one of the run that goes on
            kept = (state["epochs"] % self.every == 0) & (state["epochs"] < epoch)
        self._epochs = state["epochs"][kept].tolist()
        self._values = [state["values"][kept].numpy()]
        if self._keep_path:
            if state["path"] is None:
                raise ValueError("the run was begun without its path; pass keep_path=False, or begin it anew")
            self._path = list(state["path"][kept])


_KEPT = ("updates", "reasons", "best", "best_epoch")


class Finder:
    """A watch that looks at every epoch, for the first at which each group has left the finite numbers."""

    every, is_over, is_interrupted, wants_coef, ended = 1, False, False, True, None

    def __init__(self, totals: Callable[[Array], Array], as_array: Callable[[Any], Any]) -> None:
        self._totals, self._copy = totals, as_array
        self.first: NDArray[np.int64] | None = None  # (G,), -1 where it has not
        self.coef: Any = None  # of each series at that epoch, (S, p)

    def look(self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]) -> None:
        """See `Watch.look`."""
        has_left = ~np.isfinite(self._totals(losses))
        if self.first is None:
            self.first = np.full(len(has_left), -1, np.int64)
        new = has_left & (self.first < 0)
        if new.any():
            self.first[new] = epoch
            found = self._copy(coef())
            if self.coef is None:
                self.coef = found
            else:
                rows = np.broadcast_to(new, len(losses))
                self.coef[rows] = found[rows]


class Silent:
    """A watch that looks at nothing."""

    every, is_over, is_interrupted, wants_coef, ended = 1 << 62, False, False, False, None

    def look(self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]) -> None:
        """See `Watch.look`."""


class Interrupts:
    """While it is entered, Ctrl-C is a flag of a watch, so that a run ends between two epochs; a second one raises."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._is_ours = watch, False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._flag)
            self._is_ours = True
        return self

    def _flag(self, number: int, frame: FrameType | None) -> None:
        if self._watch.is_interrupted:
            raise KeyboardInterrupt
        self._watch.is_interrupted = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
