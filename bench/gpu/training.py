"""Loops over epochs, as their callers see them: the tutorial's run, and a million small models side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import polyfit
from bench import peers
from bench.gpu.measuring import Bench, Case, Peer, whole
from bench.gpu.smoke import relative_error
from polyfit.optimizers import SGD, Adam
from polyfit.training import Training

EPOCHS, LR = 80_000, 0.55e-7
EPOCHS_OF_PEERS = 1000
LARGEST_ERROR = 1e-4  # of coefficients; resident makes its epochs in float32
RULES = {"": SGD(LR), " of Adam": Adam(1e-3)}


def cases(bench: Bench) -> Iterator[Case]:
    """The tutorial in each engine, then many series."""
    yield from _tutorial(bench)
    yield from _many(bench)


def _tutorial(bench: Bench) -> Iterator[Case]:
    """sin(x), 2000 samples, degree 5; stepwise makes fewer epochs, and its time is that of all."""
    n_samples, epochs = bench.choose((100, 8), (2000, EPOCHS))

    @functools.cache
    def data() -> tuple[Tensor, Tensor, Tensor]:
        x = torch.linspace(-math.pi, math.pi, n_samples, device=bench.device)
        start = torch.randn(6, generator=torch.Generator().manual_seed(0)).to(bench.device)
        return x, torch.sin(x), start

    def train(rule: SGD | Adam, epochs: int, engine: str, impl: str = "triton", device: str | None = None) -> Training:
        x, y, start = (part.to(device or bench.device) for part in data())
        return polyfit.train(
            x, y, start, optimizer=rule, epochs=epochs, reduction="sum", engine=engine, impl=impl  # pyright: ignore[reportArgumentType]
        )  # fmt: skip

    @functools.cache
    def truth() -> Tensor:
        x, y, start = (part.double().cpu() for part in data())
        return polyfit.train(x, y, start, optimizer=SGD(LR), epochs=epochs, reduction="sum").coef

    few = bench.choose(4, EPOCHS_OF_PEERS)
    scale = epochs / few

    @functools.cache
    def loops(name: str) -> dict[str, Any]:
        rule = RULES[name]
        loops = {
            "eager": peers.train_eagerly,
            "eager in a CUDA graph": peers.train_graphed,
            "torch.compile": peers.train_compiled,
        }
        return bench.peers(
            {
                name: Peer(
                    lambda loop=loop: lambda: loop(*data(), rule, "mse", few),
                    scale,
                    on_device=False,
                    quarter=lambda loop=loop: lambda: loop(*data(), rule, "mse", few // 4),
                )
                for name, loop in loops.items()
            }
        )

    def measure(engine: str, name: str) -> dict[str, Any]:
        rule = RULES[name]
        made = epochs // 20 if engine == "stepwise" and not bench.is_small else epochs
        found = train(rule, made, engine)
        seconds = bench.wall(lambda: train(rule, made, engine))
        figures: dict[str, Any] = {"n_samples": n_samples, "seconds": seconds, "epochs": epochs}
        if made < epochs:
            quarter = bench.wall(lambda: train(rule, made // 4, engine))
            figures |= {"seconds": whole(seconds, quarter, epochs / made), "epochs_made": made}
        elif isinstance(rule, SGD) and not bench.is_warming:
            error = relative_error(found.coef.cpu(), truth())
            figures |= {"error_of_coef": error, "wrong": int(not error <= LARGEST_ERROR)}
        # On a CPU no data stay in registers: resident's peer there makes its epochs step by step.
        there, made_there = ("stepwise" if engine == "resident" else engine), epochs if engine == "closed_form" else few
        on_cpu = Peer(
            lambda: lambda: train(rule, made_there, there, "torch", "cpu"),
            epochs / made_there,
            on_device=False,
            quarter=lambda: lambda: train(rule, made_there // 4, there, "torch", "cpu"),
        )
        in_cpu = bench.peers({"cpu": on_cpu})
        return figures | loops(name) | {"peers": loops(name)["peers"] | in_cpu["peers"]}

    for name, rule in RULES.items():
        engines = ("closed_form", "moments", "resident", "stepwise")
        for engine in engines if isinstance(rule, SGD) else engines[1:]:
            yield Case(f"80000 epochs{name}, {engine}", lambda engine=engine, name=name: measure(engine, name))


def _many(bench: Bench) -> Iterator[Case]:
    """A million series of 64 samples, each with its own four coefficients."""
    series, epochs = bench.choose((3, 4), (1_000_000, 1000))
    few = bench.choose(4, 12)

    @functools.cache
    def data() -> tuple[Tensor, Tensor, Tensor]:
        x = bench.uniform(series, 64)
        return x, x.sin(), x.new_zeros(series, 4)

    def train() -> Training:
        return polyfit.train(
            *data(), optimizer=Adam(0.01), epochs=epochs, loss="huber", per_series=True, record_every=500,
            impl="triton", engine="resident",
        )  # fmt: skip

    others = {
        "eager": Peer(
            lambda: lambda: peers.train_rows_eagerly(*data(), Adam(0.01), few),
            epochs / few,
            on_device=False,
            quarter=lambda: lambda: peers.train_rows_eagerly(*data(), Adam(0.01), few // 4),
        ),
    }
    yield Case(
        "a million series of 64, 1000 epochs of Adam",
        lambda: {
            "n_samples": series * 64,
            "seconds": bench.wall(train, rounds=2),
            "epochs": epochs,
            **bench.peers(others),
        },
    )
