"""The operands of a compiled call, tied to their gradients so that second derivatives raise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyfit.autograd._torch import runs_formula


class _Tied(torch.autograd.Function):
    """The operand itself, to whose gradient it is tied.

    A compiled backward cannot be differentiated, and PyTorch says so if one of its inputs requires a gradient. What the
    forward pass saved is no such input: second derivatives would be missing in silence. So it gets the operand too.
    (With the debugging backend "eager" PyTorch drops the second derivatives of every Function; nothing helps there.)
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
        """The gradient; where it is not a number the operand makes no difference."""
        (operand,) = ctx.saved_tensors
        return torch.where(grad.isnan(), operand * grad, grad)


def tied(*operands: Tensor | None) -> tuple[Any, ...]:
    """Operands as the functions below want them: where a call is compiled, `_Tied`."""
    if not torch.compiler.is_compiling() or runs_formula():
        return operands
    return tuple(
        _Tied.apply(operand) if operand is not None and operand.requires_grad else operand for operand in operands
    )
