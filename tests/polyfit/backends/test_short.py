"""One series of few samples, in numpy: against autograd of the formula in float64, at the borders of its ways."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
import threads
import torch
from torch import Tensor

import polyfit
from polyfit import formula, losses
from polyfit.backends import sizes
from polyfit.backends.chunked import plain_rows, pointwise, short
from polyfit.bases import BASES

LOSSES: list[losses.Loss] = [
    *(kind.variants()[0] for kind in losses.LOSSES.values()),
    losses.Huber(0.3),
    losses.SmoothL1(0.4),
    losses.SmoothL1(0.0),
    losses.Quantile(0.9),
    losses.BCEWithLogits(2.5),
    losses.PoissonNLL(log_input=True, full=True),
    losses.PoissonNLL(log_input=False),
    losses.Cauchy(0.2),
    losses.Cauchy(1e-20),
]


def _ids(value: Any) -> str:
    return str(value)


def _operands(loss: losses.Loss, n: int, dtype: torch.dtype, n_coef: int = 4) -> list[Tensor]:
    """Operands x, y, coef and weight; predictions are positive for a loss of rates."""
    generator = torch.Generator().manual_seed(n)
    x = torch.rand(n, generator=generator, dtype=dtype) * 1.8 - 0.9
    y = torch.rand(n, generator=generator, dtype=dtype) * (1.0 if "bce" in loss.name else 3.0)
    coef = 0.4 * torch.randn(n_coef, generator=generator, dtype=dtype)
    coef[0] = 4.0
    return [x, y, coef, torch.rand(n, generator=generator, dtype=dtype) + 0.1]


def _both(operands: list[Tensor], wanted: str, **arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and gradients of polynomial_loss, and of the formula in float64."""
    loss, basis, reduction = (arguments[name] for name in ("loss", "basis", "reduction"))
    model = formula.Model(basis, None, loss)
    results = []
    for dtype in (operands[0].dtype, torch.float64):
        x, y, coef, weight = (
            operand.to(dtype).detach().requires_grad_(name in wanted)
            for name, operand in zip("xycw", operands, strict=True)
        )
        used = weight if arguments["weighted"] else None
        if dtype == operands[0].dtype and not results:
            value = polyfit.polynomial_loss(x, y, coef, loss=loss, weight=used, reduction=reduction, basis=basis)
        else:
            value = formula.polynomial_loss(x, y, coef, used, model, reduction)
        wanted_of = [t for t in (x, y, coef, weight) if t.requires_grad]
        gradients = torch.autograd.grad(value, wanted_of, allow_unused=True, materialize_grads=True)
        results.append([value.detach(), *gradients])
    return results[0], results[1]


def _check(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for mine, truth in zip(found, expected, strict=True):
        scale = truth.abs().max().clamp(min=torch.finfo(mine.dtype).tiny)
        assert ((mine.double() - truth).abs().max() / scale) <= tolerance


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES, ids=_ids)
def test_loss_and_all_gradients(loss: losses.Loss, reduction: str, weighted: bool):
    arguments = {"loss": loss, "basis": "power", "reduction": reduction, "weighted": weighted}
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        found, expected = _both(_operands(loss, 100, dtype), "xyc" + "w" * weighted, **arguments)
        _check(found, expected, tolerance)


@pytest.mark.parametrize("wanted", ["c", "x", "y", "xc"])
@pytest.mark.parametrize("n", [1, 2, 2047, 2048, 2049, 4096, 4097, 5000, 65535, 65536])
def test_sizes_at_borders_of_blocks_and_ways(n: int, wanted: str):
    for loss in (losses.MSE(), losses.Huber(), losses.LogCosh()):
        arguments = {"loss": loss, "basis": "power", "reduction": "mean", "weighted": False}
        _check(*_both(_operands(loss, n, torch.float64), wanted, **arguments), 1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 7])
