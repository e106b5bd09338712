"""Polynomial bases as plain data, and the map of a domain onto the window of a basis.

A basis is one three-term recurrence ::

    P_0 = 1,    P_{k+1}(t) = (a_k t + b_k) P_k(t) - c_k P_{k-1}(t)

and a window. With ``t`` the mapped sample, a series is ``sum_k coef[k] P_k(t)``. Names, windows and normalisations are
numpy.polynomial's.

The map of ``domain=(lo, hi)`` onto the window ``(wlo, whi)`` is affine. It is written so that it keeps its digits for a
domain that is narrow and far from zero, such as time stamps ::

    t = (x - center) * scale + shift

``center`` is the middle of the domain, rounded to the dtype that computes: the difference of two near values is exact.
``shift`` is the middle of the window, less the rounding error of ``center`` on the scale of the window.

Derivatives follow from the recurrence (`derivative_matrix`), in rational numbers that are rounded once, at the end.
`BASES` holds the bases by name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit._checks import check_choice, checked_degree
from polyfit.errorfree import in_float32


class RecurrenceStep(NamedTuple):
    """One step of the recurrence, ``P_{k+1} = (a t + b) P_k - c P_{k-1}``, in exact numbers."""

    a: Fraction
    b: Fraction
    c: Fraction


class SlopeStep(NamedTuple):
    """One step of the derivatives, ``P_{k+1}' = value P_k + slope P_k' + before P_{k-1}'``, in exact numbers."""

    value: Fraction
    slope: Fraction
    before: Fraction


