"""One loss over long series or many, and its gradients as they are returned, from the sums of a pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polyfit.backends.chunked import many
from polyfit.backends.chunked.objective import Objective
from polyfit.backends.results import Gradients, LossSums, Wants
from polyfit.backends.select import autocast_is_off
from polyfit.formula import Model


def _sums(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, model: Model, wants: Wants) -> LossSums:
    if coef.dim() == 2:
        return many.objective(x, y, coef, weight, None, model, wants, 1.0)
    rows = None if weight is None else weight.unsqueeze(0)
    return Objective(x.unsqueeze(0), y.unsqueeze(0), rows, 1, coef.shape[0] - 1, model)(coef.unsqueeze(0), None, wants)


@autocast_is_off
def loss(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, model: Model, reduction: str, wants: Wants
) -> tuple[Tensor, Gradients]:
    """The reduced loss as a scalar, and its gradients.

    For x, y and weight (N,) and coef (degree + 1,), or x, y and weight (S, N) and coef (S, degree + 1).
    """
    sums = _sums(x, y, coef, weight, model, wants)
    assert sums.value is not None
    total, scale = float(sums.value.sum()), 1.0
    if reduction == "mean":
        count = x.numel() if sums.total_weight is None else float(sums.total_weight.sum())
        scale = 1.0 / count if count else math.inf
    to_coef, to_weight = sums.grad_coef, sums.grad_weight
    if to_coef is not None:
        to_coef = (to_coef * scale).to(coef.dtype).view(coef.shape)
    if to_weight is not None:
        if reduction == "mean":  # the slope of the denominator
            to_weight.sub_(total * scale).mul_(scale)
        to_weight = to_weight.view(x.shape)
    to_x, to_y = (
        None if part is None else (part if scale == 1.0 else part.mul_(scale)).view(x.shape)
        for part in (sums.grad_x, sums.grad_y)
    )
    return torch.tensor(total * scale, dtype=coef.dtype, device="cpu"), Gradients(to_x, to_y, to_coef, to_weight)
