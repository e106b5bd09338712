"""The plain formulas in float64, written without polyfit: what everything is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_window(x: Tensor, domain: Sequence[float] | None) -> Tensor:
    """[lo, hi] to [-1, 1], as numpy.polynomial.polyutils.mapdomain."""
    if domain is None:
        return x
    lo, hi = domain
    return (2.0 * x - (lo + hi)) / (hi - lo)


def polyval(x: Tensor, coef: Tensor, domain: Sequence[float] | None = None) -> Tensor:
    """The sum of coef[..., k] t**k, power by power."""
    t = to_window(x, domain)
    columns = [column.unsqueeze(-1) if coef.dim() > 1 else column for column in coef.unbind(-1)]
    return torch.stack([column * t**k for k, column in enumerate(columns)]).sum(0)


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    per_series: bool = False,
    domain: Sequence[float] | None = None,
) -> Tensor:
    """(Weighted) squared error, reduced."""
    loss = (polyval(x, coef, domain) - y) ** 2
    loss, weights = torch.broadcast_tensors(loss, torch.ones_like(loss) if weight is None else weight)
    if reduction == "none":
        return weights * loss
    if per_series:
        total, count = (weights * loss).sum(-1), weights.sum(-1)
    else:
        total, count = (weights * loss).sum(), weights.sum()
    return total / count if reduction == "mean" else total
