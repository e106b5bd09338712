"""Gradients through the differentiable formula: for second derivatives, forward mode and gradients in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def pull_back(
    function: Callable[..., Any], operands: Sequence[Any], wants: Sequence[bool], upstream: Any
) -> list[Tensor | None]:
    """Gradients of ``sum(upstream * function(*operands))`` to the operands that are wanted; differentiable again."""

    def of_wanted(*wanted: Tensor) -> Any:
        given = iter(wanted)
        return function(*(next(given) if want else operand for operand, want in zip(operands, wants, strict=True)))

    pull: Any
    _, pull = torch.func.vjp(of_wanted, *(operand for operand, want in zip(operands, wants, strict=True) if want))  # pyright: ignore[reportAssignmentType]
    found = iter(pull(upstream))
    return [next(found) if want else None for want in wants]


def pull_back_twice(
    function: Callable[..., Any],
    grad: Tensor,
    operands: Sequence[Any],
    wants: Sequence[bool],
    needs: Sequence[bool],
    upstream: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Pull `upstream` back through ``pull_back(function, operands, wants, grad)``, to grad and operands."""
    reached = [want and part is not None for want, part in zip(wants, upstream, strict=True)]
    if not any(reached):
        return [None] * (1 + len(operands))

    def gradients(grad: Tensor, *operands: Any) -> tuple[Tensor, ...]:
        return tuple(part for part in pull_back(function, operands, reached, grad) if part is not None)

    parts = tuple(part for part, is_reached in zip(upstream, reached, strict=True) if is_reached)
    return pull_back(gradients, (grad, *operands), needs, parts)
