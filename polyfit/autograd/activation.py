"""An elementwise polynomial of each group of channels as a pair of autograd Functions."""

from __future__ import annotations

from torch import Tensor

from polyfit import formula
from polyfit.formula import Model


def activation(x: Tensor, coef: Tensor, model: Model, impl: str) -> Tensor:
    """p_g(x[o, g, i]) for x (outer, groups, inner) and coef (groups, degree + 1), differentiable, in the dtype of x.

    The dtype of coef is that of x or wider than a half type; it computes in the dtype that x computes in.
    """
    return formula.polyval(x, coef, model)
