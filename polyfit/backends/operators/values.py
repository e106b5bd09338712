"""The values of a polynomial on canonical operands, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyfit.backends import chunked, traced
from polyfit.backends.chunked import plain_values, short
from polyfit.backends.operators._plain import model_of, rows, shaped_like
from polyfit.backends.results import Wants
from polyfit.backends.select import autocast_is_off, is_fused_by_compiler, is_traced
from polyfit.formula import Model, compute_dtype


def _values_shape(x: Tensor, coef: Tensor) -> Sequence[int]:
    """Shape of p(x): that of x for one series, (S, N) for several."""
    return x.shape if coef.dim() == 1 else (coef.shape[0], x.shape[-1])


@autocast_is_off
def _evaluate_eager(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    if impl == "triton":
        from polyfit.backends.triton import evaluate as run
    elif impl == "compile":
        from polyfit.backends.inductor import evaluate as run
    elif chunked.is_many(x, coef):
        return chunked.many_evaluate(rows(x), rows(coef), model)
    else:
        run = chunked.evaluate
    values = run(rows(x), rows(coef), model)
    # Not a view: PyTorch forbids to modify in place what a Function returns as a view.
    values = values.clone() if values._is_view() else values
    return values.squeeze_(0) if coef.dim() == 1 else values


@torch.library.custom_op(
    "polyfit::evaluate",
    mutates_args=(),
    schema="(Tensor x, Tensor coef, float[]? mapping, str basis, str impl) -> Tensor",
)
def _evaluate_op(x, coef, mapping, basis, impl):
    return _evaluate_eager(x, coef, model_of(mapping, basis, "mse", 0.0), impl)


@_evaluate_op.register_fake
def _evaluate_fake(x, coef, mapping, basis, impl):
    return x.new_empty(_values_shape(x, coef))


def evaluate(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    """p(x): (N,) for coef (degree + 1,), (S, N) for coef (S, degree + 1)."""
    if not is_traced():
        if impl == "torch" and short.is_plain(x, coef):
            return plain_values.evaluate(x, coef, model)
        return _evaluate_eager(x, coef, model, impl)
    if is_fused_by_compiler(x):
        return traced.evaluate(x, coef, model)
    return torch.ops.polyfit.evaluate(x, coef, model.mapping, model.basis, impl)


@autocast_is_off
def _evaluate_backward_eager(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    if impl == "triton":
        from polyfit.backends.triton import evaluate_backward as run
    elif impl == "compile":
        from polyfit.backends.inductor import evaluate_backward as run
    elif chunked.is_many(x, coef):
        return chunked.many_evaluate_backward(rows(grad), rows(x), rows(coef), model, wants)
    else:
        run = chunked.evaluate_backward
    grad_x, grad_coef = run(rows(grad), rows(x), rows(coef), model, wants)
    return shaped_like(x, grad_x), shaped_like(coef, grad_coef)


@torch.library.custom_op(
    "polyfit::evaluate_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor coef, float[]? mapping, str basis, str impl, bool want_x, bool want_coef)"
    " -> (Tensor, Tensor)",
)
def _evaluate_backward_op(grad, x, coef, mapping, basis, impl, want_x, want_coef):
    wants = Wants(x=want_x, coef=want_coef)
    grad_x, grad_coef = _evaluate_backward_eager(grad, x, coef, model_of(mapping, basis, "mse", 0.0), impl, wants)
    return x.new_empty(0) if grad_x is None else grad_x, x.new_empty(0) if grad_coef is None else grad_coef


@_evaluate_backward_op.register_fake
def _evaluate_backward_fake(grad, x, coef, mapping, basis, impl, want_x, want_coef):
    grad_x = x.new_empty(x.shape, dtype=compute_dtype(x.dtype)) if want_x else x.new_empty(0)
    return grad_x, x.new_empty(coef.shape, dtype=torch.float64) if want_coef else x.new_empty(0)


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, impl: str, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad in the shape of p(x).

    Returns:
        The gradient to x (in its shape, summed over series that share it) in the dtype that computes, and to coef in
        float64, for few samples of one series on a CPU in its dtype; None for what was not wanted.
    """
    if not is_traced():
        if impl == "torch" and short.is_plain(x, coef):
            return plain_values.evaluate_backward(grad, x, coef, model, wants)
        return _evaluate_backward_eager(grad, x, coef, model, impl, wants)
    if is_fused_by_compiler(x):
        return traced.evaluate_backward(grad, x, coef, model, wants)
    grad_x, grad_coef = torch.ops.polyfit.evaluate_backward(
        grad, x, coef, model.mapping, model.basis, impl, wants.x, wants.coef
    )
    return grad_x if wants.x else None, grad_coef if wants.coef else None
