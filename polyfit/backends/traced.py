"""The one pass as whole-tensor operations: what a compiler fuses into one loop over the data.

The mathematics is that of `chunked` without its chunks: value and gradients stand side by side, none by autograd,
so that Inductor, which fuses what reads the same data, reads them once. Run eagerly it is right, and slow.

Operands are canonical (see `operators`), or, for `inductor`, cut into rows of samples: (R, B) where (N,) was
shared by all series or is of one, (S, R, B) where (S, N) was. Sums then run over the B samples of a row in the dtype
that computes and over rows in float64; uncut, all of a sum is taken in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyfit.backends.chunked.activation_plan import LARGEST_HORNER, plan_of
from polyfit.backends.results import LossSums, Wants
from polyfit.bases import BASES
from polyfit.formula import HARMLESS_PREDICTION, HARMLESS_TARGET, Model, compute_dtype
from polyfit.losses import Loss


def _functions(t: Tensor, degree: int, basis: str) -> list[Tensor]:
    """P_0 .. P_degree at t."""
    terms = [torch.ones_like(t)]
    for k, (a, b, c) in enumerate(BASES[basis].steps(degree)):
        after = t * terms[k] if a == 1.0 else (a * t) * terms[k]
        if b:
            after = after + b * terms[k]
        if c:
            after = after - c * terms[k - 1]
        terms.append(after)
    return terms


def _slopes(t: Tensor, terms: list[Tensor], basis: str) -> list[Tensor]:
    """The derivatives to t of P_0 .. P_degree: those of the steps of the recurrence."""
    slopes = [torch.zeros_like(t)]
    for k, (a, b, c) in enumerate(BASES[basis].steps(len(terms) - 1)):
        after = a * terms[k] + (a * t + b) * slopes[k]
        slopes.append(after - c * slopes[k - 1] if c else after)
    return slopes


def _combine(coef: Tensor, terms: list[Tensor], axes: int) -> Tensor:
    """The sum of coef[..., k] terms[k] over k; `axes` is how many hold the samples of one series."""
    columns = list(coef.unbind(-1))
    if coef.dim() == 2:
        columns = [column.reshape(-1, *(1,) * axes) for column in columns]
    total = columns[0] * terms[0]
    for column, term in zip(columns[1:], terms[1:], strict=True):
        total = total + column * term
    return total


class _Series:
    """Sums over samples and gradients per sample, of one series or of several."""

    def __init__(self, p: Tensor, is_batch: bool, axes: int, upstream: Tensor | None) -> None:
        self._p, self._is_batch, self._axes, self._upstream = p, is_batch, axes, upstream

    def total(self, values: Tensor) -> Tensor:
        """Sums over the samples of each series, (S,) float64."""
        values = values.expand_as(self._p)
        if self._axes == 2:
            values = values.sum(-1)
        sums = values.sum(-1, dtype=torch.float64)
        return sums if self._is_batch else sums.unsqueeze(0)

    def moments(self, delta: Tensor, terms: list[Tensor]) -> Tensor:
        """Sums of delta P_k times upstream, (S, degree + 1) float64."""
        sums = torch.stack([self.total(delta * term) for term in terms], -1)
        return sums if self._upstream is None else sums * self._upstream.unsqueeze(-1)

    def per_sample(self, values: Tensor, like: Tensor) -> Tensor:
        """Values times upstream, added up over the series that share `like`."""
        if self._upstream is not None:
            shape = (-1, *(1,) * self._axes) if self._is_batch else ()
            values = values * self._upstream.to(values.dtype).reshape(shape)
        values = values.expand_as(self._p)
        return values.sum(0) if values.dim() > like.dim() else values


def objective(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    model: Model,
    wants: Wants,
    *,
    axes: int = 1,
) -> LossSums:
    """`polyfit.backends.operators.objective`; `axes` is the number of axes that hold the samples of one series."""
    assert isinstance(model.loss, Loss)
    dtype = compute_dtype(x.dtype)
    x, y, coef = x.to(dtype), y.to(dtype), coef.to(dtype)
    weight = None if weight is None else weight.to(dtype)
    t = model.to_window(x)
    degree = coef.shape[-1] - 1
    is_out = to_weight = None
    if weight is not None:
        # A sample of weight zero is left out, even if it is NaN or infinite: a harmless one takes its place.
        is_out = weight == 0
        if wants.weight:  # its loss is still the gradient to the weight, where it is finite
            p = _combine(coef, _functions(t, degree, model.basis), axes)
            losses = model.loss.value(*torch.broadcast_tensors(p, y))
            to_weight = torch.where(is_out & ~losses.isfinite(), 0.0, losses)
        t = torch.where(is_out, 0.0, t)
    terms = _functions(t, degree, model.basis)
    p, y_all = torch.broadcast_tensors(_combine(coef, terms, axes), y)
    if is_out is not None:
        p, y_all = torch.where(is_out, HARMLESS_PREDICTION, p), torch.where(is_out, HARMLESS_TARGET, y_all)
    value = model.loss.value(p, y_all)
    delta, to_y = model.loss.slopes(p, y_all)
    if weight is not None:
        delta, to_y = delta * weight, to_y * weight
    series = _Series(p, coef.dim() == 2, axes, upstream)
    grad_x = None
    if wants.x:
        slope = _combine(coef, _slopes(t, terms, model.basis), axes)
        grad_x = series.per_sample(delta * (slope * model.slope), x)
    return LossSums(
        series.total(value if weight is None else value * weight),
        None if weight is None else series.total(weight),
        series.moments(delta, terms) if wants.coef else None,
        grad_x,
        series.per_sample(to_y, y) if wants.y else None,
        series.per_sample(to_weight, weight) if to_weight is not None and weight is not None else None,
    )


def evaluate(x: Tensor, coef: Tensor, model: Model, *, axes: int = 1) -> Tensor:
    """`polyfit.backends.operators.evaluate`; `axes` as for `objective`."""
    dtype = compute_dtype(x.dtype)
    terms = _functions(model.to_window(x.to(dtype)), coef.shape[-1] - 1, model.basis)
    values = _combine(coef.to(dtype), terms, axes)
    # No conversion to the dtype that they have: torch 2.11 loses the gradient of a result that is there twice.
    return values if values.dtype == x.dtype else values.to(x.dtype)


def evaluate_backward(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    model: Model,
    wants: Wants,
    *,
    axes: int = 1,
) -> tuple[Tensor | None, Tensor | None]:
    """`polyfit.backends.operators.evaluate_backward`; `axes` as for `objective`."""
    dtype = compute_dtype(x.dtype)
    grad, x, wide = grad.to(dtype), x.to(dtype), coef.to(dtype)
    t = model.to_window(x)
    terms = _functions(t, coef.shape[-1] - 1, model.basis)
    series = _Series(grad, coef.dim() == 2, axes, None)
    grad_x = None
    if wants.x:
        slope = _combine(wide, _slopes(t, terms, model.basis), axes)
        grad_x = series.per_sample(grad * (slope * model.slope), x)
    return grad_x, series.moments(grad, terms).view(coef.shape) if wants.coef else None


# Rows of a block, where a float32 sum runs over the rows of each group.
_BLOCK = 64
# Neighbours of one group that are added up in float32.
LONGEST_RUN = 4096


def activate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """`polyfit.backends.operators.activate`."""
    columns = _realized(activation_columns(coef, model, compute_dtype(x.dtype)))
    return activation_values(x, columns.unsqueeze(-1), model)


def activate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """`polyfit.backends.operators.activate_backward`.

    Sums of one polynomial are taken in float64. Those of several would take twice the time: they are taken in the dtype
    that computes within a block.
    """
    outer, groups, inner = x.shape
    shape, axes = x.shape, ((), (0, 2))
    if groups > 1 and inner > 1 and inner <= LONGEST_RUN:
        axes = ((2,), (0,))
    elif groups > 1 and inner == 1 and outer % _BLOCK == 0 and outer > 0:
        shape, axes = (outer // _BLOCK, _BLOCK, groups, 1), ((1,), (0, 2))
    columns = _realized(slope_columns(coef, model, compute_dtype(x.dtype))).unsqueeze(-1)
    grad_x, sums = activation_gradients(grad.reshape(shape), x.reshape(shape), columns, model, wants=wants, axes=axes)
    return None if grad_x is None else grad_x.view(x.shape), sums


def _realized(columns: Tensor) -> Tensor:
    """Columns (k, groups) that Inductor computes once.

    It would fuse what computes them into the loop over the elements. It does not where a view by strides follows.
    """
    return columns.as_strided(columns.shape, columns.stride())


class _Constants(NamedTuple):
    """Numbers of `activation_plan.Plan`, for v = t, as tuples: a compiler takes them for constants.

    Attributes:
        steps: a, b and whether W_{k-1} is added, for each W_{k+1}.
        to_values: rows of the matrix that takes coefficients to those of powers, or of P_k, and to the slopes at both
            ends.
        to_slopes: rows of the matrix that takes coefficients to those of W_k in dp/dt, and to a zero.
        factors: of W_k in P_k.
    """

    steps: tuple[tuple[float, float, bool], ...]
    to_values: tuple[tuple[float, ...], ...]
    to_slopes: tuple[tuple[float, ...], ...]
    factors: tuple[float, ...]


def _constants(basis: str, degree: int) -> tuple[Any, ...]:
    """The fields of `_Constants`."""
    plan = plan_of(basis, degree, None, "linear", torch.float64)
    values = plan.to_values
    if degree > LARGEST_HORNER:
        values = torch.cat((torch.eye(degree + 1, dtype=torch.float64, device="cpu"), values[:, degree + 1 :]), 1)

    def rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(row) for row in matrix.tolist())

    steps = tuple((step.a, step.b, step.adds) for step in plan.steps)
    slopes = torch.nn.functional.pad(plan.to_slopes, (0, 1))
    return steps, rows(values), rows(slopes), tuple(plan.factors.tolist())


# What torch.compiler.assume_constant_result does. To call that imports torch's compiler, and Triton with it.
_constants._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _times(coef: Tensor, rows: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """Coefficients (groups, degree + 1) times a matrix, (columns, groups) without gaps."""
    matrix = torch.tensor(rows, dtype=torch.float64, device=coef.device)
    return (coef.double() @ matrix).t().to(dtype).contiguous()


def activation_columns(coef: Tensor, model: Model, dtype: torch.dtype) -> Tensor:
    """What multiplies powers of t, or P_k, and the slopes at both ends: (degree + 3, groups)."""
    return _times(coef, _Constants(*_constants(model.basis, _degree(coef))).to_values, dtype)


def slope_columns(coef: Tensor, model: Model, dtype: torch.dtype) -> Tensor:
    """What multiplies W_k in dp/dt, and zeros: (degree + 1, groups)."""
    return _times(coef, _Constants(*_constants(model.basis, _degree(coef))).to_slopes, dtype)


def _degree(coef: Tensor) -> int:
    """The degree as a number, also where a compiler takes the shape for a symbol."""
    return len(coef.unbind(1)) - 1


def activation_values(x: Tensor, columns: Tensor, model: Model) -> Tensor:
    """p(x) in the dtype of x.

    Args:
        x: of any shape.
        columns: `activation_columns`, (degree + 3, ...), each of which broadcasts against x.
        model: basis, mapping and continuation.
    """
    dtype = compute_dtype(x.dtype)
    t = model.to_window(x.to(dtype))
    *factors, at_lo, at_hi = columns.unbind(0)
    inside, degree = _inside(t, model), len(factors) - 1
    if degree > LARGEST_HORNER:
        value = _sum(factors, _functions(inside, degree, model.basis))
    else:
        value = factors[-1] if degree else factors[0].expand_as(t) * 1.0
        for factor in factors[-2::-1]:
            value = value * inside + factor
    if model.outside == "linear" and degree > 0:
        e = t - inside
        value = value + torch.where(e > 0.0, at_hi, at_lo) * e
    return value if value.dtype == x.dtype else value.to(x.dtype)


def activation_gradients(
    grad: Tensor,
    x: Tensor,
    columns: Tensor,
    model: Model,
    *,
    wants: Wants,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of sum(grad * p(x)): the terms g W_k of one recurrence give both, see `chunked.activation_plan`.

    Args:
        grad: in the shape of x.
        x: of any shape.
        columns: `slope_columns`, (degree + 1, ...), each of which broadcasts against x.
        model: basis, mapping and continuation.
        wants: which gradients are wanted.
        axes: over which sums run in the dtype that computes, and then in float64.

    Returns:
        To x, in its dtype, and to the coefficients, (..., degree + 1) float64.
    """
    *slopes, zero = columns.unbind(0)
    dtype, degree = compute_dtype(x.dtype), len(slopes)
    constants = _Constants(*_constants(model.basis, degree))
    t, g = model.to_window(x.to(dtype)), grad.to(dtype)
    inside = _inside(t, model)
    before, terms = None, [g]
    for a, b, adds in constants.steps:
        term = terms[-1]
        after = term * (inside * a + b if b else inside * a if a != 1.0 else inside)
        if adds:
            assert before is not None
            after = after + before
        before = term
        terms.append(after)
    grad_x = grad_coef = None
    if wants.x:
        grad_x = _sum(slopes, terms[:-1]) * model.slope if slopes else zero * g
        if model.outside == "clamp":
            lo, hi = BASES[model.basis].window
            grad_x = torch.where((t < lo) | (t > hi), 0.0, grad_x)
        grad_x = grad_x if grad_x.dtype == x.dtype else grad_x.to(x.dtype)
    if wants.coef:

        def total(values: Tensor) -> Tensor:
            first, then = axes
            return (values.sum(first) if first else values).sum(then, dtype=torch.float64)

        sums = [total(term) * factor for term, factor in zip(terms, constants.factors, strict=True)]
        if model.outside == "linear" and degree > 0:
            e = t - inside
            above, below = (total(g * part) for part in (e.clamp(min=0.0), e.clamp(max=0.0)))
            at_lo, at_hi = BASES[model.basis].slopes_at_ends(degree)
            sums = [sums[0]] + [
                part + hi * above + lo * below for part, lo, hi in zip(sums[1:], at_lo[1:], at_hi[1:], strict=True)
            ]
        grad_coef = torch.stack(sums, -1)
    return grad_x, grad_coef


def _inside(t: Tensor, model: Model) -> Tensor:
    """The point of the window next to t."""
    return t if model.outside == "extend" else t.clamp(*BASES[model.basis].window)


def _sum(columns: list[Tensor], factors: list[Tensor] | tuple[float, ...]) -> Tensor:
    """The sum of columns[k] factors[k]."""
    total = columns[0] * factors[0]
    for column, factor in zip(columns[1:], factors[1:], strict=True):
        total = total + column * factor
    return total
