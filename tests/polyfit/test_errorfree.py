"""Error-free transformations against rational numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polyfit.errorfree import (
    DoubleDouble,
    add_double_doubles,
    distil,
    multiply_double_doubles,
    split,
    two_product,
    two_sum,
)

F64 = torch.float64
# Products of these, and the errors of the products, neither overflow nor underflow.
numbers = st.floats(min_value=2.0**-200, max_value=2.0**200) | st.floats(min_value=-(2.0**200), max_value=-(2.0**-200))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def exact(parts: Sequence[Tensor | float]) -> Fraction:
    """The sum of numbers, without a rounding."""
    return sum((Fraction(float(part)) for part in parts), Fraction(0))


@given(a=numbers, b=numbers)
def test_sum_and_product_are_their_two_parts(a, b):
    assert exact(two_sum(a, b)) == Fraction(a) + Fraction(b)
    assert two_sum(a, b)[0] == a + b
    assert exact(two_product(number(a), number(b))) == Fraction(a) * Fraction(b)
    assert float(two_product(number(a), number(b))[0]) == a * b


@given(a=numbers)
def test_halves_of_a_number_have_26_bits(a):
    high, low = split(a)
    assert exact((high, low)) == Fraction(a)
    for half in (high, low):
        mantissa = abs(Fraction(half).numerator)
        assert (mantissa >> ((mantissa & -mantissa).bit_length() - 1) if mantissa else 0) < 2**26


@given(values=st.lists(numbers, max_size=20))
def test_a_distilled_sum_loses_nothing(values):
    if not values:
        return
    total, errors = distil(torch.tensor(values, dtype=F64))
    assert exact((total, *errors)) == exact(values)


@pytest.mark.parametrize("kind", ["float", "array", "tensor"])
def test_all_kinds_of_numbers(kind):
    a, b = 1.0, 2.0**-60
    if kind == "float":
        assert two_sum(a, b) == (a, b)
    elif kind == "array":
        assert [part.tolist() for part in two_sum(np.array([a]), np.array([b]))] == [[a], [b]]
    else:
        assert [float(part) for part in two_sum(number(a), number(b))] == [a, b]


def double_double(high: float, part: float) -> DoubleDouble:
    """A number whose low part is a share of half an ulp of the high part."""
    return two_sum(number(high), number(part * high * 2.0**-53))


shares = st.floats(min_value=-0.99, max_value=0.99)


@given(a=numbers, b=numbers, shares=st.tuples(shares, shares))
def test_double_double_arithmetic(a, b, shares):
    first, second = double_double(a, shares[0]), double_double(b, shares[1])
    product = exact(first) * exact(second)
    assert abs(exact(multiply_double_doubles(first, second)) - product) <= abs(product) * Fraction(2) ** -102
    # Without cancellation.
    if a * b > 0:
        total = exact(first) + exact(second)
        assert abs(exact(add_double_doubles(first, second)) - total) <= abs(total) * Fraction(2) ** -104
