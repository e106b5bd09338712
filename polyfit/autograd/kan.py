"""The layer of polynomials on all edges between inputs and outputs (KAN) as a pair of autograd Functions."""

from __future__ import annotations

from torch import Tensor

from polyfit import formula


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None, impl: str) -> Tensor:
    """`polyfit.formula.kan` for x (B, in), coef (degree, in, out) and bias (out,), differentiable."""
    return formula.kan(x, coef, bias, basis, squash)
