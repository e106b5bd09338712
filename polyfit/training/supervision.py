"""What is looked at while a run lasts: records of the loss, early stopping, monitors, divergence, Ctrl-C.

Engines call `Observer.look` at each record, before the update that follows it, and end the series that it names.
"""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.monitor import Losses
from polyfit.monitor.calling import MonitorGroup
from polyfit.optimizers import Array
from polyfit.training.result import EarlyStopping, Reason

Mask = NDArray[np.bool_]


class Ends(NamedTuple):
    """The series (S,) that end at a record, and those of them that became NaN or infinite."""

    series: Mask
    diverged: Mask


class Observer(ABC):
    """What an engine asks while it runs, and what it shows.

    Attributes:
        every: epochs from record to record.
        is_interrupted: whether Ctrl-C was pressed.
        wants_coef: whether the coefficients of records are looked at.
    """

    every: int
    is_interrupted = False
    wants_coef = False

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return False

    @property
    def ended(self) -> Mask | None:
        """Which series (S,) have ended; None if none has."""
        return None

    @abstractmethod
    def look(self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]) -> Ends | None:
        """Take a record.

        Args:
            epoch: number of epochs made.
            losses: of each series, (S,).
            norms: gives the norms (S,) of their gradients.
            coef: gives their coefficients (S, p).

        Returns:
            The series that end here; None if none does.
        """


class Unobserved(Observer):
    """For epochs that nobody looks at."""

    every = 1 << 62

    def look(self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]) -> None:
        """See `Observer`; called at epoch 0, if at all."""


class DivergenceFinder(Observer):
    """Looks at every epoch for the first at which each group became NaN or infinite.

    Args:
        totals: gives the losses of groups (G,) from those of series (S,).

    Attributes:
        first: that epoch (G,), -1 for a group without one; None before the first record.
        coef: coefficients (S, p) of each series at that epoch; None if there is none.
    """

    every, wants_coef = 1, True

    def __init__(self, totals: Callable[[Array], Array]) -> None:
        self._totals = totals
        self.first: NDArray[np.int64] | None = None
        self.coef: Any = None

    def look(self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]) -> None:
        """See `Observer`."""
        has_diverged = ~np.isfinite(self._totals(losses))
        if self.first is None:
            self.first = np.full(len(has_diverged), -1, np.int64)
        new = has_diverged & (self.first < 0)
        if new.any():
            self.first[new] = epoch
            values = coef()
            found: Any = values.clone() if isinstance(values, Tensor) else values.copy()
            if self.coef is None:
                self.coef = found
            else:
                rows = np.broadcast_to(new, len(losses))
                self.coef[rows] = found[rows]


