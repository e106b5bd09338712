"""The registry of cases through the kernels, by Triton's interpreter: values, gradients and transforms in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, Function
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

pytest.importorskip("triton")
import polyfit

pytestmark = pytest.mark.interpreter


def through_kernels(name: str) -> tuple[Function, Function]:
    """The loss and the values of a case with impl="triton"."""
    case = CASES[name]

    def loss(*operands: Tensor) -> Tensor:
        return case.loss_pair[0](*operands, impl="triton")

    def values(x: Tensor, coef: Tensor) -> Tensor:
        return polyfit.polyval(x, coef, basis=case.basis, domain=(-2.5, 3.0), impl="triton")

    return loss, values


def assert_same(ours: Any, plain: Any) -> None:
    for mine, theirs in zip(ours, plain, strict=True):
        scale = max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10 * scale)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    case, (loss, values) = CASES[name], through_kernels(name)
    for ours, plain, taken in ((loss, case.loss_pair[1], (0, 1, 2, 3)), (values, case.value_pair[1], (0, 2))):
        results = []
        for function in (ours, plain):
            operands = [case.operands()[i].requires_grad_() for i in taken]
            value = function(*operands)
            upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
            results.append((value, *torch.autograd.grad(value, operands, upstream)))
        assert_same(*results)


TRANSFORMS: dict[str, Callable[[Function], Callable[..., Any]]] = {
    "vmap": lambda f: lambda *o: (vmap(f)(*o),),
    "vmap of grad": lambda f: vmap(grad(lambda *o: f(*o).sum(), (0, 1, 2, 3))),
    "grad of vmap": lambda f: grad(lambda *o: (vmap(f)(*o) ** 2).sum(), (0, 1, 2, 3)),
    "hessian": lambda f: lambda *o: hessian(lambda *o: vmap(f)(*o).sum(), (2, 3))(*o)[0],
    "jvp": lambda f: lambda *o: jvp(vmap(f), o, o),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "name", ["mse, power, one series", "huber, chebyshev, own x", "cauchy, hermite, shared x and y"]
)
def test_transforms(name, transform):
    operands = [
        torch.stack(examples) for examples in zip(*(CASES[name].operands(seed) for seed in (1, 2)), strict=True)
    ]
    results = [TRANSFORMS[transform](f)(*operands) for f in (through_kernels(name)[0], CASES[name].loss_pair[1])]
    assert_same(*results)
