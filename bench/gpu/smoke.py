"""Phase "smoke": every kernel once, small and large, for every dtype, against float64.

The truth is autograd of the plain formula in float64, and for the loops over epochs torch.optim on the CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import polyfit
from bench.gpu import machine
from bench.gpu.measuring import DTYPES, Bench, Case
from polyfit import bases, formula, losses
from polyfit.bases import AffineMap
from polyfit.optimizers import SGD, Adam
from polyfit_kernels.activation import activate, activate_backward
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.kan import kan, kan_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective

# Samples of a series, and whether they have weights: one sample, one program, several programs, a full card.
SIZES = ((1, True), (1000, False), (100_003, True), (10_000_019, False))
SERIES, LENGTH = 300, 64  # many short series, each with its own coefficients
# Results in the dtype of the samples. All others are computed and kept in float32 or float64.
ROUNDED = ("values", "coef", "losses", "grad_x")
# Elements of the activation, (outer, groups, inner): one polynomial, a channel a column, and planes.
ELEMENTS = {
    "one polynomial": (1, 1, 100_003), "1000 columns": (500, 1000, 1), "planes of 7 x 7": (64, 100, 49),
    "many rows": (20_000, 64, 1), "planes of 56 x 56": (8, 64, 3136),
}  # fmt: skip
FEW_ELEMENTS = {"one polynomial": (1, 1, 300), "columns": (40, 5, 1), "planes": (3, 2, 49)}
# Rows of the batch, inputs, outputs and degree of the KAN layer: odd ones, and those of several programs.
KAN_SIZES = ((33, 17, 20, 3), (1000, 300, 77, 8), (4099, 256, 256, 4))
# Its largest errors: each operand of a product is rounded to the dtype, or cut to the 10 bits of TF32.
OF_KAN = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 4e-3}
EPOCHS = 60
LOOPS = {"descent": ("moments", "mse", SGD(0.05)), "resident": ("resident", "huber", Adam(0.05))}
Errors = Iterator[tuple[str, float]]


def allowed(dtype: torch.dtype, part: str) -> float:
    """The largest relative error: of float64, of float32, or of float32 rounded to a half type."""
    if part.startswith("kan"):
        return OF_KAN[dtype]
    if dtype == torch.float64:
        return 1e-12
    part = part.split(",", maxsplit=1)[0]
    if dtype == torch.float32 or part not in ROUNDED:
        return 2e-5
    # Triton's interpreter cuts the digits beyond bfloat16, where a GPU rounds.
    return 1e-3 if dtype == torch.float16 and part == "values" else 1e-2


def relative_error(found: Tensor, truth: Tensor) -> float:
    """The largest error, relative to the largest number of its row; infinite where any is not finite.

    Raises:
        ValueError: the shapes differ, which subtraction would broadcast.
    """
    if found.shape != truth.shape:
        raise ValueError(f"shape {tuple(found.shape)} instead of {tuple(truth.shape)}")
    if not found.numel():
        return 0.0
    truth = truth.detach()
    scale = truth.abs().amax(-1, keepdim=True) if truth.dim() > 1 else truth.abs().max()
    error = float(((found.detach().double() - truth).abs() / torch.where(scale == 0, 1.0, scale)).max())
    return error if math.isfinite(error) else math.inf


def cases(bench: Bench) -> Iterator[Case]:
    """The card, then every kernel."""
    yield Case("card", lambda: _card(bench))
    # Kernels that compile long come first. Descent computes in float64 whatever the samples are: one compiles for all.
    for n_series, n_samples in ((3, 40),) if bench.is_small else ((1, 2000), (40, 64)):
        for name, dtype in DTYPES.items():
            yield _case(
                f"resident {name} {n_series} series of {n_samples}",
                dtype,
                functools.partial(_loop, bench, "resident", n_series, n_samples, dtype),
            )
        yield Case(
            f"descent {n_series} series of {n_samples}",
            lambda n_series=n_series, n_samples=n_samples: _in_every_dtype(
                functools.partial(_loop, bench, "descent", n_series, n_samples)
            ),
        )
    for sizes in KAN_SIZES[:1] if bench.is_small else KAN_SIZES:
        for name, dtype in DTYPES.items():
            if dtype != torch.float64:
                n_rows, n_in, n_out, degree = sizes
                yield _case(
                    f"kan {name} {n_rows} x {n_in} to {n_out}, d={degree}",
                    dtype,
                    functools.partial(_kan, bench, sizes, dtype),
                )
    for n_samples, is_weighted in SIZES[:2] if bench.is_small else SIZES:
        for name, dtype in DTYPES.items():
            for kernel, errors in (("objective", _objective), ("evaluate", _evaluate), ("moments", _moments)):
                yield _case(
                    f"{kernel} {name} n={n_samples}{' weighted' if is_weighted else ''}",
                    dtype,
                    functools.partial(errors, bench, (1, n_samples), dtype, is_weighted),
                )
    for layout, elements in bench.choose(FEW_ELEMENTS, ELEMENTS).items():
        for name, dtype in DTYPES.items():
            yield _case(f"activation {name} {layout}", dtype, functools.partial(_activation, bench, elements, dtype))
    shape = bench.choose((3, 40), (SERIES, LENGTH))
    for name, dtype in DTYPES.items():
        for kernel, errors in (("objective", _objective), ("evaluate", _evaluate), ("moments", _moments)):
            yield _case(
                f"{kernel} {name} {shape[0]} series of {shape[1]}",
                dtype,
                functools.partial(errors, bench, shape, dtype, is_weighted=False),
            )


def _card(bench: Bench) -> dict[str, Any]:
    """What the card is, its rate, and its clocks after half a second of copying."""
    if bench.is_warming:
        return {}
    rate = bench.copy_rate
    names = ("clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")
    found = machine.ask_driver(*names) if bench.has_gpu else None
    properties = torch.cuda.get_device_properties(0) if bench.has_gpu else None
    described = {
        name: getattr(properties, name, None) for name in ("multi_processor_count", "total_memory", "L2_cache_size")
    }
    return {"bytes_per_second": rate, **described, **dict(zip(names, found or (), strict=False))}


def _case(name: str, dtype: torch.dtype, errors: Callable[[], Errors]) -> Case:
    return Case(name, lambda: _verdict(dict(errors()), dtype))


def _verdict(found: dict[str, float], dtype: torch.dtype) -> dict[str, Any]:
    wrong = {part: error for part, error in found.items() if not error <= allowed(dtype, part)}
    most = max(found, key=lambda part: found[part] / allowed(dtype, part))
    return {"wrong": len(wrong), "which": wrong, "largest_error": found[most], "allowed": allowed(dtype, most)}


def _in_every_dtype(errors: Callable[[torch.dtype], Errors]) -> dict[str, Any]:
    verdicts = {name: _verdict(dict(errors(dtype)), dtype) for name, dtype in DTYPES.items()}
    return {
        "wrong": sum(verdict["wrong"] for verdict in verdicts.values()),
        "which": {name: verdict["which"] for name, verdict in verdicts.items() if verdict["wrong"]},
        "largest_error": {name: verdict["largest_error"] for name, verdict in verdicts.items()},
        "allowed": {name: verdict["allowed"] for name, verdict in verdicts.items()},
    }


def _objective(bench: Bench, shape: tuple[int, int], dtype: torch.dtype, is_weighted: bool) -> Errors:
    x, y, coef, weight, mapping = _data(bench, shape, dtype, is_weighted)
    leaves = [part.double().requires_grad_() for part in (x, y, coef)]
    total = losses.resolve("huber")
    values = formula.polyval(leaves[0], leaves[2], formula.Model("chebyshev", mapping, total))

    def value(y: Tensor) -> Tensor:
        terms = total.value(values, y)
        return (terms if weight is None else terms * weight.double()).sum(1)

    truth = torch.autograd.grad(value(leaves[1]).sum(), leaves, retain_graph=True)
    found = objective(x, y, coef, weight, None, mapping, "chebyshev", *total.kernel, want_x=True, want_y=True)
    yield "value", relative_error(found[0], value(leaves[1]))
    for part, result, expected in zip(("x", "y", "coef"), (found[3], found[4], found[2]), truth, strict=True):
        assert result is not None
        yield f"gradient to {part}", relative_error(result, expected)
    # Without gradients of samples: the kernel that the headline times.
    found = objective(x, y, coef, weight, None, mapping, "chebyshev", *total.kernel)
    assert found[2] is not None
    yield "value alone", relative_error(found[0], value(leaves[1]))
    yield "gradient to coef alone", relative_error(found[2], truth[2])
    y = (values.detach() + 100.0 * _ends(values)).to(dtype)
    found = objective(x, y, coef, weight, None, mapping, "chebyshev", *total.kernel)
    yield "value of the ends", relative_error(found[0], value(y.double()))


def _evaluate(bench: Bench, shape: tuple[int, int], dtype: torch.dtype, is_weighted: bool) -> Errors:
    x, upstream, coef, _, mapping = _data(bench, shape, dtype, is_weighted=False)
    leaves = [part.double().requires_grad_() for part in (x, coef)]
    values = formula.polyval(leaves[0], leaves[1], formula.Model("chebyshev", mapping, losses.MSE()))
    yield "values", relative_error(evaluate(x, coef, mapping, "chebyshev"), values)
    # Weighted or not is nothing to this kernel; with and without the gradient to x are its variants.
    for ends, factor in (("", upstream), (" of the ends", _ends(upstream))):
        truth = torch.autograd.grad(values, leaves, factor.double(), retain_graph=True)
        found = evaluate_backward(factor, x, coef, mapping, "chebyshev", want_x=not is_weighted, want_coef=True)
        for part, result, expected in zip(("x", "coef"), found, truth, strict=True):
            if result is not None:
                yield f"gradient to {part}{ends}", relative_error(result, expected)


def _activation(bench: Bench, shape: tuple[int, int, int], dtype: torch.dtype) -> Errors:
    wide = formula.compute_dtype(dtype)
    mapping = bases.affine_map((-0.75, 0.5), bases.BASES["chebyshev"], wide)  # a third of the samples is outside
    x, grad = bench.uniform(*shape, dtype=dtype), bench.normal(*shape, dtype=dtype, seed=1)
    coef = bench.normal(6, shape[1], dtype=wide, seed=2).t()
    leaves = [part.double().requires_grad_() for part in (x, coef)]
    for outside in formula.OUTSIDE:
        values = formula.polyval(leaves[0], leaves[1], formula.Model("chebyshev", mapping, outside=outside))
        truth = torch.autograd.grad(values, leaves, grad.double())
        yield (
            f"values, {outside}",
            relative_error(activate(x, coef, mapping, "chebyshev", outside).flatten(), values.flatten()),
        )
        found = activate_backward(grad, x, coef, mapping, "chebyshev", outside, want_x=True, want_coef=True)
        for part, result, expected in zip(("grad_x", "grad_coef"), found, truth, strict=True):
            assert result is not None
            yield f"{part}, {outside}", relative_error(result.flatten(), expected.flatten())


def _kan(bench: Bench, sizes: tuple[int, int, int, int], dtype: torch.dtype) -> Errors:
    n_rows, n_in, n_out, degree = sizes
    x, grad = bench.normal(n_rows, n_in, dtype=dtype), bench.normal(n_rows, n_out, dtype=dtype, seed=1)
    coef = (bench.normal(degree, n_in, n_out, seed=2) / n_in**0.5).to(dtype)
    bias = bench.normal(n_out, dtype=dtype, seed=3)
    leaves = wide_x, wide_coef, wide_bias = tuple(part.double().requires_grad_() for part in (x, coef, bias))
    values = formula.kan(wide_x, wide_coef, wide_bias, "chebyshev", "tanh")
    yield "kan", relative_error(kan(x, coef, bias, "chebyshev", "tanh"), values)
    for ends, factor in (("", grad), (" of the ends", _ends(grad.t()).t())):
        truth = torch.autograd.grad(values, leaves[:2], factor.double(), retain_graph=True)
        found = kan_backward(factor, x, coef, "chebyshev", "tanh", want_x=True, want_coef=True)
        for part, result, expected in zip(("x", "coef"), found, truth, strict=True):
            assert result is not None
            yield f"kan, gradient to {part}{ends}", relative_error(result.flatten(), expected.flatten())


def _moments(bench: Bench, shape: tuple[int, int], dtype: torch.dtype, is_weighted: bool) -> Errors:
    x, y, _, weight, mapping = _data(bench, shape, dtype, is_weighted)
    t = x.double() * mapping[1] - mapping[0] * mapping[1] + mapping[2]
    chebyshev = torch.cos(torch.arange(11, device=x.device)[:, None] * torch.acos(t)[:, None])
    w = torch.ones_like(t) if weight is None else weight.double()
    for ends, samples in (("", y), (" of the ends", _ends(y))):
        squares, with_y, of_x = moments(x, samples, weight, 5, mapping)
        wide = samples.double()
        yield f"y^2{ends}", relative_error(squares, (w * wide**2).sum(1))
        yield f"y{ends}", relative_error(with_y, ((w * wide)[:, None] * chebyshev[:, :6]).sum(2))
        yield f"x{ends}", relative_error(of_x, (w[:, None] * chebyshev).sum(2))


def _ends(like: Tensor) -> Tensor:
    """Zeros, and ones at some samples: of so few each is seen in a sum, where one of ten million random ones is not."""
    ends = torch.zeros_like(like)
    ends[:, :40] = ends[:, -40:] = 1.0
    ends[:, :: max(1, like.shape[1] // 40)] = 1.0
    return ends


def _data(
    bench: Bench, shape: tuple[int, int], dtype: torch.dtype, is_weighted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, AffineMap]:
    x, y = bench.uniform(*shape, dtype=dtype), bench.normal(*shape, dtype=dtype, seed=1)
    weight = bench.uniform(*shape, dtype=dtype, seed=3).abs() if is_weighted else None
    mapping = bases.affine_map((-2.0, 3.0), bases.BASES["chebyshev"], torch.float64)
    assert mapping is not None
    return x, y, bench.normal(shape[0], 6, dtype=dtype, seed=2), weight, mapping


def _loop(bench: Bench, kernel: str, n_series: int, n_samples: int, dtype: torch.dtype) -> Errors:
    engine, loss, rule = LOOPS[kernel]
    epochs = bench.choose(4, EPOCHS)
    x, y = bench.uniform(n_series, n_samples, dtype=dtype), bench.normal(n_series, n_samples, dtype=dtype, seed=1)
    start = bench.normal(n_series, 4, dtype=dtype, seed=2)
    found = polyfit.train(
        x, y, start, optimizer=rule, epochs=epochs, loss=loss, per_series=True, record_every=7, basis="chebyshev",
        domain=(-1.0, 1.0), engine=engine, impl="triton",
    )  # fmt: skip
    wide_x, wide_y, coef = x.double().cpu(), y.double().cpu(), start.double().cpu().requires_grad_()
    lr = float(rule.lr)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.SGD([coef], lr=lr) if isinstance(rule, SGD) else torch.optim.Adam([coef], lr=lr)
    pointwise = {"mse": torch.nn.functional.mse_loss, "huber": torch.nn.functional.huber_loss}[loss]
    terms = torch.stack([torch.ones_like(wide_x), wide_x, 2 * wide_x**2 - 1, 4 * wide_x**3 - 3 * wide_x], -1)
    recorded = []
    for epoch in range(epochs + 1):
        values = pointwise((terms @ coef[..., None])[..., 0], wide_y, reduction="none").mean(-1)
        if epoch % 7 == 0 or epoch == epochs:
            recorded.append(values.detach())
        optimizer.zero_grad()
        values.sum().backward()
        if epoch < epochs:
            optimizer.step()
    yield "coef", relative_error(found.coef.cpu(), coef)
    yield "losses", relative_error(found.losses.values.cpu(), torch.stack(recorded))
