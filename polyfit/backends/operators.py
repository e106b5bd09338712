"""The one place that chooses between the Triton kernels and the one pass in plain PyTorch.

The functions here take canonical operands: x, y, weight (N,) or (S, N), of which a 1-D one is shared by all series, and
coef (degree + 1,) or (S, degree + 1). They are not differentiable; polyfit.autograd is.

Under a tracer (torch.compile, make_fx, FakeTensorMode) they appear as the custom operators `polyfit::objective`,
`polyfit::evaluate` and `polyfit::evaluate_backward`; eager calls go straight to the implementation, which saves some 10
us.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from polyfit import losses
from polyfit._checks import check_choice
from polyfit.backends import chunked, traced
from polyfit.backends.chunked import Normal, Sums
from polyfit.bases import CHEBYSHEV, AffineMap, affine_map
from polyfit.formula import compute_dtype
from polyfit.losses import Loss

IMPLS = ("auto", "triton", "torch", "compile")

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def resolve_impl(impl: str, device: torch.device, degree: int = 0) -> str:
    """The implementation that `impl` stands for on a device: "triton", "torch" or "compile".

    "auto" is "triton" on a GPU where Triton is installed and "torch" everywhere else. "compile" is a loop that
    torch.compile makes, for CPUs.

    Raises:
        ValueError: ``impl`` is unknown, or cannot run on this device or for this degree.

    >>> resolve_impl("auto", torch.device("cpu"))
    'torch'
    """
    if impl == "torch":
        return impl
    if impl == "auto":
        return "triton" if device.type == "cuda" and _has_triton() else "torch"
    if impl == "compile":
        _check_compile(device, degree)
        return impl
    check_choice("impl", impl, IMPLS)
    if not _has_triton():
        raise ValueError("impl='triton' needs the package triton; install it, or pass impl='auto' or 'torch'")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"impl='triton' needs tensors on a GPU and got {device}; move them, or pass impl='auto'")
    return impl


def resolve_fit_impl(impl: str, device: torch.device) -> str:
    """The implementation that `impl` stands for where moments are wanted: "triton" or "torch"."""
    if impl == "compile":
        raise ValueError("impl='compile' is for losses; pass impl='auto', 'torch' or 'triton' to fit")
    return resolve_impl(impl, device)


def _check_compile(device: torch.device, degree: int) -> None:
    from polyfit.backends import inductor

    if device.type != "cpu":
        raise ValueError(f"impl='compile' is for tensors on a CPU and got {device}; pass impl='auto'")
    if degree > inductor.LARGEST_DEGREE:
        raise ValueError(
            f"impl='compile' takes degrees up to {inductor.LARGEST_DEGREE} and got {degree}, which would compile for"
            " minutes; pass impl='torch'"
        )
    if not torch.compiler.is_compiling() and not inductor.has_compiler():
        raise ValueError("impl='compile' needs a C++ compiler and found none; install g++, or pass impl='torch'")


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device: make that the one of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def _is_fused_by_compiler(x: Tensor) -> bool:
    """Whether a compiler makes the loop itself: Inductor does on a CPU. An operator would be opaque to it."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """As if autocast were off; entering torch.autocast takes 5 us, so only where it is on."""
    is_on = torch._C._is_any_autocast_enabled() and torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if is_on else contextlib.nullcontext()


def _without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function as if autocast were off: it would reach into the matrix products of the one pass."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapper


def _rows(operand: Tensor) -> Tensor:
    return operand if operand.dim() == 2 else operand.unsqueeze(0)


def _optional_rows(operand: Tensor | None) -> Tensor | None:
    return None if operand is None else _rows(operand)


def _as(like: Tensor | None, result: Tensor | None) -> Tensor | None:
    return None if result is None or like is None else result.view(like.shape)


# --- objective ---


@_without_autocast
def _objective_eager(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    mapping: AffineMap | None,
    basis: str,
    loss: Loss,
    impl: str,
    want_coef: bool,
    want_x: bool,
    want_y: bool,
    want_weight: bool,
    scale: float = 1.0,
) -> Sums:
    is_plain = impl == "torch" and weight is None and upstream is None and want_coef and isinstance(loss, losses.MSE)
    if is_plain and not (want_x or want_y) and chunked.is_short(x, y, coef):
        return chunked.short(x, y, coef, mapping, basis, scale)
    operands = (_rows(x), _rows(y), _optional_rows(weight))
    rows = _rows(coef)
    wants: dict[str, Any] = {
        "want_coef": want_coef, "want_x": want_x, "want_y": want_y, "want_weight": want_weight
    }  # fmt: skip
    if impl == "triton":
        from polyfit_kernels.objective import objective as launch

        x_rows, y_rows, weight_rows = operands
        with on(x.device):
            sums = launch(x_rows, y_rows, rows, weight_rows, upstream, mapping, basis, *loss.kernel, **wants)
        sums = _scaled(Sums(*sums), scale)
    elif impl == "compile":
        from polyfit.backends.inductor import objective as loop

        x_rows, y_rows, weight_rows = operands
        sums = _scaled(loop(x_rows, y_rows, rows, weight_rows, upstream, mapping, basis, loss, **wants), scale)
    else:
        bound = chunked.Objective(*operands, *_shape(rows), mapping, basis, loss, scale=scale)
        sums = bound(rows, upstream, **wants)
    if not (want_x or want_y or want_weight):
        return sums
    per_sample = (_as(x, sums.grad_x), _as(y, sums.grad_y), _as(weight, sums.grad_weight))
    return Sums(*sums[:3], *per_sample)


def _scaled(sums: Sums, scale: float) -> Sums:
    """The value, and its gradient to coef, times a number."""
    if scale == 1.0:
        return sums
    value, grad_coef = (None if part is None else part * scale for part in (sums.value, sums.grad_coef))
    return sums._replace(value=value, grad_coef=grad_coef)


def _shape(coef_rows: Tensor) -> tuple[int, int]:
    """Number of series and degree."""
    return coef_rows.shape[0], coef_rows.shape[1] - 1


# A custom operator returns tensors only: what was not asked for is an empty one.


@torch.library.custom_op(
    "polyfit::objective",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor coef, Tensor? weight, Tensor? upstream, float[]? mapping, str basis, str loss,"
    " float parameter, str impl, bool want_coef, bool want_x, bool want_y, bool want_weight)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _objective_op(x, y, coef, weight, upstream, mapping, basis, loss, parameter, impl, *wants):
    mapping = None if mapping is None else AffineMap(*mapping)
    pointwise = losses.from_kernel(loss, parameter)
    result = _objective_eager(x, y, coef, weight, upstream, mapping, basis, pointwise, impl, *wants)
    # Kernels give the sums as views of one table, and an operator's outputs may not share memory.
    sums = [x.new_empty(0, dtype=torch.float64) if part is None else part.clone() for part in result[:3]]
    return (*sums, *(x.new_empty(0) if part is None else part for part in result[3:]))


@_objective_op.register_fake
def _objective_fake(x, y, coef, weight, upstream, mapping, basis, loss, parameter, impl, *wants):
    want_coef, want_x, want_y, want_weight = wants
    n_series = coef.shape[0] if coef.dim() == 2 else 1
    wide = compute_dtype(x.dtype)

    def sums(wanted: bool, *shape: int) -> Tensor:
        return x.new_empty(shape if wanted else 0, dtype=torch.float64)

    def per_sample(wanted: bool, like: Tensor) -> Tensor:
        return x.new_empty(like.shape, dtype=wide) if wanted else x.new_empty(0)

    return (
        sums(True, n_series),
        sums(weight is not None, n_series),
        sums(want_coef, n_series, coef.shape[-1]),
        per_sample(want_x, x),
        per_sample(want_y, y),
        per_sample(want_weight, x if weight is None else weight),
    )


def objective(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    mapping: AffineMap | None,
    basis: str,
    loss: Loss,
    impl: str,
    *,
    want_coef: bool,
    want_x: bool,
    want_y: bool,
    want_weight: bool,
    scale: float = 1.0,
) -> Sums:
    """Loss sums and their gradients in one pass over the data.

    Gradients are those of sum_s upstream_s value_s; for upstream None, of the sum of the values. Where series share x,
    y or the weight, the gradient to it is summed over them.

    Args:
        x: (N,) or (S, N).
        y: (N,) or (S, N).
        coef: (degree + 1,) or (S, degree + 1).
        weight: (N,), (S, N) or None.
        upstream: (S,) or None.
        mapping: from domain to window, or None.
        basis: its name.
        loss: the pointwise loss.
        impl: resolved.
        want_coef: whether the gradient to coef is wanted.
        want_x: to x.
        want_y: to y.
        want_weight: to the weight.
        scale: a factor for value and grad_coef, which costs less here than in a call of its own.
    """
    wants = (want_coef, want_x, want_y, want_weight)
    if not _is_traced():
        return _objective_eager(x, y, coef, weight, upstream, mapping, basis, loss, impl, *wants, scale)
    if _is_fused_by_compiler(x):
        sums = traced.objective(
            x, y, coef, weight, upstream, mapping, basis, loss,
            want_coef=want_coef, want_x=want_x, want_y=want_y, want_weight=want_weight,
        )  # fmt: skip
        return _scaled(sums, scale)
    value, *others = torch.ops.polyfit.objective(
        x, y, coef, weight, upstream, mapping, basis, *loss.kernel, impl, *wants
    )
    wanted = (weight is not None, *wants)
    sums = Sums(value, *(part if want else None for part, want in zip(others, wanted, strict=True)))
    return _scaled(sums, scale)


def bound_objective(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    coef: Tensor,
    mapping: AffineMap | None,
    basis: str,
    loss: Loss,
    impl: str,
    scale: float,
) -> tuple[Callable[[Tensor, bool], tuple[Tensor | None, Tensor]], chunked.Gradient | None]:
    """An objective whose data stay, for loops that only change the coefficients. Call it with autocast off.

    Args:
        x: (N,) or (S, N).
        y: (N,) or (S, N).
        weight: (N,), (S, N) or None.
        coef: any coefficients of the shape that calls will bring, (S, degree + 1).
        mapping: from domain to window, or None.
        basis: its name.
        loss: the pointwise loss.
        impl: resolved.
        scale: what the sums over the samples are multiplied with.

    Returns:
        A function of coef and of whether the value is wanted, giving the value (S,), None where it is not wanted, and
        its gradient to coef (S, degree + 1), in float64. And for small data on a CPU a faster one of numpy's
        coefficients that gives the gradient alone.
    """
    if impl != "torch":

        def launch(coef: Tensor, want_value: bool) -> tuple[Tensor | None, Tensor]:
            sums = objective(
                x, y, coef, weight, None, mapping, basis, loss, impl,
                want_coef=True, want_x=False, want_y=False, want_weight=False, scale=scale,
            )  # fmt: skip
            assert sums.grad_coef is not None
            return sums.value, sums.grad_coef

        return launch, None

    bound = chunked.Objective(
        _rows(x), _rows(y), _optional_rows(weight), *_shape(coef), mapping, basis, loss, keep=True, scale=scale
    )

    def call(coef: Tensor, want_value: bool) -> tuple[Tensor | None, Tensor]:
        sums = bound(coef, want_value=want_value)
        assert sums.grad_coef is not None
        return sums.value, sums.grad_coef

    return call, chunked.Gradient(bound) if bound.is_small else None


# --- least squares ---


@_without_autocast
def normal(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    degree: int,
    domain: tuple[float, float] | None,
    coef: Tensor | None,
    impl: str,
) -> Normal:
    """Chebyshev moments of the samples and of their residuals about a polynomial, in float64.

    On a GPU it is a launch for the moments of x, whose terms are computed in the dtype of x, and where there is a
    polynomial one more for the residuals, which are computed in float64.

    Args:
        x: (N,) or (S, N).
        y: likewise.
        weight: likewise, or None.
        degree: of the polynomials to fit.
        domain: what is mapped onto [-1, 1], or None.
        coef: of the polynomial, (degree + 1,) or (S, degree + 1) float64 on the device of x, or None for zero.
        impl: resolved, "triton" or "torch".
    """
    rows = (_rows(x), _rows(y), _optional_rows(weight))
    wide = affine_map(domain, CHEBYSHEV, torch.float64)
    if impl == "torch":
        return chunked.normal(*rows, degree, wide, None if coef is None else _rows(coef))
    from polyfit_kernels.moments import moments as launch
    from polyfit_kernels.objective import objective as launch_objective

    x_rows, y_rows, weight_rows = rows
    mapping = affine_map(domain, CHEBYSHEV, compute_dtype(x.dtype))
    with on(x.device):
        squares, of_y, of_x = launch(x_rows, y_rows, weight_rows, degree, mapping)
        if coef is None:
            return Normal(of_x, of_y, squares)
        n_series = max(part.shape[0] for part in rows if part is not None)
        series = _rows(coef).expand(n_series, degree + 1)
        squares, _, gradient, *_ = launch_objective(
            x_rows, y_rows, series, weight_rows, None, wide, "chebyshev", *losses.MSE().kernel, compute=torch.float64
        )
    assert gradient is not None
    return Normal(of_x, -0.5 * gradient, squares)


# --- evaluate ---


def _values_shape(x: Tensor, coef: Tensor) -> Sequence[int]:
    """Shape of p(x): that of x for one series, (S, N) for several."""
    return x.shape if coef.dim() == 1 else (coef.shape[0], x.shape[-1])


@_without_autocast
def _evaluate_eager(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, impl: str) -> Tensor:
    if impl == "triton":
        from polyfit_kernels.evaluate import evaluate as launch

        with on(x.device):
            values = launch(_rows(x), _rows(coef), mapping, basis)
    elif impl == "compile":
        from polyfit.backends.inductor import evaluate as loop

        values = loop(_rows(x), _rows(coef), mapping, basis)
    else:
        values = chunked.evaluate(_rows(x), _rows(coef), mapping, basis)
    # No view: what a Function returns as one cannot be modified in place by whoever gets it.
    values = values.clone() if values._is_view() else values
    return values.squeeze_(0) if coef.dim() == 1 else values


@torch.library.custom_op(
    "polyfit::evaluate",
    mutates_args=(),
    schema="(Tensor x, Tensor coef, float[]? mapping, str basis, str impl) -> Tensor",
)
def _evaluate_op(x, coef, mapping, basis, impl):
    return _evaluate_eager(x, coef, None if mapping is None else AffineMap(*mapping), basis, impl)


@_evaluate_op.register_fake
def _evaluate_fake(x, coef, mapping, basis, impl):
    return x.new_empty(_values_shape(x, coef))


def evaluate(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, impl: str) -> Tensor:
    """p(x): (N,) for coef (degree + 1,), (S, N) for coef (S, degree + 1)."""
    if not _is_traced():
        return _evaluate_eager(x, coef, mapping, basis, impl)
    if _is_fused_by_compiler(x):
        return traced.evaluate(x, coef, mapping, basis)
    return torch.ops.polyfit.evaluate(x, coef, mapping, basis, impl)


@_without_autocast
def _evaluate_backward_eager(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    mapping: AffineMap | None,
    basis: str,
    impl: str,
    want_x: bool,
    want_coef: bool,
) -> tuple[Tensor | None, Tensor | None]:
    grad_rows, x_rows, coef_rows = _rows(grad), _rows(x), _rows(coef)
    if impl == "triton":
        from polyfit_kernels.evaluate import evaluate_backward as run
    elif impl == "compile":
        from polyfit.backends.inductor import evaluate_backward as run
    else:
        run = chunked.evaluate_backward
    with on(x.device):
        grad_x, grad_coef = run(grad_rows, x_rows, coef_rows, mapping, basis, want_x=want_x, want_coef=want_coef)
    return _as(x, grad_x), _as(coef, grad_coef)


@torch.library.custom_op(
    "polyfit::evaluate_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor coef, float[]? mapping, str basis, str impl, bool want_x, bool want_coef)"
    " -> (Tensor, Tensor)",
)
def _evaluate_backward_op(grad, x, coef, mapping, basis, impl, want_x, want_coef):
    mapping = None if mapping is None else AffineMap(*mapping)
    grad_x, grad_coef = _evaluate_backward_eager(grad, x, coef, mapping, basis, impl, want_x, want_coef)
    return x.new_empty(0) if grad_x is None else grad_x, x.new_empty(0) if grad_coef is None else grad_coef


@_evaluate_backward_op.register_fake
def _evaluate_backward_fake(grad, x, coef, mapping, basis, impl, want_x, want_coef):
    grad_x = x.new_empty(x.shape, dtype=compute_dtype(x.dtype)) if want_x else x.new_empty(0)
    return grad_x, x.new_empty(coef.shape, dtype=torch.float64) if want_coef else x.new_empty(0)


def evaluate_backward(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    mapping: AffineMap | None,
    basis: str,
    impl: str,
    *,
    want_x: bool,
    want_coef: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad in the shape of p(x).

    Returns:
        The gradient to x (in its shape, summed over series that share it) in the dtype that computes, and to coef in
        float64; None for what was not wanted.
    """
    arguments = (grad, x, coef, mapping, basis, impl, want_x, want_coef)
    if not _is_traced():
        return _evaluate_backward_eager(*arguments)
    if _is_fused_by_compiler(x):
        return traced.evaluate_backward(grad, x, coef, mapping, basis, want_x=want_x, want_coef=want_coef)
    grad_x, grad_coef = torch.ops.polyfit.evaluate_backward(*arguments)
    return grad_x if want_x else None, grad_coef if want_coef else None
