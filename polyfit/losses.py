"""Pointwise losses as plain data, with the names, parameters and defaults of torch.nn.functional.

``polynomial_loss(loss=...)`` takes an object of this module or its name, which stands for the defaults. With the
prediction p and the residual r = p - y:

============================  ==========================================================================
name                          loss
============================  ==========================================================================
mse                           r**2
l1                            abs(r)
huber(delta)                  r**2 / 2 where abs(r) <= delta, else delta (abs(r) - delta / 2)
smooth_l1(beta)               r**2 / (2 beta) where abs(r) < beta, else abs(r) - beta / 2
log_cosh                      log(cosh(r))
quantile(q)                   max(q (y - p), (q - 1) (y - p))
bce_with_logits(pos_weight)   (1 - y) log(1 + exp(p)) + pos_weight y log(1 + exp(-p))
poisson_nll(log_input, ...)   exp(p) - y p, or p - y log(p + eps); with full: + Stirling's term for y > 1
cauchy(scale)                 scale**2 / 2 log(1 + (r / scale)**2)
============================  ==========================================================================

`value` is differentiable PyTorch, made of operations that every transform supports. (torch's huber_loss has no second
derivative in forward mode, and its mse_loss fails under vmap.) `slopes` gives the derivatives to p and y in closed
form; at a kink they equal those of autograd of `value`. Large residuals and logits neither overflow nor lose their
digits. Where a residual is NaN, so are the loss and its derivatives.

`LOSSES` holds the losses by name, `kernel_variants` an object for each variant that a kernel compiles.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from polyfit._checks import check_choice, check_number
from polyfit.errorfree import in_float32


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)). torch's softplus is linear beyond 20, which in float64 is off by 2e-9."""
    return torch.logaddexp(x, torch.zeros_like(x))


def within(parameter: float, dtype: torch.dtype) -> float:
    """A positive parameter as a normal number of a dtype: the smallest or the largest for one beyond them."""
    info = torch.finfo(dtype)
    return min(max(parameter, info.tiny), info.max)


def _sign(residual: Tensor) -> Tensor:
    """The sign: zero at zero, NaN where the residual is NaN (for which torch.sign gives zero)."""
    return _with_nan_slope(torch.where(residual.isnan(), residual, torch.sign(residual)), residual)


def _sign_(residual: Tensor) -> Tensor:
    """The same, written over the residual: two products make any number but zero larger than 1 in size."""
    largest = torch.finfo(residual.dtype).max
    return residual.mul_(largest).mul_(largest).clamp_(-1.0, 1.0)


def _nan_of(residual: Tensor) -> Tensor:
    """Zero, with derivatives of zero; NaN, with derivatives of NaN, where the residual is NaN."""
    nan = torch.where(residual.isnan(), residual, 0.0)
    return nan * nan


def _with_nan_slope(slope: Tensor, residual: Tensor) -> Tensor:
    """A slope, with a derivative of NaN where the residual is NaN, if autograd records it."""
    return slope + _nan_of(residual) if residual.requires_grad and torch.is_grad_enabled() else slope


def _size(residual: Tensor) -> Tensor:
    """The absolute value, with a derivative of NaN where the residual is NaN (for which that of torch.abs is zero)."""
    return residual.abs() + _nan_of(residual)


