"""One pass over the data: each kernel beside a copy, and beside what one would write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import polyfit
from bench import peers
from bench.gpu.timing import DTYPES, Bench
from polyfit import bases
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective


def headline(bench: Bench) -> None:
    """One pass over 2**28 samples, each kernel beside a copy; what one would write instead; many short series."""
    n = bench.n_samples
    copy = bench.copy_rate()
    bench.report("copy", gigabytes_a_second=copy / 1e9)

    def timed(name: str, n_bytes: float, function: Callable[[], Any], **more: Any) -> None:
        seconds = bench.seconds(function)
        bench.report(name, ms=seconds * 1e3, share_of_copy=n_bytes / seconds / copy, bytes=n_bytes, **more)

    def graphed(name: str, n_bytes: float, function: Callable[[], Any]) -> None:
        seconds = bench.replayed(function)
        bench.report(name, ms=seconds * 1e3, share_of_copy=n_bytes / seconds / copy, bytes=n_bytes)

    x, y = bench.uniform(1, n), bench.normal(1, n, seed=1)
    coefs = {d: bench.normal(1, d + 1, seed=2) for d in (1, 5, 10, 20)}
    mapping = bases.affine_map((-2.0, 3.0), bases.BASES["chebyshev"], torch.float32)
    plain = (None, None, None, "power", "mse", 0.0)
    for d in (1, 5, 10, 20):
        timed(f"objective d={d}", 8 * n, lambda d=d: objective(x, y, coefs[d], *plain))
    for d in (1, 5, 8, 10):
        timed(f"moments d={d}", 8 * n, lambda d=d: moments(x, y, None, d, mapping))
    for d in (1, 5, 10):
        timed(f"evaluate d={d}", 8 * n, lambda d=d: evaluate(x, coefs[d], None, "power"))
    timed(
        "evaluate_backward d=5",
        8 * n,
        lambda: evaluate_backward(y, x, coefs[5], None, "power", want_x=False, want_coef=True),
    )
    for d in (1, 5, 10):
        timed(
            f"evaluate_backward to x d={d}",
            12 * n,
            lambda d=d: evaluate_backward(y, x, coefs[d], None, "power", want_x=True, want_coef=True),
        )
    timed(
        "objective chebyshev, domain, d=5",
        8 * n,
        lambda: objective(x, y, coefs[5], None, None, mapping, "chebyshev", "mse", 0.0),
    )
    timed("objective huber d=5", 8 * n, lambda: objective(x, y, coefs[5], None, None, None, "power", "huber", 1.0))
    weight = bench.uniform(1, n, seed=3).abs()
    timed("objective weighted d=5", 12 * n, lambda: objective(x, y, coefs[5], weight, *plain[1:]))
    timed("moments weighted d=5", 12 * n, lambda: moments(x, y, weight, 5, mapping))
    timed("objective to x and y d=5", 16 * n, lambda: objective(x, y, coefs[5], *plain, want_x=True, want_y=True))

    def through_autograd() -> None:
        leaf = coefs[5][0].clone().requires_grad_()
        polyfit.polynomial_loss(x[0], y[0], leaf, impl="triton").backward()

    timed("polynomial_loss and backward d=5", 8 * n, through_autograd)
    timed("eager Horner d=5", 8 * n, lambda: peers.horner(x[0], y[0], coefs[5][0]))
    if not bench.small:
        compiled = torch.compile(peers.horner_loss)

        def compiled_horner() -> None:
            compiled(x[0], y[0], coefs[5][0].clone().requires_grad_()).backward()

        timed("torch.compile of Horner d=5", 8 * n, compiled_horner)
    for log in (7, 8) if bench.small else (12, 16, 20, 22, 24, 26):
        some = slice(0, 2**log)
        graphed(
            f"objective d=5 n=2^{log}, replayed",
            8 * 2**log,
            lambda some=some: objective(x[:, some], y[:, some], coefs[5], *plain),
        )
        timed(
            f"objective d=5 n=2^{log}",
            8 * 2**log,
            lambda some=some: objective(x[:, some], y[:, some], coefs[5], *plain),
        )
        timed(f"moments d=5 n=2^{log}", 8 * 2**log, lambda some=some: moments(x[:, some], y[:, some], None, 5, mapping))
    for name, size in (("float16", 2), ("bfloat16", 2), ("float64", 8)):
        dtype, count = DTYPES[name], n // 2 if size == 8 else n
        narrow = tuple(part[:, :count].to(dtype) for part in (x, y))
        coef = coefs[5].to(dtype)
        timed(
            f"objective {name} d=5",
            2 * size * count,
            lambda narrow=narrow, coef=coef: objective(*narrow, coef, *plain),  # pyright: ignore[reportCallIssue]
        )
        timed(f"moments {name} d=5", 2 * size * count, lambda narrow=narrow: moments(*narrow, None, 5, mapping))  # pyright: ignore[reportCallIssue]
        del narrow


def many(bench: Bench) -> None:
    """A million short series."""
    copy = bench.copy_rate()
    plain = (None, None, None, "power", "mse", 0.0)
    series, length = (3, 64) if bench.small else (1_000_000, 64)
    x, y = bench.uniform(series, length), bench.normal(series, length, seed=1)
    coef = bench.normal(series, 4, seed=2)

    def timed(name: str, n_bytes: float, function: Callable[[], Any]) -> None:
        seconds = bench.replayed(function)
        bench.report(name, ms=seconds * 1e3, share_of_copy=n_bytes / seconds / copy, bytes=n_bytes)

    timed("objective, a million series of 64, d=3", 8 * series * length, lambda: objective(x, y, coef, *plain))
    timed("evaluate, a million series of 64, d=3", 8 * series * length, lambda: evaluate(x, coef, None, "power"))
    timed("moments, a million series of 64, d=3", 8 * series * length, lambda: moments(x, y, None, 3, None))
