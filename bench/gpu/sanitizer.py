"""Phase "sanitizer": NVIDIA's compute-sanitizer over one small launch of each kernel.

memcheck finds reads and writes out of bounds, racecheck races in shared memory. The launches are cases of "smoke" in a
process of its own, whose tensors are allocations of their own, so that memcheck sees their ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.gpu.measuring import Bench, Case

TOOLS = ("memcheck", "racecheck")
KERNELS = ("_objective_kernel", "_evaluate_kernel", "_evaluate_backward_kernel", "_moments_kernel", "_resident_kernel",
           "_descent_kernel", "activate_planes_kernel", "activate_columns_kernel", "activate_backward_planes_kernel",
           "activate_backward_columns_kernel", "_kan_kernel", "_kan_to_x_kernel", "_kan_to_coef_kernel")  # fmt: skip
# Several programs with a ticket, a masked rest, weights; one program without; loops over epochs with several warps.
LAUNCHES = (
    "float32 n=100003",
    "float32 n=1000",
    "float64 n=100003",
    "float32 1 series",
    "float32 40 series",
    "descent",
    "activation float32",
    "kan bfloat16 1000",
    "kan float32 1000",
)


def find() -> str | None:
    """The program, where CUDA's tools usually lie."""
    folders = (os.environ.get("PATH", ""), *(f"{os.environ.get(name, '')}/bin" for name in ("CUDA_HOME", "CUDA_PATH")))
    return shutil.which("compute-sanitizer", path=os.pathsep.join([*folders, "/usr/local/cuda/bin"]))


def cases(bench: Bench) -> Iterator[Case]:
    """One for each tool."""
    for tool in TOOLS:
        yield Case(f"compute-sanitizer {tool}", lambda tool=tool: _check(bench, tool))


def _check(bench: Bench, tool: str) -> dict[str, Any]:
    if bench.is_warming:
        return {}
    if (program := find()) is None:
        return {"skipped": "compute-sanitizer is not installed"}
    kernels = [part for name in KERNELS for part in ("--kernel-name", f"kernel_substring={name}")]
    target = [sys.executable, "-m", "bench.gpu.phase", "smoke", "--only", *LAUNCHES]
    return read(_output([program, "--tool", tool, *kernels, *target], bench.seconds_left))


def _output(command: list[str], seconds: float) -> str:
    """All that a command prints until it ends, or until its time is over."""
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        ended = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=max(1.0, seconds),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        return printed if isinstance(printed, str) else printed.decode(errors="replace")
    return ended.stdout


def read(output: str) -> dict[str, Any]:
    """The number of errors and the first of them, from what the tool printed.

    Raises:
        RuntimeError: it did not come to its summary, or the launches that it watched were wrong.
    """
    found = re.search(r"ERROR SUMMARY: (\d+) error", output) or re.search(r"RACECHECK SUMMARY: (\d+) hazard", output)
    launches = re.search(r"smoke: (\d+) of (\d+) cases passed", output)
    if found is None or launches is None or launches[1] != launches[2] or launches[2] == "0":
        raise RuntimeError(f"no verdict. The end of what was printed: {output[-1500:]}")
    lines = [line for line in output.splitlines() if line.startswith("=========")]
    return {"wrong": int(found[1]), "which": lines[1:20] if int(found[1]) else [], "cases": int(launches[2])}
