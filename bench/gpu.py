"""The kernels on a GPU: right first, then timed beside a copy of as many bytes: `python -m bench.gpu [PHASE ...]`.

Phases, in order of worth: smoke, headline, many, training, policy. Each result is printed and, with --out FOLDER,
written as a JSON line when it is there: a run that is cut off loses only what it had not measured.
`--warm` compiles everything that the phases launch, in a minute or two, and its times say nothing: several phases can
do so at once, and what is timed after that finds all kernels in the cache. `--small` takes small sizes: with
TRITON_INTERPRET=1 every line runs on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import polyfit
from bench import peers
from bench.__main__ import describe_machine
from polyfit import bases, formula, losses
from polyfit.optimizers import SGD, Adam
from polyfit_kernels import launch
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective

ROUNDS = 15
EPOCHS = 80_000
LR = 0.55e-7
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class Report:
    """Prints results, and appends them to a file."""

    def __init__(self, folder: str | None, device: str) -> None:
        self._file = None if folder is None else (Path(folder) / "gpu.jsonl").open("a", encoding="utf-8")
        self._machine = describe_machine(device)
        print(self._machine, flush=True)

    def __call__(self, name: str, **figures: Any) -> None:
        """A result."""
        shown = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        )
        print(f"{name:58s} {shown}", flush=True)
        if self._file is not None:
            self._file.write(json.dumps({**self._machine, "benchmark": name, **figures}) + "\n")
            self._file.flush()


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where and at which sizes to measure."""

    device: str
    small: bool
    report: Report
    warm: bool = False

    @property
    def n_samples(self) -> int:
        """The length of a long series: 2**28."""
        if self.small:
            return 2**8
        return 2**20 if self.warm else 2**28

    def seconds(self, function: Callable[[], Any]) -> float:
        """Median time of a call on the device, after two to compile and warm up: of 15 calls, or 0.1 s."""
        for _ in range(1 if self.small else 2):
            function()
        if self.device == "cpu":
            began = time.perf_counter()
            function()
            return time.perf_counter() - began
        times: list[float] = []
        while not times or (not self.warm and (len(times) < ROUNDS or sum(times) < 0.1)):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e-3)
        return statistics.median(times)

    def wall(self, function: Callable[[], Any], rounds: int = 5) -> float:
        """Median time of a call as its caller sees it, after one that compiles."""
        function()
        times = []
        for _ in range(1 if self.small or self.warm else rounds):
            self.wait()
            began = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def wait(self) -> None:
        """Until the device has nothing to do."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Random numbers; those of one seed are the same."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(*shape, generator=generator, device=self.device, dtype=torch.float32).to(dtype)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Random numbers in [-1, 1)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return (torch.rand(*shape, generator=generator, device=self.device) * 2 - 1).to(dtype)

    def replayed(self, function: Callable[[], Any], calls: int = 20) -> float:
        """Median time of a call in a CUDA graph of some calls: without the time that its launch takes on the host."""
        function()
        if self.device == "cpu":
            return self.seconds(function)
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                function()
        return self.seconds(graph.replay) / calls

    def copy_rate(self) -> float:
        """Bytes a second of a copy on the device, read and written, once the card has its working clock."""
        source = self.normal(self.n_samples)
        target = torch.empty_like(source)
        began = time.perf_counter()
        while not self.small and time.perf_counter() - began < 0.5:
            target.copy_(source)
            self.wait()
        return 8 * self.n_samples / self.seconds(lambda: target.copy_(source))


# --- right or wrong ---


def _error(found: Tensor, truth: Tensor) -> float:
    scale = float(truth.detach().abs().max()) or 1.0
    error = float((found.double() - truth).abs().max()) / scale if found.numel() else 0.0
    return error if math.isfinite(error) else math.inf


def _allowed(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-12, torch.float32: 2e-5}.get(dtype, 2e-5 if dtype == torch.float32 else 1e-2)


def smoke(bench: Bench) -> None:
    """Every kernel against float64 by autograd of the plain formula, short and long, every dtype."""
    sizes = (1, 1000) if bench.small or bench.warm else (1, 1000, 100_003, 10_000_019)
    for name, dtype in _DTYPES.items():
        wrong = []
        for n_samples in sizes:
            for weighted in (False, True):
                for kind, error in _errors(bench, n_samples, dtype, weighted=weighted):
                    if not error <= _allowed(dtype):
                        wrong.append((n_samples, weighted, kind, error))
        bench.report(f"smoke {name}", wrong=len(wrong), which=str(wrong[:20]))


def _errors(bench: Bench, n_samples: int, dtype: torch.dtype, *, weighted: bool) -> Iterator[tuple[str, float]]:
    x, y = bench.uniform(1, n_samples, dtype=dtype), bench.normal(1, n_samples, dtype=dtype, seed=1)
    coef = bench.normal(1, 6, dtype=dtype, seed=2)
    weight = bench.uniform(1, n_samples, dtype=dtype, seed=3).abs() if weighted else None
    mapping = bases.affine_map((-2.0, 3.0), bases.BASES["chebyshev"], torch.float64)
    leaves = [part.double().requires_grad_() for part in (x, y, coef)]
    total = losses.resolve("huber")
    model = formula.Model("chebyshev", mapping, total)
    values = formula.polyval(leaves[0], leaves[2], model)
    terms = total.value(values, leaves[1])
    if weight is not None:
        terms = terms * weight.double()
    truth = torch.autograd.grad(terms.sum(), leaves, retain_graph=True)
    results = objective(x, y, coef, weight, None, mapping, "chebyshev", *total.kernel, want_x=True, want_y=True)
    yield "objective", _error(results[0].sum(), terms.sum().detach())
    for part, found, expected in zip(
        ["coef", "x", "y"], (results[2], results[3], results[4]), (truth[2], truth[0], truth[1]), strict=True
    ):
        assert found is not None
        yield f"objective to {part}", _error(found, expected)
    yield "evaluate", _error(evaluate(x, coef, mapping, "chebyshev"), values.detach())
    upstream = bench.normal(1, n_samples, dtype=dtype, seed=4)
    truth = torch.autograd.grad(values, (leaves[0], leaves[2]), upstream.double())
    found = evaluate_backward(upstream, x, coef, mapping, "chebyshev", want_x=True, want_coef=True)
    for part, result, expected in zip(["x", "coef"], found, truth, strict=True):
        assert result is not None
        yield f"evaluate_backward to {part}", _error(result, expected)
    squares, with_y, of_x = moments(x, y, weight, 5, mapping)
    t = x.double() * mapping.scale - mapping.center * mapping.scale + mapping.shift  # pyright: ignore[reportOptionalMemberAccess]
    chebyshev = torch.cos(torch.arange(11, device=x.device)[:, None] * torch.acos(t))
    w = torch.ones_like(t) if weight is None else weight.double()
    yield "moments of y^2", _error(squares, (w * y.double() ** 2).sum(1))
    yield "moments of y", _error(with_y, (w * y.double() * chebyshev[:6]).sum(1)[None])
    yield "moments of x", _error(of_x, (w * chebyshev).sum(1)[None])


# --- times ---


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
        dtype, count = _DTYPES[name], n // 2 if size == 8 else n
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
            figures["error_of_coef"] = _error(found.coef.cpu(), truth.coef)
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


PHASES = {"smoke": smoke, "headline": headline, "many": many, "training": training, "policy": policy}


def main() -> int:
    """Run the phases."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("phases", nargs="*", choices=[*PHASES, []], help="default: all")
    parser.add_argument("--out", help="a folder for gpu.jsonl")
    parser.add_argument("--warm", action="store_true", help="compile only")
    parser.add_argument("--small", action="store_true", help="small sizes, to try every line")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.small:
        print("no GPU that torch can use; --small with TRITON_INTERPRET=1 tries the lines of this file without one")
        return 1
    bench, status = Bench(device, options.small, Report(options.out, device), options.warm), 0
    for name in options.phases or PHASES:
        began = time.perf_counter()
        try:
            PHASES[name](bench)
        except Exception:
            traceback.print_exc()
            status = 1
        print(f"phase {name}: {time.perf_counter() - began:.1f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
