"""Loops over epochs, and fits, as their callers see them."""

from __future__ import annotations

import math
from typing import Any

import torch

import polyfit
from bench import peers
from bench.gpu.smoke import relative_error
from bench.gpu.timing import EPOCHS, LR, Bench
from polyfit.optimizers import SGD, Adam


def training(bench: Bench) -> None:
    """The tutorial's run in each engine; a million small models side by side; a fit."""
    n_samples, epochs = (100, 6) if bench.small else (2000, EPOCHS)
    x = torch.linspace(-math.pi, math.pi, n_samples, device=bench.device)
    y = torch.sin(x)
    start = torch.randn(6, generator=torch.Generator().manual_seed(0)).to(bench.device)
    options: dict[str, Any] = {"reduction": "sum", "impl": "triton"}
    truth = polyfit.train(
        x.double().cpu(), y.double().cpu(), start.double().cpu(), optimizer=SGD(LR), epochs=epochs, reduction="sum"
    )

    def run(name: str, rule: SGD | Adam, epochs: int, **more: Any) -> None:
        call = lambda: polyfit.train(x, y, start, optimizer=rule, epochs=epochs, **options, **more)  # noqa: E731
        found = call()
        seconds = bench.wall(call)
        figures: dict[str, Any] = {"ms": seconds * 1e3, "us_an_epoch": seconds / epochs * 1e6, "engine": found.engine}
        if isinstance(rule, SGD) and more.get("loss", "mse") == "mse" and found.epochs == truth.epochs:
            figures["error_of_coef"] = relative_error(found.coef.cpu(), truth.coef)
        bench.report(f"train {name}, {epochs} epochs", **figures)

    run("closed_form", SGD(LR), epochs, engine="closed_form")
    run("moments", SGD(LR), epochs, engine="moments")
    run("moments Adam", Adam(1e-3), epochs, engine="moments")
    run("resident", SGD(LR), epochs, engine="resident")
    run("resident Adam", Adam(1e-3), epochs, engine="resident")
    run("resident huber", SGD(LR), epochs, engine="resident", loss="huber")
    run("stepwise", SGD(LR), 6 if bench.small else 4000, engine="stepwise")
    run("stepwise Adam huber", Adam(1e-3), 6 if bench.small else 4000, engine="stepwise", loss="huber")
    if not bench.small:
        for name, loop in (("eager Horner", peers.train_eagerly), ("CUDA graph of eager Horner", peers.train_graphed)):
            seconds = bench.wall(lambda loop=loop: loop(x, y, start, SGD(LR), "mse", 1000), rounds=3)
            bench.report(f"train {name}, 1000 epochs", ms=seconds * 1e3, us_an_epoch=seconds * 1e3)
    series, epochs = (3, 4) if bench.small else (1_000_000, 1000)
    many = bench.uniform(series, 64)
    seconds = bench.wall(lambda: polyfit.train(
        many, many.sin(), many.new_zeros(series, 4), optimizer=Adam(0.01), epochs=epochs, loss="huber", per_series=True,
        record_every=500, impl="triton", engine="resident",
    ), rounds=2)  # fmt: skip
    bench.report(f"train {series} series of 64, {epochs} epochs of Adam, huber", ms=seconds * 1e3)
    for log in (10,) if bench.small else (16, 20, 24, 27):
        some = bench.uniform(2**log)
        seconds = bench.wall(lambda some=some: polyfit.fit(some, some.sin(), 5, impl="triton"), rounds=3)
        bench.report(f"fit d=5 n=2^{log}", ms=seconds * 1e3)
