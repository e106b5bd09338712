"""polyval and polynomial_loss against the plain formulas in float64, rational numbers, and autograd."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import exact
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from cases import LAYOUTS
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import NUMPY_CLASSES
from oracle import polynomial_loss as plain_loss
from oracle import polyval as plain_polyval
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import polyfit
from polyfit import formula
from polyfit._problem import canonical_problem
from polyfit.backends import chunked, operators, sizes
from polyfit.backends.chunked import plain_loss as plain_pass
from polyfit.backends.chunked import workspace
from polyfit.backends.results import Wants
from polyfit.formula import Model
from polyfit.losses import MSE

F64 = torch.float64
EPS = torch.finfo(F64).eps
BASES = list(NUMPY_CLASSES)


def make(layout: str, dtype: torch.dtype = F64, grad: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, coef, weight of a layout."""
    x_shape, coef_shape, y_shape, weight_shape = LAYOUTS[layout]
    x, y, coef = (torch.randn(shape).to(dtype).requires_grad_(grad) for shape in (x_shape, y_shape, coef_shape))
    return x, y, coef, (torch.rand(weight_shape) + 0.5).to(dtype)


def gradients(value: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients for an upstream gradient that differs from element to element."""
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    return torch.autograd.grad(value, inputs, upstream, allow_unused=True, materialize_grads=True)


def assert_close(actual: Tensor, expected: Tensor, terms: int) -> None:
    """Equal to rounding: float64 sums of `terms` terms, relative to the largest value."""
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    tolerance = 8 * torch.finfo(F64).eps * max(terms, 1) * max(scale, 1.0)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


# --- values and gradients
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [None, (-2.5, 3.0)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_polyval_and_its_gradients(layout, domain):
    x, _, coef, _ = make(layout)
    actual = polyfit.polyval(x, coef, domain=domain)
    expected = plain_polyval(x, coef, domain)
    assert actual.shape == expected.shape
    assert_close(actual, expected, 16)
    for ours, theirs in zip(gradients(actual, (x, coef)), gradients(expected, (x, coef)), strict=True):
        assert_close(ours, theirs, 64)


@pytest.mark.parametrize("coef", [[2.0], [1.0, -3.0], [0.5, 0.0, 2.0, -1.0, 0.25, 3.0]])
def test_polyval_is_the_exact_polynomial_rounded(coef):
    x = torch.linspace(-2, 2, 101, dtype=F64)
    actual = polyfit.polyval(x, torch.tensor(coef, dtype=F64)).tolist()
    for value, place in zip(actual, exact.fractions(x), strict=True):
        terms = [Fraction(c) * place**k for k, c in enumerate(coef)]
        # Two roundings a step, each of at most the sum of what it joins.
        allowed = 2 * len(coef) * Fraction(EPS) * sum(map(abs, terms))
        assert abs(Fraction(value) - sum(terms)) <= allowed, float(place)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("reduction", "per_series"), [("mean", False), ("mean", True), ("sum", False), ("sum", True)])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "no series"])
def test_loss_and_its_gradients(layout, reduction, per_series, weighted):
    x, y, coef, weight = make(layout)
    options: dict[str, Any] = {"reduction": reduction, "per_series": per_series, "domain": (-2.5, 3.0)}
    options["weight"] = weight if weighted else None
    actual = polyfit.polynomial_loss(x, y, coef, **options)
    expected = plain_loss(x, y, coef, **options)
    assert actual.shape == expected.shape
    assert_close(actual, expected, 64)
    for ours, theirs in zip(gradients(actual, (x, y, coef)), gradients(expected, (x, y, coef)), strict=True):
        assert_close(ours, theirs, 256)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_of_each_sample_and_its_gradients(layout, weighted):
    x, y, coef, weight = make(layout)
    weight = weight if weighted else None
    actual = polyfit.polynomial_loss(x, y, coef, weight=weight, reduction="none")
    expected = plain_loss(x, y, coef, weight, "none")
    assert actual.shape == expected.shape
    assert_close(actual, expected, 64)
    for ours, theirs in zip(gradients(actual, (x, y, coef)), gradients(expected, (x, y, coef)), strict=True):
        assert_close(ours, theirs, 256)


@pytest.mark.parametrize("domain", [None, (-1.5, 2.0)])
@pytest.mark.parametrize("layout", ["one series", "own x", "shared x", "constant", "line"])
@pytest.mark.parametrize("basis", BASES)
def test_every_basis(basis, layout, domain):
    x, y, coef, weight = make(layout)
    options: dict[str, Any] = {"domain": domain, "basis": basis}
    ours, plain = polyfit.polyval(x, coef, **options), plain_polyval(x, coef, **options)
    assert_close(ours, plain, 64)
    for mine, theirs in zip(gradients(ours, (x, coef)), gradients(plain, (x, coef)), strict=True):
        assert_close(mine, theirs, 256)
    options |= {"weight": weight, "per_series": True}
    ours, plain = polyfit.polynomial_loss(x, y, coef, **options), plain_loss(x, y, coef, **options)
    assert_close(ours, plain, 256)
    for mine, theirs in zip(gradients(ours, (x, y, coef)), gradients(plain, (x, y, coef)), strict=True):
        assert_close(mine, theirs, 1024)


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 20])
@pytest.mark.parametrize("basis", BASES)
def test_values_and_derivatives_against_rational_numbers(basis, degree):
    domain = (-1.0, 1.0)
    x = torch.linspace(*domain, 101, dtype=F64, requires_grad=True)
    coef = torch.randn(degree + 1, dtype=F64)
    values = polyfit.polyval(x, coef, basis=basis, domain=domain)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    units = exact.transposed(exact.in_powers(basis, domain, degree))  # a basis function a row
    derived = [[k * c for k, c in enumerate(unit)][1:] for unit in units]
    # Values come from a recurrence of so many steps, slopes from a second one on top.
    for ours, functions, digits in ((values, units, 1e-14), (slopes, derived, 1e-13)):
        for value, place in zip(ours.tolist(), exact.fractions(x.detach()), strict=True):
            powers = [place**k for k in range(degree + 1)]
            terms = [
                Fraction(c) * sum((a * b for a, b in zip(unit, powers, strict=False)), Fraction(0))
                for c, unit in zip(coef.tolist(), functions, strict=True)
            ]
            assert abs(Fraction(value) - sum(terms)) <= digits * sum(map(abs, terms)), (float(place), digits)


def test_loss_is_torchs_mse():
    x, y, coef, _ = make("one series")
    expected = torch.nn.functional.mse_loss(plain_polyval(x, coef), y)
    assert_close(polyfit.polynomial_loss(x, y, coef), expected, 64)
    assert_close(polyfit.polynomial_loss(x, y, coef, loss=polyfit.losses.MSE()), expected, 64)


def test_weight_counts_repetitions():
    x, y, coef, _ = make("one series")
    times = torch.randint(1, 4, (37,))
    weighted = polyfit.polynomial_loss(x, y, coef, weight=times.double())
    repeated = polyfit.polynomial_loss(x.repeat_interleave(times), y.repeat_interleave(times), coef)
    assert_close(weighted, repeated, 128)


def test_gradient_to_the_weight():
    x, y, coef, weight = make("own x")
    weight.requires_grad_()
    inputs = (x, y, coef, weight)
    ours = gradients(polyfit.polynomial_loss(x, y, coef, weight=weight), inputs)
    theirs = gradients(plain_loss(x, y, coef, weight), inputs)
    for mine, plain in zip(ours, theirs, strict=True):
        assert_close(mine, plain, 256)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)))
def test_only_gradients_that_are_asked_for(wanted):
    x, y, coef, _ = make("own x", grad=False)
    for tensor, want in zip((x, y, coef), wanted, strict=True):
        tensor.requires_grad_(want)
    loss = polyfit.polynomial_loss(x, y, coef)
    assert loss.requires_grad == any(wanted)
    if any(wanted):
        loss.backward()
    for tensor, want in zip((x, y, coef), wanted, strict=True):
        assert (tensor.grad is not None) == want


@pytest.mark.parametrize("operation", ["polyval", "loss"])
def test_backward_twice_gives_the_same_again(operation):
    x, y, coef, _ = make("shared x")
    value = polyfit.polyval(x, coef).sum() if operation == "polyval" else polyfit.polynomial_loss(x, y, coef)
    first = torch.autograd.grad(value, (x, coef), retain_graph=True)
    second = torch.autograd.grad(value, (x, coef))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_tensor_as_x_and_y():
    x, _, coef, _ = make("one series")
    for create_graph in (False, True):
        ours = torch.autograd.grad(polyfit.polynomial_loss(x, x, coef), (x, coef), create_graph=create_graph)
        theirs = torch.autograd.grad(plain_loss(x, x, coef), (x, coef))
        for mine, plain in zip(ours, theirs, strict=True):
            assert_close(mine, plain, 256)


def test_coef_that_depends_on_x():
    x, y, coef, _ = make("one series")
    ours = torch.autograd.grad(polyfit.polynomial_loss(x, y, coef * x.mean()), x, create_graph=True)[0]
    theirs = torch.autograd.grad(plain_loss(x, y, coef * x.mean()), x)[0]
    assert_close(ours, theirs, 256)


def test_no_samples():
    x, coef = torch.empty(0, dtype=F64), torch.ones(3, dtype=F64, requires_grad=True)
    assert polyfit.polyval(x, coef).shape == (0,)
    loss = polyfit.polynomial_loss(x, x, coef, reduction="sum")
    loss.backward()
    assert loss.item() == 0
    assert coef.grad is not None
    assert not coef.grad.any()
    assert polyfit.polynomial_loss(x, x, coef, reduction="none").shape == (0,)


# --- strides
# -----------------------------------------------------------------------------------------------------------

STRIDES = {
    "every other": lambda t: torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2],
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() > 1 else t,
    "misaligned": lambda t: torch.cat([t.new_full((*t.shape[:-1], 1), torch.nan), t], -1)[..., 1:],
    "stride zero": lambda t: t[..., :1].expand_as(t),
    "backwards": lambda t: t.flip(-1).contiguous().flip(-1),
}


@pytest.mark.parametrize("layout", ["one series", "x of two axes", "own x", "shared x", "two batch axes"])
@pytest.mark.parametrize("stride", STRIDES)
def test_any_strides(stride, layout):
    operands = make(layout, grad=False)
    strided = [STRIDES[stride](tensor) for tensor in operands]
    for dense, other in zip(operands, strided, strict=True):
        assert stride == "stride zero" or torch.equal(dense, other)
    x, y, coef, weight = strided
    dense_x, dense_y, dense_coef, dense_weight = (
        tensor.clone(memory_format=torch.contiguous_format) for tensor in strided
    )
    inputs, dense_inputs = (x, y, coef), (dense_x, dense_y, dense_coef)
    for tensor in (*inputs, *dense_inputs):
        tensor.requires_grad_()
    ours = polyfit.polynomial_loss(x, y, coef, weight=weight)
    plain = plain_loss(*dense_inputs, dense_weight)
    assert_close(ours, plain, 128)
    for mine, theirs in zip(gradients(ours, inputs), gradients(plain, dense_inputs), strict=True):
        assert_close(mine, theirs, 256)
    assert_close(polyfit.polyval(x, coef), plain_polyval(dense_x, dense_coef), 16)


def test_upstream_gradient_of_stride_zero():
    x, _, coef, _ = make("shared x")
    value = polyfit.polyval(x, coef)
    upstream = torch.tensor(2.0, dtype=F64).expand(value.shape)
    assert upstream.stride() == (0, 0)
    ours = torch.autograd.grad(value, (x, coef), upstream)
    theirs = torch.autograd.grad(plain_polyval(x, coef), (x, coef), upstream)
    for mine, plain in zip(ours, theirs, strict=True):
        assert_close(mine, plain, 64)


@settings(max_examples=200)
@given(data=st.data())
def test_any_shapes_that_broadcast_and_any_strides(data):
    batch = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3), label="batch"))
    n_samples, degree = data.draw(st.integers(1, 9), label="N"), data.draw(st.integers(0, 6), label="degree")

    def leading(label: str) -> tuple[int, ...]:
        kept = batch[data.draw(st.integers(0, len(batch)), label=f"{label} drops") :]
        return tuple(1 if data.draw(st.booleans(), label=f"{label} shares") else size for size in kept)

    operands = [torch.rand(*leading(name), n_samples, dtype=F64) + 0.1 for name in ("x", "y", "weight")]
    operands.append(torch.randn(*leading("coef"), degree + 1, dtype=F64))
    strides = data.draw(st.lists(st.sampled_from([None, *STRIDES]), min_size=4, max_size=4), label="strides")
    operands = [
        (operand if stride is None else STRIDES[stride](operand)).requires_grad_()
        for operand, stride in zip(operands, strides, strict=True)
    ]
    x, y, weight, coef = operands
    per_series = data.draw(st.booleans(), label="per_series")
    basis = data.draw(st.sampled_from(BASES), label="basis")
    results = []
    for function in (polyfit.polynomial_loss, plain_loss):
        value = function(x, y, coef, weight=weight, per_series=per_series, basis=basis)
        results.append((value, *gradients(value, (x, y, coef, weight))))
    # The oracle goes by way of powers, where the functions of other bases cancel: H_6 has coefficients up to 720.
    is_power = basis == "power"
    for i, (mine, theirs) in enumerate(zip(*results, strict=True)):
        assert mine.shape == theirs.shape
        assert_close(mine, theirs, 4096 if not is_power else 1024 if i else 256)
    ours, plain = polyfit.polyval(x, coef, basis=basis), plain_polyval(x, coef, basis=basis)
    assert_close(ours, plain, 1024)


# --- dtypes and digits
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", ["one series", "own x", "shared x"])
def test_narrow_dtypes_are_no_worse_than_eager_float32(layout, dtype):
    operands = make(layout, dtype)
    x, y, coef, weight = operands
    wide = [tensor.detach().double().requires_grad_() for tensor in operands]
    eager = [tensor.detach().float().requires_grad_() for tensor in operands]
    ours = polyfit.polynomial_loss(x, y, coef, weight=weight)
    results = {
        "ours": (ours, *torch.autograd.grad(ours, (x, y, coef))),
        "eager": _loss_and_gradients(eager),
        "truth": _loss_and_gradients(wide),
    }
    for mine, theirs, truth in zip(*results.values(), strict=True):
        assert mine.dtype == dtype
        scale = truth.abs().max()
        # One rounding to the dtype, and as much again as eager float32 is off.
        allowed = scale * torch.finfo(dtype).eps + 2 * (theirs.double() - truth).abs().max() + scale * 2e-7
        assert (mine.double() - truth).abs().max() <= allowed


def _loss_and_gradients(operands: list[Tensor]) -> tuple[Tensor, ...]:
    x, y, coef, weight = operands
    loss = plain_loss(x, y, coef, weight)
    return (loss.detach(), *torch.autograd.grad(loss, (x, y, coef)))


@pytest.mark.parametrize("n_samples", [2047, 2048, 1_000_003])
def test_float32_sums_do_not_lose_digits_with_n(n_samples):
    # All terms alike: rounding errors of a plain running sum would all point the same way.
    x, y = torch.full((n_samples,), 0.3), torch.full((n_samples,), 0.1)
    coef = torch.tensor([0.4, 0.7], requires_grad=True)
    loss = polyfit.polynomial_loss(x, y, coef)
    loss.backward()
    residual = 0.4 + 0.7 * 0.3 - 0.1
    # 2047 terms in 16 lanes: 128 roundings of 2**-24 at most, of partial sums that average half of the whole.
    assert loss.item() == pytest.approx(residual**2, rel=64 * 2**-24)
    assert coef.grad is not None
    assert coef.grad.tolist() == pytest.approx([2 * residual, 2 * residual * 0.3], rel=64 * 2**-24)


def test_half_precision_gradients_do_not_overflow_on_the_way():
    # The gradient of the sum is 2e8 at each coefficient, that of the mean fits well.
    x = torch.full((4096,), 100.0, dtype=torch.float16).requires_grad_()
    y = torch.zeros(4096, dtype=torch.float16)
    coef = torch.tensor([0.0, 1.0], dtype=torch.float16, requires_grad=True)
    polyfit.polynomial_loss(x, y, coef).backward()
    assert coef.grad is not None
    assert coef.grad.tolist() == [200.0, 20000.0]
    assert x.grad is not None
    assert x.grad.double().sum().item() == pytest.approx(200.0, rel=1e-3)


def test_lowered_matmul_precision_does_not_reach_the_sums():
    x, y, coef, _ = make("one series", torch.float32)
    expected = plain_loss(x.detach().double(), y.detach().double(), coef.detach().double())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        loss = polyfit.polynomial_loss(x, y, coef)
    finally:
        torch.set_float32_matmul_precision(before)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_autocast_does_not_reach_the_sums():
    x, y, coef, _ = make("one series", torch.float32)
    outside = polyfit.polynomial_loss(x, y, coef)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = polyfit.polynomial_loss(x, y, coef)
        values = polyfit.polyval(x, coef)
    assert torch.equal(inside, outside)
    assert torch.equal(values, polyfit.polyval(x, coef))
    assert torch.equal(torch.autograd.grad(inside, coef)[0], torch.autograd.grad(outside, coef)[0])


# --- one pass
# ----------------------------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Sees every operation, and keeps the number of elements of the largest storage that one has made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in known:
                self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return result


def test_nothing_of_the_size_of_the_data_is_made(set_sizes, monkeypatch):
    monkeypatch.setattr(workspace, "_kept", workspace._Kept())  # not the memory of another test
    set_sizes(samples_of_a_thread=-(-(2**18) // torch.get_num_threads()))
    n_samples, degree = 3_000_001, 7
    x, y = torch.rand(n_samples), torch.rand(n_samples)
    coef = torch.randn(1, degree + 1)
    with LargestTensor() as largest:
        chunked.Objective(x[None], y[None], None, 1, degree, Model("chebyshev", None, MSE()))(coef)
        chunked.evaluate_backward(y[None], x[None], coef, Model("legendre"), Wants(coef=True))
        polyfit.polynomial_loss(x, y, coef[0])
    row = 2**18 + 2 * sizes.current().longest_block
    assert largest.elements <= 5 * row < n_samples  # five rows, see `Samples`


def test_every_first_derivative_takes_one_pass(monkeypatch, set_sizes):
    set_sizes(transformed=0)  # Functions also for few samples under torch.func
    x, y, coef, weight = make("own x")
    weight.requires_grad_()
    operands = (x, y, coef, weight)
    expected = torch.autograd.grad(plain_loss(*operands), operands)
    passes = []
    for module, name in ((operators, "objective"), (plain_pass, "loss")):  # of general calls, and of plain ones
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, plain=plain, **k: passes.append(1) or plain(*a, **k))
    monkeypatch.setattr(formula, "polynomial_loss", None)

    def loss(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor) -> Tensor:
        return polyfit.polynomial_loss(x, y, coef, weight=weight)

    detached = tuple(operand.detach() for operand in operands)
    ways = (
        lambda: torch.autograd.grad(loss(*operands), operands),
        lambda: torch.autograd.grad(loss(*operands), operands, create_graph=True),
        lambda: torch.func.grad(loss, (0, 1, 2, 3))(*detached),
        lambda: [g[0] for g in torch.func.vmap(torch.func.grad(loss, (0, 1, 2, 3)))(*(d[None] for d in detached))],
    )
    for way in ways:
        passes.clear()
        for mine, theirs in zip(way(), expected, strict=True):
            assert_close(mine, theirs, 256)
        assert len(passes) == 1


def test_shared_operands_with_unequal_gradients_take_one_further_pass(monkeypatch):
    x, y, coef, _ = make("shared x")
    loss = polyfit.polynomial_loss(x, y, coef, per_series=True)
    passes = []
    plain = operators.objective
    monkeypatch.setattr(operators, "objective", lambda *a, **k: passes.append(a[-1]) or plain(*a, **k))
    ours = torch.autograd.grad(loss, (x, y, coef), torch.tensor([1.0, -2.0, 0.5], dtype=F64))
    theirs = torch.autograd.grad(
        plain_loss(x, y, coef, per_series=True), (x, y, coef), torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    )
    assert passes == [Wants(x=True)]
    for mine, expected in zip(ours, theirs, strict=True):
        assert_close(mine, expected, 256)


def test_inputs_are_not_written_and_results_repeat_to_the_bit():
    x, y, coef, weight = make("own x", torch.float32)
    before = [tensor.detach().clone() for tensor in (x, y, coef, weight)]
    runs = []
    for _ in range(2):
        loss = polyfit.polynomial_loss(x, y, coef, weight=weight)
        runs.append((loss, *torch.autograd.grad(loss, (x, y, coef))))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, (x, y, coef, weight), strict=True))


# --- derivatives of higher order
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["power", "chebyshev", "laguerre"])
@pytest.mark.parametrize("layout", ["one series", "own x", "shared x", "own x, shared y", "constant", "line"])
def test_gradcheck_to_second_order(layout, basis):
    x, y, coef, weight = make(layout)
    x, y, weight = (tensor[..., :5].detach().requires_grad_(tensor.requires_grad) for tensor in (x, y, weight))

    def values(x, coef):
        return polyfit.polyval(x, coef, domain=(-2, 3), basis=basis)

    def loss(x, y, coef):
        return polyfit.polynomial_loss(x, y, coef, weight=weight, per_series=True, basis=basis)

    for function, inputs in ((values, (x, coef)), (loss, (x, y, coef))):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_hessian_is_the_gram_matrix():
    x, y, coef, weight = make("one series")
    hessian = torch.autograd.functional.hessian(lambda c: polyfit.polynomial_loss(x, y, c, weight=weight), coef)
    powers = torch.stack([x.detach() ** k for k in range(4)])
    assert isinstance(hessian, Tensor)
    assert_close(hessian, 2 * (powers * weight) @ powers.T / weight.sum(), 256)


def test_third_derivative():
    x = torch.randn(5, dtype=F64, requires_grad=True)
    coef = torch.randn(5, dtype=F64)
    value = polyfit.polyval(x, coef)
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    expected = torch.from_numpy(np.polynomial.Polynomial(coef.numpy()).deriv(3)(x.detach().numpy()))
    assert_close(value, expected, 64)


def test_functional_grad_and_its_grad():
    x, y, coef, _ = make("one series", grad=False)

    def loss(function):
        return lambda coef: function(x, y, coef)

    assert_close(torch.func.grad(loss(polyfit.polynomial_loss))(coef), torch.func.grad(loss(plain_loss))(coef), 256)
    ours = torch.func.jacrev(torch.func.jacrev(loss(polyfit.polynomial_loss)))(coef)
    assert_close(ours, torch.func.hessian(loss(plain_loss))(coef), 256)


# --- PyTorch
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["one series", "shared x"])
def test_compile_without_graph_breaks(layout):
    x, y, coef, weight = make(layout)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(x, y, coef):
        values = polyfit.polyval(x, coef, domain=(-2, 3))
        return polyfit.polynomial_loss(x, y, coef, weight=weight, domain=(-2, 3)) + values.sum()

    ours = compiled(x, y, coef)
    plain = plain_loss(x, y, coef, weight, domain=(-2, 3)) + plain_polyval(x, coef, (-2, 3)).sum()
    assert_close(ours, plain, 256)
    theirs = torch.autograd.grad(plain, (x, y, coef))
    for mine, expected in zip(torch.autograd.grad(ours, (x, y, coef)), theirs, strict=True):
        assert_close(mine, expected, 256)


def test_custom_operators_are_well_formed():
    x, y, coef, weight = make("own x", grad=False)
    mapping = [0.5, 2.0, 0.25]
    upstream = torch.ones(3, dtype=F64)
    torch.library.opcheck(torch.ops.polyfit.evaluate, (x, coef, mapping, "legendre", "torch"))
    torch.library.opcheck(torch.ops.polyfit.evaluate, (x[0], coef, None, "power", "torch"))
    for want_x, want_coef in ((True, False), (False, True), (True, True)):
        torch.library.opcheck(
            torch.ops.polyfit.evaluate_backward, (y, x, coef, mapping, "legendre", "torch", want_x, want_coef)
        )
    for arguments in ((weight, upstream, mapping), (None, None, None)):
        torch.library.opcheck(
            torch.ops.polyfit.objective,
            (x, y, coef, *arguments, "laguerre", "huber", 0.5, "torch", True, True, True, arguments[0] is not None),
        )
        torch.library.opcheck(
            torch.ops.polyfit.objective,
            (x[0], y[0], coef, *arguments, "power", "mse", 0.0, "torch", False, False, True, False),
        )


def test_impl_can_be_asked_for_and_inspected():
    x, y, coef, _ = make("one series")
    assert polyfit.backends.resolve_impl("auto", x.device) == "torch"
    assert torch.equal(polyfit.polynomial_loss(x, y, coef, impl="torch"), polyfit.polynomial_loss(x, y, coef))


def test_import_needs_no_triton():
    import subprocess
    import sys

    probe = "import polyfit, sys; assert not {'triton', 'typer', 'rich', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


LAYOUTS_IN_MEMORY = {
    "a column": lambda t: t.reshape(-1, 1).repeat(1, 2)[:, :1],
    "transposed": lambda t: t.reshape(24, 5).T,
    "channels last": lambda t: t.reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "every other": lambda t: t.reshape(24, 5).repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda t: t[:24].expand(5, 24),
}


@pytest.mark.parametrize("other", ["same", "contiguous"])
@pytest.mark.parametrize("layout", LAYOUTS_IN_MEMORY)
def test_samples_of_one_series_in_any_layout(layout, other):
    generator = torch.Generator().manual_seed(0)
    base = [torch.randn(120, generator=generator, dtype=torch.float64) for _ in range(3)]
    x, y, weight = (LAYOUTS_IN_MEMORY[layout](tensor) for tensor in base)
    weight = weight.exp()
    if other == "contiguous":
        y = y.contiguous()
    coef = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, y, coef, weight)]
    plain = [tensor.detach().clone().requires_grad_() for tensor in (x, y, coef, weight)]
    for reduction in ("mean", "sum", "none"):
        ours = polyfit.polynomial_loss(*leaves[:3], weight=leaves[3], reduction=reduction)
        expected = plain_loss(*plain, reduction=reduction)
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)
        upstream = torch.linspace(1, 2, ours.numel(), dtype=torch.float64).view(ours.shape)
        gradients = [
            torch.autograd.grad(value, given, upstream) for value, given in ((ours, leaves), (expected, plain))
        ]
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    values = polyfit.polyval(leaves[0], coef)
    torch.testing.assert_close(values, plain_polyval(plain[0], coef), rtol=1e-13, atol=1e-13)
    # They are one series: the passes see one row, as many samples as there are.
    options = {"loss": "mse", "weight": None, "reduction": "mean", "per_series": False, "basis": "power"}
    problem = canonical_problem(x, y, coef, **options, domain=None, impl="torch", in_any_order=True)
    assert problem.x.shape == problem.y.shape == (120,)
    if other == "same" and layout in {"transposed", "channels last"}:
        assert problem.x.data_ptr() == x.data_ptr()
        assert values.stride() == x.stride()


# --- bad input
# ---------------------------------------------------------------------------------------------------------

NESTED = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
GOOD: dict[str, Any] = {"x": torch.zeros(5), "y": torch.zeros(5), "coef": torch.zeros(3)}
BAD = [
    ({"x": [0.0, 1.0]}, TypeError, "x is list; pass a torch.Tensor"),
    ({"x": torch.zeros(5, dtype=torch.int64)}, TypeError, r"x is torch.int64.*x.to\(torch.float32\)"),
    ({"coef": torch.zeros(3, dtype=torch.complex64)}, TypeError, "coef is torch.complex64"),
    ({"y": torch.zeros(5, dtype=torch.float64)}, TypeError, "y is torch.float64 and x is torch.float32"),
    ({"coef": torch.zeros(3, dtype=torch.float16)}, TypeError, "coef is torch.float16 and x is torch.float32"),
    ({"y": torch.zeros(5, device="meta")}, ValueError, "y is on meta and x is on cpu"),
    ({"coef": torch.tensor(1.0)}, ValueError, "degree [+] 1 coefficients"),
    ({"coef": torch.zeros(2, 0)}, ValueError, "degree [+] 1 coefficients"),
    ({"y": torch.zeros(4)}, ValueError, "last axis is samples"),
    ({"weight": torch.zeros(1)}, ValueError, "last axis is samples"),
    ({"x": torch.zeros(2, 5), "coef": torch.zeros(3, 4)}, ValueError, "must broadcast"),
    ({"x": torch.tensor(0.0), "y": torch.tensor(0.0), "coef": torch.zeros(2, 3)}, ValueError, r"pass x.reshape\(1\)"),
    ({"x": torch.zeros(0), "y": torch.zeros(0)}, ValueError, "mean' over no samples"),
    ({"loss": "mae"}, ValueError, "loss='mae' is unknown; pass one of 'mse', 'l1', 'huber'"),
    ({"basis": "monomial"}, ValueError, "basis='monomial' is unknown; pass one of 'power', 'chebyshev', 'legendre'"),
    ({"reduction": "median"}, ValueError, "reduction='median' is unknown"),
    ({"per_series": True, "reduction": "none"}, ValueError, "pass one of the two"),
    ({"impl": "cuda"}, ValueError, "impl='cuda' is unknown"),
    ({"impl": "triton"}, ValueError, "needs tensors on a GPU"),
    ({"domain": (1.0, 1.0)}, ValueError, "lo < hi"),
    ({"x": None}, TypeError, "x is None; pass a torch.Tensor"),
    ({"y": None}, TypeError, "y is None; pass a torch.Tensor"),
    ({"coef": None}, TypeError, "coef is None; pass a torch.Tensor"),
    ({"x": torch.zeros(5).to_sparse()}, TypeError, r"x has the layout torch.sparse_coo; pass x.to_dense\(\)"),
    ({"coef": torch.zeros(3).to_sparse()}, TypeError, r"coef has the layout torch.sparse_coo; pass coef.to_dense\(\)"),
    ({"x": NESTED}, TypeError, "x is a nested tensor; pass one of numbers"),
    ({"weight": 2.0}, TypeError, r"weight is float; pass a tensor of the shape of y.*full_like\(y, weight\)"),
    ({"weight": torch.tensor(2.0)}, ValueError, r"weight is a single number and x has shape \(5,\).*expand_as\(x\)"),
    (
        {"x": torch.tensor(2.0), "y": torch.zeros(5)},
        ValueError,
        r"x is a single number and y has shape \(5,\).*x.expand_as\(y\)",
    ),
    ({"loss": polyfit.losses.Huber}, TypeError, r"loss=Huber is a class; pass an object of it, Huber\(\)"),
    ({"loss": torch.nn.MSELoss}, TypeError, r"loss=MSELoss is a class; pass .* MSELoss\(reduction='none'\)"),
    ({"loss": None}, TypeError, "loss=None is NoneType; pass a name"),
    ({"loss": lambda p, y: None}, TypeError, "returned NoneType; a loss takes predictions and targets"),
    ({"loss": F.mse_loss}, ValueError, r"loss=mse_loss returned shape \(\) for .* \(5,\).*reduction='none'"),
    ({"loss": torch.nn.MSELoss(reduction="sum")}, ValueError, r"loss=MSELoss returned shape \(\)"),
    ({"loss": F.mse_loss, "weight": torch.ones(5)}, ValueError, r"loss=mse_loss returned shape \(\)"),
    ({"loss": F.mse_loss, "reduction": "sum"}, ValueError, r"loss=mse_loss returned shape \(\)"),
]


def test_losses_of_torch_that_are_not_reduced():
    generator = torch.Generator().manual_seed(0)
    x, y, weight = (torch.rand(9, generator=generator, dtype=torch.float64) for _ in range(3))
    coef = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    expected = (weight * (0.5 - x + 2.0 * x * x - y) ** 2).sum()
    losses = [torch.nn.MSELoss(reduction="none"), lambda p, y: F.mse_loss(p, y, reduction="none")]
    for loss in losses:
        found = polyfit.polynomial_loss(x, y, coef, loss=loss, weight=weight, reduction="sum")
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
        found = polyfit.polynomial_loss(x, y, coef, loss=loss, weight=weight)
        torch.testing.assert_close(found, expected / weight.sum(), rtol=1e-13, atol=0)


def test_a_domain_is_read_once():
    x = torch.linspace(2.0, 4.0, 5)
    pair: Any = (2.0, 4.0)
    for reduction in ("mean", "none"):
        losses = [
            polyfit.polynomial_loss(x, x, torch.ones(3), reduction=reduction, domain=domain)
            for domain in (pair, iter(pair))
        ]
        assert torch.equal(*losses)
    assert torch.equal(*(polyfit.polyval(x, torch.ones(3), domain=domain) for domain in (pair, iter(pair))))


@pytest.mark.parametrize(("change", "error", "match"), BAD, ids=[str(list(case[0])) for case in BAD])
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        polyfit.polynomial_loss(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [case for case in BAD if not set(case[0]) & {"y", "weight", "loss", "reduction"}],
)
def test_bad_input_of_polyval_is_named(change, error, match):
    arguments = {"x": GOOD["x"], "coef": GOOD["coef"], **change}
    with pytest.raises(error, match=match):
        polyfit.polyval(**arguments)
