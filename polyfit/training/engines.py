"""The engines of `polyfit.train`: how coefficients get from one epoch to another.

An engine's `run` takes a state to a later epoch, and shows the watch each epoch to be recorded on its way. The result
does not depend on where a run is cut into calls. `Stepping` makes update after update in Python; `Launching` makes many
at a time in a loop that is compiled: C++, or a kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit._problem import Problem
from polyfit.backends import operators
from polyfit.losses import Loss
from polyfit.optimizers import SGD, Array, Rule, rate, table
from polyfit.training import quadratic
from polyfit.training.watch import Finder, Mask, Silent, Watch

AnyWatch = Watch | Finder | Silent

# Epochs of the first launch, seconds that one should take, and values that its records may hold.
_FIRST_LAUNCH, _LAUNCH_SECONDS, _MOST_RECORDED = 1000, 0.2, 1 << 24


class State(NamedTuple):
    """Where a run is.

    Attributes:
        epoch: how many are made.
        coef: coefficients (S, p).
        memory: of the rule, (S, p) each.
    """

    epoch: int
    coef: Any
    memory: tuple[Any, ...]


class Engine(Protocol):
    """What every engine has."""

    anchor: State | None  # where every series that still goes on was finite, at the last record or before it

    def start(self, coef: Array) -> State:
        """The state before the first update."""
        ...

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State:
        """The state that tensors of an earlier run stand for."""
        ...

    def run(self, state: State, until: int, watch: Any) -> State:
        """Epochs up to number `until`, or to where the watch ends the run; `state` stays as it is."""
        ...

    def losses(self, coef: Any) -> Array:
        """The losses (S,) of coefficients."""
        ...

    def settle(self, watch: Watch, state: State, seen: int, series: Mask) -> Any:
        """Coefficients of a state in which series (S,) that have left the finite numbers stand where they did.

        The watch, which saw it after so many epochs, is told when it was.
        """
        ...


def norms(gradient: Any) -> Array:
    """Euclidean norms (S,) of gradients (S, p)."""
    if isinstance(gradient, Tensor):
        return gradient.double().norm(dim=1).cpu().numpy()
    return np.linalg.norm(gradient.astype(np.float64), axis=1)


def _settle(engine: Stepping | Launching, watch: Watch, state: State, seen: int, series: Mask) -> Any:
    """See `Engine.settle`: from the last record on, epoch by epoch."""
    anchor = engine.anchor
    if anchor is None or anchor.epoch >= seen:  # at the start
        return state.coef
    before = max(anchor.epoch, (seen - 1) // watch.every * watch.every)
    finder = Finder(watch.totals, lambda coef: coef.clone() if isinstance(coef, Tensor) else coef.copy())
    engine.run(engine.run(anchor, before, Silent()), seen, finder)
    engine.anchor = anchor
    groups = watch.groups(series)
    first = np.full(len(groups), -1) if finder.first is None else finder.first
    watch.has_left(groups, np.where(first < 0, seen, first))
    if finder.coef is None:
        return state.coef
    rows = series & np.broadcast_to(first >= 0, len(series))
    return engine.put(state.coef, rows, finder.coef[rows])


# --- update by update ---

Pass = Callable[[Any, bool], tuple[Any, Any]]


class Stepping:
    """One update after another, by plain arithmetic on (S, p) arrays or tensors.

    Args:
        rule: the update rule.
        measure: gives the losses (S,) of coefficients, None where they are not wanted, and the gradient (S, p).
        zeros: in the shape and of the kind of the coefficients.
        lr_scale: (S, 1), or None.
        batches: gives the gradients of an epoch's batches; None for one batch of all.
        n_batches: of an epoch.
    """

    def __init__(
        self,
        rule: Rule,
        measure: Pass,
        zeros: Any,
        lr_scale: Any = None,
        batches: Callable[[int], Iterable[Callable[[Any], Any]]] | None = None,
        n_batches: int = 1,
    ) -> None:
        self._rule, self._measure, self._zeros, self._lr_scale = rule, measure, zeros, lr_scale
        self._batches, self._n_batches = batches, n_batches
        self.anchor: State | None = None

    def _own(self, values: Any) -> Any:
        """Values as the coefficients are: an array or a tensor, of their dtype."""
        if isinstance(self._zeros, Tensor):
            return torch.as_tensor(values).to(self._zeros, copy=True)
        return np.array(values.numpy() if isinstance(values, Tensor) else values, dtype=self._zeros.dtype)

    def start(self, coef: Array) -> State:
        """See `Engine`."""
        return State(0, self._own(coef), self._rule.start(self._zeros))

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State:
        """See `Engine`."""
        return State(epoch, self._own(coef), tuple(self._own(part) for part in memory))

    def losses(self, coef: Any) -> Array:
        """See `Engine`."""
        with np.errstate(all="ignore"):
            return _array(self._measure(coef, True)[0])

    def settle(self, watch: Watch, state: State, seen: int, series: Mask) -> Any:
        """See `Engine`."""
        return _settle(self, watch, state, seen, series)

    def put(self, coef: Any, rows: Mask, values: Any) -> Any:
        """Coefficients with those of some series replaced."""
        new = self._own(coef)
        new[rows] = values
        return new

    def run(self, state: State, until: int, watch: AnyWatch) -> State:
        """See `Engine`."""
        with np.errstate(all="ignore"):  # a run that diverges says so by its losses
            while state.epoch < until and not watch.is_over:
                gradient = None
                if state.epoch % watch.every == 0:
                    state, gradient = self._recorded(state, watch)
                    if watch.is_over:
                        break
                stop = min(until, state.epoch - state.epoch % watch.every + watch.every)
                stretch = self._whole if self._batches is None else self._batched
                state = stretch(state, stop, gradient, watch, self._mask(watch.ended))
        return state

    def _recorded(self, state: State, watch: AnyWatch) -> tuple[State, Any]:
        """The state when the watch has seen it, and its gradient."""
        losses, gradient = self._measure(state.coef, True)
        coef = state.coef
        ends = watch.look(state.epoch, _array(losses), lambda: norms(gradient), lambda: coef)
        if ends is not None and isinstance(watch, Watch) and ends[1].any():
            state = state._replace(coef=_settle(self, watch, state, state.epoch, ends[1]))
        self.anchor = state
        return state, gradient

    def _whole(self, state: State, stop: int, gradient: Any, watch: AnyWatch, frozen: Any) -> State:
        """Epochs of one update each; the gradient of the first may be known."""
        epoch, coef, memory = state
        measure, step, lr_scale = self._measure, self._rule.step, self._lr_scale
        for lr, a, b in table(self._rule, epoch, stop).tolist():
            if watch.is_interrupted:
                break
            if gradient is None:
                gradient = measure(coef, False)[1]
            new, memory = step(coef, gradient, memory, lr if lr_scale is None else lr * lr_scale, a, b)
            coef = new if frozen is None else _where(frozen, coef, new)
            gradient = None
            epoch += 1
        return State(epoch, coef, memory)

    def _batched(self, state: State, stop: int, gradient: Any, watch: AnyWatch, frozen: Any) -> State:
        """Epochs of many updates each; the gradient over all of the data is of no use."""
        assert self._batches is not None
        epoch, coef, memory = state
        n = self._n_batches
        rows = iter(table(self._rule, epoch * n, stop * n, n).tolist())
        while epoch < stop and not watch.is_interrupted:
            for of_batch in self._batches(epoch):
                lr, a, b = next(rows)
                lr = lr if self._lr_scale is None else lr * self._lr_scale
                new, memory = self._rule.step(coef, of_batch(coef), memory, lr, a, b)
                coef = new if frozen is None else _where(frozen, coef, new)
            epoch += 1
        return State(epoch, coef, memory)

    def _mask(self, ended: Mask | None) -> Any:
        if ended is None:
            return None
        column = ended[:, None]
        return torch.from_numpy(column.copy()).to(self._zeros.device) if isinstance(self._zeros, Tensor) else column


# Rows of the rule's table that a graph reads before new ones are brought.
_ROWS = 1024


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """What a function launches on the current GPU, as a CUDA graph: a call replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and allocates what a capture may not
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class Graphed(Stepping):
    """The same on a GPU, an epoch being one replay of a graph: its launches cost the host a microsecond or so each."""

    _replay: Callable[[], None] | None = None

    def _whole(self, state: State, stop: int, gradient: Any, watch: AnyWatch, frozen: Any) -> State:
        if self._replay is None:
            self._capture()
        assert self._replay is not None
        self._coef.copy_(state.coef)
        for held, part in zip(self._memory, state.memory, strict=True):
            held.copy_(part)
        self._frozen.fill_(False) if frozen is None else self._frozen.copy_(frozen)
        epoch = state.epoch
        while epoch < stop and not watch.is_interrupted:
            rows = table(self._rule, epoch, min(stop, epoch + _ROWS))
            self._rows[: len(rows)].copy_(torch.from_numpy(rows))
            self._place.zero_()
            for _ in range(len(rows)):
                if watch.is_interrupted:
                    break
                self._replay()
                epoch += 1
        return State(epoch, self._coef.clone(), tuple(held.clone() for held in self._memory))

    def _capture(self) -> None:
        self._coef = torch.zeros_like(self._zeros)
        self._memory = tuple(torch.zeros_like(part) for part in self._rule.start(self._zeros))
        self._frozen = torch.zeros_like(self._zeros[:, :1], dtype=torch.bool)
        self._rows = self._zeros.new_ones((_ROWS, 3), dtype=torch.float64)
        self._place = torch.zeros(1, dtype=torch.int64, device=self._zeros.device)

        def epoch() -> None:
            lr, a, b = self._rows.index_select(0, self._place).squeeze(0).unbind(0)
            lr = lr if self._lr_scale is None else lr.to(self._zeros.dtype) * self._lr_scale
            gradient = self._measure(self._coef, False)[1]
            new, memory = self._rule.step(self._coef, gradient, self._memory, lr, a, b)
            self._coef.copy_(torch.where(self._frozen, self._coef, new))
            for held, part in zip(self._memory, memory, strict=True):
                held.copy_(part)
            self._place += 1

        self._replay = captured(epoch)


