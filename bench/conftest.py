"""Timing ours and the peers in turn, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the tensors lie")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.config.getoption("--device"))
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda was asked for, and torch finds no GPU; nothing is measured")
    return name


@pytest.fixture
def in_turn(benchmark: Any, device: str) -> Callable[..., None]:
    """Time `ours` by pytest-benchmark, and before each of its rounds every peer once.

    The peers' medians go into `extra_info`, with what else the caller wants to keep (counted bytes, say).
    """

    def run(ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], rounds: int, **info: Any) -> None:
        def timed(function: Callable[[], Any]) -> float:
            _synchronise(device)
            began = time.perf_counter()
            function()
            _synchronise(device)
            return time.perf_counter() - began

        times: dict[str, list[float]] = {name: [] for name in peers}

        def each_peer_once() -> None:
            for name, peer in peers.items():
                times[name].append(timed(peer))
            _synchronise(device)

        def ours_to_the_end() -> None:
            ours()
            _synchronise(device)

        for function in (ours, *peers.values()):  # compile, allocate, fill caches
            function()
        benchmark.pedantic(ours_to_the_end, setup=each_peer_once, rounds=rounds)
        benchmark.extra_info["peers"] = {name: statistics.median(values) for name, values in times.items()}
        benchmark.extra_info.update(info)

    return run


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
