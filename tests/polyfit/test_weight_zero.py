"""A sample of weight zero is left out, whatever it holds: loss and derivatives are those of the other samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import LOSSES
from oracle import polynomial_loss
from torch import Tensor

import polyfit
from polyfit.backends import sizes

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*encountered in:RuntimeWarning"
)  # Triton's interpreter computes in numpy

OUT = [0, 7, 8, 30, 36]  # samples of weight zero
HELD = [(math.nan, 1.0), (1.0, math.nan), (math.inf, -math.inf), (1e200, 1.0), (0.5, 1.5)]  # their x and y
NAMES = ("x", "y", "coef", "weight")
# The axes of series of x, y and weight. Series that share a row share the samples that are left out.
LAYOUTS = {
    "one series": ((), (), (), ()),
    "own x": ((3,), (3,), (3,), (3,)),
    "shared x": ((), (3,), (3,), (3,)),
    "shared x and weight": ((), (3,), (3,), ()),
    "shared x and y": ((), (), (3,), (3,)),
    "own x, shared weight": ((3,), (3,), (3,), ()),
}


def _problem(layout: str, loss: str = "mse", n: int = 37) -> list[Tensor]:
    """x, y, coef and weight; where weight and sample have the axis of series, each series leaves out other samples."""
    generator = torch.Generator().manual_seed(3)
    axes = LAYOUTS[layout]
    options = {"generator": generator, "dtype": torch.float64}
    x = torch.rand(*axes[0], n, **options) * 3 - 1.5
    y = LOSSES[loss].targets(torch.randn(*axes[1], n, **options))
    coef = torch.randn(*axes[2], 4, **options)
    if LOSSES[loss].positive:
        coef = 0.1 * coef
        coef[..., 0] += 3.0
    weight = torch.rand(*axes[3], n, **options) + 0.5
    is_own = bool(axes[3])  # whether each series has weights
    for place, held in zip(OUT, HELD, strict=True):
        for series in range(3 if is_own else 1):
            where = (series, place - series) if is_own else (..., place)
            weight[where] = 0.0
            for operand, value in zip((x, y), held, strict=True):
                if operand.dim() == 2 or not is_own:  # series that share it do not all leave it out
                    operand[where] = value
    return [x, y, coef, weight]


def _expected(operands: list[Tensor], loss: str, reduction: str) -> list[Tensor]:
    """Losses of the series and the gradients of their sum, from the samples that count, one series after the other."""
    coef = operands[2]
    n_series = coef.shape[0] if coef.dim() == 2 else 1
    gradients = [torch.zeros_like(operand) for operand in operands]
    values = []
    for series in range(n_series):
        own = [operand[series] if operand.dim() == 2 else operand for operand in operands]
        counts = own[3] != 0
        leaves = [own[0][counts], own[1][counts], own[2], own[3][counts]]
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        value = polynomial_loss(*leaves, reduction=reduction, pointwise=LOSSES[loss].oracle)
        values.append(value.detach())
        found = torch.autograd.grad(value, leaves)
        places = [gradient[series] if gradient.dim() == 2 else gradient for gradient in gradients]
        places[0][counts] += found[0]
        places[1][counts] += found[1]
        places[2] += found[2]
        places[3][counts] += found[3]
        # The gradient to a weight of zero is the loss of its sample, where that is finite; else that counts as 0.
        of_each = polynomial_loss(own[0], own[1], own[2], reduction="none", pointwise=LOSSES[loss].oracle)
        of_each = torch.where(of_each.isfinite(), of_each, 0.0)[~counts]
        places[3][~counts] += (of_each - value.detach()) / own[3].sum() if reduction == "mean" else of_each
    return [torch.stack(values) if coef.dim() == 2 else values[0], *gradients]


def _check(operands: list[Tensor], loss: str, impl: str, reduction: str, wanted: tuple[str, ...] = NAMES) -> None:
    leaves = [
        operand.detach().clone().requires_grad_(name in wanted) for name, operand in zip(NAMES, operands, strict=True)
    ]
    *first, weight = leaves
    losses = polyfit.polynomial_loss(
        *first, loss=LOSSES[loss].loss, weight=weight, reduction=reduction, per_series=True, impl=impl
    )
    expected = _expected(operands, loss, reduction)
    torch.testing.assert_close(losses.detach(), expected[0], rtol=1e-11, atol=1e-12)
    losses.sum().backward()
    for name, leaf, gradient in zip(NAMES, leaves, expected[1:], strict=True):
        if name in wanted:
            torch.testing.assert_close(
                leaf.grad, gradient, rtol=1e-10, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}"
            )


WANTED = [NAMES, ("x", "y", "coef"), ("coef",), ("weight",)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunked(layout, reduction):
    for wanted in WANTED:
        _check(_problem(layout), "mse", "torch", reduction, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_small_chunks(layout):
    with sizes.using(sizes.Sizes(longest_block=5, block=4, chunk_of_a_thread=16)):
        for wanted in WANTED:
            _check(_problem(layout), "huber", "torch", "sum", wanted)


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, wanted):
    _check(_problem("own x", loss), loss, "torch", "mean", wanted)


@pytest.mark.compiler
@pytest.mark.parametrize("layout", ["one series", "shared x", "own x"])
def test_the_compiled_loop(layout):
    operands = _problem(layout)
    with sizes.using(sizes.Sizes(compiled_lane=2)):
        for wanted in (NAMES, ("coef",)):
            _check(operands, "huber", "compile", "sum", wanted)


@pytest.mark.interpreter
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kernel(layout):
    for wanted in WANTED:
        _check(_problem(layout), "mse", "triton", "sum", wanted)
    _check(_problem(layout), "bce_with_logits", "triton", "sum")


@pytest.mark.parametrize("impl", ["torch", pytest.param("triton", marks=pytest.mark.interpreter)])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_series_that_share_x_and_leave_out_other_samples(value, impl):
    generator = torch.Generator().manual_seed(5)
    x, y, coef, weight = (torch.rand(*shape, generator=generator).double() for shape in ((9,), (2, 9), (2, 4), (2, 9)))
    x[4], weight[0, 4] = value, 0.0
    coef.requires_grad_()
    losses = polyfit.polynomial_loss(x, y, coef, weight=weight, reduction="sum", per_series=True, impl=impl)
    losses.sum().backward()
    counts = torch.arange(9) != 4
    expected = _expected([x[counts], y[0, counts], coef[0].detach(), weight[0, counts]], "mse", "sum")
    torch.testing.assert_close(losses[0].detach(), expected[0], rtol=1e-12, atol=0)
    assert coef.grad is not None
    torch.testing.assert_close(coef.grad[0], expected[3], rtol=1e-12, atol=1e-13)
    assert not losses[1].isfinite()
    assert not coef.grad[1, 1:].isfinite().any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_second_derivatives(reduction):
    operands = _problem("one series", "log_cosh")
    counts = operands[3] != 0

    def hessian(function, x, y, coef, weight):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, y, coef, weight)]
        first = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
        factors = torch.linspace(1, 2, first[2].numel(), dtype=first[2].dtype)
        return torch.autograd.grad((first[2] * factors).sum(), leaves)

    def ours(x, y, coef, weight):
        return polyfit.polynomial_loss(x, y, coef, loss="log_cosh", weight=weight, reduction=reduction)

    def plain(x, y, coef, weight):
        return polynomial_loss(x, y, coef, weight, reduction, pointwise=LOSSES["log_cosh"].oracle)

    x, y, coef, weight = operands
    found = hessian(ours, x, y, coef, weight)
    expected = hessian(plain, x[counts], y[counts], coef, weight[counts])
    for name, mine, theirs in zip(NAMES, found, expected, strict=True):
        assert mine.isfinite().all(), name
        kept = mine if name == "coef" else mine[counts]
        torch.testing.assert_close(kept, theirs, rtol=1e-9, atol=1e-10)
        if name in {"x", "y"}:
            assert (mine[~counts] == 0).all()


def test_the_loss_of_each():
    x, y, coef, weight = _problem("one series")
    leaves = [tensor.clone().requires_grad_() for tensor in (x, y, coef, weight)]
    losses = polyfit.polynomial_loss(*leaves[:3], weight=leaves[3], reduction="none")
    counts = weight != 0
    assert (losses[~counts] == 0).all()
    losses.sum().backward()
    for leaf, gradient in zip(leaves, _expected([x, y, coef, weight], "mse", "sum")[1:], strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-11, atol=1e-12)


def test_a_loss_of_the_users():
    x, y, coef, weight = _problem("one series")
    leaves = [tensor.clone().requires_grad_() for tensor in (x, y, coef, weight)]
    loss = polyfit.polynomial_loss(*leaves[:3], weight=leaves[3], loss=lambda p, y: (p - y) ** 2)
    value, *gradients = _expected([x, y, coef, weight], "mse", "mean")
    torch.testing.assert_close(loss.detach(), value)
    loss.backward()
    for leaf, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-11, atol=1e-12)


def test_under_transforms():
    x, y, coef, weight = _problem("own x")

    def loss(x, y, coef, weight):
        return polyfit.polynomial_loss(x, y, coef, weight=weight, reduction="sum")

    found = torch.func.vmap(torch.func.grad(loss, (0, 1, 2, 3)))(x, y, coef, weight)
    for mine, theirs in zip(found, _expected([x, y, coef, weight], "mse", "sum")[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    tangent = torch.func.jvp(lambda coef: loss(x, y, coef, weight), (coef,), (torch.ones_like(coef),))[1]
    torch.testing.assert_close(tangent, found[2].sum(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weight", [torch.zeros(4), torch.zeros(2, 4)])
def test_all_weights_zero(weight):
    x = torch.full(weight.shape, math.nan)
    coef = torch.ones((*weight.shape[:-1], 3))
    assert polyfit.polynomial_loss(x, x, coef, weight=weight).isnan()
    assert polyfit.polynomial_loss(x, x, coef, weight=weight, reduction="sum") == 0.0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments(layout):
    from polyfit.backends import operators

    x, y, _, weight = _problem(layout)
    moments: Any = operators.moments
    sums = moments(x, y, weight, 3, (-1.5, 1.5), None, "torch")
    assert sums.of_x is not None
    for series in range(sums.squares.shape[0]):
        own = [operand[series] if operand.dim() == 2 else operand for operand in (x, y, weight)]
        counts = own[2] != 0
        part = moments(*(operand[counts] for operand in own), 3, (-1.5, 1.5), None, "torch")
        assert part.of_x is not None
        torch.testing.assert_close(sums.of_x[series], part.of_x[0], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(sums.of_residuals[series], part.of_residuals[0], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(sums.squares[series], part.squares[0], rtol=1e-11, atol=1e-12)
