"""The KAN layer on canonical operands: against a polynomial an edge in float64, whatever the layout and the chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polyfit import formula
from polyfit.backends import operators
from polyfit.backends.operators.kan import _runs_kernel
from polyfit.backends.results import Wants
from polyfit.bases import BASES

F64 = torch.float64
BOTH = Wants(x=True, coef=True)
SQUASHES = list(formula.SQUASHES)
N_IN, N_OUT = 5, 3


def operands(batch: int, degree: int, n_in: int = N_IN, n_out: int = N_OUT) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, coef, bias and an upstream gradient, in float64."""
    generator = torch.Generator().manual_seed(batch + degree)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=F64)

    return draw(batch, n_in), draw(degree, n_in, n_out), draw(n_out), draw(batch, n_out)


def by_oracle(*case: Any) -> list[Tensor]:
    """Values and the gradients to x and coef, in float64."""
    x, coef, bias, grad, basis, squash = case
    x, coef = (operand.detach().double().requires_grad_() for operand in (x, coef))
    values = oracle.kan(x, coef, bias.double(), basis, squash)
    gradients = torch.autograd.grad(values, (x, coef), grad.double(), allow_unused=True, materialize_grads=True)
    return [values.detach(), *gradients]


def ours(*case: Any, impl: str = "torch") -> tuple[Tensor, Any, Any]:
    """The same by the operators."""
    x, coef, bias, grad, basis, squash = case
    return (
        operators.kan(x, coef, bias, basis, squash, impl),
        *operators.kan_backward(grad, x, coef, basis, squash, impl, BOTH),
    )


def assert_right(results: Any, truths: Any, rtol: float = 1e-11) -> None:
    """Equal to rounding, on the scale of the largest number."""
    for result, truth in zip(results, truths, strict=True):
        assert result.shape == truth.shape
        scale = float(truth.abs().max()) if truth.numel() else 1.0
        torch.testing.assert_close(result.double(), truth, rtol=0, atol=rtol * max(scale, 1e-300))


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("squash", SQUASHES)
@pytest.mark.parametrize("basis", BASES)
def test_values_and_gradients(basis, squash, degree):
    case = operands(7, degree)
    assert_right(ours(*case, basis, squash), by_oracle(*case, basis, squash))


@pytest.mark.parametrize("basis", BASES)
def test_each_edge_is_numpys_series(basis):
    x, coef, bias, _ = operands(4, 6)
    values = operators.kan(x, coef, bias, basis, None, "torch")
    for row in range(4):
        for o in range(N_OUT):
            edges = [oracle.NUMPY_CLASSES[basis]([0.0, *coef[:, i, o].tolist()])(float(x[row, i])) for i in range(N_IN)]
            # numpy sums by Clenshaw's rule: some roundings of the largest term.
            np.testing.assert_allclose(float(values[row, o]), float(bias[o]) + sum(edges), rtol=1e-12, atol=1e-9)


def test_a_case_in_whole_numbers():
    x = torch.tensor([[2.0, -1.0]])
    coef = torch.tensor([[[1.0], [10.0]], [[2.0], [3.0]]])  # 1, x_0 + 2 T_2(x_0), 10 x_1 + 3 T_2(x_1)
    values, grad_x, grad_coef = ours(x, coef, torch.tensor([100.0]), torch.tensor([[1.0]]), "chebyshev", None)
    assert values.tolist() == [[100 + 2 + 2 * 7 - 10 + 3]]
    assert grad_x.tolist() == [[1 + 2 * 8, 10 - 3 * 4]]
    assert grad_coef.tolist() == [[[2.0], [-1.0]], [[7.0], [1.0]]]


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 5, 7, 8, 9, 20])
@pytest.mark.parametrize("squash", ["tanh", "algebraic"])
@pytest.mark.parametrize("basis", ["chebyshev", "laguerre", "hermite"])
def test_borders_of_chunks(batch, squash, basis, set_sizes):
    set_sizes(kan_chunk_of_a_thread=1, kan_fewest_rows=4)
    case = operands(batch, 5)
    results = ours(*case, basis, squash)
    assert_right(results, by_oracle(*case, basis, squash))
    for _ in range(2):
        for result, again in zip(results, ours(*case, basis, squash), strict=True):
            assert torch.equal(result, again)


