"""An elementwise polynomial of each group of channels, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import steps_of
from polyfit.backends.results import Wants
from polyfit.bases import BASES
from polyfit.formula import Model, compute_dtype

Place = tuple[slice, slice, slice]


def _places(shape: tuple[int, ...], chunk: int) -> Iterator[Place]:
    """Parts of (outer, groups, inner) of up to `chunk` elements, each a run of memory."""
    outer, groups, inner = shape
    i_step = min(inner, chunk)
    g_step = min(groups, max(1, chunk // i_step)) if i_step == inner else 1
    o_step = min(outer, max(1, chunk // (g_step * i_step))) if g_step == groups else 1
    for o in range(0, outer, o_step):
        for g in range(0, groups, g_step):
            for i in range(0, inner, i_step):
                yield slice(o, o + o_step), slice(g, g + g_step), slice(i, i + i_step)


def activate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p_g(x) for x (outer, groups, inner) and coef (groups, degree + 1), in the dtype of x."""
    dtype = compute_dtype(x.dtype)
    columns = coef.to(dtype).t().contiguous().unsqueeze(-1)
    basis, degree = BASES[model.basis], coef.shape[1] - 1
    steps, (lo, hi) = steps_of(model.basis, degree), basis.window
    slopes = [coef.double() @ coef.new_tensor(s, dtype=torch.float64) for s in basis.slopes_at_ends(degree)]
    at_lo, at_hi = (s.to(dtype).unsqueeze(-1) for s in slopes)
    out = torch.empty_like(x)
    for place in _places(tuple(x.shape), sizes.current().chunk(x.device)):
        t = model.to_window(x[place].to(dtype))
        tc = t if model.outside == "extend" else t.clamp(lo, hi)
        before, term = None, torch.ones_like(t)
        own = columns[:, place[1]]
        value = own[0] * term
        for k, (a, b, c) in enumerate(steps):
            after = (a * tc + b) * term
            before, term = term, after if before is None or c == 0 else after - c * before
            value.addcmul_(own[k + 1], term)
        if model.outside == "linear":
            e = t - tc
            value.addcmul_(at_hi[place[1]], e.clamp(min=0)).addcmul_(at_lo[place[1]], e.clamp(max=0))
        out[place] = value
    return out


def activate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p_g(x)).

    Returns:
        The gradient to x in its dtype, and to coef in float64; None for what was not wanted.
    """
    dtype = compute_dtype(x.dtype)
    columns = coef.to(dtype).t().contiguous().unsqueeze(-1)
    basis, degree = BASES[model.basis], coef.shape[1] - 1
    steps, (lo, hi) = steps_of(model.basis, degree), basis.window
    slopes = basis.slopes_at_ends(degree)
    sums = coef.new_zeros((degree + 1, coef.shape[0]), dtype=torch.float64)
    grad_x = torch.empty_like(x) if wants.x else None
    for place in _places(tuple(x.shape), sizes.current().chunk(x.device)):
        t, g = model.to_window(x[place].to(dtype)), grad[place].to(dtype)
        tc = t if model.outside == "extend" else t.clamp(lo, hi)
        before, term = None, torch.ones_like(t)
        before_slope, slope = None, torch.zeros_like(t)
        own = columns[:, place[1]]
        total = torch.zeros_like(t)
        part = [g.double().sum((0, 2))]
        for k, (a, b, c) in enumerate(steps):
            after = (a * tc + b) * term
            after_slope = (a * tc + b) * slope + a * term
            if before is not None and before_slope is not None:
                after, after_slope = after - c * before, after_slope - c * before_slope
            before, term, before_slope, slope = term, after, slope, after_slope
            total.addcmul_(own[k + 1], slope)
            part.append((g * term).double().sum((0, 2)))
        if model.outside == "linear":
            e = t - tc
            for half, at_end in ((e.clamp(max=0), slopes[0]), (e.clamp(min=0), slopes[1])):
                moment = (g * half).double().sum((0, 2))
                for k in range(1, degree + 1):
                    part[k] = part[k] + at_end[k] * moment
        sums[:, place[1]] += torch.stack(part)
        if grad_x is not None:
            value = total.mul_(g).mul_(model.slope)
            if model.outside == "clamp":
                value.masked_fill_(t != tc, 0.0)
            grad_x[place] = value
    return grad_x, sums.t().contiguous() if wants.coef else None
