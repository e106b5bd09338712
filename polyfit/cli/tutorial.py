"""Training loops in eager autograd. The demo and the benchmarks compare `polyfit.train` with them."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit import formula
from polyfit.bases import AffineMap
from polyfit.losses import Loss
from polyfit.optimizers import Rule


def eager_loop(x: Tensor, y: Tensor, start: Tensor, lr: float, epochs: int) -> Tensor:
    """Fit a polynomial of degree 5 by eager autograd and gradient descent on the sum of squared errors.

    The loop is the tutorial's: one parameter a coefficient, and the loss is read every 100 epochs.

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


def eager_training(
    x: Tensor,
    y: Tensor,
    start: Tensor,
    rule: Rule,
    epochs: int,
    *,
    loss: Loss,
    basis: str = "power",
    mapping: AffineMap | None = None,
) -> Tensor:
    """Minimise the sum of a loss by eager autograd and torch.optim.

    Args:
        x: samples, (N,).
        y: targets, (N,).
        start: coefficients, (degree + 1,).
        rule: the update rule; torch.optim's class of the same name is used. Its rate must be constant.
        epochs: number of updates.
        loss: the pointwise loss.
        basis: the basis of the coefficients.
        mapping: the map from the domain to the window, or None for t = x.

    Returns:
        The coefficients after the last update.
    """
    coef = start.clone().requires_grad_()
    optimizer: torch.optim.Optimizer = getattr(torch.optim, type(rule).__name__)([coef], **vars(rule))
    for epoch in range(epochs):
        total = loss.value(formula.polyval(x, coef, formula.Model(basis, mapping)), y).sum()
        if epoch % 100 == 99:
            total.item()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return coef.detach()
