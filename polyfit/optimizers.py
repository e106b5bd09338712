r"""What an update rule is: plain data, the rules of torch.optim to the letter.

`polyfit.train` reads these; nothing here holds state, so one object can serve many runs. A rule's `start` gives the
state before the first update, and `step` makes one: plain arithmetic, element by element, on whatever holds the
coefficients, arrays of numpy or tensors.

A learning rate may change along the run: in place of a number pass a schedule, a function of the updates made so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

State: TypeAlias = tuple[Any, ...]


def _check_number(name: str, value: object, least: float, below: float = math.inf, *, is_open: bool = False) -> None:
    """A finite number in [least, below), or in (least, below)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} is not a number; pass a float")
    if not (math.isfinite(value) and value < below and (value > least if is_open else value >= least)):
        bounds = f"{'above' if is_open else 'from'} {least:g}" + (
            f" and below {below:g}" if below < math.inf else " on"
        )
        raise ValueError(f"{name}={value!r} is out of range; pass a finite number {bounds}")


def _check_rate(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"lr={value!r} is not a number; pass a positive float, or a schedule of this module")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"lr={value!r} is not a rate to descend with; pass a positive finite number")


# --- learning rates ---


@runtime_checkable
class Schedule(Protocol):
    """A learning rate that depends on the number of updates made."""

    def rate(self, epoch: int) -> float:
        """The learning rate of the update that follows after `epoch` updates."""
        ...


