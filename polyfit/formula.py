"""Every operation as whole-tensor, differentiable PyTorch: the definition that all other paths are held against.

Written for clarity and derivatives of any order, not for speed: each step of the recurrence is a tensor of its own.
float16 and bfloat16 compute in float32 and return in their own dtype, as everywhere in polyfit.

Shapes: x (..., N) and coef (..., degree + 1) broadcast over what stands before the last axis; a 1-D coef takes x of any
shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyfit.bases import BASES, AffineMap


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that tensors of ``dtype`` are computed in: float64 in itself, everything narrower in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


Mapping = AffineMap | Tensor  # center, scale, shift


def apply_map(x: Tensor, mapping: Mapping | None) -> Tensor:
    """Domain to window, ``t = (x - center) * scale + shift``."""
    if mapping is None:
        return x
    center, scale, shift = mapping
    return (x - center) * scale + shift


def polyval(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str) -> Tensor:
    """The value p(x) = sum_k coef[..., k] P_k(t(x)), in the dtype of x."""
    dtype = compute_dtype(x.dtype)
    t = apply_map(x.to(dtype), mapping)
    columns = [column.unsqueeze(-1) if coef.dim() > 1 else column for column in coef.to(dtype).unbind(-1)]
    before, term = torch.zeros_like(t), torch.ones_like(t)
    value = columns[0] * term
    for (a, b, c), column in zip(BASES[basis].steps(len(columns) - 1), columns[1:], strict=True):
        before, term = term, (a * t + b) * term - c * before
        value = value + column * term
    return value.to(x.dtype)


Pointwise = Callable[[Tensor, Tensor], Tensor]


def elementwise_loss(p: Tensor, y: Tensor, weight: Tensor | None, loss: Pointwise) -> Tensor:
    """The weighted loss w l(p, y) of every sample."""
    values = loss(*torch.broadcast_tensors(p, y))
    return values if weight is None else weight * values


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    mapping: AffineMap | None,
    basis: str,
    pointwise: Pointwise,
    reduction: str,
    n_losses: int | None = None,
) -> Tensor:
    """The reduced loss of `polyfit.polynomial_loss`, for operands that already agree in dtype and samples.

    "sum" adds up w l(p, y), "mean" divides that by the sum of the weights: over everything, or with n_losses over as
    many series in a row for each of (n_losses,).
    """
    dtype = compute_dtype(x.dtype)
    out_dtype = coef.dtype
    x, y, coef = x.to(dtype), y.to(dtype), coef.to(dtype)
    weight = None if weight is None else weight.to(dtype)
    terms = elementwise_loss(polyval(x, coef, mapping, basis), y, weight, pointwise)
    total = _total(terms, n_losses)
    if reduction == "mean":
        count = torch.ones_like(terms) if weight is None else weight.expand_as(terms)
        total = total / _total(count, n_losses)
    return total.to(out_dtype)


def _total(terms: Tensor, n_losses: int | None) -> Tensor:
    if n_losses is None:
        return terms.sum()
    return terms.sum(-1) if terms.shape[0] == n_losses else terms.reshape(n_losses, -1).sum(-1)
