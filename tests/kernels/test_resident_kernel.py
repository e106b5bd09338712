"""The launcher `resident` by Triton's interpreter: many epochs of it against a loop of torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from cases import LOSSES
from oracle import NUMPY_CLASSES, polynomial_loss
from problems import Problem, make_problem
from torch import Tensor
from training_oracle import (
    F64,
    RULES,
    Left,
    Results,
    assert_as_near_as_eager,
    assert_cuts_change_nothing,
    assert_same_bits,
    eager,
    left_by,
    record_epochs,
)

pytest.importorskip("triton")
from polyfit.optimizers import SGD, Adam, Exponential, Rule, constant_row, table
from polyfit_kernels import launch, resident, rules

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("poison")]

launch_resident: Callable[..., None] = resident.resident
SERIES = {
    "one series": {},
    "weight": {"weight": True},
    "own x": {"n_series": 3, "shared_x": False},
    "own x and weight": {"n_series": 3, "shared_x": False, "weight": True},
    "shared x": {"n_series": 3},
    "shared x and weight": {"n_series": 3, "weight": True},
    "shared x and y": {"n_series": 2, "shared_y": True},
    "own x, shared y": {"n_series": 2, "shared_x": False, "shared_y": True},
}


def in_nan(tensor: Tensor) -> Tensor:
    """The same numbers with NaN before, behind and between the rows."""
    around = tensor.new_full((tensor.shape[0] + 2, tensor.shape[1] + 6), torch.nan)
    around[1:-1, 3:-3] = tensor
    return around[1:-1, 3:-3]


def run(
    problem: Problem,
    rule: Rule,
    stop: int,
    *,
    first: int = 0,
    last: Sequence[int] | None = None,
    every: int = 1,
    lr_scale: Sequence[float] | None = None,
    scale: float | None = None,
    start: Left | None = None,
    want_path: bool = True,
    layout: Callable[[Tensor], Tensor] = in_nan,
    one_row: bool = False,
) -> Left:
    """Launch epochs `first` to `stop`; what lies around and between operands and results is NaN, and stays so."""
    compute = F64 if problem.x.dtype == F64 else torch.float32
    n_series = len(problem.coef)
    name, constants = rule.kernel
    n_records = len(record_epochs(first, stop, every))
    results = Results(n_records, problem.coef, rules.STATES[name], compute, start)
    operands = [None if part is None else layout(part) for part in (problem.x, problem.y, problem.weight)]
    before = [None if part is None else part.clone() for part in operands]
    rows = constant_row(rule) if one_row else table(rule, first, stop)
    assert rows is not None
    launch_resident(
        *operands, results.coef, results.state, problem.mapping, problem.basis, *problem.case.loss.kernel, name,
        constants, torch.from_numpy(rows),
        None if lr_scale is None else torch.tensor(lr_scale, dtype=F64), mean(problem) if scale is None else scale,
        first, torch.tensor(last or [stop] * n_series), every, *results.records(want_path),
    )  # fmt: skip
    for part, kept in zip(operands, before, strict=True):
        torch.testing.assert_close(part, kept, rtol=0, atol=0, equal_nan=True)
    left = results.left()
    if not want_path:
        assert left.path.isnan().all()
    return left


def mean(problem: Problem) -> float:
    return 1.0 / max(problem.x.shape[1], 1)


def losses_of(problem: Problem, scale: float) -> Callable[[Tensor], Tensor]:
    options = {"domain": problem.domain, "basis": problem.basis, "pointwise": problem.case.oracle}
    return lambda coef: (
        scale * polynomial_loss(problem.x, problem.y, coef, problem.weight, "sum", per_series=True, **options)
    )


def check(
    problem: Problem,
    rule: str = "momentum",
    epochs: int = 4,
    *,
    every: int = 1,
    last: Sequence[int] | None = None,
    lr_scale: Sequence[float] | None = None,
    scale: float | None = None,
    **options: Any,
) -> None:
    """A launch of all epochs against torch in float64, and in the dtype that computes."""
    made, optimizer = RULES[rule]
    factor = mean(problem) if scale is None else scale
    truth, plain = (
        left_by(
            eager(losses_of(problem.to(dtype), factor), problem.coef.to(dtype), optimizer, epochs, lr_scale),
            0, last or [epochs] * len(problem.coef), every,
        )
        for dtype in (F64, F64 if problem.x.dtype == F64 else torch.float32)
    )  # fmt: skip
    found = run(problem, made, epochs, every=every, last=last, lr_scale=lr_scale, scale=factor, **options)
    assert_as_near_as_eager(found, plain, truth, problem.degree)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_torchs(rule, dtype):
    problem = make_problem(40, 3, n_series=2, weight=True, domain=True, basis="chebyshev", dtype=dtype)
    check(problem, rule, 10, every=3, last=[10, 7], lr_scale=[1.0, 0.6])


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, dtype):
    check(make_problem(37, 2, weight=True, case=LOSSES[loss], dtype=dtype))


@pytest.mark.parametrize("domain", [False, True])
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_every_basis(basis, domain):
    check(make_problem(37, 4, domain=domain, basis=basis, dtype=F64), "Adam")
    check(make_problem(37, 4, domain=domain, basis=basis), "Adam")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 10, 20])
def test_all_degrees_and_dtypes(degree, dtype):
    check(make_problem(33, degree, weight=True, domain=True, dtype=dtype), "RMSprop, all", 3, every=2)


@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("n_samples", [0, 1, 31, 32, 33, 127, 128, 129, 256, 257, 511, 2048, 2049])
def test_edges_of_a_tile(n_samples, weight):
    check(make_problem(n_samples, 1, weight=weight, dtype=F64), "nesterov, decay", 3, every=2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_longest_series_that_a_program_holds(weighted, dtype):
    n_samples = launch.largest_resident(1, 8 if dtype == F64 else 4, weighted=weighted)
    for size in (n_samples, n_samples - 1):
        check(make_problem(size, 1, weight=weighted, dtype=dtype), "plain", 2)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("series", SERIES)
def test_operands_that_series_share_and_that_they_own(series, dtype):
    problem = make_problem(45, 2, domain=True, dtype=dtype, **SERIES[series])
    check(problem, lr_scale=[1.0, 0.3, 0.7][: len(problem.coef)], scale=0.02)


@pytest.mark.parametrize("weight_rows", [1, 3])
def test_weights_may_be_shared_where_x_is_not(weight_rows):
    problem = make_problem(45, 2, n_series=3, shared_x=weight_rows == 3, dtype=F64)
    check(replace(problem, weight=torch.rand(weight_rows, 45, dtype=F64) + 0.5))


@pytest.mark.parametrize("n_samples", [1, 33, 300])
def test_any_strides(n_samples):
    def every_other(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1).flatten(-2)[..., ::2]

    def transposed(tensor: Tensor) -> Tensor:
        return tensor.mT.contiguous().mT

    def backwards(tensor: Tensor) -> Tensor:
        return in_nan(tensor.mT).mT

    problem = make_problem(n_samples, 2, n_series=3, shared_x=False, weight=True, dtype=F64)
    for layout in (every_other, transposed, backwards):
        check(problem, epochs=2, layout=layout)
    same = problem.x[:, :1].expand_as(problem.x)
    check(replace(problem, x=same, weight=same.abs()), epochs=2, layout=lambda tensor: tensor)


@pytest.mark.parametrize("every", [1, 2, 4, 7, 9])
def test_records_lie_at_multiples(every):
    check(make_problem(20, 1, n_series=2, dtype=F64), "Adam", 8, every=every)


@pytest.mark.parametrize("every", [1, 3, 5])
def test_series_end_where_they_are_told_to(every):
    problem = make_problem(20, 1, n_series=7, dtype=F64)
    check(problem, "Adam", 7, every=every, last=[7, 6, 5, 4, 3, 1, 0])


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("rule", ["dampening, decay", "Adam, all", "RMSprop, all"])
def test_a_run_goes_on_bit_for_bit_wherever_it_was_cut(rule, every):
    problem = make_problem(40, 2, n_series=2, weight=True)
    made = RULES[rule][0]
    launch_part = partial(run, problem, made, every=every, lr_scale=[1.0, 0.5])
    assert_cuts_change_nothing(launch_part, [11, 8])


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_series_that_diverges_disturbs_no_other(dtype):
    problem = make_problem(40, 2, n_series=3, dtype=dtype)
    alone = run(problem, SGD(0.1), 12, every=2)
    beside = run(problem, SGD(0.1), 12, every=2, lr_scale=[1.0, 1e30 if dtype == torch.float32 else 1e150, 1.0])
    assert not beside.coef[1].isfinite().any()
    assert not beside.losses[-1, 1].isfinite()
    others = [0, 2]
    for name in ("losses", "norms", "path"):
        assert torch.equal(getattr(alone, name)[:, others], getattr(beside, name)[:, others])
    assert torch.equal(alone.coef[others], beside.coef[others])


@pytest.mark.parametrize("operand", ["x", "y", "weight"])
def test_a_nan_among_the_data_is_not_lost(operand):
    problem = make_problem(40, 2, n_series=2, shared_x=False, weight=True, dtype=F64)
    clean = run(problem, SGD(0.1), 2)
    getattr(problem, operand)[1, 39] = torch.nan
    left = run(problem, SGD(0.1), 2)
    assert left.losses[:, 1].isnan().all()
    assert left.coef[1].isnan().all()
    assert torch.equal(left.losses[:, 0], clean.losses[:, 0])
    assert torch.equal(left.coef[0], clean.coef[0])


@pytest.mark.parametrize("first", [0, 4, 5])
def test_no_epochs_change_nothing(first):
    problem = make_problem(20, 2, n_series=2)
    nothing = torch.empty(0)
    start = Left(nothing, nothing, nothing, torch.randn(2, 3), torch.rand(2, 2, 3))
    left = run(problem, Adam(0.1), first, first=first, every=4, start=start)
    ended = run(problem, Adam(0.1), first + 5, first=first, every=4, start=start, last=[0, first])
    for found in (left, ended):
        assert torch.equal(found.coef, start.coef)
        assert torch.equal(found.state, start.state)
        assert found.losses.isnan().all()
        assert found.norms.isnan().all()


def test_rates_of_a_schedule_are_those_of_their_epochs():
    problem = make_problem(20, 1, n_series=2, dtype=F64)
    truth = eager(
        losses_of(problem, 0.05), problem.coef, lambda p: torch.optim.SGD(p, lr=0.3), 9, [1.0, 0.5],
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8),
    )  # fmt: skip
    options: dict[str, Any] = {"every": 2, "lr_scale": [1.0, 0.5], "scale": 0.05}
    first = run(problem, SGD(Exponential(0.3, 0.8)), 5, **options)
    left = run(problem, SGD(Exponential(0.3, 0.8)), 9, first=5, start=first, **options)
    expected = left_by(truth, 5, [9, 9], 2)
    assert_as_near_as_eager(left, expected, expected, 1)


@pytest.mark.parametrize("rule", ["plain, decay", "momentum", "nesterov, decay", "RMSprop, all"])
def test_one_row_for_all_updates_gives_the_bits_of_a_table(rule):
    problem = make_problem(40, 2, n_series=2, weight=True)
    launch_all = partial(run, problem, RULES[rule][0], every=4, lr_scale=[1.0, 0.5])
    assert_same_bits(launch_all(11, last=[11, 8], one_row=True), launch_all(11, last=[11, 8]))
    assert_cuts_change_nothing(partial(launch_all, one_row=True), [11, 8])


def test_a_path_is_written_only_where_it_is_wanted():
    problem = make_problem(20, 1, n_series=2, dtype=F64)
    with_path, without = (run(problem, Adam(0.1), 6, every=2, want_path=want) for want in (True, False))
    for name in ("losses", "norms", "coef", "state"):
        assert torch.equal(getattr(with_path, name), getattr(without, name))


@pytest.mark.parametrize("n_series", [0, 5])
def test_series_that_no_single_grid_holds(set_policy, n_series):
    problem = make_problem(20, 1, n_series=n_series, shared_x=False, dtype=F64)
    options: dict[str, Any] = {"every": 2, "last": [5, 4, 3, 2, 5][:n_series], "lr_scale": [1.0, 0.9, 0.8, 0.7, 0.6]}
    options["lr_scale"] = options["lr_scale"][:n_series]
    at_once = run(problem, Adam(0.1), 5, **options)
    set_policy(largest_grid=2)
    for ours, expected in zip(run(problem, Adam(0.1), 5, **options), at_once, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def test_samples_that_are_masked_lie_outside_of_a_far_domain():
    # At x = 0, which the mask leaves, t is -1e5 and T_8 overflows.
    problem = make_problem(33, 8, basis="chebyshev")
    x = 1e5 + torch.round(problem.x * 64) / 64
    check(replace(problem, x=x, domain=(1e5 - 1.5, 1e5 + 1.5)), epochs=2)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of numpy, in which the interpreter computes
@pytest.mark.parametrize("loss", ["mse", "log_cosh", "poisson_nll rate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_samples_of_weight_zero_are_left_out(value, loss):
    problem = make_problem(70, 3, n_series=2, shared_x=False, weight=True, case=LOSSES[loss])
    assert problem.weight is not None
    is_out = torch.zeros(70, dtype=torch.bool)
    is_out[[3, 4, 64, 69]] = True
    problem.weight[:, is_out] = 0.0
    problem.x[:, [3, 64]] = problem.y[:, [4, 69]] = value
    clean = replace(problem, x=problem.x[:, ~is_out], y=problem.y[:, ~is_out], weight=problem.weight[:, ~is_out])
    rule = SGD(1e-3)
    found = run(problem, rule, 3, scale=1.0 / 70)
    expected = run(clean, rule, 3, scale=1.0 / 70)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.coef, expected.coef, rtol=1e-5, atol=1e-6)


def test_views_that_are_negated_lazily():
    problem = make_problem(70, 3, n_series=2, shared_x=False, weight=True)
    rule = SGD(1e-3)
    found = run(problem, rule, 3, layout=lambda operand: torch.complex(operand, -operand).conj().imag)
    expected = run(problem, rule, 3, layout=lambda operand: operand)
    assert torch.equal(found.coef, expected.coef)
    assert torch.equal(found.losses, expected.losses)
