"""The result of `polyfit.train`, and the conditions of early stopping."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polyfit._checks import check_limit
from polyfit.monitor import Losses


class Reason(enum.IntEnum):
    """Why a run ended."""

    EPOCHS = 0  # all epochs were made
    LOSS = 1  # the loss reached the limit of EarlyStopping
    PATIENCE = 2  # the loss did not improve for the number of epochs of EarlyStopping
    GRADIENT = 3  # the norm of the gradient reached the limit of EarlyStopping
    DIVERGED = 4  # the loss became NaN or infinite
    INTERRUPTED = 5  # Ctrl-C was pressed

    def __str__(self) -> str:
        """The name.

        >>> print(Reason.EPOCHS)
        EPOCHS
        """
        return self.name


@dataclass(frozen=True)
class EarlyStopping:
    """When to end a run before its last epoch. The conditions are checked whenever a loss is recorded.

    With ``per_series=True`` each series ends by itself.

    Args:
        loss: end when the loss is at most this.
        gradient_norm: end when the Euclidean norm of the gradient is at most this.
        patience: end when the smallest loss so far is this many epochs old.
        min_delta: a loss counts as smaller if it is below the smallest so far by more than this.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range, or none is given.

    >>> EarlyStopping(loss=1e-6, patience=1000)
    EarlyStopping(loss=1e-06, gradient_norm=None, patience=1000, min_delta=0.0)
    """

    loss: float | None = None
    gradient_norm: float | None = None
    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        limits = {"loss": self.loss, "gradient_norm": self.gradient_norm, "patience": self.patience}
        if all(value is None for value in limits.values()):
            raise ValueError("EarlyStopping() never stops; pass loss=, gradient_norm= or patience=")
        for name, value in {**limits, "min_delta": self.min_delta}.items():
            check_limit(name, value, -math.inf if name == "loss" else 1 if name == "patience" else 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class Training:
    """The result of a run of `polyfit.train`.

    The attributes after `path` say how far from the optimum the run ended. They are known for the squared loss. They
    are None for other losses, and where the quadratic disagrees with the data at the start (see `explain`). With
    ``per_series=True`` numbers are tensors (*batch). ``print(result)`` shows the run in a few words.

    Optimum and smallest loss are those of the loss alone. A rule with weight decay does not go there: SGD, for example,
    goes to the minimum of ``loss + weight_decay * sum(coef**2) / 2``.

    Attributes:
        coef: coefficients after the last update, lowest degree first.
        losses: the recorded losses, from epoch 0 to the last.
        epochs: number of epochs made; with ``per_series=True`` the largest number of a series.
        engine: the engine that ran.
        updates: number of epochs that each series made, () or (*batch) int64.
        reasons: why each series ended, codes of `Reason`, () or (*batch) int8.
        path: the coefficients at each record, (records, *coef.shape), with ``keep_path=True``.
        optimum: the coefficients of the smallest loss, without weight decay.
        optimal_loss: the smallest loss, without weight decay.
        max_stable_lr: for SGD at a constant rate, the largest rate that does not diverge.
        slowest_rate: for SGD at a constant rate, the factor by which an update multiplies the error along the slowest
            direction of descent.
        condition: of the Hessian: the largest curvature divided by the smallest.
    """

    coef: Tensor
    losses: Losses
    epochs: int
    engine: str
    updates: Tensor
    reasons: Tensor
    path: Tensor | None = None
    optimum: Tensor | None = None
    optimal_loss: Any = None
    max_stable_lr: Any = None
    slowest_rate: Any = None
    condition: Any = None
    _state: Any = field(default=None, repr=False)  # `polyfit.training.resuming.Resumable`

    def __repr__(self) -> str:
        """The run in a few words."""
        counts = self.reasons.flatten().bincount(minlength=len(Reason)).tolist()
        ends = [str(Reason(code)) + (f" {n}" if self.reasons.numel() > 1 else "") for code, n in enumerate(counts) if n]
        words = [
            f"engine={self.engine!r}",
            f"epochs={self.epochs}",
            f"ended by {', '.join(ends)}" if ends else "no series",
            f"loss {_span(self.loss)}",
            *([] if self.optimal_loss is None else [f"smallest {_span(self.optimal_loss)}"]),
            f"coef {tuple(self.coef.shape)} {str(self.coef.dtype).removeprefix('torch.')}",
        ]
        return f"Training({', '.join(words)})"

    @property
    def loss(self) -> Any:
        """The loss of `coef`: a float, or (*batch) with ``per_series=True``."""
        last = self.losses.values[-1]
        return last if last.dim() else float(last)

    @property
    def reason(self) -> Reason:
        """Why the run ended; of many series, the most frequent reason."""
        return Reason(int(self.reasons.flatten().mode().values))

    @property
    def slowest_share(self) -> Any:
        """The share of the initial error that remains along the slowest direction of descent."""
        return None if self.slowest_rate is None else self.slowest_rate**self.epochs

    def epochs_to(self, share: float) -> Any:
        """The number of epochs that reduce the error along the slowest direction to a share of it; inf if none do.

        It is the number of the long run: momentum needs some epochs to build up.

        Raises:
            ValueError: ``share`` is not between 0 and 1.
        """
        if not 0.0 < share < 1.0:
            raise ValueError(
                f"share={share!r} is not a share of the error; pass a number between 0 and 1, such as 0.01"
            )
        rate = self.slowest_rate
        if rate is None:
            return None
        if isinstance(rate, Tensor):
            counts = (math.log(share) / rate.clamp(max=1.0).log()).ceil().clamp(min=1.0)
            return torch.where(rate < 1.0, counts, math.inf)
        if rate >= 1.0:
            return math.inf
        return math.ceil(math.log(share) / math.log(rate)) if rate > 0.0 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """The state for ``polyfit.train(..., resume=state)``: tensors, numbers, strings.

        With the engines moments, resident and stepwise a resumed run gives the same bits as a run that was never cut.
        The state is made when it is first asked for.

        Raises:
            RuntimeError: x, y or weight were changed in place between the run and the first call.
        """
        return dict(self._state.values)


def _span(values: Any) -> str:
    """A number, or the range of many."""
    if not isinstance(values, Tensor):
        return f"{values:.6g}"
    return f"{float(values.min()):.6g} to {float(values.max()):.6g}" if values.numel() else "of none"
