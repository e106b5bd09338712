"""Every kernel by Triton's interpreter on CPU tensors: fp64 truth, eager in the same dtype, kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import LOSSES
from oracle import NUMPY_CLASSES
from problems import SHORT_SERIES, assert_no_worse_than_eager, make_problem
from torch import Tensor

pytest.importorskip("triton")
import polyfit
from polyfit_kernels import launch, partials
from polyfit_kernels.evaluate import evaluate, evaluate_backward
from polyfit_kernels.objective import objective

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("poison")]

BASES = list(NUMPY_CLASSES)
TILE = 1024  # of float32 and n >= 1024
GRADIENTS = ["grad_coef", "grad_x", "grad_y", "grad_weight"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Sizes around the tile, and what else a kernel can be asked for, each with each size at least once over the grid.
SIZES = [0, 1, 3, 127, 128, 129, TILE - 1, TILE, TILE + 1, 3 * TILE + 7]
VARIANTS = {
    "one series": {},
    "weight": {"weight": True},
    "domain": {"domain": True},
    "own x": {"n_series": 3, "shared_x": False, "weight": True, "domain": True},
    "shared x": {"n_series": 3, "upstream": True, "domain": True},
    "shared x and y": {"n_series": 3, "shared_y": True, "weight": True, "upstream": True},
    "own x, shared y": {"n_series": 2, "shared_x": False, "shared_y": True},
}


def narrow_eager(problem):
    """Eager in float32 for the narrow dtypes, which is what the kernel computes in."""
    return problem if problem.x.dtype == torch.float64 else problem.to(torch.float32)


def check_objective(problem, what: str, *, alone: bool = True) -> None:
    """All outputs of the objective, together and, if asked, each alone."""
    truth, eager = problem.to(torch.float64).objective(), narrow_eager(problem).objective()
    size = problem.size()
    compute = torch.float64 if problem.x.dtype == torch.float64 else torch.float32
    arguments = (
        problem.x,
        problem.y,
        problem.coef,
        problem.weight,
        problem.upstream,
        problem.mapping,
        problem.basis,
        *problem.case.loss.kernel,
    )
    names = [name for name in truth if name != "value"]
    for wanted in (names, *([name] for name in names if alone), *([[]] if alone else [])):
        value, weight, *gradients = objective(
            *arguments, **{f"want_{name.removeprefix('grad_')}": name in wanted for name in names}
        )
        results = {"value": value, **dict(zip(GRADIENTS, gradients, strict=True))}
        for name, actual in results.items():
            assert (actual is not None) == (name in {"value", *wanted})
            if actual is not None:
                assert_no_worse_than_eager(actual, eager[name], truth[name], problem.degree, f"{what}: {name}", size)
                assert actual.dtype == (torch.float64 if name in {"value", "grad_coef"} else compute)
        assert (weight is None) == (problem.weight is None)
        if weight is not None:
            expected = problem.weight.double().sum(1).expand(problem.coef.shape[0])
            torch.testing.assert_close(weight, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_samples", SIZES)
def test_objective_at_the_edges_of_a_tile(n_samples, variant):
    check_objective(make_problem(n_samples, 3, **VARIANTS[variant]), variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 9])
def test_objective_of_all_degrees_and_dtypes(degree, dtype):
    check_objective(make_problem(301, degree, n_series=2, weight=True, upstream=True, domain=True, dtype=dtype), "")


@pytest.mark.parametrize("coef_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("n_series", [1, 3])
def test_narrow_operands_computed_in_float64_are_as_good_as_wide_ones(n_series, dtype, coef_dtype):
    # Bit for bit only on the same tile, which is as wide as what is loaded: it decides the order of additions.
    problem = make_problem(TILE + 5, 5, n_series=n_series, weight=True, upstream=True, domain=True, basis="chebyshev")
    problem = problem.to(dtype)
    wide = problem.to(torch.float64)
    coef = torch.randn(problem.coef.shape, dtype=torch.float64).to(coef_dtype)
    wants = {"want_x": True, "want_y": True, "want_weight": True}

    def run(problem, coef, **options):
        operands = (problem.x, problem.y, coef, problem.weight, problem.upstream)
        return objective(*operands, wide.mapping, "chebyshev", "huber", 0.5, **wants, **options)

    results, expected = run(problem, coef, compute=torch.float64), run(wide, coef.double())
    for result, truth in zip(results, expected, strict=True):
        assert result is not None
        assert truth is not None
        assert result.dtype == torch.float64
        torch.testing.assert_close(result, truth, rtol=1e-13, atol=1e-13 * float(truth.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, dtype):
    problem = make_problem(
        133, 3, n_series=2, weight=True, domain=True, basis="chebyshev", case=LOSSES[name], dtype=dtype
    )
    check_objective(problem, name)


@pytest.mark.parametrize("domain", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 6])
@pytest.mark.parametrize("basis", BASES)
def test_every_basis(basis, degree, domain):
    problem = make_problem(133, degree, n_series=2, domain=domain, basis=basis)
    check_objective(problem, basis)
    check_evaluate(problem, basis)


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_in_float64_is_numpys(basis):
    # The constants of a recurrence must not pass through float32 on their way into the kernel.
    degree = 20
    x, coef = torch.linspace(-1.5, 1.5, 65, dtype=torch.float64), torch.randn(degree + 1, dtype=torch.float64)
    numpy_class = NUMPY_CLASSES[basis]
    units = [numpy_class.basis(k, domain=numpy_class.window) for k in range(degree + 1)]
    terms = sum(abs(c) * np.abs(unit(x.numpy())) for c, unit in zip(coef.tolist(), units, strict=True))
    values = evaluate(x[None], coef[None], None, basis)[0]
    expected = sum(c * unit(x.numpy()) for c, unit in zip(coef.tolist(), units, strict=True))
    assert np.all(np.abs(values.numpy() - expected) <= 1e-14 * terms)
    grad_x, _ = evaluate_backward(
        torch.ones_like(x)[None], x[None], coef[None], None, basis, want_x=True, want_coef=False
    )
    assert grad_x is not None
    slope = numpy_class(coef.numpy(), domain=numpy_class.window).deriv()
    slope_terms = sum(abs(c) * np.abs(unit(x.numpy())) for c, unit in zip(slope.coef, units, strict=False))
    assert np.all(np.abs(grad_x[0].numpy() - slope(x.numpy())) <= 1e-13 * slope_terms)


@pytest.mark.parametrize("variant", ["one series", "domain", "own x", "shared x"])
@pytest.mark.parametrize("n_samples", SIZES)
def test_evaluate_and_its_backward_at_the_edges_of_a_tile(n_samples, variant):
    check_evaluate(make_problem(n_samples, 3, **VARIANTS[variant]), variant)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 9])
def test_evaluate_and_its_backward_of_all_degrees_and_dtypes(degree, dtype):
    check_evaluate(make_problem(301, degree, n_series=2, domain=True, dtype=dtype), "")


def check_evaluate(problem, what: str, *, alone: bool = True) -> None:
    wide, narrow = problem.to(torch.float64), narrow_eager(problem)
    values = evaluate(problem.x, problem.coef, problem.mapping, problem.basis)
    assert values.dtype == problem.x.dtype
    assert_no_worse_than_eager(values, narrow.values(), wide.values(), problem.degree, f"{what}: values")
    grad = torch.randn(problem.coef.shape[0], problem.x.shape[1]).to(problem.x.dtype)
    truth, eager = wide.pull_back(grad), narrow.pull_back(grad)
    for wants in ((True, True), (True, False), (False, True))[: 3 if alone else 1]:
        results = evaluate_backward(
            grad, problem.x, problem.coef, problem.mapping, problem.basis, want_x=wants[0], want_coef=wants[1]
        )
        for name, want, actual in zip(("grad_x", "grad_coef"), wants, results, strict=True):
            assert (actual is not None) == want
            if actual is not None:
                assert_no_worse_than_eager(actual, eager[name], truth[name], problem.degree, f"{what}: {name}")


@pytest.mark.parametrize("n_samples", [1, 129, TILE + 1])
def test_any_strides(n_samples):
    def every_other(tensor):
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1).flatten(-2)[..., ::2]

    def transposed(tensor):
        return tensor.mT.contiguous().mT

    def expanded(tensor):
        return tensor[:, :1].expand_as(tensor)

    dense = make_problem(n_samples, 4, n_series=3, shared_x=False, weight=True, domain=True)
    for first, second in ((every_other, expanded), (transposed, every_other), (expanded, transposed)):
        strided = type(dense)(
            first(dense.x), second(dense.y), transposed(dense.coef), first(dense.weight), None, dense.domain
        )
        check_objective(strided, f"{first.__name__}, {second.__name__}")
        check_evaluate(strided, f"{first.__name__}, {second.__name__}")


def test_shared_gradients_are_added_up_some_series_at_a_time(set_policy):
    set_policy(shared_buffer=2 * 200)
    problem = make_problem(200, 3, n_series=5, shared_y=True, weight=True, upstream=True)
    check_objective(problem, "parts of two series")
    check_evaluate(problem, "parts of two series")


@pytest.fixture
def few_programs(set_policy):
    """Two programs a series, which several tiles are left to."""
    set_policy(programs_per_processor=1)


@pytest.mark.usefixtures("few_programs")
def test_a_program_takes_several_tiles():
    problem = make_problem(9 * TILE + 5, 2, weight=True)
    assert launch.choose(9 * TILE + 5, 1, 4, 2, policy=launch.current()).programs == 2
    check_objective(problem, "two programs")
    check_evaluate(problem, "two programs")


def everything(problem) -> list[Tensor]:
    operands = (problem.x, problem.y, problem.coef, problem.weight, problem.upstream, problem.mapping, problem.basis)
    wants = {"want_coef": True, "want_x": True, "want_y": True, "want_weight": problem.weight is not None}
    grad = problem.y.expand(problem.coef.shape[0], -1)
    backward = evaluate_backward(
        grad, problem.x, problem.coef, problem.mapping, problem.basis, want_x=True, want_coef=True
    )
    results = objective(*operands, *problem.case.loss.kernel, **wants)
    return [result for result in (*results, *backward) if result is not None]


@pytest.mark.parametrize(("n_series", "degree"), [(1, 0), (1, 20), (3, 5)])
def test_the_last_program_of_each_series_adds_up_and_puts_the_tickets_back(n_series, degree):
    problem = make_problem(3 * TILE + 7, degree, n_series=n_series, shared_x=False, weight=True, basis="chebyshev")
    assert launch.choose(3 * TILE + 7, n_series, 4, 2).programs > 1
    check_objective(problem, "several programs")
    check_evaluate(problem, "several programs")
    first = everything(problem)
    assert all(not tickets.any() for tickets in partials._tickets.values())
    for again, before in zip(everything(problem), first, strict=True):
        assert torch.equal(again, before)


def test_more_programs_than_are_read_at_once(set_policy):
    # 40 programs of 8 sums, in loads of 32: 4 programs a load, 16 a round, and half of the last round is masked.
    set_policy(programs_per_processor=20, rows=32)
    problem = make_problem(39 * 128 + 3, 5)
    assert launch.choose(39 * 128 + 3, 1, 4, 2, policy=launch.current()).programs == 40
    value, _, grad_coef, *_ = objective(problem.x, problem.y, problem.coef, None, None, None, "power", "mse", 0.0)
    assert grad_coef is not None
    truth, eager = problem.to(torch.float64).objective(), problem.objective()
    for name, actual in (("value", value), ("grad_coef", grad_coef)):
        assert_no_worse_than_eager(actual, eager[name], truth[name], problem.degree, name)


SHORT_VARIANTS = [name for name in VARIANTS if VARIANTS[name].get("n_series", 1) > 1]


def check_short_series(problem, what: str) -> None:
    n_series, n_samples = problem.coef.shape[0], problem.x.shape[1]
    config = launch.choose(n_samples, n_series, problem.x.dtype.itemsize, 2, policy=launch.current())
    assert config.series > 1
    check_objective(problem, what, alone=False)
    check_evaluate(problem, what, alone=False)


@pytest.mark.usefixtures("small_programs")
@pytest.mark.parametrize("variant", SHORT_VARIANTS)
@pytest.mark.parametrize(("n_samples", "n_series"), SHORT_SERIES)
def test_a_program_takes_several_short_series(n_samples, n_series, variant):
    check_short_series(make_problem(n_samples, 2, **(VARIANTS[variant] | {"n_series": n_series})), variant)


@pytest.mark.usefixtures("small_programs")
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_series_of_all_dtypes(dtype):
    check_short_series(
        make_problem(64, 2, n_series=17, shared_x=False, weight=True, upstream=True, domain=True, dtype=dtype), ""
    )


@pytest.mark.usefixtures("small_programs")
@pytest.mark.parametrize("basis", BASES)
def test_short_series_of_all_bases(basis):
    check_short_series(make_problem(37, 11, n_series=17, shared_x=False, domain=True, basis=basis), basis)


@pytest.mark.usefixtures("small_programs")
def test_outputs_of_short_series_each_alone():
    problem = make_problem(37, 1, n_series=17, shared_x=False, weight=True, upstream=True)
    check_objective(problem, "each alone")
    check_evaluate(problem, "each alone")


@pytest.mark.usefixtures("small_programs")
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of numpy, in which the interpreter computes
def test_samples_of_weight_zero_are_left_out_of_short_series():
    problem = make_problem(37, 2, n_series=17, shared_x=False, weight=True)
    x, y, weight = problem.x, problem.y, problem.weight
    assert weight is not None
    is_out = torch.zeros(17, 37, dtype=torch.bool)
    is_out[::2, 3] = is_out[1::2, 36] = True
    weight[is_out] = 0.0

    def run():
        operands: Any = (x, y, problem.coef, weight, None, None, "power", "mse", 0.0)
        return objective(*operands, want_x=True, want_y=True, want_weight=True)

    *expected, grad_weight = run()
    assert grad_weight is not None
    x[::2, 3], y[1::2, 36] = float("nan"), float("inf")
    # In the gradient to the weights, a loss that is not finite counts as 0.
    for ours, clean in zip(run(), (*expected, torch.where(is_out, 0.0, grad_weight)), strict=True):
        assert ours is not None
        assert clean is not None
        assert clean.isfinite().all()
        assert torch.equal(ours, clean)


def test_more_short_series_than_a_launch_takes(set_policy):
    # The launches have 16, 16 and 8 series. The last one is too small to fill the device: a program for each series.
    set_policy(widening_rows=32, largest_grid=16)
    problem = make_problem(64, 2, n_series=40, shared_x=False, weight=True, upstream=True)
    assert [launch.choose(64, n, 4, 2, policy=launch.current()).series for n in (16, 8)] == [4, 1]
    check_short_series(problem, "three launches")


@pytest.mark.parametrize("n_samples", [4 * TILE - 1, 4 * TILE, 9 * TILE + 7])
@pytest.mark.parametrize("variant", ["one series", "weight"])
def test_a_thread_loads_several_groups_at_once(set_policy, variant, n_samples):
    set_policy(loads=(4, 4))
    check_objective(make_problem(n_samples, 3, **VARIANTS[variant]), "four loads", alone=False)


@pytest.mark.parametrize("degree", [11, 15, 20])
@pytest.mark.parametrize("n_samples", [2 * TILE - 1, 5 * TILE + 3])
def test_two_loads_and_powers_in_blocks_above_degree_10(n_samples, degree):
    check_objective(make_problem(n_samples, degree, weight=True), "blocks of powers", alone=False)


@pytest.mark.parametrize("degree", [0, 1, 4, 20])
@pytest.mark.parametrize("block", [2, 4])
def test_powers_in_blocks(set_policy, block, degree):
    set_policy(power_block=(block, block))
    check_objective(make_problem(301, degree, weight=True), "blocks of powers", alone=False)


def test_tickets_grow_with_the_number_of_series(monkeypatch):
    monkeypatch.setattr(partials, "_tickets", {})
    device = torch.device("cpu")
    few = partials.tickets(device, 3)
    assert partials.tickets(device, 2) is few
    many = partials.tickets(device, 5)
    assert many.numel() >= 5
    assert not many.any()
    assert partials.tickets(device, 3) is many
    assert partials.allocate(device, 5, 1, 7) == (None, None)


@pytest.mark.parametrize("n_series", [0, 5])
def test_series_that_no_single_grid_holds(set_policy, n_series):
    set_policy(largest_grid=2)
    problem = make_problem(130, 3, n_series=n_series, weight=True, upstream=True, shared_x=n_series == 0)
    assert launch.series_per_launch(5, 130, 4, shared=False, policy=launch.current()) == 2
    check_objective(problem, "launches of two series")
    check_evaluate(problem, "launches of two series")


def test_the_gradient_to_weights_of_zero_is_the_loss():
    problem = make_problem(133, 3)
    loss = (problem.values() - problem.y) ** 2
    *_, grad_weight = objective(
        problem.x, problem.y, problem.coef, torch.zeros(1, 133), None, None, "power", "mse", 0.0, want_weight=True
    )
    torch.testing.assert_close(grad_weight, loss, rtol=1e-5, atol=1e-6)


def test_public_operations_through_the_kernels():
    x, y = torch.randn(2, 301, requires_grad=True), torch.randn(301, requires_grad=True)
    coef = torch.randn(2, 4, requires_grad=True)
    results = []
    for impl in ("triton", "torch"):
        loss = polyfit.polynomial_loss(x, y, coef, per_series=True, domain=(-3, 3), impl=impl)
        values = polyfit.polyval(x, coef, domain=(-3, 3), impl=impl)
        upstream = torch.tensor([1.0, -0.5])
        results.append((loss, values, *torch.autograd.grad((loss, values.sum(-1)), (x, y, coef), (upstream, upstream))))
    for kernel, onepass in zip(*results, strict=True):
        torch.testing.assert_close(kernel, onepass, rtol=1e-5, atol=1e-5)


def test_training_through_the_kernels():
    x = torch.linspace(-1, 1, 100)
    runs = [
        polyfit.train(x, x.sin(), torch.zeros(3), optimizer=polyfit.optimizers.SGD(0.2), epochs=20, impl=impl)
        for impl in ("triton", "torch")
    ]
    torch.testing.assert_close(runs[0].coef, runs[1].coef, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(runs[0].losses.values, runs[1].losses.values, rtol=1e-5, atol=1e-9)


def test_a_nan_among_the_data_is_not_lost():
    problem = make_problem(TILE + 1, 2)
    problem.y[0, TILE] = float("nan")
    value, _, _, _, _, grad_weight = objective(
        problem.x, problem.y, problem.coef, torch.ones(1, TILE + 1), None, None, "power", "mse", 0.0, want_weight=True
    )
    assert value.isnan().all()
    assert grad_weight is not None
    assert grad_weight.isnan().nonzero().tolist() == [[0, TILE]]


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "smooth_l1", "log_cosh", "quantile", "cauchy"])
def test_a_nan_residual_is_nan_in_the_slope(loss):
    problem = make_problem(TILE + 1, 2)
    problem.y[0, TILE] = float("nan")
    value, _, grad_coef, _, grad_y, _ = objective(
        problem.x, problem.y, problem.coef, None, None, None, "power", loss, 0.5, want_y=True
    )
    assert value.isnan().all()
    assert grad_coef is not None
    assert grad_coef.isnan().all()
    assert grad_y is not None
    assert grad_y.isnan().nonzero().tolist() == [[0, TILE]]


def negated(operand: Tensor) -> Tensor:
    """The same numbers as a view that torch negates lazily."""
    view = torch.complex(operand, -operand).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("name", ["x", "y", "coef", "weight", "upstream"])
def test_views_that_are_negated_lazily(name):
    problem = make_problem(40, 3, n_series=2, shared_x=False, weight=True, upstream=True)
    operands = {key: getattr(problem, key) for key in ("x", "y", "coef", "weight", "upstream")}
    wants = {"want_x": True, "want_y": True, "want_weight": True}
    launch_objective: Any = objective
    expected = launch_objective(*operands.values(), None, "power", "mse", 0.0, **wants)
    operands[name] = negated(operands[name])
    for ours, theirs in zip(
        launch_objective(*operands.values(), None, "power", "mse", 0.0, **wants), expected, strict=True
    ):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_values_of_views_that_are_negated_lazily():
    problem = make_problem(40, 3, n_series=2, shared_x=False)
    operands = (torch.randn(2, 40), problem.x, problem.coef)
    views = [negated(operand) for operand in operands]
    launch_values: Any = evaluate
    launch_backward: Any = evaluate_backward
    assert torch.equal(launch_values(*views[1:], None, "power"), launch_values(*operands[1:], None, "power"))
    wants = {"want_x": True, "want_coef": True}
    found = launch_backward(*views, None, "power", **wants)
    for ours, theirs in zip(found, launch_backward(*operands, None, "power", **wants), strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


PARAMETERS_BEYOND_FLOAT32 = [
    *(polyfit.losses.Cauchy(scale) for scale in (1e20, 1e-40, 1e-60, 1e60, 3.0)),
    polyfit.losses.SmoothL1(1e-60),
    polyfit.losses.Huber(1e60),
]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of numpy, in which the interpreter computes
@pytest.mark.parametrize("loss", PARAMETERS_BEYOND_FLOAT32, ids=str)
def test_parameters_beyond_float32(loss):
    y = torch.tensor([0.0, 1e-20, -1e-7, 0.3, -1.0, 5e4, 1e9])
    coef = torch.zeros(1, requires_grad=True)
    losses = polyfit.polynomial_loss(y, y, coef, loss=loss, impl="triton", reduction="sum")
    losses.backward()
    wide = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    truth = loss.value(wide, y.double()).sum()
    truth.backward()
    torch.testing.assert_close(losses.double(), truth, rtol=2e-6, atol=1e-37)
    assert coef.grad is not None
    torch.testing.assert_close(coef.grad.double(), wide.grad, rtol=2e-6, atol=1e-37)