@dataclass(frozen=True)
class Basis:
    """A family of polynomials.

    Attributes:
        name: the name in numpy.polynomial, in lower case.
        symbol: of its functions in text: "T" for T_k.
        numpy_class: the class of numpy.polynomial.
        window: the interval onto which numpy.polynomial maps a domain.
        recurrence: the step from P_k to P_{k+1}, for a k.
        slope: the step to P_{k+1}', for k >= 1. It takes one or two operations an element, where the derivative of the
            recurrence takes three.
    """

    name: str
    symbol: str
    numpy_class: str
    window: tuple[float, float]
    recurrence: Callable[[int], RecurrenceStep]
    slope: Callable[[int], SlopeStep]

    def steps(self, degree: int) -> tuple[tuple[float, float, float], ...]:
        """The ``degree`` steps up to P_degree, rounded to float64."""
        # A quotient of integers is rounded once, as float(a) is, which the compiler of torch 2.11 cannot trace.
        return tuple(
            tuple(number.numerator / number.denominator for number in self.recurrence(k))  # pyright: ignore[reportReturnType]
            for k in range(degree)
        )

    def slopes_at_ends(self, degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The derivatives P_0' .. P_degree' at the two ends of the window.

        >>> BASES["chebyshev"].slopes_at_ends(3)
        ((0.0, 1.0, -4.0, 9.0), (0.0, 1.0, 4.0, 9.0))
        """
        # The compiler of torch warns of a function with a cache.
        return (_slopes_at_ends if torch.compiler.is_compiling() else _known_slopes_at_ends)(self, degree)


def _slopes_at_ends(basis: Basis, degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`Basis.slopes_at_ends`, by the derivative of the recurrence in rational numbers that are rounded once."""
    ends = []
    for end in basis.window:
        t = Fraction(end)
        values, slopes = [Fraction(0), Fraction(1)], [Fraction(0), Fraction(0)]  # of P_{-1} and P_0
        for k in range(degree):
            a, b, c = basis.recurrence(k)
            slopes.append(a * values[-1] + (a * t + b) * slopes[-1] - c * slopes[-2])
            values.append((a * t + b) * values[-1] - c * values[-2])
        ends.append(tuple(slope.numerator / slope.denominator for slope in slopes[1:]))  # as in `Basis.steps`
    return ends[0], ends[1]


_known_slopes_at_ends = functools.cache(_slopes_at_ends)


def _step(a: int | Fraction, b: int | Fraction = 0, c: int | Fraction = 0) -> RecurrenceStep:
    return RecurrenceStep(Fraction(a), Fraction(b), Fraction(c))


def _legendre(k: int) -> RecurrenceStep:
    return _step(Fraction(2 * k + 1, k + 1), 0, Fraction(k, k + 1))


def _laguerre(k: int) -> RecurrenceStep:
    return _step(Fraction(-1, k + 1), Fraction(2 * k + 1, k + 1), Fraction(k, k + 1))


def _slope(value: int, slope: int = 0, before: int | Fraction = 0) -> SlopeStep:
    return SlopeStep(Fraction(value), Fraction(slope), Fraction(before))


def _chebyshev_slope(k: int) -> SlopeStep:
    return _slope(2 * (k + 1), 0, Fraction(k + 1, k - 1) if k > 1 else 1)  # P_0' = 0: any factor of it is right


# Recurrences and their derivatives: DLMF 18.9 (https://dlmf.nist.gov/18.9).
_ALL = (
    Basis("power", "", "Polynomial", (-1.0, 1.0), lambda k: _step(1), lambda k: _slope(k + 1)),
    Basis("chebyshev", "T", "Chebyshev", (-1.0, 1.0), lambda k: _step(2, 0, 1) if k else _step(1), _chebyshev_slope),
    Basis("legendre", "P", "Legendre", (-1.0, 1.0), _legendre, lambda k: _slope(2 * k + 1, 0, 1)),
    Basis("hermite", "H", "Hermite", (-1.0, 1.0), lambda k: _step(2, 0, 2 * k), lambda k: _slope(2 * (k + 1))),
    Basis("hermite_e", "He", "HermiteE", (-1.0, 1.0), lambda k: _step(1, 0, k), lambda k: _slope(k + 1)),
    Basis("laguerre", "L", "Laguerre", (0.0, 1.0), _laguerre, lambda k: _slope(-1, 1)),
)
# The registry: bases by name.
BASES = {basis.name: basis for basis in _ALL}
CHEBYSHEV = BASES["chebyshev"]


# Magnitudes x for which the domain (0, 2 x) can be mapped: 2 x is finite, and 1 / x too.
_SMALLEST, _LARGEST = 1e-290, 8e307


class AffineMap(NamedTuple):
    """The map ``t = (x - center) * scale + shift`` from a domain onto a window."""

    center: float
    scale: float
    shift: float


def resolve(basis: str) -> Basis:
    """The basis of that name.

    Raises:
        ValueError: no basis has that name.
    """
    check_choice("basis", basis, BASES)
    return BASES[basis]


def interval(domain: Sequence[float]) -> tuple[float, float]:
    """The two bounds of a domain, checked: finite and increasing."""
    try:
        lo, hi = (float(bound) for bound in domain)
    except (TypeError, ValueError):
        raise TypeError(f"domain={domain!r} is not a pair of numbers; pass (lo, hi) with lo < hi, or None") from None
    if not -math.inf < lo < hi < math.inf:  # math.isfinite is not for torch.compile, to which they may be symbols
        raise ValueError(f"domain=({lo!r}, {hi!r}) is not an interval; pass finite bounds with lo < hi")
    return lo, hi


def widened(lo: float, hi: float) -> tuple[float, float]:
    """The range of data. Data that are all one number get a range around it, with the number exactly in the middle."""
    if lo != hi:
        return lo, hi
    if not _SMALLEST < abs(lo) < _LARGEST:
        return lo - 1.0, lo + 1.0
    return (0.0, 2.0 * lo) if lo > 0.0 else (2.0 * lo, 0.0)


def affine_map(domain: Sequence[float] | None, basis: Basis, dtype: torch.dtype) -> AffineMap | None:
    """The map of ``domain`` onto the basis's window for computing in ``dtype``, or None where there is none.

    Raises:
        TypeError: ``domain`` is not a pair of numbers.
        ValueError: it is not finite, or not increasing.
    """
    if domain is None:
        return None
    lo, hi = interval(domain)
    window_lo, window_hi = basis.window
    # Halves first: hi - lo overflows for bounds near the largest finite number.
    half_width = 0.5 * hi - 0.5 * lo
    middle = 0.5 * lo + 0.5 * hi
    scale = 0.5 * (window_hi - window_lo) / half_width if half_width > 0.0 else math.inf
    info = torch.finfo(dtype)
    # One over the largest float64 lacks 2 bits, as numbers below `tiny` do. Processors may take such a float32 for 0.
    smallest = info.tiny / 4 if dtype == torch.float64 else info.tiny
    if not (smallest <= scale <= info.max and -info.max <= middle <= info.max):
        raise ValueError(
            f"domain=({lo!r}, {hi!r}) is too narrow or too wide to be mapped in {dtype}; rescale x and the domain"
        )
    center = middle if dtype == torch.float64 else in_float32(middle)
    # (lo - center) and (hi - center) round once each; their mean is the rounding error of `center`.
    lost = 0.5 * (lo - center) + 0.5 * (hi - center)
    return AffineMap(center, scale, 0.5 * (window_lo + window_hi) - lost * scale)


# --- exact matrices ---


def times_t(basis: Basis, series: list[Fraction]) -> list[Fraction]:
    """A series times t: the recurrence, solved for ``t P_j = (P_{j+1} - b_j P_j + c_j P_{j-1}) / a_j``."""
    product = [Fraction(0)] * (len(series) + 1)
    for j, value in enumerate(series):
        if value:
            a, b, c = basis.recurrence(j)
            product[j + 1] += value / a
            if b:
                product[j] -= value * b / a
            if c and j:
                product[j - 1] += value * c / a
    return product


def combine(*terms: tuple[Fraction, list[Fraction]]) -> list[Fraction]:
    """The sum of factor times series."""
    total = [Fraction(0)] * max(len(series) for _, series in terms)
    for factor, series in terms:
        if factor:
            for j, value in enumerate(series):
                total[j] += factor * value
    return total


@functools.lru_cache(maxsize=64)
def _derivative_rows(basis: Basis, degree: int) -> tuple[tuple[float, ...], ...]:
    """`derivative_matrix`, each entry rounded once."""
    columns = [[Fraction(0)]]
    for k in range(degree):
        a, b, c = basis.recurrence(k)
        itself = [Fraction(0)] * k + [Fraction(1)]  # P_k
        slope = columns[k]
        columns.append(
            combine((a, itself), (a, times_t(basis, slope)), (b, slope), (-c, columns[k - 1] if k else slope))[: k + 1]
        )
    return tuple(tuple(float(column[j]) if j < len(column) else 0.0 for column in columns) for j in range(degree))


def derivative_matrix(basis: Basis, degree: int) -> Tensor:
    r"""The matrix D that differentiates a series of ``degree``.

    .. math:: \frac{d}{dt} \sum_k c_k P_k(t) = \sum_j (D c)_j \, P_j(t)

    Args:
        basis: one of `BASES`, from `resolve`.
        degree: of the series, at least 0.

    Returns:
        A new tensor, float64, shape ``(degree, degree + 1)``, on the CPU. Entries are rational numbers rounded once.
        The derivative is with respect to t. For a mapped domain multiply by ``AffineMap.scale`` to get the one to x.

    Raises:
        TypeError: ``degree`` is not a whole number.
        ValueError: ``degree`` is negative.

    >>> derivative_matrix(BASES["chebyshev"], 3)  # T_1' = T_0, T_2' = 4 T_1, T_3' = 3 T_0 + 6 T_2
    tensor([[0., 1., 0., 3.],
            [0., 0., 4., 0.],
            [0., 0., 0., 6.]], dtype=torch.float64)

    References:
        The derivative of the recurrence, ``P'_{k+1} = a_k P_k + (a_k t + b_k) P'_k - c_k P'_{k-1}``;
        numpy.polynomial's polyder, chebder and so on for what it does to coefficients.
    """
    degree = checked_degree(degree)  # a constant from here on, also where it is of a shape that a compiler traces
    # The numbers are cached and not the tensor: a caller may write to the tensor.
    rows = torch.tensor(_derivative_rows(basis, degree), dtype=torch.float64, device="cpu")
    return rows.reshape(degree, degree + 1)
