"""An elementwise polynomial of each group of channels, and its gradients, a chunk at a time in buffers that stay.

What counts is how often a chunk is read and written. The functions of a basis are therefore scaled, so that a step of
the recurrence is one operation ::

    W_0 = 1,    W_1 = v + b_0,    W_{k+1} = W_{k-1} + (a_k v + b_k) W_k,    P_k = factor_k W_k

for v = t / scale: the map from the domain costs nothing where it is centred. It is linear, so that it may start from
the incoming gradient g in place of 1. The terms g W_k give all: their sums the gradient to the coefficients, and their
combination with the coefficients of the derivative the gradient to x.

With e = v - clamp(v), "linear" needs two sums more, those of g e and g |e|: above the window e is (e + |e|) / 2, and
below it (e - |e|) / 2.

Sums are taken in the dtype that computes within a chunk, by torch's cascade or in blocks, and in float64 over chunks.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import internal_dtype
from polyfit.backends.results import Wants
from polyfit.bases import BASES, AffineMap, derivative_matrix
from polyfit.formula import Model, compute_dtype

# Up to this degree values are found by Horner's rule in powers of v. In float32 it is exact to 4 eps of the range of
# the polynomial at degree 5, and to 49 at degree 8.
_LARGEST_HORNER = 5
# The powers of v that occur are between 2**-30 and 2**30. With a larger or smaller scale, v is t.
_LARGEST_EXPONENT = 30.0
# Loops over fewer neighbours of one group, or over fewer groups, cost more than the operation itself: the coefficients
# are then repeated for each element of a longer row. There must be so many rows that this takes no memory to speak of.
_SHORT_RUN, _LONG_ROW, _MANY_ROWS = 32, 1024, 64


class _Step(NamedTuple):
    """W_{k+1} = (W_{k-1} if it is added) + (a v + b) W_k."""

    a: float
    b: float
    adds: bool


class _Plan(NamedTuple):
    """What is known before x and the coefficients are.

    Attributes:
        center: subtracted from x.
        factor: of x - center. It is 1 where it is part of v.
        shift: added to that. The result is u, and v is u in the window.
        window: in the units of v, or None.
        beyond: the numbers next to the window, outside of it, where the slope is 0; or None.
        continues: whether lines continue the polynomial.
        steps: to W_1 .. W_degree.
        to_values: takes coefficients to what multiplies W_k, or, up to `_LARGEST_HORNER`, v**k, and in two more columns
            to the slopes below and above the window.
        to_slopes: takes them to what multiplies W_k in dp/dv = dp/dx.
        factors: of W_k in P_k.
        of_e: factors of the sums of g e and of g |e| in the gradients to the coefficients, (degree + 1, 2, 1).
    """

    center: float
    factor: float
    shift: float
    window: tuple[float, float] | None
    beyond: tuple[float, float] | None
    continues: bool
    steps: tuple[_Step, ...]
    to_values: Tensor
    to_slopes: Tensor
    factors: Tensor
    of_e: Tensor


@functools.lru_cache(maxsize=256)
def _plan(basis: str, degree: int, mapping: AffineMap | None, outside: str, dtype: torch.dtype) -> _Plan:
    own = BASES[basis]
    center, scale, shift = (0.0, 1.0, 0.0) if mapping is None else mapping
    factor = 1.0
    if max(degree, 2) * abs(math.log2(scale)) > _LARGEST_EXPONENT:
        factor, scale = scale, 1.0
    window = torch.tensor(own.window, dtype=torch.float64, device="cpu").div_(scale).to(dtype)
    beyond = torch.nextafter(window, window.new_tensor([-math.inf, math.inf]))
    factors, steps = [1.0], []
    for k, (a, b, c) in enumerate(own.steps(degree)):
        # Of W in P: chosen so that W_1 and powers begin with v, and all others with W_{k-1}.
        adds = k > 0 and c != 0.0
        factors.append(-factors[k - 1] * c if adds else factors[k] * a * scale)
        ratio = factors[k] / factors[k + 1]
        steps.append(_Step(a * scale * ratio, b * ratio, adds))
    ends = torch.tensor(own.slopes_at_ends(degree), dtype=torch.float64, device="cpu").t() * scale
    per_w = torch.tensor(factors, dtype=torch.float64, device="cpu")
    in_powers = _in_powers(basis, degree, scale) if degree <= _LARGEST_HORNER else torch.diag(per_w)
    return _Plan(
        center,
        factor,
        shift / scale,
        None if outside == "extend" else tuple(window.tolist()),
        tuple(beyond.tolist()) if outside == "clamp" else None,
        outside == "linear" and degree > 0,
        tuple(steps),
        torch.cat((in_powers, ends), 1),
        (derivative_matrix(own, degree) * scale * factor).t() * per_w[:-1],
        per_w,
        torch.stack((ends.sum(1), ends[:, 1] - ends[:, 0]), 1).unsqueeze(-1) * 0.5,
    )


def _in_powers(basis: str, degree: int, scale: float) -> Tensor:
    """Row k: P_k(scale v) in powers of v."""
    rows = [[Fraction(1)]]
    for k in range(degree):
        a, b, c = BASES[basis].recurrence(k)
        after = [Fraction(0)] * (k + 2)
        for j, value in enumerate(rows[k]):
            after[j + 1] += a * value
            after[j] += b * value
        for j, value in enumerate(rows[k - 1] if k else ()):
            after[j] -= c * value
        rows.append(after)
    padded = [
        [float(value) * scale**j for j, value in enumerate(row)] + [0.0] * (degree + 1 - len(row)) for row in rows
    ]
    return torch.tensor(padded, dtype=torch.float64, device="cpu")


class _Layout(NamedTuple):
    """A run of memory as (outer, groups, inner), with groups that may stand for several elements of one group.

    Attributes:
        first: the element that it begins with.
        shape: of the run.
        copies: how often all groups are repeated.
        run: neighbours that are groups of their own here.
    """

    first: int
    shape: tuple[int, int, int]
    copies: int = 1
    run: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """The run of a tensor without gaps, or of one number that is expanded."""
        return tensor.view(-1).narrow(0, self.first, math.prod(self.shape)).view(self.shape)

    def repeated(self, coef: Tensor) -> Tensor:
        """Coefficients (G, K) of the groups here."""
        return coef.repeat_interleave(self.run, 0).repeat(self.copies, 1) if self.copies * self.run > 1 else coef

    def added_up(self, sums: Tensor) -> Tensor:
        """Sums (K, groups) over what stands for one group."""
        if self.copies * self.run == 1:
            return sums
        return sums.view(sums.shape[0], self.copies, -1, self.run).sum((1, 3))


def _layouts(shape: Sequence[int]) -> list[_Layout]:
    """How (outer, groups, inner) is gone through."""
    outer, groups, inner = shape
    if groups == 1:
        return [_Layout(0, (1, 1, outer * inner))]
    if outer < _MANY_ROWS or inner >= _SHORT_RUN:
        return [_Layout(0, (outer, groups, inner))]
    width = groups * inner
    copies = max(1, min(_LONG_ROW // width, outer // _MANY_ROWS))
    n_rows = outer // copies
    layouts = [_Layout(0, (n_rows, copies * width, 1), copies, inner)]
    if left := outer - n_rows * copies:
        layouts.append(_Layout(n_rows * copies * width, (left, width, 1), 1, inner))
    return layouts


# Where a part lies: axis, first index and size, for each axis that is cut.
Cuts = tuple[tuple[int, int, int], ...]


def _places(shape: Sequence[int], chunk: int) -> Iterator[Cuts]:
    """Parts of (outer, groups, inner) of up to `chunk` elements."""
    steps = list(shape)
    for axis in range(3):  # an axis is cut where all that lies within it does not fit
        steps[axis] = min(steps[axis], max(1, chunk // math.prod(steps[axis + 1 :])))
    ranges = [
        [(axis, first, min(step, size - first)) for first in range(0, size, step)] if step < size else [None]
        for axis, (size, step) in enumerate(zip(shape, steps, strict=True))
    ]
    for places in itertools.product(*ranges):
        yield tuple(place for place in places if place is not None)


def _cut(tensor: Tensor, cuts: Cuts) -> Tensor:
    for axis, first, size in cuts:
        tensor = tensor.narrow(axis, first, size)
    return tensor


class _Buffers:
    """Scratch for parts, which the next part overwrites.

    Args:
        like: a tensor on the device.
        dtype: of the buffers.
        size: elements of the largest part.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype, size: int) -> None:
        self._like, self._dtype, self._size = like, dtype, size
        self._flat: list[Tensor] = []
        self._shape: torch.Size | None = None
        self._shaped: list[Tensor] = []

    def take(self, count: int, shape: torch.Size) -> list[Tensor]:
        """So many tensors of a shape."""
        while len(self._flat) < count:
            self._flat.append(self._like.new_empty(self._size, dtype=self._dtype))
        if shape != self._shape or len(self._shaped) < count:
            self._shape = shape
            self._shaped = [flat.narrow(0, 0, shape.numel()).view(shape) for flat in self._flat]
        return self._shaped[:count]


