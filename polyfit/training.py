"""Training the coefficients of a polynomial by full-batch descent.

Three engines, of which "auto" takes the first that applies (`explain` says which, and why):

- **closed_form**: for the squared loss and SGD at a constant rate, with momentum or without. The run is an affine map
  of the coefficients: any epoch follows from one eigenproblem of the size of the polynomial.
- **moments**: for the squared loss and every rule. Epochs run on the Hessian and the gradient at one place, which two
  passes over the data give (`polyfit.quadratic`): an epoch costs the same for any number of samples.
- **stepwise**: for every loss and rule, one fused pass over the data an epoch. Data that fit into one chunk have their
  basis functions laid out once, so that an epoch is a handful of small operations.

The first two compute in float64 whatever the dtype of the data is; the third in the dtype of the coefficients, as an
eager loop does.

Epochs are counted in updates: the loss recorded at epoch t is that of the coefficients after t updates, so epoch 0 is
the start and the last record belongs to the coefficients returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit import functional, losses, onepass, ops, optimizers, quadratic, solver
from polyfit.extended import to_array

ENGINES = ("auto", "closed_form", "moments", "stepwise")

Monitor = Callable[[int, float, Tensor], object]


class Losses(NamedTuple):
    """The recorded losses.

    Attributes:
        epochs: numbers of updates after which a loss was recorded, (records,) int64, on the CPU.
        values: the losses, (records,) float64, on the CPU.
    """

    epochs: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Training:
    """What a run of `train` reached.

    For the squared loss the whole landscape is known, and what follows `engine` says where in it the run ended; for
    other losses these are None.

    Attributes:
        coef: coefficients after the last update, lowest degree first.
        losses: the recorded losses, from epoch 0 to the last.
        epochs: number of updates made.
        engine: the engine that ran.
        optimum: the coefficients of the least loss.
        optimal_loss: their loss.
        max_stable_lr: for SGD at a constant rate, the largest that does not diverge.
        slowest_rate: for the same, what an update leaves of the error along the slowest direction of descent.
        condition: of the Hessian: the largest curvature over the least, which decides how slow that is.
        finite_until: None; or for a run that left the finite numbers the last recorded epoch with a finite loss, -1 for
            none.
    """

    coef: Tensor
    losses: Losses
    epochs: int
    engine: str
    optimum: Tensor | None = None
    optimal_loss: float | None = None
    max_stable_lr: float | None = None
    slowest_rate: float | None = None
    condition: float | None = None
    finite_until: int | None = None

    @property
    def loss(self) -> float:
        """The loss of `coef`."""
        return float(self.losses.values[-1])

    @property
    def slowest_share(self) -> float | None:
        """The share of the initial error that is left along the slowest direction of descent."""
        return None if self.slowest_rate is None else self.slowest_rate**self.epochs

    def epochs_to(self, share: float) -> float | None:
        """How many epochs bring the error along the slowest direction down to a share of it; infinite where none do.

        In the long run, that is: momentum takes some epochs to gather.
        """
        if not 0.0 < share < 1.0:
            raise ValueError(
                f"share={share!r} is no share to come down to; pass a number between 0 and 1, such as 0.01"
            )
        if self.slowest_rate is None:
            return None
        if self.slowest_rate >= 1.0:
            return math.inf
        return math.ceil(math.log(share) / math.log(self.slowest_rate)) if self.slowest_rate > 0.0 else 1.0


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; pass an int of at least {least}")
    if value < least:
        raise ValueError(f"{name}={value} is too small; pass at least {least}")


def train(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    *,
    optimizer: optimizers.Rule,
    epochs: int,
    loss: str | losses.Loss = "mse",
    reduction: str = "mean",
    weight: Tensor | None = None,
    basis: str = "power",
    domain: Sequence[float] | None = None,
    record_every: int = 100,
    engine: str = "auto",
    monitor: Monitor | None = None,
    impl: str = "auto",
    check_stability: bool = True,
) -> Training:
    r"""Minimise `polyfit.polynomial_loss` over the coefficients by full-batch descent.

    .. math:: c_{t+1} = \text{update}(c_t, \nabla L(c_t)), \qquad t = 0 \ldots T - 1

    by the update rules of torch.optim, which for plain SGD is :math:`c_t - \eta \, \nabla L(c_t)`.

    Args:
        x: samples, ``(*batch, N)``; any shape with a 1-D `coef`.
        y: targets, as for `polynomial_loss`.
        coef: where to start, ``(*batch, degree + 1)``, lowest degree first. Not changed.
        optimizer: the update rule, one of `polyfit.optimizers`: SGD, Adam, AdamW or RMSprop. Its rate may be a
            schedule.
        epochs: number of updates, each from the gradient of all of the data.
        loss: as for `polynomial_loss`.
        reduction: "mean" or "sum", over everything; the learning rate counts in its units.
        weight: as for `polynomial_loss`.
        basis: as for `polynomial_loss`.
        domain: as for `polynomial_loss`.
        record_every: record the loss after each so many updates, besides the first and the last.
        engine: "auto", "closed_form", "moments" or "stepwise", see the module.
        monitor: called at each record with the epoch, the loss and the coefficients (a copy).
        impl: as for `polynomial_loss`.
        check_stability: refuse SGD at a constant rate that must diverge on the squared loss, before any update. If
            False it is run, and `Training.finite_until` says how far it went.

    Returns:
        A `Training` with the coefficients, the recorded losses and the engine that ran; for the squared loss also the
        optimum and how far from it the run ended.

    Raises:
        TypeError: as for `polynomial_loss`, or counts that are not integers, or an optimizer of another kind.
        ValueError: as for `polynomial_loss`, or counts out of range, an engine that is unknown or does not apply, or a
            rate that must diverge.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    >>> start = torch.zeros(2, dtype=torch.float64)
    >>> result = polyfit.train(x, 3 - x, start, optimizer=polyfit.optimizers.SGD(lr=0.5), epochs=200)
    >>> result.coef
    tensor([ 3.0000, -1.0000], dtype=torch.float64)
    >>> result.engine, result.losses.epochs.tolist()
    ('closed_form', [0, 100, 200])
    >>> result.epochs_to(0.01)
    12

    References:
        The updates are those of torch.optim.
    """
    if not isinstance(optimizer, optimizers.Rule) or isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer is {type(optimizer).__name__}; pass a rule, say polyfit.optimizers.SGD(lr=1e-3)")
    _check_count("epochs", epochs, 0)
    _check_count("record_every", record_every, 1)
    if reduction not in {"mean", "sum"}:
        raise ValueError(f"reduction={reduction!r} cannot be trained on; pass 'mean' or 'sum', which give one loss")
    problem = functional.canonical_problem(
        x.detach(),
        y.detach(),
        coef.detach(),
        loss=loss,
        weight=None if weight is None else weight.detach(),
        reduction=reduction,
        per_series=False,
        basis=basis,
        domain=domain,
        impl=impl,
    )
    if not isinstance(problem.loss, losses.Loss):
        raise TypeError(
            "a loss of your own cannot be trained by an engine; pass one of polyfit.losses, or write the loop"
        )
    engine, _ = explain(optimizer, problem.loss, engine=engine)
    if coef.dim() == 1:
        problem = _as_one_series(problem)
    elif coef.shape[:-1] != problem.batch:
        raise ValueError(
            f"coef has shape {tuple(coef.shape)} and the data are for series {tuple(problem.batch)};"
            f" each trains its own coefficients: pass coef.expand({(*problem.batch, coef.shape[-1])})"
        )
    with torch.no_grad(), ops.without_autocast(x.device):
        scale = _loss_scale(problem, reduction)
        landscape = None
        if isinstance(problem.loss, losses.MSE):
            landscape = quadratic.quadratic(problem, scale)
            if check_stability:
                _check_stability(landscape, optimizer)
        run = _Run(problem, coef, optimizer, epochs, record_every, _Records(monitor))
        if landscape is None or engine == "stepwise":
            final = _stepwise(run, scale)
        elif engine == "moments":
            final = _moments(run, landscape)
        else:
            final = _closed_form(run, landscape)
        return _training(run, final, engine, landscape)


def explain(optimizer: optimizers.Rule, loss: str | losses.Loss = "mse", *, engine: str = "auto") -> tuple[str, str]:
    """The engine that `train` takes for a rule and a loss, and why.

    Args:
        optimizer: the update rule.
        loss: as for `train`.
        engine: as for `train`; one that is named must apply.

    Returns:
        Its name, and a sentence.

    Raises:
        ValueError: an engine or loss that is unknown, or an engine that does not apply.

    >>> explain(optimizers.Adam())
    ('moments', 'the squared loss is a quadratic of the coefficients, on which every rule runs without the data')
    >>> explain(optimizers.SGD(1e-3), "huber")[0]
    'stepwise'
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown; pass one of {', '.join(map(repr, ENGINES))}")
    is_squared = isinstance(losses.resolve(loss), losses.MSE)
    is_affine = isinstance(optimizer, optimizers.SGD) and not isinstance(optimizer.lr, optimizers.Schedule)
    reasons = {
        "closed_form": (
            is_squared and is_affine,
            "descent at a constant rate on a quadratic is an affine map of the coefficients, whose powers are known",
            "it needs the squared loss and SGD at a constant rate",
        ),
        "moments": (
            is_squared,
            "the squared loss is a quadratic of the coefficients, on which every rule runs without the data",
            "it needs the squared loss",
        ),
        "stepwise": (True, "one fused pass over the data an epoch serves every loss and rule", ""),
    }
    for name, (applies, why, lacks) in reasons.items():
        if engine == name and not applies:
            raise ValueError(
                f"engine={engine!r} does not apply: {lacks}; pass engine='auto', which takes the first that does"
            )
        if applies and engine in {"auto", name}:
            return name, why
    raise AssertionError(engine)


