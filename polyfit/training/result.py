"""What a run of `polyfit.train` gives."""

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

    EPOCHS = 0  # all epochs that were asked for are made
    LOSS = 1  # the loss came down to what was asked for
    PATIENCE = 2  # the loss had not improved for as long as was asked for
    GRADIENT = 3  # so did the norm of the gradient
    DIVERGED = 4  # the loss left the finite numbers
    INTERRUPTED = 5  # by Ctrl-C


@dataclass(frozen=True)
class EarlyStopping:
    """When to end a run before its last epoch; looked at whenever a loss is recorded.

    With ``per_series=True`` each series ends by itself.

    Args:
        loss: end once the loss is this or less.
        gradient_norm: end once the Euclidean norm of the gradient is this or less.
        patience: end once the least loss so far is this many epochs old.
        min_delta: by how much a loss must be below the least so far to count as less.

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


@dataclass(frozen=True, eq=False)
class Training:
    """What a run of `polyfit.train` reached.

    For the squared loss the whole landscape is known, and what follows `path` says where in it the run ended; for other
    losses these are None. With ``per_series=True`` what is a number here is a tensor (*batch).

    Attributes:
        coef: coefficients after the last update, lowest degree first.
        losses: the recorded losses, from epoch 0 to the last.
        epochs: number of epochs made; with ``per_series=True`` by the series that made most.
        engine: the engine that ran.
        updates: the epochs that each series made, () or (*batch) int64.
        reasons: why it ended, codes of `Reason`, () or (*batch) int8.
        path: the coefficients at each record, (records, *coef.shape), with ``keep_path=True``.
        optimum: the coefficients of the least loss.
        optimal_loss: their loss.
        max_stable_lr: for SGD at a constant rate, the largest that does not diverge.
        slowest_rate: for the same, what an update leaves of the error along the slowest direction of descent.
        condition: of the Hessian: the largest curvature over the least, which decides how slow that is.
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
    _state: dict[str, Any] = field(default_factory=dict, repr=False)

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
        """The share of the initial error that is left along the slowest direction of descent."""
        return None if self.slowest_rate is None else self.slowest_rate**self.epochs

    def epochs_to(self, share: float) -> Any:
        """How many epochs bring the error along the slowest direction down to a share of it; infinite where none do.

        In the long run, that is: momentum takes some epochs to gather.

        Raises:
            ValueError: ``share`` is not between 0 and 1.
        """
        if not 0.0 < share < 1.0:
            raise ValueError(
                f"share={share!r} is no share to come down to; pass a number between 0 and 1, such as 0.01"
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
        """What ``polyfit.train(..., resume=state)`` goes on from: tensors, numbers, strings.

        The run that goes on is bit for bit the one that was never cut (engines moments, resident and stepwise).
        """
        return dict(self._state)
