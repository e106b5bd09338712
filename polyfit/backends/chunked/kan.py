"""The KAN layer as matrix products, a chunk of rows and a degree at a time.

With t = squash(x) of a chunk, n rows, and C_k = coef[k - 1]::

    y        = bias + sum_k P_k(t) C_k          (n, in) x (in, out)
    grad C_k = sum over chunks of P_k(t)^T g    (in, n) x (n, out)
    grad x   = dt/dx sum_k (g C_k^T) P_k'(t)    (n, out) x (out, in), elementwise with P_k'

P_k and P_k' of a chunk are made by their recurrences in buffers that stay in cache, and again in the backward pass. So
nothing of size rows x in x degree exists. The products accumulate in place. (One product over all degrees, with the P_k
of a chunk side by side, was slower: 20 % in the forward pass, 5 % in the backward pass.)

The recurrences run on R_k = P_k / scale and Q_k = P_k' / slope_scale, with scales at which R_{k-2} and Q_{k-2} have the
factor 1: a step is then one operation in place. The products take the scales as factors, for nothing.

Digits: chunks are computed in float32 or float64. The products follow the precision that the user allows to float32
products (`torch.set_float32_matmul_precision`), as those of torch.nn.Linear do; other passes of polyfit, which sum over
all data, do not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked import kan_short
from polyfit.backends.results import Wants
from polyfit.bases import BASES
from polyfit.formula import compute_dtype, largest_squared


class _Term(NamedTuple):
    """How R_k and Q_k follow from those before, and what multiplies them.

    R_1 = t + own. For k > 1, R_k is R_{k-2} + product t R_{k-1} + own R_{k-1}, or t R_{k-1} alone.
    For k > 1, Q_k is Q_{k-2} + value R_{k-1}, or Q_{k-1} + value R_{k-1}, or R_{k-1} alone.

    Attributes:
        scale: P_k / R_k.
        product: see above.
        own: see above.
        has_before: whether R_{k-2} is a part of R_k.
        slope_scale: P_k' / Q_k.
        value: see above.
        steps_back: which Q is a part of Q_k: 2 for Q_{k-2}, 1 for Q_{k-1}, 0 for none.
    """

    scale: float
    product: float
    own: float
    has_before: bool
    slope_scale: float
    value: float
    steps_back: int


@functools.lru_cache(maxsize=256)
def _terms(basis: str, degree: int) -> tuple[_Term, ...]:
    """The terms k = 1 .. degree."""
    steps, slope_of = BASES[basis].steps(degree), BASES[basis].slope
    scales, slope_scales = [1.0], [1.0]  # of k = 0; Q_0 = 0
    terms: list[_Term] = []
    for k, (a, b, c) in enumerate(steps, start=1):
        if k == 1:
            terms.append(_Term(a, 1.0, b / a, False, a, 0.0, 0))
        else:
            value, slope, before = map(float, slope_of(k - 1))
            scale = -c * scales[-2] if c else a * scales[-1]
            ratio = scales[-1] / scale
            if before:
                steps_back, slope_scale = 2, before * slope_scales[-2]
            elif slope:
                steps_back, slope_scale = 1, slope * slope_scales[-1]
            else:
                steps_back, slope_scale = 0, value * scales[-1]
            terms.append(
                _Term(scale, a * ratio, b * ratio, c != 0.0, slope_scale, value * scales[-1] / slope_scale, steps_back)
            )
        scales.append(terms[-1].scale)
        slope_scales.append(terms[-1].slope_scale)
    return tuple(terms)


def _functions(t: Tensor, terms: tuple[_Term, ...], buffers: Sequence[Tensor]) -> Iterator[Tensor]:
    """R_1 .. R_degree of t, in two buffers: each is good, with the one before it, until the next is asked for."""
    free, used = buffers
    before = current = t
    for k, term in enumerate(terms, start=1):
        if k == 1 and not term.own:
            yield t
            continue
        if k == 1:
            torch.add(t, term.own, out=free)
        elif term.has_before:
            torch.addcmul(free.fill_(1.0) if k == 2 else before, t, current, value=term.product, out=free)
            if term.own:
                free.add_(current, alpha=term.own)
        else:
            torch.mul(t, current, out=free)
        before, current, free, used = current, free, used, free
        yield current


class _Slopes:
    """Q_2 .. Q_degree of a chunk, from the R_k, in as many buffers as the basis needs (see `n_buffers`)."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._held = list(buffers)  # Q_k, Q_{k-1}
        for slope, start in zip(self._held, (1.0, 0.0), strict=False):
            slope.fill_(start)

    def step(self, term: _Term, before: Tensor) -> Tensor:
        """Q_k from R_{k-1}."""
        if not term.steps_back:
            return before
        if term.steps_back == 2:
            self._held.reverse()
        return self._held[0].add_(before, alpha=term.value)

    @staticmethod
    def n_buffers(terms: tuple[_Term, ...]) -> int:
        """Buffers that Q takes."""
        return max((term.steps_back for term in terms), default=0)


def _squash(x: Tensor, squash: str | None, out: Tensor, spare: Tensor) -> Tensor:
    """The squashed x of a chunk, in `out`."""
    if squash == "tanh":
        # In the dtype of `out`, which may be wider.
        return torch.tanh(x, out=out) if x.dtype == out.dtype else out.copy_(x).tanh_()
    out.copy_(x)
    if squash == "clamp":
        out.clamp_(-1.0, 1.0)
    elif squash == "algebraic":
        out.mul_(_algebraic_root(out, spare))
    return out


