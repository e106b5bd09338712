"""`TensorBoard`, a monitor that writes a log for TensorBoard."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from polyfit import plotting
from polyfit._optional import import_optional
from polyfit.monitor.records import Losses, View, data_and_fit, of_all_series

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes a log for TensorBoard: the scalar `loss` and, at the end, the image `fit`.

    The image shows the loss curve beside the data and the polynomial. Of many series it shows the first, and `loss` is
    their mean. Needs tensorboard and matplotlib (extra `tensorboard`).

    During the run, the log holds the records at which this monitor was called. At the end it holds all records in
    order: if some are missing, a complete file replaces the first one. They cannot be added to it, because TensorBoard
    reads an earlier step after a later one as a restart and drops the later one.

    Args:
        logdir: the folder of the run. Each run needs its own; it is created if it does not exist.

    Raises:
        ImportError: tensorboard or matplotlib is not installed.

    ``tensorboard --logdir logs`` shows the log of::

        polyfit.train(..., monitor=TensorBoard("logs/first"))
    """

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        self._writer_class: type[SummaryWriter] = import_optional(
            "torch.utils.tensorboard", "TensorBoard", "tensorboard"
        ).SummaryWriter
        import_optional("matplotlib", "TensorBoard", "tensorboard")
        self._logdir = Path(logdir)

    def _open(self) -> tuple[SummaryWriter, str]:
        mark = f".{uuid.uuid4().hex}"  # finds the file again
        return self._writer_class(str(self._logdir), flush_secs=1, filename_suffix=mark), mark

    def begin(self, view: View) -> None:
        """Open the log."""
        self._view = view
        self._times: dict[int, float] = {}
        self._writer, self._mark = self._open()

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Add the loss to the log."""
        self._times[epoch] = time.time()
        self._writer.add_scalar("loss", loss, epoch, walltime=self._times[epoch])

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Complete the log."""
        losses = of_all_series(losses)
        epochs = losses.epochs.tolist()
        replaced: list[Path] = []
        if list(self._times) != epochs:
            self._writer.close()
            replaced = list(self._logdir.glob(f"*{self._mark}"))
            self._writer, self._mark = self._open()
            seen = self._times or {0: time.time()}
            times = np.interp(epochs, list(seen), list(seen.values()))
            for epoch, value, at in zip(epochs, losses.values.tolist(), times.tolist(), strict=True):
                self._writer.add_scalar("loss", value, epoch, walltime=at)
        try:
            self._writer.add_image("fit", self._image(losses, coef), epochs[-1], dataformats="HWC")
        finally:
            self._writer.close()
            for path in replaced:
                path.unlink()

    def _image(self, losses: Losses, coef: Tensor) -> np.ndarray[Any, Any]:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(plotting.training_figure(losses, *data_and_fit(self._view, coef)))
        canvas.draw()
        return np.array(canvas.buffer_rgba())[..., :3]  # a copy: torch warns of a buffer that cannot be written to
