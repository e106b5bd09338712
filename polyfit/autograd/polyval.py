"""Values of a polynomial as a pair of autograd Functions."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from polyfit import formula
from polyfit.autograd._batching import Tensors, count_axes, merge_examples, split_examples, vmap_results
from polyfit.autograd._pullback import pull_back
from polyfit.autograd._torch import (
    apply,
    is_eager,
    is_few_under_transforms,
    is_in_batches,
    is_transformed,
    pulls_back_formula,
    runs_formula,
)
from polyfit.backends import operators
from polyfit.backends.chunked import short
from polyfit.backends.results import Wants
from polyfit.bases import BASES, derivative_matrix
from polyfit.formula import Model


class Polyval(torch.autograd.Function):
    """p(x)."""

    @staticmethod
    def forward(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `polyfit.backends.operators.evaluate`."""
        return operators.evaluate(x, coef, model, impl)

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
        model, impl = ctx.constants
        return *polyval_gradients(grad, x, coef, model, impl, wants), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, coef: Tensor, *constants: Any) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Values of B * S series."""
        batch = info.batch_size
        axes = [count_axes(operand, dim) for operand, dim in zip((x, coef), in_dims[:2], strict=True)]
        merged, n_series = merge_examples((x, coef), in_dims[:2], axes, (False, True), batch)
        values = apply(Polyval, *merged, *constants).unflatten(0, (batch, n_series))
        return (values.squeeze(1) if axes[1] == 1 else values), 0


class PolyvalGradients(torch.autograd.Function):
    """Gradients of sum(grad * p(x)) to x and coef."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `polyfit.backends.operators.evaluate_backward`."""
        want_x, want_coef = wants
        grad_x, grad_coef = operators.evaluate_backward(grad, x, coef, model, impl, Wants(x=want_x, coef=want_coef))
        return None if grad_x is None else grad_x.to(x.dtype), None if grad_coef is None else grad_coef.to(coef.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, Tensor | None]) -> None:
        """Keep the operands."""
        grad, x, coef, ctx.model, ctx.impl, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, coef)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients of sum(grad * v), where v is the derivative of p(x) along the upstream gradients."""
        (grad, x, coef), (along_x, along_coef) = ctx.saved_tensors, upstream
        need_grad, need_x, need_coef = ctx.needs_input_grad[:3]
        model, impl = ctx.model, ctx.impl
        to_grad = to_x = to_coef = None
        if need_grad:
            to_grad = _along(x, coef, along_x, along_coef, model, impl)
        if need_x:
            slopes = None if along_coef is None else _derivative(along_coef, model)
            to_x = _along(x, _derivative(coef, model), along_x, slopes, model, impl)
            to_x = None if to_x is None else grad * to_x
            to_x = to_x if to_x is None or to_x.dim() == x.dim() else to_x.sum(0)
        if need_coef and along_x is not None and coef.shape[-1] > 1:
            _, sums = polyval_gradients(grad * along_x, x, coef, model, impl, (False, True))
            assert sums is not None
            to_coef = (sums[..., :-1].double() @ _derivative_matrix(coef, model)).to(coef.dtype)
        return to_grad, to_x, to_coef, None, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, x: Tensor, coef: Tensor, *constants: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """Gradients of B * S series."""
        batch, (want_x, _) = info.batch_size, constants[-1]
        axes = [count_axes(operand, dim) for operand, dim in zip((grad, x, coef), in_dims[:3], strict=True)]
        merged, _ = merge_examples((grad, x, coef), in_dims[:3], axes, (True, want_x, True), batch)
        grad_x, grad_coef = apply(PolyvalGradients, *merged, *constants)
        return vmap_results(split_examples(grad_x, batch, axes[1]), split_examples(grad_coef, batch, axes[2]))


def polyval_gradients(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: tuple[bool, bool]
) -> Tensors:
    """Gradients of sum(grad * p(x)) to x and coef, differentiable where a graph is made."""
    if pulls_back_formula(grad):
        return tuple(pull_back(lambda x, coef: formula.polyval(x, coef, model), (x, coef), wants, grad))
    if torch.is_grad_enabled():
        return apply(PolyvalGradients, grad, x, coef, model, impl, wants)
    return PolyvalGradients.forward(grad, x, coef, model, impl, wants)  # pyright: ignore[reportCallIssue]


def _derivative_matrix(coef: Tensor, model: Model) -> Tensor:
    """The matrix (degree, degree + 1) that takes coefficients to those of dp/dx, in float64."""
    degree = coef.shape[-1] - 1
    if coef.is_cpu and is_eager() and not torch.is_inference_mode_enabled():
        return _known_matrix(model.basis, degree, model.slope)  # pyright: ignore[reportArgumentType]
    return derivative_matrix(BASES[model.basis], degree).to(coef.device) * model.slope


@functools.lru_cache(maxsize=64)
def _known_matrix(basis: str, degree: int, slope: float) -> Tensor:
    return derivative_matrix(BASES[basis], degree) * slope


def _derivative(coef: Tensor, model: Model) -> Tensor:
    """The coefficients of dp/dx, at least one."""
    if coef.shape[-1] == 1:
        return torch.zeros_like(coef)
    if not torch.is_grad_enabled() and short.is_plain(coef, coef) and is_eager() and not is_in_batches(coef):
        return short.derivative(coef, model)
    return (coef.double() @ _derivative_matrix(coef, model).t()).to(coef.dtype)


def _along(
    x: Tensor, coef: Tensor, along_x: Tensor | None, along_coef: Tensor | None, model: Model, impl: str
) -> Tensor | None:
    """The derivative of p(x) in the direction of (along_x, along_coef)."""
    along = None
    if along_coef is not None:
        is_plain = is_in_batches(along_coef)
        along = formula.polyval(x, along_coef, model) if is_plain else general_polyval(x, along_coef, model, impl)
    if along_x is not None:
        slopes = general_polyval(x, _derivative(coef, model), model, impl)
        along = along_x * slopes if along is None else torch.addcmul(along, along_x, slopes)
    return along


def general_polyval(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    """p(x), differentiable."""
    if runs_formula() or is_few_under_transforms(x, coef):
        return formula.polyval(x, coef, model)
    wants = torch.is_grad_enabled() and (x.requires_grad or coef.requires_grad)
    if wants or is_transformed():
        return apply(Polyval, x, coef, model, impl)
    return operators.evaluate(x, coef, model, impl)
