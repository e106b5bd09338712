"""The launch policies worth trying."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

import polyfit
from bench.gpu.timing import LR, Bench
from polyfit import bases
from polyfit.optimizers import SGD
from polyfit_kernels import launch
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective


def policy(bench: Bench) -> None:
    """The launch policies worth trying, for each kernel: rows of a tile and programs of a multiprocessor."""
    n = bench.n_samples
    copy = bench.copy_rate()
    x, y = bench.uniform(1, n), bench.normal(1, n, seed=1)
    plain = (None, None, None, "power", "mse", 0.0)
    mapping = bases.affine_map((-2.0, 3.0), bases.BASES["chebyshev"], torch.float32)

    def timed(name: str, n_bytes: float, function: Callable[[], Any], **changes: Any) -> None:
        shown = {key: str(value) for key, value in changes.items()}
        with launch.using(dataclasses.replace(launch.DEFAULT, **changes)):
            try:
                seconds = bench.seconds(function)
            except Exception as error:
                bench.report(f"policy {name}", failed=str(error)[:200], **shown)
                return
        bench.report(f"policy {name}", ms=seconds * 1e3, share_of_copy=n_bytes / seconds / copy, **shown)

    for d in (5,) if bench.small else (1, 5, 10, 20):
        coef = bench.normal(1, d + 1, seed=2)
        passes: dict[str, tuple[int, Callable[[], Any]]] = {
            "objective": (8, lambda coef=coef: objective(x, y, coef, *plain)),
            "objective, chebyshev": (
                8, lambda coef=coef: objective(x, y, coef, None, None, mapping, "chebyshev", "mse", 0.0),
            ),
            "evaluate": (8, lambda coef=coef: evaluate(x, coef, None, "power")),
            "evaluate_backward to x": (
                12, lambda coef=coef: evaluate_backward(y, x, coef, None, "power", want_x=True, want_coef=True),
            ),
        }  # fmt: skip
        for name, (n_bytes, function) in passes.items():
            for rows in (128, 256, 512):
                for programs in (4, 8, 16):
                    timed(f"{name} d={d}", n_bytes * n, function, rows=rows, programs_per_processor=programs)
    for d in (5,) if bench.small else (1, 5, 8):
        for held in (16, 8):
            for programs in (2, 3, 4, 6, 8):
                changes = {"moments_samples": (held, held), "moments_programs": programs}
                timed(f"moments d={d}", 8 * n, lambda d=d: moments(x, y, None, d, mapping), **changes)
    samples = torch.linspace(-math.pi, math.pi, 200 if bench.small else 2000, device=bench.device)
    start = torch.zeros(6, device=bench.device)
    warps = (launch.DEFAULT.resident_warps, ((4, 16), (8, 16), (16, 16)), ((8, 16), (16, 16)))
    for n_samples in (40,) if bench.small else (64, 250, 1000, 2000):
        for choice in warps:
            some = samples[:n_samples]
            run = lambda some=some: polyfit.train(  # noqa: E731
                some, some.sin(), start, optimizer=SGD(LR), epochs=3 if bench.small else 20_000, reduction="sum",
                engine="resident", impl="triton", record_every=1000,
            )  # fmt: skip
            timed(f"resident n={n_samples}, 20000 epochs", 0.0, run, resident_warps=choice)
