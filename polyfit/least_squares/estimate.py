"""The polynomial that a fit found, in the internal form that keeps all its digits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyfit import bases
from polyfit.bases import Interval
from polyfit.least_squares.algebra import Array


@dataclass(frozen=True, eq=False)
class Estimate:
    """A fit in Chebyshev polynomials on the range of its data, where it was made and keeps all its digits.

    All arrays are numpy's, in float64.

    Attributes:
        high: coefficients, (degree + 1,).
        low: what their rounding left out.
        domain: what is mapped onto [-1, 1].
        spread: a matrix (degree + 1, r) whose product with its transpose is the covariance, but for `variance`.
        null: orthonormal directions that the data leave open, (degree + 1, m); None where there is none.
        deviation: what multiplies the spread: the residual standard deviation, or one where sigma is absolute.
    """

    high: Array
    low: Array
    domain: Interval
    spread: Array
    null: Array | None
    deviation: float


def in_basis(high: Array, low: Array, basis: str, own: Interval, domain: Interval | None) -> Tensor:
    """Coefficients ``high + low`` of Chebyshev polynomials on `own` in another basis, (degree + 1,), rounded once."""
    if basis == "chebyshev" and domain == own:
        return torch.from_numpy(high + low)
    return bases.convert_sum(torch.from_numpy(high), torch.from_numpy(low), "chebyshev", basis, own, domain)
