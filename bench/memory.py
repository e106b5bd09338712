"""How much memory a call takes, counted by torch's own allocator on a CPU."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch


def peak(function: Callable[[], Any]) -> int:
    """The most bytes that a call holds at a time, beyond those that were held before it.

    The profiler of torch sees each allocation and each release of its allocator, in compiled code too. What numpy
    and libraries of matrix products take does not count.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    results: Any = profiler.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    del result
    return most


def numpy_peak(function: Callable[[], Any]) -> int:
    """The most bytes that a call holds in numpy's arrays and Python's objects, which `peak` does not see."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = function()
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    del result
    return most
