"""Many series, each with samples of its own, on a CPU: against float64 autograd of the plain formula."""

import dataclasses
import itertools

import pytest
import torch
from oracle import polynomial_loss as plain_loss
from oracle import polyval as plain_polyval
from torch import Tensor

import polyfit
from bench import memory
from polyfit import bases, losses
from polyfit.backends import chunked, sizes
from polyfit.backends.results import Wants
from polyfit.formula import Model

F64 = torch.float64
DOMAIN = (-2.0, 3.0)
SHAPES = [(5, 3), (3, 5), (20, 4), (4, 40), (7, 1)]
LOSSES = [losses.MSE(), losses.Huber(0.5), losses.Quantile(0.3), losses.PoissonNLL()]


@pytest.fixture(params=[(1, 1), (12, 4), (1 << 18, 7), (1 << 18, 2048)], ids=str)
def cut(request):
    chunk, longest = request.param
    lengths = dataclasses.replace(
        sizes.Sizes(), many_chunk=chunk, longest_block=longest, many_in_numpy=0 if chunk == 12 else 2048
    )
    with sizes.using(lengths):
        yield lengths


@pytest.mark.parametrize("basis", bases.BASES)
@pytest.mark.parametrize("degree", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_their_gradients_are_autograds(shape, degree, basis, cut):
    x = (torch.rand(shape, dtype=F64) * 5 - 2).requires_grad_()
    coef = torch.randn(shape[0], degree + 1, dtype=F64, requires_grad=True)
    grad = torch.randn(shape, dtype=F64)
    expected = plain_polyval(x, coef, DOMAIN, basis)
    to_x, to_coef = torch.autograd.grad(expected, (x, coef), grad, materialize_grads=True)
    model = Model(basis, bases.affine_map(DOMAIN, bases.BASES[basis], F64))
    ours = chunked.many_evaluate(x.detach(), coef.detach(), model)
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-12, atol=1e-12)
    ours = chunked.many_evaluate_backward(grad, x.detach(), coef.detach(), model, Wants(x=True, coef=True))
    for mine, theirs in zip(ours, (to_x, to_coef), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("rows", [(1, 0), (2, 2), (1, 1), (2, 1)], ids=lambda rows: f"y {rows[0]}, weight {rows[1]}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("basis", ["power", "laguerre"])
def test_the_loss_and_its_gradients_are_autograds(basis, shape, rows, loss, cut):
    n_series, n_samples = shape
    y_rows, weight_rows = ({0: 0, 1: 1, 2: n_series}[kind] for kind in rows)
    x = (torch.rand(shape, dtype=F64) * 2 - 1).requires_grad_()
    y = torch.rand(y_rows, n_samples, dtype=F64, requires_grad=True)
    weight = torch.rand(weight_rows, n_samples, dtype=F64, requires_grad=True) if weight_rows else None
    coef = torch.randn(n_series, 4, dtype=F64, requires_grad=True)
    upstream = torch.linspace(-1, 2, n_series, dtype=F64)
    model = Model(basis, bases.affine_map(DOMAIN, bases.BASES[basis], F64), loss)
    expected = plain_loss(x, y, coef, weight, "sum", per_series=True, domain=DOMAIN, basis=basis, pointwise=loss.value)
    operands = (x, y, coef) if weight is None else (x, y, coef, weight)
    gradients = dict(zip("xycw", torch.autograd.grad(expected, operands, upstream), strict=False))
    data = x.detach(), y.detach(), coef.detach(), None if weight is None else weight.detach()
    every = Wants(x=True, y=True, coef=True, weight=weight is not None)
    for wants in (every, Wants(coef=True), Wants(x=True), Wants(y=True), Wants()):
        sums = chunked.many_objective(*data, upstream, model, wants, 0.5)
        torch.testing.assert_close(sums.value, 0.5 * expected.detach(), rtol=1e-12, atol=1e-12)
        if weight is not None:
            totals = weight.detach().sum(1).expand(n_series)
            torch.testing.assert_close(sums.total_weight, totals, rtol=1e-12, atol=1e-12)
        found = (sums.grad_x, sums.grad_y, sums.grad_coef, sums.grad_weight)
        for mine, name, want in zip(found, "xycw", wants, strict=True):
            assert (mine is None) == (not want)
            if mine is not None:
                factor = 0.5 if name == "c" else 1.0
                torch.testing.assert_close(mine, factor * gradients[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_samples", [3, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_compute_in_float32(dtype, n_samples, cut):
    x, y = torch.rand(50, n_samples).to(dtype), torch.rand(50, n_samples).to(dtype)
    coef = torch.randn(50, 4).to(dtype).requires_grad_()
    loss = polyfit.polynomial_loss(x, y, coef, per_series=True)
    loss.sum().backward()
    wide = coef.detach().double().requires_grad_()
    expected = plain_loss(x.double(), y.double(), wide, reduction="mean", per_series=True)
    expected.sum().backward()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=4 * max(eps, 1e-6), atol=1e-6)
    assert coef.grad is not None
    torch.testing.assert_close(coef.grad.double(), wide.grad, rtol=4 * eps, atol=4 * max(eps, 1e-6))
    values = polyfit.polyval(x, coef.detach())
    assert values.dtype == dtype
    torch.testing.assert_close(
        values.double(), plain_polyval(x.double(), coef.detach().double()), rtol=4 * eps, atol=4 * eps
    )


@pytest.mark.parametrize("shape", [(30, 3), (3, 30)], ids=str)
def test_samples_of_weight_zero_are_left_out(shape, cut):
    x, y, weight = (torch.rand(shape, dtype=F64) for _ in range(3))
    coef = torch.randn(shape[0], 4, dtype=F64)
    is_out = torch.zeros(shape, dtype=torch.bool)
    is_out[:, 1] = is_out[1] = True
    bad_x, bad_y, weight = x.masked_fill(is_out, torch.nan), y.masked_fill(is_out, torch.inf), weight * ~is_out
    model = Model("power", None, losses.MSE())
    wants = Wants(x=True, y=True, coef=True)
    found = chunked.many_objective(bad_x, bad_y, coef, weight, None, model, wants, 1.0)
    expected = chunked.many_objective(x, y, coef, weight, None, model, wants, 1.0)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)
    to_weight = chunked.many_objective(bad_x, bad_y, coef, weight, None, model, Wants(weight=True), 1.0).grad_weight
    assert to_weight is not None
    assert not to_weight[is_out].any()


def test_float32_sums_do_not_grow_with_the_samples():
    # 2e5 equal terms: a plain float32 sum would be off by 1e-4 and more.
    x, y, coef = torch.full((2, 200_000), 0.1), torch.zeros(2, 200_000), torch.full((2, 1), 0.1)
    model = Model("power", None, losses.MSE())
    value = chunked.many_objective(x, y, coef, None, None, model, Wants(), 1.0).value
    assert value is not None
    torch.testing.assert_close(value, torch.full((2,), 200_000 * float(coef[0, 0]) ** 2, dtype=F64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(100_000, 16), (200_000, 4)], ids=str)
def test_memory_beyond_the_results_is_a_few_chunks(shape):
    x, y = torch.rand(shape), torch.rand(shape)
    coef = torch.rand(shape[0], 4)
    model, every = Model("power", None, losses.MSE()), Wants(x=True, y=True, coef=True)
    one_chunk = 4 * sizes.current().many_chunk

    def bytes_of(results: tuple[Tensor | None, ...]) -> int:
        return sum(part.nbytes for part in results if part is not None)

    result = chunked.many_evaluate(x, coef, model)
    assert memory.peak(lambda: chunked.many_evaluate(x, coef, model)) <= result.nbytes + 4 * one_chunk
    sums = chunked.many_objective(x, y, coef, None, None, model, every, 1.0)
    peak = memory.peak(lambda: chunked.many_objective(x, y, coef, None, None, model, every, 1.0))
    assert peak <= bytes_of(sums) + 6 * one_chunk


def test_which_operands_are_those_of_many_series():
    many, one = torch.rand(5, 3), torch.rand(3)
    cases = itertools.product((many, one), (torch.rand(5, 2), torch.rand(2)))
    assert [chunked.is_many(x, coef) for x, coef in cases] == [True, False, False, False]
    assert not chunked.is_many(torch.rand(5, 0), torch.rand(5, 2))
