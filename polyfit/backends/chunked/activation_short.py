"""The elementwise polynomial of a few elements: the pass of `activation` in numpy, whose calls cost a third of torch's.

One polynomial for all elements has its functions as rows of a matrix, and products with it give what backward wants.
Several have sums of terms g W_k, as in `activation`. Where the result is an operation in place, it is one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.activation_layout import Layout, layouts
from polyfit.backends.chunked.activation_plan import LARGEST_HORNER, Plan, Step, plan_of
from polyfit.backends.results import Wants
from polyfit.bases import AffineMap
from polyfit.formula import Model

Array = np.ndarray[Any, Any]
_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def is_short(x: Tensor, n_coef: int) -> bool:
    """Whether the elements are few, and of a kind that numpy has."""
    return x.numel() * n_coef <= sizes.current().short_activation and x.dtype in _DTYPES and x.is_cpu


class _Pass(NamedTuple):
    """A `Plan` in numpy.

    Attributes:
        plan: the plan.
        to_values: of the plan, (degree + 1, columns).
        to_slopes: likewise.
        factors: likewise, (degree + 1,).
        of_e: likewise, (degree + 1, 2).
        common: |a| of the steps that add, if all have the same, else 0.
    """

    plan: Plan
    to_values: Array
    to_slopes: Array
    factors: Array
    of_e: Array
    common: float


@functools.lru_cache(maxsize=256)
def _pass_of(basis: str, degree: int, mapping: AffineMap | None, outside: str, dtype: torch.dtype) -> _Pass:
    plan = plan_of(basis, degree, mapping, outside, dtype)
    sizes_of_a = {abs(step.a) for step in plan.steps if step.adds}
    return _Pass(
        plan,
        plan.to_values.numpy(),
        plan.to_slopes.numpy(),
        plan.factors.numpy(),
        plan.of_e.squeeze(-1).numpy(),
        sizes_of_a.pop() if len(sizes_of_a) == 1 else 0.0,
    )


def activate(
    x: Tensor,
    coef: Tensor,
    shape: Sequence[int],
    order: Sequence[int] | None,
    model: Model,
) -> Tensor:
    """p_g(x), see `activation.activate`.

    Args:
        x: of any shape and strides.
        coef: (groups, degree + 1), or (degree + 1,) for one group.
        shape: x as (outer, groups, inner).
        order: of the axes of x in memory, see `polyfit._problem.Channels`.
        model: basis, mapping and continuation.
    """
    samples = _in_memory(x, order)
    numbers = _pass_of(model.basis, coef.shape[-1] - 1, model.affine_map, model.outside, x.dtype)
    with np.errstate(all="ignore"):
        columns = _columns(coef, numbers.to_values, samples.dtype)
        if shape[1] == 1:
            factors = columns.ravel().tolist()
            rows = samples if samples.ndim else samples.reshape(1)  # operations on 0-d arrays give numbers
            values = _values_of_one(numbers, factors, rows).reshape(samples.shape)
        else:
            parts = [
                _values(numbers, _of_groups(columns, layout), _run(samples, layout)).reshape(-1)
                for layout in layouts(shape)
            ]
            values = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(samples.shape)
    return _as_given(values, order)


def activate_backward(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    shape: Sequence[int],
    order: Sequence[int] | None,
    model: Model,
    wants: Wants,
    *,
    is_rounded: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """See `activation.activate_backward`.

    Args:
        grad: like x, of any strides.
        x: see `activate`.
        coef: likewise.
        shape: likewise.
        order: likewise.
        model: likewise.
        wants: which gradients are wanted.
        is_rounded: whether the gradient to coef has its dtype, and not float64.
    """
    samples, g = _in_memory(x, order), _in_memory(grad, order)
    numbers = _pass_of(model.basis, coef.shape[-1] - 1, model.affine_map, model.outside, x.dtype)
    with np.errstate(all="ignore"):
        columns = _columns(coef, numbers.to_slopes, samples.dtype) if wants.x else None
        if shape[1] == 1:
            flat_slopes, sums = _gradients_of_one(numbers, columns, samples.reshape(-1), g.reshape(-1), wants)
            slopes = None if flat_slopes is None else flat_slopes.reshape(samples.shape)
        else:
            slopes, sums = _gradients_of_groups(numbers, columns, samples, g, shape, wants)
        grad_coef = None
        if sums is not None:
            dtype = samples.dtype if is_rounded else sums.dtype
            found = _to_coef(numbers, sums).astype(dtype, order="C", copy=False)
            grad_coef = torch.from_numpy(found.reshape(coef.shape))
    return None if slopes is None else _as_given(slopes, order), grad_coef


# --- views ---


def _in_memory(x: Tensor, order: Sequence[int] | None) -> Array:
    """The elements with their axes in the order in which they lie in memory."""
    array = x.numpy(force=True)
    return array if order is None else array.transpose(order)


def _as_given(values: Array, order: Sequence[int] | None) -> Tensor:
    """Values with the axes in their own order."""
    if order is None:
        return torch.from_numpy(values)
    return torch.from_numpy(values.transpose([order.index(axis) for axis in range(len(order))]))


def _run(samples: Array, layout: Layout) -> Array:
    """A run of memory, (outer, groups) or (outer, groups, inner)."""
    outer, groups, inner = layout.shape
    shape = (outer, groups) if inner == 1 else layout.shape
    n = outer * groups * inner
    if n == samples.size:
        return samples.reshape(shape)
    return samples.reshape(-1)[layout.first : layout.first + n].reshape(shape)


def _columns(coef: Tensor, matrix: Array, dtype: np.dtype[Any]) -> Array:
    """Coefficients (G, K) or (K,) times a matrix, (columns, G) or (columns,)."""
    return (coef.numpy(force=True) @ matrix).T.astype(dtype, order="C")


def _of_groups(columns: Array, layout: Layout) -> Array:
    """The columns (columns, G) of the groups of a run, as they broadcast against it."""
    if layout.copies * layout.run > 1:
        columns = np.tile(np.repeat(columns, layout.run, 1), (1, layout.copies))
    return columns if layout.shape[2] == 1 else columns[..., None]


def _added_up(sums: Array, layout: Layout) -> Array:
    """Sums (K, groups) over what stands for one group."""
    if layout.copies * layout.run == 1:
        return sums
    return sums.reshape(len(sums), layout.copies, -1, layout.run).sum((1, 3))


def _in_window(plan: Plan, x: Array, out: Array | None = None) -> tuple[Array, Array]:
    """The samples in the units of v, and v, which is these in the window; it is x itself, or new, or `out`."""
    u = x
    if plan.center or plan.factor != 1.0 or plan.shift:
        u = x - plan.center
        if plan.factor != 1.0:
            u *= plan.factor
        if plan.shift:
            u += plan.shift
    if plan.window is None:
        return u, u
    v = np.maximum(u, plan.window[0], out=out)
    return u, np.minimum(v, plan.window[1], out=v)


# --- values ---


def _values_of_one(numbers: _Pass, factors: list[float], x: Array) -> Array:
    """Values of one polynomial: numbers of Python as factors are the fastest."""
    if len(factors) - 3 <= LARGEST_HORNER:
        return _values(numbers, factors, x)
    plan = numbers.plan
    u, v = _in_window(plan, x)
    matrix = np.empty((len(factors) - 2, *v.shape), v.dtype)
    matrix[0].fill(1.0)
    _fill(numbers, matrix, v)
    values = np.dot(np.array(factors[:-2], v.dtype), matrix.reshape(len(matrix), -1)).reshape(v.shape)
    return _continued(values, u, v, factors[-2:]) if plan.continues else values


def _values(numbers: _Pass, columns: Sequence[Any] | Array, x: Array) -> Array:
    """Values, with factors that broadcast against x."""
    plan = numbers.plan
    *factors, at_lo, at_hi = columns
    u, v = _in_window(plan, x)
    if len(factors) == 1:
        values = np.empty(v.shape, v.dtype)
        values[...] = factors[0]
    elif len(factors) - 1 <= LARGEST_HORNER:
        values = v * factors[-1]
        values += factors[-2]
        for factor in factors[-3::-1]:
            values *= v
            values += factor
    else:
        values, product = np.empty(v.shape, v.dtype), np.empty(v.shape, v.dtype)
        values[...] = factors[0]
        terms, scaled = [np.ones(v.shape, v.dtype)], v * numbers.common
        for k, (step, factor) in enumerate(zip(plan.steps, factors[1:], strict=True)):
            out = np.empty(v.shape, v.dtype) if k < 2 else terms[k - 2]
            terms.append(_next(numbers, step, terms[k - 1], terms[k], v, scaled, out))
            values += np.multiply(terms[-1], factor, out=product)
    return _continued(values, u, v, (at_lo, at_hi)) if plan.continues else values


def _continued(values: Array, u: Array, v: Array, slopes: Sequence[Any]) -> Array:
    """Values with the lines of these slopes below and above the window; in place."""
    e = u - v
    part = np.maximum(e, 0.0)
    part *= slopes[1]
    values += part
    np.minimum(e, 0.0, out=part)
    part *= slopes[0]
    values += part
    return values


# --- the recurrence ---


def _next(numbers: _Pass, step: Step, before: Array, term: Array, v: Array, scaled: Array, out: Array) -> Array:
    """W_{k+1} from W_{k-1} and W_k, in `out`, which may be any array but W_k; `scaled` is v times `numbers.common`."""
    if not step.adds:
        if step.b:
            return np.multiply(term, v + step.b, out=out)
        return np.multiply(term, v, out=out)
    by_common = numbers.common != 0.0 and not step.b
    if by_common:
        product = np.multiply(term, scaled, out=None if out is before else out)
        if step.a < 0.0:
            return np.subtract(before, product, out=out)
    else:
        product = np.multiply(v, step.a, out=None if out is before else out)
        product += step.b
        product *= term
    return np.add(before, product, out=out)


def _fill(numbers: _Pass, rows: Array, v: Array) -> None:
    """Fill rows[1:] with W_k rows[0]; rows[1] may be v, where rows[0] is 1."""
    scaled = v * numbers.common if numbers.common else v
    for k, step in enumerate(numbers.plan.steps):
        if k == 0 and rows[1] is v:
            continue
        _next(numbers, step, rows[k - 1], rows[k], v, scaled, rows[k + 1])


# --- gradients ---


def _gradients_of_one(
    numbers: _Pass, columns: Array | None, x: Array, g: Array, wants: Wants
) -> tuple[Array | None, Array | None]:
    """The gradient to x (n,), and the sums of g W_k, g e and g |e|, for one polynomial."""
    plan = numbers.plan
    degree = len(plan.steps)
    u, v = _in_window(plan, x)
    matrix = np.empty((degree + 1 + 2 * plan.continues, len(x)), x.dtype)
    matrix[0].fill(1.0)
    _fill(numbers, matrix, v)
    slopes = sums = None
    if wants.x:
        assert columns is not None
        if degree > 1:
            slopes = np.dot(columns.ravel(), matrix[:degree])
            slopes *= g
        else:
            slopes = g * columns.ravel()[0] if degree else np.zeros_like(g)
        _clear_outside(plan, slopes, u)
    if wants.coef:
        if plan.continues:
            np.abs(np.subtract(u, v, out=matrix[-2]), out=matrix[-1])
        sums = _dots(matrix, g)
    return slopes, sums


def _dots(rows: Array, g: Array) -> Array:
    """Products of rows (K, n) with g (n,): in their dtype within a block, in float64 over blocks."""
    block, n = sizes.current().longest_block, len(g)
    if n <= block or g.dtype == np.float64:
        return rows.dot(g).astype(np.float64, copy=False)
    whole = n - n % block
    blocks = rows[:, :whole].reshape(len(rows), -1, block).transpose(1, 0, 2)
    sums = np.matmul(blocks, g[:whole].reshape(-1, block, 1)).sum((0, 2), dtype=np.float64)
    return sums if whole == n else sums + rows[:, whole:].dot(g[whole:])


def _gradients_of_groups(
    numbers: _Pass, columns: Array | None, samples: Array, grad: Array, shape: Sequence[int], wants: Wants
) -> tuple[Array | None, Array | None]:
    """The gradient to x, and the sums (K, groups)."""
    slopes = np.empty(samples.shape, samples.dtype) if wants.x else None
    total = None
    for layout in layouts(shape):
        x, g = _run(samples, layout), _run(grad, layout)
        out = None if slopes is None else _run(slopes, layout)
        factors = None if columns is None else _of_groups(columns, layout)
        sums = _gradients(numbers, factors, x, g, out, want_sums=wants.coef)
        if sums is not None:
            sums = _added_up(sums, layout)
            total = sums if total is None else total + sums
    return slopes, total


def _gradients(
    numbers: _Pass, factors: Array | None, x: Array, g: Array, out: Array | None, *, want_sums: bool
) -> Array | None:
    """Write the gradient to x of a run to `out`, and give the sums (K, groups) of it."""
    plan = numbers.plan
    degree = len(plan.steps)
    terms = np.empty((degree + 1 + 2 * plan.continues, *x.shape), x.dtype)
    terms[0] = g
    u, v = _in_window(plan, x)
    _fill(numbers, terms[: degree + 1], v)
    if out is not None and factors is not None:
        if degree:
            np.multiply(terms[0], factors[0], out=out)
            product = np.empty(x.shape, x.dtype) if degree > 1 else out
            for k in range(1, degree):
                out += np.multiply(terms[k], factors[k], out=product)
        else:
            out.fill(0.0)
        _clear_outside(plan, out, u)
    if not want_sums:
        return None
    if plan.continues:
        e = np.subtract(u, v, out=v)
        np.multiply(e, g, out=terms[-2])
        np.multiply(np.abs(e, out=e), g, out=terms[-1])
    if x.ndim == 2:
        return terms.sum(1, dtype=None if len(x) <= sizes.current().longest_block else np.float64).astype(np.float64)
    return terms.sum(3).sum(1, dtype=np.float64)  # by halves along the last axis


def _clear_outside(plan: Plan, slopes: Array, u: Array) -> None:
    """Set the gradient to x to 0 where the polynomial is clamped."""
    if plan.is_clamped and plan.window is not None:
        slopes[(u < plan.window[0]) | (u > plan.window[1])] = 0.0


def _to_coef(numbers: _Pass, sums: Array) -> Array:
    """The gradient to the coefficients, (G, degree + 1) or (degree + 1,), from sums (K, G) or (K,)."""
    n_coef = len(numbers.factors)
    found = sums[:n_coef].T * numbers.factors
    if numbers.plan.continues:
        of_e = sums[n_coef:].T @ numbers.of_e.T
        if not math.isfinite(of_e.sum()):  # a sum may be infinite, and its factor zero: so is the product then
            products = sums[n_coef:].T[..., None, :] * numbers.of_e
            of_e = np.where(numbers.of_e == 0.0, 0.0, products).sum(-1)
        found += of_e
    return found
