"""Training the coefficients of a polynomial by full-batch descent.

One engine so far:

- **stepwise**: one fused pass over the data an epoch. Data that fit into one chunk have their basis functions laid out
  once, so that an epoch is a handful of small operations.

Epochs are counted in updates: the loss recorded at epoch t is that of the coefficients after t updates, so epoch 0 is
the start and the last record belongs to the coefficients returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit import functional, losses, onepass, ops, optimizers

ENGINES = ("auto", "stepwise")

Monitor = Callable[[int, float, Tensor], object]


class Losses(NamedTuple):
    """The recorded losses.

    Attributes:
        epochs: numbers of updates after which a loss was recorded, (records,) int64, on the CPU.
        values: the losses, (records,) float64, on the CPU.
    """

    epochs: Tensor
    values: Tensor


@dataclass(frozen=True)
class Training:
    """What a run of `train` reached.

    Attributes:
        coef: coefficients after the last update, lowest degree first.
        losses: the recorded losses, from epoch 0 to the last.
        epochs: number of updates made.
        engine: the engine that ran.
    """

    coef: Tensor
    losses: Losses
    epochs: int
    engine: str

    @property
    def loss(self) -> float:
        """The loss of `coef`."""
        return float(self.losses.values[-1])


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
    optimizer: optimizers.SGD,
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
) -> Training:
    r"""Minimise `polyfit.polynomial_loss` over the coefficients by full-batch descent.

    .. math:: c_{t+1} = c_t - \eta \, \nabla L(c_t), \qquad t = 0 \ldots T - 1

    with the arithmetic of an eager loop: the gradient in the dtype of `coef`, then the update rule of torch.optim.

    Args:
        x: samples, ``(*batch, N)``; any shape with a 1-D `coef`.
        y: targets, as for `polynomial_loss`.
        coef: where to start, ``(*batch, degree + 1)``, lowest degree first. Not changed.
        optimizer: the update rule, `polyfit.optimizers.SGD`.
        epochs: number of updates, each from one pass over all of the data.
        loss: as for `polynomial_loss`.
        reduction: "mean" or "sum", over everything; the learning rate counts in its units.
        weight: as for `polynomial_loss`.
        basis: as for `polynomial_loss`.
        domain: as for `polynomial_loss`.
        record_every: record the loss after each so many updates, besides the first and the last.
        engine: "auto" or "stepwise".
        monitor: called at each record with the epoch, the loss and the coefficients (a detached copy).
        impl: as for `polynomial_loss`.

    Returns:
        A `Training` with the coefficients, the recorded losses and the engine that ran.

    Raises:
        TypeError: as for `polynomial_loss`, or counts that are not integers, or an optimizer of another kind.
        ValueError: as for `polynomial_loss`, or counts out of range, or an unknown engine.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    >>> start = torch.zeros(2, dtype=torch.float64)
    >>> result = polyfit.train(x, 3 - x, start, optimizer=polyfit.optimizers.SGD(lr=0.5), epochs=200)
    >>> result.coef
    tensor([ 3.0000, -1.0000], dtype=torch.float64)
    >>> result.engine, result.losses.epochs.tolist()
    ('stepwise', [0, 100, 200])

    References:
        The update is torch.optim.SGD's.
    """
    if not isinstance(optimizer, optimizers.SGD):
        raise TypeError(f"optimizer is {type(optimizer).__name__}; pass a rule, say polyfit.optimizers.SGD(lr=1e-3)")
    _check_count("epochs", epochs, 0)
    _check_count("record_every", record_every, 1)
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown; pass one of {', '.join(map(repr, ENGINES))}")
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
    if coef.dim() == 1:
        problem = _as_one_series(problem)
    elif coef.shape[:-1] != problem.batch:
        raise ValueError(
            f"coef has shape {tuple(coef.shape)} and the data are for series {tuple(problem.batch)};"
            f" each trains its own coefficients: pass coef.expand({(*problem.batch, coef.shape[-1])})"
        )
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return _stepwise(problem, coef.shape, _loss_scale(problem, reduction), optimizer, epochs, record_every, monitor)


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


def _stepwise(
    problem: functional.Problem,
    shape: torch.Size,
    scale: float,
    optimizer: optimizers.SGD,
    epochs: int,
    record_every: int,
    monitor: Monitor | None,
) -> Training:
    """One fused pass over the data an epoch."""
    assert isinstance(problem.loss, losses.Loss)
    coef = problem.coef.clone(memory_format=torch.contiguous_format).view(-1, shape[-1])
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
    recorded_at, recorded = [], []

    def record(epoch: int, value: Tensor | None) -> None:
        assert value is not None
        total = value.sum()
        recorded_at.append(epoch)
        recorded.append(total)
        if monitor is not None:
            monitor(epoch, float(total), coef.clone().view(shape))

    for epoch in range(epochs):
        is_recorded = epoch % record_every == 0
        value, gradient = pass_over_data(coef, is_recorded)
        if is_recorded:
            record(epoch, value)
        coef.add_(gradient.to(coef.dtype), alpha=-optimizer.lr)
    record(epochs, pass_over_data(coef, True)[0])
    return Training(
        coef=coef.view(shape),
        losses=Losses(torch.tensor(recorded_at), torch.stack(recorded).to("cpu", torch.float64)),
        epochs=epochs,
        engine="stepwise",
    )
