"""Every kernel against float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.gpu.timing import DTYPES, Bench
from polyfit import bases, formula, losses
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective


def _allowed(dtype: torch.dtype) -> float:
    """The largest relative error: of float64, of float32, or of float32 rounded to a half type."""
    return {torch.float64: 1e-12, torch.float32: 2e-5}.get(dtype, 1e-2)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """The largest error, relative to the largest number; infinite where any is not finite."""
    scale = float(truth.detach().abs().max()) or 1.0
    error = float((found.detach().double() - truth.detach()).abs().max()) / scale if found.numel() else 0.0
    return error if math.isfinite(error) else math.inf


def smoke(bench: Bench) -> None:
    """Every kernel against float64 by autograd of the plain formula, short and long, every dtype."""
    sizes = (1, 1000) if bench.small or bench.warm else (1, 1000, 100_003, 10_000_019)
    for name, dtype in DTYPES.items():
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
    yield "objective", relative_error(results[0].sum(), terms.sum().detach())
    for part, found, expected in zip(
        ["coef", "x", "y"], (results[2], results[3], results[4]), (truth[2], truth[0], truth[1]), strict=True
    ):
        assert found is not None
        yield f"objective to {part}", relative_error(found, expected)
    yield "evaluate", relative_error(evaluate(x, coef, mapping, "chebyshev"), values.detach())
    upstream = bench.normal(1, n_samples, dtype=dtype, seed=4)
    truth = torch.autograd.grad(values, (leaves[0], leaves[2]), upstream.double())
    found = evaluate_backward(upstream, x, coef, mapping, "chebyshev", want_x=True, want_coef=True)
    for part, result, expected in zip(["x", "coef"], found, truth, strict=True):
        assert result is not None
        yield f"evaluate_backward to {part}", relative_error(result, expected)
    squares, with_y, of_x = moments(x, y, weight, 5, mapping)
    t = x.double() * mapping.scale - mapping.center * mapping.scale + mapping.shift  # pyright: ignore[reportOptionalMemberAccess]
    chebyshev = torch.cos(torch.arange(11, device=x.device)[:, None] * torch.acos(t))
    w = torch.ones_like(t) if weight is None else weight.double()
    yield "moments of y^2", relative_error(squares, (w * y.double() ** 2).sum(1))
    yield "moments of y", relative_error(with_y, (w * y.double() * chebyshev[:6]).sum(1)[None])
    yield "moments of x", relative_error(of_x, (w * chebyshev).sum(1)[None])
