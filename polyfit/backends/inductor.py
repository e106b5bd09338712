"""impl="compile": the loops that Inductor makes of `traced`, for eager calls on a CPU.

One loop over the data gives the value and all gradients. The data are cut into rows of `Sizes.compiled_row` samples. A
row is added up in the dtype that computes, rows in float64: sums are as exact as those of float64 (relative errors of
6e-9 at n = 1e7, where float32 sums in one run gave 3e-7). The samples that are left over, and data shorter than two
rows, take the chunked pass.

A loop is compiled when its kind is first met (basis, loss, degree, dtype, which operands are shared, which gradients
are wanted), and once more for each number of threads. That takes seconds; sizes do not matter. It needs a C++ compiler.
If torch.compile refuses to compile for one more setting of torch, the chunked pass takes all samples.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyfit.backends import chunked, sizes, traced
from polyfit.backends.results import LossSums, Wants
from polyfit.formula import Model, compute_dtype
from polyfit.losses import Loss

# Up to this degree Inductor may not store intermediate results, which halves the time. Above it would compile for
# minutes.
LARGEST_DEGREE = 10
_OPTIONS = {"realize_opcount_threshold": 2000, "realize_reads_threshold": 1000, "realize_acc_reads_threshold": 1000}


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler that Inductor can use."""
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return bool(get_cpp_compiler())
    except exc.InvalidCxxCompiler:
        return False


@functools.lru_cache(maxsize=256)
def _loop(function: str, kind: tuple[Any, ...]) -> Callable[..., Any]:
    """A compiled function of `traced`; each kind has one of its own, whose code is compiled once or twice."""
    body: Any = getattr(traced, function)

    def call(*tensors: Tensor | None, basis: str, loss: Loss | None, outside: str, **constants: Any) -> Any:
        *operands, mapping = tensors
        return body(*operands, Model(basis, mapping, loss, outside), **constants)

    # torch.compile counts recompilations by code object, and gives up after 8: other settings of torch are other kinds.
    own = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
    return torch.compile(own, dynamic=True, fullgraph=True, options=_options())


def _options() -> dict[str, Any]:
    """Options of the compiler, among them the width of the vectors, in bits.

    Inductor takes the same width without being told, but then its cache does not tell loops of different widths apart:
    a loop from a cache that is shared with another machine, or with another value of ATEN_CPU_CAPABILITY, gave sums
    that were wrong by a factor.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return {**_OPTIONS, "cpp.simdlen": pick_vec_isa().bit_width()}


def _mapping_tensor(model: Model, dtype: torch.dtype) -> Tensor | None:
    """The map as a tensor: a float would be a constant of the loop."""
    return None if model.mapping is None else torch.as_tensor(model.mapping, dtype=dtype, device="cpu")


def _cut(rows: Tensor | None, n_samples: int, n_series: int) -> Tensor | None:
    """The first n_samples of rows (S or 1, N), cut: (S, R, B), or (R, B) where series share one row."""
    if rows is None:
        return None
    rows = rows[:, :n_samples]
    if rows.stride(1) != 1:  # each stride would be a loop of its own
        rows = rows.contiguous()
    cut = rows.unflatten(1, (-1, sizes.current().compiled_row))
    return cut.squeeze(0) if rows.shape[0] == 1 else cut


def _in_rows(n_samples: int) -> int:
    """Number of samples that the loop takes: whole rows, at least two. For one row torch.compile would compile anew."""
    row = sizes.current().compiled_row
    return n_samples - n_samples % row if n_samples >= 2 * row else 0


def _detached(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors without their graph: for tensors with one, torch.compile would compile anew."""
    return tuple(None if tensor is None else tensor.detach() for tensor in tensors)


def _kind(*tensors: Tensor | None) -> tuple[Any, ...]:
    """What a loop is compiled for: kinds of operands, and the settings that change most often."""
    settings = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return (*settings, *(None if tensor is None else (tensor.dim(), tensor.dtype) for tensor in tensors))


