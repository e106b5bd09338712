"""Every operation as whole-tensor, differentiable PyTorch: the definition that all backends are compared with.

Written for clarity and for derivatives of any order: each step of the recurrence makes a tensor. Powers are summed by
Horner's rule, the functions of other bases one by one.
float16 and bfloat16 compute in float32 and return in their own dtype, as everywhere in polyfit.

Shapes: x (..., N) and coef (..., degree + 1) broadcast over what stands before the last axis; a 1-D coef takes x of any
shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.bases import BASES, AffineMap
from polyfit.losses import Loss


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that tensors of ``dtype`` are computed in: float64 in itself, everything narrower in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


Pointwise = Callable[[Tensor, Tensor], Tensor]

# A prediction and a target at which every loss and its slopes are finite. They stand for a sample that is left out: it
# has weight zero, and zero times NaN would be NaN. (They differ: a loss may have a kink where p = y.)
HARMLESS_PREDICTION, HARMLESS_TARGET = 0.5, 0.25


# What a polynomial is outside of the window of its basis: the tangent at the nearer end, the value there, or itself.
OUTSIDE = ("linear", "clamp", "extend")


class Model(NamedTuple):
    """A polynomial and its pointwise loss, apart from all numbers.

    Attributes:
        basis: its name, a key of `polyfit.bases.BASES`.
        mapping: center, scale and shift of the map from domain to window, or None for t = x. A tensor of the three in
            a compiled loop.
        loss: the pointwise loss: an object of polyfit.losses, or a function of predictions and targets. None where only
            values are wanted.
        outside: a name of `OUTSIDE`: what takes the place of the polynomial where t is outside of the window.
    """

    basis: str
    mapping: AffineMap | Tensor | None = None
    loss: Loss | Pointwise | None = None
    outside: str = "extend"

    @property
    def pointwise(self) -> Pointwise:
        """The loss as a function of predictions and targets."""
        assert self.loss is not None
        return self.loss.value if isinstance(self.loss, Loss) else self.loss

    @property
    def affine_map(self) -> AffineMap | None:
        """The map as numbers."""
        assert not isinstance(self.mapping, Tensor)
        return self.mapping

    @property
    def kernel_loss(self) -> tuple[str, float]:
        """The variant of the loss that a kernel compiles, and its parameter."""
        assert isinstance(self.loss, Loss)
        return self.loss.kernel

    @property
    def slope(self) -> float | Tensor:
        """dt/dx."""
        return 1.0 if self.mapping is None else self.mapping[1]

    @property
    def harmless_x(self) -> float:
        """The x that stands for a sample that is left out: 0, or the middle of the domain."""
        return 0.0 if self.affine_map is None else self.affine_map.center

    def to_window(self, x: Tensor) -> Tensor:
        """Domain to window, ``t = (x - center) * scale + shift``."""
        if self.mapping is None:
            return x
        center, scale, shift = self.mapping
        return (x - center) * scale + shift


def polyval(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """The value p(x) = sum_k coef[..., k] P_k(t(x)), in the dtype of x.

    Outside of the window [lo, hi], "linear" continues it by p(lo) + p'(lo) (t - lo) and p(hi) + p'(hi) (t - hi).
    """
    dtype = compute_dtype(x.dtype)
    t = model.to_window(x.to(dtype))
    columns = [column.unsqueeze(-1) if coef.dim() > 1 else column for column in coef.to(dtype).unbind(-1)]
    if model.outside == "extend":
        return _series(t, columns, model.basis).to(x.dtype)
    basis = BASES[model.basis]
    lo, hi = basis.window
    value = _series(t.clamp(lo, hi), columns, model.basis)
    if model.outside == "linear" and len(columns) > 1:
        at_lo, at_hi = (
            sum(column * slope for column, slope in zip(columns[1:], slopes[1:], strict=True))
            for slopes in basis.slopes_at_ends(len(columns) - 1)
        )
        value = value - at_lo * torch.relu(lo - t) + at_hi * torch.relu(t - hi)
    return value.to(x.dtype)


def _series(t: Tensor, columns: Sequence[Tensor], basis: str) -> Tensor:
    """The sum of columns[k] P_k(t)."""
    if len(columns) == 1:
        return columns[0] + torch.zeros_like(t)
    if basis == "power":
        value = torch.addcmul(columns[-2], columns[-1], t)
        for column in columns[-3::-1]:
            value = torch.addcmul(column, value, t)
        return value
    value = columns[0]
    for column, term in zip(columns[1:], functions(t, basis, len(columns) - 1), strict=True):
        value = torch.addcmul(value, column, term)
    return value


def largest_squared(dtype: torch.dtype) -> float:
    """A bound of |x| for "algebraic": above it, x**2 may overflow. There the value is +-1 and the slope 0, rounded."""
    return 2.0**500 if dtype == torch.float64 else 2.0**60


def _algebraic(x: Tensor) -> Tensor:
    limit = largest_squared(x.dtype)
    x = x.clamp(-limit, limit)
    return x / torch.sqrt(1.0 + x * x)


# Maps of the real numbers into [-1, 1], by name.
SQUASHES: dict[str | None, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "algebraic": _algebraic,
    "clamp": lambda x: x.clamp(-1.0, 1.0),
    None: lambda x: x,
}


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None) -> Tensor:
    """The layer y[b, o] = bias[o] + sum_k sum_i coef[k - 1, i, o] P_k(squash(x[b, i])), k = 1 .. degree.

    Args:
        x: (B, in).
        coef: (degree, in, out). The constant terms, of P_0 = 1, add up to one number an output: the bias.
        bias: (out,).
        basis: its name.
        squash: a key of `SQUASHES`.

    Returns:
        (B, out) in the dtype of x.
    """
    dtype = compute_dtype(x.dtype)
    t = SQUASHES[squash](x.to(dtype))
    value = bias.to(dtype).expand(x.shape[0], -1)
    terms = functions(t, basis, coef.shape[0])
    for term, columns in zip(terms, coef.to(dtype).unbind(0), strict=True):
        value = value + term @ columns
    return value.to(x.dtype)


def functions(t: Tensor, basis: str, degree: int) -> list[Tensor]:
    """The values P_1(t) .. P_degree(t), each in the shape of t: P_{k+1} = (a t + b) P_k - c P_{k-1}."""
    terms: list[Tensor] = []
    for k, (a, b, c) in enumerate(BASES[basis].steps(degree)):
        line = t if a == 1.0 else a * t
        line = line + b if b else line
        if k == 0:
            terms.append(line)
        elif k == 1:
            terms.append(line * terms[0] - c if c else line * terms[0])
        elif c:
            terms.append(torch.sub(line * terms[-1], terms[-2], alpha=c))
        else:
            terms.append(line * terms[-1])
    return terms


def harmless(x: Tensor, is_out: Tensor, model: Model) -> Tensor:
    """The samples x, those that are left out replaced by a harmless one."""
    return torch.where(is_out, model.harmless_x, x)


def left_out(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor, model: Model) -> Tensor:
    """Where a sample of weight zero holds, or leads to, what is not finite: it must not reach any derivative.

    (All other samples of weight zero stay: they add nothing, and the gradient to their weight is their loss.)
    """
    with torch.no_grad():
        p, y = torch.broadcast_tensors(polyval(x, coef, model), y)
        return (weight == 0) & ~(_losses(p, y, model.pointwise).isfinite() & p.isfinite() & y.isfinite())


def _losses(p: Tensor, y: Tensor, loss: Pointwise) -> Tensor:
    """The loss of each sample, for predictions and targets of one shape; checked, since it may be the user's."""
    values = loss(p, y)
    if isinstance(values, Tensor) and values.shape == p.shape:
        return values
    name = getattr(loss, "__name__", type(loss).__name__)
    if not isinstance(values, Tensor):
        raise TypeError(
            f"loss={name} returned {type(values).__name__}; a loss takes predictions and targets and returns a tensor,"
            " the loss of each sample"
        )
    raise ValueError(
        f"loss={name} returned shape {tuple(values.shape)} for predictions of shape {tuple(p.shape)}; a loss returns"
        " that of each sample, in the shape of the predictions, and polyfit reduces it: pass reduction='none' to a loss"
        " of torch, for example torch.nn.MSELoss(reduction='none')"
    )


