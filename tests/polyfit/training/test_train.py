"""Training against eager loops with torch.optim, and the largest stable rate against numpy."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import exact
import numpy as np
import pytest
import torch
from cases import LOSSES
from oracle import polynomial_loss as plain_loss

import polyfit
from polyfit.optimizers import SGD, Adam, AdamW, Cosine, RMSprop
from polyfit.training import EarlyStopping, Reason, max_stable_lr

F64 = torch.float64


def eager_path(x, y, start, make, epochs, scheduler=None, **options):
    """Coefficients and losses before each update and after the last one, by autograd and torch.optim."""
    coef = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([coef], lr=make) if isinstance(make, float) else make([coef])
    schedule = None if scheduler is None else scheduler(optimizer)
    path = []
    for _ in range(epochs + 1):
        optimizer.zero_grad()
        loss = plain_loss(x, y, coef, **options)
        path.append((loss.item(), coef.detach().clone()))
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return path


ENGINES = ["closed_form", "moments", "stepwise"]
ALL_ENGINES = {
    "closed_form": ("closed_form", "auto"),
    "moments": ("moments", "auto"),
    "moments in C++": ("moments", "compile"),
    "stepwise": ("stepwise", "auto"),
}
EVERY_ENGINE = [*ENGINES, pytest.param("moments in C++", marks=pytest.mark.compiler)]


PROBLEMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "mean": ((200,), (4,), {"reduction": "mean"}),
    "sum": ((200,), (4,), {"reduction": "sum"}),
    "weighted mean": ((200,), (4,), {"reduction": "mean", "weight": True}),
    "weighted sum, domain": ((200,), (4,), {"reduction": "sum", "weight": True, "domain": (-2.0, 4.0)}),
    "batch, own x": ((3, 50), (3, 4), {"reduction": "mean"}),
    "batch, shared weight": ((3, 50), (3, 4), {"reduction": "mean", "weight": (50,)}),
    "one coef, x of two axes": ((3, 50), (4,), {"reduction": "mean"}),
    "constant": ((50,), (1,), {"reduction": "mean"}),
}


@pytest.mark.parametrize("several_chunks", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_path_is_that_of_torch_optim(problem, engine, several_chunks, request):
    if several_chunks:
        request.getfixturevalue("small_chunks")
    x_shape, coef_shape, options = PROBLEMS[problem]
    options = dict(options)
    x = torch.rand(x_shape, dtype=F64) * 2 - 1
    y = torch.sin(3 * x)
    if "weight" in options:
        options["weight"] = torch.rand(x_shape if options["weight"] is True else options["weight"], dtype=F64) + 0.1
    start = torch.randn(coef_shape, dtype=F64)
    lr = 0.05 if options["reduction"] == "mean" else 0.0005
    path = eager_path(x, y, start, lr, 60, **options)
    result = polyfit.train(
        x, y, start, optimizer=SGD(lr), epochs=60, record_every=7, keep_path=True, engine=engine, **options
    )
    assert result.losses.epochs.tolist() == [*range(0, 60, 7), 60]
    assert result.path is not None
    for epoch, coef, value in zip(*map(list, (result.losses.epochs, result.path, result.losses.values)), strict=True):
        expected_loss, expected_coef = path[int(epoch)]
        assert float(value) == pytest.approx(expected_loss, rel=1e-12)
        torch.testing.assert_close(coef, expected_coef, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.coef, path[60][1], rtol=1e-12, atol=1e-12)
    assert result.loss == result.losses.values[-1].item()
    assert (result.epochs, result.engine) == (60, engine)


RULES = {
    "momentum": (SGD(0.02, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9)),
    "dampening, decay": (
        SGD(0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
    ),
    "decay": (SGD(0.05, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
    "nesterov": (
        SGD(0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "Adam": (Adam(0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "AdamW": (AdamW(0.01), lambda p: torch.optim.AdamW(p, lr=0.01)),
    "RMSprop": (
        RMSprop(0.001, momentum=0.5, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.5, centered=True),
    ),
}


@functools.cache
def path_of_rule(name, series):
    """x, y and start, and the path of torch's optimizer: one for all engines."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*series, 150, dtype=F64, generator=generator) * 2 - 1
    y, start = torch.exp(x), torch.randn(*series, 4, dtype=F64, generator=generator)
    return x, y, start, eager_path(x, y, start, RULES[name][1], 500)


