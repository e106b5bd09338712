"""A forward and a backward pass of the KAN layer, against nn.Linear and published forms. Checked first, timed after."""

from __future__ import annotations

import pytest
import torch

from bench import kan


@pytest.mark.parametrize("name", kan.SHAPES)
def test_kan(name, in_turn):
    shape = kan.SHAPES[name]
    layers = kan.layers(shape)
    x = torch.randn(64, shape.n_in)
    for peer in ("acos", "recurrence"):  # the acos of a float32 near 1 has lost half of its digits
        torch.testing.assert_close(layers["ours"](x), layers[peer](x), rtol=0, atol=1e-3)
    steps = {layer: kan.step(module, shape) for layer, module in layers.items()}
    in_turn(steps.pop("ours"), steps, rounds=5)
