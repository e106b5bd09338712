r"""Residuals of a least-squares fit in about twice the digits of float64, and their moments.

With t the image of x on [-1, 1], T_k the Chebyshev polynomials and the coefficients an unevaluated sum ``high + low``::

    r_n = y_n - sum_k (high_k + low_k) T_k(t_n)
    g_k = sum_n w_n r_n T_k(t_n)
    s   = sum_n w_n r_n**2

t, T_k, r and w r are double-double numbers: unevaluated sums of two float64 numbers, with relative errors near 2**-100.
Sums over k and over n lose at most 2**-90 of their largest term. So r and g keep their digits where y and the
polynomial cancel down to the rounding of the data, and where the terms of a sum cancel. Iterative refinement needs that
(https://en.wikipedia.org/wiki/Iterative_refinement).

It is written in numpy: at a hundred samples one evaluation is two hundred operations, which take half a microsecond
each in numpy and more than one in torch. Data on other devices are copied to the CPU, one chunk at a time.

References:
    Dekker, Numer. Math. 18 (1971), for products; Ogita, Rump & Oishi, SIAM J. Sci. Comput. 26 (2005), for sums;
    Rump, Ogita & Oishi, SIAM J. Sci. Comput. 31 (2008), for the extraction of leading bits that makes sums exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyfit.bases import CHEBYSHEV, Interval, affine_map
from polyfit.errorfree import SPLITTER, split, two_sum
from polyfit.least_squares.algebra import Array, to_array

# Samples times functions of a chunk. Its four float64 arrays take 1 MiB and stay in a second level of cache.
_CHUNK = 1 << 15
# The fewest samples of a chunk, for high degrees. To be measured.
_SHORTEST = 1 << 10
# Exponents of x beyond which x is scaled by a power of two. Splitting overflows above 2**996, and the reciprocal of a
# range is not a normal number above 2**1022.
_FAR = 900


class _SplitDoubleDouble(NamedTuple):
    """Double-double numbers high + low, with high split for products: high = upper + lower, 26 bits each."""

    high: Array
    low: Array
    upper: Array
    lower: Array


def _with_split(high: Array, low: Array) -> _SplitDoubleDouble:
    return _SplitDoubleDouble(high, low, *split(high))


def _product(a: _SplitDoubleDouble, b: _SplitDoubleDouble) -> tuple[Array, Array]:
    """The product: its rounded value and its low part."""
    product = a.high * b.high
    low = a.upper * b.upper
    low -= product
    low += a.upper * b.lower
    low += a.lower * b.upper
    low += a.lower * b.lower
    low += a.high * b.low
    low += a.low * b.high
    return product, low


def _sum_over(terms: Array, low: Array, largest: float, axis: int) -> tuple[Array, Array]:
    """The sum of ``terms + low`` along an axis: of the leading bits of terms, which is exact, and of the rest.

    The leading bits are those above ``2**-(52 - log2(size))`` of the largest magnitude that a term may have.
    """
    size_bits = max(1, terms.shape[axis] - 1).bit_length()
    anchor = math.ldexp(1.5, math.frexp(largest)[1] + size_bits)
    leading = terms + anchor
    leading -= anchor
    rest = terms - leading
    rest += low
    return leading.sum(axis), rest.sum(axis)


class Chunk(NamedTuple):
    """The basis functions (degree + 1, n), y (n,) and the weight (n,) of some samples, in float64."""

    functions: _SplitDoubleDouble
    y: Array
    weight: Array | None


class ExtendedResiduals:
    """The residuals of one series, for coefficients that are double-double numbers.

    Args:
        x: samples, (N,), of any floating-point dtype.
        y: targets, (N,).
        weight: (N,), or None for ones.
        degree: of the polynomial.
        domain: the interval that is mapped onto [-1, 1]; no sample lies outside.

    Raises:
        ValueError: a domain that is too narrow or too wide to be mapped.
    """

    def __init__(self, x: Tensor, y: Tensor, weight: Tensor | None, degree: int, domain: Interval) -> None:
        self._data, self._degree = (x, y, weight), degree
        affine_map(domain, CHEBYSHEV, torch.float64)  # raises
        exponent = math.frexp(max(map(abs, domain)))[1]
        self._unit = math.ldexp(1.0, -exponent // 2) if abs(exponent) > _FAR else 1.0
        lo, hi = (bound * self._unit for bound in domain)
        self._middle = two_sum(0.5 * lo, 0.5 * hi)
        self._scale = _reciprocal(*two_sum(0.5 * hi, -0.5 * lo))
        self._chunk_length = max(_SHORTEST, _CHUNK // (degree + 1))

    def __call__(self, high: Array, low: Array) -> tuple[Array, float]:
        """The moments g, (degree + 1,), and the sum of squares s, for high and low parts of the coefficients."""
        coef, largest = _with_split(high[:, None], low[:, None]), max(map(abs, high.tolist()))
        squares, leading, rest = [], np.zeros_like(high), np.zeros_like(high)
        for chunk in self._chunks():
            square, chunk_leading, chunk_rest = _chunk_sums(chunk, coef, largest)
            squares.append(square)
            leading, error = two_sum(leading, chunk_leading)
            rest += chunk_rest + error
        return leading + rest, math.fsum(squares)

    @functools.cached_property
    def only_chunk(self) -> Chunk | None:
        """All samples, where one chunk holds them. It is kept, since every evaluation needs it."""
        return self._chunk(0) if self._data[0].shape[0] <= self._chunk_length else None

    def _chunks(self) -> Iterator[Chunk]:
        if self.only_chunk is not None:
            yield self.only_chunk
            return
        for start in range(0, self._data[0].shape[0], self._chunk_length):
            yield self._chunk(start)

    def _chunk(self, start: int) -> Chunk:
        rows = slice(start, start + self._chunk_length)
        x, y, weight = self._data
        return Chunk(
            self._functions(to_array(x[rows])), to_array(y[rows]), None if weight is None else to_array(weight[rows])
        )

    def _functions(self, x: Array) -> _SplitDoubleDouble:
        """T_0 .. T_degree of x (n,), by T_{k+1} = 2 t T_k - T_{k-1}."""
        if self._unit != 1.0:
            x = x * self._unit
        parts = np.empty((4, self._degree + 1, len(x)))
        parts[:, 0] = _ONE
        if not self._degree:
            return _SplitDoubleDouble(*parts)
        _store(parts[:, 1], *self._to_window(x))
        doubled = _SplitDoubleDouble(*(2.0 * parts[:, 1]))
        for k in range(1, self._degree):
            product, low = _product(doubled, _SplitDoubleDouble(*parts[:, k]))
            high, error = two_sum(product, -parts[0, k - 1])
            error += low
            error -= parts[1, k - 1]
            _store(parts[:, k + 1], high, error)
        return _SplitDoubleDouble(*parts)

    def _to_window(self, x: Array) -> tuple[Array, Array]:
        """Map x to t = (x - middle) scale, as a double-double."""
        (middle, middle_low), (scale, scale_low) = self._middle, self._scale
        difference, difference_low = two_sum(x, np.array(-middle))
        difference_low -= middle_low
        upper, lower = split(difference)
        scale_upper, scale_lower = split(scale)
        product = difference * scale
        low = upper * scale_upper
        low -= product
        low += upper * scale_lower
        low += lower * scale_upper
        low += lower * scale_lower
        low += difference_low * scale
        low += difference * scale_low
        t = product + low  # normalised: where the difference cancels, all digits are in its low part
        product -= t
        low += product
        return t, low


# 1 as parts of a `_SplitDoubleDouble`.
_ONE = np.array([[1.0], [0.0], [1.0], [0.0]])


def _reciprocal(high: float, low: float) -> tuple[float, float]:
    """1 / (high + low), as a double-double."""
    first = 1.0 / high
    return first, float((1 - Fraction(first) * (Fraction(high) + Fraction(low))) / Fraction(high))


def _store(place: Array, high: Array, low: Array) -> None:
    """Write double-double numbers and the split of their high part to place (4, n)."""
    place[0] = high
    place[1] = low
    shifted = high * SPLITTER
    np.subtract(shifted, shifted - high, out=place[2])
    np.subtract(high, place[2], out=place[3])


def _chunk_sums(chunk: Chunk, coef: _SplitDoubleDouble, largest: float) -> tuple[float, Array, Array]:
    """The sum of squares of a chunk, and the leading part and the rest of its moments.

    Args:
        chunk: some samples.
        coef: coefficients, (degree + 1, 1).
        largest: the largest magnitude of a coefficient, which no term of the polynomial exceeds, as |T_k| <= 1.
    """
    functions = chunk.functions
    value, value_low = _sum_over(*_product(coef, functions), largest, 0)
    difference, error = two_sum(chunk.y, -value)
    error -= value_low
    residual = difference + error
    error += difference - residual
    weighted = residual, error
    if chunk.weight is not None:
        weighted = _product(_with_split(*weighted), _with_split(chunk.weight, np.zeros_like(chunk.weight)))
    largest_residual = float(np.abs(weighted[0]).max())
    moments = _sum_over(*_product(_with_split(*weighted), functions), largest_residual, 1)
    return float(weighted[0] @ residual), *moments
