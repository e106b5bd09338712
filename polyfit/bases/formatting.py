"""Polynomials as readable text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from polyfit.bases.definition import BASES

# Decimal digits that tell all float64 numbers apart.
_ALL_DIGITS = 17
_MORE_DIGITS_OF_MAP = 3
_SYMBOLS = {"chebyshev": "T", "legendre": "P", "hermite": "H", "hermite_e": "He", "laguerre": "L"}


def format_polynomial(coef: Sequence[float], variable: str = "x", digits: int = 6) -> str:
    """Write a polynomial in the power basis as ``y = a + b x + c x^2``.

    Args:
        coef: coefficients, lowest degree first.
        variable: the name of the variable.
        digits: significant digits.

    >>> format_polynomial([0.5, -2.0, 0.25])
    'y = 0.5 - 2 x + 0.25 x^2'
    >>> format_polynomial([-1.0, 0.0, 1e-7], "t")
    'y = -1 + 0 t + 1e-07 t^2'
    """
    powers = (variable if k == 1 else f"{variable}^{k}" for k in range(1, len(coef)))
    return _format_sum(coef, powers, digits)


def format_terms(coef: Sequence[float], basis: str, variable: str = "t", digits: int = 6) -> str:
    """Write a series of any basis in its variable t, without the map from x to t.

    Args:
        coef: coefficients, lowest degree first.
        basis: the basis of the coefficients.
        variable: the name of the variable.
        digits: significant digits.

    >>> format_terms([0.5, -2.0, 0.25], "chebyshev")
    'y = 0.5 - 2 T_1(t) + 0.25 T_2(t)'
    >>> format_terms([0.5, -2.0, 0.25], "power")
    'y = 0.5 - 2 t + 0.25 t^2'
    """
    if basis == "power":
        return format_polynomial(coef, variable, digits)
    functions = (f"{_SYMBOLS[basis]}_{k}({variable})" for k in range(1, len(coef)))
    return _format_sum(coef, functions, digits)


def format_shift(variable: str, origin: float, digits: int = 6) -> str:
    """Write ``variable - origin``.

    >>> format_shift("x", 5.0), format_shift("x", -5.0)
    ('x - 5', 'x + 5')
    """
    return f"{variable} {'-' if origin >= 0.0 else '+'} {abs(origin):.{digits}g}"


def origin_and_scale(basis: str, domain: tuple[float, float]) -> tuple[float, float]:
    """The map from the domain onto the window of the basis, as the two numbers in ``t = (x - origin) / scale``.

    >>> origin_and_scale("chebyshev", (0.0, 10.0))
    (5.0, 5.0)
    """
    (lo, hi), (window_lo, window_hi) = domain, BASES[basis].window
    scale = (0.5 * hi - 0.5 * lo) / (0.5 * (window_hi - window_lo))  # halves first: hi - lo may overflow
    return lo - scale * window_lo, scale


def format_series(coef: Sequence[float], basis: str, domain: tuple[float, float] | None, digits: int = 6) -> str:
    """Write a series of any basis and, where its domain is mapped, the map from x to t.

    Args:
        coef: coefficients, lowest degree first.
        basis: the basis of the coefficients.
        domain: the interval that is mapped onto the window of the basis, or None for t = x.
        digits: significant digits of the coefficients. The map has three more, as its error grows with the degree.

    >>> format_series([0.5, -2.0, 0.25], "chebyshev", (0.0, 10.0))
    'y = 0.5 - 2 T_1(t) + 0.25 T_2(t), t = (x - 5)/5'
    >>> format_series([0.5, -2.0, 0.25], "power", None)
    'y = 0.5 - 2 x + 0.25 x^2'
    """
    if domain is None or domain == BASES[basis].window:
        return format_terms(coef, basis, "x", digits)
    origin, scale = origin_and_scale(basis, domain)
    # A relative error of t becomes one of up to degree**2 times as much in T_k(t) (Markov). The digits of the origin
    # are counted from those of the scale.
    places = digits + _MORE_DIGITS_OF_MAP
    of_origin = places + math.ceil(math.log10(max(abs(origin) / scale, 1.0)))
    shifted = "x" if origin == 0.0 else f"({format_shift('x', origin, min(of_origin, _ALL_DIGITS))})"
    return f"{format_terms(coef, basis, 't', digits)}, t = {shifted}/{scale:.{min(places, _ALL_DIGITS)}g}"


def _format_sum(coef: Sequence[float], functions: Iterable[str], digits: int) -> str:
    """Write ``y = c0 + c1 f1 - c2 f2`` from the coefficients and the names f1, f2, ... of the functions."""
    terms = [
        f" {'-' if value < 0 else '+'} {abs(value):.{digits}g} {function}"
        for value, function in zip(coef[1:], functions, strict=True)
    ]
    return f"y = {coef[0]:.{digits}g}" + "".join(terms)