@pytest.mark.parametrize("wants", [Wants(x=True), Wants(coef=True), Wants()])
def test_only_what_is_wanted(wants):
    x, coef, _, grad = operands(6, 3)
    both = operators.kan_backward(grad, x, coef, "legendre", "tanh", "torch", BOTH)
    found = operators.kan_backward(grad, x, coef, "legendre", "tanh", "torch", wants)
    for want, part, whole in zip((wants.x, wants.coef), found, both, strict=True):
        assert (part is not None) == want
        if part is not None and whole is not None:
            assert torch.equal(part, whole)


def _spread(operand: Tensor) -> Tensor:
    """The same numbers, every second column of a wider tensor."""
    return operand.repeat_interleave(2, -1)[..., ::2]


def _misaligned(operand: Tensor) -> Tensor:
    """The same numbers, an element behind the start of a tensor."""
    return torch.cat((operand.new_zeros(1), operand.flatten()))[1:].view(operand.shape)


def _negated(operand: Tensor) -> Tensor:
    """The same numbers as a view that torch negates lazily."""
    view = torch.complex(operand, -operand).conj().imag
    assert view.is_neg()
    return view


LAYOUTS = {
    "transposed": lambda operand: operand.mT.contiguous().mT,
    "spread": _spread,
    "misaligned": _misaligned,
    "negated": _negated,
    "backwards": lambda operand: operand.flip(0).flip(0),
}


@pytest.mark.parametrize("squash", SQUASHES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands_of_any_layout(layout, squash, set_sizes):
    set_sizes(kan_chunk_of_a_thread=1, kan_fewest_rows=4)
    case = operands(9, 4)
    place: Any = LAYOUTS[layout]
    before = [operand.clone() for operand in case]
    laid_out = [place(operand) if operand.dim() > 1 else operand for operand in case]
    assert_right(ours(*laid_out, "chebyshev", squash), by_oracle(*case, "chebyshev", squash))
    for operand, copy in zip(laid_out, before, strict=True):
        assert torch.equal(operand, copy)  # not written


def test_gradients_that_are_one_number_or_one_row(set_sizes):
    set_sizes(kan_chunk_of_a_thread=1, kan_fewest_rows=4)
    x, coef, bias, grad = operands(9, 4)
    for upstream in (
        torch.tensor(0.5, dtype=F64).expand(9, N_OUT),
        grad[:1].expand(9, -1),
        grad[:, :1].expand(-1, N_OUT),
    ):
        case = (x, coef, bias, upstream)
        assert_right(ours(*case, "chebyshev", "tanh"), by_oracle(*case, "chebyshev", "tanh"))


def test_one_row_for_all():
    x, coef, bias, grad = operands(9, 4)
    case = (x[:1].expand(9, -1), coef, bias, grad)
    assert_right(ours(*case, "chebyshev", "tanh"), by_oracle(*case, "chebyshev", "tanh"))


# --- digits ---


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_once(dtype, basis):
    case = tuple(operand.to(dtype) for operand in operands(40, 4))
    values, grad_x, grad_coef = ours(*case, basis, "tanh")
    assert (values.dtype, grad_x.dtype, grad_coef.dtype) == (dtype, dtype, torch.float32)
    for result, truth in zip((values, grad_x), by_oracle(*case, basis, "tanh"), strict=False):
        # A rounding to the half type, and float32 noise of the terms.
        allowed = truth.abs() * torch.finfo(dtype).eps / 2 + 3e-5 * truth.abs().max()
        assert ((result.double() - truth).abs() <= allowed).all()
    assert_right((grad_coef,), by_oracle(*case, basis, "tanh")[2:], rtol=1e-6)


def test_half_inputs_with_float32_coefficients():
    x, coef, bias, grad = operands(40, 4)
    case = (x.half(), coef.float(), bias.float(), grad.half())
    values, grad_x, grad_coef = ours(*case, "chebyshev", "tanh")
    assert (values.dtype, grad_x.dtype, grad_coef.dtype) == (torch.float16, torch.float16, torch.float32)
    assert_right((values, grad_x, grad_coef), by_oracle(*case, "chebyshev", "tanh"), rtol=1e-3)


@pytest.mark.parametrize("is_positive", [False, True])
def test_sums_over_many_rows_are_exact_to_the_rounding_of_the_chunks(is_positive, set_sizes):
    """Each addition rounds a running sum by at most half an ulp. Roundings of either sign add up like a random walk.

    (One product over all rows may be more exact: a BLAS adds up parts of it, and how many is its own affair.)
    """
    n_rows, chunk = 50_000, 256
    set_sizes(kan_chunk_of_a_thread=1, kan_fewest_rows=chunk)
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(n_rows, 8, generator=generator) for _ in range(2))
    if is_positive:
        x, grad = x.abs(), grad.abs()
    coef = torch.randn(3, 8, 8, generator=generator)
    _, found = operators.kan_backward(grad, x, coef, "chebyshev", "tanh", "torch", Wants(coef=True))
    assert found is not None
    n_roundings = chunk + n_rows // chunk
    for result, term in zip(found, formula.functions(torch.tanh(x.double()), "chebyshev", 3), strict=True):
        truth, sizes_of_sums = term.mT @ grad.double(), term.abs().mT @ grad.double().abs()
        assert (result.double() - truth).norm() <= n_roundings**0.5 * 2.0**-24 * sizes_of_sums.norm()


