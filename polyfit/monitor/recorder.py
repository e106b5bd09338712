"""`Recorder`, a monitor that keeps every record."""

from __future__ import annotations

from torch import Tensor


class Recorder:
    """Keeps every record.

    Attributes:
        epochs: the epoch of each record.
        losses: the loss at each record.
        coefs: the coefficients at each record.

    >>> import torch
    >>> from polyfit import optimizers, train
    >>> recorder, x = Recorder(), torch.tensor([-1.0, 1.0])
    >>> _ = train(x, x, torch.zeros(2), optimizer=optimizers.SGD(0.25), epochs=2, record_every=1, monitor=recorder)
    >>> recorder.epochs, recorder.losses
    ([0, 1, 2], [1.0, 0.25, 0.0625])
    >>> recorder.coefs[1]
    tensor([0.0000, 0.5000])
    """

    every_record = True

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.losses: list[float] = []
        self.coefs: list[Tensor] = []

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        """Append a record."""
        self.epochs.append(epoch)
        self.losses.append(loss)
        self.coefs.append(coef.detach().clone())
