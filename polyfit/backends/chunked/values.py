"""Values of a polynomial, and their gradients, a chunk at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.backends.chunked.parts import Part, Parts
from polyfit.backends.results import Wants
from polyfit.bases import BASES, derivative_matrix
from polyfit.formula import Model, compute_dtype


class Derivative:
    """The derivative dp/dx of the polynomials, for the gradient to x.

    The coefficients of the derivative are made for the series of one part at a time: those of all series may take more
    memory than x.

    Args:
        coef: (S, degree + 1), in the dtype of the matrices.
        model: basis and mapping.
    """

    def __init__(self, coef: Tensor, model: Model) -> None:
        self._coef = coef
        matrix = derivative_matrix(BASES[model.basis], coef.shape[1] - 1).T.to(coef.device)
        self._matrix = matrix if model.mapping is None else matrix * model.mapping[1]
        self._series: slice | None = None
        self._slope = coef

    def __call__(self, part: Part) -> Tensor:
        """dp/dx of the part's samples, (s, n)."""
        if self._series != part.series:
            self._series = part.series
            self._slope = (part.coefficients(self._coef).double() @ self._matrix).to(self._coef.dtype)
        return part.matrix.samples(part.matrix.series(self._slope))


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
    derivative = Derivative(coef.to(parts.dtype), model) if wants.x else None
    grad_x = x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) if wants.x else None
    grad_coef = None
    for part in parts:
        delta = part.operand(grad)
        if grad_x is not None and derivative is not None:
            part.deposit(derivative(part).mul_(delta), grad_x)
        if wants.coef:
            grad_coef = part.add(part.matrix.moments(part.matrix.pad(delta)), grad_coef)
    if wants.coef and grad_coef is None:  # no samples
        grad_coef = coef.new_zeros(coef.shape, dtype=torch.float64)
    return grad_x, grad_coef
