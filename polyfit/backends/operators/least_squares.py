"""The moments of samples and residuals on canonical operands."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.backends import chunked
from polyfit.backends.operators._plain import optional_rows, rows
from polyfit.backends.results import MomentSums
from polyfit.backends.select import autocast_is_off
from polyfit.bases import CHEBYSHEV, affine_map


@autocast_is_off
def moments(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    degree: int,
    domain: tuple[float, float] | None,
    coef: Tensor | None,
    impl: str,
    *,
    want_gram: bool = True,
) -> MomentSums:
    """Chebyshev moments of the samples and of their residuals about a polynomial, in float64.

    Args:
        x: (N,) or (S, N).
        y: likewise.
        weight: likewise, or None.
        degree: of the polynomials to fit.
        domain: the interval that is mapped onto [-1, 1], or None.
        coef: of the polynomial, (degree + 1,) or (S, degree + 1) float64 on the device of x, or None for zero.
        impl: resolved, "triton" or "torch".
        want_gram: whether the moments of x are wanted, which give the Gram matrix. A step of refinement needs only
            those of the residuals.
    """
    operands = (rows(x), rows(y), optional_rows(weight))
    coef_rows = optional_rows(coef)
    if impl == "triton":
        from polyfit.backends import triton

        return triton.moments(*operands, degree, domain, coef_rows, want_gram=want_gram)
    mapping = affine_map(domain, CHEBYSHEV, torch.float64)
    return chunked.moments(*operands, degree, mapping, coef_rows, want_gram=want_gram)
