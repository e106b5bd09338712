"""Which calls wake threads, counted and not timed: the system counts how often each thread of a process ran.

A call that wakes a pool of threads waits until the last of them has run. Beside processes that keep the cores busy this
takes milliseconds, whatever the size of the data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

# A thread that waits for more work in a loop is counted once for many calls, or not yet. So threads sleep at once (for
# OpenBLAS after 2**4 clocks), and a count is read some time after the calls.
_SLEEPING = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
# A stray signal wakes threads too: the smallest count of some rounds is that of the calls themselves.
_PROGRAM = """
import json, sys, threading, time
from pathlib import Path

def switches():
    own, counts = threading.get_native_id(), {}
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != own:
            lines = (task / "status").read_text().splitlines()
            counts[task.name] = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return counts

def round_of(call, names, repeats):
    before = switches()
    for _ in range(repeats):
        exec(call, names)
    time.sleep(0.02)
    return sum(count - before.get(thread, 0) for thread, count in switches().items())

set_up, calls, repeats = json.load(sys.stdin)
names = {}
exec(set_up, names)
result = {}
for name, source in calls.items():
    call = compile(source, name, "exec")
    round_of(call, names, 3)
    counts = []
    while len(counts) < 3 and 0 not in counts:
        counts.append(round_of(call, names, repeats))
    result[name] = min(counts)
json.dump(result, sys.stdout)
"""
_ROOT = Path(__file__).parent.parent

needs_counts = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the system does not count how often threads run, as Linux does"
)


def switches(set_up: str, calls: Mapping[str, str], *, repeats: int = 20) -> dict[str, int]:
    """How often other threads of a fresh process ran during so many calls of each kind; 0 if the calls wake none.

    The process has two threads for operations of torch and numpy, whatever the environment says.

    Args:
        set_up: a program that runs before the calls, with all imports.
        calls: statements, by name. They run in the names of the program.
        repeats: calls that are counted, after three that warm up.
    """
    two = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    path = os.pathsep.join(map(str, (_ROOT, _ROOT / "kernels")))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps([set_up, dict(calls), repeats]), capture_output=True, text=True, check=False,
        env=os.environ | two | _SLEEPING | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts
