"""An epoch of training at the tutorial's size."""

from __future__ import annotations

import math

import torch

import polyfit
from polyfit.tutorial import eager_loop

EPOCHS = 500
LR = 0.55e-7


def test_500_epochs_of_the_tutorial(in_turn, device):
    x = torch.linspace(-math.pi, math.pi, 2000, device=device)
    y = torch.sin(x)
    start = torch.randn(6, generator=torch.Generator().manual_seed(0)).to(device)
    rule = polyfit.optimizers.SGD(lr=LR)

    def ours() -> torch.Tensor:
        return polyfit.train(x, y, start, optimizer=rule, epochs=EPOCHS, reduction="sum").coef

    torch.testing.assert_close(ours(), eager_loop(x, y, start, LR, EPOCHS), rtol=1e-4, atol=1e-5)
    in_turn(ours, {"eager formula": lambda: eager_loop(x, y, start, LR, EPOCHS)}, rounds=9, calls=EPOCHS)
