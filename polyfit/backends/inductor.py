"""impl="compile": the loops that Inductor makes of polyfit.backends.traced, for eager calls on a CPU.

One loop over the data gives the value and all gradients. The data are cut into rows of `_ROW` samples, which are added
up in the dtype that computes; over rows it goes on in float64, so that sums are as exact as float64's. What is left
over, and data shorter than two rows, take the chunked pass.

A loop is compiled when its kind is first met (basis, loss, degree, dtype, what is shared and what is wanted), which
takes seconds; sizes do not matter. It needs a C++ compiler.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polyfit.backends import chunked, traced
from polyfit.backends.chunked import Sums
from polyfit.bases import AffineMap
from polyfit.formula import compute_dtype
from polyfit.losses import Loss

# The samples of a row: long enough that what a row costs does not show, short enough for sums in float32 (relative
# errors of 6e-9 at n = 1e7, where float32 sums in one run gave 3e-7).
_ROW = 4096
# Up to here Inductor is kept from storing intermediate results, which halves the time; beyond, it would compile for
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

    def call(*tensors: Tensor | None, **constants: Any) -> Any:
        return body(*tensors, **constants)

    # torch.compile counts recompilations by code object, and gives up after a few.
    own = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
    return torch.compile(own, dynamic=True, fullgraph=True, options=dict(_OPTIONS))


def _mapping_tensor(mapping: AffineMap | None, dtype: torch.dtype) -> Tensor | None:
    """The map as a tensor: a float would be a constant of the loop."""
    return None if mapping is None else torch.tensor(mapping, dtype=dtype, device="cpu")


def _cut(rows: Tensor | None, n_samples: int, n_series: int) -> Tensor | None:
    """Rows (S or 1, N) of which the first n_samples are cut: (S, R, B), or (R, B) where series share one."""
    if rows is None:
        return None
    rows = rows[:, :n_samples]
    if rows.stride(1) != 1:  # each stride would be a loop of its own
        rows = rows.contiguous()
    cut = rows.unflatten(1, (-1, _ROW))
    return cut.squeeze(0) if rows.shape[0] == 1 else cut


def _in_rows(n_samples: int) -> int:
    """How many samples the loop takes: whole rows, and at least two (compilers make a case of its own of one)."""
    return n_samples - n_samples % _ROW if n_samples >= 2 * _ROW else 0


def _detached(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors apart from any graph, which a loop would make a case of its own."""
    return tuple(None if tensor is None else tensor.detach() for tensor in tensors)


def _kind(*tensors: Tensor | None) -> tuple[Any, ...]:
    return tuple(None if tensor is None else (tensor.dim(), tensor.dtype) for tensor in tensors)


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
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    mapping: AffineMap | None,
    basis: str,
    loss: Loss,
    **wants: bool,
) -> Sums:
    """`polyfit.backends.chunked.Objective` bound and called, for x, y, weight (S or 1, N) and coef (S, degree + 1)."""
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    n_main = _in_rows(n_samples)

    def leftover(part: slice) -> Sums:
        cut = (x[:, part], y[:, part], None if weight is None else weight[:, part])
        return chunked.Objective(*cut, n_series, n_coef - 1, mapping, basis, loss)(coef, upstream, **wants)

    if n_main == 0 or n_series == 0:
        return leftover(slice(None))
    tensors = _detached(
        *(_cut(operand, n_main, n_series) for operand in (x, y)),
        coef.squeeze(0) if n_series == 1 else coef,
        _cut(weight, n_main, n_series),
        upstream,
        _mapping_tensor(mapping, compute_dtype(x.dtype)),
    )
    loop = _loop("objective", (basis, loss, n_coef, *_kind(*tensors), *wants.values()))
    main = loop(*tensors, basis, loss, axes=2, **wants)
    rest = leftover(slice(n_main, None)) if n_main < n_samples else Sums(*(None,) * 6)
    return Sums(
        *(_plus(a, b) for a, b in zip(main[:3], rest[:3], strict=True)),
        *(_joined(a, b, like) for a, b, like in zip(main[3:], rest[3:], (x, y, weight), strict=True)),
    )


def evaluate(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str) -> Tensor:
    """`polyfit.backends.chunked.evaluate`."""
    n_series, n_samples = coef.shape[0], x.shape[1]
    n_main = _in_rows(n_samples)
    if n_main == 0 or n_series == 0:
        return chunked.evaluate(x, coef, mapping, basis)
    tensors = _detached(
        _cut(x, n_main, n_series),
        coef.squeeze(0) if n_series == 1 else coef,
        _mapping_tensor(mapping, compute_dtype(x.dtype)),
    )
    loop = _loop("evaluate", (basis, coef.shape[1], *_kind(*tensors)))
    main = loop(*tensors, basis, axes=2)
    rest = chunked.evaluate(x[:, n_main:], coef, mapping, basis) if n_main < n_samples else None
    values = _joined(main, rest, x)
    assert values is not None
    return values


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, *, want_x: bool, want_coef: bool
) -> tuple[Tensor | None, Tensor | None]:
    """`polyfit.backends.chunked.evaluate_backward`."""
    n_series, n_samples = coef.shape[0], x.shape[1]
    n_main = _in_rows(n_samples)
    wants = {"want_x": want_x, "want_coef": want_coef}
    if n_main == 0 or n_series == 0:
        return chunked.evaluate_backward(grad, x, coef, mapping, basis, **wants)
    tensors = _detached(
        _cut(grad, n_main, n_series),
        _cut(x, n_main, n_series),
        coef.squeeze(0) if n_series == 1 else coef,
        _mapping_tensor(mapping, compute_dtype(x.dtype)),
    )
    loop = _loop("evaluate_backward", (basis, coef.shape[1], *_kind(*tensors), want_x, want_coef))
    main = loop(*tensors, basis, axes=2, **wants)
    rest = (None, None)
    if n_main < n_samples:
        rest = chunked.evaluate_backward(grad[:, n_main:], x[:, n_main:], coef, mapping, basis, **wants)
    grad_coef = None if main[1] is None else main[1].view(coef.shape)
    return _joined(main[0], rest[0], x), _plus(grad_coef, rest[1])