@pytest.mark.parametrize("series", [(), (3,)])
@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_on_every_engine_is_torchs(name, engine, series):
    rule = RULES[name][0]
    engine, impl = ALL_ENGINES[engine]
    x, y, start, path = path_of_rule(name, series)
    if engine == "closed_form" and not isinstance(rule, SGD):
        with pytest.raises(ValueError, match="does not apply: it needs the squared loss, SGD at"):
            polyfit.training.explain(x, y, start, optimizer=rule, engine=engine)
        return
    result = polyfit.train(
        x, y, start, optimizer=rule, epochs=500, record_every=50, engine=engine, impl=impl, keep_path=True,
    )  # fmt: skip
    assert result.path is not None
    for epoch, loss, coef in zip(result.losses.epochs.tolist(), result.losses.values, result.path, strict=True):
        assert float(loss) == pytest.approx(path[epoch][0], rel=1e-9)
        torch.testing.assert_close(coef, path[epoch][1], rtol=1e-9, atol=1e-12)
    assert torch.equal(result.coef, result.path[-1])


@pytest.mark.parametrize("loss", ["huber", "log_cosh", "cauchy"])
def test_other_losses_step_by_step(loss):
    x = torch.linspace(-1, 1, 100, dtype=F64)
    y, start = torch.sin(3 * x), torch.randn(4, dtype=F64, generator=torch.Generator().manual_seed(0))
    path = eager_path(x, y, start, lambda p: torch.optim.Adam(p, lr=0.01), 200, pointwise=LOSSES[loss].oracle)
    result = polyfit.train(x, y, start, optimizer=Adam(0.01), epochs=200, loss=loss)
    assert result.engine == "stepwise"
    torch.testing.assert_close(result.coef, path[200][1], rtol=1e-10, atol=1e-12)
    assert (result.optimum, result.max_stable_lr, result.slowest_share) == (None, None, None)
    with pytest.raises(ValueError, match="does not apply: it needs the squared loss"):
        polyfit.train(x, y, start, optimizer=Adam(0.01), epochs=2, loss=loss, engine="moments")


@pytest.mark.parametrize("engine", ["moments", "stepwise"])
def test_a_schedule_runs_within_the_loop(engine):
    x = torch.linspace(-1, 1, 100, dtype=F64)
    y, start = torch.sin(3 * x), torch.randn(4, dtype=F64, generator=torch.Generator().manual_seed(0))
    scheduler = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=300)  # noqa: E731
    path = eager_path(x, y, start, lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.5), 300, scheduler)
    rule = SGD(Cosine(0.3, epochs=300), momentum=0.5)
    result = polyfit.train(x, y, start, optimizer=rule, epochs=300, engine=engine)
    torch.testing.assert_close(result.coef, path[300][1], rtol=1e-9, atol=1e-12)
    assert polyfit.training.explain(x, y, start, optimizer=rule).engine == "moments"
    assert result.max_stable_lr is None


def test_the_tutorials_run_in_closed_form_is_that_of_the_eager_loop():
    # Epochs and rates of very different speeds of descent: the slowest direction moves by 1e-7 an epoch.
    x = torch.linspace(-np.pi, np.pi, 2000, dtype=F64)
    y, start = torch.sin(x), torch.randn(6, dtype=F64, generator=torch.Generator().manual_seed(0))
    rows = np.vander(x.numpy(), 6, increasing=True)
    coef, lr = start.numpy().copy(), 0.55e-7
    losses = []
    for epoch in range(20_001):
        left = rows @ coef - y.numpy()
        if epoch % 2000 == 0:
            losses.append(left @ left)
        if epoch < 20_000:
            coef -= lr * 2.0 * (rows.T @ left)
    for engine in ("closed_form", "moments"):
        result = polyfit.train(
            x, y, start, optimizer=SGD(lr), epochs=20_000, reduction="sum", record_every=2000, engine=engine
        )
        np.testing.assert_allclose(result.losses.values.numpy(), losses, rtol=1e-9)
        np.testing.assert_allclose(result.coef.numpy(), coef, rtol=1e-9)


