"""Polynomials as text: read back, the text gives the polynomial to the digits asked for."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfit.bases import BASES
from polyfit.bases.formatting import format_polynomial, format_series, format_shift, format_terms, origin_and_scale


def parsed(text: str, variable: str) -> list[float]:
    """Coefficients of the text, read term by term."""
    coef, names = read_sum(text)
    assert names == [variable if power == 1 else f"{variable}^{power}" for power in range(1, len(coef))]
    return coef


def read_sum(text: str) -> tuple[list[float], list[str]]:
    """Coefficients of the text, read term by term, and the functions that follow the constant."""
    left, right = text.split(" = ")
    assert left == "y"
    constant, *terms = re.split(r" (?=[+-] )", right)
    coef, names = [float(constant)], []
    for term in terms:
        sign, size, name = term.split(" ")
        coef.append(float(sign + size))
        names.append(name)
    return coef, names


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


SYMBOLS = {"chebyshev": "T", "legendre": "P", "hermite": "H", "hermite_e": "He", "laguerre": "L"}


@pytest.mark.parametrize("basis", SYMBOLS)
def test_terms_name_the_functions_of_the_basis(basis):
    coef, names = read_sum(format_terms([0.5, -2.0, 0.0, 3.0], basis, "s"))
    assert coef == [0.5, -2.0, 0.0, 3.0]
    assert names == [f"{SYMBOLS[basis]}_{k}(s)" for k in (1, 2, 3)]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("domain", [(0.0, 10.0), (-3.0, -1.0), (1.7e9, 1.7e9 + 60), (0.1, 0.3)])
def test_origin_and_scale_take_the_domain_to_the_window(basis, domain):
    origin, scale = map(Fraction, origin_and_scale(basis, domain))
    # The scale is right to two roundings, the origin to four of a number no larger than |lo| + scale.
    tolerance = 4 * 2.0**-53 * (abs(domain[0]) / scale + 2)
    ends = [float((Fraction(bound) - origin) / scale) for bound in domain]
    assert ends == pytest.approx(BASES[basis].window, rel=0, abs=float(tolerance))


def test_a_domain_wider_than_the_largest_number_has_a_scale():
    assert origin_and_scale("chebyshev", (-1.5e308, 1.5e308)) == (0.0, 1.5e308)


@pytest.mark.parametrize(
    ("basis", "domain", "text"),
    [
        ("chebyshev", None, "y = 1 - 2 T_1(x)"),
        ("chebyshev", (-1.0, 1.0), "y = 1 - 2 T_1(x)"),  # the window itself: t = x
        ("chebyshev", (-5.0, 5.0), "y = 1 - 2 T_1(t), t = x/5"),
        ("chebyshev", (-7.0, -3.0), "y = 1 - 2 T_1(t), t = (x + 5)/2"),
        ("laguerre", (2.0, 4.0), "y = 1 - 2 L_1(t), t = (x - 2)/2"),
        ("power", (0.0, 4.0), "y = 1 - 2 t, t = (x - 2)/2"),
        ("chebyshev", (0.4375, 87.875), "y = 1 - 2 T_1(t), t = (x - 44.15625)/43.71875"),
        ("chebyshev", (0.1, 1.1), "y = 1 - 2 T_1(t), t = (x - 0.6)/0.5"),
        ("chebyshev", (0.0, 2.0 / 3.0), "y = 1 - 2 T_1(t), t = (x - 0.333333333)/0.333333333"),
        # Six digits of the origin would lie outside the domain.
        ("power", (1700000000.0, 1700000060.0), "y = 1 - 2 t, t = (x - 1700000030)/30"),
    ],
)
def test_a_series_is_followed_by_its_map(basis, domain, text):
    assert format_series([1.0, -2.0], basis, domain) == text


def test_a_shift_is_a_sum_or_a_difference():
    assert [format_shift("x", origin, 3) for origin in (2 / 3, -2 / 3, 0.0)] == ["x - 0.667", "x + 0.667", "x - 0"]
