r"""Residuals of a least-squares fit in about twice the digits of float64, and their moments.

With t the image of x on [-1, 1], T_k Chebyshev's polynomials and the coefficients an unevaluated sum ``high + low``::

    r_n = y_n - sum_k (high_k + low_k) T_k(t_n)
    g_k = sum_n w_n r_n T_k(t_n)
    s   = sum_n w_n r_n**2

t, T_k, r and w r are double-double numbers: unevaluated sums of two in float64, good to some 2**-100. Sums over k and
over n are exact but for the last 2**-90 of their largest term. So r and g keep their digits where y and the polynomial,
or the parts of a sum, cancel down to the rounding of the data: what refinement steps need
(https://en.wikipedia.org/wiki/Iterative_refinement).

References:
    Dekker, Numer. Math. 18 (1971), for products; Ogita, Rump & Oishi, SIAM J. Sci. Comput. 26 (2005), for sums;
    Rump, Ogita & Oishi, SIAM J. Sci. Comput. 31 (2008), for the extraction of leading bits that makes sums exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.errorfree import split, two_sum

# Samples times functions that are laid out at a time: 8 arrays of them stay within a second level of cache.
_CHUNK = 1 << 16
_SHORTEST = 1 << 10
_SPLITTER = 2.0**27 + 1.0


class _Pair(NamedTuple):
    """Double-double numbers, and their leading part split for products: high = upper + lower, 26 bits each."""

    high: Tensor
    low: Tensor
    upper: Tensor
    lower: Tensor


def _pair(high: Tensor, low: Tensor) -> _Pair:
    return _Pair(high, low, *split(high))


def _product(a: _Pair, b: _Pair) -> tuple[Tensor, Tensor]:
    """The product, as a rounded part and minus what it lacks.

    Products of two halves are exact, so it does not matter whether their addition is fused with them.
    """
    product = a.high * b.high
    excess = torch.addcmul(product, a.upper, b.upper, value=-1)
    excess.addcmul_(a.upper, b.lower, value=-1).addcmul_(a.lower, b.upper, value=-1).addcmul_(
        a.lower, b.lower, value=-1
    )
    excess.addcmul_(a.high, b.low, value=-1).addcmul_(a.low, b.high, value=-1)
    return product, excess


def _sum_over(terms: Tensor, excess: Tensor, largest: float, dim: int) -> tuple[Tensor, Tensor]:
    """The sum of ``terms - excess`` along an axis: of the leading bits, which is exact, and of all that is left.

    The leading bits are those above ``2**-(52 - log2(size))`` of the largest magnitude that a term may have.
    """
    size_bits = max(1, terms.shape[dim] - 1).bit_length()
    anchor = math.ldexp(1.5, math.frexp(largest)[1] + size_bits)
    leading = (terms + anchor).sub_(anchor)
    return leading.sum(dim), torch.sub(terms, leading).sub_(excess).sum(dim)


class _Laid(NamedTuple):
    """A chunk: its functions (degree + 1, n), y and the weight (n,) in float64."""

    functions: _Pair
    y: Tensor
    weight: Tensor | None


class ExtendedResiduals:
    """Residuals on one series of data, for coefficients that are known to more than float64.

    Args:
        x: samples, (N,), of any floating-point dtype.
        y: targets, (N,).
        weight: (N,), or None.
        degree: of the polynomial.
        domain: what is mapped onto [-1, 1]; no sample lies outside.
    """

    def __init__(self, x: Tensor, y: Tensor, weight: Tensor | None, degree: int, domain: tuple[float, float]) -> None:
        self._data, self._degree = (x, y, weight), degree
        lo, hi = map(Fraction, domain)
        middle, scale = (lo + hi) / 2, 2 / (hi - lo)
        self._middle = float(middle), float(middle - Fraction(float(middle)))
        self._scale = _float_pair(scale)
        self._step = max(_SHORTEST, _CHUNK // (degree + 1))
        self._kept: _Laid | None = None  # where one chunk holds all

    def __call__(self, high: Tensor, low: Tensor) -> tuple[float, Tensor]:
        """The sum of squares s, and the moments g (degree + 1,) float64 on the CPU, for coefficients (degree + 1,)."""
        coef = _pair(*torch.stack((high, low)).to(self._data[0].device).unsqueeze(2))
        largest = max(map(abs, high.tolist()))
        squares, total = [], None
        for laid in self._chunks():
            square, leading, rest = _chunk_sums(laid, coef, largest)
            squares.append(square)
            total = (leading, rest) if total is None else _plus(total, leading, rest)
        if total is None:
            return 0.0, torch.zeros_like(high)
        return math.fsum(torch.stack(squares).tolist()), (total[0] + total[1]).cpu()

    def _chunks(self) -> Iterator[_Laid]:
        if self._kept is not None:
            yield self._kept
            return
        for parts in zip(*(_cut(tensor, self._step) for tensor in self._data), strict=False):
            x, y, weight = (None if part is None else part.double() for part in parts)
            assert x is not None
            assert y is not None
            laid = _Laid(self._functions(x), y, weight)
            if x.shape[0] == self._data[0].shape[0]:
                self._kept = laid
            yield laid

    def _functions(self, x: Tensor) -> _Pair:
        """T_0 .. T_degree of a chunk."""
        n_rows = self._degree + 1
        parts = x.new_empty(4, n_rows, x.shape[0])
        rows = [_Pair(*row) for row in zip(*(part.unbind(0) for part in parts.unbind(0)), strict=True)]
        for view, value in zip(rows[0], (1.0, 0.0, 1.0, 0.0), strict=True):
            view.fill_(value)
        if self._degree == 0:
            return _Pair(*parts.unbind(0))
        _store(rows[1], *self._to_window(x))
        doubled = _Pair(*(part + part for part in rows[1]))
        for before, row, after in zip(rows, rows[1:], rows[2:], strict=False):
            product, excess = _product(doubled, row)
            high = product - before.high
            of_before = high - product
            low = (product - (high - of_before)).sub_(of_before.add_(before.high))
            _store(after, high, low.sub_(excess).sub_(before.low))
        return _Pair(*parts.unbind(0))

    def _to_window(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x to (x - middle) scale, as a double-double."""
        (middle, middle_low), (scale, scale_low) = self._middle, self._scale
        high = x - middle
        back = high - x
        low = (x - (high - back)).sub_(back + middle)  # two_sum with a number
        if middle_low:
            low.sub_(middle_low)
        shifted = high * _SPLITTER
        upper = shifted - (shifted - high)
        lower = high - upper
        t = high * scale
        scale_upper = scale * _SPLITTER - (scale * _SPLITTER - scale)
        scale_lower = scale - scale_upper
        excess = torch.sub(t, upper, alpha=scale_upper)
        for half, factor in ((upper, scale_lower), (lower, scale_upper), (lower, scale_lower)):
            excess.sub_(half, alpha=factor)
        excess.sub_(low, alpha=scale).sub_(high, alpha=scale_low)
        total = t - excess  # normalised, since its digits may all have come from `low`
        return total, (t - total).sub_(excess)