def elementwise_loss(
    p: Tensor, y: Tensor, weight: Tensor | None, loss: Pointwise, is_out: Tensor | None = None
) -> Tensor:
    """The weighted loss w l(p, y) of every sample; zero where `is_out`."""
    if is_out is not None:
        p, y = torch.where(is_out, HARMLESS_PREDICTION, p), torch.where(is_out, HARMLESS_TARGET, y)
    if p.shape != y.shape:
        p, y = torch.broadcast_tensors(p, y)
    values = _losses(p, y, loss)
    if is_out is not None:
        values = torch.where(is_out, 0.0, values)
    return values if weight is None else weight * values


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    model: Model,
    reduction: str,
    n_losses: int | None = None,
) -> Tensor:
    """The reduced loss of `polyfit.polynomial_loss`, for operands that already agree in dtype and samples.

    A sample of weight zero is left out, even if it is NaN or infinite. "sum" adds up w l(p, y), "mean" divides that
    by the sum of the weights: over everything, or with n_losses over as many series in a row for each of
    (n_losses,).
    """
    dtype = compute_dtype(x.dtype)
    out_dtype = coef.dtype
    x, y, coef = x.to(dtype), y.to(dtype), coef.to(dtype)
    weight = None if weight is None else weight.to(dtype)
    is_out = None
    if weight is not None:
        is_out = left_out(x, y, coef, weight, model)
        x = harmless(x, is_out, model)
    terms = elementwise_loss(polyval(x, coef, model), y, weight, model.pointwise, is_out)
    return reduced(terms, weight, reduction, n_losses).to(out_dtype)


def reduced(terms: Tensor, weight: Tensor | None, reduction: str, n_losses: int | None) -> Tensor:
    """The sum of the weighted losses of the samples, or with "mean" that divided by the sum of the weights."""
    if reduction == "mean" and weight is None and n_losses is None:
        return terms.mean()
    total = _total(terms, n_losses)
    if reduction == "sum":
        return total
    if weight is None:
        return total / (terms.numel() // (n_losses or 1))
    return total / _total(weight.to(terms.dtype).expand_as(terms), n_losses)


def _total(terms: Tensor, n_losses: int | None) -> Tensor:
    if n_losses is None:
        return terms.sum()
    return terms.sum(-1) if terms.shape[0] == n_losses else terms.reshape(n_losses, -1).sum(-1)
