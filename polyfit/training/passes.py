"""The functions that engines run on: losses and gradients from the data, from their quadratic, and from batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit._problem import Problem
from polyfit.backends import operators
from polyfit.backends.results import Wants
from polyfit.optimizers import Array
from polyfit.training.engines import Batches, Pass
from polyfit.training.quadratic import Quadratic
from polyfit.training.request import Plan, scaled_problem


def data_pass(problem: Problem, scale: float) -> tuple[Pass, Any]:
    """Losses and gradient by one fused pass over the data, and zeros in the shape of the coefficients.

    On a CPU coefficients are arrays of numpy: for a handful of numbers its calls cost half of those of torch.
    """
    shape = (1, *problem.coef.shape) if problem.coef.dim() == 1 else tuple(problem.coef.shape)
    dtype = torch.float64 if problem.coef.dtype == torch.float64 else torch.float32
    held = torch.zeros(shape, dtype=dtype, device=problem.x.device)
    bound, gradient_alone = operators.bound_objective(
        problem.x, problem.y, problem.weight, held, problem.model, problem.impl, scale
    )
    if held.device.type != "cpu":

        def on_device(coef: Any, want_losses: bool) -> tuple[Any, Any]:
            losses, gradient = bound(coef, want_losses)
            return losses, gradient.to(dtype)

        return on_device, held
    view = held.numpy()

    def on_cpu(coef: Any, want_losses: bool) -> tuple[Any, Any]:
        losses = gradient = None
        if want_losses or gradient_alone is None:
            np.copyto(view, coef)
            losses, of_torch = bound(held, want_losses)
            gradient = of_torch.numpy()
        if gradient_alone is not None:  # the same operations in every epoch, whether it is recorded or not
            gradient = gradient_alone(coef)
        assert gradient is not None
        return losses, gradient.astype(view.dtype, copy=False)

    return on_cpu, np.zeros(shape, view.dtype)


def quadratic_pass(quadratic: Quadratic) -> Pass:
    """Losses and gradient of the squared loss from its quadratic, without the data."""

    def measure(coef: Any, want_losses: bool) -> tuple[Any, Any]:
        return quadratic.losses(coef) if want_losses else None, quadratic.gradients(coef)

    return measure


def shuffled(n_samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch, counted from 0, takes the samples. Its batches are consecutive parts of it.

    It depends on nothing else, so that a run can be cut at any epoch.

    >>> shuffled(5, seed=0, epoch=0).tolist()
    [2, 4, 3, 0, 1]
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n_samples))


def batches(plan: Plan, zeros: Any, batch_size: int) -> Batches:
    """The gradients of the batches of an epoch, each by one pass over its samples.

    Args:
        plan: of the run.
        zeros: an array or a tensor like the coefficients of the engine.
        batch_size: samples of a batch.
    """
    problem, request = plan.problem, plan.request
    n_samples, shape = problem.x.shape[-1], problem.coef.shape

    def of_epoch(epoch: int) -> Iterator[Callable[[Any], Any]]:
        order = shuffled(n_samples, request.seed, epoch).to(problem.x.device)
        x, y, weight = (
            None if part is None else part.index_select(-1, order) for part in (problem.x, problem.y, problem.weight)
        )
        assert x is not None
        assert y is not None
        for first in range(0, n_samples, batch_size):
            cut = slice(first, first + batch_size)
            part = problem._replace(x=x[..., cut], y=y[..., cut], weight=None if weight is None else weight[..., cut])
            scaled, scale = scaled_problem(part, request.reduction, per_series=request.per_series)
            yield lambda coef, scaled=scaled, scale=scale: _gradient(scaled, scale, coef, shape, zeros)

    return of_epoch


def _gradient(problem: Problem, scale: float, coef: Any, shape: torch.Size, zeros: Any) -> Any:
    """The gradient at coefficients (S, p) of an engine, like `zeros`."""
    values = (coef if isinstance(coef, Tensor) else torch.from_numpy(coef)).to(problem.x.dtype).view(shape)
    sums = operators.objective(
        problem.x, problem.y, values, problem.weight, None, problem.model, problem.impl, Wants(coef=True), scale=scale
    )
    assert sums.grad_coef is not None
    return sums.grad_coef.to(zeros) if isinstance(zeros, Tensor) else _like(sums.grad_coef, zeros)


def _like(values: Tensor, zeros: Array) -> Array:
    return values.numpy().astype(zeros.dtype, copy=False)
