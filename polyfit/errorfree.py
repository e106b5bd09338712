"""Error-free transformations: sums and products of float64 numbers, each with its rounding error as a second number.

All functions take Python floats, numpy arrays or tensors, unless their types say otherwise.

They need IEEE arithmetic, each operation rounded by itself. A compiler that contracts ``a * b + c`` to one operation
breaks them: do not trace them into a fused loop.

References:
    Ogita, Rump & Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A float64 scalar of numpy goes with its arrays.
Number = TypeVar("Number", float, NDArray[np.float64], Tensor)
# 2**27 + 1 splits the 53 bits of a float64 number into two halves of at most 26 bits and a sign (Veltkamp).
SPLITTER = 2.0**27 + 1.0


def two_sum(a: Number, b: Number) -> tuple[Number, Number]:
    """The rounded sum and its rounding error (Knuth; Ogita, Rump & Oishi, algorithm 3.1)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def in_float32(number: float) -> float:
    """A number rounded to 24 bits by Veltkamp's splitting (Dekker, Numer. Math. 18, 1971): torch.compile traces it."""
    shifted = (2.0**29 + 1.0) * number
    return shifted - (shifted - number)


def split(a: Number) -> tuple[Number, Number]:
    """A number as the sum of two numbers of 26 bits (Veltkamp; Ogita, Rump & Oishi, algorithm 3.2).

    It overflows for magnitudes above 2**996.
    """
    shifted = a * SPLITTER
    high = shifted - (shifted - a)
    return high, a - high


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded product and its rounding error (Dekker; Ogita, Rump & Oishi, algorithm 3.3)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = split(a), split(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def distil(terms: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the last axis, rounded at each step of a pairwise sum, and all rounding errors on the last axis."""
    errors = [terms[..., :0]]
    while (width := terms.shape[-1]) > 1:
        half = width // 2
        total, error = two_sum(terms[..., :half], terms[..., half : 2 * half])
        errors.append(error)
        terms = torch.cat((total, terms[..., 2 * half :]), -1)
    return terms[..., 0], torch.cat(errors, -1)


# --- double-double numbers ---

# An unevaluated sum (high, low) of two float64 tensors; low is at most half an ulp of high.
DoubleDouble = tuple[Tensor, Tensor]


def add_double_doubles(a: DoubleDouble, b: DoubleDouble) -> DoubleDouble:
    """The sum of two double-double numbers, with a relative error of 2**-104 where they do not cancel."""
    total, error = two_sum(a[0], b[0])
    error = error + (a[1] + b[1])
    high = total + error
    return high, error - (high - total)


def multiply_double_doubles(a: DoubleDouble, b: DoubleDouble) -> DoubleDouble:
    """The product of two double-double numbers, with a relative error of 2**-102."""
    product, error = two_product(a[0], b[0])
    error = error + (a[0] * b[1] + a[1] * b[0])
    high = product + error
    return high, error - (high - product)
