"""Descent by a loop of torch.optim on a plain formula, and what a launch must then have left in its buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyfit.optimizers import SGD, Adam, AdamW, RMSprop, Rule

F64 = torch.float64
Optimizer = Callable[[Any], torch.optim.Optimizer]

# Every variant that a kernel compiles, at least once with all its options.
RULES: dict[str, tuple[Rule, Optimizer]] = {
    "plain": (SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "plain, decay": (SGD(0.05, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
    "momentum": (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "dampening, decay": (
        SGD(0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
    ),
    "nesterov, decay": (
        SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "Adam": (Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
    "Adam, all": (
        Adam(0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
    ),
    "AdamW, all": (
        AdamW(0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.2),
    ),
    "RMSprop": (RMSprop(0.02), lambda p: torch.optim.RMSprop(p, lr=0.02)),
    "RMSprop, momentum, decay": (
        RMSprop(0.02, alpha=0.9, weight_decay=0.2, momentum=0.5),
        lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, weight_decay=0.2, momentum=0.5),
    ),
    "RMSprop, centered": (
        RMSprop(0.02, alpha=0.9, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.02, alpha=0.9, centered=True),
    ),
    "RMSprop, all": (
        RMSprop(0.1, alpha=0.7, eps=1e-3, weight_decay=0.2, momentum=0.6, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.7, eps=1e-3, weight_decay=0.2, momentum=0.6, centered=True),
    ),
}
# What torch remembers, in the order in which a kernel does.
_REMEMBERED = ("exp_avg", "exp_avg_sq", "square_avg", "grad_avg", "momentum_buffer")


class Run(NamedTuple):
    """All epochs of a run of S series.

    Attributes:
        losses: ahead of each update, (T, S).
        norms: of the gradients, (T, S), float64.
        path: coefficients after 0, 1, ... T updates, (T + 1, S, p).
        states: what the rule remembers then, (T + 1, S, k, p).
    """

    losses: Tensor
    norms: Tensor
    path: Tensor
    states: Tensor


class Left(NamedTuple):
    """What a launch leaves: records (R, S) of losses and norms, (R, S, p) of coefficients, and where it ends."""

    losses: Tensor
    norms: Tensor
    path: Tensor
    coef: Tensor
    state: Tensor


def eager(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    optimizer: Optimizer,
    epochs: int,
    lr_scale: Sequence[float] | None = None,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
) -> Run:
    """The run that torch makes of losses (S,) of coefficients (S, p), in the dtype of `start`."""
    rows = [row.clone().requires_grad_() for row in start]
    made = optimizer([{"params": [row]} for row in rows])
    for group, factor in zip(made.param_groups, lr_scale or [1.0] * len(rows), strict=True):
        group["lr"] *= factor
    scheduler = None if schedule is None else schedule(made)
    losses, norms, path, states = [], [], [start], []
    for _ in range(epochs):
        made.zero_grad()
        values = loss(torch.stack(rows))
        values.sum().backward()
        losses.append(values.detach())
        norms.append(torch.stack([row.grad.double().norm() for row in rows if row.grad is not None]))
        made.step()
        if scheduler is not None:
            scheduler.step()
        path.append(torch.stack([row.detach().clone() for row in rows]))
        kept = [[made.state[row].get(name) for name in _REMEMBERED] for row in rows]
        states.append(torch.stack([_stacked([part for part in parts if part is not None], start) for parts in kept]))
    states.insert(0, torch.zeros_like(states[0]))
    return Run(torch.stack(losses), torch.stack(norms), torch.stack(path), torch.stack(states))


def _stacked(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack([part.clone() for part in parts]) if parts else like.new_zeros(0, like.shape[1])


def record_epochs(first: int, stop: int, every: int) -> range:
    """The epochs from `first` on and before `stop` that are recorded."""
    return range(math.ceil(first / every) * every, stop, every)


def left_by(run: Run, first: int, last: Sequence[int], every: int) -> Left:
    """What a launch leaves that makes these epochs of the run; NaN where it writes nothing."""
    series = torch.arange(run.path.shape[1])
    ends = torch.tensor(last).clamp(min=first)
    epochs = list(record_epochs(first, max(*last, first), every))
    is_made = torch.tensor(epochs, dtype=torch.int64)[:, None] < torch.tensor(last)
    losses, norms = (torch.where(is_made, part[epochs], torch.nan) for part in (run.losses, run.norms))
    path = torch.where(is_made[..., None], run.path[epochs], torch.nan)
    return Left(losses, norms, path, run.path[ends, series], run.states[ends, series])


class Results:
    """Where a launch writes, with NaN before and behind, and as what there is to begin with."""

    def __init__(self, n_records: int, coef: Tensor, n_vectors: int, compute: torch.dtype, start: Left | None) -> None:
        n_series, n_coef = coef.shape
        shapes = {
            "losses": (n_records, n_series),
            "norms": (n_records, n_series),
            "path": (n_records, n_series, n_coef),
            "coef": (n_series, n_coef),
            "state": (n_series, n_vectors, n_coef),
        }
        self._buffers = {
            name: torch.full((rows + 2, *rest), torch.nan, dtype=F64 if name in {"losses", "norms"} else compute)
            for name, (rows, *rest) in shapes.items()
        }
        self.coef, self.state = self._inner("coef"), self._inner("state")
        self.coef.copy_(coef if start is None else start.coef)
        self.state.copy_(torch.zeros(()) if start is None else start.state)

    def _inner(self, name: str) -> Tensor:
        return self._buffers[name][1:-1]

    def records(self, want_path: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a launcher takes: losses, norms and path."""
        return self._inner("losses"), self._inner("norms"), self._inner("path") if want_path else None

    def left(self) -> Left:
        """What is there now; around it nothing may be."""
        for buffer in self._buffers.values():
            assert buffer[[0, -1]].isnan().all()
        return Left(*map(self._inner, Left._fields))


