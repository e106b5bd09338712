"""What a polynomial basis is, and how a domain maps onto its window.

A basis is plain data. With ``t`` the mapped sample, a series is ``sum_k coef[k] P_k(t)``; for the power basis
``P_k(t) = t**k``. Names and windows are numpy.polynomial's.

The map of ``domain=(lo, hi)`` onto the window ``(wlo, whi)`` is affine and written so that it keeps its digits when the
domain is narrow and far from zero (a time stamp, say)::

    t = (x - center) * scale + shift

``center`` is the middle of the domain rounded to the dtype that computes, so that the subtraction of two near values is
exact; ``shift`` carries what that rounding left out, and the middle of the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Basis:
    """A family of polynomials: its name and the window on which numpy.polynomial defines it."""

    name: str
    window: tuple[float, float]


POWER = Basis("power", (-1.0, 1.0))

BASES = {basis.name: basis for basis in (POWER,)}


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
    try:
        return BASES[basis]
    except (KeyError, TypeError):
        accepted = ", ".join(repr(name) for name in BASES)
        raise ValueError(f"basis={basis!r} is unknown; pass one of {accepted}") from None


def affine_map(domain: Sequence[float] | None, basis: Basis, dtype: torch.dtype) -> AffineMap | None:
    """The map of ``domain`` onto the basis's window for computing in ``dtype``, or None where there is none.

    Raises:
        TypeError: ``domain`` is not a pair of numbers.
        ValueError: it is not finite, or not increasing.
    """
    if domain is None:
        return None
    try:
        lo, hi = (float(bound) for bound in domain)
    except (TypeError, ValueError):
        raise TypeError(f"domain={domain!r} is not a pair of numbers; pass (lo, hi) with lo < hi, or None") from None
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise ValueError(f"domain=({lo!r}, {hi!r}) is not an interval; pass finite bounds with lo < hi")
    window_lo, window_hi = basis.window
    # Halves first: hi - lo overflows for bounds near the largest finite number.
    half_width = 0.5 * hi - 0.5 * lo
    middle = 0.5 * lo + 0.5 * hi
    scale = 0.5 * (window_hi - window_lo) / half_width if half_width > 0.0 else math.inf
    if not 0.0 < scale < torch.finfo(dtype).max:
        raise ValueError(
            f"domain=({lo!r}, {hi!r}) is too narrow or too wide to be mapped in {dtype}; rescale x and the domain"
        )
    center = torch.tensor(middle, dtype=dtype).item()
    # (lo - center) and (hi - center) round once each; their mean is the part of the middle that `center` lost.
    lost = 0.5 * (lo - center) + 0.5 * (hi - center)
    return AffineMap(center, scale, 0.5 * (window_lo + window_hi) - lost * scale)
