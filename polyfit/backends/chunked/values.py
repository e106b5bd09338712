"""Values of a polynomial, and their gradients, a chunk at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import steps_of
from polyfit.backends.chunked.parts import Part, Parts
from polyfit.backends.chunked.samples import Samples, clenshaw, is_powers
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
    n_series, n_coef = coef.shape
    out = x.new_empty(n_series, x.shape[1])
    if n_series == 1:
        _evaluate_one(x, coef, model, out)
        return out
    parts = Parts(x, n_series, n_coef - 1, model.affine_map, model.basis)
    wide = coef.to(parts.dtype)
    for part in parts:
        values = part.matrix.samples(part.matrix.series(part.coefficients(wide)))
        if part.is_all and values.dtype == x.dtype:
            return values.contiguous()
        out[part.series, part.samples] = values
    return out


def _evaluate_one(x: Tensor, coef: Tensor, model: Model, out: Tensor) -> None:
    """Write p(x) of one series to `out`, (1, N) in the dtype of x."""
    dtype, degree = compute_dtype(x.dtype), coef.shape[1] - 1
    numbers, steps = coef.to(dtype).squeeze(0).unbind(), steps_of(model.basis, degree)
    is_wide = x.dtype == dtype
    if model.mapping is None and is_wide and is_powers(steps) and x.is_contiguous():  # without a buffer
        size = sizes.current().chunk_of_one(x.device, x.shape[1])
        for t, place in zip(x.squeeze(0).split(size), out.squeeze(0).split(size), strict=True):
            clenshaw(t, numbers, steps, place)
        return
    for part in Parts(x, 1, degree, model.affine_map, model.basis, has_functions=False):
        assert isinstance(part.matrix, Samples)
        place = out if part.is_all else out[:, part.samples]
        if is_wide:
            part.matrix.evaluate(numbers, place.squeeze(0))
        else:
            place.copy_(part.matrix.series(coef.to(dtype)))


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad (S, N).

    Returns:
        The gradient to x (S or 1, N) in the dtype that computes and to coef (S, degree + 1) in float64; None for what
        was not wanted.
    """
    n_series = coef.shape[0]
    parts = Parts(
        x, n_series, coef.shape[1] - 1, model.affine_map, model.basis, has_functions=wants.coef, has_matrix=False
    )
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
