"""What a monitor is told: the recorded losses, and a view of the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.plotting import sample_step


class Losses(NamedTuple):
    """The recorded losses.

    Attributes:
        epochs: after how many epochs a loss was recorded, (records,) int64, on the CPU.
        values: the losses, (records,) float64, on the CPU; (records, *batch) with ``per_series=True``.
    """

    epochs: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class View:
    """What a monitor is told of a run that begins.

    Attributes:
        x: samples, (N,) or (*batch, N), as the caller gave them.
        y: targets, likewise.
        epochs: how many are to be made.
        evaluate: of x and coefficients: values of the polynomial in the basis and domain of the run.
    """

    x: Tensor
    y: Tensor
    epochs: int
    evaluate: Callable[[Tensor, Tensor], Tensor]


def of_all_series(losses: Losses) -> Losses:
    """The mean over the series, if there are several: what monitors are shown."""
    return losses if losses.values.dim() == 1 else losses._replace(values=losses.values.flatten(1).mean(1))


def data_and_fit(view: View, coef: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ascending x, y and the polynomial there: float64 on the CPU; of many series those of the first."""
    x, y = torch.broadcast_tensors(view.x, view.y)
    if coef.dim() == 1:  # one polynomial for all samples
        x, y = x.reshape(-1), y.reshape(-1)
    else:
        x, y, coef = (values[(0,) * (values.dim() - 1)] for values in (x, y, coef))
    step = sample_step(len(x))
    x, y = x[::step], y[::step]
    order = x.argsort()
    x, y = x[order], y[order]
    fitted = view.evaluate(x, coef)
    x, y, fitted = (values.detach().cpu().double() for values in (x, y, fitted))
    return x, y, fitted
