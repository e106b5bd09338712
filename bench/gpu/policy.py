"""Phase "policy": the launch policies worth trying, for each kernel. The numbers of `launch.Policy` are taken from it.

A result is the time under a policy that differs from the default in the fields that it names. At the end the fastest
of each kernel is printed beside the default.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import polyfit
from bench.gpu.headline import KAN_DEGREE, KAN_SIZES, MAPPING, PLAIN, layouts
from bench.gpu.measuring import Bench, Case
from bench.gpu.training import LR
from polyfit.optimizers import SGD, Adam
from polyfit_kernels import kan_launch, launch
from polyfit_kernels.activation import activate_backward
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.kan import kan, kan_backward
from polyfit_kernels.kan_launch import Tile
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective

Changes = dict[str, Any]
# Rows of a tile are threads of a program: warps are rows / 32.
_TILES: tuple[Changes, ...] = (
    {},
    *({"longest_run": run} for run in (128, 256, 512)),
    *({"rows": rows} for rows in (128, 512)),
    *({"programs_per_processor": programs} for programs in (4, 16)),
    {"rows": 128, "programs_per_processor": 16},
)
_MOMENTS: tuple[Changes, ...] = (
    {},
    *({"moments_programs": (programs,) * 3} for programs in (2, 3, 4, 6, 8)),
    *({"moments_samples": (held, held), "moments_samples_above": held} for held in (4, 8, 16)),
    *({"widening_rows": 256, "moments_programs": (programs,) * 3} for programs in (2, 4)),
)
_PLANES: tuple[Changes, ...] = (
    {},
    *({"plane_samples": samples} for samples in (4, 16)),
    *({"plane_programs": programs} for programs in (4, 16)),
    {"plane_rows": 256, "plane_programs": 4},
)
_COLUMNS: tuple[Changes, ...] = (
    {},
    *({"column_loads": loads} for loads in (1, 4)),
    *({"column_programs": (programs,) * 3} for programs in (2, 3, 4)),
    *({"columns": columns} for columns in (32, 128)),
)
_WARPS: tuple[Changes, ...] = (
    {},
    {"resident_warps": ((4, 16), (8, 16), (16, 16))},
    {"resident_warps": ((8, 16), (16, 16))},
    {"resident_warps": ((2, 16), (4, 16), (8, 16), (16, 16))},
)


def _tiles_of(table: str, *tiles: Tile) -> tuple[Changes, ...]:
    """The default, and each of these tiles for all degrees, on compute capability 9."""
    changes = [
        {
            table: {**getattr(kan_launch.DEFAULT, table), "wgmma": ((kan_launch.LARGEST_DEGREE, tile),)},
            "name": f"{table} {tile.words}",
        }
        for tile in tiles
    ]
    return ({}, *({"kan": dataclasses.replace(kan_launch.DEFAULT, **change)} for change in changes))


_KAN: dict[str, tuple[Changes, ...]] = {
    "forward": _tiles_of(
        "forward",
        Tile(128, 128, 32, 8, 2), Tile(128, 128, 32, 8, 4), Tile(128, 128, 64, 8, 2), Tile(128, 256, 32, 8, 2),
        Tile(64, 128, 32, 4, 3), Tile(128, 64, 32, 4, 3),
    ),
    "to x": _tiles_of(
        "to_x",
        Tile(64, 64, 32, 8, 2), Tile(64, 64, 64, 8, 2), Tile(64, 64, 32, 4, 3), Tile(64, 32, 32, 4, 3),
        Tile(128, 64, 32, 8, 3),
    ),
    "to coef": (
        *_tiles_of(
            "to_coef", Tile(64, 128, 32, 8, 2), Tile(64, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(64, 64, 64, 8, 2)
        ),
        *(
            {"kan": dataclasses.replace(kan_launch.DEFAULT, rows_of_part=rows, name=f"rows_of_part {rows}")}
            for rows in (128, 256, 1024)
        ),
    ),
}  # fmt: skip


def cases(bench: Bench) -> Iterator[Case]:
    """In order of worth: what is farthest from its floor first."""
    best = _Best(bench)
    n = bench.n_samples

    @functools.cache
    def x() -> Tensor:
        return bench.uniform(1, n)

    @functools.cache
    def y() -> Tensor:
        return bench.normal(1, n, seed=1)

    @functools.cache
    def coef(degree: int) -> Tensor:
        return bench.normal(1, degree + 1, seed=2)

    for d in (5, 10, 20, 1):
        yield from best.each(
            f"objective d={d}", 8 * n, _TILES, lambda d=d: objective(x(), y(), coef(d), *PLAIN)
        )  # fmt: skip
        yield from best.each(
            f"moments d={d}", 8 * n, _MOMENTS, lambda d=d: moments(x(), y(), None, d, MAPPING)
        )  # fmt: skip
    yield from best.each("moments d=8", 8 * n, _MOMENTS, lambda: moments(x(), y(), None, 8, MAPPING))
    yield from best.each("resident", 0, _WARPS, *_resident(bench))
    for part, functions in _kan(bench).items():
        yield from best.each(f"kan {part}", 0, _KAN[part], *functions)
    for d in (5, 10):
        yield from best.each(
            f"evaluate_backward to x d={d}", 12 * n, _TILES,
            lambda d=d: evaluate_backward(y(), x(), coef(d), None, "power", want_x=True, want_coef=True),
        )  # fmt: skip
        yield from best.each(f"evaluate d={d}", 8 * n, _TILES, lambda d=d: evaluate(x(), coef(d), None, "power"))
    yield from best.each(
        "objective chebyshev d=5", 8 * n, _TILES,
        lambda: objective(x(), y(), coef(5), None, None, MAPPING, "chebyshev", "mse", 0.0),
    )  # fmt: skip

    @functools.cache
    def of_groups(degree: int, n_groups: int) -> Tensor:
        return bench.normal(degree + 1, n_groups, seed=2).t()

    for layout, d in ((layout, d) for layout in layouts(bench) for d in (5, 8)):
        shape = layouts(bench)[layout]
        yield from best.each(
            f"activate_backward {layout} d={d}", 12 * n, _COLUMNS if layout == "columns" else _PLANES,
            lambda d=d, shape=shape: activate_backward(
                y().view(shape), x().view(shape), of_groups(d, shape[1]),
                MAPPING, "chebyshev", "linear", want_x=True, want_coef=True,
            ),
        )  # fmt: skip
    # From which length of its runs a channel has programs of its own: 8 to 256 bytes.
    for inner in (2, 8, 32, 64):
        size = bench.choose(2, 256) * inner
        shape = (n // size, size // inner, inner)
        yield from best.each(
            f"activate_backward runs of {inner} d=5", 12 * n,
            ({}, *({"plane_bytes": size} for size in (1, 512))),
            lambda shape=shape: activate_backward(
                y().view(shape), x().view(shape), of_groups(5, shape[1]),
                MAPPING, "chebyshev", "linear", want_x=True, want_coef=True,
            ),
        )  # fmt: skip
    weight = functools.cache(lambda: bench.uniform(1, n, seed=3).abs())
    yield from best.each(
        "moments weighted d=5", 12 * n, _MOMENTS, lambda: moments(x(), y(), weight(), 5, MAPPING)
    )  # fmt: skip
    series, length = bench.choose((2, 2**7), (64, 2**20))
    rows = functools.cache(lambda: (bench.uniform(1, length), bench.normal(series, length, seed=1)))
    coefs = functools.cache(lambda: bench.normal(series, 6, seed=2))
    yield from best.each(
        "objective of 64 series to their shared x", 8 * series * length,
        ({}, *({"shared_buffer": 1 << log} for log in (22, 24, 28))),
        lambda: objective(*rows(), coefs(), *PLAIN, want_x=True),
    )  # fmt: skip
    yield from _fullest(bench)


def _resident(bench: Bench) -> tuple[Callable[[], Any], ...]:
    """Runs of resident with 64, 250, 1000 and 2000 samples."""
    samples = torch.linspace(-math.pi, math.pi, bench.choose(100, 2000), device=bench.device)

    def run(n_samples: int) -> None:
        some = samples[:n_samples]
        polyfit.train(
            some, some.sin(), torch.zeros(6, device=bench.device), optimizer=SGD(LR),
            epochs=bench.choose(3, 10_000), reduction="sum", engine="resident", impl="triton", record_every=1000,
        )  # fmt: skip

    return tuple(functools.partial(run, n) for n in bench.choose((40,), (64, 250, 1000, 2000)))


def _kan(bench: Bench) -> dict[str, list[Callable[[], Any]]]:
    """The three products of the KAN layer: 256 to 256, 4096 rows, then 1024 to 1024, 8192 rows; d = 4, bfloat16."""
    found: dict[str, list[Callable[[], Any]]] = {part: [] for part in _KAN}
    for width, n_rows in bench.choose(((20, 33),), KAN_SIZES):

        @functools.cache
        def data(width: int = width, n_rows: int = n_rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            x, grad = (bench.normal(n_rows, width, seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
            coef = bench.normal(KAN_DEGREE, width, width, seed=2) / width**0.5
            return grad, x, coef.bfloat16(), bench.normal(width, seed=3, dtype=torch.bfloat16)

        found["forward"].append(lambda data=data: kan(*data()[1:], "chebyshev", "tanh"))
        for part in ("x", "coef"):
            wants = {"want_x": part == "x", "want_coef": part == "coef"}
            found[f"to {part}"].append(
                lambda data=data, wants=wants: kan_backward(*data()[:3], "chebyshev", "tanh", **wants)
            )
    return found


def _fullest(bench: Bench) -> Iterator[Case]:
    """An epoch of resident with the longest series: some losses spill registers there, the squared error does not."""
    for name, n_samples, dtype in (("float32", 8192, torch.float32), ("float64", 4096, torch.float64)):
        n = bench.choose(40, n_samples)
        x = bench.uniform(n, dtype=dtype)
        y = (x > 0).to(dtype)
        for loss in ("mse", "bce_with_logits", "log_cosh", "cauchy"):
            train = functools.partial(
                polyfit.train, x, y, x.new_zeros(6), optimizer=Adam(1e-4), epochs=bench.choose(3, 2000), loss=loss,
                engine="resident", impl="triton", record_every=1000,
            )  # fmt: skip
            yield Case(
                f"resident {name} n={n_samples} {loss}, 2000 epochs of Adam",
                lambda train=train: {"seconds": bench.wall(train, rounds=3)},
            )


class _Best:
    """Policies tried for each kernel, and the fastest of each."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._tried: dict[str, list[tuple[float, Changes]]] = {}

    def each(
        self, kernel: str, n_bytes: int, policies: tuple[Changes, ...], *functions: Callable[[], Any]
    ) -> Iterator[Case]:
        """A case for each policy and function."""
        for number, function in enumerate(functions):
            name = kernel if len(functions) == 1 else f"{kernel} {number}"
            for changes in policies[:2] if self._bench.is_small else policies:
                shown = ", ".join(f"{field}={value}" for field, value in changes.items()) or "default"
                yield Case(
                    f"{name}: {shown}",
                    lambda name=name, changes=changes, function=function: self._measure(
                        name, n_bytes, changes, function
                    ),
                )
            yield Case(f"{name}: best", lambda name=name: self._best(name))

    def _measure(self, name: str, n_bytes: int, changes: Changes, function: Callable[[], Any]) -> dict[str, Any]:
        with launch.using(dataclasses.replace(launch.DEFAULT, **changes)):
            seconds = self._bench.seconds(function, most=0.3)
        self._tried.setdefault(name, []).append((seconds, changes))
        figures = {"kernel": name, "policy": {key: str(value) for key, value in changes.items()}}
        if not n_bytes:
            return figures | {"seconds": seconds}
        beside = self._bench.beside_copy(seconds, n_bytes)
        return figures | beside | ({"bytes_per_second": n_bytes / seconds} if beside else {})

    def _best(self, name: str) -> dict[str, Any]:
        """The fastest of the policies that were measured, and its time as a share of the default's."""
        tried = self._tried.get(name, [])
        default = next((seconds for seconds, changes in tried if not changes), None)
        if default is None or self._bench.is_warming:
            return {}
        seconds, changes = min(tried, key=lambda pair: pair[0])
        shown = {field: str(value) for field, value in changes.items()}
        return {"best": shown or "default", "share_of_default": seconds / default}
