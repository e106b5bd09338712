"""The pointwise loss as an autograd Function, whose backward has the slopes in closed form."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from polyfit.autograd._torch import apply, is_eager, is_in_batches, is_transformed, runs_formula
from polyfit.formula import Pointwise
from polyfit.losses import MSE, Huber, Loss, SmoothL1, within


class _PointwiseLoss(torch.autograd.Function):
    """l(p, y) for predictions and targets of one shape."""

    @staticmethod
    def forward(p: Tensor, y: Tensor, loss: Loss) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `Loss.value`."""
        return loss.value(p, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands."""
        p, y, ctx.loss = inputs
        ctx.save_for_backward(p, y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """By `Loss.slopes`, which is differentiable again."""
        need_p, need_y, _ = ctx.needs_input_grad
        if not (need_y or torch.is_grad_enabled() or is_in_batches(grad)) and is_eager():  # in place
            p, y = ctx.saved_tensors
            return ctx.loss.slope_(p.clone(), y).mul_(grad), None, None
        to_p, to_y = ctx.loss.slopes(*ctx.saved_tensors)
        return grad * to_p if need_p else None, grad * to_y if need_y else None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], p: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The losses of all examples."""
        p, y = (
            operand.unsqueeze(0) if dim is None else operand.movedim(dim, 0)
            for operand, dim in zip((p, y), in_dims[:2], strict=True)
        )
        return apply(_PointwiseLoss, *torch.broadcast_tensors(p, y), loss), 0


def pointwise(loss: Loss | Pointwise) -> Pointwise:
    """A loss as a differentiable function of predictions and targets."""
    if not isinstance(loss, Loss):
        return loss  # the user's own

    def values(p: Tensor, y: Tensor) -> Tensor:
        wants = torch.is_grad_enabled() and (p.requires_grad or y.requires_grad)
        if runs_formula():
            return loss.value(p, y)
        if not is_transformed():
            if (of_torch := _of_torch(loss, p, y)) is not None:
                return of_torch
            if not wants:
                return loss.value(p, y)
        return apply(_PointwiseLoss, p, y, loss)

    return values


def _of_torch(loss: Loss, p: Tensor, y: Tensor) -> Tensor | None:
    """The loss by torch where it has the same definition: one operation, and one in backward, without a Function."""
    if isinstance(loss, MSE):
        return F.mse_loss(p, y, reduction="none")
    if isinstance(loss, Huber):
        return F.huber_loss(p, y, reduction="none", delta=within(loss.delta, p.dtype))
    if isinstance(loss, SmoothL1) and loss.is_plain:
        return F.smooth_l1_loss(p, y, reduction="none", beta=loss.beta)
    return None
