"""Values of a polynomial, and their gradients, a chunk at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.backends.chunked.parts import Part, Parts
from polyfit.backends.results import Wants
from polyfit.bases import BASES, derivative_matrix
from polyfit.formula import Model, compute_dtype


def derivative(coef: Tensor, model: Model) -> Tensor:
    """Coefficients (S, degree) of dp/dx in the basis of p; the slope of the map is included."""
    matrix = derivative_matrix(BASES[model.basis], coef.shape[1] - 1).to(coef.device)
    slope = (coef.double().unsqueeze(1) * matrix).sum(-1)  # elementwise: a product of matrices could lose digits
    return (slope if model.mapping is None else slope * model.mapping[1]).to(coef.dtype)


def slopes(part: Part, slope: Tensor) -> Tensor:
    """dp/dx of the part's samples, (s, n), from the coefficients of the derivative."""
    return part.matrix.samples(part.matrix.series(part.coefficients(slope)))


def evaluate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p(x) for all series, (S, N), in the dtype of x."""
    parts = Parts(x, coef.shape[0], coef.shape[1] - 1, model.affine_map, model.basis)
    wide = coef.to(parts.dtype)
    out = x.new_zeros(coef.shape[0], x.shape[1])
    for part in parts:
        values = part.matrix.samples(part.matrix.series(part.coefficients(wide)))
        if part.is_all and values.dtype == x.dtype:
            return values.contiguous()
        out[part.series, part.samples] = values
    return out


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad (S, N).

    Returns:
        The gradient to x (S or 1, N) in the dtype that computes and to coef (S, degree + 1) in float64; None for what
        was not wanted.
    """
    n_series = coef.shape[0]
    parts = Parts(x, n_series, coef.shape[1] - 1, model.affine_map, model.basis)
    slope = derivative(coef.to(parts.dtype), model) if wants.x else None
    grad_x = x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) if wants.x else None
    grad_coef = None
    for part in parts:
        delta = part.operand(grad)
        if grad_x is not None and slope is not None:
            part.deposit(slopes(part, slope).mul_(delta), grad_x)
        if wants.coef:
            grad_coef = part.add(part.matrix.moments(part.matrix.pad(delta)), grad_coef)
    if wants.coef and grad_coef is None:  # no samples
        grad_coef = coef.new_zeros(coef.shape, dtype=torch.float64)
    return grad_x, grad_coef
