"""The loop over epochs in C++ makes the updates of every rule, as torch.optim and as the loop in numpy do."""

from __future__ import annotations

import pytest
import torch
from oracle import polynomial_loss as plain_loss
from training_oracle import RULES

import polyfit

F64 = torch.float64
EPOCHS = 60


@pytest.mark.compiler
@pytest.mark.parametrize("name", RULES)
def test_every_rule_in_cpp(name):
    rule, make = RULES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, dtype=F64, generator=generator) * 2 - 1
    y, start = torch.sin(3 * x), torch.randn(3, dtype=F64, generator=generator)
    coef = start.clone().requires_grad_()
    optimizer = make([coef])
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        plain_loss(x, y, coef).backward()
        optimizer.step()
    for impl in ("compile", "torch"):
        result = polyfit.train(x, y, start, optimizer=rule, epochs=EPOCHS, engine="moments", impl=impl)
        torch.testing.assert_close(result.coef, coef.detach(), rtol=1e-10, atol=1e-12)