@pytest.mark.parametrize("basis", BASES)
def test_bases_and_degrees(basis: str, degree: int):
    loss = losses.Cauchy()
    for n in (50, 5000):
        operands = _operands(loss, n, torch.float64, degree + 1)
        arguments = {"loss": loss, "basis": basis, "reduction": "mean", "weighted": True}
        _check(*_both(operands, "xycw", **arguments), 1e-12)
        x, coef = operands[0], operands[2]
        expected = formula.polyval(x, coef, formula.Model(basis))
        assert (polyfit.polyval(x, coef, basis=basis) - expected).abs().max() <= 1e-13 * expected.abs().max()


def test_equal_terms_do_not_add_up_roundings():
    """A float32 sum of n equal terms, one after the other, would be wrong by n / 4 roundings."""
    n = 32767
    x, y = torch.full((n,), 0.7), torch.full((n,), 0.1)
    coef = torch.tensor([0.3, 0.4], requires_grad=True)
    for name in ("mse", "huber", "log_cosh"):
        coef.grad = None
        loss = polyfit.polynomial_loss(x, y, coef, loss=name)
        loss.backward()
        one_x, one_y = x[:1].double(), y[:1].double()
        model = formula.Model("power", None, losses.LOSSES[name]())
        wide = coef.detach().double().requires_grad_()
        expected = formula.polynomial_loss(one_x, one_y, wide, None, model, "mean")
        expected.backward()
        assert coef.grad is not None
        assert wide.grad is not None
        assert abs(loss.item() / expected.item() - 1.0) <= 1e-6
        assert (coef.grad.double() / wide.grad - 1.0).abs().max() <= 1e-6


@pytest.mark.parametrize("loss", LOSSES, ids=_ids)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=_ids)
def test_pointwise_losses_are_those_of_the_registry(loss: losses.Loss, dtype: torch.dtype):
    """Also for residuals that are tiny, huge, infinite or not numbers."""
    special = [0.0, 1e-30, 1e-9, -1e-4, 0.3, -0.5, 3.0, -8.0, 30.0, -80.0, 1e6, -1e15, 1e25]
    not_finite = [float("inf"), -float("inf"), float("nan")] if loss.name != "poisson_nll" else [float("nan")]
    p = torch.tensor(special + not_finite, dtype=dtype)
    if loss.name == "poisson_nll":
        p = p.abs() if not loss.kernel[0].startswith("poisson_nll_log") else p.clamp(max=30.0)
    for target in (0.0, 0.25, 1.0):
        y = torch.full_like(p, target)
        for one in range(len(p)):  # alone, and all together: one of them may send all another way
            for part in (slice(None), slice(one, one + 1)):
                _compare_pointwise(loss, p[part], y[part])


class Rows(NamedTuple):
    p: np.ndarray
    other: np.ndarray
    xp: Any = np


def _compare_pointwise(loss: losses.Loss, p: Tensor, y: Tensor) -> None:
    mine, other = p.clone(), torch.empty_like(p)
    with np.errstate(all="ignore"):
        rows = pointwise.Row(mine.numpy(), mine), pointwise.Row(other.numpy(), other)
        terms = pointwise.fill(loss, rows[0], y.numpy(), rows[1])
        plain_rows.finish(terms, Rows(rows[0].array, rows[1].array))
    slope = mine if terms is None else terms.factor * mine
    wide_p, wide_y = p.double(), y.double()
    eps = torch.finfo(p.dtype).eps
    truth = loss.value(wide_p, wide_y), loss.slopes(wide_p, wide_y)[0]
    largest, tiny = torch.finfo(p.dtype).max, torch.finfo(p.dtype).tiny
    for found, exact in zip((other, slope), truth, strict=True):
        expected = torch.where(exact.abs() > largest, torch.sign(exact) * torch.inf, exact)
        unit = eps * (expected.abs() + (wide_p.abs() + wide_y.abs()) * (slope.double().abs() + eps))
        if loss.name == "poisson_nll":  # a difference of rates
            unit = unit + eps * (torch.exp(wide_p) + wide_y)
        is_near = (found.double() - expected).abs() <= 8 * unit + tiny
        assert (is_near | (found == expected) | (found.isnan() & expected.isnan())).all(), (
            loss,
            p,
            y,
            found - expected,
        )