@dataclass(frozen=True)
class Loss(abc.ABC):
    """A pointwise loss; see the subclasses. A loss of your own is a function of predictions and targets.

    Attributes:
        name: a key of `LOSSES`.
        parameter: the field whose value a kernel takes as an argument; None for a loss without one.
        is_product: what `slope_and_loss_` gives.
        is_of_residual: whether the loss is a function of p - y, and with it dl/dy = -dl/dp.
    """

    name: ClassVar[str] = ""
    parameter: ClassVar[str | None] = None
    is_product: ClassVar[bool] = False
    is_of_residual: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if cls.__module__ != __name__:
            raise TypeError(
                f"{cls.__name__} is a subclass of a loss of polyfit; these are final, since kernels know them by name:"
                " pass a function of predictions and targets as loss="
            )

    @classmethod
    def variants(cls) -> tuple[Loss, ...]:
        """An object for each variant that a kernel compiles."""
        return (cls(),)

    @property
    def inverse_link(self) -> str:
        """`to_scale_of_y` as text, for pictures and reports."""
        return "p"

    def to_scale_of_y(self, p: Tensor) -> Tensor:
        """The value of y that a prediction p stands for: p, a probability for a logit, a rate for its logarithm."""
        return p

    @property
    def kernel(self) -> tuple[str, float]:
        """The variant that a kernel compiles, and its parameter."""
        return self.name, 0.0 if self.parameter is None else getattr(self, self.parameter)

    @abc.abstractmethod
    def value(self, p: Tensor, y: Tensor) -> Tensor:
        """l(p, y) for tensors of one shape, differentiable."""

    @abc.abstractmethod
    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """dl/dp and dl/dy."""

    @abc.abstractmethod
    def curvature(self, p: Tensor, y: Tensor) -> Tensor:
        """The second derivative of l to p."""

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:
        """dl/dp alone, written over p."""
        return p.copy_(self.slopes(p, y)[0])

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:
        """Write dl/dp to `slope`, and over p the loss; or, with `is_product`, the factor f of l = f dl/dp.

        A sum of such losses is a dot product with the slopes. Both have the digits of `value` and of `slope_`.
        """
        value = self.value(p, y)
        self.slope_(slope.copy_(p), y)
        p.copy_(value)

    def loss_(self, p: Tensor, y: Tensor) -> None:
        """The loss alone, written over p."""
        p.copy_(self.value(p, y))


@dataclass(frozen=True)
class MSE(Loss):
    """Squared error: torch.nn.functional.mse_loss."""

    name: ClassVar[str] = "mse"

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102 - see Loss
        return torch.square(p - y)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        slope = 2.0 * (p - y)
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(p, 2.0)

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return p.sub_(y).mul_(2.0)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        torch.square(p.sub_(y), out=p)


@dataclass(frozen=True)
class L1(Loss):
    """Absolute error: torch.nn.functional.l1_loss. The derivative at zero is zero."""

    name: ClassVar[str] = "l1"
    is_product: ClassVar[bool] = True

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return _size(p - y)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        slope = _sign(p - y)
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return _nan_of(p - y)

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return _sign_(p.sub_(y))

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        _sign_(slope.copy_(p.sub_(y)))

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        p.sub_(y).abs_()


@dataclass(frozen=True)
class Huber(Loss):
    """Huber's loss: torch.nn.functional.huber_loss.

    Args:
        delta: residual at which the loss turns from a square to a line, positive.
    """

    delta: float = 1.0
    name: ClassVar[str] = "huber"
    is_product: ClassVar[bool] = True
    parameter: ClassVar[str | None] = "delta"

    def __post_init__(self) -> None:
        check_number("delta", self.delta, 0.0, is_open=True)

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        # With s the residual clamped to [-delta, delta]: r s - s**2 / 2.
        residual, delta = p - y, within(self.delta, p.dtype)
        slope = _with_nan_slope(residual.clamp(-delta, delta), residual)
        return slope * torch.sub(residual, slope, alpha=0.5)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        delta, residual = within(self.delta, p.dtype), p - y
        slope = _with_nan_slope(residual.clamp(-delta, delta), residual)
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        residual = p - y
        return _nan_of(residual) + (residual.abs() <= within(self.delta, p.dtype))

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        delta = within(self.delta, p.dtype)
        return p.sub_(y).clamp_(-delta, delta)

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        delta = within(self.delta, p.dtype)
        torch.clamp(p.sub_(y), -delta, delta, out=slope)
        p.sub_(slope, alpha=0.5)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        torch.ops.aten.huber_loss.out(p, y, 0, within(self.delta, p.dtype), out=p)  # each by itself


