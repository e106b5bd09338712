"""Second derivatives, which go through the formula, wherever PyTorch lets autograd run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import polynomial_loss, polyval
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import polyfit

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
PAIRS: dict[str, tuple[Function, Function]] = {
    "loss": (polyfit.polynomial_loss, polynomial_loss),
    "values": (
        lambda x, y, coef: (polyfit.polyval(x, coef) - y).sin().sum(),
        lambda x, y, coef: (polyval(x, coef) - y).sin().sum(),
    ),
}


def _operands() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_() for n in (9, 9, 3)]


def _penalty(function: Function, x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
    loss = function(x, y, coef)
    gradients = torch.autograd.grad(loss, (x, coef), create_graph=True)
    return loss + sum(gradient.square().sum() for gradient in gradients)


def _saved_elsewhere(function: Function) -> tuple[Tensor, ...]:
    operands = _operands()
    with torch.autograd.graph.save_on_cpu():
        return torch.autograd.grad(_penalty(function, *operands), operands)


def _checkpointed(function: Function) -> tuple[Tensor, ...]:
    operands = _operands()
    penalty = checkpoint(lambda *given: _penalty(function, *given), *operands, use_reentrant=False)
    assert penalty is not None
    return torch.autograd.grad(penalty, operands)


def _checkpointed_within(function: Function) -> tuple[Tensor, ...]:
    operands = _operands()

    def of_loss(*given: Tensor) -> Any:
        return checkpoint(function, *given, use_reentrant=False)

    with torch.autograd.graph.save_on_cpu():
        return torch.autograd.grad(_penalty(of_loss, *operands), operands)


def _in_batches(function: Function) -> tuple[Tensor, ...]:
    x, y, coef = _operands()
    with torch.autograd.graph.save_on_cpu():
        (gradient,) = torch.autograd.grad(function(x, y, coef), coef, create_graph=True)
        upstream = torch.eye(3, dtype=torch.float64)
        return torch.autograd.grad(gradient, (x, y, coef), upstream, is_grads_batched=True)


def _of_operands_that_depend_on_one_another(function: Function) -> tuple[Tensor, ...]:
    first, y, coef = _operands()
    x = first * coef[1] + y
    return torch.autograd.grad(_penalty(function, x, y, coef), (first, y, coef))


WAYS = (_saved_elsewhere, _checkpointed, _checkpointed_within, _in_batches, _of_operands_that_depend_on_one_another)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pair", PAIRS)
def test_second_derivatives(pair, way):
    ours, plain = PAIRS[pair]
    for mine, theirs in zip(way(ours), way(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
