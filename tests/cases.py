"""The losses as tests meet them: the object, the same loss by torch or the textbook, and targets that suit it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from polyfit import losses


@dataclass(frozen=True)
class LossCase:
    """One loss.

    Attributes:
        loss: the object of polyfit.losses.
        oracle: the loss of p and y, by torch's function where it has one.
        targets: makes targets of plain normal numbers.
        positive: whether predictions must be positive.
    """

    loss: losses.Loss
    oracle: Callable[[Tensor, Tensor], Tensor]
    targets: Callable[[Tensor], Tensor] = lambda y: y
    positive: bool = False


def _quantile(q: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, y: torch.maximum(q * (y - p), (q - 1) * (y - p))


def _poisson(log_input: bool, full: bool) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, y: F.poisson_nll_loss(p, y, log_input, full, reduction="none")


def _counts(y: Tensor) -> Tensor:
    return (3 * y.abs()).floor()


def _half_counts(y: Tensor) -> Tensor:
    """Never zero, where torch's own derivative of Stirling's term to the target is not a number."""
    return _counts(y) + 0.5


def _classes(y: Tensor) -> Tensor:
    return torch.sigmoid(2 * y)


LOSSES = {
    "mse": LossCase(losses.MSE(), lambda p, y: F.mse_loss(p, y, reduction="none")),
    "l1": LossCase(losses.L1(), lambda p, y: F.l1_loss(p, y, reduction="none")),
    "huber": LossCase(losses.Huber(), lambda p, y: F.huber_loss(p, y, reduction="none")),
    "huber 0.3": LossCase(losses.Huber(0.3), lambda p, y: F.huber_loss(p, y, reduction="none", delta=0.3)),
    "smooth_l1": LossCase(losses.SmoothL1(), lambda p, y: F.smooth_l1_loss(p, y, reduction="none")),
    "smooth_l1 0.3": LossCase(losses.SmoothL1(0.3), lambda p, y: F.smooth_l1_loss(p, y, reduction="none", beta=0.3)),
    "smooth_l1 0": LossCase(losses.SmoothL1(0.0), lambda p, y: F.smooth_l1_loss(p, y, reduction="none", beta=0.0)),
    "log_cosh": LossCase(losses.LogCosh(), lambda p, y: torch.logaddexp(p - y, y - p) - math.log(2)),
    "quantile": LossCase(losses.Quantile(), _quantile(0.5)),
    "quantile 0.9": LossCase(losses.Quantile(0.9), _quantile(0.9)),
    "bce_with_logits": LossCase(
        losses.BCEWithLogits(), lambda p, y: F.binary_cross_entropy_with_logits(p, y, reduction="none"), _classes
    ),
    "bce_with_logits 3": LossCase(
        losses.BCEWithLogits(3.0),
        lambda p, y: F.binary_cross_entropy_with_logits(p, y, reduction="none", pos_weight=p.new_tensor(3.0)),
        _classes,
    ),
    "poisson_nll": LossCase(losses.PoissonNLL(), _poisson(True, False), _counts),
    "poisson_nll full": LossCase(losses.PoissonNLL(full=True), _poisson(True, True), _half_counts),
    "poisson_nll rate": LossCase(losses.PoissonNLL(log_input=False), _poisson(False, False), _counts, positive=True),
    "poisson_nll rate full": LossCase(
        losses.PoissonNLL(False, True), _poisson(False, True), _half_counts, positive=True
    ),
    "cauchy": LossCase(losses.Cauchy(), lambda p, y: 0.5 * torch.log1p((p - y) ** 2)),
    "cauchy 0.3": LossCase(losses.Cauchy(0.3), lambda p, y: 0.045 * torch.log1p(((p - y) / 0.3) ** 2)),
}
