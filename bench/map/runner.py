"""Time and memory of ours and of the peer at a point, in turn in one process."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.__main__ import describe_machine
from bench.map.forms import Case, make
from bench.map.points import Point, required
from bench.map.results import Result, Setting, read
from bench.memory import numpy_peak, peak

ROUND_SECONDS = 1e-3  # long beside the clock's resolution, short beside a pause of the machine
LEAST_ROUNDS = 5
# Of the largest number of a result: enough to see a wrong formula, and above the rounding of an eager float32 sum.
AGREEMENT = 1e-2


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that compute all the time, `count` of them."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def seconds_of(function: Callable[[], Any], calls: int) -> float:
    """Seconds a call."""
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls


def time_in_turn(case: Case, seconds: float, summary: Callable[[Iterable[float]], float]) -> tuple[float, float]:
    """Seconds a call of ours and of the peer, from many short rounds in turn."""
    functions = (case.ours, case.peer)
    calls = []
    for function in functions:
        function()  # compile, allocate, fill caches
        calls.append(max(1, math.ceil(ROUND_SECONDS / min(seconds_of(function, 1) for _ in range(3)))))
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while len(times[0]) < LEAST_ROUNDS or time.perf_counter() < end:
            for function, count, found in zip(functions, calls, times, strict=True):
                found.append(seconds_of(function, count))
    finally:
        gc.enable()
    return summary(times[0]), summary(times[1])


def agree(ours: tuple[Tensor, ...], peer: tuple[Tensor, ...]) -> bool:
    """Whether results are the same, but for rounding: a speed of wrong results is no speed."""
    pairs = [(a.detach().double().flatten(), b.detach().double().flatten()) for a, b in zip(ours, peer, strict=True)]
    return all(float((a - b).abs().max()) <= AGREEMENT * float(b.abs().max()) for a, b in pairs)


def bytes_beyond_results(function: Callable[[], tuple[Tensor, ...]]) -> int:
    """The most memory that a call holds beyond its operands and results."""
    kept = function()
    outputs = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    del kept
    return max(0, peak(function) + numpy_peak(function) - outputs)


def measure(point: Point, setting: Setting, seconds: float) -> dict[str, Any]:
    """A line of the results, without the machine. Seconds: the least of all rounds; medians beside neighbours."""
    if point.impl == "compile":
        torch._dynamo.reset()  # the sizes of one point would become dynamic at the next
    case = make(point)
    is_right = agree(case.ours(), case.peer())
    ours, peer = time_in_turn(case, seconds, statistics.median if setting.busy else min)
    line = {"point": point.to_json(), "threads": setting.threads, "busy": setting.busy, "is_right": is_right}
    line |= {"seconds": ours, "peer_seconds": peer, "ratio": peer / ours, "required": required(point, setting.busy)}
    if point.counts_memory and not setting.busy:
        line |= {"peak": bytes_beyond_results(case.ours), "peer_peak": bytes_beyond_results(case.peer)}
    return line


def machine() -> dict[str, Any]:
    """CPU, versions, commit, date."""
    found = describe_machine("cpu")
    return {
        "date": found["date"],
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": found["python"],
        "torch": found["torch"],
        "numpy": np.__version__,
        "commit": found["commit"],
    }


def cpu_model() -> str:
    """The name of the processor, as Linux has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def run(points: Iterable[Point], setting: Setting, seconds: float, output: Path | None, limit: float) -> int:
    """Measure points, print a line for each, and append it to `output` as it comes.

    Points that `output` has at this commit and setting are left out, so that a run can go on where it was stopped.
    Those of torch.compile are left out beside busy neighbours: they would compile for minutes.

    Args:
        points: to measure.
        setting: of this process; its threads are set.
        seconds: of timing a point, at least.
        output: JSON lines; None for none.
        limit: seconds, after which no point begins.

    Returns:
        How many points were not begun.
    """
    torch.set_num_threads(setting.threads)
    about, begun = machine(), time.monotonic()
    known = read(output) if output else {}
    left = 0
    print("point, setting, time of polyfit, x ratio of the ratio that is wanted, memory of polyfit / of the peer")
    with neighbours(about["cores"] if setting.busy else 0):
        for point in points:
            is_known = (point, setting) in known and known[point, setting].facts["commit"] == about["commit"]
            if is_known or (setting.busy and point.impl == "compile"):
                continue
            if time.monotonic() - begun > limit:
                left += 1
                continue
            line = about | measure(point, setting, seconds)
            print(render(Result(point, setting, line)), flush=True)
            if output:
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    return left


def render(result: Result) -> str:
    """A point in a line for a person to read."""
    facts = result.facts
    peaks = f"  {facts['peak'] / 2**20:8.1f} / {facts['peer_peak'] / 2**20:.1f} MiB" if "peak" in facts else ""
    return (
        f"{result.point!s:46s} {result.setting!s:17s} {facts['seconds'] * 1e6:10.1f} us"
        f"  x {result.ratio:6.2f} of {result.required:4.1f}{peaks}{'' if facts['is_right'] else '  WRONG RESULTS'}"
    )
