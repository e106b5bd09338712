"""Corners of PyTorch in which an operation must still behave as the plain formula does."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import CASES, Function
from oracle import polynomial_loss as plain_loss
from oracle import polyval as plain_polyval
from torch import Tensor

import polyfit
from polyfit.backends import sizes
from polyfit.losses import BCEWithLogits, Cauchy

F64 = torch.float64


@pytest.fixture
def precision():
    """Whatever a test says of the precision of products is taken back."""
    yield
    torch.backends.cuda.matmul.fp32_precision = "none"  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.mkldnn.matmul.fp32_precision = "none"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("backend", ["cuda", "mkldnn"])
@pytest.mark.parametrize("n_samples", [50, 70_000])
def test_the_newer_way_to_lower_the_precision_of_products(backend, n_samples, precision):
    x, y, coef = torch.rand(n_samples), torch.rand(n_samples), torch.rand(4)
    expected = polyfit.polynomial_loss(x.double(), y.double(), coef.double())
    getattr(torch.backends, backend).matmul.fp32_precision = "tf32" if backend == "cuda" else "bf16"
    assert polyfit.polynomial_loss(x, y, coef).item() == pytest.approx(expected.item(), rel=1e-6)


# Compiled in float64 only: values take the same way in float32, and sums, which are float64, are copied into it.
@pytest.mark.parametrize(
    ("impl", "dtype"),
    [("torch", torch.float32), ("torch", F64), pytest.param("compile", F64, marks=pytest.mark.compiler)],
)
@pytest.mark.parametrize("name", ["one series", "own x", "shared x"])
@pytest.mark.parametrize("n_samples", [37, 3001, 20_000])
def test_results_can_be_modified_in_place(n_samples, impl, name, dtype):
    batch = {"one series": ((), ()), "own x": ((2,), (2,)), "shared x": ((), (2,))}[name]
    x, coef = torch.rand(*batch[0], n_samples, dtype=dtype), torch.rand(*batch[1], 3, dtype=dtype, requires_grad=True)
    for function in (
        lambda: polyfit.polyval(x, coef, impl=impl),
        lambda: polyfit.polynomial_loss(x, x, coef, impl=impl),
        lambda: polyfit.polynomial_loss(x, x, coef, per_series=True, impl=impl),
    ):
        expected = torch.autograd.grad((2 * function()).sum(), coef)[0]
        assert torch.equal(torch.autograd.grad(function().mul_(2).sum(), coef)[0], expected)


@pytest.mark.parametrize("name", list(CASES)[:6])
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_in_batches(name, create_graph):
    for ours, plain, taken in CASES[name].pairs:
        results = []
        for function in (ours, plain):
            operands = [CASES[name].operands()[i].requires_grad_() for i in taken]
            value = function(*operands)
            upstream = torch.randn(3, *value.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
            options = {"is_grads_batched": True, "create_graph": create_graph}
            results.append(torch.autograd.grad(value, operands, upstream, **options))
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-9)


def test_vectorised_jacobians_of_autograd():
    x, coef = torch.rand(6, dtype=F64), torch.rand(2, 3, dtype=F64)

    def ours(x: Tensor) -> Tensor:
        return polyfit.polynomial_loss(x, 2 * x, coef, per_series=True)

    def plain(x: Tensor) -> Tensor:
        return plain_loss(x, 2 * x, coef, per_series=True)

    for of in (torch.autograd.functional.jacobian, lambda f, x, **o: torch.autograd.functional.hessian(
        lambda x: f(x).sum(), x, **o
    )):  # fmt: skip
        torch.testing.assert_close(of(ours, x, vectorize=True), of(plain, x))


def test_huge_residuals_of_cauchys_loss():
    x = torch.ones(1, requires_grad=True)
    loss = polyfit.polynomial_loss(x, torch.zeros(1), torch.tensor([0.0, 1e20]), loss="cauchy")
    assert torch.autograd.grad(loss, x)[0].item() == 1.0
    for dtype, size in ((torch.float32, 1e30), (F64, 1e200)):
        p = torch.tensor([size, -size, torch.inf], dtype=dtype)
        slope, _ = Cauchy(0.5).slopes(p, torch.zeros_like(p))
        torch.testing.assert_close(slope, torch.tensor([0.25 / size, -0.25 / size, 0.0], dtype=dtype))


@pytest.mark.parametrize("pos_weight", [1.0, 3.0])
def test_confident_logits_keep_the_digits_of_their_slope(pos_weight):
    p, y = torch.tensor([-20.0, 20.0, -80.0, 80.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    loss = BCEWithLogits(pos_weight)
    tails = torch.exp(-p.abs())  # of the sigmoid
    expected = torch.where(y == 0, tails, -pos_weight * tails)
    by_autograd = torch.autograd.functional.jacobian(lambda p: loss.value(p, y).sum(), p)
    for slope in (loss.slopes(p, y)[0], by_autograd):
        assert isinstance(slope, Tensor)
        torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)


def test_gradient_to_a_weight_that_only_an_outer_graph_wants():
    x, y, coef = torch.rand(5, dtype=F64), torch.rand(5, dtype=F64), torch.rand(3, dtype=F64)
    weight = torch.rand(5, dtype=F64, requires_grad=True)
    results = []
    functions: tuple[Function, Function] = (
        lambda x, y, c, w: polyfit.polynomial_loss(x, y, c, weight=w),
        lambda x, y, c, w: plain_loss(x, y, c, w),  # noqa: PLW0108 - of so many arguments
    )
    for function in functions:
        inner = torch.func.grad(lambda *operands, f=function: f(*operands) ** 2, 2)
        results.append(torch.autograd.grad((inner(x, y, coef, weight) ** 2).sum(), weight)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shared", [False, True])
def test_no_series_give_no_losses(shared, reduction, weighted):
    x = torch.rand((7,) if shared else (0, 7), requires_grad=True)
    coef = torch.rand(0, 4, requires_grad=True)
    options = {"per_series": True, "reduction": reduction, "weight": torch.rand(7) if weighted else None}
    for loss in ("mse", lambda p, y: (p - y) ** 2):
        losses = polyfit.polynomial_loss(x, x.detach(), coef, loss=loss, **options)  # pyright: ignore[reportArgumentType]
        assert losses.shape == (0,)
        gradients = torch.autograd.grad(losses.sum(), (x, coef))
        assert [gradient.shape for gradient in gradients] == [x.shape, coef.shape]
        assert not gradients[0].any()


@pytest.mark.compiler
def test_a_compiled_loop_takes_any_strides():
    n_samples = 2 * sizes.current().compiled_row
    base, coef = torch.rand(3, 4 * n_samples), torch.rand(3)
    cuts = (lambda row: row[:n_samples], lambda row: row[: 2 * n_samples : 2], lambda row: row[:1].expand(n_samples))
    for strides in itertools.product(cuts, repeat=3):
        x, y, weight = (cut(row) for cut, row in zip(strides, base, strict=True))
        loss = polyfit.polynomial_loss(x, y, coef, weight=weight, impl="compile")
        wide = [operand.double() for operand in (x, y, coef, weight)]
        truth = plain_loss(wide[0], wide[1], wide[2], wide[3]).item()
        # A prediction, at most 3, is off by a few eps, and its residual squared by twice the residual of that.
        allowed = 8 * torch.finfo(torch.float32).eps * 3 * truth**0.5
        assert loss.item() == pytest.approx(truth, rel=1e-6, abs=allowed)


def test_impl_compile_within_torch_compile():
    x, y, coef = torch.rand(9000), torch.rand(9000), torch.rand(3, requires_grad=True)
    ours = torch.compile(
        lambda c: polyfit.polynomial_loss(x, y, c, impl="compile"), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(ours(coef), polyfit.polynomial_loss(x, y, coef))


def test_a_default_device_other_than_that_of_the_operands():
    x, coef = torch.rand(5, dtype=F64, requires_grad=True), torch.rand(3, dtype=F64)
    expected = torch.autograd.grad(plain_polyval(x, coef, (0, 1)).sum(), x)[0]
    with torch.device("meta"):
        values = polyfit.polyval(x, coef, domain=(0, 1))
        torch.testing.assert_close(torch.autograd.grad(values.sum(), x)[0], expected)


def test_short_calls_do_not_see_one_another():
    def losses(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = []
        for n_samples, degree in ((100, 3), (100, 3), (5000, 2), (100, 3)):
            x, y = torch.rand(2, n_samples, generator=generator)
            coef = torch.rand(degree + 1, generator=generator).requires_grad_()
            loss = polyfit.polynomial_loss(x, y, coef)
            plain = plain_loss(x.double(), y.double(), coef.double())
            assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
            found += [loss.detach(), *torch.autograd.grad(loss, coef)]
        return found

    expected = [losses(seed) for seed in range(8)]
    with torch.inference_mode():
        x = torch.rand(100)
        polyfit.polynomial_loss(x, x, torch.rand(4))
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(losses, range(8)), expected, strict=True):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, alone, strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(losses(0), expected[0], strict=True))
