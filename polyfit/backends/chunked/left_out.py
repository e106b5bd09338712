"""Samples that are left out: those of weight zero, whatever else they hold.

The product of a weight of zero with NaN or infinity is NaN. So these samples are found first. Their x is then replaced
by a harmless one before the matrix of a part is filled, and their terms are set to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit import formula
from polyfit.formula import Model


def zeros(weight: Tensor | None) -> Tensor | None:
    """Where weights (S or 1, N) are zero; None if none is. On a GPU that is not asked: it would wait for the GPU."""
    if weight is None:
        return None
    return _if_any(weight == 0)


def _if_any(is_out: Tensor) -> Tensor | None:
    return None if is_out.device.type == "cpu" and not bool(is_out.any()) else is_out


def not_finite(is_out: Tensor, losses: Tensor) -> Tensor | None:
    """Those of the samples whose loss is not finite; None if there are none."""
    return _if_any(is_out & ~losses.isfinite())


def apart(x: Tensor, is_out: Tensor | None, degree: int, model: Model) -> tuple[Tensor, Tensor | None]:
    """The samples x (S or 1, N), and which of these are left out: one row for each row of x, or one for all.

    If series share x and leave different samples out, a matrix of basis functions serves them all only where its
    functions are finite. Otherwise each series gets a row of x.
    """
    if is_out is None or is_out.shape[0] == 1 or x.shape[0] > 1:
        return x, is_out
    if x.device.type == "cpu":
        by_all = is_out.all(0, keepdim=True)
        by_some = x[is_out.any(0, keepdim=True) & ~by_all]
        ones = torch.ones(degree + 1, dtype=formula.compute_dtype(x.dtype), device=x.device)
        if bool(formula.polyval(by_some, ones, model).isfinite().all()):
            return x, by_all
    return x.expand(is_out.shape[0], -1), is_out
