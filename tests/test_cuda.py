"""The kernels on a GPU: against float64, at sizes and in settings that the interpreter cannot show."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from activation_oracle import Activation, make_activation
from cases import LOSSES
from kan_oracle import Layer, assert_within, make_layer, true_layer
from moments_oracle import Mapping, Moments, eager_moments, make_data, true_moments
from moments_oracle import assert_no_worse_than_eager as assert_moments_no_worse
from oracle import NUMPY_CLASSES
from problems import Problem, assert_no_worse_than_eager, make_problem
from rehearsal import few
from torch import Tensor

import polyfit
from polyfit.backends import resolve_impl

pytest.importorskip("triton")
from polyfit_kernels import launch, partials
from polyfit_kernels.activation import activate, activate_backward
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.kan import kan, kan_backward
from polyfit_kernels.moments import moments
from polyfit_kernels.objective import objective

pytestmark = pytest.mark.cuda

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SIZES = [0, 1, 31, 1023, 1024, 1025, 4096, few(100_003)]
VARIANTS = {
    "one series": {},
    "weight": {"weight": True},
    "own x": {"n_series": 5, "shared_x": False, "weight": True, "domain": True},
    "shared x": {"n_series": 5, "upstream": True, "domain": True},
    "shared x and y": {"n_series": 5, "shared_y": True, "weight": True, "upstream": True},
}


def run(problem: Problem) -> dict[str, Tensor]:
    """Everything that the objective gives, by the kernel."""
    operands = (problem.x, problem.y, problem.coef, problem.weight, problem.upstream, problem.mapping, problem.basis)
    wants: dict[str, Any] = {"want_coef": True, "want_x": True, "want_y": True}
    results = objective(*operands, *problem.case.loss.kernel, **wants, want_weight=problem.weight is not None)
    names = ("value", "weight", "grad_coef", "grad_x", "grad_y", "grad_weight")
    return {name: result for name, result in zip(names, results, strict=True) if result is not None}


def assert_same_bits(results: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert results.keys() == expected.keys()
    for name, result in results.items():
        assert torch.equal(result, expected[name]), name


def assert_tickets_are_back() -> None:
    torch.cuda.synchronize()
    assert all(not tickets.any() for tickets in partials._tickets.values())


def check_objective(problem: Problem) -> None:
    """No worse than eager in the dtype that computes."""
    narrow = problem if problem.x.dtype == torch.float64 else problem.to(torch.float32)
    truth, eager = problem.to(torch.float64).objective(), narrow.objective()
    size = problem.to(torch.float64).size()
    result = run(problem)
    for name, expected in truth.items():
        assert_no_worse_than_eager(result[name], eager[name], expected, problem.degree, name, size)
    if problem.weight is not None:
        expected = problem.weight.double().sum(1).expand(problem.coef.shape[0])
        torch.testing.assert_close(result["weight"], expected, rtol=1e-6, atol=0)


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
    values = evaluate(problem.x, problem.coef, problem.mapping, problem.basis)
    assert_no_worse_than_eager(values, narrow.values(), wide.values(), problem.degree, "values")
    grad = torch.randn_like(values)
    results = evaluate_backward(
        grad, problem.x, problem.coef, problem.mapping, problem.basis, want_x=True, want_coef=True
    )
    truth, eager = wide.pull_back(grad), narrow.pull_back(grad)
    for name, actual in zip(("grad_x", "grad_coef"), results, strict=True):
        assert actual is not None
        assert_no_worse_than_eager(actual, eager[name], truth[name], problem.degree, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, dtype):
    check_objective(make_problem(few(10_007), 5, weight=True, device="cuda", dtype=dtype, case=LOSSES[name]))


@pytest.mark.parametrize("basis", NUMPY_CLASSES)
@pytest.mark.parametrize("degree", [0, 1, 2, 10, 20])
def test_degrees_of_every_basis(degree, basis):
    check_objective(make_problem(few(10_007), degree, device="cuda", domain=True, basis=basis))


def test_auto_is_the_kernel_and_agrees_with_the_one_pass():
    assert resolve_impl("auto", torch.device("cuda")) == "triton"
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


@pytest.mark.parametrize("n_samples", [2049, few(100_003), few(10_000_019)])
@pytest.mark.parametrize("degree", [0, 5, 20])
def test_the_same_bits_again(degree, n_samples):
    # What the last program reads of the others races with their writing, if anything here does: small and often.
    problem = make_problem(n_samples, degree, weight=True, device="cuda", basis="chebyshev")
    check_objective(problem)
    first = run(problem)
    for _ in range(max(few(5, 2), few(10_000_000) // n_samples)):
        assert_same_bits(run(problem), first)
    assert_tickets_are_back()


def test_the_same_bits_again_for_many_series_of_several_programs():
    # Partial sums of neighbours share cache lines, and a processor may hold a line from before the last was written.
    n_samples, n_series = few(70_000, 3000), few(500, 3)
    problem = make_problem(n_samples, 6, n_series=n_series, shared_x=False, device="cuda")
    assert launch.choose(n_samples, n_series, 4, torch.cuda.get_device_properties(0).multi_processor_count).programs > 1
    check_objective(problem)
    first = run(problem)
    for _ in range(few(50, 2)):
        assert_same_bits(run(problem), first)
    assert_tickets_are_back()


def test_several_streams_at_once():
    problems = [
        make_problem(few(30_001) + 1000 * i, 5, n_series=1 + i % 3, weight=True, device="cuda")
        for i in range(few(8, 3))
    ]
    expected = [run(problem) for problem in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    runs = []
    for _ in range(few(100, 2)):
        for problem, alone, stream in zip(problems, expected, streams, strict=True):
            with torch.cuda.stream(stream):
                runs.append((run(problem), alone))
    assert_tickets_are_back()
    for result, alone in runs:
        assert_same_bits(result, alone)


@pytest.mark.parametrize("share_a_stream", [True, False])
def test_several_threads_at_once(share_a_stream):
    problems = [make_problem(few(30_001) + 1000 * i, 5, n_series=1 + i, device="cuda") for i in range(few(4, 3))]
    expected = [run(problem) for problem in problems]
    torch.cuda.synchronize()
    shared, runs = torch.cuda.Stream(), []

    def work(problem: Problem, alone: dict[str, Tensor]) -> None:
        with torch.cuda.stream(shared if share_a_stream else torch.cuda.Stream()):
            runs.extend([(run(problem), alone) for _ in range(few(100, 2))])

    threads = [threading.Thread(target=work, args=pair) for pair in zip(problems, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_tickets_are_back()
    assert len(runs) == len(problems) * few(100, 2)
    for result, alone in runs:
        assert_same_bits(result, alone)


def test_one_launch_gives_value_and_gradients():
    problem = make_problem(few(1_000_003), 5, device="cuda")
    run(problem)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(problem)
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() or () if "CUDA" in str(event.device_type)]
    if not kernels:
        pytest.skip("launches are counted by a profiler, and CUPTI traced no kernel here (it may need more rights)")
    assert len(kernels) == 1, kernels


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("n_samples", SIZES)
def test_narrow_operands_computed_in_float64(n_samples, dtype):
    problem = make_problem(n_samples, 5, n_series=2, weight=True, upstream=True, domain=True, basis="chebyshev")
    problem = problem.to(dtype, "cuda")
    wide = problem.to(torch.float64)
    coef = torch.randn(2, 6, dtype=torch.float64, device="cuda")
    wants: dict[str, Any] = {"want_x": True, "want_y": True, "want_weight": True}
    results = [
        objective(p.x, p.y, coef, p.weight, p.upstream, wide.mapping, "chebyshev", "huber", 0.5, **wants, compute=to)
        for p, to in ((problem, torch.float64), (wide, None))
    ]
    for result, expected in zip(*results, strict=True):
        assert result is not None
        assert expected is not None
        assert result.dtype == torch.float64
        size = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-12 * size)


# From make_data's [-2.25, 3.75] to [-0.875, 1], exact in float32.
MAPPING = (0.75, 0.3125, 0.0625)
MOMENTS_ROWS = {"one series": (1, 1, None), "weight": (1, 1, 1), "own x": (5, 5, 5), "shared x": (1, 5, None)}


def check_moments(x: Tensor, y: Tensor, weight: Tensor | None, degree: int, mapping: Mapping, offset: float) -> Moments:
    """No worse than eager in the dtype that computes."""
    truth = true_moments(x, y, weight, degree, mapping, offset)
    eager = eager_moments(x, y, weight, degree, mapping, offset)
    results = moments(x, y, weight, degree, mapping, offset)
    assert_moments_no_worse(results, eager, truth, degree)
    return results


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", MOMENTS_ROWS)
@pytest.mark.parametrize("n_samples", [*SIZES, 2047, 2048, 2049])
def test_moments(n_samples, variant, dtype):
    check_moments(*make_data(n_samples, *MOMENTS_ROWS[variant], dtype=dtype, device="cuda"), 5, MAPPING, 0.25)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["one series", "weight"])
@pytest.mark.parametrize("degree", [0, 1, 2, 8, 10, 11, 20, 24])
def test_degrees_of_moments(degree, variant, dtype):
    check_moments(*make_data(few(10_007), *MOMENTS_ROWS[variant], dtype=dtype, device="cuda"), degree, MAPPING, 0.0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_samples", [4099, few(100_003), few(2**24)])
def test_the_error_of_moments_does_not_grow_with_the_number_of_samples(n_samples, weighted):
    # All terms alike, so that roundings add up: 15 additions in float32 at most, whatever n is, and those of a term.
    value = torch.tensor([0.3, 0.7, 0.9], device="cuda")
    x, y, weight = (row.expand(1, n_samples) for row in value[:, None, None])
    t, v, w = value.double().tolist()
    w = w if weighted else 1.0
    squares, with_y, of_x = moments(x, y, weight if weighted else None, 3, None)
    angle = math.acos(t)
    terms = torch.tensor([math.cos(k * angle) for k in range(7)], dtype=torch.float64, device="cuda")
    # Of the sum without cancellation: half an ulp of float32 for each addition and for 4 roundings at each of 3 steps,
    # and twice that where the sum of a product is doubled.
    allowed = 2 * (15 + 4 * 3) * 2.0**-24 * n_samples
    assert abs(squares.item() - n_samples * w * v * v) <= allowed * w * v * v
    assert (with_y[0] - n_samples * w * v * terms[:4]).abs().max().item() <= allowed * w * v
    assert (of_x[0] - n_samples * w * terms).abs().max().item() <= allowed * w


def test_moments_count_samples():
    x = torch.zeros(1, few(2**24 + 5), device="cuda")
    squares, with_y, of_x = moments(x, torch.ones_like(x), None, 2, None)
    n_samples = x.shape[1]
    assert squares.item() == n_samples
    assert with_y.tolist() == [[n_samples, 0, -n_samples]]
    assert of_x.tolist() == [[n_samples, 0, -n_samples, 0, n_samples]]


@pytest.mark.parametrize("n_samples", [2049, few(100_003), few(2**24)])
@pytest.mark.parametrize("degree", [0, 5, 20])
def test_the_same_moments_again(degree, n_samples):
    data = make_data(n_samples, 1, 1, 1, device="cuda")
    first = moments(*data, degree, MAPPING)
    for _ in range(max(few(5, 2), few(10_000_000) // n_samples)):
        for again, before in zip(moments(*data, degree, MAPPING), first, strict=True):
            assert torch.equal(again, before)
    assert_tickets_are_back()


def test_moments_on_several_streams_at_once():
    problems = [
        make_data(few(30_001) + 1000 * i, 1, 1 + i % 3, 1 if i % 2 else None, device="cuda") for i in range(few(8, 3))
    ]
    expected = [moments(*problem, 5, MAPPING) for problem in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    runs = []
    for _ in range(few(100, 2)):
        for problem, alone, stream in zip(problems, expected, streams, strict=True):
            with torch.cuda.stream(stream):
                runs.append((moments(*problem, 5, MAPPING), alone))
    assert_tickets_are_back()
    for results, alone in runs:
        for result, before in zip(results, alone, strict=True):
            assert torch.equal(result, before)


def test_moments_of_more_samples_than_int32_counts():
    # Stride 0 for x: only y, 4.3 GB in float16, takes memory.
    n_samples = few(2**31 + 2**20 + 3)
    if torch.cuda.mem_get_info()[0] < 3 * n_samples:
        pytest.skip("y of 2^31 samples in float16 and what filling it takes: 7 GB, and less is free on this GPU")
    x = torch.full((1, 1), 0.5, dtype=torch.float16, device="cuda").expand(1, n_samples)
    y = torch.zeros(1, n_samples, dtype=torch.float16, device="cuda")
    y[0, -1] = 1000.0  # beyond the reach of int32
    squares, with_y, of_x = moments(x, y, None, 1, None)
    assert squares.item() == 1e6
    assert with_y.tolist() == [[1000.0, 500.0]]
    assert of_x.tolist() == [[n_samples, n_samples / 2, -n_samples / 2]]


def test_many_short_series():
    check_objective(make_problem(30, 3, n_series=few(1_000_000, 5), shared_x=False, weight=True, device="cuda"))


def test_more_series_than_one_launch_takes(set_policy):
    set_policy(largest_grid=few(launch.DEFAULT.largest_grid, 2))
    n_series = launch.current().largest_grid + 5
    y = torch.randn(n_series, 2, device="cuda")
    x, coef = torch.tensor([[-1.0, 0.5]], device="cuda"), torch.randn(n_series, 2, device="cuda")
    values = coef[:, :1] + coef[:, 1:] * x
    torch.testing.assert_close(evaluate(x, coef, None, "power"), values)
    value, _, grad_coef, *_ = objective(x, y, coef, None, None, None, "power", "mse", 0.0)
    residual = (values - y).double()
    torch.testing.assert_close(value, (residual**2).sum(1), rtol=1e-4, atol=1e-6)
    slopes = torch.stack([2 * residual.sum(1), 2 * (residual * x).sum(1)], 1)
    torch.testing.assert_close(grad_coef, slopes, rtol=1e-4, atol=1e-5)


def test_a_float32_mean_of_2_to_the_28_samples_keeps_its_digits():
    # All terms alike, so that roundings add up: see tests/kernels/test_digits.py.
    n_samples = few(2**28)
    x, y = torch.full((n_samples,), 0.3, device="cuda"), torch.full((n_samples,), 0.1, device="cuda")
    coef = torch.tensor([0.4, 0.7], device="cuda", requires_grad=True)
    loss = polyfit.polynomial_loss(x, y, coef)
    loss.backward()
    residual = 0.4 + 0.7 * 0.3 - 0.1
    # 28 half ulps for the additions, and some for the terms themselves and the rounding of the result.
    allowed = (28 + 8) * 2**-24
    assert loss.item() == pytest.approx(residual**2, rel=allowed)
    assert coef.grad is not None
    assert coef.grad.tolist() == pytest.approx([2 * residual, 2 * residual * 0.3], rel=allowed)


def test_more_samples_than_int32_counts():
    # Stride 0 for x: only y, 4.3 GB in float16, and the gradient to it, 8.6 GB, take memory.
    n_samples = few(2**31 + 2**20 + 3)
    if torch.cuda.mem_get_info()[0] < 8 * n_samples:
        pytest.skip("y and its gradient for 2^31 samples: 17 GB, and less is free on this GPU")
    x = torch.full((1, 1), 0.5, dtype=torch.float16, device="cuda").expand(1, n_samples)
    y = torch.zeros(1, n_samples, dtype=torch.float16, device="cuda")
    y[0, -1] = 1000.0  # beyond the reach of int32
    coef = torch.zeros(1, 2, dtype=torch.float16, device="cuda")
    value, _, grad_coef, _, grad_y, _ = objective(x, y, coef, None, None, None, "power", "mse", 0.0, want_y=True)
    assert value.item() == 1e6
    assert grad_coef is not None
    assert grad_coef.tolist() == [[-2000.0, -1000.0]]
    assert grad_y is not None
    assert grad_y[0, -1].item() == 2000.0
    assert torch.count_nonzero(grad_y).item() == 1


def test_more_samples_in_all_series_than_int32_counts():
    n_series, n_samples = 3, few(2**30)
    if torch.cuda.mem_get_info()[0] < 3 * n_series * n_samples:
        pytest.skip("y of 3 x 2^30 samples in float16: 10 GB, and less is free on this GPU")
    x = torch.full((1, 1), 0.5, dtype=torch.float16, device="cuda").expand(1, n_samples)
    y = torch.zeros(n_series, n_samples, dtype=torch.float16, device="cuda")
    y[:, -1] = torch.tensor([100.0, 200.0, 1000.0])
    coef = torch.zeros(n_series, 2, dtype=torch.float16, device="cuda")
    value, *_ = objective(x, y, coef, None, None, None, "power", "mse", 0.0)
    assert value.tolist() == [1e4, 4e4, 1e6]


def test_no_memory_beyond_inputs_and_outputs():
    n_samples = few(2**24)
    x, y = torch.randn(n_samples, device="cuda"), torch.randn(n_samples, device="cuda")
    coef = torch.randn(11, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    polyfit.polynomial_loss(x, y, coef).backward()
    assert torch.cuda.max_memory_allocated() - before < 2**24


# (outer, groups, inner): one polynomial, channels last, short and long runs of channels.
ELEMENTS = [
    (1, 1, 1), (1, 1, few(100_003)), (1, 3, few(5001)), (few(4096, 40), few(1000, 20), 1),
    (few(100_003, 70), 3, 1), (few(500, 30), 9, 5), (few(64, 4), few(64, 3), 49),
    (few(32, 3), few(64, 2), few(3136, 196)),
]  # fmt: skip


def run_activation(problem: Activation) -> dict[str, Tensor]:
    """Values and gradients by the kernels."""
    model = (problem.mapping, problem.basis, problem.outside)
    values = activate(problem.x, problem.coef, *model)
    grad_x, grad_coef = activate_backward(problem.grad, problem.x, problem.coef, *model, want_x=True, want_coef=True)
    assert grad_x is not None
    assert grad_coef is not None
    return {"values": values, "grad_x": grad_x, "grad_coef": grad_coef}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ELEMENTS, ids=str)
def test_activation(shape, dtype):
    problem = make_activation(shape, 5, dtype=dtype, device="cuda")
    problem.check(run_activation(problem))


@pytest.mark.parametrize("outside", ["linear", "clamp", "extend"])
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
@pytest.mark.parametrize("degree", [0, 1, 8])
def test_degrees_of_the_activation(degree, basis, outside):
    for shape in ((few(300, 20), few(70, 3), 1), (3, 2, few(3136, 70))):
        problem = make_activation(shape, degree, basis=basis, outside=outside, device="cuda")
        problem.check(run_activation(problem))


@pytest.mark.parametrize(
    "shape", [(1, 1, few(10_000_019)), (few(2**20, 600), few(64, 4), 1), (few(64, 3), 4, few(3136, 700))]
)
def test_the_same_activation_again(shape):
    problem = make_activation(shape, 5, device="cuda")
    first = run_activation(problem)
    problem.check(first)
    for _ in range(few(20, 2)):
        assert_same_bits(run_activation(problem), first)
    assert_tickets_are_back()


def test_activations_on_several_streams_and_in_a_graph():
    problems = [make_activation((few(30_000, 70), 3 + i, 1), 5, device="cuda") for i in range(few(6, 2))]
    expected = [run_activation(problem) for problem in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=streams[0]):
        in_graph = run_activation(problems[0])
    runs = []
    for _ in range(few(50, 2)):
        for problem, alone, stream in zip(problems, expected, streams, strict=True):
            with torch.cuda.stream(stream):
                runs.append((run_activation(problem), alone))
        graph.replay()
    assert_tickets_are_back()
    for results, alone in (*runs, (in_graph, expected[0])):
        assert_same_bits(results, alone)


def test_an_activation_of_more_elements_than_int32_counts():
    n_samples = few(2**31 + 2**20 + 3)
    if torch.cuda.mem_get_info()[0] < 9 * n_samples:
        pytest.skip("x, its gradient and the values for 2^31 elements in float16: 20 GB, and less is free on this GPU")
    x = torch.full((1, 1, n_samples), 0.5, dtype=torch.float16, device="cuda")
    grad = torch.zeros_like(x)
    grad[0, 0, -1] = 1000.0  # beyond the reach of int32
    coef = torch.tensor([[1.0, 2.0, 3.0]], device="cuda")
    grad_x, grad_coef = activate_backward(grad, x, coef, None, "power", "linear", want_x=True, want_coef=True)
    assert grad_coef is not None
    assert grad_coef.tolist() == [[1000.0, 500.0, 250.0]]
    assert grad_x is not None
    assert grad_x[0, 0, -1].item() == 5000.0
    assert torch.count_nonzero(grad_x).item() == 1
    del grad, grad_x
    values = activate(x, coef, None, "power", "linear")
    assert values[0, 0, -1].item() == 2.75
    assert values[0, 0, 0].item() == 2.75


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_layer_is_the_kernel_and_agrees_with_the_one_pass(channels_last):
    channels, size = few(64, 3), few(28, 5)
    shape = (few(8, 2), channels, size, size)
    x = torch.randn(shape, device="cuda") * 2
    upstream = torch.randn(shape, device="cuda")
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for impl in ("auto", "torch"):
        layer = polyfit.nn.Polynomial(5, channels, init="silu", domain=(-2, 2), impl=impl).cuda()
        leaf = x.detach().clone().requires_grad_()
        values = layer(leaf)
        assert values.stride() == x.stride()
        results.append((values, *torch.autograd.grad(values, (leaf, layer.coef), upstream)))
        with torch.autocast("cuda", torch.float16):
            assert layer(x.half()).dtype == torch.float16
        (alone,) = torch.autograd.grad(layer(leaf).sum(), layer.coef)  # a gradient of stride 0
        torch.testing.assert_close(alone, torch.autograd.grad(layer(leaf), layer.coef, torch.ones_like(x))[0])
    for kernel, onepass in zip(*results, strict=True):
        torch.testing.assert_close(kernel, onepass, rtol=2e-5, atol=2e-5 * float(onepass.detach().abs().max()))


def run_kan(layer: Layer) -> dict[str, Tensor]:
    """The KAN layer and its gradients, by the kernels."""
    x, coef, bias, grad, basis, squash = layer
    to_x, to_coef = kan_backward(grad, x, coef, basis, squash, want_x=True, want_coef=True)
    assert to_x is not None
    assert to_coef is not None
    return {"y": kan(x, coef, bias, basis, squash), "grad_x": to_x, "grad_coef": to_coef}


KAN_DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", KAN_DTYPES)
@pytest.mark.parametrize("squash", ["tanh", "algebraic", "clamp", None])
@pytest.mark.parametrize(
    ("n_rows", "n_in", "n_out"),
    [(0, 3, 5), (1, 1, 1), (few(127), few(65, 17), few(33, 9)), (few(4099, 150), few(255, 20), few(77, 33)),
     (few(4096, 128), few(256, 32), few(256, 32))],
)  # fmt: skip
def test_kan(n_rows, n_in, n_out, squash, dtype):
    layer = make_layer(n_rows, n_in, n_out, 4, squash=squash, dtype=dtype, device="cuda")
    found = run_kan(layer)
    for name, truth in true_layer(layer).items():
        assert_within(found[name], truth, name)


@pytest.mark.parametrize("dtype", KAN_DTYPES)
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
@pytest.mark.parametrize("degree", [1, 2, 5, 8, 10])
def test_degrees_of_kan(degree, basis, dtype):
    # float16 ends at 65504, and Hermite's polynomial of degree 10 begins at -30240.
    layer = make_layer(few(300, 40), few(129, 17), few(70, 18), degree, basis=basis, dtype=dtype, device="cuda")
    found = run_kan(layer)
    for name, truth in true_layer(layer).items():
        assert_within(found[name], truth, name)


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("dtype", [*KAN_DTYPES, torch.float64])
def test_the_kan_layer(dtype, is_autocast):
    made = make_layer(few(500, 40), few(64, 9), few(96, 11), 4, dtype=dtype, device="cuda")
    layer = polyfit.nn.PolynomialKAN(made.x.shape[1], made.bias.shape[0], 4, device="cuda", dtype=dtype)
    with torch.no_grad():
        layer.coef.copy_(made.coef)
        layer.bias.copy_(made.bias)
    x = made.x.clone().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16, enabled=is_autocast):
        y = layer(x)
    y.backward(made.grad.to(y.dtype))
    assert y.dtype == (torch.bfloat16 if is_autocast and dtype != torch.float64 else dtype)
    # float64, and float32 without TF32, go to cuBLAS.
    x_, coef, bias, grad = (part.to(y.dtype) for part in made[:4])
    truth = true_layer(Layer(x_, coef, bias, grad, "chebyshev", "tanh"))
    assert_within(y, truth["y"], "y")
    for name, grad in (("grad_x", x.grad), ("grad_coef", layer.coef.grad)):
        assert grad is not None
        assert grad.dtype == dtype
        slack = truth[name]._replace(allowed=truth[name].allowed + abs(truth[name].value) * 2.0**-8)
        assert_within(grad, slack if y.dtype != torch.float64 else truth[name], name)


def test_tf32_and_half_types_run_the_kernels():
    before = torch.get_float32_matmul_precision()
    made = make_layer(50, 20, 30, 3, device="cuda")
    try:
        for precision, dtype, runs in (("highest", torch.float32, 0), ("high", torch.float32, 1),
                                       ("highest", torch.float16, 1), ("high", torch.float64, 0)):  # fmt: skip
            torch.set_float32_matmul_precision(precision)
            x, coef, bias = (part.to(dtype) for part in made[:3])
            auto, chunks = (
                polyfit.nn.PolynomialKAN(20, 30, 3, impl=impl, device="cuda", dtype=dtype) for impl in ("auto", "torch")
            )
            for layer in (auto, chunks):
                with torch.no_grad():
                    layer.coef.copy_(coef)
                    layer.bias.copy_(bias)
            assert torch.equal(auto(x), kan(x, coef, bias, "chebyshev", "tanh") if runs else chunks(x))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_same_kan_again(dtype):
    layer = make_layer(few(5000, 150), few(200, 20), few(130, 33), 5, dtype=dtype, device="cuda")
    first = run_kan(layer)
    for _ in range(few(50, 2)):
        assert_same_bits(run_kan(layer), first)


def test_a_graph_of_kan():
    layer = make_layer(few(1000, 70), few(128, 20), few(96, 33), 4, dtype=torch.bfloat16, device="cuda")
    expected_results = run_kan(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run_kan(layer)
    for _ in range(3):
        for result in results.values():
            result.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert_same_bits(results, expected_results)


def captured(problem: Problem, stream: torch.cuda.Stream) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
    """A graph of one launch, captured on that stream, and where its results will be."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        results = run(problem)
    return graph, results


