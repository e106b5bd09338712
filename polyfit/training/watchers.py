"""Monitors as `polyfit.train` calls them: within a share of the run's time, and never at the run's expense."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Monitor = Callable[[int, float, Tensor], object]


class MonitorWarning(UserWarning):
    """A monitor failed, and is called no more."""


@dataclass(frozen=True)
class View:
    """What a monitor is told of a run that begins.

    Attributes:
        x: samples, as the caller gave them.
        y: targets.
        epochs: how many are to be made.
        evaluate: values of the polynomial at x for coefficients, in the basis and domain of the run.
    """

    x: Tensor
    y: Tensor
    epochs: int
    evaluate: Callable[[Tensor, Tensor], Tensor]


@dataclass
class _Watched:
    monitor: Any
    spent: float = 0.0
    has_failed: bool = field(default=False)


class Watchers:
    """Any number of monitors; each may take its part of a share of the time that has passed.

    The first and the last record are always shown, the others while there is time; all of them to a monitor with a true
    attribute `every_record`. A monitor that raises is warned of once and left out from then on.

    Args:
        monitor: a monitor, several, or None.
        share: of the time, for all of them together.
        clock: gives seconds.
    """

    def __init__(
        self,
        monitor: Monitor | Sequence[Monitor] | None,
        *,
        share: float = 0.04,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        several = () if monitor is None else monitor if isinstance(monitor, (list, tuple)) else (monitor,)
        for one in several:
            if not callable(one):
                raise TypeError(f"monitor is {type(one).__name__}; pass a function of epoch, loss and coefficients")
        self._all = [_Watched(one) for one in several]
        self._share, self._clock = share / max(1, len(several)), clock
        self._began = clock()

    def __bool__(self) -> bool:
        return any(not watched.has_failed for watched in self._all)

    def _call(self, watched: _Watched, function: Callable[..., object], *args: Any) -> None:
        began = self._clock()
        try:
            function(*args)
        except Exception as error:  # whatever it is, the run is worth more
            watched.has_failed = True
            name = getattr(watched.monitor, "__name__", type(watched.monitor).__name__)
            warnings.warn(
                f"the monitor {name} failed and is called no more, the run goes on: {error!r}",
                MonitorWarning,
                stacklevel=2,
            )
        watched.spent += self._clock() - began

    def begin(self, view: View) -> None:
        """The run begins."""
        for watched in self._all:
            if hasattr(watched.monitor, "begin"):
                self._call(watched, watched.monitor.begin, view)
            watched.spent = -1.0  # the first record is free
        self._began = self._clock()

    def __call__(
        self, epoch: int, loss: Callable[[], float], coef: Callable[[], Tensor], *, is_last: bool = False
    ) -> None:
        """A record, of which loss and coefficients are made when they are shown."""
        allowed = self._share * (self._clock() - self._began)
        for watched in self._all:
            if watched.has_failed:
                continue
            is_due = is_last or watched.spent <= allowed or getattr(watched.monitor, "every_record", False)
            if is_due:
                watched.spent = max(watched.spent, 0.0)
                self._call(watched, watched.monitor, epoch, loss(), coef())

    def end(self, losses: Any, coef: Tensor) -> None:
        """The run has ended."""
        for watched in self._all:
            if not watched.has_failed and hasattr(watched.monitor, "end"):
                self._call(watched, watched.monitor.end, losses, coef)