def _algebraic_root(x: Tensor, out: Tensor) -> Tensor:
    """1 / sqrt(1 + x**2), in `out`; bounds x in place, so that its square does not overflow."""
    limit = largest_squared(x.dtype)
    x.clamp_(-limit, limit)
    return torch.mul(x, x, out=out).add_(1.0).rsqrt_()


def _to_x(grad: Tensor, x: Tensor, t: Tensor, squash: str | None, spare: Tensor) -> None:
    """Multiply the gradient to t of a chunk by dt/dx. It overwrites t and `spare`."""
    if squash == "tanh":
        grad.addcmul_(torch.mul(grad, t, out=spare), t, value=-1.0)
    elif squash == "algebraic":
        root = _algebraic_root(t.copy_(x), spare)
        grad.mul_(torch.mul(root, root, out=t)).mul_(root)
    elif squash == "clamp":
        is_inside = torch.le(torch.abs(t.copy_(x), out=spare), 1.0)
        grad.masked_fill_(is_inside.logical_not_(), 0.0)


def _chunks(x: Tensor, n_out: int) -> list[slice]:
    """The rows of x (B, in) in chunks of nearly one length; the first is the longest."""
    n_rows, n_in = x.shape
    longest = sizes.current().kan_rows(x.device, n_in, n_out)
    if n_rows <= longest:
        return [slice(0, n_rows)] if n_rows else []
    step = -(-n_rows // -(-n_rows // longest))
    return [slice(first, min(first + step, n_rows)) for first in range(0, n_rows, step)]


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None) -> Tensor:
    """The layer (B, out), see `polyfit.formula.kan`, in the dtype of x."""
    if kan_short.is_short(x, coef):
        return kan_short.kan(x, coef, bias, basis, squash)
    degree, n_in, n_out = coef.shape
    dtype = compute_dtype(x.dtype)
    is_wide = x.dtype == dtype
    bias, columns = bias.to(dtype), coef.to(dtype).unbind(0)
    terms, chunks = _terms(basis, degree), _chunks(x, n_out)
    longest = chunks[0].stop if chunks else 0
    values = x.new_empty(x.shape[0], n_out)
    held = x.new_empty((3, longest, n_in), dtype=dtype)
    held_out = None if is_wide else x.new_empty((longest, n_out), dtype=dtype)
    for rows in chunks:
        n = rows.stop - rows.start
        t, *free = held[:, :n].unbind(0)
        _squash(x[rows], squash, t, free[0])
        out = values[rows] if held_out is None else held_out[:n]
        if not terms:
            out.copy_(bias)
        total = bias
        for term, function, column in zip(terms, _functions(t, terms, free), columns, strict=True):
            total = torch.addmm(total, function, column, alpha=term.scale, out=out)
        if not is_wide:
            values[rows] = out
    return values


def kan_backward(
    grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * y) for grad (B, out), see `polyfit.backends.operators.kan_backward`."""
    run = kan_short.kan_backward if kan_short.is_short(x, coef) else _kan_backward
    return run(grad, x, coef, basis, squash, wants)


def _kan_backward(
    grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """The same a chunk of rows at a time."""
    degree, n_in, n_out = coef.shape
    dtype = compute_dtype(x.dtype)
    is_wide = x.dtype == dtype
    terms, chunks = _terms(basis, degree), _chunks(x, n_out)
    longest = chunks[0].stop if chunks else 0
    grad_x = x.new_empty(x.shape) if wants.x else None
    grad_coef = x.new_empty(coef.shape, dtype=dtype) if wants.coef else None
    if grad_coef is not None and not chunks:
        grad_coef.zero_()
    columns = list(coef.to(dtype).mT.unbind(0)) if wants.x else []
    sums = [] if grad_coef is None else list(grad_coef.unbind(0))
    # The squashed x and two functions; for the gradient to x a product, the gradient where it is rounded, and slopes.
    n_buffers = 3 + (1 + (not is_wide) + _Slopes.n_buffers(terms) if wants.x else 0)
    held = x.new_empty((n_buffers, longest, n_in), dtype=dtype)
    held_grad = None
    for rows in chunks:
        n = rows.stop - rows.start
        upstream = grad[rows]
        if upstream.dtype != dtype or not upstream.is_contiguous():
            # Else each product would make a copy.
            held_grad = x.new_empty((longest, n_out), dtype=dtype) if held_grad is None else held_grad
            upstream = held_grad[:n].copy_(upstream)
        t, free, other, *of_x = held[:, :n].unbind(0)
        _squash(x[rows], squash, t, free)
        to_t = product = slopes = None
        if grad_x is not None:
            to_t = grad_x[rows] if is_wide else of_x.pop()
            product, *of_slopes = of_x
            slopes = _Slopes(of_slopes)
            if not terms:
                to_t.zero_()
        before = t
        for k, (term, function) in enumerate(zip(terms, _functions(t, terms, (free, other)), strict=True)):
            if sums:
                beta = 1.0 if rows.start else 0.0
                torch.addmm(sums[k], function.t(), upstream, beta=beta, alpha=term.scale, out=sums[k])
            if to_t is not None and product is not None and slopes is not None:
                if k == 0:
                    torch.addmm(to_t, upstream, columns[0], beta=0.0, alpha=term.slope_scale, out=to_t)
                else:
                    torch.mm(upstream, columns[k], out=product)
                    to_t.addcmul_(product, slopes.step(term, before), value=term.slope_scale)
            before = function
        if grad_x is not None and to_t is not None:
            _to_x(to_t, x[rows], t, squash, free)
            if not is_wide:
                grad_x[rows] = to_t
    return grad_x, grad_coef
