"""An elementwise polynomial of each group of channels as a pair of autograd Functions.

Operands: x (outer, groups, inner) and coef (groups, degree + 1). Only these are kept for the backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyfit import formula
from polyfit._channels import Channels
from polyfit.autograd._batching import Tensors, vmap_results
from polyfit.autograd._pullback import pull_back, pull_back_twice
from polyfit.autograd._tied import tied
from polyfit.autograd._torch import apply, is_transformed, pulls_back_formula, runs_formula
from polyfit.backends import operators
from polyfit.backends.results import Wants
from polyfit.formula import Model


def _formula(x: Tensor, coef: Tensor, model: Model, channels: Channels | None) -> Tensor:
    """The formula on operands as `Activation` has them."""
    if channels is None:
        return formula.polyval(x, coef, model)
    return channels.restore(formula.polyval(channels.flatten(x), _rows_of(coef), model), x.shape)


def _rows_of(coef: Tensor) -> Tensor:
    """Coefficients with an axis of groups."""
    return coef if coef.dim() == 2 else coef.unsqueeze(0)


class Activation(torch.autograd.Function):
    """p_g(x). Without transforms it takes the operands of a user, and `channels`; views would take longer than it."""

    @staticmethod
    def forward(x: Tensor, coef: Tensor, model: Model, impl: str, channels: Channels | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `polyfit.backends.operators.activate`."""
        return operators.activate(x, coef, model, impl, channels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands; nothing of the forward pass is needed again."""
        x, coef, *ctx.constants = inputs
        ctx.save_for_backward(x, coef)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vector-Jacobian product, in one pass over x and grad."""
        x, coef = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        model, impl, channels = ctx.constants
        if pulls_back_formula(grad):
            found = pull_back(lambda x, coef: _formula(x, coef, model, channels), (x, coef), wants, grad)
        elif torch.is_grad_enabled():
            found = _differentiable_gradients(grad, x, coef, model, impl, wants, channels)
        else:
            found = _gradients(grad, x, coef, model, impl, wants, channels)
        return *found, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, coef: Tensor, *constants: Any) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Examples that share the coefficients are more of `outer`; those of their own are more groups."""
        batch = info.batch_size
        if in_dims[1] is None:
            return _split_outer(apply(Activation, _merge_outer(x, in_dims[0], batch), coef, *constants), batch), 0
        merged = _merge_groups(x, in_dims[0], batch), _merge_rows(coef, in_dims[1], batch)
        return apply(Activation, *merged, *constants).unflatten(1, (batch, -1)), 1


def _gradients(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: tuple[bool, bool], channels: Channels | None
) -> tuple[Tensor | None, Tensor | None]:
    """See `polyfit.backends.operators.activate_backward`; that to coef in its dtype."""
    want_x, want_coef = wants
    grad_x, grad_coef = operators.activate_backward(
        grad, x, coef, model, impl, Wants(x=want_x, coef=want_coef), channels
    )
    is_rounded = grad_coef is None or grad_coef.dtype == coef.dtype
    return grad_x, grad_coef if is_rounded or grad_coef is None else grad_coef.to(coef.dtype)


def _differentiable_gradients(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: tuple[bool, bool], channels: Channels | None
) -> tuple[Tensor | None, Tensor | None]:
    """The same, for a graph of second derivatives."""
    if channels is None:
        return apply(ActivationGradients, grad, x, coef, model, impl, wants)
    operands = channels.flatten(grad), channels.flatten(x), _rows_of(coef)
    grad_x, grad_coef = apply(ActivationGradients, *operands, model, impl, wants)
    return (
        None if grad_x is None else channels.restore(grad_x, x.shape),
        None if grad_coef is None else grad_coef.view(coef.shape),
    )


class ActivationGradients(torch.autograd.Function):
    """Gradients of sum(grad * p_g(x)) to x and coef."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `polyfit.backends.operators.activate_backward`."""
        return _gradients(grad, x, coef, model, impl, wants, None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, Tensor | None]) -> None:
        """Keep the operands."""
        grad, x, coef, ctx.model, _, ctx.wants = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, coef)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Through the formula."""
        grad, *operands = ctx.saved_tensors

        def values(x: Tensor, coef: Tensor) -> Tensor:
            return formula.polyval(x, coef, ctx.model)

        needs = ctx.needs_input_grad[:3]
        return *pull_back_twice(values, grad, operands, ctx.wants, needs, upstream), None, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, x: Tensor, coef: Tensor, *constants: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """As of `Activation`; examples that share the coefficients have gradients to them of their own."""
        batch, (_, want_coef) = info.batch_size, constants[-1]
        samples = list(zip((grad, x), in_dims[:2], strict=True))
        if in_dims[2] is None and not want_coef:
            merged = [_merge_outer(operand, dim, batch) for operand, dim in samples]
            grad_x, _ = apply(ActivationGradients, *merged, coef, *constants)
            return vmap_results(None if grad_x is None else _split_outer(grad_x, batch), None)
        merged = [_merge_groups(operand, dim, batch) for operand, dim in samples]
        grad_x, grad_coef = apply(ActivationGradients, *merged, _merge_rows(coef, in_dims[2], batch), *constants)
        return vmap_results(
            None if grad_x is None else grad_x.unflatten(1, (batch, -1)).movedim(1, 0),
            None if grad_coef is None else grad_coef.unflatten(0, (batch, -1)),
        )


def _examples(operand: Tensor, dim: int | None, batch: int) -> Tensor:
    """The operand with the axis of examples in front."""
    return operand.expand(batch, *operand.shape) if dim is None else operand.movedim(dim, 0)


def _merge_outer(operand: Tensor, dim: int | None, batch: int) -> Tensor:
    """(B * outer, groups, inner)."""
    return _examples(operand, dim, batch).flatten(0, 1)


def _split_outer(values: Tensor, batch: int) -> Tensor:
    return values.unflatten(0, (batch, -1))


def _merge_groups(operand: Tensor, dim: int | None, batch: int) -> Tensor:
    """(outer, B * groups, inner): a view where outer is 1."""
    return _examples(operand, dim, batch).transpose(0, 1).flatten(1, 2)


def _merge_rows(coef: Tensor, dim: int | None, batch: int) -> Tensor:
    """(B * groups, degree + 1)."""
    return _examples(coef, dim, batch).flatten(0, 1)


def activation(x: Tensor, coef: Tensor, model: Model, impl: str, channels: Channels | None = None) -> Tensor:
    """p_g(x) in the shape and dtype of x, differentiable.

    Args:
        x: (outer, groups, inner), or with channels of any shape.
        coef: (groups, degree + 1), or with channels (degree + 1,) for one group. Its dtype is that of x or wider than
            a half type; it computes in the dtype that x computes in.
        model: basis, mapping and continuation.
        impl: resolved.
        channels: how the elements of x lie in memory; None for canonical x.
    """
    if channels is not None and (torch.compiler.is_compiling() or is_transformed() or runs_formula()):
        return channels.restore(activation(channels.flatten(x), _rows_of(coef), model, impl), x.shape)
    if runs_formula():
        return formula.polyval(x, coef, model)
    # One operand that is tied is enough, and x costs a pass over memory: where it is large, coef is tied.
    if coef.requires_grad:
        (coef,) = tied(coef)
    else:
        (x,) = tied(x)
    wants = torch.is_grad_enabled() and (x.requires_grad or coef.requires_grad)
    if wants or is_transformed():
        return apply(Activation, x, coef, model, impl, channels)
    return operators.activate(x, coef, model, impl, channels)
