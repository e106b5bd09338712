"""The state of a run, and how a run is resumed from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.training.engines import Engine, State
from polyfit.training.request import Plan
from polyfit.training.supervision import Supervisor

_VERSION = 2


def _settings(plan: Plan) -> dict[str, Any]:
    """The arguments that must be the same when a run is resumed."""
    request = plan.request
    return {
        "optimizer": repr(request.optimizer),
        "loss": repr(plan.problem.model.loss),
        "reduction": request.reduction,
        "per_series": request.per_series,
        "basis": request.basis,
        "domain": plan.problem.domain,
        "record_every": request.record_every,
        "batch_size": request.batch_size,
        "seed": request.seed,
        "coef.shape": tuple(request.coef.shape),
        "coef.dtype": str(request.coef.dtype),
    }


def _as_tensor(values: Any) -> Tensor:
    return values.clone() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _lr_scale(plan: Plan) -> Tensor | None:
    """The factors of the rate, one for each series, (S,)."""
    return None if plan.lr_scale is None else torch.from_numpy(plan.lr_scale.copy()).squeeze(1)


def state_dict(plan: Plan, state: State[Any], supervisor: Supervisor) -> dict[str, Any]:
    """Everything that a run is resumed from: tensors, numbers, strings."""
    return {
        "version": _VERSION,
        "engine": plan.choice.engine,
        "epoch": state.epoch,
        "settings": _settings(plan),
        "lr_scale": _lr_scale(plan),
        "early_stopping": repr(plan.request.early_stopping),
        "coef": _as_tensor(state.coef),
        "memory": [_as_tensor(part) for part in state.memory],
        "supervisor": supervisor.state(),
    }


def resumed(
    plan: Plan, resume: dict[str, Any], engine: Engine[Any], supervisor: Supervisor, start: State[Any]
) -> State[Any]:
    """The state to go on from. The supervisor takes over its records.

    Args:
        plan: of the new run.
        resume: the result of `state_dict` of an earlier run.
        engine: of the new run.
        supervisor: of the new run.
        start: the state before the first update.
    """
    for name, value in _settings(plan).items():
        was = resume["settings"].get(name)
        if was != value:
            raise ValueError(f"the state is of a run with {name}={was}, not {value}; pass what it was begun with")
    _check_lr_scale(resume.get("lr_scale"), _lr_scale(plan))
    epochs = plan.request.epochs
    if resume["epoch"] > epochs:
        raise ValueError(f"the state is of epoch {resume['epoch']}, beyond epochs={epochs}; pass as many, or more")
    if plan.choice.engine == "closed_form":  # which begins again at no cost
        return start
    continues = repr(plan.request.early_stopping) != resume["early_stopping"]
    supervisor.load(resume["supervisor"], resume["epoch"], continues=continues)
    return engine.load(resume["epoch"], resume["coef"], resume["memory"])


def _check_lr_scale(was: Tensor | None, now: Tensor | None) -> None:
    """The factors of the rate must be the same, series by series."""
    if was is None and now is None:
        return
    if was is None or now is None or not torch.equal(was, now):
        raise ValueError(
            f"the state is of a run with lr_scale={_shown(was)}, not {_shown(now)}; pass the factors that it was begun"
            " with, in the same order"
        )


def _shown(lr_scale: Tensor | None) -> str:
    """Factors in a message: all of few, the first of many."""
    if lr_scale is None:
        return "None"
    values = ", ".join(f"{value:g}" for value in lr_scale[:5].tolist())
    return f"[{values}{', ...' if len(lr_scale) > 5 else ''}]"
