"""One loss over many series with samples of their own, and its gradients as they are returned: see `many`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polyfit.backends.chunked import many
from polyfit.backends.results import Gradients, Wants
from polyfit.formula import Model


def loss(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, model: Model, reduction: str, wants: Wants
) -> tuple[Tensor, Gradients]:
    """The reduced loss as a scalar, and its gradients, for x, y and weight (S, N) and coef (S, degree + 1)."""
    sums = many.objective(x, y, coef, weight, None, model, wants, 1.0)
    assert sums.value is not None
    total, scale = float(sums.value.sum()), 1.0
    if reduction == "mean":
        count = x.numel() if sums.total_weight is None else float(sums.total_weight.sum())
        scale = 1.0 / count if count else math.inf
    to_coef, to_weight = sums.grad_coef, sums.grad_weight
    if to_coef is not None:
        to_coef = to_coef.mul_(scale).to(coef.dtype)
    if to_weight is not None and reduction == "mean":  # the slope of the denominator
        to_weight.sub_(total * scale).mul_(scale)
    to_x, to_y = (None if part is None else part.mul_(scale) for part in (sums.grad_x, sums.grad_y))
    return torch.tensor(total * scale, dtype=coef.dtype, device="cpu"), Gradients(to_x, to_y, to_coef, to_weight)