def test_a_graph_then_eager_calls_on_the_stream_that_captured_it():
    problem = make_problem(few(50_003), 5, n_series=3, weight=True, device="cuda")
    expected, stream = run(problem), torch.cuda.Stream()
    torch.cuda.synchronize()
    graph, results = captured(problem, stream)  # before any eager call on this stream: there are no tickets yet
    with torch.cuda.stream(stream):
        eager = run(problem)
    assert_tickets_are_back()
    assert_same_bits(eager, expected)
    for _ in range(3):
        for result in results.values():
            result.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert_same_bits(results, expected)
    with torch.cuda.stream(stream):
        eager = run(problem)
    assert_tickets_are_back()
    assert_same_bits(eager, expected)


def test_graphs_and_eager_calls_side_by_side():
    problem = make_problem(few(100_003), 5, weight=True, device="cuda")
    expected = run(problem)
    first, second, third = (torch.cuda.Stream() for _ in range(3))
    torch.cuda.synchronize()
    graphs = [captured(problem, first), captured(problem, first)]
    eager = []
    for _ in range(few(50, 2)):
        for (graph, _), stream in zip(graphs, (first, second), strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        with torch.cuda.stream(third):
            eager.append(run(problem))
    assert_tickets_are_back()
    for results in (*(results for _, results in graphs), *eager):
        assert_same_bits(results, expected)


def test_tickets_from_a_private_pool_are_not_kept(monkeypatch):
    problem = make_problem(few(50_003), 5, device="cuda")
    expected = run(problem)
    monkeypatch.setattr(partials, "_tickets", {})
    with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
        assert_same_bits(run(problem), expected)
    assert partials._tickets == {}
    assert_same_bits(run(problem), expected)
    assert len(partials._tickets) == 1


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compile(mode):
    n_samples = few(50_000)
    x, y = torch.randn(n_samples, device="cuda"), torch.randn(n_samples, device="cuda")
    coef = torch.randn(6, device="cuda", requires_grad=True)
    compiled = torch.compile(
        lambda c: polyfit.polynomial_loss(x, y, c, domain=(-4, 4)), fullgraph=True, mode=mode, dynamic=False
    )
    plain = polyfit.polynomial_loss(x, y, coef, domain=(-4, 4))
    (expected,) = torch.autograd.grad(plain, coef)
    for _ in range(5):  # with reduce-overhead: warm-up, capture, replays
        ours = compiled(coef)
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(torch.autograd.grad(ours, coef), (expected,))
        torch.testing.assert_close(polyfit.polynomial_loss(x, y, coef, domain=(-4, 4)), plain)
    assert_tickets_are_back()


def test_train():
    x = torch.linspace(-1, 1, few(2000, 100), device="cuda")
    start = torch.zeros(6, device="cuda")
    rule = polyfit.optimizers.SGD(0.3)
    runs = [
        polyfit.train(x, x.exp(), start, optimizer=rule, epochs=few(500, 20), impl=impl) for impl in ("triton", "torch")
    ]
    torch.testing.assert_close(runs[0].coef, runs[1].coef, rtol=1e-4, atol=1e-5)


RULES = {
    "sgd": polyfit.optimizers.SGD(0.02),
    "nesterov": polyfit.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": polyfit.optimizers.Adam(polyfit.optimizers.Cosine(0.02, epochs=2000)),
    "adamw": polyfit.optimizers.AdamW(0.02),
    "rmsprop": polyfit.optimizers.RMSprop(0.001, centered=True, momentum=0.5),
}


@pytest.mark.parametrize("n_samples", [1, 64, few(300, 100), few(2000, 130), few(8192, 200)])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("engine", "loss"), [("moments", "mse"), ("resident", "mse"), ("resident", "huber"), ("stepwise", "huber")]
)
def test_every_engine_trains_as_the_cpu_does(engine, loss, rule, n_samples):
    generator = torch.Generator().manual_seed(0)
    n_samples = n_samples if engine != "resident" else min(n_samples, launch.largest_resident(3, 8, weighted=True))
    x = torch.rand(3, n_samples, dtype=torch.float64, generator=generator) * 2 - 1
    weight = torch.rand(n_samples, dtype=torch.float64, generator=generator) + 0.5
    start = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    options: dict[str, Any] = {
        "optimizer": RULES[rule], "epochs": few(2000, 12), "loss": loss, "per_series": True, "record_every": few(70, 4),
        "early_stopping": polyfit.training.EarlyStopping(loss=1e-3), "check_stability": False,
    }  # fmt: skip
    plain_x, plain_weight, plain_start = x, weight, start
    plain = polyfit.train(x, x.sin(), start, weight=weight, engine="stepwise", **options)
    x, weight, start = x.cuda(), weight.cuda(), start.cuda()
    ours = polyfit.train(x, x.sin(), start, weight=weight, engine=engine, **options)
    assert torch.equal(ours.updates, plain.updates)
    # RMSprop divides by the deviation of small gradients, and so magnifies roundings: see what one of the start does.
    nudged = polyfit.train(plain_x, plain_x.sin(), plain_start * (1 + 2**-52), weight=plain_weight, engine="stepwise",
                           **options)  # fmt: skip
    for found, expected, other in (
        (ours.losses.values, plain.losses.values, nudged.losses.values),
        (ours.coef.cpu(), plain.coef, nudged.coef),
    ):
        assert found.shape == expected.shape
        magnified = (other - expected).abs().max() if other.shape == expected.shape else 0.0
        assert ((found - expected).abs() <= 1e-8 * expected.abs() + 1e-10 + 64 * magnified).all()
    # Cut anywhere, by resuming and by launches of other lengths: the same bits.
    part = polyfit.train(x, x.sin(), start, weight=weight, engine=engine, **{**options, "epochs": few(777, 7)})
    again = polyfit.train(x, x.sin(), start, weight=weight, engine=engine, resume=part.state_dict(), **options)
    assert torch.equal(again.coef, ours.coef)
    assert torch.equal(again.losses.values, ours.losses.values)


