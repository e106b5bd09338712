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
    """A monitor failed, and is called no more."""


@dataclass(eq=False)
class _Watched:
    monitor: Any
    shown: int | None = None  # the last epoch
    spent: float = 0.0  # seconds

    @property
    def wants_all(self) -> bool:
        return bool(getattr(self.monitor, "every_record", False))

    @property
    def name(self) -> str:
        return getattr(self.monitor, "__qualname__", type(self.monitor).__name__)


class Watchers:
    """The monitors of one run, called as the head of this file says.

    Args:
        monitor: a monitor, several, or None.
        share: of the time since `begin`, for all of them together but those that want every record.
        clock: gives seconds.

    Raises:
        TypeError: a monitor is none.
    """

    def __init__(
        self,
        monitor: Monitor | Sequence[Monitor] | None,
        *,
        share: float = 0.02,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if monitor is None:
            several: Sequence[Any] = ()
        else:
            several = monitor if isinstance(monitor, Sequence) and not callable(monitor) else (monitor,)
        for one in several:
            if isinstance(one, type):
                raise TypeError(f"monitor is the class {one.__name__}; pass one of its objects: {one.__name__}(...)")
            if not callable(one):
                raise TypeError(f"monitor is {type(one).__name__}; pass a function of epoch, loss and coefficients")
        self._watched = [_Watched(one) for one in several]
        self._share = share / max(1, sum(not watched.wants_all for watched in self._watched))
        self._clock = clock
        self._began = clock()

    def __bool__(self) -> bool:
        """Whether there is any left."""
        return bool(self._watched)

    def begin(self, view: View) -> None:
        """The run begins."""
        for watched in tuple(self._watched):
            if hasattr(watched.monitor, "begin"):
                self._try(watched, watched.monitor.begin, view)
        self._began = self._clock()

    def __call__(
        self, epoch: int, loss: Callable[[], float], coef: Callable[[], Tensor], *, is_last: bool = False
    ) -> None:
        """A record; loss and coefficients are made only if they are shown to someone."""
        began = self._clock()
        allowed = self._share * (began - self._began)
        due = [one for one in self._watched if is_last or one.shown is None or one.spent <= allowed or one.wants_all]
        if due:
            value, current = loss(), coef()
            making = self._clock() - began
            for watched in due:
                self._show(watched, epoch, value, current, making)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """The run has ended. Who was not shown its last record (a run may end at any) is shown it now."""
        for watched in tuple(self._watched):
            if len(losses.epochs) and (watched.shown is None or watched.shown < int(losses.epochs[-1])):
                self._show(watched, int(losses.epochs[-1]), float(losses.values[-1].mean()), coef)
        for watched in tuple(self._watched):
            if hasattr(watched.monitor, "end"):
                self._try(watched, watched.monitor.end, losses, coef.detach().clone())

    def _show(self, watched: _Watched, epoch: int, loss: float, coef: Tensor, spent: float = 0.0) -> None:
        began = self._clock()
        self._try(watched, watched.monitor, epoch, loss, coef.detach().clone())
        watched.shown = epoch
        watched.spent += spent + self._clock() - began

    def _try(self, watched: _Watched, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:  # whatever it is, the run is worth more
            self._watched.remove(watched)
            _warn(f"the monitor {watched.name} failed and is called no more, the run goes on: {error!r}")


def _warn(message: str) -> None:
    """Warn at the line that called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "polyfit":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, MonitorWarning, stacklevel=level)
