"""Layers, forward and backward, against what a user could write instead. Checked first, timed after."""

from __future__ import annotations

import pytest
import torch

from bench import peers
from bench.layers import DEGREE, DOMAIN, SHAPES, activations
from polyfit.nn import Polynomial


@pytest.mark.parametrize("impl", ["torch", "compile"])
@pytest.mark.parametrize("kind", ["one", "a channel"])
@pytest.mark.parametrize("shape", SHAPES)
def test_activation(shape, kind, impl, in_turn):
    channels = 1 if kind == "one" else shape[1]
    layer = Polynomial(DEGREE, channels, domain=DOMAIN, init="silu", impl=impl)
    x = torch.randn(shape).requires_grad_()
    expected = peers.ChebyshevActivation(layer.coef.detach().double().reshape(channels, -1), DOMAIN)
    wide = x.detach().double().requires_grad_()
    layer(x).square().sum().backward()
    expected(wide).square().sum().backward()
    assert x.grad is not None
    assert layer.coef.grad is not None
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        layer.coef.grad.double().view_as(expected.coef), expected.coef.grad, rtol=1e-4, atol=1e-6 * x.numel()
    )
    steps = activations(shape, channels)
    ours = steps.pop("ours" if impl == "torch" else 'ours, impl="compile"')
    in_turn(ours, steps, rounds=9, bytes=5 * 4 * x.numel())
