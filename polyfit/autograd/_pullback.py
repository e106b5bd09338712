"""Gradients through the differentiable formula: for second derivatives, forward mode and gradients in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polyfit.autograd._torch import is_transformed


def pull_back(
    function: Callable[..., Any], operands: Sequence[Any], wants: Sequence[bool], upstream: Any
) -> list[Tensor | None]:
    """Gradients of ``sum(upstream * function(*operands))`` to the operands that are wanted; differentiable again.

    Outside of transforms by autograd: torch.func refuses to run where hooks for saved tensors are set.
    """
    if not is_transformed():
        return _pull_back_by_autograd(function, operands, wants, upstream)

    def of_wanted(*wanted: Tensor) -> Any:
        given = iter(wanted)
        return function(*(next(given) if want else operand for operand, want in zip(operands, wants, strict=True)))

    pull: Any
    _, pull = torch.func.vjp(of_wanted, *(operand for operand, want in zip(operands, wants, strict=True) if want))  # pyright: ignore[reportAssignmentType]
    found = iter(pull(upstream))
    return [next(found) if want else None for want in wants]


def _pull_back_by_autograd(
    function: Callable[..., Any], operands: Sequence[Any], wants: Sequence[bool], upstream: Any
) -> list[Tensor | None]:
    is_differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: an operand may be computed from another one, and that path is no part of the gradient.
        inputs = [
            (operand.view_as(operand) if operand.requires_grad else operand.detach().requires_grad_())
            if want
            else operand
            for operand, want in zip(operands, wants, strict=True)
        ]
        results = function(*inputs)
        pairs = [(results, upstream)] if isinstance(results, Tensor) else list(zip(results, upstream, strict=True))
        pairs = [(result, part) for result, part in pairs if result.requires_grad]
        wanted = [operand for operand, want in zip(inputs, wants, strict=True) if want]
        if not pairs or not wanted:
            return [torch.zeros_like(operand) if want else None for operand, want in zip(inputs, wants, strict=True)]
        found = iter(
            torch.autograd.grad(
                [result for result, _ in pairs],
                wanted,
                [part for _, part in pairs],
                create_graph=is_differentiable,
                allow_unused=True,
                materialize_grads=True,
            )
        )
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