def max_stable_lr(
    x: Tensor,
    degree: int,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    basis: str = "power",
    domain: Sequence[float] | None = None,
) -> float:
    r"""The largest learning rate at which gradient descent on the squared error does not diverge.

    .. math:: \eta_{max} = \frac{2}{\lambda_{max}(H)}, \qquad H_{jk} = 2 \sum_n w_n P_j(t_n) P_k(t_n)

    divided by the sum of the weights for "mean". It depends on x and the weights alone, not on y. One pass, in float64.

    Args:
        x: samples of one series, any shape.
        degree: of the polynomial.
        weight: as for `polynomial_loss`.
        reduction: "mean" or "sum".
        basis: as for `polynomial_loss`.
        domain: as for `polynomial_loss`.

    >>> import torch
    >>> max_stable_lr(torch.tensor([-1.0, 1.0]), 1)  # H = 2 I
    1.0

    References:
        Any text on descent: the error along an eigenvector of H with eigenvalue v shrinks by 1 - lr v an update.
    """
    _check_count("degree", degree, 0)
    start = torch.zeros(degree + 1, dtype=x.dtype, device=x.device)
    problem = functional.canonical_problem(
        x.detach().reshape(-1),
        x.detach().reshape(-1),
        start,
        loss="mse",
        weight=None if weight is None else weight.detach().reshape(-1),
        reduction=reduction,
        per_series=False,
        basis=basis,
        domain=domain,
        impl="auto",
    )
    weight_row = None if problem.weight is None else problem.weight[None]
    gram = onepass.gram(problem.x[None], weight_row, degree, problem.mapping, problem.basis)[0]
    largest = float(torch.linalg.eigvalsh(2.0 * gram)[-1]) * _loss_scale(problem, reduction)
    return 2.0 / largest if largest > 0 else math.inf


