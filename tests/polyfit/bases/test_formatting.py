"""`format_polynomial`: the text says the polynomial, to the digits asked for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfit.bases.formatting import format_polynomial


def parsed(text: str, variable: str) -> list[float]:
    """Coefficients of the text, read term by term."""
    left, right = text.split(" = ")
    assert left == "y"
    constant, *terms = re.split(r" (?=[+-] )", right)
    coef = [float(constant)]
    for power, term in enumerate(terms, start=1):
        sign, size, name = term.split(" ")
        assert name == (variable if power == 1 else f"{variable}^{power}")
        coef.append(float(sign + size))
    return coef


@pytest.mark.parametrize(
    ("coef", "text"),
    [
        ([3.0], "y = 3"),
        ([-0.5], "y = -0.5"),
        ([0.0, 1.0], "y = 0 + 1 x"),
        ([1.0, -2.0, 3.0, -4.0], "y = 1 - 2 x + 3 x^2 - 4 x^3"),
        ([0.0, 0.0, -0.25], "y = 0 + 0 x - 0.25 x^2"),
        ([1234567.0, -1.234567e-8], "y = 1.23457e+06 - 1.23457e-08 x"),
    ],
)
def test_terms_stand_lowest_degree_first_with_their_signs(coef, text):
    assert format_polynomial(coef) == text


def test_variable_and_digits_are_those_asked_for():
    assert format_polynomial([2 / 3, -2 / 3, 2 / 3], "t", digits=3) == "y = 0.667 - 0.667 t + 0.667 t^2"


# Subnormal numbers have fewer digits than are asked for.
@given(
    coef=st.lists(st.floats(-1e300, 1e300, allow_subnormal=False), min_size=1, max_size=25),
    digits=st.integers(1, 17),
)
def test_text_holds_every_coefficient_to_the_digits_asked_for(coef, digits):
    # Half a unit of the last digit, and what reading the decimals back rounds.
    tolerance = 0.5 * 10.0 ** (1 - digits) + 2.0**-53
    assert parsed(format_polynomial(coef, "t", digits), "t") == pytest.approx(coef, rel=tolerance, abs=0)
