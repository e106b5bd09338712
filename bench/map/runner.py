"""Time and memory of ours and of the peer at a point, in turn in one process."""

from __future__ import annotations

import contextlib
import datetime
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.__main__ import describe_machine
from bench.map.forms import Case, make
from bench.map.points import Point, required
from bench.memory import numpy_peak, peak

ROUND_SECONDS = 1e-3  # long beside the clock's resolution, short beside a pause of the machine
LEAST_ROUNDS = 5
# Of the largest number of a result: enough to see a wrong formula, and above the rounding of an eager float32 sum.
AGREEMENT = 1e-2


@dataclass(frozen=True)
class Setting:
    """How the process runs.

    Args:
        threads: of torch.
        busy: whether another process keeps each core busy.
    """

    threads: int
    busy: bool = False


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that compute all the time, `count` of them."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
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
    """A line of the results, without the machine."""
    torch._dynamo.reset()  # one point must not make the sizes of the next dynamic
    case = make(point)
    is_right = agree(case.ours(), case.peer())
    ours, peer = time_in_turn(case, seconds, statistics.median if setting.busy else min)
    wanted = required(point, setting.busy)
    line = {"point": point.to_json(), "threads": setting.threads, "busy": setting.busy, "is_right": is_right}
    line |= {"seconds": ours, "peer_seconds": peer, "ratio": peer / ours, "required": wanted}
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
    about = machine()
    begun = time.monotonic()
    known = {_key(line) for line in read_lines(output)} if output else set()
    left = 0
    with neighbours(about["cores"] if setting.busy else 0):
        for point in points:
            if _key({"point": point.to_json(), "threads": setting.threads, "busy": setting.busy, **about}) in known:
                continue
            if time.monotonic() - begun > limit:
                left += 1
                continue
            line = about | measure(point, setting, seconds)
            print(render(line), flush=True)
            if output:
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    return left


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; none where there is no file. A line that was cut off is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _key(line: dict[str, Any]) -> tuple[str, int, bool, str | None]:
    return str(Point(**line["point"])), line["threads"], line["busy"], line["commit"]


def render(line: dict[str, Any]) -> str:
    """A point in a line for a person to read."""
    busy = ", busy" if line["busy"] else ""
    peaks = f"  {line['peak'] / 2**20:8.1f} / {line['peer_peak'] / 2**20:8.1f} MiB" if "peak" in line else ""
    wrong = "" if line["is_right"] else "  WRONG RESULTS"
    return (
        f"{Point(**line['point'])!s:52s} {line['threads']} threads{busy} {line['seconds'] * 1e6:11.1f} us"
        f"  x {line['ratio']:6.2f} of {line['required']:4.1f}{peaks}{wrong}"
    )


def now() -> str:
    """The date."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