# --- what is not finite ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("squash", ["tanh", "algebraic", "clamp"])
def test_large_and_infinite_inputs_are_squashed_to_one(squash, dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor([[-torch.inf], [-largest], [-3e4], [3e4], [largest], [torch.inf]], dtype=dtype)
    coef = torch.tensor([[[1.0]], [[0.5]], [[0.25]]], dtype=dtype)
    case = (x, coef, torch.zeros(1, dtype=dtype), torch.ones(6, 1, dtype=dtype))
    values, grad_x, grad_coef = ours(*case, "chebyshev", squash)
    assert values[[0, 1, 4, 5]].flatten().tolist() == [-0.75, -0.75, 1.75, 1.75]
    torch.testing.assert_close(values[[2, 3]], values[[1, 4]], rtol=0, atol=3e-9)  # "algebraic": 3e4**-2 / 2 off
    # For "algebraic" the slope of the polynomial, 5.25, times 3e4**-3: 2e-13.
    torch.testing.assert_close(grad_x, torch.zeros_like(x), rtol=0, atol=2e-13)
    assert grad_x[[0, 1, 4, 5]].eq(0).all()
    torch.testing.assert_close(grad_coef.flatten(), grad_coef.new_tensor([0.0, 6.0, 0.0]), rtol=0, atol=1e-8)
    leaf = x.clone().requires_grad_()
    plain = formula.kan(leaf, *case[1:3], "chebyshev", squash)
    assert torch.equal(plain, values)
    (slopes,) = torch.autograd.grad(plain.sum(), leaf)
    # Autograd takes the difference of two terms of 1 / 3e4.
    allowed = 2e-13 + 5.25 * torch.finfo(formula.compute_dtype(dtype)).eps / 3e4
    torch.testing.assert_close(slopes, torch.zeros_like(x), rtol=0, atol=allowed)


@pytest.mark.parametrize("x", [1e20, 1e30, -1e30, 3e38])
def test_algebraic_where_the_square_overflows(x):
    result = formula.SQUASHES["algebraic"](torch.tensor(x))
    assert result == (1.0 if x > 0 else -1.0)


@pytest.mark.parametrize("squash", SQUASHES)
def test_nan_stays_in_its_row(squash, set_sizes):
    set_sizes(kan_chunk_of_a_thread=1, kan_fewest_rows=4)
    x, coef, bias, grad = operands(9, 4)
    clean = ours(x, coef, bias, grad, "chebyshev", squash)
    x[3, 2] = torch.nan
    values, grad_x, _ = ours(x, coef, bias, grad, "chebyshev", squash)
    assert values[3].isnan().all()
    others = [row for row in range(9) if row != 3]
    assert torch.equal(values[others], clean[0][others])
    assert torch.equal(grad_x[others], clean[1][others])


def test_the_ends_of_clamp_count_as_inside():
    x = torch.tensor([[-1.0, 1.0, torch.tensor(1.0).nextafter(torch.tensor(2.0))]])
    grad_x, _ = operators.kan_backward(
        torch.ones(1, 1), x, torch.ones(1, 3, 1), "power", "clamp", "torch", Wants(x=True)
    )
    assert grad_x is not None
    assert grad_x.tolist() == [[1.0, 1.0, 0.0]]


# --- memory ---


class _Largest(TorchDispatchMode):
    """The most elements of a tensor that an operation makes."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, Tensor):
                self.n_elements = max(self.n_elements, part.untyped_storage().nbytes() // part.element_size())
        return result


def test_nothing_of_size_rows_by_inputs_by_degree_is_made(set_sizes):
    from polyfit.backends import chunked

    set_sizes(kan_chunk_of_a_thread=1, kan_fewest_rows=64)
    x, coef, bias, grad = operands(4000, 6, 20, 10)
    with _Largest() as forward:
        chunked.kan(x, coef, bias, "chebyshev", "tanh")
    assert forward.n_elements == 4000 * 20  # x itself, which is read by chunks
    with _Largest() as backward:
        chunked.kan_backward(grad, x, coef, "chebyshev", "tanh", BOTH)
    assert backward.n_elements == 4000 * 20


# --- custom operators ---


@pytest.mark.parametrize("batch", [0, 6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
def test_custom_operators(dtype, batch):
    x, coef, bias, grad = (operand.to(dtype) for operand in operands(batch, 3))
    torch.library.opcheck(torch.ops.polyfit.kan, (x, coef, bias, "chebyshev", "tanh", "torch"))
    for wanted in ((True, True), (True, False), (False, True)):
        arguments = (grad, x, coef, "laguerre", None, "torch", *wanted)
        torch.library.opcheck(torch.ops.polyfit.kan_backward, arguments)


def test_meta_tensors():
    x, coef, bias, grad = (operand.to("meta") for operand in operands(6, 3))
    values, grad_x, grad_coef = ours(x, coef, bias, grad, "chebyshev", "tanh")
    assert (values.shape, grad_x.shape, grad_coef.shape) == ((6, N_OUT), x.shape, coef.shape)


def test_impl_compile_is_the_same():
    case = operands(6, 3)
    for mine, theirs in zip(
        ours(*case, "chebyshev", "tanh", impl="compile"), ours(*case, "chebyshev", "tanh"), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("dtype", "precision", "is_kernel"),
    [
        (torch.float16, "highest", True),
        (torch.bfloat16, "highest", True),
        (torch.float32, "highest", False),
        (torch.float32, "high", True),
        (torch.float64, "high", False),
    ],
)
def test_which_operands_go_to_the_kernel(dtype, precision, is_kernel):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        x, coef = torch.zeros(1, 1, dtype=dtype), torch.zeros(10, 1, 1, dtype=dtype)
        assert _runs_kernel(x, coef, "triton") == is_kernel
        assert not _runs_kernel(x, coef, "torch")
        assert not _runs_kernel(x, torch.zeros(11, 1, 1, dtype=dtype), "triton")
    finally:
        torch.set_float32_matmul_precision(before)
