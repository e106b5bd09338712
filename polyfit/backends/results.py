"""What is wanted of a pass over the data, and what it gives: the records that all backends share."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Wants(NamedTuple):
    """Which gradients are wanted of a pass."""

    x: bool = False
    y: bool = False
    coef: bool = False
    weight: bool = False


class Gradients(NamedTuple):
    """Gradients of a reduced loss, each in the shape and the dtype of its operand; None where none was wanted."""

    x: Tensor | None
    y: Tensor | None
    coef: Tensor | None
    weight: Tensor | None


class LossSums(NamedTuple):
    """What one pass over the data gives of a loss; None for what was not wanted.

    Attributes:
        value: sum(w l) of each series, (S,) float64.
        total_weight: sum(w) of each series, (S,) float64; None without weights.
        grad_coef: gradient of the value to coef, (S, degree + 1) float64.
        grad_x: gradient to x, in the shape of x and the dtype that computes.
        grad_y: to y, likewise.
        grad_weight: to the weight, likewise.
    """

    value: Tensor | None
    total_weight: Tensor | None
    grad_coef: Tensor | None
    grad_x: Tensor | None
    grad_y: Tensor | None
    grad_weight: Tensor | None

    def scaled(self, scale: float) -> LossSums:
        """The same with the value, and its gradient to coef, times a number."""
        if scale == 1.0:
            return self
        value, grad_coef = (None if part is None else part * scale for part in (self.value, self.grad_coef))
        return self._replace(value=value, grad_coef=grad_coef)


class MomentSums(NamedTuple):
    """What the normal equations are made of: moments of the samples, and of the residuals r = y - p(x).

    Attributes:
        of_x: sum(w T_k), k = 0 .. 2 degree, (S, 2 degree + 1) float64, the first being the sum of the weights; None
            where it was not wanted.
        of_residuals: sum(w r T_k), k = 0 .. degree, (S, degree + 1) float64.
        squares: sum(w r**2), (S,) float64.
    """

    of_x: Tensor | None
    of_residuals: Tensor
    squares: Tensor
