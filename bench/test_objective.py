"""Loss and gradient to the coefficients, against what a user could write instead. Checked first, timed after."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import polyfit
from bench import peers


def data(n_samples: int, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and coefficients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_samples, generator=generator) * 2 - 1
    y = torch.sin(3 * x) + 0.01 * torch.randn(n_samples, generator=generator)
    return x, y, torch.randn(degree + 1, generator=generator)


def ours(x: Tensor, y: Tensor, coef: Tensor, basis: str = "power", impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Value and gradient by polyfit."""
    coef = coef.detach().requires_grad_()
    loss = polyfit.polynomial_loss(x, y, coef, basis=basis, impl=impl)
    loss.backward()
    assert coef.grad is not None
    return loss.detach(), coef.grad


def check(result: tuple[Tensor, Tensor], x: Tensor, y: Tensor, coef: Tensor) -> None:
    """A speed is reported of right results only."""
    value, gradient = peers.horner(x.double(), y.double(), coef.double())
    torch.testing.assert_close(result[0].double(), value, rtol=1e-5, atol=0)
    torch.testing.assert_close(result[1].double(), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degree", [5, 10])
def test_loss_and_gradient_of_1e7_samples(degree, in_turn):
    operands = data(10_000_000, degree)
    check(ours(*operands), *operands)
    in_turn(
        lambda: ours(*operands),
        {"eager formula": lambda: peers.formula(*operands), "eager Horner": lambda: peers.horner(*operands)},
        rounds=9,
        bytes=8 * 10_000_000,
    )


@pytest.mark.parametrize("degree", [5, 10])
@pytest.mark.parametrize("basis", ["chebyshev", "legendre", "hermite", "hermite_e", "laguerre"])
def test_loss_and_gradient_of_1e7_samples_in_a_basis(basis, degree, in_turn):
    operands = data(10_000_000, degree)
    x, y, coef = (operand.double() for operand in operands)
    expected, result = peers.recurrence(x, y, coef, basis), ours(*operands, basis)
    torch.testing.assert_close(result[0].double(), expected[0], rtol=1e-5, atol=0)
    scale = float(expected[1].abs().max())
    torch.testing.assert_close(result[1].double(), expected[1], rtol=1e-5, atol=1e-6 * scale)
    in_turn(
        lambda: ours(*operands, basis),
        {"eager recurrence": lambda: peers.recurrence(*operands, basis)},
        rounds=7,
        bytes=8 * 10_000_000,
    )


@pytest.mark.parametrize("degree", [5, 10])
def test_compiled_loss_and_gradient_of_1e7_samples(degree, in_turn):
    """impl="compile" beside torch.compile of the loss that a user would write, and beside our loss within it."""
    operands = data(10_000_000, degree)
    check(ours(*operands, impl="compile"), *operands)
    horner, within = torch.compile(peers.horner_loss), torch.compile(polyfit.polynomial_loss)

    def gradient(loss: Callable[..., Tensor]) -> Tensor:
        coef = operands[2].detach().requires_grad_()
        loss(operands[0], operands[1], coef).backward()
        assert coef.grad is not None
        return coef.grad

    in_turn(
        lambda: ours(*operands, impl="compile"),
        {
            "torch.compile of Horner": lambda: gradient(horner),
            "torch.compile around ours": lambda: gradient(within),
            'impl="torch"': lambda: ours(*operands),
        },
        rounds=15,
        bytes=8 * 10_000_000,
    )


@pytest.mark.parametrize("degree", [5, 10])
@pytest.mark.parametrize("n_samples", [64, 512, 2000, 4096])
def test_loss_and_gradient_of_few_samples(n_samples, degree, in_turn):
    operands = data(n_samples, degree)
    check(ours(*operands), *operands)
    in_turn(
        lambda: [ours(*operands) for _ in range(100)],
        {
            "eager formula": lambda: [peers.formula(*operands) for _ in range(100)],
            "eager Horner": lambda: [peers.horner(*operands) for _ in range(100)],
        },
        rounds=15,
        calls=100,
    )


def test_values_and_gradient_of_1e7_samples(in_turn):
    x, grad, coef = data(10_000_000, 5)

    def polyval() -> tuple[Tensor, Tensor]:
        leaf = coef.detach().requires_grad_()
        values = polyfit.polyval(x, leaf)
        values.backward(grad)
        assert leaf.grad is not None
        return values.detach(), leaf.grad

    values, gradient = peers.horner_polyval(x.double(), coef.double(), grad.double())
    torch.testing.assert_close(polyval()[0].double(), values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(polyval()[1].double(), gradient, rtol=1e-5, atol=1e-1)
    in_turn(polyval, {"eager Horner": lambda: peers.horner_polyval(x, coef, grad)}, rounds=9, bytes=16 * 10_000_000)
