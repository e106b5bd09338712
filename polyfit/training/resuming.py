"""The state of a run, and how a run is resumed from it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit import optimizers
from polyfit.training.engines import Engine, State
from polyfit.training.request import Plan
from polyfit.training.result import Reason
from polyfit.training.supervision import Supervisor

_VERSION = 3


def _settings(plan: Plan) -> dict[str, Any]:
    """The arguments that must be the same when a run is resumed."""
    request = plan.request
    return {
        "optimizer": _described(request.optimizer),
        "loss": repr(plan.problem.model.loss),
        "reduction": request.reduction,
        "per_series": request.per_series,
        "basis": request.basis,
        "domain": plan.problem.domain,
        "record_every": request.record_every,
        "batch_size": request.batch_size,
        "seed": request.seed,
        "x.shape": tuple(plan.problem.x.shape),
        "y.shape": tuple(plan.problem.y.shape),
        "coef.shape": tuple(request.coef.shape),
        "coef.dtype": str(request.coef.dtype),
    }


def _described(rule: optimizers.Rule) -> str:
    """A rule as text; a schedule without a text of its own has its class, as its address is another in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(rule))


def _rates(plan: Plan, epoch: int) -> list[tuple[int, float]]:
    """The rates of some epochs before this one: the first ones, then at powers of two, and the last."""
    epochs = sorted({*range(min(epoch, 16)), *(1 << i for i in range(epoch.bit_length() - 1)), max(epoch - 1, 0)})
    lr = plan.rule.lr
    if optimizers.is_schedule(lr):
        return [(at, float(lr.rate(at))) for at in epochs]
    return [(at, float(lr)) for at in epochs]


def _checksums(plan: Plan) -> dict[str, int | None]:
    """A number for the bits of each operand, the same on every device; None for one that is not given."""
    problem = plan.problem
    operands = {"x": problem.x, "y": problem.y, "weight": problem.weight, "coef": torch.from_numpy(plan.start)}
    return {name: None if tensor is None else _checksum(tensor) for name, tensor in operands.items()}


class Resumable:
    """The state of a run that has ended. It is made when it is first asked for, which most runs are not.

    Args:
        plan: of the run.
        state: where it ended.
        supervisor: of the run.
    """

    def __init__(self, plan: Plan, state: State[Any], supervisor: Supervisor) -> None:
        self._run: Any = plan, state, supervisor
        self._versions = _versions(plan)
        self._values: dict[str, Any] = {}
        self._changed = ""

    @property
    def values(self) -> dict[str, Any]:
        """Everything that a run is resumed from: tensors, numbers, strings.

        Raises:
            RuntimeError: the data of the run were changed in place.
        """
        self._make()
        if self._changed:
            raise RuntimeError(
                f"{self._changed} was changed in place after the run: its state is not known any more; call"
                " state_dict() before that, or train on a copy"
            )
        return self._values

    def _make(self) -> None:
        if self._run is None:
            return
        now = _versions(self._run[0])
        self._changed = ", ".join(name for name, version in self._versions.items() if now[name] != version)
        if not self._changed:
            self._values = state_dict(*self._run)
        self._run = None

    def __getstate__(self) -> dict[str, Any]:
        """The values alone: a copy of a result does not hold the data."""
        self._make()
        return self.__dict__


def _versions(plan: Plan) -> dict[str, int]:
    """How often torch has written to each operand; 0 for a tensor that does not count."""
    named = {"x": plan.problem.x, "y": plan.problem.y, "weight": plan.problem.weight}
    return {name: 0 if part is None or part.is_inference() else part._version for name, part in named.items()}


# Elements that are multiplied at a time: 2 MB of int64, which a cache holds.
_CHUNK = 1 << 18