class Supervisor(Observer):
    """The records of a run, and which series have ended.

    A group is what has a loss of its own: each series with ``per_series=True``, all series together without.

    Args:
        every: epochs from record to record.
        n_series: S.
        per_series: whether each series has its own loss.
        early_stopping: when to end, or None.
        monitors: the monitors.
        as_coef: makes of an engine's coefficients (S, p) a copy in the caller's shape and dtype.
        keep_path: whether the coefficients of records are kept.
    """

    def __init__(
        self,
        every: int,
        n_series: int,
        *,
        per_series: bool,
        early_stopping: EarlyStopping | None,
        monitors: MonitorGroup,
        as_coef: Callable[[Any], Tensor],
        keep_path: bool,
    ) -> None:
        self.every = every
        self._n_series, self._per_series, self._early_stopping = n_series, per_series, early_stopping
        self._monitors, self._as_coef, self._keep_path = monitors, as_coef, keep_path
        self.wants_coef = keep_path or bool(monitors)
        n_groups = n_series if per_series else 1
        self._epochs: list[NDArray[np.int64]] = []  # (records,) each
        self._values: list[Array] = []  # (records, G) each
        self._path: list[Tensor] = []
        self._is_running = np.ones(n_groups, bool)
        self._n_running = n_groups
        self._updates = np.zeros(n_groups, np.int64)
        self._reasons = np.zeros(n_groups, np.int8)
        self._best = np.full(n_groups, np.inf)
        self._best_epoch = np.zeros(n_groups, np.int64)

    @property
    def is_over(self) -> bool:
        """See `Observer`."""
        return self.is_interrupted or not self._n_running

    def takes_all(self, losses: Array) -> bool:
        """Whether records (R, S) can be taken at once: nothing else is looked at, and no series has ended or ends."""
        is_watched = self.wants_coef or self._early_stopping is not None
        return not is_watched and self.ended is None and bool(np.isfinite(self.totals(losses)).all())

    @property
    def ended(self) -> Mask | None:
        """See `Observer`."""
        return None if self._n_running == len(self._is_running) else self._of_series(~self._is_running)

    def _of_series(self, of_groups: Any) -> Any:
        return of_groups if self._per_series else np.broadcast_to(of_groups, self._n_series)

    def groups(self, series: Mask) -> Mask:
        """The groups (G,) of series (S,)."""
        return series if self._per_series else np.array([series.any()])

    def totals(self, losses: Array) -> Array:
        """The losses of groups (..., G) from those of series (..., S)."""
        return losses if self._per_series else losses.sum(-1, keepdims=True)

    # --- records ---

    def look(self, epoch: int, losses: Array, norms: Callable[[], Array], coef: Callable[[], Any]) -> Ends | None:
        """See `Observer`."""
        totals = np.asarray(self.totals(losses), np.float64)
        if self._n_running < len(totals):
            totals = np.where(self._is_running, totals, self._values[-1][-1])
        self._record(epoch, totals, coef)
        ends = diverged = self._is_running & ~np.isfinite(totals)
        if diverged.any():
            self._end(diverged, epoch, Reason.DIVERGED)
        if self._early_stopping is not None:
            for is_met, reason in self._conditions(self._early_stopping, epoch, totals, norms):
                now = self._is_running & is_met
                if now.any():
                    self._end(now, epoch, reason)
                    ends = ends | now
        return Ends(self._of_series(ends), self._of_series(diverged)) if ends.any() else None

    def _conditions(
        self, stopping: EarlyStopping, epoch: int, totals: Array, norms: Callable[[], Array]
    ) -> list[tuple[Mask, Reason]]:
        """The groups (G,) that meet each condition of early stopping."""
        is_better = totals < self._best - stopping.min_delta
        self._best = np.where(is_better, totals, self._best)
        self._best_epoch = np.where(is_better, epoch, self._best_epoch)
        conditions = []
        if stopping.loss is not None:
            conditions.append((totals <= stopping.loss, Reason.LOSS))
        if stopping.gradient_norm is not None:
            norm = norms()
            if not self._per_series:
                with np.errstate(all="ignore"):  # the loss shows that a run diverges
                    norm = np.sqrt((norm * norm).sum(keepdims=True))
            conditions.append((norm <= stopping.gradient_norm, Reason.GRADIENT))
        if stopping.patience is not None:
            conditions.append((epoch - self._best_epoch >= stopping.patience, Reason.PATIENCE))
        return conditions

    def _end(self, groups: Mask, epoch: int, reason: Reason) -> None:
        self._is_running = self._is_running & ~groups
        self._n_running = int(self._is_running.sum())
        self._updates[groups], self._reasons[groups] = epoch, reason

    def _record(self, epoch: int, totals: Array, coef: Callable[[], Any], *, is_last: bool = False) -> None:
        self._epochs.append(np.array([epoch], np.int64))
        self._values.append(totals[None])
        if self._keep_path:
            now, ended = self._as_coef(coef()), self.ended
            if ended is not None and self._path:  # a compiled loop may have made more epochs of series that ended
                now = self._merged(ended, self._path[-1], now)
            self._path.append(now)
        # Of a single loss that diverged the engine finds the epoch yet: monitors get that record at the end.
        if self._monitors and not (len(totals) == 1 and not np.isfinite(totals[0])):
            try:
                self._monitors(epoch, lambda: float(np.mean(totals)), lambda: self._as_coef(coef()), is_last=is_last)
            except KeyboardInterrupt:  # within a monitor: the same as at any other place
                self.is_interrupted = True

    def record_all(self, epochs: Sequence[int] | NDArray[np.int64], losses: Array) -> None:
        """Take records (R, S) at once, where `takes_all` allows it."""
        self._epochs.append(np.array(epochs, np.int64))
        self._values.append(self.totals(losses))

    def set_divergence(self, groups: Mask, epochs: NDArray[np.int64]) -> None:
        """Set the epochs (G,) at which these groups became NaN or infinite, which a later record showed."""
        self._updates = np.where(groups, epochs, self._updates)
        if len(groups) == 1:  # that record belongs to the coefficients of this epoch
            self._epochs[-1][-1] = epochs[0]

    def settle(self, coef: Any, losses: Callable[[], Array]) -> None:
        """Let the records of series that became NaN or infinite end with their last coefficients.

        Args:
            coef: coefficients of the result, (S, p).
            losses: gives those of them, (S,).
        """
        has_diverged = self._reasons == int(Reason.DIVERGED)  # numpy takes 10 us to compare with an enum
        if not has_diverged.any():
            return
        totals = np.asarray(self.totals(losses()), np.float64)
        is_after = (np.concatenate(self._epochs)[:, None] >= self._updates) & has_diverged
        values = np.concatenate(self._values)
        self._values = [np.where(is_after & ~np.isfinite(totals), totals, values)]
        if self._keep_path:
            last = self._as_coef(coef)
            for i in np.flatnonzero(is_after.any(1)):
                self._path[i] = self._merged(self._of_series(is_after[i]), last, self._path[i])

    @staticmethod
    def _merged(series: Mask, values: Tensor, others: Tensor) -> Tensor:
        """Coefficients (*batch, p) of `values` for some series (S,), and of `others` for the rest."""
        rows = torch.from_numpy(series.copy()).view(*values.shape[:-1], 1).to(values.device)
        return torch.where(rows, values, others)

    def finish(self, epoch: int, losses: Array, coef: Any) -> Mask | None:
        """End the run; the series (S,) that became NaN or infinite since the last record, None if none did.

        Args:
            epoch: number of epochs made.
            losses: of each series, (S,).
            coef: coefficients (S, p).
        """
        totals = np.asarray(self.totals(losses), np.float64)
        if self._epochs and self._n_running < len(totals):
            totals = np.where(self._is_running, totals, self._values[-1][-1])
        diverged = self._is_running & ~np.isfinite(totals)
        if not self._epochs or (self._epochs[-1][-1] < epoch and self._is_running.any()):
            self._record(epoch, totals, lambda: coef, is_last=True)
        if diverged.any():
            self._end(diverged, epoch, Reason.DIVERGED)
        running = self._is_running
        self._updates[running] = epoch
        self._reasons[running] = Reason.INTERRUPTED if self.is_interrupted else Reason.EPOCHS
        return self._of_series(diverged) if diverged.any() else None

    # --- results ---

    def _records(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.concatenate(self._epochs)), torch.from_numpy(np.concatenate(self._values))

    def losses(self, batch: torch.Size) -> Losses:
        """All records."""
        epochs, values = self._records()
        return Losses(epochs, values.view(-1, *batch) if self._per_series else values[:, 0])

    def path(self) -> Tensor | None:
        """The coefficients of all records."""
        return torch.stack(self._path) if self._keep_path else None

    def outcome(self, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Numbers of epochs made, and codes of reasons: () or (*batch)."""
        shape = batch if self._per_series else ()
        return torch.from_numpy(self._updates.copy()).view(shape), torch.from_numpy(self._reasons.copy()).view(shape)

    # --- state, for a run that is resumed ---

    def state(self) -> dict[str, Any]:
        """Everything, in tensors."""
        epochs, values = self._records()
        return {
            "epochs": epochs,
            "values": values,
            "path": self.path(),
            "updates": torch.from_numpy(self._updates.copy()),
            "reasons": torch.from_numpy(self._reasons.copy()),
            "best": torch.from_numpy(self._best.copy()),
            "best_epoch": torch.from_numpy(self._best_epoch.copy()),
        }

    def load(self, state: dict[str, Any], epoch: int, *, continues: bool) -> None:
        """Take over the result of `state`.

        Args:
            state: what `state` gave.
            epoch: number of epochs made then.
            continues: whether series that were stopped early run again.
        """
        self._updates, self._reasons = state["updates"].numpy().copy(), state["reasons"].numpy().copy()
        self._best, self._best_epoch = state["best"].numpy().copy(), state["best_epoch"].numpy().copy()
        running = [Reason.EPOCHS, Reason.INTERRUPTED]
        if continues:
            running += [Reason.LOSS, Reason.PATIENCE, Reason.GRADIENT]
        self._is_running = np.isin(self._reasons, running)
        self._n_running = int(self._is_running.sum())
        kept = torch.ones(len(state["epochs"]), dtype=torch.bool, device="cpu")
        if self._n_running:  # the resumed run takes the last record again where it is one of its own
            kept = (state["epochs"] % self.every == 0) & (state["epochs"] < epoch)
        self._epochs = [state["epochs"][kept].numpy()] if bool(kept.any()) else []
        self._values = [state["values"][kept].numpy()]
        if self._keep_path:
            if state["path"] is None:
                raise ValueError("the run was begun without its path; pass keep_path=False, or begin it anew")
            self._path = list(state["path"][kept])


class Interrupts:
    """A block of code in which Ctrl-C sets a flag of a supervisor: a run ends between two epochs.

    A second Ctrl-C raises KeyboardInterrupt.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor, self._is_ours = supervisor, False

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._flag)
            self._is_ours = True
        return self

    def _flag(self, number: int, frame: FrameType | None) -> None:
        if self._supervisor.is_interrupted:
            raise KeyboardInterrupt
        self._supervisor.is_interrupted = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
