"""How much memory an activation holds in a step, for each layout of its input, beside eager Horner."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.memory import peak
from bench.peers import HornerActivation
from polyfit.nn import Polynomial

LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.randn(8192, 64),
    "strided": lambda: torch.randn(8192, 128)[:, ::2],
    "sliced": lambda: torch.randn(8192, 128)[:, :64],
    "transposed": lambda: torch.randn(64, 8192).t(),
    "channels_last": lambda: torch.randn(8, 64, 32, 32).to(memory_format=torch.channels_last),
    "planes": lambda: torch.randn(8, 64, 32, 64)[..., ::2],
}


@pytest.mark.parametrize("channels", [1, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("degree", [3, 5])
def test_a_step_holds_no_more_than_eager_horner(degree, layout, channels):
    x = LAYOUTS[layout]()
    x.requires_grad_()
    upstream = torch.randn(x.shape)
    ours = Polynomial(degree, channels, domain=(-4.0, 4.0), impl="torch")

    def held(layer: torch.nn.Module) -> int:
        def step() -> None:
            layer(x).backward(upstream)

        step()
        x.grad = None
        layer.zero_grad()
        return peak(step)

    assert held(ours) <= held(HornerActivation(ours.coef.detach().reshape(channels, -1)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_operands_are_kept_for_the_backward(layout):
    x = LAYOUTS[layout]().requires_grad_()
    layer = Polynomial(5, 64, domain=(-4.0, 4.0), impl="torch")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.data_ptr()) or saved, lambda it: it):
        layer(x)
    assert set(kept) == {x.data_ptr(), layer.coef.data_ptr()}
