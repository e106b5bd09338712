"""The autograd Functions of plain series on a CPU: see `polyfit.backends.chunked.plain_loss`.

A call on few samples takes as long as the layers between the user and numpy. These Functions are for eager calls only,
without transforms, tracers and forward mode, and there is one layer less: the forward pass of the loss gives its
gradients as they are returned, up to the factor from upstream. Second derivatives are those of the general Functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyfit.autograd._torch import apply, is_eager, is_in_batches, pulls_back_formula
from polyfit.autograd.loss import Reduced, general_loss, loss_gradients, second_derivatives, without_sums
from polyfit.autograd.polyval import general_polyval, polyval_gradients
from polyfit.backends.chunked import many, plain_loss, plain_values, shared, short
from polyfit.backends.results import Gradients, Wants
from polyfit.formula import Model


class ShortLoss(torch.autograd.Function):
    """The reduced loss."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Reduced
    ) -> Tensor:
        """One pass over the data for the value and for the gradients that are wanted."""
        wants = Wants(*ctx.needs_input_grad[:4])
        value, gradients = _losses(x, y, coef, weight, terms, wants)
        ctx.terms = terms
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, coef, weight, *gradients)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients of the forward pass."""
        if grad is None:
            return (None,) * 5
        saved = ctx.saved_tensors
        wants = Wants(*ctx.needs_input_grad[:4])
        if torch.is_grad_enabled() and is_eager() and not is_in_batches(grad):
            return *apply(ShortLossGradients, grad, *saved, ctx.terms, wants), None
        if torch.is_grad_enabled() or pulls_back_formula(grad):
            return *loss_gradients(grad, saved[:4], without_sums(saved[3]), ctx.terms, wants), None
        factor = grad if grad.dim() == 0 else grad.unsqueeze(1)
        return *(None if part is None else part * factor for part in saved[4:]), None


class ShortLossGradients(torch.autograd.Function):
    """The gradients of `ShortLoss`, where a graph of the backward is made."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, *args: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients of the forward pass; args are the operands, the gradients, terms and wants."""
        *tensors, ctx.terms, ctx.wants = args
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, *tensors[:4])
        factor = grad if grad.dim() == 0 else grad.unsqueeze(1)
        return tuple(None if part is None else part * factor for part in tensors[4:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `polyfit.autograd.loss.second_derivatives`."""
        found = second_derivatives(ctx.saved_tensors, ctx.terms, ctx.wants, ctx.needs_input_grad[:5], upstream)
        return *found, *(None,) * 6


class ShortPolyval(torch.autograd.Function):
    """p(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, coef: Tensor, model: Model) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `polyfit.backends.operators.evaluate`."""
        ctx.model = model
        ctx.save_for_backward(x, coef)
        return plain_values.evaluate(x, coef, model)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vector-Jacobian product, in one pass over x and grad."""
        x, coef = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or pulls_back_formula(grad):
            return *polyval_gradients(grad, x, coef, ctx.model, "torch", wants), None
        found = plain_values.evaluate_backward(grad, x, coef, ctx.model, Wants(x=wants[0], coef=wants[1]))
        return *found, None


def is_short(x: Tensor, coef: Tensor, impl: str) -> bool:
    """Whether the Functions here take the samples x and the coefficients.

    They are x (N,) and coef (degree + 1,), or x (S, N) or (N,) and coef (S, degree + 1).
    """
    if impl != "torch" or not is_eager():
        return False
    return short.is_plain(x, coef) or many.is_plain(x, coef) or shared.is_shared(x, coef)


def _losses(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Reduced, wants: Wants
) -> tuple[Tensor, Gradients]:
    per_series = terms.n_losses is not None
    return plain_loss.loss(x, y, coef, weight, terms.model, terms.reduction, wants, per_series=per_series)


def short_loss(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Reduced) -> Tensor:
    """The reduced loss, for y and weight in the shape of p(x); see `is_short`.

    A scalar, or the losses (S,) of as many series without weights.
    """
    needs = x.requires_grad or y.requires_grad or coef.requires_grad or (weight is not None and weight.requires_grad)
    if needs and torch.is_grad_enabled():
        return apply(ShortLoss, x, y, coef, weight, terms)
    return _losses(x, y, coef, weight, terms, Wants())[0]


def short_polyval(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p(x); see `is_short`."""
    if (x.requires_grad or coef.requires_grad) and torch.is_grad_enabled():
        return apply(ShortPolyval, x, coef, model)
    return plain_values.evaluate(x, coef, model)


def polynomial_loss(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Reduced) -> Tensor:
    """The reduced loss, differentiable: a scalar, or (n_losses,), each over as many series in a row."""
    if x.dim() == coef.dim():
        is_alike = x.dim() == y.dim() and (weight is None or x.dim() == weight.dim())
    else:
        is_alike = y.dim() == coef.dim() and weight is None
    has_one_each = coef.dim() == 2 and terms.n_losses == coef.shape[0] and weight is None
    if is_alike and (terms.n_losses is None or has_one_each) and is_short(x, coef, terms.impl):
        return short_loss(x, y, coef, weight, terms)
    return general_loss(x, y, coef, weight, terms)


def polyval(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    """p(x), differentiable."""
    if is_short(x, coef, impl):
        return short_polyval(x, coef, model)
    return general_polyval(x, coef, model, impl)