@dataclass(frozen=True)
class SmoothL1(Loss):
    """Huber's loss divided by beta: torch.nn.functional.smooth_l1_loss.

    Args:
        beta: residual at which the loss turns from a square to a line; 0 is `L1`.
    """

    beta: float = 1.0
    name: ClassVar[str] = "smooth_l1"
    is_product: ClassVar[bool] = True
    parameter: ClassVar[str | None] = "beta"

    def __post_init__(self) -> None:
        check_number("beta", self.beta, 0.0)

    @property
    def is_plain(self) -> bool:
        """Whether torch.nn.functional gives the digits: it divides the square by beta, which may overflow before."""
        return _SMALLEST_PLAIN <= self.beta <= 1.0 / _SMALLEST_PLAIN

    @property
    def kernel(self) -> tuple[str, float]:  # noqa: D102
        return ("l1", 0.0) if self.beta == 0 else (self.name, self.beta)

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        residual = p - y
        if self.beta == 0:
            return _size(residual)
        beta = within(self.beta, p.dtype)
        slope = _with_nan_slope((residual * (1.0 / beta)).clamp(-1.0, 1.0), residual)
        return slope * torch.sub(residual, slope, alpha=0.5 * beta)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        residual = p - y
        if self.beta == 0:
            slope = _sign(residual)
            return slope, -slope
        slope = (residual * (1.0 / within(self.beta, p.dtype))).clamp(-1.0, 1.0)
        slope = _with_nan_slope(slope, residual)
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        residual = p - y
        if self.beta == 0:
            return _nan_of(residual)
        beta = within(self.beta, p.dtype)
        return (_nan_of(residual) + (residual.abs() < beta)) * (1.0 / beta)

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        residual = p.sub_(y)
        if self.beta == 0:
            return _sign_(residual)
        return residual.mul_(1.0 / within(self.beta, p.dtype)).clamp_(-1.0, 1.0)

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        residual = p.sub_(y)
        if self.beta == 0:
            _sign_(slope.copy_(residual))
            return
        beta = within(self.beta, p.dtype)
        torch.mul(residual, 1.0 / beta, out=slope).clamp_(-1.0, 1.0)
        residual.sub_(slope, alpha=0.5 * beta)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        if self.beta == 0:
            p.sub_(y).abs_()
            return
        if self.is_plain:
            torch.ops.aten.smooth_l1_loss.out(p, y, 0, self.beta, out=p)  # each by itself
            return
        beta = within(self.beta, p.dtype)
        slope = torch.mul(p.sub_(y), 1.0 / beta).clamp_(-1.0, 1.0)
        p.sub_(slope, alpha=0.5 * beta).mul_(slope)


@dataclass(frozen=True)
class LogCosh(Loss):
    """Logarithm of the hyperbolic cosine, abs(r) + log(1 + exp(-2 abs(r))) - log(2)."""

    name: ClassVar[str] = "log_cosh"

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        residual = p - y
        is_near = residual.abs() < 0.5
        size = _size(torch.where(is_near, 1.0, residual))
        far = size + torch.log1p(torch.exp(-2.0 * size)) - math.log(2.0)
        # Near zero that cancels; half the logarithm of 1 + sinh(r)**2 does not.
        near = 0.5 * torch.log1p(torch.sinh(torch.where(is_near, residual, 0.0)) ** 2)
        return torch.where(is_near, near, far)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        slope = torch.tanh(p - y)
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        # Of exp(-2 abs(r)): 1 - tanh(r)**2 cancels for large residuals.
        decay = torch.exp(-2.0 * (p - y).abs())
        return 4.0 * decay / (1.0 + decay) ** 2

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return p.sub_(y).tanh_()

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        torch.sub(p, y, out=p)
        torch.tanh(p, out=slope)
        self._of_residual_(p)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        self._of_residual_(p.sub_(y))

    @staticmethod
    def _of_residual_(residual: Tensor) -> None:
        """The loss, written over the residuals."""
        # As log(1 + sinh(r)**2) / 2, whose square may overflow: from `limit` on the loss grows like abs(r).
        limit = 20.0 if residual.dtype == torch.float64 else 10.0  # exp(-2 limit) is below half an ulp of the loss
        near = residual.clamp(-limit, limit)
        residual.sub_(near).abs_()
        near.sinh_()
        residual.add_(near.mul_(near).log1p_(), alpha=0.5)


