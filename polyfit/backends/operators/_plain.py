"""What the operators share: operands as rows, and the model that plain arguments stand for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from polyfit import losses
from polyfit.bases import AffineMap
from polyfit.formula import Model


def rows(operand: Tensor) -> Tensor:
    """An operand as rows. A view that torch negates lazily is copied: kernels and compiled loops read its memory."""
    operand = operand.resolve_neg()
    return operand if operand.dim() == 2 else operand.unsqueeze(0)


def optional_rows(operand: Tensor | None) -> Tensor | None:
    return None if operand is None else rows(operand)


def shaped_like(like: Tensor | None, result: Tensor | None) -> Tensor | None:
    return None if result is None or like is None else result.view(like.shape)


def model_of(mapping: Sequence[float] | None, basis: str, loss: str, parameter: float) -> Model:
    """The model that the plain arguments of a custom operator stand for."""
    return Model(basis, None if mapping is None else AffineMap(*mapping), losses.from_kernel(loss, parameter))
