"""Second and third derivatives on their short ways, against float64 autograd of the plain formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from oracle import polynomial_loss, polyval
from torch import Tensor

import polyfit
from polyfit import formula, losses

F64 = torch.float64
LOSSES = {
    "mse": losses.MSE(),
    "huber": losses.Huber(0.3),
    "smooth_l1": losses.SmoothL1(0.5),
    "log_cosh": losses.LogCosh(),
    "quantile": losses.Quantile(0.3),
    "bce_with_logits": losses.BCEWithLogits(2.0),
    "poisson_nll": losses.PoissonNLL(),
    "cauchy": losses.Cauchy(0.7),
}


def _operands(n: int, n_coef: int = 4, dtype: torch.dtype = F64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    x, y, weight = (torch.rand(n, generator=generator, dtype=F64) for _ in range(3))
    coef, along = (torch.randn(n_coef, generator=generator, dtype=F64) * 0.5 for _ in range(2))
    return [operand.to(dtype) for operand in (x, y, weight + 0.1, coef, along)]


def _hessian_product(loss: Tensor, coef: Tensor, along: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, coef, create_graph=True)
    return torch.autograd.grad((gradient * along).sum(), coef)[0]


@pytest.mark.parametrize("n", [1, 30, 5000])
@pytest.mark.parametrize("basis", ["power", "laguerre"])
@pytest.mark.parametrize("name", LOSSES)
def test_products_with_the_hessian(name, basis, n):
    x, y, weight, coef, along = _operands(n)
    coef.requires_grad_()
    for options in ({}, {"weight": weight}, {"weight": weight, "reduction": "sum"}, {"per_series": True}):
        kind: dict[str, Any] = {"basis": basis, "domain": (-0.5, 1.5), **options}
        found = 3.0 * _hessian_product(polyfit.polynomial_loss(x, y, coef, loss=LOSSES[name], **kind), coef, along)
        plain = polynomial_loss(x, y, coef, pointwise=LOSSES[name].value, **kind)
        if name == "quantile":  # a second derivative of zero
            assert not found.any()
        else:
            expected = 3.0 * _hessian_product(plain, coef, along)
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_products_with_the_hessian_in_narrow_dtypes(name, dtype):
    x, y, weight, coef, along = _operands(3000, dtype=dtype)
    coef.requires_grad_()
    found = _hessian_product(polyfit.polynomial_loss(x, y, coef, loss=LOSSES[name], weight=weight), coef, along)
    assert found.dtype == dtype
    x, y, coef, weight, along = (operand.detach().double() for operand in (x, y, coef, weight, along))
    coef.requires_grad_()
    truth = _hessian_product(polyfit.polynomial_loss(x, y, coef, loss=LOSSES[name], weight=weight), coef, along)
    eps = torch.finfo(dtype).eps
    # A residual within rounding of the kink of huber may have either curvature: 1 of 3000 samples.
    allowed = 2 * eps + (10 / 3000 if name in {"huber", "smooth_l1"} else 4e-6)
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=allowed * max(1e-3, float(truth.abs().max())))


@pytest.mark.parametrize("held", [math.nan, math.inf])
def test_a_sample_of_weight_zero_reaches_no_second_derivative(held):
    x, y, weight, coef, along = _operands(20)
    coef.requires_grad_()
    expected = _hessian_product(polynomial_loss(x, y, coef, weight=weight), coef, along)
    x, y, weight = (
        torch.cat((operand, torch.tensor([value]))) for operand, value in ((x, held), (y, held), (weight, 0))
    )
    found = _hessian_product(polyfit.polynomial_loss(x, y, coef, weight=weight), coef, along)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_coef", [1, 2, 3, 5])
@pytest.mark.parametrize("shapes", [((6,), ()), ((6,), (3,)), ((3, 6), (3,))], ids=str)
@pytest.mark.parametrize("basis", ["power", "chebyshev"])
def test_gradients_of_values_to_third_order(basis, shapes, n_coef):
    (of_x, of_coef), generator = shapes, torch.Generator().manual_seed(1)
    x = torch.rand(of_x, generator=generator, dtype=F64).requires_grad_()
    coef = torch.randn((*of_coef, n_coef), generator=generator, dtype=F64).requires_grad_()
    results = []
    for values in (polyfit.polyval, polyval):
        total = values(x, coef, domain=(-1.0, 2.0), basis=basis).sin().sum()
        for _ in range(3):
            parts = torch.autograd.grad(total, (x, coef), create_graph=True)
            results.append(parts)
            total = torch.stack(
                [(part.sin() * torch.linspace(1, 2, part.shape[-1], dtype=F64)).sum() for part in parts]
            ).sum()
    for mine, theirs in zip(results[:3], results[3:], strict=True):
        for part, expected in zip(mine, theirs, strict=True):
            scale = max(1.0, float(expected.detach().abs().max()))
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"reduction": "sum", "basis": "legendre"}])
@pytest.mark.parametrize("loss", ["cauchy", lambda p, y: torch.log1p((p - y) ** 2)], ids=["named", "own"])
def test_gradcheck_to_second_order(loss, options):
    x, y, weight, coef, _ = (operand.requires_grad_() for operand in _operands(5))

    def of(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor) -> Tensor:
        return polyfit.polynomial_loss(x, y, coef, weight=weight, loss=loss, **options)

    assert torch.autograd.gradcheck(of, (x, y, coef, weight))
    assert torch.autograd.gradgradcheck(of, (x, y, coef, weight))


def test_horner_in_the_formula_is_finite_where_a_power_overflows():
    x, coef = torch.tensor([-1e20]), torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0])
    assert formula.polyval(x, coef, formula.Model("power")).item() == pytest.approx(-2e20, rel=1e-6)
