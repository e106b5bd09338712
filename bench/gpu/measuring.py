"""How times are taken on a GPU, and where results go."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu import machine

RESULTS = "gpu.jsonl"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
# A median needs so many calls, and so many seconds of them: a card changes its clocks within milliseconds.
ROUNDS, SECONDS_OF_ROUNDS = 15, 0.1
# Bytes of memory for a long series of 2**28 samples: eager autograd of degree 10 keeps some 25 tensors of it.
_LONG, _MEMORY_OF_LONG = 2**28, 40 * 2**30


@dataclasses.dataclass(frozen=True)
class Case:
    """A thing to measure: its name, and a function that gives its figures."""

    name: str
    measure: Callable[[], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another way to a result.

    Attributes:
        make: gives the function to time; it compiles, copies data and so on.
        scale: how many times more work the whole is than what the function does.
        quarter: gives a function that does a quarter of that work; see `whole`. None: the time is scaled as it is.
        on_device: whether the time is that of the GPU, by events; otherwise it is what the caller sees.
    """

    make: Callable[[], Callable[[], Any]]
    scale: float = 1.0
    on_device: bool = True
    quarter: Callable[[], Callable[[], Any]] | None = None


def whole(seconds: float, quarter: float, scale: float) -> float:
    """Seconds of `scale` times the work of a run, from a run and one with a quarter of its work.

    What a run does once, say the capture of a graph, counts once: seconds = once + work, quarter = once + work / 4.
    """
    return seconds + max(0.0, seconds - quarter) / 0.75 * (scale - 1.0)


class Report:
    """Prints results, and appends each to a file when it is there: a process that is killed has lost none.

    Args:
        folder: where the file lies; None writes none.
        phase: the name of the phase.
        device: "cuda" or "cpu".
        quiet: nothing is kept, and only failures are printed: for compiling.

    Attributes:
        of: the number of cases of all parts of the phase, where it is known; each result says it.
    """

    of: int | None = None

    def __init__(self, folder: str | None, phase: str, device: str, *, quiet: bool = False) -> None:
        self._path = None if folder is None or quiet else Path(folder) / RESULTS
        self._head = {**machine.of_this_run(device), "phase": phase}
        self._quiet = quiet

    def __call__(self, name: str, **figures: Any) -> None:
        """A result."""
        if not self._quiet or "failed" in figures:
            print(f"{name:58s} {_shown(figures)}", flush=True)
        if self._path is None:
            return
        head = self._head if self.of is None else {**self._head, "of": self.of}
        line = json.dumps({**head, "benchmark": name, **figures})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # what is printed is in the log of the driver, if not on the same disk
            print(f"not written: {error}: {line}", flush=True)


def _shown(figures: dict[str, Any]) -> str:
    parts = []
    for key, value in figures.items():
        if key == "seconds":
            parts.append(f"{value * 1e3:.4g} ms")
        elif key == "peers":
            parts += [f"{peer} x {seconds / figures['seconds']:.3g}" for peer, seconds in value.items()]
        elif key not in ("bytes", "floor_seconds", "n_samples"):
            parts.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where and at which sizes to measure.

    Attributes:
        device: of the tensors: "cuda", or "cpu" in a rehearsal.
        has_gpu: whether times are those of a GPU, by its events.
        is_small: small sizes, for a rehearsal by Triton's interpreter.
        is_warming: each function is called once, and nothing is timed: Triton and Inductor then have their code in
            their caches on disk.
        deadline: when the phase must end, by `time.monotonic`.
    """

    device: str
    has_gpu: bool
    is_small: bool = False
    is_warming: bool = False
    deadline: float = float("inf")

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def n_samples(self) -> int:
        """The length of a long series: 2**28, or a quarter of it on a card with little memory."""
        if self.is_small:
            return 2**8
        if self.has_gpu and torch.cuda.mem_get_info()[1] < _MEMORY_OF_LONG:
            return _LONG // 4
        return _LONG

    def choose(self, small: Any, otherwise: Any) -> Any:
        """One value for a rehearsal, another for a GPU."""
        return small if self.is_small else otherwise

    # --- timers ---

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.has_gpu:
            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], Any], most: float = math.inf) -> float:
        """Median time of a call on the device, by events, after two that compile and warm up.

        15 calls are timed, or more of them until they take 0.1 s; no more once they have taken `most` seconds. A pass
        that reads other data is queued before each call: the device is busy while the host launches, so the time of
        the launch on the host is not part of it, and the caches hold nothing of the call and nothing to be written.
        """
        if not self.has_gpu:
            return self.wall(function, rounds=1)
        function()
        if self.is_warming:
            return 0.0
        function()
        times: list[float] = []
        while not times or (
            not self.is_small and sum(times) < most and (len(times) < ROUNDS or sum(times) < SECONDS_OF_ROUNDS)
        ):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._read.sum()
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e-3)
        return statistics.median(times)

    def wall(self, function: Callable[[], Any], rounds: int = 5) -> float:
        """Median time of a call as its caller sees it, after one that compiles."""
        function()
        if self.is_warming:
            return 0.0
        times = []
        for _ in range(1 if self.is_small else rounds):
            self.wait()
            began = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def replayed(self, function: Callable[[], Any], calls: int = 20) -> float:
        """Median time of a call in a CUDA graph of some calls: without the time that its launch takes on the host."""
        function()
        if not self.has_gpu or self.is_warming:
            return self.seconds(function)
        calls = self.choose(2, calls)
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                function()
        return self.seconds(graph.replay) / calls

    @functools.cached_property
    def _read(self) -> Tensor:
        """What is read before each call: 1 GiB, a third of a millisecond on an H100."""
        return self.normal(self.n_samples)

    @functools.cached_property
    def copy_rate(self) -> float:
        """Bytes a second of a copy on the device, read and written, once the card has its working clock."""
        if self.is_warming:
            return 1.0
        source = self.normal(self.n_samples, seed=1)
        target = torch.empty_like(source)
        return 8 * self.n_samples / self.seconds(lambda: target.copy_(source))

    def beside_copy(self, seconds: float, n_bytes: int) -> dict[str, Any]:
        """A time, and the share of the copy's rate that it reaches."""
        if self.is_warming:
            return {}
        floor = n_bytes / self.copy_rate
        return {"seconds": seconds, "bytes": n_bytes, "floor_seconds": floor, "share_of_copy": floor / seconds}

    def peers(self, others: dict[str, Peer]) -> dict[str, Any]:
        """Seconds of each peer; a peer that fails is named with its error."""
        seconds, failed = {}, {}
        for name, peer in others.items():
            if self.is_warming and "compile" not in name:
                continue
            try:
                seconds[name] = peer.scale * (brief := self._brief(peer, peer.make()))
                if peer.quarter is not None:
                    seconds[name] = whole(brief, self._brief(peer, peer.quarter()), peer.scale)
            except Exception as error:  # a peer's failure is not ours
                failed[name] = f"{type(error).__name__}: {error}"[:500]
        return {"peers": seconds} | ({"failed_peers": failed} if failed else {})

    def _brief(self, peer: Peer, function: Callable[[], Any]) -> float:
        return self.seconds(function, most=0.1) if peer.on_device else self.wall(function, rounds=1)

    # --- data ---

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Random numbers; those of one seed are the same."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, generator=generator, device=self.device, dtype=torch.float32).to(dtype)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Random numbers in [-1, 1)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return (torch.rand(*shape, generator=generator, device=self.device) * 2 - 1).to(dtype)