@dataclass(frozen=True)
class Quantile(Loss):
    """The pinball loss, whose minimiser is a quantile of y (Koenker and Bassett 1978).

    The derivative at zero is the mean of both sides, 1/2 - q, as autograd of torch.maximum has it.

    Args:
        q: which quantile, between 0 and 1.
    """

    q: float = 0.5
    name: ClassVar[str] = "quantile"
    is_product: ClassVar[bool] = True
    parameter: ClassVar[str | None] = "q"

    def __post_init__(self) -> None:
        check_number("q", self.q, 0.0, 1.0, is_open=True)

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        short = y - p
        return torch.maximum(self.q * short, (self.q - 1.0) * short) + _nan_of(short)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        slope = 0.5 * _sign(p - y)
        for part in self.middle(p.dtype):
            slope = slope + part
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return _nan_of(p - y)

    def middle(self, dtype: torch.dtype) -> tuple[float, ...]:
        """The slope at zero, 1/2 - q, as a sum of numbers of the dtype.

        Added to +-1/2 one after the other they give 1 - q and -q with all digits, for q near 0 and 1 too.
        """
        high = 0.5 - self.q if dtype == torch.float64 else in_float32(0.5 - self.q)
        low = (0.5 - high) - self.q
        return (high, low) if low else (high,)

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        slope = _sign_(p.sub_(y)).mul_(0.5)
        for part in self.middle(p.dtype):
            slope.add_(part)
        return slope

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        self.slope_(slope.copy_(p), y)
        p.sub_(y)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        below = torch.mul(p.sub_(y), -self.q)
        torch.maximum(p.mul_(1.0 - self.q), below, out=p)


@dataclass(frozen=True)
class BCEWithLogits(Loss):
    """Binary cross entropy of a logit p: torch.nn.functional.binary_cross_entropy_with_logits.

    Args:
        pos_weight: weight of the positive class, a number.
    """

    pos_weight: float = 1.0
    name: ClassVar[str] = "bce_with_logits"
    is_of_residual: ClassVar[bool] = False
    parameter: ClassVar[str | None] = "pos_weight"

    def __post_init__(self) -> None:
        check_number("pos_weight", self.pos_weight, 0.0)

    @property
    def inverse_link(self) -> str:  # noqa: D102 - see Loss
        return "1 / (1 + exp(-p))" if self.pos_weight == 1.0 else f"1 / (1 + {self.pos_weight:g} exp(-p))"

    def to_scale_of_y(self, p: Tensor) -> Tensor:  # noqa: D102
        positive = torch.sigmoid(p)
        return positive / (positive + self.pos_weight * torch.sigmoid(-p))

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return (1.0 - y) * _softplus(p) + self.pos_weight * y * _softplus(-p)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        to_y = -p if self.pos_weight == 1.0 else (self.pos_weight - 1.0) * _softplus(-p) - p
        return (1.0 - y) * torch.sigmoid(p) - self.pos_weight * y * torch.sigmoid(-p), to_y

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return (1.0 - y + self.pos_weight * y) * torch.sigmoid(p) * torch.sigmoid(-p)

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        # (1 - y) sigmoid(p) - pos_weight y sigmoid(-p), which keeps the digits of a slope that is near zero
        negative = torch.neg(p).sigmoid_()
        positive = p.sigmoid_()
        return positive.addcmul_(positive, y, value=-1.0).addcmul_(negative, y, value=-self.pos_weight)

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        if self.pos_weight != 1.0:
            super().slope_and_loss_(p, y, slope)
            return
        self.slope_(slope.copy_(p), y)
        self.loss_(p, y)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        if self.pos_weight != 1.0:
            super().loss_(p, y)
            return
        # log(1 + exp(p)) - y p as max(p, 0) - y p, exact where y is 0 or 1, and log(1 + exp(-abs(p)))
        softplus = p.abs().neg_().exp_().log1p_()
        p.copy_(torch.addcmul(p.clamp(min=0.0), p, y, value=-1.0)).add_(softplus)