def _as_one_series(problem: functional.Problem) -> functional.Problem:
    """The problem of a 1-D coef with all samples on one axis; copies them where they do not lie so."""
    if not problem.batch:
        return problem
    shape = (problem.batch.numel(), problem.x.shape[-1])
    x, y, weight = (
        None if tensor is None else tensor.expand(shape).reshape(-1)
        for tensor in (problem.x, problem.y, problem.weight)
    )
    assert x is not None
    assert y is not None
    return problem._replace(x=x, y=y, weight=weight, coef=problem.coef[0], batch=torch.Size(()))


def _loss_scale(problem: functional.Problem, reduction: str) -> float:
    """What the sums over all samples are multiplied with to give the loss."""
    if reduction == "sum":
        return 1.0
    n_series = problem.batch.numel()
    if problem.weight is None:
        return 1.0 / (problem.x.shape[-1] * n_series)
    sharing = n_series if problem.weight.dim() == 1 else 1
    return 1.0 / (float(problem.weight.sum(dtype=torch.float64)) * sharing)


def _check_stability(landscape: quadratic.Quadratic, optimizer: optimizers.Rule) -> None:
    if not isinstance(optimizer, optimizers.SGD) or isinstance(optimizer.lr, optimizers.Schedule):
        return
    values = landscape.eigenvalues()
    if quadratic.is_stable(optimizer, values, optimizer.lr):
        return
    largest = quadratic.largest_stable_lr(optimizer, values)
    raise ValueError(
        f"lr={optimizer.lr:g} must diverge on these data: the largest stable rate is {largest:.6g}. Pass a smaller one,"
        " or check_stability=False to see it diverge"
    )


