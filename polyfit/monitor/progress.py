"""`ProgressBar`, a progress bar with the current loss."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

from torch import Tensor

from polyfit._optional import import_optional
from polyfit.monitor.records import Losses, View


class ProgressBar:
    """A progress bar with the current loss. Needs rich (extra `cli`).

    Args:
        epochs: number of epochs at which the bar is full; None for those of the run.
        description: text before the bar.

    Raises:
        ImportError: rich is not installed.

    The bar is shown while a run lasts::

        polyfit.train(..., monitor=ProgressBar())

    As a context manager, it also stops if the run ends by an error::

        with ProgressBar() as bar:
            polyfit.train(..., monitor=bar)
    """

    def __init__(self, epochs: int | None = None, description: str = "training") -> None:
        progress = import_optional("rich.progress", "ProgressBar", "cli")
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),  # brackets hold units
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("loss {task.fields[loss]:.6g}"),
            progress.TimeElapsedColumn(),
            refresh_per_second=4,  # each refresh takes time from the run
        )
        self._epochs = epochs
        self._is_running = False
        self._task = self._progress.add_task(description, total=epochs, loss=math.nan, start=False)

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._progress.start_task(self._task)
            self._progress.start()

    def _stop(self) -> None:
        if self._is_running:
            self._is_running = False
            self._progress.stop_task(self._task)
            self._progress.stop()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def begin(self, view: View) -> None:
        """Show the bar at zero epochs."""
        total = view.epochs if self._epochs is None else self._epochs
        self._progress.reset(self._task, total=total, loss=math.nan)
        self._start()

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Move the bar to `epoch` and show `loss`."""
        self._progress.update(self._task, completed=epoch, loss=loss)

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Stop the bar; its last state stays on the screen."""
        self._stop()
