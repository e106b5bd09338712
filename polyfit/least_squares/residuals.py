r"""Residuals of a least-squares fit in about twice the digits of float64, and their moments.

With t the image of x on [-1, 1], T_k Chebyshev's polynomials and the coefficients an unevaluated sum ``high + low``::

    r_n = y_n - sum_k (high_k + low_k) T_k(t_n)
    g_k = sum_n w_n r_n T_k(t_n)
    s   = sum_n w_n r_n**2

t, T_k, r and w r are double-double numbers: unevaluated sums of two in float64, good to some 2**-100. Sums over k and
over n are exact but for the last 2**-90 of their largest term. So r and g keep their digits where y and the polynomial,
or the parts of a sum, cancel down to the rounding of the data: what refinement steps need
(https://en.wikipedia.org/wiki/Iterative_refinement).

In numpy: at a hundred samples a call is two hundred operations, which take half a microsecond each there and more than
one in torch. Data elsewhere are brought to the CPU a chunk at a time.

References:
    Dekker, Numer. Math. 18 (1971), for products; Ogita, Rump & Oishi, SIAM J. Sci. Comput. 26 (2005), for sums;
    Rump, Ogita & Oishi, SIAM J. Sci. Comput. 31 (2008), for the extraction of leading bits that makes sums exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.bases import CHEBYSHEV, affine_map
from polyfit.errorfree import SPLITTER, split, two_sum

Array = NDArray[np.float64]

# Samples times functions that are laid out at a time: 4 arrays of them stay within a second level of cache.
_CHUNK = 1 << 15
_SHORTEST = 1 << 10
# Exponents of x from which on it is scaled.
_FAR = 900


class _Pair(NamedTuple):
    """Double-double numbers, and their leading part split for products: high = upper + lower, 26 bits each."""

    high: Array
    low: Array
    upper: Array
    lower: Array


def _pair(high: Array, low: Array) -> _Pair:
    return _Pair(high, low, *split(high))


def _product(a: _Pair, b: _Pair) -> tuple[Array, Array]:
    """The product, as a rounded part and what it lacks."""
    product = a.high * b.high
    rest = a.upper * b.upper
    rest -= product
    rest += a.upper * b.lower
    rest += a.lower * b.upper
    rest += a.lower * b.lower
    rest += a.high * b.low
    rest += a.low * b.high
    return product, rest


def _sum_over(terms: Array, rest: Array, largest: float, axis: int) -> tuple[Array, Array]:
    """The sum of ``terms + rest`` along an axis: of the leading bits, which is exact, and of all that is left.

    The leading bits are those above ``2**-(52 - log2(size))`` of the largest magnitude that a term may have.
    """
    size_bits = max(1, terms.shape[axis] - 1).bit_length()
    anchor = math.ldexp(1.5, math.frexp(largest)[1] + size_bits)
    leading = terms + anchor
    leading -= anchor
    left = terms - leading
    left += rest
    return leading.sum(axis), left.sum(axis)


class Laid(NamedTuple):
    """A chunk: its functions (degree + 1, n), y and the weight (n,) in float64."""

    functions: _Pair
    y: Array
    weight: Array | None


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
        affine_map(domain, CHEBYSHEV, torch.float64)  # says so if it is too narrow or too wide
        # Splitting overflows near the largest number, and the reciprocal of a range near the smallest.
        exponent = math.frexp(max(map(abs, domain)))[1]
        self._unit = math.ldexp(1.0, -exponent // 2) if abs(exponent) > _FAR else 1.0
        lo, hi = (bound * self._unit for bound in domain)
        self._middle = two_sum(0.5 * lo, 0.5 * hi)
        self._scale = _reciprocal(*two_sum(0.5 * hi, -0.5 * lo))
        self._step = max(_SHORTEST, _CHUNK // (degree + 1))
        self._kept: Laid | None = None  # where one chunk holds all

    def __call__(self, high: Array, low: Array) -> tuple[Array, float]:
        """The moments g, (degree + 1,), and the sum of squares s, for high and low parts of the coefficients."""
        coef, largest = _pair(high[:, None], low[:, None]), max(map(abs, high.tolist()))
        squares, leading, rest = [], np.zeros_like(high), np.zeros_like(high)
        for laid in self._chunks():
            square, more, more_rest = _chunk_sums(laid, coef, largest)
            squares.append(square)
            leading, error = two_sum(leading, more)
            rest += more_rest + error
        return leading + rest, math.fsum(squares)

    def kept(self) -> Laid | None:
        """All samples, where one chunk holds them."""
        if self._data[0].shape[0] <= self._step:
            next(self._chunks())
        return self._kept

    def _chunks(self) -> Iterator[Laid]:
        if self._kept is not None:
            yield self._kept
            return
        n = self._data[0].shape[0]
        for start in range(0, n, self._step):
            x, y, weight = (None if rows is None else to_array(rows[start : start + self._step]) for rows in self._data)
            assert x is not None
            assert y is not None
            laid = Laid(self._functions(x), y, weight)
            if n <= self._step:
                self._kept = laid
            yield laid

    def _functions(self, x: Array) -> _Pair:
        """T_0 .. T_degree of a chunk, by their recurrence."""
        if self._unit != 1.0:
            x = x * self._unit
        parts = np.empty((4, self._degree + 1, len(x)))
        parts[:, 0] = _ONE
        if not self._degree:
            return _Pair(*parts)
        _store(parts[:, 1], *self._to_window(x))
        doubled = _Pair(*(2.0 * parts[:, 1]))
        for k in range(1, self._degree):
            product, rest = _product(doubled, _Pair(*parts[:, k]))
            high, error = two_sum(product, -parts[0, k - 1])
            error += rest
            error -= parts[1, k - 1]
            _store(parts[:, k + 1], high, error)
        return _Pair(*parts)

    def _to_window(self, x: Array) -> tuple[Array, Array]:
        """Map x to (x - middle) scale, as a double-double."""
        (middle, middle_low), (scale, scale_low) = self._middle, self._scale
        high, low = two_sum(x, np.array(-middle))
        low -= middle_low
        upper, lower = split(high)
        scale_upper, scale_lower = split(scale)
        t = high * scale
        rest = upper * scale_upper
        rest -= t
        rest += upper * scale_lower
        rest += lower * scale_upper
        rest += lower * scale_lower
        rest += low * scale
        rest += high * scale_low
        total = t + rest  # normalised, since its digits may all have come from `low`
        t -= total
        rest += t
        return total, rest


_ONE = np.array([[1.0], [0.0], [1.0], [0.0]])


def to_array(rows: Tensor) -> Array:
    """A tensor in float64 on the CPU; of one that is so already, its own memory."""
    return rows.double().cpu().numpy()


def _reciprocal(high: float, low: float) -> tuple[float, float]:
    """1 / (high + low), as a rounded part and what it lacks."""
    first = 1.0 / high
    return first, float((1 - Fraction(first) * (Fraction(high) + Fraction(low))) / Fraction(high))


def _store(place: Array, high: Array, low: Array) -> None:
    """Write double-double numbers and the split of their leading part to place (4, n)."""
    place[0] = high
    place[1] = low
    shifted = high * SPLITTER
    np.subtract(shifted, shifted - high, out=place[2])
    np.subtract(high, place[2], out=place[3])


def _chunk_sums(laid: Laid, coef: _Pair, largest: float) -> tuple[float, Array, Array]:
    """The sum of squares of a chunk, and leading and remaining part of its moments."""
    functions = laid.functions
    leading, rest = _sum_over(*_product(coef, functions), largest, 0)
    difference, error = two_sum(laid.y, -leading)
    error -= rest
    residual = difference + error
    error += difference - residual
    weighted = residual, error
    if laid.weight is not None:
        weighted = _product(_pair(*weighted), _pair(laid.weight, np.zeros_like(laid.weight)))
    most = float(np.abs(weighted[0]).max())
    return float(weighted[0] @ residual), *_sum_over(*_product(_pair(*weighted), functions), most, 1)
