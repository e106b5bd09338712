"""Every operation as whole-tensor, differentiable PyTorch: the definition that all other paths are held against.

Written for clarity and derivatives of any order, not for speed: each step of Horner's rule is a tensor of its own.
float16 and bfloat16 compute in float32 and return in their own dtype, as everywhere in polyfit.

Shapes: x (..., N) and coef (..., degree + 1) broadcast over what stands before the last axis; a 1-D coef takes x of any
shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.bases import AffineMap


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that tensors of ``dtype`` are computed in: float64 in itself, everything narrower in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def apply_map(x: Tensor, mapping: AffineMap | None) -> Tensor:
    """Domain to window, ``t = (x - center) * scale + shift``."""
    if mapping is None:
        return x
    center, scale, shift = mapping
    return (x - center) * scale + shift


def _columns(coef: Tensor) -> list[Tensor]:
    """Coefficients by degree, each shaped to broadcast against x (..., N)."""
    return [column.unsqueeze(-1) if coef.dim() > 1 else column for column in coef.unbind(-1)]


def _series(t: Tensor, columns: list[Tensor]) -> Tensor:
    """Horner's rule, p(t) = c_0 + t (c_1 + t (c_2 + ...))."""
    value = columns[-1] * torch.ones_like(t)
    for column in reversed(columns[:-1]):
        value = value * t + column
    return value


def polyval(x: Tensor, coef: Tensor, mapping: AffineMap | None) -> Tensor:
    """p(x) = sum_k coef[..., k] t(x)**k, in the dtype of x."""
    dtype = compute_dtype(x.dtype)
    return _series(apply_map(x.to(dtype), mapping), _columns(coef.to(dtype))).to(x.dtype)


def elementwise_loss(p: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted loss w l(p, y) of every sample, for the squared error l = (p - y)**2."""
    residual = p - y
    loss = residual * residual
    return loss if weight is None else weight * loss


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    mapping: AffineMap | None,
    reduction: str,
    per_series: bool,
) -> Tensor:
    """The reduced loss of `polyfit.polynomial_loss`, for operands that already agree in dtype and samples.

    "none" gives sum-free w l(p, y) in the broadcast shape, "sum" adds it up, "mean" divides by the sum of the weights.
    """
    dtype = compute_dtype(x.dtype)
    out_dtype = coef.dtype
    x, y, coef = x.to(dtype), y.to(dtype), coef.to(dtype)
    weight = None if weight is None else weight.to(dtype)
    loss = elementwise_loss(polyval(x, coef, mapping), y, weight)
    if reduction == "none":
        return loss.to(out_dtype)
    dims = (-1,) if per_series else tuple(range(loss.dim()))
    total = loss.sum(dims)
    if reduction == "mean":
        count = torch.ones_like(loss) if weight is None else weight.expand_as(loss)
        total = total / count.sum(dims)
    return total.to(out_dtype)