class _Records:
    """Losses on the way, each handed to the monitor."""

    def __init__(self, monitor: Monitor | None) -> None:
        self.epochs: list[int] = []
        self.values: list[float | Tensor] = []
        self._monitor = monitor

    def add(self, epoch: int, value: float | Tensor, coef: Callable[[], Tensor]) -> None:
        """One more; coef makes a copy of the coefficients, which only a monitor costs."""
        self.epochs.append(epoch)
        self.values.append(value)
        if self._monitor is not None:
            self._monitor(epoch, float(value), coef())

    def add_all(self, epochs: list[int], values: list[float], coef: Callable[[int], Tensor]) -> None:
        """All of a run at once."""
        self.epochs, self.values = epochs, list(values)
        if self._monitor is not None:
            for i, (epoch, value) in enumerate(zip(epochs, values, strict=True)):
                self._monitor(epoch, value, coef(i))

    def losses(self) -> Losses:
        """All so far."""
        if self.values and isinstance(self.values[0], Tensor):
            values = torch.stack([torch.as_tensor(value) for value in self.values]).to("cpu", torch.float64)
        else:
            values = torch.tensor(self.values, dtype=torch.float64)
        return Losses(torch.tensor(self.epochs), values)


class _Run(NamedTuple):
    """What all engines are given."""

    problem: functional.Problem
    coef: Tensor  # as the caller passed it
    optimizer: optimizers.Rule
    epochs: int
    record_every: int
    records: _Records

    @property
    def start(self) -> solver.Array:
        """Coefficients (S, p) to start from, in float64."""
        return to_array(self.problem.coef).reshape(-1, self.coef.shape[-1])

    def tensor(self, coef: solver.Array) -> Tensor:
        """Coefficients (S, p) as the caller has them."""
        return quadratic.tensor(coef, self.coef, self.coef.shape)

    @property
    def recorded(self) -> list[int]:
        """The epochs to record."""
        return [*range(0, self.epochs, self.record_every), self.epochs]


def _closed_form(run: _Run, landscape: quadratic.Quadratic) -> Tensor:
    """All recorded epochs at once."""
    assert isinstance(run.optimizer, optimizers.SGD)
    epochs = run.recorded
    path = quadratic.closed_form(landscape, run.start, run.optimizer, epochs)
    run.records.add_all(epochs, landscape.losses(path).tolist(), lambda i: run.tensor(path[i]))
    return run.tensor(path[-1])


def _moments(run: _Run, landscape: quadratic.Quadratic) -> Tensor:
    """Update by update on the quadratic."""

    def record(epoch: int, coef: solver.Array) -> None:
        run.records.add(epoch, float(landscape.losses(coef)), lambda: run.tensor(coef))

    return run.tensor(quadratic.descend(landscape, run.start, run.optimizer, run.epochs, run.record_every, record))


def _stepwise(run: _Run, scale: float) -> Tensor:
    """One fused pass over the data an epoch."""
    problem, optimizer, records = run.problem, run.optimizer, run.records
    assert isinstance(problem.loss, losses.Loss)
    coef = problem.coef.clone(memory_format=torch.contiguous_format).view(-1, run.coef.shape[-1])
    pass_over_data = ops.bound_objective(
        problem.x,
        problem.y,
        problem.weight,
        coef,
        problem.mapping,
        problem.basis,
        problem.loss,
        problem.impl,
        scale,
    )

    def record(epoch: int, value: Tensor | None) -> None:
        assert value is not None
        records.add(epoch, value.sum(), lambda: coef.clone().view(run.coef.shape))

    state = optimizer.start(torch.zeros_like(coef))
    for first in range(0, run.epochs, run.record_every):
        rows = optimizers.table(optimizer, first, min(first + run.record_every, run.epochs)).tolist()
        for epoch, row in enumerate(rows, start=first):
            value, gradient = pass_over_data(coef, epoch == first)
            if epoch == first:
                record(epoch, value)
            coef, state = optimizer.step(coef, gradient.to(coef.dtype), state, *row)
    record(run.epochs, pass_over_data(coef, True)[0])
    return coef.view(run.coef.shape)


def _training(run: _Run, coef: Tensor, engine: str, landscape: quadratic.Quadratic | None) -> Training:
    recorded = run.records.losses()
    is_finite = recorded.values.isfinite()
    finite_until = None
    if not bool(is_finite.all()):
        first = int(is_finite.logical_not().nonzero()[0])
        finite_until = int(recorded.epochs[first - 1]) if first else -1
    result = Training(coef, recorded, run.epochs, engine, finite_until=finite_until)
    if landscape is None:
        return result
    values = landscape.eigenvalues()
    least = float(values.min())
    result = replace(
        result,
        optimum=run.tensor(landscape.reference),
        optimal_loss=float(landscape.losses(landscape.reference)),
        condition=float(values.max()) / least if least > 0.0 else math.inf,
    )
    rule = run.optimizer
    if not isinstance(rule, optimizers.SGD) or isinstance(rule.lr, optimizers.Schedule):
        return result
    return replace(
        result,
        max_stable_lr=quadratic.largest_stable_lr(rule, values),
        slowest_rate=quadratic.spectral_radius(rule, values, rule.lr),
    )
