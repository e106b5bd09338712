"""The loss on canonical operands, and its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polyfit.backends import chunked, traced
from polyfit.backends.operators._plain import model_of, optional_rows, rows, shaped_like
from polyfit.backends.results import LossSums, Wants
from polyfit.backends.select import autocast_is_off, is_fused_by_compiler, is_traced
from polyfit.formula import Model, compute_dtype

_WANTS_COEF = Wants(coef=True)


def _shape(coef_rows: Tensor) -> tuple[int, int]:
    """Number of series and degree."""
    return coef_rows.shape[0], coef_rows.shape[1] - 1


@autocast_is_off
def _objective_eager(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    model: Model,
    impl: str,
    wants: Wants,
    scale: float = 1.0,
) -> LossSums:
    x_rows, y_rows, coef_rows, weight_rows = rows(x), rows(y), rows(coef), optional_rows(weight)
    if impl == "torch" and chunked.is_many(x, coef):
        sums = chunked.many_objective(x_rows, y_rows, coef_rows, weight_rows, upstream, model, wants, scale)
    elif impl == "triton":
        from polyfit.backends import triton

        sums = triton.objective(x_rows, y_rows, coef_rows, weight_rows, upstream, model, wants).scaled(scale)
    elif impl == "compile":
        from polyfit.backends import inductor

        sums = inductor.objective(x_rows, y_rows, coef_rows, weight_rows, upstream, model, wants).scaled(scale)
    else:
        bound = chunked.Objective(x_rows, y_rows, weight_rows, *_shape(coef_rows), model, scale=scale)
        sums = bound(coef_rows, upstream, wants)
    if not (wants.x or wants.y or wants.weight):
        return sums
    return sums._replace(
        grad_x=shaped_like(x, sums.grad_x),
        grad_y=shaped_like(y, sums.grad_y),
        grad_weight=shaped_like(weight, sums.grad_weight),
    )


# A custom operator returns tensors only: what was not asked for is an empty one.


@torch.library.custom_op(
    "polyfit::objective",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor coef, Tensor? weight, Tensor? upstream, float[]? mapping, str basis, str loss,"
    " float parameter, str impl, bool want_x, bool want_y, bool want_coef, bool want_weight)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _objective_op(x, y, coef, weight, upstream, mapping, basis, loss, parameter, impl, *wants):
    model = model_of(mapping, basis, loss, parameter)
    result = _objective_eager(x, y, coef, weight, upstream, model, impl, Wants(*wants))
    # Kernels give the sums as views of one table, and an operator's outputs may not share memory.
    sums = [x.new_empty(0, dtype=torch.float64) if part is None else part.clone() for part in result[:3]]
    return (*sums, *(x.new_empty(0) if part is None else part for part in result[3:]))


@_objective_op.register_fake
def _objective_fake(x, y, coef, weight, upstream, mapping, basis, loss, parameter, impl, *wants):
    wanted = Wants(*wants)
    n_series = coef.shape[0] if coef.dim() == 2 else 1
    wide = compute_dtype(x.dtype)

    def sums(is_wanted: bool, *shape: int) -> Tensor:
        return x.new_empty(shape if is_wanted else 0, dtype=torch.float64)

    def per_sample(is_wanted: bool, like: Tensor) -> Tensor:
        return x.new_empty(like.shape, dtype=wide) if is_wanted else x.new_empty(0)

    return (
        sums(True, n_series),
        sums(weight is not None, n_series),
        sums(wanted.coef, n_series, coef.shape[-1]),
        per_sample(wanted.x, x),
        per_sample(wanted.y, y),
        per_sample(wanted.weight, x if weight is None else weight),
    )


def objective(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    model: Model,
    impl: str,
    wants: Wants,
    *,
    scale: float = 1.0,
) -> LossSums:
    """Loss sums and their gradients in one pass over the data.

    Gradients are those of sum_s upstream_s value_s; for upstream None, of the sum of the values. Where series share x,
    y or the weight, the gradient to it is summed over them.

    Args:
        x: (N,) or (S, N).
        y: (N,) or (S, N).
        coef: (degree + 1,) or (S, degree + 1).
        weight: (N,), (S, N) or None.
        upstream: (S,) or None.
        model: basis, mapping and loss.
        impl: resolved.
        wants: which gradients are wanted.
        scale: a factor for value and grad_coef, which costs less here than in a call of its own.
    """
    if not is_traced():
        return _objective_eager(x, y, coef, weight, upstream, model, impl, wants, scale)
    if is_fused_by_compiler(x):
        return traced.objective(x, y, coef, weight, upstream, model, wants).scaled(scale)
    mapping, loss = model.mapping, model.kernel_loss
    value, *others = torch.ops.polyfit.objective(
        x, y, coef, weight, upstream, mapping, model.basis, *loss, impl, *wants
    )
    wanted = (weight is not None, wants.coef, wants.x, wants.y, wants.weight)
    sums = LossSums(value, *(part if want else None for part, want in zip(others, wanted, strict=True)))
    return sums.scaled(scale)


def bound_objective(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    coef: Tensor,
    model: Model,
    impl: str,
    scale: float,
) -> tuple[Callable[[Tensor, bool], tuple[Tensor | None, Tensor]], chunked.Gradient | None]:
    """An objective with fixed data, for loops that only change the coefficients. Call it with autocast off.

    Args:
        x: (N,) or (S, N).
        y: (N,) or (S, N).
        weight: (N,), (S, N) or None.
        coef: any coefficients of the shape that calls will bring, (S, degree + 1).
        model: basis, mapping and loss.
        impl: resolved.
        scale: a factor for the sums over the samples.

    Returns:
        A function of coef and of whether the value is wanted. It gives the value (S,), None where it is not wanted, and
        its gradient to coef (S, degree + 1), in float64. For small data on a CPU also a faster function of numpy
        coefficients that gives the gradient alone.
    """
    if impl != "torch":

        def launch(coef: Tensor, want_value: bool) -> tuple[Tensor | None, Tensor]:
            sums = objective(x, y, coef, weight, None, model, impl, _WANTS_COEF, scale=scale)
            assert sums.grad_coef is not None
            return sums.value, sums.grad_coef

        return launch, None

    bound = chunked.Objective(rows(x), rows(y), optional_rows(weight), *_shape(coef), model, keep=True, scale=scale)

    def call(coef: Tensor, want_value: bool) -> tuple[Tensor | None, Tensor]:
        sums = bound(coef, want_value=want_value)
        assert sums.grad_coef is not None
        return sums.value, sums.grad_coef

    return call, None if bound.kept is None else chunked.Gradient(bound)
