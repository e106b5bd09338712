"""The operations on canonical operands: what all backends share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import polynomial_loss, polyval
from torch import Tensor

import polyfit
from polyfit.backends import operators
from polyfit.backends.inductor import has_compiler
from polyfit.formula import Model
from polyfit.losses import MSE

N = 9000  # two rows of a compiled loop and more
IMPLS = [
    "torch",
    pytest.param(
        "compile", marks=[pytest.mark.compiler, pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")]
    ),
]


def _negated(operand: Tensor) -> Tensor:
    """The same numbers as a view that torch negates lazily."""
    view = torch.complex(operand, -operand).conj().imag
    assert view.is_neg()
    return view


def _operands() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (N,), "y": (N,), "coef": (4,), "weight": (N,)}
    return {
        name: torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 0.5 for name, shape in shapes.items()
    }


@pytest.mark.parametrize("name", ["x", "y", "coef", "weight"])
@pytest.mark.parametrize("impl", IMPLS)
def test_views_that_are_negated_lazily(impl, name):
    operands = _operands()
    leaf = operands[name].clone().requires_grad_()
    expected = polynomial_loss(**{**operands, name: leaf})  # pyright: ignore[reportArgumentType]
    expected.backward()
    operands[name] = _negated(operands[name]).requires_grad_()
    loss = polyfit.polynomial_loss(**operands, impl=impl)  # pyright: ignore[reportArgumentType]
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(operands[name].grad, leaf.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("impl", IMPLS)
def test_values_at_views_that_are_negated_lazily(impl):
    operands = _operands()
    x, coef = _negated(operands["x"]).requires_grad_(), _negated(operands["coef"]).requires_grad_()
    values = polyfit.polyval(x, coef, impl=impl)
    upstream = operands["y"]
    found = torch.autograd.grad(values, (x, coef), _negated(upstream))
    leaves: Any = [operands[name].clone().requires_grad_() for name in ("x", "coef")]
    expected = polyval(*leaves)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(found, torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_moments_and_loops_on_views_that_are_negated_lazily():
    x, y, coef, weight = (operand[:40] for operand in _operands().values())
    views = [_negated(operand) for operand in (x, y, weight)]
    moments: Any = operators.moments
    bind: Any = operators.bound_objective
    for ours, theirs in zip(
        moments(*views, 3, (-1.0, 2.0), None, "torch"),
        moments(x, y, weight, 3, (-1.0, 2.0), None, "torch"),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    model = Model("power", None, MSE())
    results = []
    for data in (views, (x, y, weight)):
        call, gradient = bind(*data, coef.unsqueeze(0), model, "torch", 1.0)
        assert gradient is not None
        results.append((*call(coef.unsqueeze(0), True), torch.from_numpy(gradient(coef.unsqueeze(0).numpy()))))
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
