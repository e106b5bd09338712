"""Run the benchmarks and print what they gave: `python -m bench [--record] [-k PATTERN]`, on the CPU.

With --record the results are appended to bench/results/results.jsonl, a line each, with device, versions and commit.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "results.jsonl"


def main() -> int:
    """Run, print, and record if asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"append the results to {RESULTS.name}")
    parser.add_argument("-k", default="", help="only benchmarks whose name contains this")
    options = parser.parse_args()
    machine = describe_machine("cpu")  # before the benchmarks: an error here would lose their results
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        status = pytest.main(
            [
                str(HERE), "-q", "-p", "no:cacheprovider", "-W", "default", "-k", options.k,
                "--benchmark-disable-gc", "--benchmark-columns=median", f"--benchmark-json={report}",
            ]
        )  # fmt: skip
        text = report.read_text() if report.exists() else ""
    if not text:
        return int(status)
    print(f"\n{machine['device']}, torch {machine['torch']}, triton {machine['triton']}, commit {machine['commit']}")
    rows = [summarise(entry) for entry in json.loads(text)["benchmarks"]]
    for row in rows:
        print(render(row))
    if options.record:
        with RESULTS.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({**machine, **row}) + "\n")
        print(f"\nrecorded in {RESULTS}")
    return int(status)


def describe_machine(device: str) -> dict[str, Any]:
    """Device, versions, commit, date."""
    if device == "cuda" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout; None without git, or outside a checkout. POLYFIT_COMMIT names that of a bare copy.

    It ends in "-dirty" where files are not as committed. Those of bench/results do not count: a run appends to them.
    """
    if commit := os.environ.get("POLYFIT_COMMIT"):
        return commit
    try:
        described = _git("describe", "--always")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results")
    except OSError:
        return None
    return f"{described}-dirty" if described and changed else described or None


def _git(*words: str) -> str:
    """What a command of git prints; nothing where it fails."""
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()


def _triton_version() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return triton.__version__


def summarise(entry: dict[str, Any]) -> dict[str, Any]:
    """Medians in seconds, a call (an epoch, say), and how many times longer each peer takes."""
    info = entry["extra_info"]
    calls = info.get("calls", 1)
    seconds = entry["stats"]["median"] / calls
    peer_calls = info.get("peer_calls", {})
    peers = {name: value / peer_calls.get(name, calls) for name, value in info["peers"].items()}
    row = {
        "benchmark": entry["name"].removeprefix("test_"),
        "seconds": seconds,
        "peers": peers,
        "ratios": {name: value / seconds for name, value in peers.items()},
    }
    if "bytes" in info:
        row["bytes_per_second"] = info["bytes"] / seconds
    return row


def render(row: dict[str, Any]) -> str:
    """A benchmark in a few lines for a person to read."""
    rate = f", {row['bytes_per_second'] / 1e9:.1f} GB/s" if "bytes_per_second" in row else ""
    lines = [f"\n{row['benchmark']}: {row['seconds'] * 1e3:.4g} ms{rate}"]
    lines += [
        f"  {name:30s} {row['peers'][name] * 1e3:10.4g} ms   x {ratio:.4g}" for name, ratio in row["ratios"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
