"""The operations on canonical operands, each carried out by the backend that `impl` names.

Canonical operands: x, y, weight (N,) or (S, N), where a 1-D one is shared by all series; coef (degree + 1,) or
(S, degree + 1). The functions here are not differentiable; polyfit.autograd is.

Under a tracer (torch.compile, make_fx, FakeTensorMode) they appear as the custom operators `polyfit::objective`,
`polyfit::evaluate` and `polyfit::evaluate_backward`. Eager calls go straight to the backend, which saves some 10 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polyfit import losses
from polyfit.backends import chunked, traced
from polyfit.backends.results import LossSums, MomentSums, Wants
from polyfit.backends.select import autocast_is_off, is_fused_by_compiler, is_traced
from polyfit.bases import CHEBYSHEV, AffineMap, affine_map
from polyfit.formula import Model, compute_dtype


def _rows(operand: Tensor) -> Tensor:
    """An operand as rows. A view that torch negates lazily is copied: kernels and compiled loops read its memory."""
    operand = operand.resolve_neg()
    return operand if operand.dim() == 2 else operand.unsqueeze(0)


def _optional_rows(operand: Tensor | None) -> Tensor | None:
    return None if operand is None else _rows(operand)


def _as(like: Tensor | None, result: Tensor | None) -> Tensor | None:
    return None if result is None or like is None else result.view(like.shape)


# --- the loss ---


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
    is_plain = impl == "torch" and weight is None and upstream is None and isinstance(model.loss, losses.MSE)
    if is_plain and wants == _WANTS_COEF and chunked.is_short(x, y, coef):
        return chunked.short(x, y, coef, model.affine_map, model.basis, scale)
    x_rows, y_rows, coef_rows, weight_rows = _rows(x), _rows(y), _rows(coef), _optional_rows(weight)
    if impl == "triton":
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
        grad_x=_as(x, sums.grad_x), grad_y=_as(y, sums.grad_y), grad_weight=_as(weight, sums.grad_weight)
    )


_WANTS_COEF = Wants(coef=True)


def _shape(coef_rows: Tensor) -> tuple[int, int]:
    """Number of series and degree."""
    return coef_rows.shape[0], coef_rows.shape[1] - 1


def _model(mapping: Sequence[float] | None, basis: str, loss: str, parameter: float) -> Model:
    """The model that the plain arguments of a custom operator stand for."""
    return Model(basis, None if mapping is None else AffineMap(*mapping), losses.from_kernel(loss, parameter))


# A custom operator returns tensors only: what was not asked for is an empty one.


@torch.library.custom_op(
    "polyfit::objective",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor coef, Tensor? weight, Tensor? upstream, float[]? mapping, str basis, str loss,"
    " float parameter, str impl, bool want_x, bool want_y, bool want_coef, bool want_weight)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _objective_op(x, y, coef, weight, upstream, mapping, basis, loss, parameter, impl, *wants):
    model = _model(mapping, basis, loss, parameter)
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

    bound = chunked.Objective(_rows(x), _rows(y), _optional_rows(weight), *_shape(coef), model, keep=True, scale=scale)

    def call(coef: Tensor, want_value: bool) -> tuple[Tensor | None, Tensor]:
        sums = bound(coef, want_value=want_value)
        assert sums.grad_coef is not None
        return sums.value, sums.grad_coef

    return call, None if bound.kept is None else chunked.Gradient(bound)


# --- least squares ---


@autocast_is_off
def moments(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    degree: int,
    domain: tuple[float, float] | None,
    coef: Tensor | None,
    impl: str,
    *,
    want_gram: bool = True,
) -> MomentSums:
    """Chebyshev moments of the samples and of their residuals about a polynomial, in float64.

    Args:
        x: (N,) or (S, N).
        y: likewise.
        weight: likewise, or None.
        degree: of the polynomials to fit.
        domain: the interval that is mapped onto [-1, 1], or None.
        coef: of the polynomial, (degree + 1,) or (S, degree + 1) float64 on the device of x, or None for zero.
        impl: resolved, "triton" or "torch".
        want_gram: whether the moments of x are wanted, which give the Gram matrix. A step of refinement needs only
            those of the residuals.
    """
    operands = (_rows(x), _rows(y), _optional_rows(weight))
    coef_rows = _optional_rows(coef)
    if impl == "triton":
        from polyfit.backends import triton

        return triton.moments(*operands, degree, domain, coef_rows, want_gram=want_gram)
    mapping = affine_map(domain, CHEBYSHEV, torch.float64)
    return chunked.moments(*operands, degree, mapping, coef_rows, want_gram=want_gram)


# --- values ---


def _values_shape(x: Tensor, coef: Tensor) -> Sequence[int]:
    """Shape of p(x): that of x for one series, (S, N) for several."""
    return x.shape if coef.dim() == 1 else (coef.shape[0], x.shape[-1])


@autocast_is_off
def _evaluate_eager(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    if impl == "triton":
        from polyfit.backends.triton import evaluate as run
    elif impl == "compile":
        from polyfit.backends.inductor import evaluate as run
    else:
        run = chunked.evaluate
    values = run(_rows(x), _rows(coef), model)
    # Not a view: PyTorch forbids to modify in place what a Function returns as a view.
    values = values.clone() if values._is_view() else values
    return values.squeeze_(0) if coef.dim() == 1 else values


@torch.library.custom_op(
    "polyfit::evaluate",
    mutates_args=(),
    schema="(Tensor x, Tensor coef, float[]? mapping, str basis, str impl) -> Tensor",
)
def _evaluate_op(x, coef, mapping, basis, impl):
    return _evaluate_eager(x, coef, _model(mapping, basis, "mse", 0.0), impl)


@_evaluate_op.register_fake
def _evaluate_fake(x, coef, mapping, basis, impl):
    return x.new_empty(_values_shape(x, coef))


def evaluate(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    """p(x): (N,) for coef (degree + 1,), (S, N) for coef (S, degree + 1)."""
    if not is_traced():
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
    else:
        run = chunked.evaluate_backward
    grad_x, grad_coef = run(_rows(grad), _rows(x), _rows(coef), model, wants)
    return _as(x, grad_x), _as(coef, grad_coef)


@torch.library.custom_op(
    "polyfit::evaluate_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor coef, float[]? mapping, str basis, str impl, bool want_x, bool want_coef)"
    " -> (Tensor, Tensor)",
)
def _evaluate_backward_op(grad, x, coef, mapping, basis, impl, want_x, want_coef):
    wants = Wants(x=want_x, coef=want_coef)
    grad_x, grad_coef = _evaluate_backward_eager(grad, x, coef, _model(mapping, basis, "mse", 0.0), impl, wants)
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
        float64; None for what was not wanted.
    """
    if not is_traced():
        return _evaluate_backward_eager(grad, x, coef, model, impl, wants)
    if is_fused_by_compiler(x):
        return traced.evaluate_backward(grad, x, coef, model, wants)
    grad_x, grad_coef = torch.ops.polyfit.evaluate_backward(
        grad, x, coef, model.mapping, model.basis, impl, wants.x, wants.coef
    )
    return grad_x if wants.x else None, grad_coef if wants.coef else None