def _float_pair(value: Fraction) -> tuple[float, float]:
    high = float(value)
    return high, float(value - Fraction(high))


def _cut(tensor: Tensor | None, step: int) -> Iterator[Tensor | None]:
    if tensor is None:
        while True:
            yield None
    yield from tensor.split(step)


def _store(place: _Pair, high: Tensor, low: Tensor) -> None:
    place.high.copy_(high)
    place.low.copy_(low)
    shifted = high * _SPLITTER
    torch.sub(shifted, shifted - high, out=place.upper)
    torch.sub(high, place.upper, out=place.lower)


def _plus(total: tuple[Tensor, Tensor], leading: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    high, error = two_sum(total[0], leading)
    return high, total[1] + (rest + error)


def _chunk_sums(laid: _Laid, coef: _Pair, largest: float) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of squares of a chunk, and leading and remaining part of its moments."""
    functions = laid.functions
    leading, rest = _sum_over(*_product(coef, functions), largest, 0)
    difference, error = two_sum(laid.y, leading.neg_())
    error.sub_(rest)
    residual = difference + error
    weighted = residual, (difference - residual).add_(error)
    if laid.weight is not None:
        product, excess = _product(_pair(*weighted), _pair(laid.weight, torch.zeros_like(laid.weight)))
        weighted = product, excess.neg_()
    square = torch.dot(weighted[0], residual)
    most = float(torch.linalg.vector_norm(weighted[0], math.inf))
    return square, *_sum_over(*_product(_pair(*weighted), functions), most, 1)
