"""Polynomials as readable text."""

from __future__ import annotations

from collections.abc import Sequence


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
