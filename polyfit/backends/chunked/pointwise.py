"""The losses of few samples and their slopes, in numpy where it is exact and in place: see `short`.

The exponential, its relatives and the logarithm are numpy's: torch asks MKL for them, which wakes all its threads for a
thousand numbers. log1p and sinh are torch's, on the same memory, since those of numpy have vectors on few processors
only. There MKL takes several threads from some 4000 numbers on: a call takes a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.losses import (
    L1,
    MSE,
    BCEWithLogits,
    Cauchy,
    Huber,
    LogCosh,
    Loss,
    PoissonNLL,
    Quantile,
    SmoothL1,
    within,
)

Array = NDArray[Any]


class Row(NamedTuple):
    """Numbers as an array of numpy, and as a tensor of the same memory."""

    array: Array
    tensor: Tensor


class Terms(NamedTuple):
    """How slopes and losses follow from s and the residuals r: the slopes are factor s, the losses s (r - share s).

    Attributes:
        factor: see above.
        share: see above; None where s is r, and the losses are its squares.
    """

    factor: float
    share: float | None


def fill(loss: Loss, p: Row, y: Array, other: Row, *, with_slopes: bool = True) -> Terms | None:
    """Write s over p, for predictions p and targets y (N,), and to `other` the residuals or the losses.

    Without slopes, p may hold anything where `other` holds the losses.

    Nothing here selects by a condition: neither library has vectors for it, and on mixed data it takes ten times as
    long as a product.

    Returns:
        None where `other` holds the losses, and s are the slopes dl/dp. Otherwise `other` holds the residuals: products
        of rows give the sum of the losses. (For squares it holds nothing yet.)
    """
    if isinstance(loss, MSE):
        np.subtract(p.array, y, out=p.array)
        return Terms(2.0, None)
    if type(loss) in _OF_RESIDUALS:
        return Terms(1.0, _slopes_of_residuals(loss, p, y, other.array))
    function = _FUNCTIONS.get(type(loss))
    if function is None or not function(loss, p, y, other, with_slopes):
        targets = torch.from_numpy(y)
        other.tensor.copy_(loss.value(p.tensor, targets))
        if with_slopes:
            loss.slope_(p.tensor, targets)
    return None


def _slopes_of_residuals(loss: Loss, p: Row, y: Array, residual: Array) -> float:
    """Write residuals, and slopes over p; the share of `Terms`."""
    slope = p.array
    np.subtract(slope, y, out=residual)
    if isinstance(loss, Huber):
        delta = within(loss.delta, p.tensor.dtype)
        np.maximum(residual, -delta, out=slope)
        np.minimum(slope, delta, out=slope)
        return 0.5
    if isinstance(loss, SmoothL1) and loss.beta > 0.0:
        beta = within(loss.beta, p.tensor.dtype)
        np.multiply(residual, 1.0 / beta, out=slope)
        np.maximum(slope, -1.0, out=slope)
        np.minimum(slope, 1.0, out=slope)
        return 0.5 * beta
    np.sign(residual, out=slope)  # of NaN it is NaN
    if isinstance(loss, Quantile):
        slope *= 0.5
        for part in loss.middle(p.tensor.dtype):
            slope += part
    return 0.0


_BLOCK = 2048


def _apply(function: Callable[[Tensor], object], row: Tensor) -> None:
    """Apply a function that works in place, a block at a time."""
    row = row.view(-1)
    if row.shape[0] <= _BLOCK:
        function(row)
        return
    for block in row.split(_BLOCK):
        function(block)


# Each of the others writes the losses, and with_slopes the slopes over p, and returns True; or it returns False, and p
# still holds the predictions.


def _log_cosh(_: LogCosh, p: Row, y: Array, losses: Row, with_slopes: bool) -> bool:
    """The logarithm of cosh(r) = 1 + 2 sinh(r / 2)**2 has all digits near zero; beyond `far` it is a straight line."""
    residual, values = np.subtract(p.array, y, out=p.array), losses.array
    far = 20.0 if values.dtype == np.float64 else 10.0  # exp(-2 far) is below half an ulp
    size = np.abs(residual)
    np.minimum(size, far, out=values)
    size -= values
    values *= 0.5
    _apply(Tensor.sinh_, losses.tensor)
    values *= values
    values *= 2.0
    _apply(Tensor.log1p_, losses.tensor)
    values += size
    if with_slopes:
        np.tanh(residual, out=residual)
    return True


def _bce_with_logits(loss: BCEWithLogits, p: Row, y: Array, losses: Row, with_slopes: bool) -> bool:
    """The loss (1 - y) (max(p, 0) + L) + w y (max(-p, 0) + L) with L = log(1 + exp(-abs(p))) and w = pos_weight."""
    logits, values = p.array, losses.array
    is_plain = loss.pos_weight == 1.0
    np.copysign(logits, -1.0, out=values)
    np.exp(values, out=values)
    _apply(Tensor.log1p_, losses.tensor)
    of_one, of_zero = y if is_plain else loss.pos_weight * y, 1.0 - y
    if not is_plain:
        values *= of_one + of_zero
    part = np.maximum(logits, 0.0)
    part *= of_zero
    values += part
    np.minimum(logits, 0.0, out=part)
    part *= of_one
    values -= part
    if not with_slopes:
        return True
    np.negative(logits, out=part)
    torch.from_numpy(part).sigmoid_()
    part *= of_one
    p.tensor.sigmoid_()
    logits *= of_zero
    logits -= part
    return True


def _poisson_nll(loss: PoissonNLL, p: Row, y: Array, losses: Row, with_slopes: bool) -> bool:
    if loss.full:
        return False
    predictions, values = p.array, losses.array
    if loss.log_input:
        np.multiply(predictions, y, out=values)
        np.exp(predictions, out=predictions)
        np.subtract(predictions, values, out=values)
        if with_slopes:
            predictions -= y
        return True
    rates = predictions + loss.eps
    np.copyto(values, rates)
    np.log(values, out=values)
    values *= y
    np.subtract(predictions, values, out=values)
    if with_slopes:
        np.divide(y, rates, out=predictions)
        np.subtract(1.0, predictions, out=predictions)
    return True


def _cauchy(loss: Cauchy, p: Row, y: Array, losses: Row, with_slopes: bool) -> bool:
    if not 1e-6 < loss.scale < 1e6:  # its square has to stay among the normal numbers
        return False
    residual = p.array - y
    ratio = residual * (1.0 / loss.scale)
    ratio *= ratio
    if not ratio.max() < 1e30:
        return False
    values = losses.array
    np.copyto(values, ratio)
    _apply(Tensor.log1p_, losses.tensor)
    values *= 0.5 * loss.scale * loss.scale
    if with_slopes:
        ratio += 1.0
        np.divide(residual, ratio, out=p.array)
    return True


_OF_RESIDUALS = {L1, Huber, SmoothL1, Quantile}
_FUNCTIONS: dict[type[Loss], Callable[[Any, Row, Array, Row, bool], bool]] = {
    LogCosh: _log_cosh,
    BCEWithLogits: _bce_with_logits,
    PoissonNLL: _poisson_nll,
    Cauchy: _cauchy,
}
