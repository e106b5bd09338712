"""Phase "headline": each kernel beside a copy of as many bytes, and beside other ways to the same result.

The peers are eager PyTorch, torch.compile of the same function, and this package on the CPU. A peer that would take
long makes fewer epochs or sees fewer series, and its time is scaled to all of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import polyfit
from bench import peers
from bench.gpu import training
from bench.gpu.measuring import DTYPES, Bench, Case, Peer
from polyfit import bases, formula
from polyfit.backends import operators
from polyfit_kernels.activation import activate, activate_backward
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective

DOMAIN = (-2.0, 3.0)
MAPPING = bases.affine_map(DOMAIN, bases.BASES["chebyshev"], torch.float32)
PLAIN = (None, None, None, "power", "mse", 0.0)
SERIES_OF_PEERS = 10_000  # of a million
# Inputs and outputs of the KAN layer, rows of its batch, and its degree.
KAN_SIZES, KAN_DEGREE = ((256, 4096), (1024, 8192)), 4


def cases(bench: Bench) -> Iterator[Case]:
    """In order of worth: what has a goal comes first."""
    yield Case("copy", lambda: {"bytes_per_second": bench.copy_rate, "n_samples": bench.n_samples})
    data = _Long(bench)
    yield from _goals(bench, data)
    yield from _activations(bench)
    yield from training.cases(bench)
    yield from _kan(bench)
    yield from _many(bench)
    yield from _forms(bench, data)
    yield from _lengths(bench, data)


class _Long:
    """2**28 samples of one series, made when they are first used."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self.n = bench, bench.n_samples
        self._coefs: dict[tuple[int, torch.dtype], Tensor] = {}

    @functools.cached_property
    def x(self) -> Tensor:
        """(1, n)."""
        return self._bench.uniform(1, self.n)

    @functools.cached_property
    def y(self) -> Tensor:
        """(1, n)."""
        return self._bench.normal(1, self.n, seed=1)

    @functools.cached_property
    def weight(self) -> Tensor:
        """(1, n)."""
        return self._bench.uniform(1, self.n, seed=3).abs()

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """The rows (n,) of x and y."""
        return self.x[0], self.y[0]

    @functools.cached_property
    def on_cpu(self) -> tuple[Tensor, Tensor]:
        """The same rows on the CPU."""
        return self.x[0].cpu(), self.y[0].cpu()

    def coef(self, degree: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(1, degree + 1), made once: making it takes a share of a kernel's time, and cannot be captured in a graph."""
        if (degree, dtype) not in self._coefs:
            self._coefs[degree, dtype] = self._bench.normal(1, degree + 1, seed=2, dtype=dtype)
        return self._coefs[degree, dtype]


def _case(
    bench: Bench,
    name: str,
    n_bytes: int,
    function: Callable[[], Any],
    n_samples: int,
    others: dict[str, Peer] | None = None,
) -> Case:
    """A kernel beside the copy, and its peers."""

    def measure() -> dict[str, Any]:
        figures = {"n_samples": n_samples, **bench.beside_copy(bench.seconds(function), n_bytes)}
        return figures | (bench.peers(others) if others else {})

    return Case(name, measure)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=False)


def _with_gradient(function: Callable[..., Tensor], *operands: Tensor, coef: Tensor) -> Callable[[], None]:
    """A loss and its gradient to the coefficients."""

    def run() -> None:
        function(*operands, coef.clone().requires_grad_()).backward()

    return run


def _goals(bench: Bench, data: _Long) -> Iterator[Case]:
    n = data.n

    def loss_on_cpu(degree: int) -> None:
        leaf = data.coef(degree)[0].cpu().requires_grad_()
        polyfit.polynomial_loss(*data.on_cpu, leaf).backward()

    for d in (1, 5, 10):
        yield _case(
            bench, f"objective d={d}", 8 * n, lambda d=d: objective(data.x, data.y, data.coef(d), *PLAIN), n,
            {
                "eager": Peer(lambda d=d: _with_gradient(peers.horner_loss, *data.flat, coef=data.coef(d)[0])),
                "torch.compile": Peer(
                    lambda d=d: _with_gradient(_compiled(peers.horner_loss), *data.flat, coef=data.coef(d)[0])
                ),
                "cpu": Peer(lambda d=d: lambda: loss_on_cpu(d), on_device=False),
            },
        )  # fmt: skip
    yield _case(
        bench, "moments d=5", 8 * n, lambda: moments(data.x, data.y, None, 5, MAPPING), n,
        {
            "eager": Peer(lambda: lambda: peers.power_sums(*data.flat, 5)),
            "torch.compile": Peer(lambda: functools.partial(_compiled(peers.power_sums), *data.flat, 5)),
            "cpu": Peer(
                lambda: lambda: operators.moments(*data.on_cpu, None, 5, DOMAIN, None, "torch"), on_device=False
            ),
        },
    )  # fmt: skip
    yield _case(
        bench, "evaluate d=5", 8 * n, lambda: evaluate(data.x, data.coef(5), None, "power"), n,
        {
            "eager": Peer(lambda: lambda: peers.horner_values(data.x[0], data.coef(5)[0])),
            "torch.compile": Peer(
                lambda: functools.partial(_compiled(peers.horner_values), data.x[0], data.coef(5)[0])
            ),
            "cpu": Peer(
                lambda: lambda: polyfit.polyval(data.on_cpu[0], data.coef(5)[0].cpu()), on_device=False
            ),
        },
    )  # fmt: skip

    def values_and_back() -> None:
        evaluate(data.x, data.coef(5), None, "power")
        evaluate_backward(data.y, data.x, data.coef(5), None, "power", want_x=False, want_coef=True)

    def values_and_back_on_cpu() -> None:
        leaf = data.coef(5)[0].cpu().requires_grad_()
        polyfit.polyval(data.on_cpu[0], leaf).backward(data.on_cpu[1])

    def back(function: Callable[..., Tensor]) -> Callable[[], None]:
        return lambda: function(data.x[0], data.coef(5)[0].clone().requires_grad_()).backward(data.y[0])

    yield _case(
        bench, "evaluate and its backward d=5", 16 * n, values_and_back, n,
        {
            "eager": Peer(lambda: back(peers.horner_values)),
            "torch.compile": Peer(lambda: back(_compiled(peers.horner_values))),
            "cpu": Peer(lambda: values_and_back_on_cpu, on_device=False),
        },
    )  # fmt: skip


def layouts(bench: Bench) -> dict[str, tuple[int, int, int]]:
    """Shapes of the activation, (outer, groups, inner), of as many elements as a long series has."""
    n = bench.n_samples
    width, size = bench.choose((8, 32), (4096, 4096))
    return {"flat": (1, 1, n), "columns": (n // width, width, 1), "planes": (n // (4 * size), 4, size)}


def _activations(bench: Bench) -> Iterator[Case]:
    """The activation: its backward pass beside a copy, then both passes beside their peers."""
    n, silu = bench.n_samples, torch.nn.functional.silu

    @functools.cache
    def operands(dtype: torch.dtype, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        return bench.normal(*shape, seed=1).to(dtype), bench.uniform(*shape).to(dtype)

    @functools.cache
    def coef(degree: int, n_groups: int) -> Tensor:
        return bench.normal(degree + 1, n_groups, seed=2).t()

    model = formula.Model("chebyshev", MAPPING, outside="linear")
    for layout, shape in layouts(bench).items():
        for degree, dtype in ((5, torch.float32), (8, torch.float32), (5, torch.bfloat16)):

            def backward(degree: int = degree, dtype: torch.dtype = dtype, shape: tuple[int, int, int] = shape) -> Any:
                data = (*operands(dtype, shape), coef(degree, shape[1]))
                return activate_backward(*data, MAPPING, "chebyshev", "linear", want_x=True, want_coef=True)

            word = "bfloat16 " if dtype == torch.bfloat16 else ""
            name = f"activate_backward {word}{layout} d={degree}"
            yield _case(bench, name, 3 * dtype.itemsize * n, backward, n)

        def both(shape: tuple[int, int, int] = shape) -> None:
            grad, x = operands(torch.float32, shape)
            activate(x, coef(5, shape[1]), MAPPING, "chebyshev", "linear")
            activate_backward(grad, x, coef(5, shape[1]), MAPPING, "chebyshev", "linear", want_x=True, want_coef=True)

        def through(function: Callable[..., Tensor], shape: tuple[int, int, int], *more: Tensor) -> Callable[[], None]:
            grad, x = operands(torch.float32, shape)
            leaves = [part.clone().requires_grad_() for part in (x, *more)]

            def run() -> None:
                torch.autograd.grad(function(*leaves), leaves, grad)

            return run

        yield _case(
            bench, f"activate and its backward {layout} d=5", 20 * n, both, n,
            {
                "torch.compile": Peer(
                    lambda shape=shape: through(
                        _compiled(lambda x, coef: formula.polyval(x, coef, model)), shape, coef(5, shape[1])
                    )
                ),
                "nn.SiLU": Peer(lambda shape=shape: through(silu, shape)),
            },
        )  # fmt: skip
        operands.cache_clear()


def _many(bench: Bench) -> Iterator[Case]:
    """A million short series in one pass."""
    series, length = bench.choose((3, 64), (1_000_000, 64))

    @functools.cache
    def data() -> tuple[Tensor, Tensor, Tensor]:
        return bench.uniform(series, length), bench.normal(series, length, seed=1), bench.normal(series, 4, seed=2)

    def case(
        name: str, beside: int, function: Callable[[Tensor, Tensor, Tensor], Any], others: dict[str, Peer]
    ) -> Case:
        """Bytes of the samples, and those of a series beside them: its coefficients and its sums."""
        n_bytes = series * (8 * length + beside)

        def measure() -> dict[str, Any]:
            seconds = bench.replayed(lambda: function(*data()))
            return {"n_samples": series * length, **bench.beside_copy(seconds, n_bytes), **bench.peers(others)}

        return Case(f"a million series of 64, {name}", measure)

    def on_cpu() -> Callable[[], None]:
        x, y, coef = (part[:SERIES_OF_PEERS].cpu() for part in data())

        def run() -> None:
            polyfit.polynomial_loss(x, y, coef.clone().requires_grad_(), per_series=True).sum().backward()

        return run

    yield case(
        "objective d=3",
        4 * 4 + 5 * 8,
        lambda x, y, coef: objective(x, y, coef, *PLAIN),
        {
            "eager": Peer(lambda: _with_gradient(peers.horner_of_rows, *data()[:2], coef=data()[2])),
            "torch.compile": Peer(lambda: _with_gradient(_compiled(peers.horner_of_rows), *data()[:2], coef=data()[2])),
            "cpu": Peer(on_cpu, scale=max(1, series // SERIES_OF_PEERS), on_device=False),
        },
    )
    yield case("moments d=3", 12 * 8, lambda x, y, coef: moments(x, y, None, 3, None), {})
    yield case("evaluate d=3", 4 * 4, lambda x, y, coef: evaluate(x, coef, None, "power"), {})


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Products of float32 may be TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _kan(bench: Bench) -> Iterator[Case]:
    """The KAN layer, forward and backward. A dense layer that takes `degree` times as long would be its floor."""
    for width, n_rows in bench.choose(((20, 33),), KAN_SIZES):
        for name, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
            yield Case(
                f"kan {name} d={KAN_DEGREE} {width} to {width}, {n_rows} rows",
                functools.partial(_measure_kan, bench, width, n_rows, dtype),
            )


def _measure_kan(bench: Bench, width: int, n_rows: int, dtype: torch.dtype) -> dict[str, Any]:
    x, grad = (bench.normal(n_rows, width, dtype=dtype, seed=seed) for seed in (0, 1))
    x.requires_grad_()

    def layer(impl: str) -> polyfit.nn.PolynomialKAN:
        return polyfit.nn.PolynomialKAN(width, width, KAN_DEGREE, impl=impl, device=bench.device, dtype=dtype)

    def step(function: Callable[[Tensor], Tensor], *parameters: Tensor) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(x), (x, *parameters), grad)

    def of_module(module: torch.nn.Module) -> Callable[[], Any]:
        return step(module, *module.parameters())

    def by_einsum(*, compiled: bool) -> Callable[[], Any]:
        own = layer("torch")
        function = _compiled(peers.kan_by_einsum) if compiled else peers.kan_by_einsum
        return step(lambda x: function(x, own.coef, own.bias), own.coef, own.bias)

    flops = 6 * KAN_DEGREE * n_rows * width * width
    with _tf32():
        seconds = bench.seconds(of_module(layer("triton")))
        figures = {} if bench.is_warming else {"seconds": seconds, "flops_per_second": flops / seconds}
        return figures | bench.peers(
            {
                "nn.Linear x degree": Peer(
                    lambda: of_module(torch.nn.Linear(width, width, device=bench.device, dtype=dtype)), scale=KAN_DEGREE
                ),
                "chunks": Peer(lambda: of_module(layer("torch"))),
                "eager": Peer(lambda: by_einsum(compiled=False)),
                "torch.compile": Peer(lambda: by_einsum(compiled=True)),
            }
        )


def _forms(bench: Bench, data: _Long) -> Iterator[Case]:
    """Other degrees, bases, losses, operands and dtypes."""
    n = data.n
    yield _case(bench, "objective d=20", 8 * n, lambda: objective(data.x, data.y, data.coef(20), *PLAIN), n)
    for d in (1, 8, 10, 20):
        yield _case(bench, f"moments d={d}", 8 * n, lambda d=d: moments(data.x, data.y, None, d, MAPPING), n)
    for d in (1, 10):
        yield _case(bench, f"evaluate d={d}", 8 * n, lambda d=d: evaluate(data.x, data.coef(d), None, "power"), n)
    for d, want_x in ((5, False), (1, True), (5, True), (10, True)):
        yield _case(
            bench, f"evaluate_backward{' to x' if want_x else ''} d={d}", (12 if want_x else 8) * n,
            lambda d=d, want_x=want_x: evaluate_backward(
                data.y, data.x, data.coef(d), None, "power", want_x=want_x, want_coef=True
            ), n,
        )  # fmt: skip
    yield _case(
        bench, "objective chebyshev, domain, d=5", 8 * n,
        lambda: objective(data.x, data.y, data.coef(5), None, None, MAPPING, "chebyshev", "mse", 0.0), n,
    )  # fmt: skip
    yield _case(
        bench, "objective huber d=5", 8 * n,
        lambda: objective(data.x, data.y, data.coef(5), None, None, None, "power", "huber", 1.0), n,
    )  # fmt: skip
    yield _case(
        bench, "objective weighted d=5", 12 * n,
        lambda: objective(data.x, data.y, data.coef(5), data.weight, *PLAIN[1:]), n,
    )  # fmt: skip
    yield _case(
        bench, "moments weighted d=5", 12 * n, lambda: moments(data.x, data.y, data.weight, 5, MAPPING), n
    )  # fmt: skip
    yield _case(
        bench, "objective to x and y d=5", 16 * n,
        lambda: objective(data.x, data.y, data.coef(5), *PLAIN, want_x=True, want_y=True), n,
    )  # fmt: skip
    for name, dtype in DTYPES.items():
        if dtype == torch.float32:
            continue
        count = n // 2 if dtype == torch.float64 else n

        @functools.cache
        def narrow(dtype: torch.dtype = dtype, count: int = count) -> tuple[Tensor, Tensor]:
            return data.x[:, :count].to(dtype), data.y[:, :count].to(dtype)

        size = 2 * dtype.itemsize * count
        yield _case(
            bench, f"objective {name} d=5", size,
            lambda narrow=narrow, dtype=dtype: objective(*narrow(), data.coef(5, dtype), *PLAIN), count,
        )  # fmt: skip
        yield _case(
            bench, f"moments {name} d=5", size, lambda narrow=narrow: moments(*narrow(), None, 5, MAPPING), count
        )
        narrow.cache_clear()


def _lengths(bench: Bench, data: _Long) -> Iterator[Case]:
    """What a call costs its caller, through autograd too: launches cost time on the host, which short series show."""

    def through_autograd() -> None:
        leaf = data.coef(5)[0].clone().requires_grad_()
        polyfit.polynomial_loss(data.x[0], data.y[0], leaf, impl="triton").backward()

    def called(name: str, function: Callable[[], Any], n: int) -> Case:
        return Case(name, lambda: {"n_samples": n, **bench.beside_copy(bench.wall(function, rounds=15), 8 * n)})

    yield called("polynomial_loss and backward d=5, the call", through_autograd, data.n)
    for log in bench.choose((7, 8), (12, 16, 20, 24)):
        n = 2**log
        call = lambda n=n: objective(data.x[:, :n], data.y[:, :n], data.coef(5), *PLAIN)  # noqa: E731
        yield called(f"objective d=5 n=2^{log}, the call", call, n)
        yield Case(
            f"objective d=5 n=2^{log}",
            lambda n=n, call=call: {"n_samples": n, **bench.beside_copy(bench.replayed(call), 8 * n)},
        )
    for log in bench.choose((10,), (16, 20, 24, 27)):
        n = 2**log
        yield Case(
            f"fit d=5 n=2^{log}",
            lambda n=n: {
                "n_samples": n,
                "seconds": bench.wall(lambda: polyfit.fit(data.x[0, :n], data.y[0, :n], 5, impl="triton"), rounds=3),
            },
        )
