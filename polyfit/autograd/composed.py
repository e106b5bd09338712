"""The loss as a composition: the values of the polynomial, the pointwise loss of each, and its reduction.

It serves what the one pass does not give: a loss of the user's own, the loss of each sample, second derivatives. All
parts are differentiable to any order; values and their gradients take one pass over the data each.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from polyfit import formula
from polyfit.autograd._torch import is_transformed
from polyfit.autograd.pointwise import pointwise
from polyfit.backends.select import is_traced
from polyfit.formula import Model, compute_dtype


def loss_of_each(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    model: Model,
    values: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The weighted loss of every sample, in the dtype that computes.

    Args:
        x: samples, in any shape that `values` takes, as coef; y and weight broadcast against the values.
        y: targets.
        coef: coefficients.
        weight: or None.
        model: basis, mapping and loss.
        values: p(x) as a function of x and coef.
    """
    dtype = compute_dtype(x.dtype)
    if not x.dtype == y.dtype == coef.dtype == dtype:  # a call that changes nothing takes 2 us
        x, y, coef = x.to(dtype), y.to(dtype), coef.to(dtype)
    weight = None if weight is None else weight.to(dtype)
    loss = pointwise(model.loss)  # pyright: ignore[reportArgumentType]
    is_out = None
    if weight is not None and not _has_no_zeros(weight):
        is_out = formula.left_out(x, y, coef, weight, model)
        x = formula.harmless(x, is_out, model)
    return formula.elementwise_loss(values(x, coef), y, weight, loss, is_out)


def _has_no_zeros(weight: Tensor) -> bool:
    """Whether no weight is zero, where it costs little to ask."""
    if is_transformed() or is_traced() or weight.device.type != "cpu":
        return False
    return bool(weight.all())


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    model: Model,
    reduction: str,
    n_losses: int | None,
    values: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The reduced loss of canonical operands, see `polyfit.formula.polynomial_loss`. `values`: as above."""
    terms = loss_of_each(x, y, coef, weight, model, values)
    total = formula.reduced(terms, weight, reduction, n_losses)
    return total if total.dtype == coef.dtype else total.to(coef.dtype)
