"""Monitors: what `polyfit.train` calls at each record, with the epoch, the loss and the coefficients."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch import Tensor


class ProgressBar:
    """A progress bar with the current loss. Needs rich (extra `cli`).

    Args:
        epochs: of the run.
        description: what stands before the bar.

    Use it as a context manager; rich redraws it ten times a second at most, however often it is called::

        with ProgressBar(epochs) as bar:
            polyfit.train(..., epochs=epochs, monitor=bar)
    """

    def __init__(self, epochs: int, description: str = "training") -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.6g}"),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task(description, total=epochs, loss=float("nan"))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Move the bar to `epoch` and show `loss`."""
        self._progress.update(self._task, completed=epoch, loss=loss)