def _run(function: str, kind: tuple[Any, ...], model: Model, *tensors: Tensor | None, **constants: Any) -> Any:
    """What the loop of that kind gives; None if torch.compile has compiled it for too many settings of torch."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    try:
        parts = {"basis": model.basis, "loss": model.loss, "outside": model.outside}
        return _loop(function, (*kind, *_kind(*tensors)))(*tensors, **parts, **constants)
    except FailOnRecompileLimitHit:
        return None


def _joined(main: Tensor | None, rest: Tensor | None, like: Tensor | None) -> Tensor | None:
    """Per-sample rows of both parts in the shape (S or 1, N) of an operand."""
    if main is None or like is None:
        return None
    main = main.flatten(-2)
    main = main if main.dim() == 2 else main.unsqueeze(0)
    return main if rest is None else torch.cat((main, rest), 1)


def _plus(main: Tensor | None, rest: Tensor | None) -> Tensor | None:
    return main if main is None or rest is None else main + rest


def objective(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, upstream: Tensor | None, model: Model, wants: Wants
) -> LossSums:
    """`chunked.Objective` bound and called, for x, y, weight (S or 1, N) and coef (S, degree + 1)."""
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    n_main = _in_rows(n_samples)

    def leftover(part: slice) -> LossSums:
        cut = (x[:, part], y[:, part], None if weight is None else weight[:, part])
        return chunked.Objective(*cut, n_series, n_coef - 1, model)(coef, upstream, wants)

    if n_main == 0 or n_series == 0:
        return leftover(slice(None))
    tensors = _detached(
        *(_cut(operand, n_main, n_series) for operand in (x, y)),
        coef.squeeze(0) if n_series == 1 else coef,
        _cut(weight, n_main, n_series),
        upstream,
        _mapping_tensor(model, compute_dtype(x.dtype)),
    )
    kind = (model.basis, model.loss, n_coef, *wants)
    main = _run("objective", kind, model, *tensors, wants=wants, axes=2)
    if main is None:
        return leftover(slice(None))
    rest = leftover(slice(n_main, None)) if n_main < n_samples else LossSums(*(None,) * 6)
    return LossSums(
        *(_plus(a, b) for a, b in zip(main[:3], rest[:3], strict=True)),
        *(_joined(a, b, like) for a, b, like in zip(main[3:], rest[3:], (x, y, weight), strict=True)),
    )


def evaluate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """`chunked.evaluate`."""
    n_series, n_samples = coef.shape[0], x.shape[1]
    n_main = _in_rows(n_samples)
    if n_main == 0 or n_series == 0:
        return chunked.evaluate(x, coef, model)
    tensors = _detached(
        _cut(x, n_main, n_series),
        coef.squeeze(0) if n_series == 1 else coef,
        _mapping_tensor(model, compute_dtype(x.dtype)),
    )
    main = _run("evaluate", (model.basis, coef.shape[1]), model, *tensors, axes=2)
    if main is None:
        return chunked.evaluate(x, coef, model)
    rest = chunked.evaluate(x[:, n_main:], coef, model) if n_main < n_samples else None
    values = _joined(main, rest, x)
    assert values is not None
    return values


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """`chunked.evaluate_backward`."""
    n_series, n_samples = coef.shape[0], x.shape[1]
    n_main = _in_rows(n_samples)
    if n_main == 0 or n_series == 0:
        return chunked.evaluate_backward(grad, x, coef, model, wants)
    tensors = _detached(
        _cut(grad, n_main, n_series),
        _cut(x, n_main, n_series),
        coef.squeeze(0) if n_series == 1 else coef,
        _mapping_tensor(model, compute_dtype(x.dtype)),
    )
    kind = (model.basis, coef.shape[1], *wants)
    main = _run("evaluate_backward", kind, model, *tensors, wants=wants, axes=2)
    if main is None:
        return chunked.evaluate_backward(grad, x, coef, model, wants)
    rest = (None, None)
    if n_main < n_samples:
        rest = chunked.evaluate_backward(grad[:, n_main:], x[:, n_main:], coef, model, wants)
    grad_coef = None if main[1] is None else main[1].view(coef.shape)
    return _joined(main[0], rest[0], x), _plus(grad_coef, rest[1])


# Elements below which the call of a loop takes longer than the chunked pass.
_FEW = 4096
# Rows of a block, of which there are at least two: any divisor of their number in this range, the largest.
_BLOCKS = range(16, 257)


class _Form(NamedTuple):
    """How a loop takes x (outer, groups, inner).

    Attributes:
        shape: of x.
        axes: of the sums, see `traced.activation_gradients`.
        n_axes: that stand behind the groups.
    """

    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    n_axes: int = 0

    def operands(self, columns: Tensor, *samples: Tensor) -> list[Tensor]:
        """Samples in the shape, and columns (k, groups, ...)."""
        return [*(part.view(self.shape) for part in samples), columns.unsqueeze(-1) if self.n_axes else columns]


def _form(x: Tensor) -> _Form | None:
    """The form for x; None where the chunked pass takes it."""
    outer, groups, inner = x.shape
    if x.numel() < _FEW:
        return None
    if groups == 1:
        return _Form((x.numel(),), ((), (0,)))
    if inner > 1:
        return _Form((outer, groups, inner), ((2,), (0,)) if inner <= traced.LONGEST_RUN else ((), (0, 2)), 1)
    block = next((size for size in reversed(_BLOCKS) if outer % size == 0 and outer > size), None)
    return None if block is None else _Form((outer // block, block, groups), ((1,), (0,)))


def activate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """`chunked.activate`."""
    values = None
    if (form := _form(x)) is not None:
        columns = traced.activation_columns(coef, model, compute_dtype(x.dtype))
        tensors = _detached(*form.operands(columns, x), _mapping_tensor(model, compute_dtype(x.dtype)))
        kind = (model.basis, model.outside, coef.shape[1], form.n_axes)
        values = _run("activation_values", kind, model, *tensors)
    return chunked.activate(x, coef, model) if values is None else values.view(x.shape)


def activate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """`chunked.activate_backward`."""
    found = None
    if (form := _form(x)) is not None:
        columns = traced.slope_columns(coef, model, compute_dtype(x.dtype))
        tensors = _detached(*form.operands(columns, grad, x), _mapping_tensor(model, compute_dtype(x.dtype)))
        kind = (model.basis, model.outside, coef.shape[1], form.axes, *wants)
        found = _run("activation_gradients", kind, model, *tensors, wants=wants, axes=form.axes)
    if found is None:
        return chunked.activate_backward(grad, x, coef, model, wants)
    grad_x, grad_coef = found
    return None if grad_x is None else grad_x.view(x.shape), None if grad_coef is None else grad_coef.view(coef.shape)
