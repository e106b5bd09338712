"""An elementwise polynomial of each group of channels, and its gradients, a chunk at a time in buffers that stay.

What counts is how often a chunk is read and written: see `activation_plan` for the recurrence.

Sums are taken in the dtype that computes within a chunk, by torch's cascade or in blocks, and in float64 over chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from polyfit._channels import Channels
from polyfit.backends import sizes
from polyfit.backends.chunked import activation_short
from polyfit.backends.chunked.activation_layout import Cuts, cut, layouts, places
from polyfit.backends.chunked.activation_plan import LARGEST_HORNER, Plan, Step, plan_of
from polyfit.backends.chunked.matrix import internal_dtype
from polyfit.backends.results import Wants
from polyfit.formula import Model, compute_dtype


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


def _in_window(plan: Plan, x: Tensor, spare: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The samples in the units of v, and v, which is these in the window. They are x or lie in the buffers."""
    u = x
    if plan.center or plan.factor != 1.0 or plan.shift:
        u = torch.sub(x, plan.center, out=spare)
        if plan.factor != 1.0:
            u.mul_(plan.factor)
        if plan.shift:
            u.add_(plan.shift)
    return u, u if plan.window is None else torch.clamp(u, *plan.window, out=v)


def _next(step: Step, before: Tensor | None, term: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """W_{k+1} from W_{k-1} and W_k, or these times a factor; `out` may be W_{k-1}."""
    if step.adds:
        assert before is not None
        torch.addcmul(before, term, v, value=step.a, out=out)
    else:
        torch.mul(term, v, out=out)
    return out.add_(term, alpha=step.b) if step.b else out


def _terms(plan: Plan, first: Tensor, v: Tensor, buffers: Sequence[Tensor]) -> Iterator[Tensor]:
    """The terms W_k times `first`, k = 1 .. degree, in two buffers that are overwritten in turn."""
    before, term, (out, other) = None, first, buffers
    for step in plan.steps:
        before, term = term, _next(step, before, term, v, out)
        out, other = other, out
        yield term


def activate(x: Tensor, coef: Tensor, model: Model, channels: Channels | None = None) -> Tensor:
    """p_g(x) in the dtype, the shape and the memory format of x.

    Args:
        x: (outer, groups, inner), or with channels of any shape and strides.
        coef: (groups, degree + 1), or (degree + 1,) for one group.
        model: basis, mapping and continuation.
        channels: how the elements of x lie in memory; None for canonical x.
    """
    shape, order = (x.shape, None) if channels is None else channels
    if activation_short.is_short(x, coef.shape[-1]):
        return activation_short.activate(x, coef, shape, order, model)
    rows = (x if channels is None else channels.flatten(x)).contiguous()
    dtype = compute_dtype(x.dtype)
    plan = plan_of(model.basis, coef.shape[-1] - 1, model.affine_map, model.outside, dtype)
    coef = coef.view(shape[1], -1)
    out = x.new_empty(rows.shape)
    for layout in layouts(rows.shape):
        columns = _columns(layout.repeated(coef), plan.to_values, dtype)
        _activate(plan, layout.of(rows), columns, layout.of(out))
    return out if channels is None else channels.restore(out, x.shape)


def _activate(plan: Plan, x: Tensor, columns: Tensor, out: Tensor) -> None:
    """Write the values to `out`."""
    dtype, chunk = columns.dtype, sizes.current().activation_chunk(x.device)
    is_own = x.dtype == dtype
    buffers = _Buffers(x, dtype, min(chunk, x.numel()))
    for cuts in places(x.shape, chunk):
        *factors, at_lo, at_hi = _of_groups(columns, cuts)
        samples, place = cut(x, cuts), cut(out, cuts)
        a, b, c, *more = buffers.take(3 if is_own else 4, samples.shape)
        values = place if is_own else more[0]
        u, v = _in_window(plan, samples if is_own else b.copy_(samples), a, c)
        is_short = len(factors) - 1 <= LARGEST_HORNER
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
    torch.mul(v, factors[-1], out=out).add_(
        factors[-2]
    )  # addcmul with two factors that are numbers takes 5 times as long
    for factor in factors[-3::-1]:
        torch.addcmul(factor, out, v, out=out)


def activate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants, channels: Channels | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p_g(x)).

    Args:
        grad: like x, of any strides, or one number that is expanded.
        x: see `activate`.
        coef: likewise.
        model: basis, mapping and continuation.
        wants: which gradients are wanted.
        channels: see `activate`.

    Returns:
        The gradient to x in its dtype, and to coef in float64, or with channels in any dtype; None for what was not
        wanted.
    """
    shape, order = (x.shape, None) if channels is None else channels
    if activation_short.is_short(x, coef.shape[-1]):
        is_rounded = channels is not None
        return activation_short.activate_backward(grad, x, coef, shape, order, model, wants, is_rounded=is_rounded)
    if channels is not None:
        grad_x, grad_coef = activate_backward(
            channels.flatten(grad), channels.flatten(x), coef.view(shape[1], -1), model, wants
        )
        return (
            None if grad_x is None else channels.restore(grad_x, x.shape),
            None if grad_coef is None else grad_coef.view(coef.shape),
        )
    dtype, n_coef = compute_dtype(x.dtype), coef.shape[1]
    plan = plan_of(model.basis, n_coef - 1, model.affine_map, model.outside, dtype)
    # A copy of a gradient that is one number, as that of a sum, would take as much memory as x.
    is_one_number = all(stride == 0 or n == 1 for n, stride in zip(grad.shape, grad.stride(), strict=True))
    grad, x = grad[0, 0, 0].expand(grad.shape) if is_one_number else grad.contiguous(), x.contiguous()
    grad_x = x.new_empty(x.shape) if wants.x else None
    # Products of matrices are faster than sums, where users do not allow them to use fewer digits.
    is_product = coef.shape[0] == 1 and n_coef > 1 and internal_dtype(x.dtype, x.device) == dtype
    total = None
    for layout in layouts(x.shape):
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


def _by_sums(plan: Plan, grad: Tensor, x: Tensor, columns: Tensor, out: Tensor | None, *, want_sums: bool) -> Tensor:
    """Write the gradient to x to `out`, and give the sums of g W_k, g e and g |e|: (degree + 3, groups) float64."""
    dtype, degree, chunk = columns.dtype, len(plan.steps), sizes.current().activation_chunk(x.device)
    is_own, axis = x.dtype == dtype, 0 if x.shape[2] == 1 else 2
    total = x.new_zeros((degree + 1 + 2 * plan.continues, x.shape[1]), dtype=torch.float64)
    buffers = _Buffers(x, dtype, min(chunk, x.numel()))
    for cuts in places(x.shape, chunk):
        factors = _of_groups(columns, cuts)
        samples, g, place = cut(x, cuts), cut(grad, cuts), None if out is None else cut(out, cuts)
        a, b, c, *more = buffers.take(3 + (plan.is_clamped) + 3 * (not is_own), samples.shape)
        slopes, spare = place, more.pop() if plan.is_clamped else a  # _finish needs u
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
            place = cut(total, tuple(cut for cut in cuts if cut[0] == 1))
            place += table.squeeze(2) if axis == 0 else table.sum(1, dtype=torch.float64)
    return total


def _finish(plan: Plan, slopes: Tensor, u: Tensor, place: Tensor) -> None:
    """Write the gradient to x to its place: 0 where the polynomial is clamped, NaN where x is."""
    if plan.is_clamped and plan.window is not None:
        lo, hi = plan.window
        slopes.masked_fill_(torch.lt(u, lo).logical_or_(torch.gt(u, hi)), 0.0)
    if slopes is not place:
        place.copy_(slopes)


def _by_products(
    plan: Plan, grad: Tensor, x: Tensor, columns: Tensor, out: Tensor | None, *, want_sums: bool
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
