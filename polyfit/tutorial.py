"""The loop that this project grew out of, as the tutorial writes it: what the demo and the benchmarks compare with."""

from __future__ import annotations

import torch
from torch import Tensor


def eager_loop(x: Tensor, y: Tensor, start: Tensor, lr: float, epochs: int) -> Tensor:
    """Fit a polynomial of degree 5 by eager autograd and gradient descent on the sum of squared errors.

    A parameter for each coefficient, and a look at the loss each 100 epochs.

    Args:
        x: samples, (N,).
        y: targets, (N,).
        start: six coefficients, lowest degree first.
        lr: learning rate.
        epochs: number of updates.

    Returns:
        The six coefficients after the last update.
    """
    a, b, c, d, e, f = parameters = [value.clone().requires_grad_() for value in start]
    for epoch in range(epochs):
        y_pred = a + b * x + c * x**2 + d * x**3 + e * x**4 + f * x**5
        loss = (y_pred - y).pow(2).sum()
        if epoch % 100 == 99:
            loss.item()
        loss.backward()
        with torch.no_grad():
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.sub_(lr * parameter.grad)
                parameter.grad = None
    return torch.stack(parameters).detach()