def assert_same_bits(found: Left, expected: Left) -> None:
    """Whether two launches leave the same, NaN included."""
    for name, ours, theirs in zip(Left._fields, found, expected, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan()), name
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), name


def assert_cuts_change_nothing(launch: Callable[..., Left], ends: Sequence[int]) -> None:
    """Whether launches of parts of 11 epochs leave the same bits as one of all, for series that end there."""
    whole = launch(11, last=ends)
    for cuts in ((0, 3, 7, 11), (0, 1, 4, 5, 10, 11)):
        left, parts = None, []
        for first, stop in pairwise(cuts):
            left = launch(stop, first=first, last=[min(stop, end) for end in ends], start=left)
            parts.append(left)
        assert left is not None
        for name in ("losses", "norms", "path"):
            records = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(records, getattr(whole, name), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(left.coef, whole.coef)
        assert torch.equal(left.state, whole.state)


def assert_as_near_as_eager(found: Left, plain: Left, truth: Left, degree: int) -> None:
    """Every number as near to the truth as eager code is, give or take the roundings of a pass: 4 a step.

    In float64 the truth is eager code itself; both round a few thousand times, which 1e-12 allows for.
    """
    is_wide = found.coef.dtype == F64
    for name, ours, of_eager, expected in zip(Left._fields, found, plain, truth, strict=True):
        assert ours.shape == expected.shape, name
        assert torch.equal(ours.isnan(), expected.isnan()), f"{name}: {ours}"
        # The vectors of a rule's state differ in size.
        together = [part.unbind(1) if name == "state" else (part,) for part in (ours, of_eager, expected)]
        for part, of_plain, exact in zip(*together, strict=True):
            written = ~exact.isnan()
            if not written.any():
                continue
            size = float(exact[written].abs().max())
            error, of_eager_error = (float((some.double() - exact)[written].abs().max()) for some in (part, of_plain))
            roundings = 1e-12 if is_wide else 4 * (degree + 2) * torch.finfo(torch.float32).eps
            allowed = 2 * of_eager_error + roundings * size
            assert error <= allowed, f"{name}: off by {error:.3e}, allowed {allowed:.3e}"
