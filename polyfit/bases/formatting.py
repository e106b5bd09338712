"""Polynomials as readable text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from polyfit.bases.definition import BASES


def format_polynomial(coef: Sequence[float], variable: str = "x", digits: int = 6) -> str:
    """A polynomial in the power basis as ``y = a + b x + c x^2``, lowest degree first.

    Args:
        coef: coefficients, lowest degree first.
        variable: the name of the variable.
        digits: significant digits.

    >>> format_polynomial([0.5, -2.0, 0.25])
    'y = 0.5 - 2 x + 0.25 x^2'
    >>> format_polynomial([-1.0, 0.0, 1e-7], "t")
    'y = -1 + 0 t + 1e-07 t^2'
    """
    text = f"y = {coef[0]:.{digits}g}"
    for power, value in enumerate(coef[1:], start=1):
        sign = "-" if value < 0 else "+"
        text += f" {sign} {abs(value):.{digits}g} {variable}" + (f"^{power}" if power > 1 else "")
    return text


_SYMBOLS = {"chebyshev": "T", "legendre": "P", "hermite": "H", "hermite_e": "He", "laguerre": "L"}


def format_series(coef: Sequence[float], basis: str, domain: tuple[float, float] | None, digits: int = 6) -> str:
    """A series of any basis, and below which map of x it is one.

    Args:
        coef: coefficients, lowest degree first.
        basis: their basis.
        domain: what is mapped onto the window of the basis, or None.
        digits: significant digits.

    >>> format_series([0.5, -2.0, 0.25], "chebyshev", (0.0, 10.0))
    'y = 0.5 - 2 T_1(t) + 0.25 T_2(t), t = (x - 5)/5'
    >>> format_series([0.5, -2.0, 0.25], "power", None)
    'y = 0.5 - 2 x + 0.25 x^2'
    """
    basis_window = BASES[basis].window
    is_mapped = domain is not None and domain != basis_window
    variable = "t" if is_mapped else "x"
    if basis == "power":
        text = format_polynomial(coef, variable, digits)
    else:
        text = f"y = {coef[0]:.{digits}g}"
        for k, value in enumerate(coef[1:], start=1):
            sign = "-" if value < 0 else "+"
            text += f" {sign} {abs(value):.{digits}g} {_SYMBOLS[basis]}_{k}({variable})"
    if domain is None or not is_mapped:
        return text
    (lo, hi), (window_lo, window_hi) = domain, basis_window
    half = 0.5 * hi - 0.5 * lo  # halves first: hi - lo may overflow
    scale = half / (0.5 * (window_hi - window_lo))
    origin = lo - scale * window_lo  # where t is 0
    # Enough digits of the origin that it is right to a thousandth of the domain.
    places = max(digits, math.ceil(math.log10(max(abs(origin) / half, 1.0))) + 4)
    sign = "-" if origin >= 0 else "+"
    shifted = "x" if origin == 0.0 else f"(x {sign} {abs(origin):.{places}g})"
    return f"{text}, t = {shifted}/{scale:.{digits}g}"
