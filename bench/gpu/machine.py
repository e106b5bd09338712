"""The machine that measures, as JSON, or why it cannot: `python -m bench.gpu.machine`."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.__main__ import describe_machine

# Set by the driver for all its phases: the machine, and when the run began.
VARIABLE = "POLYFIT_GPU_RUN"


def why_not() -> str:
    """Why nothing can be measured here, or nothing."""
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} can use no GPU here; check the driver (nvidia-smi, rocm-smi) and that this"
            " torch is a build for it"
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "with TRITON_INTERPRET=1 no kernel runs on the GPU; unset it"
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed beside torch {torch.__version__}; pip install 'fused-polyfit[triton]'"
    return _why_not_compile()


def _why_not_compile() -> str:
    """Why Triton cannot keep what it compiles, each launch of which then fails, or nothing."""
    from triton import knobs

    folder = Path(knobs.cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"Triton's cache cannot be written: {error}; set TRITON_CACHE_DIR to a folder that can"
    return ""


def of_this_run(device: str) -> dict[str, Any]:
    """What each result says of where it comes from."""
    if text := os.environ.get(VARIABLE):
        return json.loads(text)
    described = describe_machine(device)
    described["cpu"] = _cpu()  # of the peers
    described["driver"] = (ask_driver("driver_version") or [None])[0] if device != "cpu" else None
    return described


def _cpu() -> str:
    """Its name, and the threads that torch has on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def _uuid() -> str:
    """The current GPU as nvidia-smi names it, whose numbers are not those of CUDA_VISIBLE_DEVICES."""
    return f"GPU-{getattr(torch.cuda.get_device_properties(0), 'uuid', '')}"


def ask_driver(*names: str) -> list[str] | None:
    """Properties of the current GPU by their names in `nvidia-smi --help-query-gpu`; None without that program."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", f"--id={_uuid()}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = found.stdout.splitlines()
    return [value.strip() for value in lines[0].split(",")] if found.returncode == 0 and lines else None


def main() -> int:
    """Print the machine, or why it cannot measure; with --small a machine without a GPU rehearses."""
    reason = why_not()
    if reason and "--small" not in sys.argv:
        print(reason, file=sys.stderr)
        return 1
    print(json.dumps(of_this_run("cpu" if reason else "cuda")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