def test_the_loss_keeps_its_digits_on_the_way_down():
    # It falls by 20 orders of magnitude, of which a difference of sums would show 16.
    x = torch.linspace(-1, 1, 40, dtype=F64)
    y = 2.0 - x + 0.5 * x**2
    result = polyfit.train(x, y, torch.zeros(3, dtype=F64), optimizer=SGD(0.7), epochs=400, record_every=10)
    path = eager_path(x, y, torch.zeros(3, dtype=F64), 0.7, 400)
    for epoch, value in zip(result.losses.epochs.tolist(), result.losses.values.tolist(), strict=True):
        # Eager code rounds residuals of y of size 3: what that leaves is relative to the root of the loss.
        rounding = 8 * 2.0**-52
        assert value == pytest.approx(path[epoch][0], rel=1e-9, abs=rounding * math.sqrt(value) + rounding**2)
    assert result.loss < 1e-25


@pytest.mark.parametrize("rule", [SGD(0.05), SGD(0.05, momentum=0.9), SGD(0.05, momentum=0.9, nesterov=True)])
def test_what_is_said_of_the_run_is_true(rule):
    x = torch.rand(200, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.exp(x)
    start = torch.zeros(3, dtype=F64)
    result = polyfit.train(x, y, start, optimizer=rule, epochs=3000)
    rows = np.vander(x.numpy(), 3, increasing=True)
    best = exact.fit(x, y, 2)
    assert result.optimum is not None
    np.testing.assert_allclose(result.optimum.numpy(), [float(value) for value in best.coef], rtol=1e-12)
    assert result.optimal_loss == pytest.approx(float(best.rss) / 200, rel=1e-12)
    # The largest stable rate: just below it the run is bounded, just above it grows.
    largest = result.max_stable_lr
    assert largest is not None
    plain = 2.0 / np.linalg.eigvalsh(2.0 * rows.T @ rows / 200)[-1]
    if not rule.nesterov:
        assert largest == pytest.approx(plain * (1.0 + rule.momentum), rel=1e-9)
    for share, grows in ((0.999, False), (1.001, True)):
        other = replace(rule, lr=share * largest)
        run = polyfit.train(x, y, start, optimizer=other, epochs=20_000, check_stability=False)
        assert (not run.loss < 100.0) == grows
        if grows:
            with pytest.raises(ValueError, match="must diverge on these data: the largest stable rate is"):
                polyfit.train(x, y, start, optimizer=other, epochs=20_000)
    # Along the slowest direction the error shrinks by the rate that is told.
    halfway = polyfit.train(x, y, start, optimizer=rule, epochs=1500)
    left, half = (float((r.coef - result.optimum).norm()) for r in (result, halfway))
    assert result.slowest_rate is not None
    if left > 1e-12:
        assert (left / half) ** (1 / 1500) == pytest.approx(result.slowest_rate, rel=1e-3)
    epochs = result.epochs_to(0.01)
    assert epochs is not None
    assert result.slowest_rate**epochs <= 0.01 < result.slowest_rate ** (epochs - 1)
    assert result.slowest_share == result.slowest_rate**3000


@pytest.mark.parametrize("epochs", [500, 1000])
@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_a_run_that_leaves_the_finite_numbers_says_at_which_epoch(engine, epochs):
    name, impl = ALL_ENGINES[engine]
    x = torch.linspace(-1, 1, 50, dtype=F64)
    y, start = torch.exp(x), torch.zeros(3, dtype=F64)
    run = lambda **o: polyfit.train(  # noqa: E731
        x, y, start, optimizer=SGD(1.4), epochs=epochs, engine=name, impl=impl, check_stability=False, **o
    )
    # 300: the record that shows it is the last, or one on the way.
    result = run(record_every=300)
    every = run(record_every=1, early_stopping=EarlyStopping(loss=-math.inf))
    assert result.reason == every.reason == Reason.DIVERGED
    assert result.epochs == every.epochs == int(result.updates) == int(result.losses.epochs[-1])
    assert 300 < result.epochs < 500
    assert not math.isfinite(result.loss)
    before = polyfit.train(
        x, y, start, optimizer=SGD(1.4), epochs=result.epochs - 1, engine=name, impl=impl, check_stability=False
    )
    assert math.isfinite(before.loss)
    assert before.reason == Reason.EPOCHS


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("epochs", [500, 1000])
@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_records_of_a_run_that_diverges_end_with_its_coefficients(engine, epochs):
    name, impl = ALL_ENGINES[engine]
    x = torch.linspace(-1, 1, 50, dtype=F64)
    seen: list[tuple[int, float, torch.Tensor]] = []
    monitor = lambda epoch, loss, coef: seen.append((epoch, loss, coef))  # noqa: E731
    result = polyfit.train(
        x, torch.exp(x), torch.zeros(3, dtype=F64), optimizer=SGD(1.4), epochs=epochs, engine=name, impl=impl,
        check_stability=False, record_every=300, keep_path=True, monitor=monitor,
        early_stopping=EarlyStopping(gradient_norm=0.0),
    )  # fmt: skip
    assert result.path is not None
    assert result.losses.epochs.tolist() == [0, 300, result.epochs]
    torch.testing.assert_close(result.path[-1], result.coef, rtol=0, atol=0, equal_nan=True)
    assert not math.isfinite(result.loss)
    # Monitors may skip records on the way; the last one is that of the result.
    epoch, loss, coef = seen[-1]
    assert (epoch, seen[0][0]) == (result.epochs, 0)
    assert not math.isfinite(loss)
    torch.testing.assert_close(coef, result.coef, rtol=0, atol=0, equal_nan=True)
    assert all(math.isfinite(before) for _, before, _ in seen[:-1])


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_the_path_of_a_series_that_diverged_ends_with_its_coefficients(engine):
    name, impl = ALL_ENGINES[engine]
    x = torch.linspace(-1, 1, 50, dtype=F64)
    result = polyfit.train(
        x, torch.exp(x), torch.zeros(2, 3, dtype=F64), optimizer=SGD(1.4), epochs=800, engine=name, impl=impl,
        check_stability=False, record_every=200, keep_path=True, per_series=True, lr_scale=[0.1, 1.0],
    )  # fmt: skip
    assert result.reasons.tolist() == [Reason.EPOCHS, Reason.DIVERGED]
    assert result.losses.epochs.tolist() == [0, 200, 400, 600, 800]
    assert result.path is not None
    for record, epoch in enumerate(result.losses.epochs.tolist()):
        is_over = epoch >= int(result.updates[1])
        assert torch.equal(result.path[record][1], result.coef[1]) == is_over
        assert bool(result.losses.values[record, 1].isfinite()) != is_over
    assert torch.equal(result.path[-1], result.coef)


def test_a_result_prints_itself_in_a_line():
    x = torch.linspace(-1, 1, 50, dtype=F64)
    result = polyfit.train(x, x, torch.zeros(2, dtype=F64), optimizer=SGD(0.5), epochs=300)
    assert str(result.reason) == f"{result.reason}" == "EPOCHS"
    assert str(result) == repr(result)
    assert str(result).startswith("Training(engine='closed_form', epochs=300, ended by EPOCHS, loss ")
    assert str(result).endswith("coef (2,) float64)")
    many = polyfit.train(
        x, x, torch.zeros(3, 2), optimizer=Adam(0.5), epochs=3, per_series=True, loss="huber",
        early_stopping=EarlyStopping(loss=1e9),
    )  # fmt: skip
    assert str(many).startswith("Training(engine='stepwise', epochs=0, ended by LOSS 3, loss ")
    assert len(str(many)) < 120


@pytest.mark.parametrize("optimizer", ["sgd", None, SGD, 0.1, torch.optim.SGD])
def test_explain_refuses_what_is_no_rule(optimizer):
    x = torch.linspace(-1, 1, 50)
    with pytest.raises(TypeError, match=r"optimizer is .*; pass a rule, say polyfit\.optimizers\.SGD\(lr=1e-3\)"):
        polyfit.training.explain(x, x, torch.zeros(2), optimizer=optimizer)


def test_the_optimum_is_that_of_the_loss_without_weight_decay():
    x = torch.linspace(-1, 1, 50, dtype=F64)
    y = 1.0 + 2.0 * x
    result = polyfit.train(x, y, torch.zeros(2, dtype=F64), optimizer=SGD(0.1, weight_decay=1.0), epochs=2000)
    assert result.optimum is not None
    np.testing.assert_allclose(result.optimum.numpy(), [1.0, 2.0], rtol=1e-13)
    curvatures = np.array([2.0, 2.0 * float((x**2).mean())])  # of the mean squared error
    np.testing.assert_allclose(result.coef.numpy(), curvatures / (curvatures + 1.0) * [1.0, 2.0], rtol=1e-12)


def test_shares_that_are_none_are_refused():
    x = torch.linspace(-1, 1, 50, dtype=F64)
    result = polyfit.train(x, x, torch.zeros(2, dtype=F64), optimizer=SGD(0.1), epochs=3)
    with pytest.raises(ValueError, match=r"share=1\.5 is not a share"):
        result.epochs_to(1.5)


@functools.cache
def ends_of_float32():
    """x, y, start, rate and epochs of a run in float32, and where eager loops in float64 and float32 end."""
    x = torch.linspace(-np.pi, np.pi, 500)
    y, start = torch.sin(x), torch.randn(6, generator=torch.Generator().manual_seed(0))
    lr, epochs = 0.9 * max_stable_lr(x, 5), 2000
    truth = eager_path(x.double(), y.double(), start.double(), lr, epochs)[-1][1]
    return x, y, start, lr, epochs, truth, eager_path(x, y, start, lr, epochs)[-1][1]


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_is_as_near_to_the_truth_as_an_eager_loop(engine):
    x, y, start, lr, epochs, truth, eager = ends_of_float32()
    ours = polyfit.train(x, y, start, optimizer=SGD(lr), epochs=epochs, engine=engine).coef
    assert ours.dtype == torch.float32
    assert (ours - truth).abs().max() <= 2 * (eager - truth).abs().max() + 1e-6


def test_nothing_of_the_callers_is_changed_and_nothing_is_tracked():
    x, y = torch.randn(20), torch.randn(20)
    coef = torch.randn(3, requires_grad=True)
    before = coef.detach().clone()
    result = polyfit.train(x, y, coef, optimizer=SGD(0.01), epochs=3)
    assert torch.equal(coef.detach(), before)
    assert coef.grad is None
    assert not result.coef.requires_grad
    assert result.coef.data_ptr() != coef.data_ptr()


def test_no_epochs_gives_the_start_and_its_loss():
    x, y, coef = torch.randn(20, dtype=F64), torch.randn(20, dtype=F64), torch.randn(3, dtype=F64)
    result = polyfit.train(x, y, coef, optimizer=SGD(0.01), epochs=0)
    assert torch.equal(result.coef, coef)
    assert result.losses.epochs.tolist() == [0]
    assert result.loss == pytest.approx(plain_loss(x, y, coef).item(), rel=1e-14)


def test_monitor_sees_a_copy():
    def spoil(epoch, loss, coef):
        coef.fill_(float("nan"))

    x = torch.randn(20)
    result = polyfit.train(x, x, torch.zeros(2), optimizer=SGD(0.1), epochs=5, record_every=1, monitor=spoil)
    assert result.coef.isfinite().all()


def test_autocast_does_not_reach_the_training():
    x = torch.randn(100)
    outside = polyfit.train(x, x, torch.zeros(3), optimizer=SGD(0.1), epochs=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = polyfit.train(x, x, torch.zeros(3), optimizer=SGD(0.1), epochs=20)
    assert torch.equal(inside.coef, outside.coef)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_largest_stable_rate_is_two_over_the_curvature(reduction, weighted):
    x = torch.rand(300, dtype=F64) * 6 - 2
    weight = torch.rand(300, dtype=F64) if weighted else None
    powers = np.vander((x.numpy() - 1.0) / 3.0, 5, increasing=True)
    weights = np.ones(300) if weight is None else weight.numpy()
    hessian = 2 * powers.T @ (weights[:, None] * powers) / (weights.sum() if reduction == "mean" else 1.0)
    ours = max_stable_lr(x, 4, weight=weight, reduction=reduction, domain=(-2.0, 4.0))
    assert ours == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1], rel=1e-10)


