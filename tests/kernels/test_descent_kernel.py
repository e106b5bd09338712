"""The launcher `descent` by Triton's interpreter: epochs on quadratics against a loop of torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import exact
import pytest
import torch
from oracle import NUMPY_CLASSES, polynomial_loss
from torch import Tensor
from training_oracle import (
    F64,
    RULES,
    Left,
    Results,
    Run,
    assert_as_near_as_eager,
    assert_cuts_change_nothing,
    assert_same_bits,
    eager,
    left_by,
    record_epochs,
)

pytest.importorskip("triton")
from polyfit import functional
from polyfit.optimizers import SGD, Adam, Exponential, RMSprop, Rule, constant_row, table
from polyfit.training import quadratic
from polyfit_kernels import descent, launch, rules

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("poison")]

launch_descent: Callable[..., None] = descent.descent


class Quadratics(NamedTuple):
    """What `descent` takes of S quadratics, and coefficients to start from."""

    hessian: Tensor
    reference: Tensor
    gradient: Tensor
    center_loss: Tensor
    to_internal: Tensor
    internal_hessian: Tensor
    offset: Tensor
    internal_gradient: Tensor
    start: Tensor

    def losses(self, coef: Tensor) -> Tensor:
        """By the plain formula."""
        w = (self.to_internal @ (coef - self.reference).unsqueeze(-1)).squeeze(-1) + self.offset
        curved = 0.5 * torch.einsum("sj,sjk,sk->s", w, self.internal_hessian, w)
        return self.center_loss + (self.internal_gradient * w).sum(1) + curved


def made(n_series: int, degree: int, *, shared: bool = True) -> Quadratics:
    """Random quadratics whose Hessians have eigenvalues up to about 2, away from their minima."""
    size = degree + 1
    n_internal = 1 if shared else n_series
    to_internal = torch.eye(size, dtype=F64) + 0.3 * torch.randn(n_internal, size, size, dtype=F64) / size**0.5
    roots = torch.randn(n_series, size, size, dtype=F64) / size**0.5
    internal_hessian = 0.3 * (roots @ roots.mT + 0.1 * torch.eye(size, dtype=F64))
    numbers = partial(torch.randn, dtype=F64)
    offset, internal_gradient = numbers(n_series, size), numbers(n_series, size)
    gradient = torch.einsum("sjk,sk->sj", internal_hessian, offset) + internal_gradient
    gradient = (to_internal.mT @ gradient.unsqueeze(-1)).squeeze(-1)
    return Quadratics(
        to_internal.mT @ internal_hessian @ to_internal, numbers(n_series, size), gradient, numbers(n_series),
        to_internal, internal_hessian, offset, internal_gradient, numbers(n_series, size),
    )  # fmt: skip


def run(
    given: Quadratics,
    rule: Rule,
    stop: int,
    *,
    first: int = 0,
    last: Sequence[int] | None = None,
    every: int = 1,
    lr_scale: Sequence[float] | None = None,
    start: Left | None = None,
    want_path: bool = True,
    one_row: bool = False,
) -> Left:
    """Launch epochs `first` to `stop`; what lies around operands and results is NaN, and stays so."""
    n_series = len(given.start)
    name, constants = rule.kernel
    n_records = len(record_epochs(first, stop, every))
    results = Results(n_records, given.start, rules.STATES[name], F64, start)
    operands = [in_nan(part) for part in given[:-1]]
    scales = None if lr_scale is None else in_nan(torch.tensor(lr_scale, dtype=F64))
    rows = constant_row(rule) if one_row else table(rule, first, stop)
    assert rows is not None
    launch_descent(
        *operands, results.coef, results.state, name, constants, torch.from_numpy(rows), scales,
        first, torch.tensor(last or [stop] * n_series), every, *results.records(want_path),
    )  # fmt: skip
    for part, kept in zip(operands, given, strict=False):
        torch.testing.assert_close(part, kept, rtol=0, atol=0, equal_nan=True)
    left = results.left()
    if not want_path:
        assert left.path.isnan().all()
    return left


def in_nan(tensor: Tensor) -> Tensor:
    """The same numbers with NaN before and behind."""
    around = tensor.new_full((tensor.shape[0] + 2, *tensor.shape[1:]), torch.nan)
    around[1:-1] = tensor
    return around[1:-1]


def check(
    given: Quadratics,
    rule: str = "Adam",
    epochs: int = 8,
    *,
    every: int = 1,
    last: Sequence[int] | None = None,
    lr_scale: Sequence[float] | None = None,
    losses: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """A launch of all epochs against torch."""
    polyfits, optimizer = RULES[rule]
    truth = eager(losses or given.losses, given.start, optimizer, epochs, lr_scale)
    expected = left_by(truth, 0, last or [epochs] * len(given.start), every)
    found = run(given, polyfits, epochs, every=every, last=last, lr_scale=lr_scale)
    assert_as_near_as_eager(found, expected, expected, given.start.shape[1] - 1)


def of_data(
    x: Tensor, y: Tensor, weight: Tensor | None, start: Tensor, basis: str, domain: tuple[float, float] | None
) -> Quadratics:
    """The mean squared errors as `polyfit.train` hands them over."""
    problem = functional.canonical_problem(
        x, y, start, loss="mse", weight=weight, reduction="sum", per_series=True, basis=basis, domain=domain,
        impl="torch",
    )  # fmt: skip
    given = quadratic.make_quadratic(problem, 1.0 / x.shape[-1])
    return Quadratics(*given.tensors(torch.device("cpu")), start=start)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_torchs(rule):
    check(made(3, 3), rule, 25, every=4, last=[25, 17, 20], lr_scale=[1.0, 0.6, 0.8])


@pytest.mark.parametrize("rule", ["momentum", "RMSprop, all"])
@pytest.mark.parametrize("degree", range(launch.LARGEST_DESCENT_DEGREE + 1))
def test_every_degree(degree, rule):
    check(made(2, degree), rule, every=3)


def test_series_with_internal_bases_of_their_own():
    check(made(35, 3, shared=False), "Adam, all", every=3)


@pytest.mark.parametrize("n_series", [1, 2, 3, 31, 32, 33, 64, 65])
def test_edges_of_a_block(n_series):
    last = [8 - i % 9 for i in range(n_series)]
    check(made(n_series, 2), "Adam, all", every=3, last=last, lr_scale=torch.rand(n_series, dtype=F64).tolist())


@pytest.mark.parametrize("series", ["own x", "shared x", "shared x and y", "weight", "own weight"])
def test_the_quadratic_of_data_is_their_squared_loss(series):
    x = torch.rand((3, 40) if series in {"own x", "own weight"} else (40,), dtype=F64) * 3 - 1.5
    y = torch.randn((40,) if series == "shared x and y" else (3, 40), dtype=F64)
    weight = torch.rand(x.shape, dtype=F64) + 0.5 if "weight" in series else None
    check_data(x, y, weight, torch.randn(3, 4, dtype=F64), "power", None)


@pytest.mark.parametrize("domain", [None, (-1.5, 2.0)])
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_every_basis(basis, domain):
    # To degree 3: a minimum far from zero, as that of nearly dependent terms is, costs the digits of its rounding.
    x = torch.rand(40, dtype=F64) * 3 - 1.5
    check_data(x, torch.sin(2 * x)[None], None, torch.randn(1, 4, dtype=F64), basis, domain)


def check_data(x, y, weight, start, basis, domain) -> None:
    options = {"reduction": "sum", "per_series": True, "basis": basis, "domain": domain}
    check(
        of_data(x, y, weight, start, basis, domain), every=2,
        losses=lambda coef: polynomial_loss(x, y, coef, weight, **options) / x.shape[-1],
    )  # fmt: skip


def test_the_loss_near_the_minimum_keeps_its_digits():
    # e.H e in the power basis on a range far from 0 would cancel.
    x = torch.linspace(10.0, 11.0, 50, dtype=F64)
    y = torch.sin(5 * x)
    given = of_data(x, y[None], None, torch.zeros(1, 4, dtype=F64), "power", None)
    best = torch.tensor([float(value) for value in exact.fit(x, y, 3).coef], dtype=F64)
    start = best + torch.linalg.solve(given.to_internal[0], 1e-3 * torch.randn(4, dtype=F64))
    left = run(of_data(x, y[None], None, start[None], "power", None), SGD(1e-9), 1)
    coef = [Fraction(value) for value in start.tolist()]
    residuals = [
        sum(c * Fraction(at) ** k for k, c in enumerate(coef)) - Fraction(value)
        for at, value in zip(x.tolist(), y.tolist(), strict=True)
    ]
    truth = sum(residual**2 for residual in residuals) / len(residuals)
    assert left.losses.item() == pytest.approx(float(truth), rel=1e-11)


@pytest.mark.parametrize("every", [1, 2, 4, 7, 9])
def test_records_lie_at_multiples(every):
    check(made(2, 1), every=every)


@pytest.mark.parametrize("every", [1, 3, 5])
@pytest.mark.parametrize("rule", ["dampening, decay", "Adam, all", "RMSprop, all"])
def test_a_run_goes_on_bit_for_bit_wherever_it_was_cut(rule, every):
    launch_part = partial(run, made(34, 2), RULES[rule][0], every=every, lr_scale=[1.0, 0.5] * 17)
    assert_cuts_change_nothing(launch_part, [11, 8] * 17)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_a_series_that_diverges_disturbs_no_other():
    given = made(33, 2)
    lr_scale = [1.0] * 33
    alone = run(given, SGD(0.1), 12, every=2, lr_scale=lr_scale)
    lr_scale[7] = lr_scale[32] = 1e150
    beside = run(given, SGD(0.1), 12, every=2, lr_scale=lr_scale)
    assert not beside.coef[[7, 32]].isfinite().any()
    assert not beside.losses[-1, [7, 32]].isfinite().any()
    others = [i for i in range(33) if i not in {7, 32}]
    for name in ("losses", "norms", "path"):
        assert torch.equal(getattr(alone, name)[:, others], getattr(beside, name)[:, others])
    assert torch.equal(alone.coef[others], beside.coef[others])


@pytest.mark.parametrize("first", [0, 4, 5])
def test_no_epochs_change_nothing(first):
    given = made(2, 2)
    nothing = torch.empty(0)
    start = Left(nothing, nothing, nothing, torch.randn(2, 3, dtype=F64), torch.rand(2, 2, 3, dtype=F64))
    left = run(given, Adam(0.1), first, first=first, every=4, start=start)
    ended = run(given, Adam(0.1), first + 5, first=first, every=4, start=start, last=[0, first])
    for found in (left, ended):
        assert torch.equal(found.coef, start.coef)
        assert torch.equal(found.state, start.state)
        assert found.losses.isnan().all()
        assert found.norms.isnan().all()


def test_rates_of_a_schedule_are_those_of_their_epochs():
    given = made(2, 1)
    truth: Run = eager(
        given.losses, given.start, lambda p: torch.optim.SGD(p, lr=0.3), 9, [1.0, 0.5],
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8),
    )  # fmt: skip
    options: dict[str, Any] = {"every": 2, "lr_scale": [1.0, 0.5]}
    first = run(given, SGD(Exponential(0.3, 0.8)), 5, **options)
    left = run(given, SGD(Exponential(0.3, 0.8)), 9, first=5, start=first, **options)
    expected = left_by(truth, 5, [9, 9], 2)
    assert_as_near_as_eager(left, expected, expected, 1)


CONSTANT = {
    "plain": SGD(0.05),
    "decay": SGD(0.05, weight_decay=0.1),
    "momentum": SGD(0.05, momentum=0.9),
    "nesterov": SGD(0.05, momentum=0.9, nesterov=True),
    "RMSprop": RMSprop(0.02, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("n_series", [1, 3])
@pytest.mark.parametrize("rule", CONSTANT)
def test_one_row_for_all_updates_gives_the_bits_of_a_table(rule, n_series):
    given = made(n_series, 3)
    last = [11, 8, 11][:n_series]
    for every in (1, 4, 50):
        whole, one_row = (run(given, CONSTANT[rule], 11, every=every, last=last, one_row=one) for one in (False, True))
        assert_same_bits(one_row, whole)
    assert_cuts_change_nothing(partial(run, given, CONSTANT[rule], every=4, one_row=True), last)


def test_a_path_is_written_only_where_it_is_wanted():
    given = made(2, 1)
    with_path, without = (run(given, Adam(0.1), 6, every=2, want_path=want) for want in (True, False))
    for name in ("losses", "norms", "coef", "state"):
        assert torch.equal(getattr(with_path, name), getattr(without, name))
