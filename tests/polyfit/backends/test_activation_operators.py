"""The passes of the elementwise polynomial: borders of chunks, layouts, digits, and the loops that Inductor makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import NUMPY_CLASSES, continued
from torch import Tensor

from polyfit import bases
from polyfit.backends import chunked, operators, traced
from polyfit.backends.results import Wants
from polyfit.formula import OUTSIDE, Model

F64 = torch.float64
BOTH = Wants(x=True, coef=True)


def model_of(basis: str, outside: str, domain: tuple[float, float] | None, dtype: torch.dtype = F64) -> Model:
    return Model(basis, bases.affine_map(domain, bases.BASES[basis], dtype), outside=outside)


def expected_of(
    x: Tensor, coef: Tensor, grad: Tensor, domain: tuple[float, float] | None, basis: str, outside: str
) -> tuple[Tensor, Tensor, Tensor]:
    x, coef = (operand.detach().double().requires_grad_() for operand in (x, coef))
    values = continued(x, coef, domain, basis, outside)
    to_x, to_coef = torch.autograd.grad(values, (x, coef), grad.double(), allow_unused=True, materialize_grads=True)
    return values.detach(), to_x, to_coef


def assert_close(mine: Any, theirs: Any, tolerance: float) -> None:
    for ours, plain in zip(mine, theirs, strict=True):
        assert ours.shape == plain.shape
        scale = max(1.0, float(plain.abs().max()))
        torch.testing.assert_close(ours.double(), plain, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("basis", ["power", "legendre", "laguerre"])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, n) for n in (1, 23, 24, 25)]
    + [(5, 1, 11), (7, 5, 1), (2, 30, 1), (3, 4, 5), (2, 3, 30), (90, 2, 1), (131, 3, 2)],
)
@pytest.mark.parametrize("degree", [1, 3, 7])
@pytest.mark.usefixtures("small_chunks")
def test_every_border_of_chunks(degree, shape, basis, outside):
    domain = (-0.5, 2.0)
    x, grad = (torch.randn(shape, dtype=F64) for _ in range(2))
    coef = torch.randn(shape[1], degree + 1, dtype=F64)
    model = model_of(basis, outside, domain)
    found = chunked.activate(x, coef, model), *chunked.activate_backward(grad, x, coef, model, BOTH)
    assert_close(found, expected_of(x, coef, grad, domain, basis, outside), 1e-11)
    one_number = torch.tensor(0.75, dtype=F64).expand(shape)
    found = chunked.activate_backward(one_number, x, coef, model, BOTH)
    assert_close(found, expected_of(x, coef, one_number, domain, basis, outside)[1:], 1e-11)


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("domain", [(-4.0, 4.0), (1e-9, 3e-9), (-3e12, 5e12), (1000.0, 1000.5), (0.1, 0.7), None])
@pytest.mark.parametrize("degree", [2, 5, 12])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_domains(basis, groups, degree, domain):
    lo, hi = domain or (-1.0, 1.0)
    x = lo + (hi - lo) * (torch.rand(50, groups, 1, dtype=F64) * 1.4 - 0.2)
    coef, grad = torch.randn(groups, degree + 1, dtype=F64) / 4.0 ** torch.arange(degree + 1), torch.randn(x.shape)
    model = model_of(basis, "linear", domain)
    found = chunked.activate(x, coef, model), *chunked.activate_backward(grad.double(), x, coef, model, BOTH)
    width = hi - lo  # t has the rounding error of x on the scale of the window
    tolerance = 1e-9 * max(1.0, 1e-3 * abs(lo) / width)
    values, to_x, to_coef = expected_of(x, coef, grad, domain, basis, "linear")
    assert found[1] is not None
    assert_close((found[0], found[1] * width, found[2]), (values, to_x * width, to_coef), tolerance)


@pytest.mark.parametrize("domain", [(-4.0, 4.0), (1000.0, 1000.5)])
@pytest.mark.parametrize("degree", [3, 5, 8, 12])
@pytest.mark.parametrize("shape", [(1, 1, 40_000), (700, 40, 1), (20, 4, 600)])
def test_digits_of_float32(shape, degree, domain):
    generator = torch.Generator().manual_seed(0)
    lo, hi = domain
    x = lo + (hi - lo) * (torch.rand(shape, generator=generator, dtype=F64) * 1.1 - 0.05)
    x = x.float()
    coef = torch.randn(shape[1], degree + 1, generator=generator)
    grad = torch.rand(shape, generator=generator)  # of one sign: sums do not cancel
    model = model_of("chebyshev", "linear", domain, torch.float32)
    found = chunked.activate(x, coef, model), *chunked.activate_backward(grad, x, coef, model, BOTH)
    values, to_x, to_coef = expected_of(x, coef, grad, domain, "chebyshev", "linear")
    # Errors on the scale of what is added up: 2**-24 for each of some operations, and slopes up to degree**2 times the
    # rounding error of t.
    eps = 2.0**-24
    size = coef.double().abs().sum(1).max()
    assert (found[0] - values).abs().max() < 8 * eps * degree**2 * size
    assert found[1] is not None
    assert found[2] is not None
    slope = size * degree**2 * 2.0 / (hi - lo)
    assert (found[1] - to_x).abs().max() < 8 * eps * degree**2 * slope
    assert (found[2] - to_coef).abs().max() < 8 * eps * degree**2 * grad.double().sum((0, 2)).max()


def test_sums_of_equal_terms_keep_their_digits():
    for shape in ((1, 1, 2_000_000), (20_000, 50, 1), (4, 3, 100_000)):
        x, grad = torch.full(shape, 0.3), torch.full(shape, 0.7)
        coef, model = torch.randn(shape[1], 4), model_of("power", "linear", None, torch.float32)
        _, sums = chunked.activate_backward(grad, x, coef, model, BOTH)
        count = x.numel() // shape[1]
        exact = count * 0.7 * torch.tensor([1.0, 0.3, 0.09, 0.027], dtype=F64)
        assert sums is not None
        torch.testing.assert_close(sums, exact.expand_as(sums), rtol=3e-6, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 30_000), (300, 64, 1), (8, 6, 700)])
def test_the_length_of_chunks_changes_roundings_only(shape, set_sizes):
    x, grad, coef = torch.randn(shape) * 3, torch.randn(shape), torch.randn(shape[1], 6)
    model = model_of("chebyshev", "linear", (-4.0, 4.0), torch.float32)
    first = chunked.activate(x, coef, model), *chunked.activate_backward(grad, x, coef, model, BOTH)
    again = chunked.activate(x, coef, model), *chunked.activate_backward(grad, x, coef, model, BOTH)
    for mine, theirs in zip(first, again, strict=True):
        assert mine is not None
        assert torch.equal(mine, theirs)  # pyright: ignore[reportArgumentType]
    set_sizes(chunk_of_a_thread=1000, activation_of_a_thread=777)
    other = chunked.activate(x, coef, model), *chunked.activate_backward(grad, x, coef, model, BOTH)
    assert torch.equal(first[0], other[0])
    exact = expected_of(x, coef, grad, (-4.0, 4.0), "chebyshev", "linear")
    for parts in (first, other):
        assert_close(parts, exact, 2e-6)


@pytest.mark.parametrize("value", [3e38, float("inf"), float("nan")])
@pytest.mark.parametrize("degree", [3, 8])
def test_few_elements_do_not_warn_of_overflow(degree, value):
    """torch does not, and warnings are errors in these tests."""
    x, coef = torch.linspace(-2, 2, 9).view(1, 1, 9), torch.full((1, degree + 1), value)
    model = Model("chebyshev", outside="linear")
    assert not chunked.activate(x, coef, model).isfinite().any()
    chunked.activate_backward(torch.ones_like(x), x, coef, model, Wants(x=True, coef=True))


def test_products_with_fewer_digits_are_not_taken():
    x, grad, coef = torch.randn(1, 1, 5000), torch.randn(1, 1, 5000), torch.randn(1, 6)
    model = model_of("chebyshev", "linear", (-4.0, 4.0), torch.float32)
    exact = expected_of(x, coef, grad, (-4.0, 4.0), "chebyshev", "linear")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = chunked.activate(x, coef, model), *chunked.activate_backward(grad, x, coef, model, BOTH)
    finally:
        torch.set_float32_matmul_precision(before)
    assert_close(found, exact, 2e-6)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("shape", [(1, 1, 30), (64, 3, 1), (7, 3, 1), (3, 2, 5), (2, 2, traced.LONGEST_RUN + 1)])
def test_the_traced_pass_run_eagerly(shape, outside):
    x, grad, coef = (torch.randn(size, dtype=F64) for size in (shape, shape, (shape[1], 5)))
    for basis in NUMPY_CLASSES:
        model = model_of(basis, outside, (-1.0, 1.5))
        found = traced.activate(x, coef, model), *traced.activate_backward(grad, x, coef, model, BOTH)
        assert_close(found, expected_of(x, coef, grad, (-1.0, 1.5), basis, outside), 1e-11)


@pytest.mark.compiler
@pytest.mark.parametrize("shape", [(1, 1, 9000), (320, 20, 1), (331, 20, 1), (6, 5, 400), (3, 2, 5)])
def test_loops_that_inductor_makes(shape):
    for dtype, outside in ((torch.float32, "linear"), (torch.float64, "clamp"), (torch.bfloat16, "linear")):
        x, grad = (torch.randn(shape).to(dtype) for _ in range(2))
        coef = torch.randn(6, shape[1]).t()
        model = model_of("chebyshev", outside, (-2.0, 2.5), torch.promote_types(dtype, torch.float32))
        found = (
            operators.activate(x, coef, model, "compile"),
            *operators.activate_backward(grad, x, coef, model, "compile", BOTH),
        )
        exact = expected_of(x, coef, grad, (-2.0, 2.5), "chebyshev", outside)
        assert [part.dtype for part in found if part is not None] == [dtype, dtype, F64]
        assert_close(found[2:], exact[2:], 2e-6)
        assert_close(found[:2], exact[:2], max(2e-6, torch.finfo(dtype).eps))


@pytest.mark.compiler
def test_a_loop_takes_any_size():
    coef, model = torch.randn(1, 4), model_of("chebyshev", "linear", (-3.0, 3.0), torch.float32)
    operators.activate(torch.randn(1, 1, 5000), coef, model, "compile")
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in (5001, 70_000):
            x = torch.randn(1, 1, size)
            other = model_of("chebyshev", "linear", (-2.0, 1.0), torch.float32)
            torch.testing.assert_close(
                operators.activate(x, coef, other, "compile"), chunked.activate(x, coef, other), rtol=1e-5, atol=1e-5
            )
