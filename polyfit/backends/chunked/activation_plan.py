"""What the passes of an elementwise polynomial compute, as far as it is known before x and the coefficients are.

The functions of a basis are scaled, so that a step of the recurrence is one operation in place ::

    W_0 = 1,    W_1 = v + b_0,    W_{k+1} = W_{k-1} + (a_k v + b_k) W_k,    P_k = factor_k W_k

for v = t / scale: the map from the domain costs nothing where it is centred. The recurrence is linear, so that it may
start from the incoming gradient g in place of 1. The terms g W_k give all: their sums the gradient to the coefficients,
and their combination with the coefficients of the derivative the gradient to x.

With e = u - v, the samples less their nearest points of the window, "linear" needs two sums more, those of g e and of
g |e|: above the window e is (e + |e|) / 2, and below it (e - |e|) / 2.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.bases import BASES, AffineMap, derivative_matrix

# Up to this degree values are found by Horner's rule in powers of v. In float32 it is exact to 4 eps of the range of
# the polynomial at degree 5, and to 49 at degree 8.
LARGEST_HORNER = 5
# The powers of v that occur are between 2**-30 and 2**30. With a larger or smaller scale, v is t.
_LARGEST_EXPONENT = 30.0


class Step(NamedTuple):
    """W_{k+1} = (W_{k-1} if it is added) + (a v + b) W_k."""

    a: float
    b: float
    adds: bool


class Plan(NamedTuple):
    """What is known before x and the coefficients are.

    Attributes:
        center: subtracted from x.
        factor: of x - center. It is 1 where it is part of v.
        shift: added to that. The result is u, and v is u in the window.
        window: in the units of v, or None.
        is_clamped: whether the slope is 0 outside of the window.
        continues: whether lines continue the polynomial.
        steps: to W_1 .. W_degree.
        to_values: takes coefficients to what multiplies W_k, or, up to `LARGEST_HORNER`, v**k, and in two more columns
            to the slopes below and above the window.
        to_slopes: takes them to what multiplies W_k in dp/dv = dp/dx.
        factors: of W_k in P_k.
        of_e: factors of the sums of g e and of g |e| in the gradients to the coefficients, (degree + 1, 2, 1).
    """

    center: float
    factor: float
    shift: float
    window: tuple[float, float] | None
    is_clamped: bool
    continues: bool
    steps: tuple[Step, ...]
    to_values: Tensor
    to_slopes: Tensor
    factors: Tensor
    of_e: Tensor


@functools.lru_cache(maxsize=256)
def plan_of(basis: str, degree: int, mapping: AffineMap | None, outside: str, dtype: torch.dtype) -> Plan:
    """The plan for polynomials of a degree, in the dtype that computes."""
    own = BASES[basis]
    if outside == "linear" and degree <= 1:
        outside = "extend"  # a line continues itself
    center, scale, shift = (0.0, 1.0, 0.0) if mapping is None else mapping
    factor = 1.0
    if max(degree, 2) * abs(math.log2(scale)) > _LARGEST_EXPONENT:
        factor, scale = scale, 1.0
    window = torch.tensor(own.window, dtype=torch.float64, device="cpu").div_(scale).to(dtype)
    factors, steps = [1.0], []
    for k, (a, b, c) in enumerate(own.steps(degree)):
        # Of W in P: chosen so that W_1 and powers begin with v, and all others with W_{k-1}.
        adds = k > 0 and c != 0.0
        factors.append(-factors[k - 1] * c if adds else factors[k] * a * scale)
        ratio = factors[k] / factors[k + 1]
        steps.append(Step(a * scale * ratio, b * ratio, adds))
    ends = torch.tensor(own.slopes_at_ends(degree), dtype=torch.float64, device="cpu").t() * scale
    per_w = torch.tensor(factors, dtype=torch.float64, device="cpu")
    in_powers = _in_powers(basis, degree, scale) if degree <= LARGEST_HORNER else torch.diag(per_w)
    return Plan(
        center,
        factor,
        shift / scale,
        None if outside == "extend" else tuple(window.tolist()),
        outside == "clamp",
        outside == "linear",
        tuple(steps),
        torch.cat((in_powers, ends), 1),
        (derivative_matrix(own, degree) * scale * factor).t() * per_w[:-1],
        per_w,
        torch.stack((ends.sum(1), ends[:, 1] - ends[:, 0]), 1).unsqueeze(-1) * 0.5,
    )


def _in_powers(basis: str, degree: int, scale: float) -> Tensor:
    """Row k: P_k(scale v) in powers of v."""
    rows = [[Fraction(1)]]
    for k in range(degree):
        a, b, c = BASES[basis].recurrence(k)
        after = [Fraction(0)] * (k + 2)
        for j, value in enumerate(rows[k]):
            after[j + 1] += a * value
            after[j] += b * value
        for j, value in enumerate(rows[k - 1] if k else ()):
            after[j] -= c * value
        rows.append(after)
    padded = [
        [float(value) * scale**j for j, value in enumerate(row)] + [0.0] * (degree + 1 - len(row)) for row in rows
    ]
    return torch.tensor(padded, dtype=torch.float64, device="cpu")
