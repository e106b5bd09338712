r"""The update rules of torch.optim, to the letter, as plain data.

`polyfit.train` reads these objects. They hold no state, so one object serves many runs. A rule's `start` gives its
memory before the first update, and `step` makes an update: element by element, on arrays of numpy or on tensors.

A learning rate may change along the run: pass a schedule in place of a number. A schedule is a function of the number
of epochs made.

Everything that depends on the number of an update, and not on the coefficients, is three numbers: the rate, and two
factors of the rule (`Rule.factors`). `table` gives them for a part of a run. Loops on a GPU and in C++ read the same
table.

`OPTIMIZERS` holds the rules by name, `kernel_variants` an object for each variant that a kernel compiles.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polyfit._checks import check_count, check_number, check_rate, plain_number

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Array: TypeAlias = NDArray[np.float64]
Constants: TypeAlias = tuple[float, float, float, float]
# Coefficients, gradients and memory of a rule: arrays of numpy, or tensors.
Values = TypeVar("Values", NDArray[Any], Tensor)


# --- learning rates ---


@runtime_checkable
class Schedule(Protocol):
    """A learning rate that depends on the number of epochs made. Without batches an epoch is one update."""

    def rate(self, epoch: int) -> float:
        """The learning rate of the updates after `epoch` epochs."""
        ...


def _make_plain(record: Any) -> None:
    """Turn the numbers of a dataclass into floats: those of numpy, tensors of one number, and ints where it says float.

    So SGD(1) is SGD(1.0), and a rule can be compared with another, printed and kept.
    """
    for name in _numbers_of(type(record)):
        value = getattr(record, name)
        if type(value) is not float:
            object.__setattr__(record, name, plain_number(value))


@functools.cache
def _numbers_of(kind: type) -> tuple[str, ...]:
    """The names of the fields that are floats."""
    return tuple(field.name for field in dataclasses.fields(kind) if str(field.type).startswith("float"))


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
        _make_plain(self)
        check_rate(self.lr)
        object.__setattr__(self, "step_size", check_count("step_size", self.step_size, 1))
        check_number("gamma", self.gamma, 0.0, is_open=True)

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
        _make_plain(self)
        check_rate(self.lr)
        check_number("gamma", self.gamma, 0.0, is_open=True)

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
        _make_plain(self)
        check_rate(self.lr)
        object.__setattr__(self, "epochs", check_count("epochs", self.epochs, 1))
        check_number("minimum", self.minimum, 0.0)

    def rate(self, epoch: int) -> float:
        """The learning rate after `epoch` updates."""
        return self.minimum + (self.lr - self.minimum) * (1.0 + math.cos(math.pi * epoch / self.epochs)) / 2.0


@dataclass(frozen=True)
class Warmup:
    """A linear rise to a rate, or to the first rate of a schedule, as LinearLR and SequentialLR of torch give.

    Args:
        then: the rate, or the schedule, which begins when the rise has ended.
        epochs: length of the rise.
        start_factor: share of the rate at the first update.

    >>> [round(Warmup(0.3, epochs=2).rate(epoch), 6) for epoch in range(4)]
    [0.1, 0.2, 0.3, 0.3]
    """

    then: float | Schedule
    epochs: int
    start_factor: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        _make_plain(self)
        if not is_schedule(self.then):
            check_rate(self.then)
        object.__setattr__(self, "epochs", check_count("epochs", self.epochs, 1))
        check_number("start_factor", self.start_factor, 0.0, is_open=True)

    def rate(self, epoch: int) -> float:
        """The learning rate after `epoch` updates."""
        if epoch >= self.epochs:
            return rate(self.then, epoch - self.epochs)
        return rate(self.then, 0) * (self.start_factor + (1.0 - self.start_factor) * epoch / self.epochs)


def is_schedule(lr: float | Schedule) -> TypeIs[Schedule]:
    """Whether a rate is a schedule. Numbers are told first: to look for the methods of a protocol takes 20 us."""
    return not isinstance(lr, float) and isinstance(lr, Schedule)


def rate(lr: float | Schedule, epoch: int) -> float:
    """The learning rate after `epoch` updates, of a number or a schedule."""
    return lr.rate(epoch) if is_schedule(lr) else lr


# --- rules ---


@runtime_checkable
class Rule(Protocol):
    """What every update rule has."""

    @property
    def lr(self) -> float | Schedule:
        """Learning rate."""
        ...

    @property
    def kernel(self) -> tuple[str, Constants]:
        """The variant that a kernel compiles, and its constants."""
        ...

    def factors(self, counts: Array) -> tuple[Array, Array]:
        """The two factors a and b of updates with these numbers, from 1 on."""
        ...

    def start(self, zeros: Values) -> tuple[Values, ...]:
        """The memory before the first update, made of zeros in the shape of the coefficients."""
        ...

    def step(
        self, coef: Values, gradient: Values, memory: tuple[Values, ...], lr: Any, a: Any, b: Any
    ) -> tuple[Values, tuple[Values, ...]]:
        """Coefficients and memory after an update.

        Args:
            coef: (S, p).
            gradient: (S, p).
            memory: (S, p) each.
            lr: the rate: a number, or one for each series, (S, 1).
            a: first factor, a number.
            b: second factor, a number.
        """
        ...


# Tables are made in whole blocks: a power of a vector may round differently at different places of the vector, and the
# numbers of an update must not depend on where a run is cut.
_BLOCK = 1024


def table(rule: Rule, first: int, stop: int, batches: int = 1) -> Array:
    """Rate and factors (n, 3) of the updates `first` to `stop`, counted from 0, with `batches` updates an epoch."""
    low = first - first % _BLOCK
    counts = np.arange(low + 1, low + 1 + -(-(stop - low) // _BLOCK) * _BLOCK, dtype=np.float64)
    rows = np.empty((len(counts), 3))
    with np.errstate(all="ignore"):
        rows[:, 1], rows[:, 2] = rule.factors(counts)
    rows = rows[first - low : stop - low]
    if is_schedule(rule.lr):
        rates = [rule.lr.rate(epoch) for epoch in range(first // batches, -(-stop // batches))]
        rows[:, 0] = np.repeat(rates, batches)[first % batches :][: len(rows)]
    else:
        rows[:, 0] = rule.lr
    return rows


def constant_row(rule: Rule) -> Array | None:
    """The one row (3,) that can stand for every row of `table`; None if the rows of a rule differ.

    `table` gives the share 0 of the momentum at the first update. The momentum is 0 there, so any share will do.
    """
    if not isinstance(rule.lr, float):
        return None
    if isinstance(rule, RMSprop) or (isinstance(rule, SGD) and not (rule.momentum and rule.dampening)):
        return table(rule, 1, 2)[0]
    return None


def _check_lr(lr: float | Schedule) -> None:
    if not is_schedule(lr):
        check_rate(lr)


@dataclass(frozen=True)
class SGD:
    """Gradient descent with momentum, torch.optim.SGD.

    Args:
        lr: learning rate, a positive number or a schedule. Numbers may be of numpy, or tensors of one element.
        momentum: share of the last step that is kept, from 0 on.
        dampening: share of the gradient that is left out of the momentum, from the second update on.
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

    title: ClassVar[str] = "gradient descent"

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_lr(self.lr)
        check_number("momentum", self.momentum, 0.0)
        check_number("dampening", self.dampening)
        check_number("weight_decay", self.weight_decay, 0.0)
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("nesterov=True needs momentum above 0 and no dampening; pass momentum=0.9, say")

    @classmethod
    def variants(cls) -> tuple[SGD, ...]:
        """An object for each variant that a kernel compiles."""
        return cls(0.1), cls(0.1, momentum=0.5), cls(0.1, momentum=0.5, nesterov=True)

    @property
    def kernel(self) -> tuple[str, Constants]:
        """See `Rule`."""
        name = "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"
        return name, (self.weight_decay, self.momentum, 0.0, 0.0)

    def factors(self, counts: Array) -> tuple[Array, Array]:
        """The shares of the momentum and of the gradient in the new momentum. The first momentum is the gradient."""
        is_first = counts == 1.0
        return np.where(is_first, 0.0, self.momentum), np.where(is_first, 1.0, 1.0 - self.dampening)

    def start(self, zeros: Values) -> tuple[Values, ...]:
        """The momentum; nothing without."""
        return (zeros,) if self.momentum else ()

    def step(
        self, coef: Values, gradient: Values, memory: tuple[Values, ...], lr: Any, a: Any, b: Any
    ) -> tuple[Values, tuple[Values, ...]]:
        """See `Rule`."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * coef
        if not self.momentum:
            return coef - lr * gradient, ()
        kept = a * memory[0] + b * gradient
        return coef - lr * (gradient + self.momentum * kept if self.nesterov else kept), (kept,)


def _root(values: Values) -> Values:
    return values.sqrt() if isinstance(values, Tensor) else np.sqrt(values)


@dataclass(frozen=True)
class _AdaptiveMoments:
    """The fields and the step that Adam and AdamW share."""

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_lr(self.lr)
        try:
            betas = tuple(plain_number(beta) for beta in self.betas)
        except TypeError:
            betas = ()
        if len(betas) != 2 or isinstance(self.betas, str):
            raise TypeError(f"betas={self.betas!r} is not a pair of numbers; pass two, such as betas=(0.9, 0.999)")
        for i, beta in enumerate(betas):
            check_number(f"betas[{i}]", beta, 0.0, 1.0)
        object.__setattr__(self, "betas", betas)
        check_number("eps", self.eps, 0.0)
        check_number("weight_decay", self.weight_decay, 0.0)

    @classmethod
    def variants(cls) -> tuple[Self, ...]:
        """An object for each variant that a kernel compiles."""
        return (cls(),)

    def factors(self, counts: Array) -> tuple[Array, Array]:
        """The bias corrections 1 / (1 - beta1**t) and 1 / sqrt(1 - beta2**t) of running means that begin at zero."""
        first, second = self.betas
        return 1.0 / (1.0 - first**counts), 1.0 / np.sqrt(1.0 - second**counts)

    def start(self, zeros: Values) -> tuple[Values, ...]:
        """Running means of the gradient and of its square."""
        return zeros, zeros

    def _step(
        self, coef: Values, gradient: Values, memory: tuple[Values, ...], lr: Any, a: Any, b: Any
    ) -> tuple[Values, tuple[Values, ...]]:
        """The step without weight decay."""
        first, second = self.betas
        mean, square = memory
        mean = mean + (1.0 - first) * (gradient - mean)
        square = second * square + (1.0 - second) * (gradient * gradient)
        return coef - (lr * a) * (mean / (_root(square) * b + self.eps)), (mean, square)


@dataclass(frozen=True)
class Adam(_AdaptiveMoments):
    """Adaptive moments, torch.optim.Adam without amsgrad.

    Args:
        lr: learning rate, a positive number or a schedule.
        betas: shares of the running means of gradients and of their squares that an update keeps.
        eps: added to the root of the mean of the squares.
        weight_decay: times the coefficients is added to the gradient.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    References:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    title: ClassVar[str] = "Adam"

    @property
    def kernel(self) -> tuple[str, Constants]:
        """See `Rule`."""
        return "adam", (self.weight_decay, *self.betas, self.eps)

    def step(
        self, coef: Values, gradient: Values, memory: tuple[Values, ...], lr: Any, a: Any, b: Any
    ) -> tuple[Values, tuple[Values, ...]]:
        """See `Rule`."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * coef
        return self._step(coef, gradient, memory, lr, a, b)


@dataclass(frozen=True)
class AdamW(_AdaptiveMoments):
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

    weight_decay: float = 1e-2
    title: ClassVar[str] = "AdamW"

    @property
    def kernel(self) -> tuple[str, Constants]:
        """See `Rule`."""
        return "adamw", (self.weight_decay, *self.betas, self.eps)

    def step(
        self, coef: Values, gradient: Values, memory: tuple[Values, ...], lr: Any, a: Any, b: Any
    ) -> tuple[Values, tuple[Values, ...]]:
        """See `Rule`."""
        coef = coef * (1.0 - lr * self.weight_decay)
        return self._step(coef, gradient, memory, lr, a, b)


@dataclass(frozen=True)
class RMSprop:
    """Gradients over the root of their running mean square, torch.optim.RMSprop.

    Args:
        lr: learning rate, a positive number or a schedule.
        alpha: share of the running means that is kept.
        eps: added to the root.
        weight_decay: times the coefficients is added to the gradient.
        momentum: share of the last step that is kept.
        centered: whether the square of the running mean is subtracted from the mean square.

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

    title: ClassVar[str] = "RMSprop"

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_lr(self.lr)
        check_number("alpha", self.alpha, 0.0)
        check_number("eps", self.eps, 0.0)
        check_number("weight_decay", self.weight_decay, 0.0)
        check_number("momentum", self.momentum, 0.0)

    @classmethod
    def variants(cls) -> tuple[RMSprop, ...]:
        """An object for each variant that a kernel compiles."""
        flags = itertools.product((False, True), (0.0, 0.5))
        return tuple(cls(centered=centered, momentum=momentum) for centered, momentum in flags)

    @property
    def kernel(self) -> tuple[str, Constants]:
        """See `Rule`."""
        name = "rmsprop" + "_centered" * self.centered + "_momentum" * bool(self.momentum)
        return name, (self.weight_decay, self.alpha, self.momentum, self.eps)

    def factors(self, counts: Array) -> tuple[Array, Array]:
        """Ones: the rule has no factors."""
        return np.ones_like(counts), np.ones_like(counts)

    def start(self, zeros: Values) -> tuple[Values, ...]:
        """Running mean of the square; if centered, also that of the gradient; with momentum, also the momentum."""
        return (zeros,) * (1 + self.centered + bool(self.momentum))

    def step(
        self, coef: Values, gradient: Values, memory: tuple[Values, ...], lr: Any, a: Any, b: Any
    ) -> tuple[Values, tuple[Values, ...]]:
        """See `Rule`."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * coef
        square = self.alpha * memory[0] + (1.0 - self.alpha) * (gradient * gradient)
        new = [square]
        if self.centered:
            mean = memory[1] + (1.0 - self.alpha) * (gradient - memory[1])
            square = square - mean * mean
            new.append(mean)
        step = gradient / (_root(square) + self.eps)
        if self.momentum:
            step = self.momentum * memory[-1] + step
            new.append(step)
        return coef - lr * step, tuple(new)


# --- the registry ---

OPTIMIZERS: dict[str, type[SGD | Adam | AdamW | RMSprop]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


def kernel_variants() -> dict[str, SGD | Adam | AdamW | RMSprop]:
    """An object for each variant that a kernel compiles, by the name of the variant."""
    return {rule.kernel[0]: rule for optimizer in OPTIMIZERS.values() for rule in optimizer.variants()}