def _where(mask: Any, kept: Any, new: Any) -> Any:
    return torch.where(mask, kept, new) if isinstance(kept, Tensor) else np.where(mask, kept, new)


def _array(values: Any) -> Array:
    return values.double().cpu().numpy() if isinstance(values, Tensor) else values


# --- many updates at a time ---

Loop = Callable[[Tensor, Tensor, Tensor, int, Tensor, int, Tensor, Tensor, Tensor | None], None]


class Launching:
    """Many epochs in one call of a compiled loop; calls are short enough to be watched and interrupted.

    Args:
        rule: the update rule.
        loop: takes coef (S, p) and memory (S, k, p), which it changes, a table of the rule, the first epoch, the last
            of each series, epochs from record to record, and where losses (R, S), norms (R, S) and coefficients
            (R, S, p) go.
        losses: gives the losses (S,) of coefficients.
        zeros: in the shape of the coefficients, of the dtype and on the device of the loop.
    """

    def __init__(self, rule: Rule, loop: Loop, losses: Callable[[Tensor], Array], zeros: Tensor) -> None:
        self._rule, self._loop, self._losses, self._zeros = rule, loop, losses, zeros
        self._length = _FIRST_LAUNCH
        self.anchor: State | None = None

    def start(self, coef: Array) -> State:
        """See `Engine`."""
        memory = self._rule.start(torch.zeros_like(self._zeros))
        return State(0, torch.from_numpy(np.array(coef)).to(self._zeros), memory)

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State:
        """See `Engine`."""
        return State(epoch, coef.to(self._zeros, copy=True), tuple(part.to(self._zeros, copy=True) for part in memory))

    def losses(self, coef: Any) -> Array:
        """See `Engine`."""
        return self._losses(coef)

    def settle(self, watch: Watch, state: State, seen: int, series: Mask) -> Any:
        """See `Engine`."""
        return _settle(self, watch, state, seen, series)

    def put(self, coef: Any, rows: Mask, values: Any) -> Any:
        """Coefficients with those of some series replaced."""
        new = coef.clone()
        new[torch.from_numpy(rows.copy()).to(new.device)] = values
        return new

    def _launch(self, state: State, stop: int, last: NDArray[np.int64], watch: AnyWatch) -> tuple[State, Any]:
        n_series, n_coef = self._zeros.shape
        n_records = _n_records(state.epoch, stop, watch.every)
        rows = torch.from_numpy(table(self._rule, state.epoch, stop)).to(self._zeros.device)
        wide = {"dtype": torch.float64, "device": self._zeros.device}
        losses, slopes = torch.zeros((2, n_records, n_series), **wide)
        path = self._zeros.new_zeros((n_records, n_series, n_coef)) if watch.wants_coef else None
        coef = state.coef.clone()
        memory = self._zeros.new_zeros((n_series, len(state.memory), n_coef))
        for i, part in enumerate(state.memory):
            memory[:, i] = part
        ends = torch.from_numpy(last).to(self._zeros.device)
        self._loop(coef, memory, rows, state.epoch, ends, watch.every, losses, slopes, path)
        return State(stop, coef, tuple(memory.unbind(1))), (losses, slopes, path)

    def run(self, state: State, until: int, watch: AnyWatch) -> State:
        """See `Engine`."""
        n_series, n_coef = self._zeros.shape
        most = max(1, _MOST_RECORDED // (n_series * (n_coef if watch.wants_coef else 2)))  # records of a launch
        last = np.empty(n_series, np.int64)
        while state.epoch < until and not watch.is_over:
            stop = min(until, state.epoch + self._length)
            if _n_records(state.epoch, stop, watch.every) > most:
                stop = min(stop, _next_record(state.epoch, watch.every) + most * watch.every)
            last[:] = stop
            ended = watch.ended
            if ended is not None:
                last[ended] = 0
            began = time.perf_counter()
            new, records = self._launch(state, stop, last, watch)
            losses, slopes = (part.cpu().numpy() for part in records[:2])
            seconds = time.perf_counter() - began
            if seconds > 0.0:
                ratio = min(_LAUNCH_SECONDS / seconds, 10.0)
                self._length = max(1, int((stop - state.epoch) * ratio)) if ratio < 10.0 else self._length * 10
            state = self._shown(state, new, last, watch, losses, slopes, records[2])
        return state

    def _shown(
        self,
        state: State,
        new: State,
        last: NDArray[np.int64],
        watch: AnyWatch,
        losses: Array,
        slopes: Array,
        path: Any,
    ) -> State:
        """The state after a launch whose records the watch has seen."""
        epochs = range(_next_record(state.epoch, watch.every), new.epoch, watch.every)
        is_cut, over_at = False, new.epoch
        left: list[tuple[int, Mask]] = []
        for i, epoch in enumerate(epochs):
            ends = watch.look(epoch, losses[i], lambda i=i: slopes[i], lambda i=i: path[i])
            if ends is not None:
                is_cut = True
                last[ends[0]] = epoch
                if ends[1].any():
                    left.append((epoch, ends[1]))
                if watch.is_over:
                    over_at = epoch
                    break
        if is_cut:  # the same launch, up to where each series ends
            last = np.minimum(last, over_at)
            stop = max(state.epoch + 1, over_at)
            new = self._launch(state, stop, last, Silent())[0]._replace(epoch=over_at)
        for epoch, series in left:
            if isinstance(watch, Watch):
                anchor, self.anchor = self.anchor, self.anchor if epoch == epochs[0] and self.anchor else state
                new = new._replace(coef=_settle(self, watch, new, epoch, series))
                self.anchor = anchor
        if epochs:
            self.anchor = state
        return new


def _next_record(epoch: int, every: int) -> int:
    return -(-epoch // every) * every


def _n_records(first: int, stop: int, every: int) -> int:
    return len(range(_next_record(first, every), stop, every))


# --- what the engines run on ---


def data_pass(problem: Problem, scale: float) -> tuple[Pass, Any]:
    """Losses and gradient by one fused pass over the data, and zeros in the shape of the coefficients.

    On a CPU coefficients are numpy's: for a handful of numbers its calls cost half of torch's.
    """
    assert isinstance(problem.model.loss, Loss)
    shape = (1, *problem.coef.shape) if problem.coef.dim() == 1 else tuple(problem.coef.shape)
    dtype = torch.float64 if problem.coef.dtype == torch.float64 else torch.float32
    held = torch.zeros(shape, dtype=dtype, device=problem.x.device)
    bound, of_few = operators.bound_objective(
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
        if want_losses or of_few is None:
            np.copyto(view, coef)
            losses, of_torch = bound(held, want_losses)
            gradient = of_torch.numpy()
        if of_few is not None:  # of every epoch by the same operations, recorded or not
            gradient = of_few(coef)
        assert gradient is not None
        return losses, gradient.astype(view.dtype, copy=False)

    return on_cpu, np.zeros(shape, view.dtype)


def quadratic_pass(landscape: quadratic.Quadratic) -> Pass:
    """The same of the squared loss, from what two passes over the data gave."""
    hessian, reference, offset = landscape.hessian, landscape.reference, landscape.gradient

    def measure(coef: Any, want_losses: bool) -> tuple[Any, Any]:
        gradient = (hessian @ (coef - reference)[..., None])[..., 0]
        gradient += offset
        return landscape.losses(coef) if want_losses else None, gradient

    return measure


# --- all epochs at once ---


class ClosedForm:
    """Any epoch from the eigenproblem of the Hessian; see `polyfit.training.quadratic`."""

    def __init__(self, rule: SGD, landscape: quadratic.Quadratic, lr_scale: Any = None) -> None:
        self._rule, self._landscape = rule, landscape
        self._lr: Any = rate(rule.lr, 0) if lr_scale is None else rate(rule.lr, 0) * lr_scale
        self._from: Array = np.empty(0)
        self.anchor: State | None = None

    def start(self, coef: Array) -> State:
        """See `Engine`."""
        self._from = coef
        return State(0, coef, ())

    def load(self, epoch: int, coef: Tensor, memory: list[Tensor]) -> State:
        """Not called: a run in closed form begins anew, at no cost."""
        raise AssertionError

    def losses(self, coef: Any) -> Array:
        """See `Engine`."""
        return self._landscape.losses(coef)

    def settle(self, watch: Watch, state: State, seen: int, series: Mask) -> Any:
        """See `Engine`: by bisection, as who has left the finite numbers does not come back."""
        final = state.coef.copy()
        low, high = np.zeros((2, len(watch.groups(series))), np.int64)
        low, high = low - 1, high + seen
        while (high - low > 1).any():
            middle = (low + high) // 2
            where = np.unique(middle)
            losses = watch.totals(self._landscape.losses(self._at(where.tolist())))
            has_left = ~np.isfinite(losses[np.searchsorted(where, middle), np.arange(len(middle))])
            low, high = np.where(has_left, low, middle), np.where(has_left, middle, high)
        watch.has_left(watch.groups(series), high)
        for epoch in np.unique(high):
            rows = series & np.broadcast_to(high == epoch, len(series))
            final[rows] = self._at([int(epoch)])[0][rows]
        return final

    def _at(self, epochs: list[int]) -> Array:
        return quadratic.closed_form(self._landscape, self._from, self._rule, self._lr, epochs)

    def run(self, state: State, until: int, watch: AnyWatch) -> State:
        """See `Engine`."""
        epochs = list(range(_next_record(state.epoch, watch.every), until, watch.every))
        most = max(1, _MOST_RECORDED // self._from.size)
        path = self._at([*epochs[:most], until])
        path, final = path[:-1], path[-1]
        for first in range(0, len(epochs), most):
            some = epochs[first : first + most]
            if first:
                path = self._at(some)
            losses = self._landscape.losses(path)
            if isinstance(watch, Watch) and watch.is_plain and len(some) == len(epochs) and np.isfinite(losses).all():
                watch.record_all(some, losses)
                break
            for i, epoch in enumerate(some):
                ends = watch.look(
                    epoch, losses[i], lambda at=path[i]: norms(self._landscape.gradients(at)), lambda at=path[i]: at
                )
                if ends is not None and isinstance(watch, Watch):
                    final = np.where(ends[0][:, None], path[i], final)
                    if ends[1].any():
                        final = self.settle(watch, State(until, final, ()), epoch, ends[1])
                if watch.is_over:
                    return State(epoch, final if ends is not None else path[i], ())
        return State(until, final, ())
