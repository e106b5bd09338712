"""What every engine has: a state, and methods that take it from one epoch to another."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor

from polyfit.optimizers import Array, Values
from polyfit.training.supervision import DivergenceFinder, Mask, Observer, Supervisor, Unobserved


@dataclass(frozen=True)
class State(Generic[Values]):
    """Where a run is. Coefficients are arrays of numpy, or tensors, whichever the engine computes with.

    Attributes:
        epoch: number of epochs made.
        coef: coefficients (S, p).
        memory: of the update rule, (S, p) each.
    """

    epoch: int
    coef: Values
    memory: tuple[Values, ...]

    def with_coef(self, coef: Values) -> State[Values]:
        """The same with other coefficients."""
        return dataclasses.replace(self, coef=coef)


class Engine(ABC, Generic[Values]):
    """How coefficients get from one epoch to another.

    The result does not depend on how the epochs of a run are divided among calls of `run`.

    Attributes:
        anchor: a state, at the last record or before it, in which every series that still runs was finite.
    """

    anchor: State[Values] | None = None

    @abstractmethod
    def start(self, coef: Array) -> State[Values]:
        """The state before the first update, for coefficients (S, p) in float64."""

    @abstractmethod
    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State[Values]:
        """The state that the tensors of an earlier run stand for."""

    @abstractmethod
    def run(self, state: State[Values], until: int, observer: Observer) -> State[Values]:
        """Make the epochs up to number `until`, or until the observer ends the run. `state` does not change."""

    @abstractmethod
    def losses(self, coef: Values) -> Array:
        """The losses (S,) of coefficients."""

    @abstractmethod
    def put(self, coef: Values, rows: Mask, values: Values) -> Values:
        """A copy of coefficients (S, p) in which some rows are replaced."""

    def settle(
        self,
        supervisor: Supervisor,
        state: State[Values],
        seen: int,
        series: Mask,
        anchor: State[Values] | None = None,
    ) -> Values:
        """Coefficients in which each series that became NaN or infinite is as it was at that epoch.

        The records show only that it happened between two of them. The epochs from the last record on are made again,
        one by one, to find the epoch of each series; the supervisor is given it.

        Args:
            supervisor: of the run.
            state: of the run.
            seen: the epoch of the record that showed it.
            series: which series (S,).
            anchor: where to begin; by default `Engine.anchor`.
        """
        kept, anchor = self.anchor, anchor or self.anchor
        if anchor is None or anchor.epoch >= seen:  # the first record shows it
            return state.coef
        before = max(anchor.epoch, (seen - 1) // supervisor.every * supervisor.every)
        finder = DivergenceFinder(supervisor.totals)
        self.run(self.run(anchor, before, Unobserved()), seen, finder)
        self.anchor = kept
        groups = supervisor.groups(series)
        first = np.full(len(groups), -1) if finder.first is None else finder.first
        supervisor.set_divergence(groups, np.where(first < 0, seen, first))
        if finder.coef is None:
            return state.coef
        rows = series & np.broadcast_to(first >= 0, len(series))
        return self.put(state.coef, rows, finder.coef[rows])


def next_record(epoch: int, every: int) -> int:
    """The first multiple of `every` from an epoch on."""
    return -(-epoch // every) * every


def n_records(first: int, stop: int, every: int) -> int:
    """The number of multiples of `every` from `first` on and before `stop`."""
    return len(range(next_record(first, every), stop, every))


# --- arrays and tensors alike ---


def as_array(values: Any) -> Array:
    """Values of an engine as an array in float64 on the CPU."""
    return values.double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def copied_like(values: Any, zeros: Values) -> Values:
    """A copy of values as an array or a tensor, whichever `zeros` is, with its dtype and on its device."""
    if isinstance(zeros, Tensor):
        return (values if isinstance(values, Tensor) else torch.from_numpy(values)).to(zeros, copy=True)
    return np.array(values.numpy() if isinstance(values, Tensor) else values, dtype=zeros.dtype)


def chosen(mask: Any, kept: Values, new: Values) -> Values:
    """`kept` where the mask is set, `new` elsewhere."""
    if isinstance(kept, Tensor):
        assert isinstance(new, Tensor)
        return torch.where(mask, kept, new)
    assert not isinstance(new, Tensor)
    return np.where(mask, kept, new)


def with_rows(values: Values, rows: Mask, new: Values) -> Values:
    """Values (S, p), overwritten in the rows of a mask (S,)."""
    if isinstance(values, Tensor):
        values[torch.from_numpy(rows.copy()).to(values.device)] = new
    else:
        values[rows] = new
    return values


def gradient_norms(gradient: Any) -> Array:
    """Euclidean norms (S,) of gradients (S, p)."""
    if isinstance(gradient, Tensor):
        return gradient.double().norm(dim=1).cpu().numpy()
    with np.errstate(all="ignore"):  # the loss shows that a run diverges
        return np.linalg.norm(gradient.astype(np.float64), axis=1)
