"""What a user could write instead: value and gradients of the mean squared error, by eager autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.bases import BASES

Gradient = tuple[Tensor, Tensor]


def formula(x: Tensor, y: Tensor, coef: Tensor) -> Gradient:
    """The tutorial's ``a + b*x + c*x**2 + ...``, a parameter for each coefficient."""
    parameters = [value.clone().requires_grad_() for value in coef]
    p = parameters[0] + parameters[1] * x
    for power, parameter in enumerate(parameters[2:], start=2):
        p = p + parameter * x**power
    loss = (p - y).pow(2).mean()
    loss.backward()
    return loss.detach(), torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])


def recurrence(x: Tensor, y: Tensor, coef: Tensor, basis: str) -> Gradient:
    """The basis's three-term recurrence as one writes it down, without what is zero; a parameter a coefficient."""
    parameters = [value.clone().requires_grad_() for value in coef]
    terms: list[Tensor] = []
    p = parameters[0]
    for k, (a, b, c) in enumerate(BASES[basis].steps(len(coef) - 1)):
        slope = (x if a == 1 else a * x) + b if b else x if a == 1 else a * x
        term = slope * terms[-1] if terms else slope
        if c:
            term = term - c * (terms[-2] if k > 1 else 1.0)
        terms.append(term)
        p = p + parameters[k + 1] * term
    loss = (p - y).pow(2).mean()
    loss.backward()
    return loss.detach(), torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])


def horner_loss(x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
    """Horner's rule on one tensor of coefficients."""
    p = coef[-1]
    for k in range(len(coef) - 2, -1, -1):
        p = p * x + coef[k]
    return ((p - y) ** 2).mean()


def horner(x: Tensor, y: Tensor, coef: Tensor) -> Gradient:
    """Value and gradient of `horner_loss`."""
    coef = coef.detach().requires_grad_()
    loss = horner_loss(x, y, coef)
    loss.backward()
    assert coef.grad is not None
    return loss.detach(), coef.grad


def horner_polyval(x: Tensor, coef: Tensor, grad: Tensor) -> Gradient:
    """Values and the gradient to coef, by Horner's rule and autograd."""
    coef = coef.detach().requires_grad_()
    p = coef[-1] * torch.ones_like(x)
    for k in range(len(coef) - 2, -1, -1):
        p = p * x + coef[k]
    p.backward(grad)
    assert coef.grad is not None
    return p.detach(), coef.grad