def _checksum(tensor: Tensor) -> int:
    """The sum of (2 i + 1) bits_i over the elements i, modulo 2**64: any change of one element changes it."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.reshape(-1).view(integers)
    factors = torch.arange(1, 2 * min(_CHUNK, bits.numel()), 2, dtype=torch.int64, device=bits.device)
    total = 0
    for first in range(0, bits.numel(), _CHUNK):
        part = bits[first : first + _CHUNK].long()
        total += int((part * (factors[: len(part)] + 2 * first)).sum())
    return (total + 2**63) % 2**64 - 2**63  # as an int64


def _as_tensor(values: Any) -> Tensor:
    return values.clone() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _lr_scale(plan: Plan) -> Tensor | None:
    """The factors of the rate, one for each series, (S,)."""
    return None if plan.lr_scale is None else torch.from_numpy(plan.lr_scale.copy()).squeeze(1)


def state_dict(plan: Plan, state: State[Any], supervisor: Supervisor) -> dict[str, Any]:
    """See `Resumable`."""
    return {
        "version": _VERSION,
        "engine": plan.choice.engine,
        "epoch": state.epoch,
        "settings": _settings(plan),
        "rates": _rates(plan, state.epoch),
        "lr_scale": _lr_scale(plan),
        "early_stopping": repr(plan.request.early_stopping),
        "coef": _as_tensor(state.coef),
        "memory": [_as_tensor(part) for part in state.memory],
        "supervisor": supervisor.state(),
        "checksums": _checksums(plan),
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
    _check_version(resume)
    for name, value in _settings(plan).items():
        was = _part(resume, "settings", dict).get(name)
        if was != value:
            raise ValueError(f"the state is of a run with {name}={was}, not {value}; pass what it was begun with")
    _check_lr_scale(resume.get("lr_scale"), _lr_scale(plan))
    sums = _part(resume, "checksums", dict)
    for name, value in _checksums(plan).items():
        if sums.get(name) != value:
            raise ValueError(
                f"the state is of a run with another {name}: its values differ; pass the {name} that it was begun with"
            )
    for pair in _part(resume, "rates", list):
        if len(pair) != 2 or not all(isinstance(number, (int, float)) for number in pair):
            raise _damaged(f"'rates' holds {pair!r}")
        epoch, was = pair
        value = float(optimizers.rate(plan.rule.lr, epoch))
        if was != value:
            raise ValueError(
                f"the state is of a run whose rate at epoch {epoch} was {was:g}, not {value:g}; pass the schedule that"
                " it was begun with"
            )
    _check_tensors(plan, resume, len(start.memory))
    epochs = plan.request.epochs
    if resume["epoch"] > epochs:
        raise ValueError(f"the state is of epoch {resume['epoch']}, beyond epochs={epochs}; pass as many, or more")
    if plan.choice.engine == "closed_form":  # which begins again at no cost
        return start
    continues = repr(plan.request.early_stopping) != resume["early_stopping"]
    supervisor.load(resume["supervisor"], resume["epoch"], continues=continues)
    return engine.load(resume["epoch"], resume["coef"], resume["memory"])


def _check_version(resume: dict[str, Any]) -> None:
    version = resume.get("version")
    if version != _VERSION:
        raise ValueError(
            f"the state is of version {version!r}, and this polyfit reads version {_VERSION}; begin the run anew, from"
            " its last coefficients, say"
        )


def _damaged(what: str) -> ValueError:
    return ValueError(f"the state is damaged: {what}; pass what Training.state_dict() gave, unchanged")


def _part(state: dict[str, Any], name: str, kind: type) -> Any:
    """An entry of a state."""
    value = state.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _damaged(f"{name!r} is missing" if value is None else f"{name!r} is {type(value).__name__}")
    return value


def _check_tensors(plan: Plan, resume: dict[str, Any], n_memory: int) -> None:
    """Refuse a state whose tensors are not those of a run of this plan."""
    shape = plan.start.shape
    n_groups = plan.n_series if plan.request.per_series else 1
    if plan.choice.engine != "closed_form":
        memory = _part(resume, "memory", list)
        if len(memory) != n_memory:
            raise _damaged(f"'memory' has {len(memory)} tensors in place of {n_memory}")
        for name, tensor in [("coef", resume.get("coef")), *((f"memory[{i}]", part) for i, part in enumerate(memory))]:
            _check_one(name, tensor, shape, torch.float32, torch.float64)
    if _part(resume, "epoch", int) < 0:
        raise _damaged(f"'epoch' is {resume['epoch']}")
    _part(resume, "early_stopping", str)
    records = _part(resume, "supervisor", dict)
    epochs = records.get("epochs")
    n_records = len(epochs) if isinstance(epochs, Tensor) and epochs.dim() == 1 else 0
    _check_one("epochs", epochs, (n_records,), torch.int64)
    _check_one("values", records.get("values"), (n_records, n_groups), torch.float64)
    for name, dtype in _OF_GROUPS.items():
        _check_one(name, records.get(name), (n_groups,), dtype)
    if not set(records["reasons"].tolist()) <= set(Reason):
        raise _damaged("'reasons' holds unknown codes")
    if records.get("path") is not None:
        _check_one("path", records["path"], (n_records, *plan.request.coef.shape), plan.request.coef.dtype)


_OF_GROUPS = {"updates": torch.int64, "reasons": torch.int8, "best": torch.float64, "best_epoch": torch.int64}


def _check_one(name: str, tensor: Any, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    if not isinstance(tensor, Tensor):
        raise _damaged(f"{name!r} is {'missing' if tensor is None else type(tensor).__name__}")
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype not in dtypes:
        raise _damaged(f"{name!r} is {tensor.dtype} of shape {tuple(tensor.shape)} in place of {tuple(shape)}")


def _check_lr_scale(was: Any, now: Tensor | None) -> None:
    """The factors of the rate must be the same, series by series."""
    if was is None and now is None:
        return
    if was is not None and not isinstance(was, Tensor):
        raise _damaged(f"'lr_scale' is {type(was).__name__}")
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
