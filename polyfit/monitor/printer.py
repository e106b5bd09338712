"""`Printer`, a line of text each so many epochs."""

from __future__ import annotations

from torch import Tensor

from polyfit._checks import check_count
from polyfit.monitor.records import Losses, View


class Printer:
    """Prints the epoch and the loss, a line each `every` epochs and one at the end.

    It is called at records of the loss: pass a multiple of `record_every`.

    Args:
        every: epochs from line to line; None for each record.

    Raises:
        TypeError: ``every`` is not an int.
        ValueError: ``every`` is below 1.

    >>> import torch
    >>> from polyfit import optimizers, train
    >>> x = torch.tensor([-1.0, 1.0])
    >>> _ = train(x, x, torch.zeros(2), optimizer=optimizers.SGD(0.25), epochs=250, monitor=Printer(200))
    epoch 0: loss 1
    epoch 200: loss 0
    epoch 250: loss 0
    """

    every_record = True

    def __init__(self, every: int | None = None) -> None:
        self._every = None if every is None else check_count("every", every, 1)

    def begin(self, view: View) -> None:
        """See `polyfit.monitor`."""
        self._printed: int | None = None

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Print a line, if one is due."""
        self._last = (epoch, loss)
        if self._every is None or epoch % self._every == 0:
            self._print()

    def end(self, losses: Losses, coef: Tensor) -> None:
        """Print the last record, if it was not printed."""
        if self._printed != self._last[0]:
            self._print()

    def _print(self) -> None:
        epoch, loss = self._last
        print(f"epoch {epoch}: loss {loss:.6g}")
        self._printed = epoch