@dataclass(frozen=True)
class Step:
    """``lr * gamma ** (epoch // step_size)``, as torch.optim.lr_scheduler.StepLR.

    >>> [Step(0.1, step_size=2, gamma=0.5).rate(epoch) for epoch in range(5)]
    [0.1, 0.1, 0.05, 0.05, 0.025]
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_number("step_size", self.step_size, 1)
        _check_number("gamma", self.gamma, 0.0, is_open=True)

    def rate(self, epoch: int) -> float:
        """The learning rate after `epoch` updates."""
        return self.lr * self.gamma ** (epoch // self.step_size)


@dataclass(frozen=True)
class Exponential:
    """``lr * gamma ** epoch``, as torch.optim.lr_scheduler.ExponentialLR.

    >>> Exponential(0.1, gamma=0.5).rate(3)
    0.0125
    """

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_number("gamma", self.gamma, 0.0, is_open=True)

    def rate(self, epoch: int) -> float:
        """The learning rate after `epoch` updates."""
        return self.lr * self.gamma**epoch


@dataclass(frozen=True)
class Cosine:
    """``minimum + (lr - minimum) (1 + cos(pi epoch / epochs)) / 2``, as torch.optim.lr_scheduler.CosineAnnealingLR.

    >>> Cosine(0.2, epochs=10).rate(5)
    0.1
    """

    lr: float
    epochs: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_number("epochs", self.epochs, 1)
        _check_number("minimum", self.minimum, 0.0)

    def rate(self, epoch: int) -> float:
        """The learning rate after `epoch` updates."""
        return self.minimum + (self.lr - self.minimum) * (1.0 + math.cos(math.pi * epoch / self.epochs)) / 2.0


@dataclass(frozen=True)
class Warmup:
    """A linear rise to the first rate of what follows, in `epochs` updates, as LinearLR and SequentialLR of torch give.

    Args:
        then: a rate, or a schedule, which begins when the rise has ended.
        epochs: length of the rise.
        start_factor: share of the rate that the first update takes.

    >>> [round(Warmup(0.3, epochs=2).rate(epoch), 6) for epoch in range(4)]
    [0.1, 0.2, 0.3, 0.3]
    """

    then: float | Schedule
    epochs: int
    start_factor: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.then, Schedule):
            _check_rate(self.then)
        _check_number("epochs", self.epochs, 1)
        _check_number("start_factor", self.start_factor, 0.0, is_open=True)

    def rate(self, epoch: int) -> float:
        """The learning rate after `epoch` updates."""
        if epoch >= self.epochs:
            return rate(self.then, epoch - self.epochs)
        return rate(self.then, 0) * (self.start_factor + (1.0 - self.start_factor) * epoch / self.epochs)


def rate(lr: float | Schedule, epoch: int) -> float:
    """The learning rate after `epoch` updates, of a number or a schedule."""
    return lr.rate(epoch) if isinstance(lr, Schedule) else lr


# --- rules ---


@runtime_checkable
class Rule(Protocol):
    """What every update rule has."""

    @property
    def lr(self) -> float | Schedule:
        """Learning rate."""
        ...

    def start(self, zeros: Any) -> State:
        """The state before the first update, made of zeros in the shape of the coefficients."""
        ...

    def step(self, coef: Any, gradient: Any, state: State, lr: float, count: int) -> tuple[Any, State]:
        """Coefficients and state after update number `count`, from 1 on, at the rate `lr`."""
        ...


def _check_lr(lr: float | Schedule) -> None:
    if not isinstance(lr, Schedule):
        _check_rate(lr)


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum, torch.optim.SGD.

    Args:
        lr: learning rate, a positive number or a schedule.
        momentum: share of the last step that is kept, from 0 on.
        dampening: share of the gradient that does not enter the momentum, from the second update on.
        weight_decay: times the coefficients is added to the gradient.
        nesterov: look ahead; needs momentum and no dampening.

    Raises:
        TypeError: an argument is not a number.
        ValueError: ``lr`` is not positive and finite, or another argument is out of range.

    >>> SGD(lr=1e-3)
    SGD(lr=0.001, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False)
    """

    lr: float | Schedule
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        _check_number("momentum", self.momentum, 0.0)
        _check_number("dampening", self.dampening, -math.inf)
        _check_number("weight_decay", self.weight_decay, 0.0)
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("nesterov=True needs momentum above 0 and no dampening; pass momentum=0.9, say")

    def start(self, zeros: Any) -> State:
        """The momentum, where there is some."""
        return (zeros,) if self.momentum else ()

    def step(self, coef: Any, gradient: Any, state: State, lr: float, count: int) -> tuple[Any, State]:
        """See `Rule`."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * coef
        if not self.momentum:
            return coef - lr * gradient, ()
        kept = gradient if count == 1 else self.momentum * state[0] + (1.0 - self.dampening) * gradient
        return coef - lr * (gradient + self.momentum * kept if self.nesterov else kept), (kept,)


def _adam(
    coef: Any, gradient: Any, state: State, lr: float, count: int, betas: tuple[float, float], eps: float
) -> tuple[Any, State]:
    first, second = betas
    mean, square = state
    mean = mean + (1.0 - first) * (gradient - mean)
    square = second * square + (1.0 - second) * (gradient * gradient)
    size = square**0.5 / math.sqrt(1.0 - second**count) + eps
    return coef - (lr / (1.0 - first**count)) * (mean / size), (mean, square)


def _check_adam(betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    for i, beta in enumerate(betas):
        _check_number(f"betas[{i}]", beta, 0.0, 1.0)
    _check_number("eps", eps, 0.0)
    _check_number("weight_decay", weight_decay, 0.0)


@dataclass(frozen=True)
class Adam:
    """Adaptive moments, torch.optim.Adam without amsgrad.

    Args:
        lr: learning rate, a positive number or a schedule.
        betas: shares of the running means, of gradients and of their squares, that are kept.
        eps: added to the root of the latter.
        weight_decay: times the coefficients is added to the gradient.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    References:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        _check_adam(self.betas, self.eps, self.weight_decay)

    def start(self, zeros: Any) -> State:
        """Running means of the gradient and of its square."""
        return zeros, zeros

    def step(self, coef: Any, gradient: Any, state: State, lr: float, count: int) -> tuple[Any, State]:
        """See `Rule`."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * coef
        return _adam(coef, gradient, state, lr, count, self.betas, self.eps)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, torch.optim.AdamW without amsgrad: coefficients shrink by lr * weight_decay.

    Args:
        lr: learning rate, a positive number or a schedule.
        betas: as for `Adam`.
        eps: as for `Adam`.
        weight_decay: share of the coefficients that an update at the rate 1 takes away.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    References:
        Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        _check_adam(self.betas, self.eps, self.weight_decay)

    def start(self, zeros: Any) -> State:
        """Running means of the gradient and of its square."""
        return zeros, zeros

    def step(self, coef: Any, gradient: Any, state: State, lr: float, count: int) -> tuple[Any, State]:
        """See `Rule`."""
        coef = coef * (1.0 - lr * self.weight_decay)
        return _adam(coef, gradient, state, lr, count, self.betas, self.eps)


@dataclass(frozen=True)
class RMSprop:
    """Gradients over the root of their running mean square, torch.optim.RMSprop.

    Args:
        lr: learning rate, a positive number or a schedule.
        alpha: share of the running means that is kept.
        eps: added to the root.
        weight_decay: times the coefficients is added to the gradient.
        momentum: share of the last step that is kept.
        centered: whether the square of the running mean is taken from the mean square.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    References:
        Tieleman & Hinton, lecture 6.5 of "Neural networks for machine learning" (2012); Graves, arXiv:1308.0850, for
        the centred form.
    """

    lr: float | Schedule = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        _check_number("alpha", self.alpha, 0.0)
        _check_number("eps", self.eps, 0.0)
        _check_number("weight_decay", self.weight_decay, 0.0)
        _check_number("momentum", self.momentum, 0.0)

    def start(self, zeros: Any) -> State:
        """Running mean of the square, of the gradient, and the momentum."""
        return zeros, zeros, zeros

    def step(self, coef: Any, gradient: Any, state: State, lr: float, count: int) -> tuple[Any, State]:
        """See `Rule`."""
        square, mean, kept = state
        if self.weight_decay:
            gradient = gradient + self.weight_decay * coef
        square = self.alpha * square + (1.0 - self.alpha) * (gradient * gradient)
        if self.centered:
            mean = mean + (1.0 - self.alpha) * (gradient - mean)
        size = (square - mean * mean if self.centered else square) ** 0.5 + self.eps
        if not self.momentum:
            return coef - lr * (gradient / size), (square, mean, kept)
        kept = self.momentum * kept + gradient / size
        return coef - lr * kept, (square, mean, kept)
