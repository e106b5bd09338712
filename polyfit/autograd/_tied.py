"""The operands of a compiled call, tied to their gradients so that second derivatives raise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyfit.autograd._torch import runs_formula


class _Tied(torch.autograd.Function):
    """The operand itself. Its backward has the operand as an input.

    A compiled backward cannot be differentiated. PyTorch raises an error if one of its inputs requires a gradient. The
    tensors that the forward pass saved do not count as inputs: without this Function, second derivatives would be
    dropped silently. (With the debugging backend "eager" PyTorch drops the second derivatives of every Function, and
    this does not help.)
    """

    @staticmethod
    def forward(operand: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A view."""
        return operand.view_as(operand)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the operand."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient. The product with the operand is taken only where the gradient is NaN, which it stays."""
        (operand,) = ctx.saved_tensors
        return torch.where(grad.isnan(), operand * grad, grad)


def tied(*operands: Tensor | None) -> tuple[Any, ...]:
    """Operands as `polyval` and `polynomial_loss` take them: tied where a call is compiled."""
    if not torch.compiler.is_compiling() or runs_formula():
        return operands
    return tuple(
        _Tied.apply(operand) if isinstance(operand, Tensor) and operand.requires_grad else operand
        for operand in operands
    )