def test_weight_zero_leaves_out_what_is_not_finite():
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([0.1, nan, 0.3, inf, 0.5], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0, 2.0, nan, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    coef = torch.tensor([0.2, 0.5, -0.1], dtype=torch.float64, requires_grad=True)
    for loss in LOSSES[:4]:
        mine = torch.autograd.grad(polyfit.polynomial_loss(x, y, coef, loss=loss, weight=weight), (x, y, coef, weight))
        keep = torch.tensor([0, 4])
        kept = [t.detach()[keep].requires_grad_() for t in (x, y, weight)]
        value = formula.polynomial_loss(kept[0], kept[1], coef, kept[2], formula.Model("power", None, loss), "mean")
        truth = torch.autograd.grad(value, (kept[0], kept[1], coef, kept[2]))
        for found, expected, is_samples in zip(mine, truth, (True, True, False, True), strict=True):
            torch.testing.assert_close(found[keep] if is_samples else found, expected, rtol=1e-12, atol=1e-14)
        assert all(bool((part[[1, 2, 3]] == 0).all()) for part in mine[:2])
        assert mine[3].isfinite().all()


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("shape", [(10, 64), (3, 16), (2, 2048), (5, 7), (2, 2049), (700, 50)], ids=_ids)
def test_several_series(shape: tuple[int, int], weighted: bool):
    """One loss over all of them: in numpy up to a size, else a chunk at a time."""
    for loss in (losses.MSE(), losses.Huber(0.3), losses.BCEWithLogits()):
        for degree, wanted in ((3, "xycw"), (1, "c"), (0, "yc")):
            x, y, _, weight = (part.view(shape) for part in _operands(loss, shape[0] * shape[1], torch.float64)[:2] * 2)
            weight = weight.abs() + 0.1
            coef = 0.4 * torch.randn(shape[0], degree + 1, dtype=torch.float64)
            for reduction in ("mean", "sum"):
                arguments = {"loss": loss, "basis": "power", "reduction": reduction, "weighted": weighted}
                _check(*_both([x, y, coef, weight], wanted if weighted else wanted.strip("w"), **arguments), 1e-12)
            expected = formula.polyval(x, coef, formula.Model("power"))
            assert (polyfit.polyval(x, coef) - expected).abs().max() <= 1e-13 * expected.abs().max()
            leaf, samples = coef.clone().requires_grad_(), x.clone().requires_grad_()
            mine = torch.autograd.grad(polyfit.polyval(samples, leaf), (samples, leaf), y)
            formal = formula.polyval(samples, leaf, formula.Model("power"))
            truth = torch.autograd.grad(formal, (samples, leaf), y, allow_unused=True, materialize_grads=True)
            _check(list(mine), list(truth), 1e-12)


def test_results_do_not_share_the_workspace():
    x, y = torch.linspace(-1, 1, 50), torch.rand(50)
    leaves = [torch.randn(4, requires_grad=True) for _ in range(2)]
    values = [polyfit.polynomial_loss(x, y, coef, loss="huber") for coef in leaves]
    torch.stack(values).sum().backward()
    for coef in leaves:
        alone = coef.detach().clone().requires_grad_()
        polyfit.polynomial_loss(x, y, alone, loss="huber").backward()
        assert coef.grad is not None
        assert alone.grad is not None
        assert torch.equal(coef.grad, alone.grad)


@pytest.mark.parametrize("shape", [(50,), (5, 40)], ids=_ids)
def test_a_workspace_of_inference_mode_is_not_used_outside(shape: tuple[int, ...]):
    x, y = torch.rand(shape), torch.rand(shape)
    coef = torch.randn(*shape[:-1], 4, requires_grad=True)
    for name in losses.LOSSES:
        with torch.inference_mode():
            first = polyfit.polynomial_loss(x, y, coef, loss=name)
        second = polyfit.polynomial_loss(x, y, coef, loss=name)
        second.backward()
        torch.testing.assert_close(second.detach(), first.clone(), rtol=1e-6, atol=0)


def test_what_is_not_plain_takes_the_general_way():
    """Same numbers for lists of bounds, several axes, strided samples, half types; and the same errors."""
    x, y, coef = torch.rand(6, 8), torch.rand(6, 8), torch.randn(3, requires_grad=True)
    plain = polyfit.polynomial_loss(x.flatten(), y.flatten(), coef, domain=(0.0, 1.0)).detach()
    for others in ((x, y), (x.t(), y.t())):
        torch.testing.assert_close(
            polyfit.polynomial_loss(*others, coef.detach(), domain=[0.0, 1.0]), plain, rtol=1e-6, atol=0
        )
    half = polyfit.polynomial_loss(x.half(), y.half(), coef.half(), domain=(0.0, 1.0))
    assert half.dtype == torch.float16
    assert abs(half.item() - plain.item()) < 0.05 * plain.item()
    with pytest.raises(ValueError, match="basis"):
        polyfit.polyval(x.flatten(), coef, basis="fourier")
    with pytest.raises(ValueError, match="not an interval"):
        polyfit.polyval(x.flatten(), coef, domain=(1.0, 0.0))
    with pytest.raises(ValueError, match="unknown"):
        polyfit.polynomial_loss(x.flatten(), y.flatten(), coef, loss="hubert")


def test_the_limit_is_that_of_sizes():
    x, coef = torch.rand(100), torch.rand(3)
    assert short.is_few(x, coef, "power")
    with sizes.using(dataclasses.replace(sizes.current(), short=99)):
        assert not short.is_few(x, coef, "power")


SET_UP = """
import torch, polyfit
torch.set_num_threads(2)  # MKL then wakes its threads for fewer numbers
n = 32767
x, y, weight, grad = torch.rand(4, n).unbind(0)
coef, high = torch.randn(6, requires_grad=True), torch.randn(21, requires_grad=True)
wide, target = x.double(), y.double()
double = coef.detach().double().requires_grad_()
rows, of_rows = torch.rand(10, 200), torch.randn(10, 4, requires_grad=True)
many, of_many = torch.rand(1000, 64), torch.randn(1000, 4, requires_grad=True)
layer, kan = polyfit.nn.Polynomial(5), polyfit.nn.PolynomialKAN(8, 8, 3)
def mine(p, y):
    return (p - y).abs()
"""
CALLS = {
    **{name: f"polyfit.polynomial_loss(x, y, coef, loss={name!r}).backward()" for name in losses.LOSSES},
    "float64": "polyfit.polynomial_loss(wide, target, double).backward()",
    "weighted": "polyfit.polynomial_loss(x, y, coef, weight=weight).backward()",
    "degree 20, chebyshev": "polyfit.polynomial_loss(x, y, high, basis='chebyshev').backward()",
    "no gradient": "polyfit.polynomial_loss(x, y, coef.detach())",
    "a user's own": "polyfit.polynomial_loss(x, y, coef, loss=mine).backward()",
    "of each": "polyfit.polynomial_loss(x, y, coef, reduction='none').backward(grad)",
    "values": "polyfit.polyval(x, coef.detach())",
    "values and gradient": "polyfit.polyval(x, coef).backward(grad)",
    "legendre": "polyfit.polyval(x, high, basis='legendre').backward(grad)",
    "series": "polyfit.polynomial_loss(rows, rows, of_rows).backward()",
    "shared": "polyfit.polynomial_loss(x[:64], many, of_many).backward()",
    "shared values": "polyfit.polyval(x[:64], of_many).backward(many)",
    "layer": "layer(rows).sum().backward()",
    "KAN": "kan(rows[:, :8]).sum().backward()",
}


@threads.needs_counts
def test_no_thread_is_woken():
    assert threads.switches(SET_UP, CALLS) == dict.fromkeys(CALLS, 0)
