"""torch's default device and dtype decide nothing: results have the device and dtype of the operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

import polyfit
from polyfit import bases, losses

DEFAULTS = [("meta", torch.float32), ("meta", torch.float16), ("cpu", torch.float64), ("cpu", torch.bfloat16)]


@pytest.fixture
def set_defaults() -> Iterator[Callable[[str, torch.dtype], None]]:
    def set_both(device: str, dtype: torch.dtype) -> None:
        torch.set_default_device(device)
        torch.set_default_dtype(dtype)

    yield set_both
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def loss(*operands: Any, **options: Any) -> Tensor:
    x, y, coef, weight = operands
    options = {"basis": "laguerre", "domain": (0.0, 1.0), **options}
    return polyfit.polynomial_loss(x, y, coef, weight=weight, **options)


def _results(dtype: torch.dtype, impl: str) -> list[Tensor]:
    """Losses, values and their derivatives, for one series and for several."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    results: list[Tensor] = []
    for batch in ((), (3,)):
        options = {"generator": generator, "device": "cpu", "dtype": torch.float64}
        x, y, coef, weight = (torch.rand(*batch, n, **options).to(dtype) for n in (40, 40, 4, 40))
        missing = x.clone()
        missing[..., 1], weight[..., :3] = torch.nan, 0.0
        leaves = [operand.requires_grad_() for operand in (x, y, coef, weight)]
        for name, kind in losses.LOSSES.items():
            for options in ({"reduction": "mean", "per_series": True}, {"reduction": "none"}):
                value = loss(*leaves, loss=name, impl=impl, **options)
                first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
                total = torch.stack([part.double().sum() for part in first]).sum()
                second = torch.autograd.grad(total, leaves)
                results += [value, *first, *second]
            results.append(loss(missing, y, coef, weight, loss=name, impl=impl))
            results.append(loss(missing, y, coef, weight, loss=kind().value))
        plain: Any = [operand.detach() for operand in (x, y, coef, weight)]
        results.append(grad(lambda coef: loss(*plain[:2], coef, plain[3], impl=impl))(plain[2]))  # noqa: B023
        results.append(jvp(lambda coef: loss(*plain[:2], coef, plain[3]), (plain[2],), (plain[2],))[1])  # noqa: B023
        if batch:
            results.append(vmap(grad(lambda *given: loss(*given, impl=impl), 2))(*plain))
        values = polyfit.polyval(x, coef, impl=impl)
        results += [values, *torch.autograd.grad(values.sum(), (x, coef))]
        results.append(bases.convert(plain[2], "power", "chebyshev"))
    results.append(bases.from_numpy(np.polynomial.Chebyshev([1.0, 2.0]))[0])
    return results


def _check(device: str, default: torch.dtype, dtype: torch.dtype, impl: str, set_defaults: Callable[..., None]) -> None:
    expected = _results(dtype, impl)
    set_defaults(device, default)
    results = _results(dtype, impl)
    set_defaults("cpu", torch.float32)
    for result, truth in zip(results, expected, strict=True):
        assert (result.device, result.dtype) == (truth.device, truth.dtype)
        torch.testing.assert_close(result, truth, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("device", "default"), DEFAULTS)
def test_defaults_of_torch_change_nothing(device, default, dtype, set_defaults):
    _check(device, default, dtype, "torch", set_defaults)


@pytest.mark.interpreter
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of numpy, in which the interpreter computes
def test_defaults_of_torch_change_nothing_for_kernels(set_defaults):
    _check("meta", torch.float16, torch.float32, "triton", set_defaults)
