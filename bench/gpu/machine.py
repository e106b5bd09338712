"""The machine that measures, as JSON, or why it cannot: `python -m bench.gpu.machine`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
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
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed beside torch {torch.__version__}; pip install 'fused-polyfit[triton]'"
    return ""


def of_this_run(device: str) -> dict[str, Any]:
    """What each result says of where it comes from."""
    if text := os.environ.get(VARIABLE):
        return json.loads(text)
    described = describe_machine(device)
    described["driver"] = (ask_driver("driver_version") or [None])[0] if device != "cpu" else None
    return described


def ask_driver(*names: str) -> list[str] | None:
    """Properties of the current GPU by their names in `nvidia-smi --help-query-gpu`; None without that program."""
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [value.strip() for value in found.stdout.splitlines()[0].split(",")] if found.returncode == 0 else None


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
