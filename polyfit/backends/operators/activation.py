"""An elementwise polynomial of each group of channels on canonical operands, and its gradients.

Canonical operands: x and grad (outer, groups, inner), coef (groups, degree + 1). With `polyfit._channels.Channels` an
eager call takes those of a user as they are: views of them would take as long as a call of a small layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit._channels import Channels
from polyfit.backends import chunked, traced
from polyfit.backends.operators._plain import model_of
from polyfit.backends.results import Wants
from polyfit.backends.select import autocast_is_off, is_fused_by_compiler, is_traced
from polyfit.formula import Model


def _in_memory(operand: Tensor) -> Tensor:
    """An operand as kernels and loops read it: without gaps, and not a view that torch negates lazily."""
    return operand.resolve_neg().contiguous()


@autocast_is_off
def _activate_eager(x: Tensor, coef: Tensor, model: Model, impl: str, channels: Channels | None = None) -> Tensor:
    if x.is_meta or x.numel() == 0:
        return x.new_empty(x.shape) if channels is None else torch.empty_like(x)
    if impl == "torch":
        return chunked.activate(x.resolve_neg(), coef.resolve_neg(), model, channels)
    if impl == "triton":
        from polyfit.backends.triton import activate as run
    else:
        from polyfit.backends.inductor import activate as run
    rows = x if channels is None else channels.flatten(x)
    values = run(_in_memory(rows), _rows_of(coef).resolve_neg(), model)
    return values if channels is None else channels.restore(values, x.shape)


@torch.library.custom_op(
    "polyfit::activate",
    mutates_args=(),
    schema="(Tensor x, Tensor coef, float[]? mapping, str basis, str outside, str impl) -> Tensor",
)
def _activate_op(x, coef, mapping, basis, outside, impl):
    return _activate_eager(x, coef, _model(mapping, basis, outside), impl)


@_activate_op.register_fake
def _activate_fake(x, coef, mapping, basis, outside, impl):
    return x.new_empty(x.shape)


def activate(x: Tensor, coef: Tensor, model: Model, impl: str, channels: Channels | None = None) -> Tensor:
    """p_g(x[o, g, i]) with the coefficients coef[g], in the dtype of x.

    Args:
        x: (outer, groups, inner), or with channels of any shape and strides.
        coef: (groups, degree + 1), or with channels (degree + 1,) for one group.
        model: basis, mapping and continuation.
        impl: resolved.
        channels: how the elements of x lie in memory; None for canonical x.

    Returns:
        The values, in the shape and the memory format of x.
    """
    if not is_traced():
        return _activate_eager(x, coef, model, impl, channels)
    if channels is not None:
        return channels.restore(activate(channels.flatten(x), _rows_of(coef), model, impl), x.shape)
    if is_fused_by_compiler(x):
        return traced.activate(x, coef, model)
    return torch.ops.polyfit.activate(x, coef, model.mapping, model.basis, model.outside, impl)


@autocast_is_off
def _activate_backward_eager(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    model: Model,
    impl: str,
    wants: Wants,
    channels: Channels | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    if x.is_meta or x.numel() == 0:
        return (
            torch.empty_like(x) if wants.x else None,
            coef.new_zeros(coef.shape, dtype=torch.float64) if wants.coef else None,
        )
    if impl == "torch":
        operands = grad.resolve_neg(), x.resolve_neg(), coef.resolve_neg()
        return chunked.activate_backward(*operands, model, wants, channels)
    if impl == "triton":
        from polyfit.backends.triton import activate_backward as run
    else:
        from polyfit.backends.inductor import activate_backward as run
    rows, upstream = (x, grad) if channels is None else (channels.flatten(x), channels.flatten(grad))
    grad_x, grad_coef = run(_in_memory(upstream), _in_memory(rows), _rows_of(coef).resolve_neg(), model, wants)
    return (
        grad_x if grad_x is None or channels is None else channels.restore(grad_x, x.shape),
        None if grad_coef is None else grad_coef.view(coef.shape),
    )


@torch.library.custom_op(
    "polyfit::activate_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor coef, float[]? mapping, str basis, str outside, str impl, bool want_x,"
    " bool want_coef) -> (Tensor, Tensor)",
)
def _activate_backward_op(grad, x, coef, mapping, basis, outside, impl, want_x, want_coef):
    wants = Wants(x=want_x, coef=want_coef)
    found = _activate_backward_eager(grad, x, coef, _model(mapping, basis, outside), impl, wants)
    return tuple(x.new_empty(0) if part is None else part for part in found)


@_activate_backward_op.register_fake
def _activate_backward_fake(grad, x, coef, mapping, basis, outside, impl, want_x, want_coef):
    grad_x = x.new_empty(x.shape if want_x else 0)
    return grad_x, x.new_empty(coef.shape, dtype=torch.float64) if want_coef else x.new_empty(0)


def activate_backward(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    model: Model,
    impl: str,
    wants: Wants,
    channels: Channels | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad in the shape of x, in one pass.

    Args:
        grad: of any strides, in the dtype of x.
        x: see `activate`.
        coef: likewise.
        model: basis, mapping and continuation.
        impl: resolved.
        wants: which gradients are wanted, of x and coef.
        channels: see `activate`.

    Returns:
        The gradient to x in the dtype of x, and to coef in float64, or with channels in any dtype; None for what was
        not wanted.
    """
    if not is_traced():
        return _activate_backward_eager(grad, x, coef, model, impl, wants, channels)
    if channels is not None:
        operands = channels.flatten(grad), channels.flatten(x), _rows_of(coef)
        grad_x, grad_coef = activate_backward(*operands, model, impl, wants)
        return (
            None if grad_x is None else channels.restore(grad_x, x.shape),
            None if grad_coef is None else grad_coef.view(coef.shape),
        )
    if is_fused_by_compiler(x):
        return traced.activate_backward(grad, x, coef, model, wants)
    grad_x, grad_coef = torch.ops.polyfit.activate_backward(
        grad, x, coef, model.mapping, model.basis, model.outside, impl, wants.x, wants.coef
    )
    return grad_x if wants.x else None, grad_coef if wants.coef else None


def _rows_of(coef: Tensor) -> Tensor:
    """Coefficients with an axis of groups."""
    return coef if coef.dim() == 2 else coef.unsqueeze(0)


def _model(mapping: list[float] | None, basis: str, outside: str) -> Model:
    return model_of(mapping, basis, "mse", 0.0)._replace(outside=outside)