def _columns(coef: Tensor, matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Coefficients (G, K) times a matrix, (columns, G, 1)."""
    return (coef.double() @ matrix.to(coef.device)).t().to(dtype).contiguous().unsqueeze(-1)


def _of_groups(columns: Tensor, cuts: Cuts) -> tuple[Tensor, ...]:
    """The columns of the groups of a part."""
    for axis, first, size in cuts:
        columns = columns.narrow(1, first, size) if axis == 1 else columns
    return columns.unbind(0)


def _in_window(plan: _Plan, x: Tensor, spare: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The samples in the units of v, and v, which is these in the window. They are x or lie in the buffers."""
    u = x
    if plan.center or plan.factor != 1.0 or plan.shift:
        u = torch.sub(x, plan.center, out=spare)
        if plan.factor != 1.0:
            u.mul_(plan.factor)
        if plan.shift:
            u.add_(plan.shift)
    return u, u if plan.window is None else torch.clamp(u, *plan.window, out=v)


def _next(step: _Step, before: Tensor | None, term: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """W_{k+1} from W_{k-1} and W_k, or these times a factor; `out` may be W_{k-1}."""
    if step.adds:
        assert before is not None
        torch.addcmul(before, term, v, value=step.a, out=out)
    else:
        torch.mul(term, v, out=out)
    return out.add_(term, alpha=step.b) if step.b else out


def _terms(plan: _Plan, first: Tensor, v: Tensor, buffers: Sequence[Tensor]) -> Iterator[Tensor]:
    """The terms W_k times `first`, k = 1 .. degree, in two buffers that are overwritten in turn."""
    before, term, (out, other) = None, first, buffers
    for step in plan.steps:
        before, term = term, _next(step, before, term, v, out)
        out, other = other, out
        yield term


def activate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p_g(x) for x (outer, groups, inner) without gaps and coef (groups, degree + 1), in the dtype of x."""
    dtype = compute_dtype(x.dtype)
    plan = _plan(model.basis, coef.shape[1] - 1, model.affine_map, model.outside, dtype)
    out = x.new_empty(x.shape)
    for layout in _layouts(x.shape):
        columns = _columns(layout.repeated(coef), plan.to_values, dtype)
        _activate(plan, layout.of(x), columns, layout.of(out))
    return out


def _activate(plan: _Plan, x: Tensor, columns: Tensor, out: Tensor) -> None:
    """Write the values to `out`."""
    dtype, chunk = columns.dtype, sizes.current().activation_chunk(x.device)
    is_own = x.dtype == dtype
    buffers = _Buffers(x, dtype, min(chunk, x.numel()))
    for cuts in _places(x.shape, chunk):
        *factors, at_lo, at_hi = _of_groups(columns, cuts)
        samples, place = _cut(x, cuts), _cut(out, cuts)
        a, b, c, *more = buffers.take(3 if is_own else 4, samples.shape)
        values = place if is_own else more[0]
        u, v = _in_window(plan, samples if is_own else b.copy_(samples), a, c)
        is_short = len(factors) - 1 <= _LARGEST_HORNER
        if is_short:
            _horner(factors, v, values)
        if plan.continues:
            e = torch.sub(u, v, out=a)
            above = torch.clamp(e, min=0.0, out=b)
            if is_short:
                values.addcmul_(above, at_hi)
            else:
                torch.mul(above, at_hi, out=values)
            values.addcmul_(e.clamp_(max=0.0), at_lo)
        if not is_short:
            if plan.continues:
                values.add_(factors[0])
            else:
                values.copy_(factors[0].expand_as(values))
            free = [buffer for buffer in (a, b, c) if buffer is not v]
            one = factors[0].new_ones(()).expand_as(values)
            for factor, term in zip(factors[1:], _terms(plan, one, v, free[:2]), strict=True):
                values.addcmul_(term, factor)
        if not is_own:
            place.copy_(values)


def _horner(factors: Sequence[Tensor], v: Tensor, out: Tensor) -> None:
    """Write the sum of factors[k] v**k to `out`."""
    if len(factors) == 1:
        out.copy_(factors[0].expand_as(out))
        return
    torch.addcmul(factors[-2], v, factors[-1], out=out)
    for factor in factors[-3::-1]:
        torch.addcmul(factor, out, v, out=out)


def activate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p_g(x)).

    Args:
        grad: like x, or one number that is expanded.
        x: (outer, groups, inner) without gaps.
        coef: (groups, degree + 1).
        model: basis, mapping and continuation.
        wants: which gradients are wanted.

    Returns:
        The gradient to x in its dtype, and to coef in float64; None for what was not wanted.
    """
    dtype, n_coef = compute_dtype(x.dtype), coef.shape[1]
    plan = _plan(model.basis, n_coef - 1, model.affine_map, model.outside, dtype)
    grad_x = x.new_empty(x.shape) if wants.x else None
    # Products of matrices are faster than sums, where users do not allow them to use fewer digits.
    is_product = coef.shape[0] == 1 and n_coef > 1 and internal_dtype(x.dtype, x.device) == dtype
    total = None
    for layout in _layouts(x.shape):
        columns = _columns(layout.repeated(coef), plan.to_slopes, dtype)
        run = _by_products if is_product else _by_sums
        out = None if grad_x is None else layout.of(grad_x)
        sums = layout.added_up(run(plan, layout.of(grad), layout.of(x), columns, out, want_sums=wants.coef))
        total = sums if total is None else total + sums
    if not wants.coef or total is None:
        return grad_x, None
    grad_coef = total[:n_coef] * plan.factors.to(coef.device).unsqueeze(1)
    if plan.continues:
        of_e = plan.of_e.to(coef.device)
        # A sum may be infinite, and its factor zero: so is the product then.
        grad_coef += torch.where(of_e == 0.0, 0.0, of_e * total[n_coef:]).sum(1)
    return grad_x, grad_coef.t().contiguous()


def _by_sums(plan: _Plan, grad: Tensor, x: Tensor, columns: Tensor, out: Tensor | None, *, want_sums: bool) -> Tensor:
    """Write the gradient to x to `out`, and give the sums of g W_k, g e and g |e|: (degree + 3, groups) float64."""
    dtype, degree, chunk = columns.dtype, len(plan.steps), sizes.current().activation_chunk(x.device)
    is_own, axis = x.dtype == dtype, 0 if x.shape[2] == 1 else 2
    total = x.new_zeros((degree + 1 + 2 * plan.continues, x.shape[1]), dtype=torch.float64)
    buffers = _Buffers(x, dtype, min(chunk, x.numel()))
    for cuts in _places(x.shape, chunk):
        factors = _of_groups(columns, cuts)
        samples, g, place = _cut(x, cuts), _cut(grad, cuts), None if out is None else _cut(out, cuts)
        a, b, c, *more = buffers.take(3 + (plan.beyond is not None) + 3 * (not is_own), samples.shape)
        slopes, spare = place, a if plan.beyond is None else more.pop()  # _finish needs u
        if not is_own:
            samples, g, slopes = more[0].copy_(samples), more[1].copy_(g), None if place is None else more[2]
        u, v = _in_window(plan, samples, spare, c)
        of_e = []
        if plan.continues and want_sums:
            e = torch.sub(u, v, out=a)
            of_e = [torch.mul(e, g, out=b).sum(axis), e.abs_().mul_(g).sum(axis)]
        if slopes is not None:
            slopes = torch.mul(g, factors[0], out=slopes) if degree else slopes.zero_()
        sums = [g.sum(axis)] if want_sums else []
        free = [buffer for buffer in (a, b, c) if buffer is not v]
        for k, term in enumerate(_terms(plan, g, v, free[:2]), start=1):
            if want_sums:
                sums.append(term.sum(axis))
            if slopes is not None and k < degree:
                slopes.addcmul_(term, factors[k])
        if slopes is not None and place is not None:
            _finish(plan, slopes, u, place)
        if want_sums:
            table = torch.stack(sums + of_e)
            place = _cut(total, tuple(cut for cut in cuts if cut[0] == 1))
            place += table.squeeze(2) if axis == 0 else table.sum(1, dtype=torch.float64)
    return total


def _finish(plan: _Plan, slopes: Tensor, u: Tensor, place: Tensor) -> None:
    """Write the gradient to x to its place: 0 where the polynomial is clamped, NaN where x is."""
    if plan.beyond is not None:
        torch.ops.aten.hardtanh_backward.grad_input(slopes, u, *plan.beyond, grad_input=slopes)
    if slopes is not place:
        place.copy_(slopes)


def _by_products(
    plan: _Plan, grad: Tensor, x: Tensor, columns: Tensor, out: Tensor | None, *, want_sums: bool
) -> Tensor:
    """The same for one group, x (1, 1, n), by products with the matrix whose rows are W_k, e and |e|."""
    dtype, degree, lengths = columns.dtype, len(plan.steps), sizes.current()
    n_samples, chunk = x.shape[2], min(x.shape[2], lengths.chunk(x.device))
    n_rows, is_own, is_constant = degree + 1 + 2 * plan.continues, x.dtype == dtype, grad.stride(2) == 0
    factors = columns.view(-1)
    total = x.new_zeros(n_rows, dtype=torch.float64)
    # W_k, e, |e|, and the gradient and slopes where they have no place elsewhere.
    n_more = 2 + (is_constant or not is_own) + (not is_own or plan.steps[0].b != 0.0)
    # Rows a power of two apart would share the same sets of a cache.
    matrix = x.new_empty((degree + 1 + n_more, chunk + 64), dtype=dtype)
    matrix[0].fill_(1.0)
    x, grad, out = x.view(-1), grad.view(-1), None if out is None else out.view(-1)
    for first in range(0, n_samples, chunk):
        size = min(chunk, n_samples - first)
        whole = matrix.narrow(1, 0, size)
        rows = whole.unbind(0)
        e, absolute = rows[degree + 1 : degree + 3]
        samples, g = x.narrow(0, first, size), grad.narrow(0, first, size)
        g = rows[degree + 3].copy_(g) if is_constant or not is_own else g
        samples = samples if is_own else absolute.copy_(samples)
        u, v = _in_window(plan, samples, absolute, rows[-1] if plan.steps[0].b else rows[1])
        if v is not rows[1]:
            torch.add(v, plan.steps[0].b, out=rows[1])
        for k, step in enumerate(plan.steps[1:], start=1):
            _next(step, rows[k - 1], rows[k], v, rows[k + 1])
        if plan.continues:
            torch.abs(torch.sub(u, v, out=e), out=absolute)
        if want_sums:
            total += _dots(whole.narrow(0, 0, n_rows), g, lengths)
        if out is not None:
            place = out.narrow(0, first, size)
            slopes = torch.mv(whole.narrow(0, 0, degree).t(), factors, out=place if is_own else rows[-1])
            _finish(plan, slopes.mul_(g), u, place)
    return total.unsqueeze(1)


def _dots(rows: Tensor, g: Tensor, lengths: sizes.Sizes) -> Tensor:
    """Products of rows (K, n) with g (n,): in their dtype within a block, in float64 over blocks."""
    block = lengths.longest_block
    n_blocks = g.shape[0] // block
    if n_blocks <= lengths.few_blocks:
        parts = [torch.mv(*part).double() for part in zip(rows.split(block, 1), g.split(block), strict=True)]
        return sum(parts[1:], parts[0])
    whole = n_blocks * block
    blocks = rows.narrow(1, 0, whole).unflatten(1, (n_blocks, block)).permute(1, 2, 0)
    sums = torch.bmm(g.narrow(0, 0, whole).view(n_blocks, 1, block), blocks).sum((0, 1), dtype=torch.float64)
    rest = g.shape[0] - whole
    return sums + torch.mv(rows.narrow(1, whole, rest), g.narrow(0, whole, rest)).double() if rest else sums
