"""The kernels on a GPU: against float64, at sizes and in settings that the interpreter cannot show."""

from __future__ import annotations

import pytest
import torch
from cases import LOSSES
from oracle import NUMPY_CLASSES
from problems import Problem, assert_no_worse_than_eager, make_problem

import polyfit
from polyfit import ops

pytestmark = pytest.mark.cuda

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [0, 1, 31, 1023, 1024, 1025, 4096, 100_003]
VARIANTS = {
    "one series": {},
    "weight": {"weight": True},
    "own x": {"n_series": 5, "shared_x": False, "weight": True, "domain": True},
    "shared x": {"n_series": 5, "upstream": True, "domain": True},
    "shared x and y": {"n_series": 5, "shared_y": True, "weight": True, "upstream": True},
}


def run(problem: Problem) -> ops.Objective:
    """Everything that the objective gives, by the kernel."""
    operands = (problem.x, problem.y, problem.coef, problem.weight, problem.upstream, problem.mapping, problem.basis)
    return ops.objective(*operands, *problem.case.loss.kernel, "triton", want_coef=True, want_x=True, want_y=True)


def check_objective(problem: Problem) -> None:
    """No worse than eager in the dtype that computes."""
    narrow = problem if problem.x.dtype == torch.float64 else problem.to(torch.float32)
    truth, eager = problem.to(torch.float64).objective(), narrow.objective()
    result = run(problem)
    for name, expected in truth.items():
        assert_no_worse_than_eager(getattr(result, name), eager[name], expected, problem.degree, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_samples", SIZES)
def test_objective(n_samples, variant, dtype):
    check_objective(make_problem(n_samples, 5, dtype=dtype, device="cuda", **VARIANTS[variant]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", ["one series", "own x", "shared x"])
@pytest.mark.parametrize("n_samples", SIZES)
def test_evaluate(n_samples, variant, dtype):
    problem = make_problem(n_samples, 5, dtype=dtype, device="cuda", **VARIANTS[variant])
    narrow = problem if dtype == torch.float64 else problem.to(torch.float32)
    wide = problem.to(torch.float64)
    values = ops.evaluate(problem.x, problem.coef, problem.mapping, problem.basis, "triton")
    assert_no_worse_than_eager(values, narrow.values(), wide.values(), problem.degree, "values")
    grad = torch.randn_like(values)
    results = ops.evaluate_backward(
        grad, problem.x, problem.coef, problem.mapping, problem.basis, "triton", want_x=True, want_coef=True
    )
    truth, eager = wide.pull_back(grad), narrow.pull_back(grad)
    for name, actual in zip(("grad_x", "grad_coef"), results, strict=True):
        assert actual is not None
        assert_no_worse_than_eager(actual, eager[name], truth[name], problem.degree, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, dtype):
    check_objective(make_problem(10_007, 5, weight=True, device="cuda", dtype=dtype, case=LOSSES[name]))


@pytest.mark.parametrize("basis", NUMPY_CLASSES)
@pytest.mark.parametrize("degree", [0, 1, 2, 10, 20])
def test_degrees_of_every_basis(degree, basis):
    check_objective(make_problem(10_007, degree, device="cuda", domain=True, basis=basis))


def test_auto_is_the_kernel_and_agrees_with_the_one_pass():
    assert ops.resolve_impl("auto", torch.device("cuda")) == "triton"
    x = torch.randn(3, 5000, device="cuda", requires_grad=True)
    y = torch.randn(5000, device="cuda", requires_grad=True)
    coef = torch.randn(3, 6, device="cuda", requires_grad=True)
    upstream = torch.tensor([1.0, -0.5, 2.0], device="cuda")
    results = []
    for impl in ("auto", "torch"):
        loss = polyfit.polynomial_loss(x, y, coef, per_series=True, domain=(-4, 4), impl=impl)
        values = polyfit.polyval(x, coef, domain=(-4, 4), impl=impl).sum(-1)
        results.append((loss, values, *torch.autograd.grad((loss, values), (x, y, coef), (upstream, upstream))))
    for kernel, onepass in zip(*results, strict=True):
        torch.testing.assert_close(kernel, onepass, rtol=2e-5, atol=2e-5)


def test_the_same_bits_again():
    problem = make_problem(10_000_019, 5, weight=True, device="cuda")
    runs = [run(problem) for _ in range(5)]
    for repeated in runs[1:]:
        for again, first in zip(repeated, runs[0], strict=True):
            assert again is not None
            assert first is not None
            assert torch.equal(again, first)


def test_a_float32_mean_of_2_to_the_28_samples_keeps_its_digits():
    # All terms alike, so that roundings add up: 64 additions of one number in float32 lose at most 17 * 2**-24.
    n_samples = 2**28
    x, y = torch.full((n_samples,), 0.3, device="cuda"), torch.full((n_samples,), 0.1, device="cuda")
    coef = torch.tensor([0.4, 0.7], device="cuda", requires_grad=True)
    loss = polyfit.polynomial_loss(x, y, coef)
    loss.backward()
    residual = 0.4 + 0.7 * 0.3 - 0.1
    assert loss.item() == pytest.approx(residual**2, rel=20 * 2**-24)
    assert coef.grad is not None
    assert coef.grad.tolist() == pytest.approx([2 * residual, 2 * residual * 0.3], rel=20 * 2**-24)


def test_more_samples_than_int32_counts():
    # Stride 0 for x: only y takes memory, 4.3 GB in float16.
    n_samples = 2**31 + 2**20 + 3
    if torch.cuda.mem_get_info()[0] < 3 * n_samples:
        pytest.skip("needs 7 GB of free memory on the GPU")
    x = torch.full((1,), 0.5, dtype=torch.float16, device="cuda").expand(n_samples)
    y = torch.zeros(n_samples, dtype=torch.float16, device="cuda")
    y[-1] = 1000.0  # beyond the reach of int32
    coef = torch.tensor([0.0, 0.0], dtype=torch.float16, device="cuda")
    result = ops.objective(
        x, y, coef, None, None, None, "power", "mse", 0.0, "triton", want_coef=True, want_x=False, want_y=False
    )
    assert result.value.item() == 1e6
    assert result.grad_coef is not None
    assert result.grad_coef.tolist() == [[-2000.0, -1000.0]]


def test_no_memory_beyond_inputs_and_outputs():
    x, y = torch.randn(2**24, device="cuda"), torch.randn(2**24, device="cuda")
    coef = torch.randn(11, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    polyfit.polynomial_loss(x, y, coef).backward()
    assert torch.cuda.max_memory_allocated() - before < 2**24


def test_inside_a_cuda_graph():
    x, y = torch.randn(5000, device="cuda"), torch.randn(5000, device="cuda")
    coef = torch.randn(6, device="cuda")

    def launch():
        return ops.objective(
            x, y, coef, None, None, None, "power", "mse", 0.0, "triton", want_coef=True, want_x=False, want_y=False
        )

    expected = launch()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = launch()
    graph.replay()
    assert torch.equal(captured.value, expected.value)
    assert captured.grad_coef is not None
    assert expected.grad_coef is not None
    assert torch.equal(captured.grad_coef, expected.grad_coef)


def test_compile():
    x, y = torch.randn(5000, device="cuda"), torch.randn(5000, device="cuda")
    coef = torch.randn(6, device="cuda", requires_grad=True)
    compiled = torch.compile(lambda c: polyfit.polynomial_loss(x, y, c, domain=(-4, 4)), fullgraph=True)
    ours, plain = compiled(coef), polyfit.polynomial_loss(x, y, coef, domain=(-4, 4))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, coef), torch.autograd.grad(plain, coef))


def test_train():
    x = torch.linspace(-1, 1, 2000, device="cuda")
    start = torch.zeros(6, device="cuda")
    rule = polyfit.optimizers.SGD(0.3)
    runs = [polyfit.train(x, x.exp(), start, optimizer=rule, epochs=500, impl=impl) for impl in ("triton", "torch")]
    torch.testing.assert_close(runs[0].coef, runs[1].coef, rtol=1e-4, atol=1e-5)


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, coef = torch.randn(1000, device="cuda:1"), torch.randn(4, device="cuda:1")
    torch.testing.assert_close(polyfit.polyval(x, coef), polyfit.polyval(x, coef, impl="torch"))