@dataclass(frozen=True)
class PoissonNLL(Loss):
    """Negative log likelihood of Poisson counts: torch.nn.functional.poisson_nll_loss.

    Args:
        log_input: whether p is the logarithm of the rate.
        full: whether Stirling's approximation of log(y!) is added for y > 1.
        eps: added to a rate before its logarithm is taken, where p is the rate itself.
    """

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    name: ClassVar[str] = "poisson_nll"
    is_of_residual: ClassVar[bool] = False
    parameter: ClassVar[str | None] = "eps"

    def __post_init__(self) -> None:
        check_number("eps", self.eps, 0.0, is_open=True)

    @property
    def inverse_link(self) -> str:  # noqa: D102
        return "exp(p)" if self.log_input else "p"

    def to_scale_of_y(self, p: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(p) if self.log_input else p

    @classmethod
    def variants(cls) -> tuple[Loss, ...]:  # noqa: D102
        return tuple(cls(log_input, full) for log_input in (True, False) for full in (False, True))

    @property
    def kernel(self) -> tuple[str, float]:  # noqa: D102
        return self.name + "_log" * self.log_input + "_full" * self.full, self.eps

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        value = F.poisson_nll_loss(p, y, self.log_input, False, eps=self.eps, reduction="none")
        if self.full:  # not torch's own: its derivative to a target of zero is not a number
            large = torch.where(y > 1, y, 1.0)
            stirling = large * torch.log(large) - large + 0.5 * torch.log(2.0 * math.pi * large)
            value = value + torch.where(y > 1, stirling, 0.0)
        return value

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        if self.log_input:
            to_p, to_y = torch.exp(p) - y, -p
        else:
            to_p, to_y = 1.0 - y / (p + self.eps), -torch.log(p + self.eps)
        if self.full:
            large = torch.where(y > 1, y, 1.0)
            to_y = to_y + torch.where(y > 1, torch.log(large) + 0.5 / large, 0.0)
        return to_p, to_y

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(p) if self.log_input else y / (p + self.eps) ** 2

    def slope_(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        return p.exp_().sub_(y) if self.log_input else super().slope_(p, y)

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        if not self.log_input or self.full:
            super().slope_and_loss_(p, y, slope)
            return
        rate = torch.exp(p, out=slope)
        torch.addcmul(rate, p, y, value=-1.0, out=p)
        rate.sub_(y)

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        if not self.log_input or self.full:
            super().loss_(p, y)
            return
        torch.addcmul(torch.exp(p), p, y, value=-1.0, out=p)


@dataclass(frozen=True)
class Cauchy(Loss):
    """Cauchy's (Lorentz's) loss, as scipy.optimize.least_squares has it: ``cost`` of ``loss="cauchy"``.

    Args:
        scale: residual beyond which the loss grows like a logarithm, positive.
    """

    scale: float = 1.0
    name: ClassVar[str] = "cauchy"
    parameter: ClassVar[str | None] = "scale"

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0.0, is_open=True)

    def value(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        residual, scale = p - y, within(self.scale, p.dtype)
        is_far = residual.abs() * (1.0 / scale) > _far(p.dtype)
        # As r**2 / 2 times log(1 + u) / u, u = (r / scale)**2: the square of the scale may overflow, or u be zero.
        near = torch.where(is_far, 0.0, residual)
        near = 0.5 * near * (near * _log1p_by_itself((near * (1.0 / scale)) ** 2))
        # Far off, 1 is below half an ulp of u; not log(u), which may overflow.
        size = torch.where(is_far, residual.abs(), scale)
        far = (scale * (torch.log(size) - math.log(scale))) * scale
        return torch.where(is_far, far, near) + _nan_of(residual)

    def slopes(self, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        residual, scale = p - y, within(self.scale, p.dtype)
        ratio = residual * (1.0 / scale)
        is_far = ratio.abs() > _far(p.dtype)
        square = torch.where(is_far, 0.0, ratio) ** 2
        far = torch.where(is_far, residual, scale)  # not zero: the derivative of a quotient by zero is not a number
        slope = torch.where(is_far, scale * (scale / far), residual / (1.0 + square))
        return slope, -slope

    def curvature(self, p: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        # With u = (r / scale)**2: (1 - u) / (1 + u)**2, which is zero, rounded, where u**2 would overflow.
        limit = torch.finfo(p.dtype).max ** 0.25
        square = ((p - y) * (1.0 / within(self.scale, p.dtype))).clamp(-limit, limit) ** 2
        return (1.0 - square) / (1.0 + square) ** 2

    def slope_and_loss_(self, p: Tensor, y: Tensor, slope: Tensor) -> None:  # noqa: D102
        residual = torch.sub(p, y, out=slope)
        square = self._plain_square(residual)
        if square is None:
            super().slope_and_loss_(p, y, slope)
            return
        torch.log1p(square, out=p).mul_(0.5 * self.scale * self.scale)
        residual.div_(square.add_(1.0))

    def loss_(self, p: Tensor, y: Tensor) -> None:  # noqa: D102
        square = self._plain_square(p - y)
        if square is None:
            super().loss_(p, y)
            return
        torch.log1p(square, out=p).mul_(0.5 * self.scale * self.scale)

    def _plain_square(self, residual: Tensor) -> Tensor | None:
        """The square of the ratio r / scale on a CPU; None where it is not a plain number, or not known to be one."""
        if residual.device.type != "cpu" or not _SMALLEST_PLAIN <= self.scale <= 1.0 / _SMALLEST_PLAIN:
            return None
        square = torch.mul(residual, 1.0 / self.scale)
        square.mul_(square)
        return square if bool(square.amax() < _far(residual.dtype) ** 2) else None  # or one is NaN


# Scales from this one to its inverse have squares, and ratios to usual residuals, that are numbers of every dtype.
_SMALLEST_PLAIN = 1e-3


def _far(dtype: torch.dtype) -> float:
    """A ratio r / scale beyond which 1 is below half an ulp of the square of the ratio."""
    return 1e8 if dtype == torch.float64 else 1e4  # 2**26.5 = 9.5e7 and 2**12 = 4096


def _log1p_by_itself(u: Tensor) -> Tensor:
    """The function log(1 + u) / u for u >= 0, which is 1 at 0."""
    # The next term of the series is u**4 / 5 < 2e-17; and 1 / u**3, of a second derivative, stays below 1e12.
    is_small = u < 1e-4
    small = torch.where(is_small, u, 0.0)
    large = torch.where(is_small, 1.0, u)
    series = 1.0 - small * (1.0 / 2.0 - small * (1.0 / 3.0 - small * (1.0 / 4.0)))
    return torch.where(is_small, series, torch.log1p(large) / large)


LOSSES = {loss.name: loss for loss in (MSE, L1, Huber, SmoothL1, LogCosh, Quantile, BCEWithLogits, PoissonNLL, Cauchy)}

# A loss that was saved with a model can be loaded with torch.load(weights_only=True): these classes hold numbers only.
torch.serialization.add_safe_globals([*LOSSES.values()])


def check_object(loss: object) -> None:
    """Refuse a class in place of an object of it."""
    if isinstance(loss, type):
        arguments = "" if issubclass(loss, Loss) else "reduction='none'"
        raise TypeError(f"loss={loss.__name__} is a class; pass an object of it, {loss.__name__}({arguments})")


def resolve(loss: str | Loss) -> Loss:
    """The loss object for a name, with its defaults; an object is returned as it is.

    Raises:
        TypeError: a class, or None.
        ValueError: no loss has that name.
    """
    if isinstance(loss, Loss):
        return loss
    check_object(loss)
    if not isinstance(loss, str):
        raise TypeError(
            f"loss={loss!r} is {type(loss).__name__}; pass a name, one of {', '.join(map(repr, LOSSES))}, an object"
            " from polyfit.losses, or a function of p, y"
        )
    check_choice("loss", loss, LOSSES, ", an object from polyfit.losses, or a function of p, y")
    return LOSSES[loss]()


@functools.cache
def kernel_variants() -> dict[str, Loss]:
    """An object for each variant that a kernel compiles, by the name of the variant."""
    return {loss.kernel[0]: loss for kind in LOSSES.values() for loss in kind.variants()}


@functools.lru_cache(maxsize=256)
def from_kernel(variant: str, parameter: float) -> Loss:
    """The loss that `Loss.kernel` names as `variant` and `parameter`."""
    loss = kernel_variants()[variant]
    return loss if loss.parameter is None else dataclasses.replace(loss, **{loss.parameter: parameter})
