"""The data that monitors receive: the recorded losses, and a view of the run."""

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
        epochs: the number of epochs before each record, (records,) int64, on the CPU.
        values: the loss at each record, (records,) float64, on the CPU; (records, *batch) with ``per_series=True``.
    """

    epochs: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class View:
    """A run, as a monitor receives it at the beginning.

    Attributes:
        x: samples, (N,) or (*batch, N), as the caller gave them.
        y: targets, (N,) or (*batch, N), as the caller gave them.
        epochs: the number of epochs that were asked for.
        evaluate: ``evaluate(x, coef)`` returns the values of the polynomial in the basis and domain of the run.
    """

    x: Tensor
    y: Tensor
    epochs: int
    evaluate: Callable[[Tensor, Tensor], Tensor]


def of_all_series(losses: Losses) -> Losses:
    """The losses (records,) that monitors show: of several series, their mean."""
    return losses if losses.values.dim() == 1 else losses._replace(values=losses.values.flatten(1).mean(1))


def data_and_fit(view: View, coef: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The samples to draw: x in ascending order, y, and the polynomial at x.

    All three are float64 on the CPU and have at most 5000 elements. Of many series, they are those of the first.
    """
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