def test_just_below_the_largest_stable_rate_converges_and_above_diverges():
    x = torch.linspace(-1, 1, 50, dtype=F64)
    y, start = torch.exp(x), torch.randn(4, dtype=F64)
    largest = max_stable_lr(x, 3)
    below, above = (
        polyfit.train(x, y, start, optimizer=SGD(share * largest), epochs=4000, check_stability=False).losses.values
        for share in (0.99, 1.01)
    )
    assert below[-1] < below[0]
    assert above[-1] > 1e6 * above[0]


GOOD: dict[str, Any] = {
    "x": torch.zeros(5),
    "y": torch.zeros(5),
    "coef": torch.zeros(3),
    "optimizer": SGD(0.1),
    "epochs": 1,
}
BAD = [
    ({"optimizer": 0.1}, TypeError, r"pass a rule, say polyfit.optimizers.SGD"),
    ({"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)}, TypeError, "pass a rule"),
    ({"epochs": 1.5}, TypeError, "epochs=1.5 is float"),
    ({"epochs": True}, TypeError, "epochs=True is bool"),
    ({"epochs": -1}, ValueError, "epochs=-1 is too small"),
    ({"record_every": 0}, ValueError, "record_every=0 is too small"),
    ({"engine": "fast"}, ValueError, "engine='fast' is unknown; pass one of 'auto', 'closed_form', 'moments'"),
    ({"reduction": "none"}, ValueError, "pass 'mean' or 'sum'"),
    ({"x": torch.zeros(4)}, ValueError, "last axis is samples"),
    ({"x": torch.zeros(5, dtype=torch.complex64)}, TypeError, r"torch.complex64, .*; pass x\.real"),
    ({"x": ["a"] * 5}, TypeError, "x is list of <U1, which does not hold real numbers"),
    ({"epochs": 2**63}, ValueError, "epochs=9223372036854775808 is too large; pass at most 9007199254740992"),
    ({"epochs": 10**12}, ValueError, "are 1e\\+10 records, 80 GB; pass record_every=932, or more"),
    ({"x": torch.zeros(0), "y": torch.zeros(0)}, ValueError, "no samples"),
    ({"x": torch.zeros(2, 5), "coef": torch.zeros(1, 3)}, ValueError, r"pass coef.expand\(\(2, 3\)\)"),
]


@pytest.mark.parametrize(("change", "error", "match"), BAD, ids=[str(list(case[0])) for case in BAD])
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        polyfit.train(**{**GOOD, **change})


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_rates_are_named(lr):
    with pytest.raises(ValueError, match="pass a positive finite number"):
        SGD(lr)


def test_a_rate_that_is_no_number_is_named():
    with pytest.raises(TypeError, match="is not a number"):
        SGD("0.1")  # pyright: ignore[reportArgumentType]
