"""Error-free transformations: sums and products of float64 numbers, kept together with what their rounding left out.

Numbers are Python's, arrays of numpy or tensors alike.

They hold for plain IEEE arithmetic, an operation at a time. A compiler that contracts ``a * b + c`` breaks what they
rest on: nothing here may be traced into a fused loop.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Scalars of numpy go with its arrays.
Number = TypeVar("Number", float, NDArray[np.float64], Tensor)
SPLITTER = 2.0**27 + 1.0


def two_sum(a: Number, b: Number) -> tuple[Number, Number]:
    """The sum, rounded, and what the rounding left out (Knuth; Ogita, Rump & Oishi 2005, algorithm 3.1)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def split(a: Number) -> tuple[Number, Number]:
    """A number as a sum of two of 26 bits (Veltkamp; Ogita, Rump & Oishi 2005, algorithm 3.2)."""
    shifted = a * SPLITTER
    high = shifted - (shifted - a)
    return high, a - high


def two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The product, rounded, and what the rounding left out (Dekker; Ogita, Rump & Oishi 2005, algorithm 3.3)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = split(a), split(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def distil(terms: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the last axis, rounded in pairs, and along the last axis the errors of all these roundings."""
    errors = [terms[..., :0]]
    while (width := terms.shape[-1]) > 1:
        half = width // 2
        total, error = two_sum(terms[..., :half], terms[..., half : 2 * half])
        errors.append(error)
        terms = torch.cat((total, terms[..., 2 * half :]), -1)
    return terms[..., 0], torch.cat(errors, -1)


# --- double-double numbers: unevaluated sums (high, low) of two, |low| at most half an ulp of high ---

Pair = tuple[Tensor, Tensor]


def add_pairs(a: Pair, b: Pair) -> Pair:
    """The sum of two double-double numbers, good to 2**-104 where it does not cancel."""
    total, error = two_sum(a[0], b[0])
    error = error + (a[1] + b[1])
    high = total + error
    return high, error - (high - total)


def multiply_pairs(a: Pair, b: Pair) -> Pair:
    """The product of two double-double numbers, good to 2**-102."""
    product, error = two_product(a[0], b[0])
    error = error + (a[0] * b[1] + a[1] * b[0])
    high = product + error
    return high, error - (high - product)
