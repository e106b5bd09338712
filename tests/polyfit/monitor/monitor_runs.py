"""Runs with monitors, timed by a clock that only the tests move."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.monitor import View
from polyfit.monitor.calling import MonitorGroup
from polyfit.training import Losses

F64 = torch.float64


class Clock:
    """A clock that moves only when a test adds to `now`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A monitor whose calls take this number of seconds each."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds, self.epochs = clock, seconds, []
        self.losses: list[float] = []

    def __call__(self, epoch: int, loss: float, coef: Tensor) -> None:
        self.clock.now += self.seconds
        self.epochs.append(epoch)
        self.losses.append(loss)

    @property
    def spent(self) -> float:
        return self.seconds * len(self.epochs)


class Thorough(Slow):
    """A slow monitor that wants every record."""

    every_record = True


def evaluate(x: Tensor, coef: Tensor) -> Tensor:
    return sum((coef[..., k : k + 1] * x**k for k in range(coef.shape[-1])), torch.zeros_like(x))


def a_view(x: Tensor | None = None, y: Tensor | None = None, epochs: int = 100) -> View:
    x = torch.linspace(-1.0, 1.0, 50) if x is None else x
    return View(x, x.sin() if y is None else y, epochs, evaluate)


def a_run(
    monitors: MonitorGroup,
    losses: Losses,
    coef: Tensor,
    *,
    view: View | None = None,
    clock: Clock | None = None,
    seconds: float = 1e-3,
    marks_last: bool = True,
) -> None:
    """Call the monitors as a run does whose records take `seconds` each."""
    monitors.begin(a_view() if view is None else view)
    epochs = losses.epochs.tolist()
    for i, epoch in enumerate(epochs):
        if clock is not None:
            clock.now += seconds
        is_last = marks_last and i == len(epochs) - 1
        monitors(epoch, lambda i=i: float(losses.values[i].mean()), lambda: coef, is_last=is_last)
    monitors.end(losses, coef)


def some_losses(n_records: int, *batch: int) -> Losses:
    epochs = 10 * torch.arange(n_records)
    shares = torch.rand(n_records, *batch, dtype=F64)
    return Losses(epochs, shares + torch.exp(-0.01 * epochs.double()).view(-1, *(1 for _ in batch)))


COEF = torch.tensor([0.1, 0.9, -0.2])
