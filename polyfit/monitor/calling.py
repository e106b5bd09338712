"""How the monitors of a run are called; see `polyfit.monitor`."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from polyfit.monitor.records import Losses, View

Monitor = Callable[[int, float, Tensor], object]


class MonitorWarning(UserWarning):
    """A monitor raised an error and is not called any more."""


@dataclass(eq=False)
class _Entry:
    """A monitor and its calls so far."""

    monitor: Any
    last_epoch: int | None = None  # of the last call; None before the first
    seconds: float = 0.0  # that its calls took

    @property
    def wants_every_record(self) -> bool:
        return bool(getattr(self.monitor, "every_record", False))

    @property
    def name(self) -> str:
        return getattr(self.monitor, "__qualname__", type(self.monitor).__name__)


class MonitorGroup:
    """The monitors of one run, called as `polyfit.monitor` says.

    A monitor that raises is removed with a `MonitorWarning`. The group is true while it has monitors.

    Args:
        monitor: a monitor, a sequence of them, or None.
        share: the share of the time since `begin` that the calls may take. Monitors that want every record do not
            count; the others share it equally. The default was measured: with 4 % a run took 6 % longer, because the
            work around the calls takes time too.
        clock: returns the time in seconds.

    Raises:
        TypeError: a monitor cannot be called, or is a class.
    """

    def __init__(
        self,
        monitor: Monitor | Sequence[Monitor] | None,
        *,
        share: float = 0.02,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if monitor is None:
            monitors: Sequence[Any] = ()
        else:
            monitors = monitor if isinstance(monitor, Sequence) and not callable(monitor) else (monitor,)
        for one in monitors:
            if isinstance(one, type):
                raise TypeError(f"monitor is the class {one.__name__}; pass one of its objects: {one.__name__}(...)")
            if not callable(one):
                raise TypeError(f"monitor is {type(one).__name__}; pass a function of epoch, loss and coefficients")
        self._entries = [_Entry(one) for one in monitors]
        self._share = share / max(1, sum(not entry.wants_every_record for entry in self._entries))
        self._clock = clock
        self._began = clock()

    def __bool__(self) -> bool:
        """Whether there are monitors to call."""
        return bool(self._entries)

    def begin(self, view: View) -> None:
        """Call `begin` of the monitors that have it, and start the clock of the run."""
        for entry in tuple(self._entries):
            if hasattr(entry.monitor, "begin"):
                self._try(entry, entry.monitor.begin, view)
        self._began = self._clock()

    def __call__(
        self, epoch: int, loss: Callable[[], float], coef: Callable[[], Tensor], *, is_last: bool = False
    ) -> None:
        """Call the monitors that are due at a record.

        Args:
            epoch: the epoch of the record.
            loss: returns the loss; called only if a monitor is due.
            coef: returns the coefficients; likewise.
            is_last: whether this is the last record of the run, at which all monitors are due.
        """
        began = self._clock()
        allowed = self._share * (began - self._began)
        due = [
            entry
            for entry in self._entries
            if is_last or entry.last_epoch is None or entry.seconds <= allowed or entry.wants_every_record
        ]
        if due:
            value, current = loss(), coef()
            seconds = self._clock() - began
            for entry in due:
                self._show(entry, epoch, value, current, seconds)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Call each monitor for the last record if it has not seen it, then `end` of the monitors that have it.

        A run may end at any record, so the last one may have been skipped.
        """
        for entry in tuple(self._entries):
            if len(losses.epochs) and (entry.last_epoch is None or entry.last_epoch < int(losses.epochs[-1])):
                self._show(entry, int(losses.epochs[-1]), float(losses.values[-1].mean()), coef)
        for entry in tuple(self._entries):
            if hasattr(entry.monitor, "end"):
                self._try(entry, entry.monitor.end, losses, coef.detach().clone())

    def _show(self, entry: _Entry, epoch: int, loss: float, coef: Tensor, seconds: float = 0.0) -> None:
        """Call a monitor with a copy of the coefficients; `seconds` is the time that loss and coefficients took."""
        began = self._clock()
        self._try(entry, entry.monitor, epoch, loss, coef.detach().clone())
        entry.last_epoch = epoch
        entry.seconds += seconds + self._clock() - began

    def _try(self, entry: _Entry, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # no error of a monitor may end a run
            self._entries.remove(entry)
            reason = f"{type(error).__name__}: {error}"  # repr leaves out the path of an OSError
            _warn(f"the monitor {entry.name} raised {reason}; it is not called any more, and the run continues")


def _warn(message: str) -> None:
    """Warn at the line outside this package that called it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "polyfit":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, MonitorWarning, stacklevel=level)
