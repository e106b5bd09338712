r"""The quadratic of a run, compared with the data at the start, and the engine that the run takes after that.

The comparison is a last safeguard: a quadratic that lost its digits would give wrong numbers in every epoch. With the
loss as a squared length, L = |V c - y|**2, rounding moves its root by at most ::

    | sqrt(L of the quadratic) - sqrt(L of the data) | <= u (|y| + sum_k |c_k| |P_k|)
    |y| <= sqrt(L of the data) + sum_k |c_k| |P_k|

in lengths |.| over the samples, weights included; |P_k|**2 is half of H_kk. A basis function that happens to be small
on the samples has roundings of those before it, so the largest |P_j|, j <= k, stands for |P_k|. u is the share
that rounding may cost: see `_unit`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import formula, losses, optimizers
from polyfit._problem import Problem
from polyfit.backends import operators, select
from polyfit.backends.chunked import plain_loss
from polyfit.backends.results import Wants
from polyfit.least_squares.algebra import Array, to_array
from polyfit.training.choice import Choice, choose
from polyfit.training.quadratic import Quadratic, is_few, make_quadratic
from polyfit.training.request import Plan, Request, engine_of_state, make_plan

_EPS = float(np.finfo(np.float64).eps)
# Roundings of a polynomial of p coefficients, in units of p**2: 4 p of a recurrence, and one of t, which p**2 times as
# large a derivative amplifies (A. A. Markov's inequality).
_ROUNDINGS = 8.0
# The quadratic may lose half of the digits of float64: to powers of x far from zero, or to samples on which basis
# functions are nearly dependent. It lost at most 6 digits, to 3e-10, in 900 runs of tests/attack/training_attack.py
# (`tests/attack/run.py --seed 101 --kinds train`, 2026-11-26). Where the data barely determine the coefficients (N near
# p, 700 draws), recorded losses were off by up to 1.7e-5 of themselves, and coefficients by 8e-10 (2026-11-27).
_OF_QUADRATIC = math.sqrt(_EPS)


def checked_plan(plan: Plan) -> tuple[Plan, Quadratic | None]:
    """The plan of a run and its quadratic: None for other losses, and where it disagrees with the data at the start.

    "auto" then takes an engine that runs on the data.

    Raises:
        ValueError: an engine was asked for that runs on the quadratic, and it disagrees; or it overflows.
    """
    if not isinstance(plan.problem.model.loss, losses.MSE):
        return plan, None
    quadratic = make_quadratic(plan.scaled, plan.scale)
    disagreement = _disagreement(plan, quadratic)
    if disagreement is None:
        return plan, quadratic
    request = plan.request
    choice = choose(
        plan.problem,
        plan.rule,
        engine=engine_of_state(request.engine, request.resume),
        batch_size=request.batch_size,
        disagreement=disagreement,
    )
    return dataclasses.replace(plan, choice=choice), None


def _disagreement(plan: Plan, quadratic: Quadratic) -> str | None:
    """How the losses of the quadratic at the start differ from those of the data beyond rounding; None if they do not.

    Losses that overflow in the pass over the data are not compared.
    """
    problem, start = plan.scaled, plan.start
    of_data, of_quadratic = _losses_of_data(problem, plan.scale), quadratic.losses(start)
    with np.errstate(all="ignore"):
        lengths = np.sqrt(0.5 * np.diagonal(quadratic.hessian, axis1=1, axis2=2))
        of_terms = (np.abs(start) * np.maximum.accumulate(lengths, 1)).sum(1)
        roots = np.sqrt(of_data), np.sqrt(of_quadratic)
        dtype = formula.compute_dtype(problem.x.dtype)
        allowed = _unit(dtype, start.shape[1]) * (roots[0] + 2.0 * of_terms) + _smallest(dtype)
        differs = np.isfinite(of_data) & np.isfinite(allowed) & ~(np.abs(roots[1] - roots[0]) <= allowed)
    if not differs.any():
        return None
    worst = int(differs.argmax())
    which = "" if len(differs) == 1 else f" in {int(differs.sum())} of {len(differs)} series, first in number {worst}"
    return (
        f"at the start the quadratic gives the loss {of_quadratic[worst]:.6g} where the data give"
        f" {of_data[worst]:.6g}{which}"
    )


def _losses_of_data(problem: Problem, scale: float) -> Array:
    """The losses (S,) at the start, from the data."""
    if problem.coef.dim() == 1 and is_few(problem):  # without a product of matrices, which may wake all threads
        dtype = formula.compute_dtype(problem.x.dtype)
        x, y, coef, weight = (
            part if part is None else part.to(dtype) for part in (problem.x, problem.y, problem.coef, problem.weight)
        )
        value, _ = plain_loss.loss(x, y, coef, weight, problem.model, "sum", Wants())  # pyright: ignore[reportArgumentType]
        return np.array([float(value) * scale])
    impl = "torch" if problem.impl == "compile" else problem.impl
    sums = operators.objective(
        problem.x, problem.y, problem.coef, problem.weight, None, problem.model, impl, Wants(), scale=scale
    )
    assert sums.value is not None
    return to_array(sums.value)


def _unit(dtype: torch.dtype, size: int) -> float:
    """What rounding makes of a polynomial of so many coefficients, relative to its terms.

    The pass over the data rounds in `dtype`, and the quadratic in float64.
    """
    return _ROUNDINGS * size**2 * torch.finfo(dtype).eps + _OF_QUADRATIC


def _smallest(dtype: torch.dtype) -> float:
    """Residuals below this have squares that lose digits."""
    return math.sqrt(torch.finfo(dtype).tiny / torch.finfo(dtype).eps)


def explain(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    coef: ArrayLike | Tensor,
    *,
    optimizer: optimizers.Rule,
    **options: Any,
) -> Choice:
    """The engine that `train` takes for these arguments, and why. Nothing is trained.

    For the squared loss it takes the passes over the data that `train` begins with.

    Args:
        x: as for `train`.
        y: as for `train`.
        coef: as for `train`.
        optimizer: as for `train`.
        options: all other arguments of `train`; the number of epochs may be left out.

    Returns:
        A `Choice`: the engine, and the reason in a sentence.

    Raises:
        TypeError: as for `train`.
        ValueError: as for `train`: an engine that does not apply, for example.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 101)
    >>> polyfit.training.explain(x, x**2, torch.zeros(3), optimizer=polyfit.optimizers.SGD(0.1), loss="huber")
    Choice(engine='stepwise', reason='one pass over the data an epoch serves every loss, every rule, and batches')
    """
    request = Request.of(x=x, y=y, coef=coef, optimizer=optimizer, **options)
    with torch.no_grad(), select.without_autocast(request.x.device):
        return checked_plan(make_plan(request))[0].choice
