"""How times are taken on a GPU, and where results go."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.__main__ import describe_machine

ROUNDS = 15
EPOCHS = 80_000
LR = 0.55e-7
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class Report:
    """Prints results, and appends them to a file."""

    def __init__(self, folder: str | None, device: str) -> None:
        self._file = None if folder is None else (Path(folder) / "gpu.jsonl").open("a", encoding="utf-8")
        self._machine = describe_machine(device)
        print(self._machine, flush=True)

    def __call__(self, name: str, **figures: Any) -> None:
        """A result."""
        shown = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        )
        print(f"{name:58s} {shown}", flush=True)
        if self._file is not None:
            self._file.write(json.dumps({**self._machine, "benchmark": name, **figures}) + "\n")
            self._file.flush()


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where and at which sizes to measure."""

    device: str
    small: bool
    report: Report
    warm: bool = False

    @property
    def n_samples(self) -> int:
        """The length of a long series: 2**28."""
        if self.small:
            return 2**8
        return 2**20 if self.warm else 2**28

    def seconds(self, function: Callable[[], Any]) -> float:
        """Median time of a call on the device, after two to compile and warm up: of 15 calls, or 0.1 s."""
        for _ in range(1 if self.small else 2):
            function()
        if self.device == "cpu":
            began = time.perf_counter()
            function()
            return time.perf_counter() - began
        times: list[float] = []
        while not times or (not self.warm and (len(times) < ROUNDS or sum(times) < 0.1)):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e-3)
        return statistics.median(times)

    def wall(self, function: Callable[[], Any], rounds: int = 5) -> float:
        """Median time of a call as its caller sees it, after one that compiles."""
        function()
        times = []
        for _ in range(1 if self.small or self.warm else rounds):
            self.wait()
            began = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Random numbers; those of one seed are the same."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, generator=generator, device=self.device, dtype=torch.float32).to(dtype)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Random numbers in [-1, 1)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return (torch.rand(*shape, generator=generator, device=self.device) * 2 - 1).to(dtype)

    def replayed(self, function: Callable[[], Any], calls: int = 20) -> float:
        """Median time of a call in a CUDA graph of some calls: without the time that its launch takes on the host."""
        function()
        if self.device == "cpu":
            return self.seconds(function)
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                function()
        return self.seconds(graph.replay) / calls

    def copy_rate(self) -> float:
        """Bytes a second of a copy on the device, read and written, once the card has its working clock."""
        source = self.normal(self.n_samples)
        target = torch.empty_like(source)
        began = time.perf_counter()
        while not self.small and time.perf_counter() - began < 0.5:
            target.copy_(source)
            self.wait()
        return 8 * self.n_samples / self.seconds(lambda: target.copy_(source))