def test_auto_keeps_data_on_chip():
    x = torch.linspace(-1, 1, few(2000, 100), device="cuda")
    start = torch.zeros(6, device="cuda")
    run = lambda **o: polyfit.train(x, x.sin(), start, optimizer=polyfit.optimizers.Adam(), epochs=3, **o)  # noqa: E731
    assert run(loss="huber").engine == "resident"
    assert run().engine == "moments"


def test_a_million_series_train_in_one_call():
    n_series, epochs = few(1_000_000, 5), few(1000, 10)
    generator = torch.Generator(device="cuda").manual_seed(0)
    x = torch.rand(n_series, 64, device="cuda", generator=generator) * 2 - 1
    start = torch.zeros(n_series, 4, device="cuda")
    result = polyfit.train(
        x, x.sin(), start, optimizer=polyfit.optimizers.Adam(0.01), epochs=epochs, loss="huber", per_series=True,
        record_every=epochs // 2,
    )  # fmt: skip
    assert result.engine == "resident"
    some = slice(None, None, few(250_000, 2))
    plain = polyfit.train(
        x[some].double(), x[some].double().sin(), start[some].double(), optimizer=polyfit.optimizers.Adam(0.01),
        epochs=epochs, loss="huber", per_series=True, record_every=epochs // 2, engine="stepwise",
    )  # fmt: skip
    torch.testing.assert_close(result.coef[some].double(), plain.coef, rtol=1e-3, atol=1e-4)


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("checks a launch on a GPU that is not the current one, and this machine has one GPU")
    x, coef = torch.randn(1000, device="cuda:1"), torch.randn(4, device="cuda:1")
    torch.testing.assert_close(polyfit.polyval(x, coef), polyfit.polyval(x, coef, impl="torch"))
    layer = polyfit.nn.Polynomial(3, 10).to("cuda:1")
    values = layer(x.view(100, 10))
    values.sum().backward()
    assert values.device == x.device
    torch.testing.assert_close(values, x.view(100, 10))
