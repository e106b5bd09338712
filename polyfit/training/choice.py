"""Which engine makes the epochs of a run, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from polyfit import losses, optimizers
from polyfit._checks import check_choice
from polyfit._problem import Problem
from polyfit.backends import triton


class Choice(NamedTuple):
    """An engine, and why it was chosen.

    Attributes:
        engine: its name.
        reason: a sentence.
    """

    engine: str
    reason: str


@dataclass(frozen=True)
class _Candidate:
    """An engine and its conditions.

    Attributes:
        applies: whether it serves a problem, a rule and a batch size.
        reason: why one takes it.
        needs: gives the conditions that are not met, for a problem.
        is_on_quadratic: whether its epochs run on the quadratic in place of the data.
    """

    applies: Callable[[Problem, optimizers.Rule, int | None], bool]
    reason: str
    needs: Callable[[Problem], str]
    is_on_quadratic: bool = False


def _is_squared(problem: Problem) -> bool:
    return isinstance(problem.model.loss, losses.MSE)


def _is_constant_sgd(rule: optimizers.Rule) -> bool:
    return isinstance(rule, optimizers.SGD) and not optimizers.is_schedule(rule.lr)


def _largest_resident(problem: Problem) -> int:
    """The most samples of a series that the registers of a multiprocessor hold."""
    itemsize = 8 if problem.x.dtype == torch.float64 else 4
    return triton.largest_resident(problem.coef.shape[-1] - 1, itemsize, weighted=problem.weight is not None)


_CANDIDATES = {
    "closed_form": _Candidate(
        lambda problem, rule, batch_size: _is_squared(problem) and _is_constant_sgd(rule) and batch_size is None,
        "descent at a constant rate on a quadratic is an affine map of the coefficients, whose powers are known",
        lambda problem: "it needs the squared loss, SGD at a constant rate, and no batches",
        is_on_quadratic=True,
    ),
    "moments": _Candidate(
        lambda problem, rule, batch_size: _is_squared(problem) and batch_size is None,
        "the squared loss is a quadratic of the coefficients, on which every rule runs without the data",
        lambda problem: "it needs the squared loss and no batches",
        is_on_quadratic=True,
    ),
    "resident": _Candidate(
        lambda problem, rule, batch_size: (
            problem.impl == "triton" and batch_size is None and problem.x.shape[-1] <= _largest_resident(problem)
        ),
        "the data of a series stay in the registers of a GPU, and many epochs are one launch",
        lambda problem: (
            "it needs a GPU and Triton, no batches, and at most"
            f" {_largest_resident(problem)} samples of a series for this degree and dtype"
        ),
    ),
    "stepwise": _Candidate(
        lambda problem, rule, batch_size: True,
        "one pass over the data an epoch serves every loss, every rule, and batches",
        lambda problem: "",
    ),
}
ENGINES = ("auto", *_CANDIDATES)


def choose(
    problem: Problem,
    rule: optimizers.Rule,
    *,
    engine: str = "auto",
    batch_size: int | None = None,
    disagreement: str | None = None,
) -> Choice:
    """The first engine that applies; one that is named must apply.

    Args:
        problem: canonical.
        rule: the update rule.
        engine: "auto", or the name of an engine.
        batch_size: samples of a batch, or None for one batch of all.
        disagreement: how the quadratic differs from the data, in a sentence. Engines that run on it then do not apply.
    """
    check_choice("engine", engine, ENGINES)
    left_out: list[str] = []
    for name, candidate in _CANDIDATES.items():
        if engine not in {"auto", name}:
            continue
        if candidate.applies(problem, rule, batch_size):
            if disagreement is None or not candidate.is_on_quadratic:
                return Choice(name, "; ".join([candidate.reason, *left_out]))
            left_out = [f"engines that run on the quadratic do not apply: {disagreement}"]
        if engine == name:
            if not left_out:
                raise ValueError(
                    f"engine={engine!r} does not apply: {candidate.needs(problem)}; pass engine='auto', which takes the"
                    " first that does"
                )
            other = choose(problem, rule, batch_size=batch_size, disagreement=disagreement).engine
            raise ValueError(
                f"engine={engine!r} does not apply: {disagreement}. Pass engine={other!r}, which runs on the data, or a"
                " basis that is well conditioned on the data, such as basis='chebyshev' with domain="
            )
    raise AssertionError(engine)
