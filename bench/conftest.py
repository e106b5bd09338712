"""Timing ours and the peers in turn, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def in_turn(benchmark: Any) -> Callable[..., None]:
    """Time `ours` by pytest-benchmark, and before each of its rounds every peer once.

    The peers' medians go into `extra_info`, with what else the caller wants to keep (counted bytes, say).
    """

    def run(ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int, **info: Any) -> None:
        def timed(function: Callable[[], Any]) -> float:
            began = time.perf_counter()
            function()
            return time.perf_counter() - began

        times: dict[str, list[float]] = {name: [] for name in peers}

        def each_peer_once() -> None:
            for name, peer in peers.items():
                times[name].append(timed(peer))

        for function in (ours, *peers.values()):  # compile, allocate, fill caches
            function()
        benchmark.pedantic(ours, setup=each_peer_once, rounds=rounds)
        benchmark.extra_info["peers"] = {name: statistics.median(values) for name, values in times.items()}
        benchmark.extra_info.update(info)

    return run
