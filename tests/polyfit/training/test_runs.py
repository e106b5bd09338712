"""What a run of `polyfit.train` can do besides descending: end early, go on, many series, batches, Ctrl-C."""

from __future__ import annotations

import functools
import math
import os
import pickle
import signal
from typing import Any

import numpy as np
import pytest
import torch
from cases import LOSSES
from oracle import polynomial_loss as plain_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import polyfit
from polyfit.optimizers import SGD, Adam, AdamW, Cosine, RMSprop
from polyfit.training import EarlyStopping, Losses, Reason, shuffled
from polyfit.training import run as runs
from polyfit.training.engines import launching, stepping

F64 = torch.float64
ENGINES: dict[str, dict[str, Any]] = {
    "closed_form": {"engine": "closed_form"},
    "moments": {"engine": "moments"},
    "moments in C++": {"engine": "moments", "impl": "compile"},
    "stepwise": {"engine": "stepwise"},
}
IN_STEPS = ["moments", "stepwise", pytest.param("moments in C++", marks=pytest.mark.compiler)]
EVERY_ENGINE = ["closed_form", *IN_STEPS]
MAKERS = {
    SGD: lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.5),
    Adam: lambda p, lr: torch.optim.Adam(p, lr=lr),
}


def data(*series: int, n: int = 80, dtype: torch.dtype = F64):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*series, n, dtype=F64, generator=generator) * 2 - 1
    noise = 0.1 * torch.randn(x.shape, dtype=F64, generator=generator)
    start = torch.randn(*series, 4, dtype=F64, generator=generator)
    return x.to(dtype), (torch.sin(3 * x) + noise).to(dtype), start.to(dtype)


def eager(x, y, start, make, epochs, **options):
    """Losses and coefficients after 0 .. epochs updates."""
    coef = start.clone().requires_grad_()
    optimizer = make([coef])
    path = []
    for _ in range(epochs + 1):
        optimizer.zero_grad()
        loss = plain_loss(x, y, coef, **options)
        loss.backward()
        path.append((loss.item(), coef.detach().clone(), coef.grad.norm().item()))
        optimizer.step()
    return path


# --- records ---


@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize("per_series", [False, True])
def test_records_that_are_taken_at_once_are_those_taken_one_by_one(engine, per_series):
    x, y, start = data(3)
    options: dict[str, Any] = {
        "optimizer": SGD(0.05, momentum=0.5), "epochs": 1500, "record_every": 7, "per_series": per_series,
    }  # fmt: skip
    options |= ENGINES[engine]
    at_once = polyfit.train(x, y, start, **options)
    # Both make an engine look at each record: a condition that is never met, and the path.
    looked_at: list[dict[str, Any]] = [{"early_stopping": EarlyStopping(loss=0.0)}, {"keep_path": True}]
    for one_by_one in looked_at:
        other = polyfit.train(x, y, start, **options, **one_by_one)
        assert torch.equal(at_once.losses.epochs, other.losses.epochs)
        assert torch.equal(at_once.losses.values, other.losses.values)
        assert torch.equal(at_once.coef, other.coef)


@pytest.mark.compiler
@pytest.mark.parametrize(("n_series", "n_launches"), [(1, 1), (50, 2)])
def test_how_long_the_first_launch_is(monkeypatch, n_series, n_launches):
    # 100000 epochs of one series; 2000 of each of 50, and then ten times as many.
    launches = []
    launch = launching.Launching._launch

    def recorded(self, state, stop, *rest):
        launches.append(stop - state.epoch)
        return launch(self, state, stop, *rest)

    monkeypatch.setattr(launching.Launching, "_launch", recorded)
    x, y, start = data(n_series)
    polyfit.train(x, y, start, optimizer=SGD(0.01), epochs=8000, **ENGINES["moments in C++"])
    assert len(launches) == n_launches
    assert launches[0] == 8000 if n_series == 1 else launches[0] == 2000


# --- early stopping ---


@functools.cache
def eager_sgd(lr, momentum, epochs):
    """The path of torch's SGD on `data()`: one for all engines."""
    return eager(*data(), lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum), epochs)


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_a_run_ends_where_it_is_told_to(engine):
    x, y, start = data()
    rule = SGD(0.1, momentum=0.5)
    path = eager_sgd(0.1, 0.5, 600)
    losses = [loss for loss, _, _ in path]
    level, norm = losses[130] * 1.000001, path[77][2] * 1.000001
    cases = {
        Reason.LOSS: (EarlyStopping(loss=level), next(t for t in range(0, 600, 5) if losses[t] <= level)),
        Reason.GRADIENT: (
            EarlyStopping(gradient_norm=norm),
            next(t for t in range(0, 600, 5) if path[t][2] <= norm),
        ),
    }
    for reason, (stopping, expected) in cases.items():
        result = polyfit.train(
            x, y, start, optimizer=rule, epochs=600, record_every=5, early_stopping=stopping, **ENGINES[engine]
        )
        assert (result.reason, result.epochs, int(result.updates)) == (reason, expected, expected)
        assert result.losses.epochs.tolist() == list(range(0, expected + 1, 5))
        torch.testing.assert_close(result.coef, path[expected][1], rtol=1e-9, atol=1e-12)
        assert result.loss == pytest.approx(losses[expected], rel=1e-9)


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_patience_counts_from_the_least_loss(engine):
    x, y, start = data()
    delta = 1e-4
    path = eager_sgd(0.05, 0.0, 2000)
    best, best_epoch, expected = math.inf, 0, None
    for t in range(0, 2000, 10):
        if path[t][0] < best - delta:
            best, best_epoch = path[t][0], t
        if t - best_epoch >= 50:
            expected = t
            break
    assert expected is not None
    result = polyfit.train(
        x, y, start, optimizer=SGD(0.05), epochs=2000, record_every=10,
        early_stopping=EarlyStopping(patience=50, min_delta=delta), **ENGINES[engine],
    )  # fmt: skip
    assert (result.reason, result.epochs) == (Reason.PATIENCE, expected)


def test_early_stopping_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"EarlyStopping\(\) never stops; pass loss="):
        EarlyStopping()
    with pytest.raises(ValueError, match="patience=0 is out of range; pass 1 or more"):
        EarlyStopping(patience=0)
    with pytest.raises(ValueError, match="gradient_norm=nan is out of range"):
        EarlyStopping(gradient_norm=math.nan)
    with pytest.raises(TypeError, match="loss='small' is not a number"):
        EarlyStopping(loss="small")  # pyright: ignore[reportArgumentType]
    x, y, start = data()
    with pytest.raises(TypeError, match=r"early_stopping is float; pass a polyfit\.training\.EarlyStopping"):
        polyfit.train(x, y, start, optimizer=SGD(0.1), epochs=2, early_stopping=0.1)  # pyright: ignore[reportArgumentType]


# --- many series ---


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_series_with_losses_of_their_own_are_runs_of_their_own(engine, reduction, weighted):
    x, y, start = data(2, 3)
    weight = torch.rand(x.shape, dtype=F64, generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else None
    scale = torch.tensor([[1.0, 0.5, 0.2], [0.7, 1.3, 0.1]], dtype=F64)
    lr = 0.05 if reduction == "mean" else 0.001
    level = 0.08 if reduction == "mean" else 6.0
    options: dict[str, Any] = {
        "early_stopping": EarlyStopping(loss=level),
        "epochs": 400,
        "record_every": 7,
        "reduction": reduction,
    }
    together = polyfit.train(
        x, y, start, optimizer=SGD(lr, momentum=0.5), per_series=True, lr_scale=scale, weight=weight, keep_path=True,
        **options, **ENGINES[engine],
    )  # fmt: skip
    assert together.path is not None
    assert together.losses.values.shape == (len(together.losses.epochs), 2, 3)
    assert len(set(together.updates.flatten().tolist())) > 2  # they do end at different epochs
    for i in np.ndindex(2, 3):
        alone = polyfit.train(
            x[i], y[i], start[i], optimizer=SGD(lr * float(scale[i]), momentum=0.5),
            weight=None if weight is None else weight[i], **options, engine="stepwise",
        )  # fmt: skip
        assert (int(together.updates[i]), int(together.reasons[i])) == (alone.epochs, int(alone.reason))
        torch.testing.assert_close(together.coef[i], alone.coef, rtol=1e-9, atol=1e-12)
        n = len(alone.losses.epochs)
        torch.testing.assert_close(together.losses.values[:n, *i], alone.losses.values, rtol=1e-9, atol=1e-14)
        # From then on its loss and its coefficients stay.
        assert (together.losses.values[n:, *i] == together.losses.values[n - 1, *i]).all()
        torch.testing.assert_close(together.path[-1][i], together.coef[i], rtol=1e-12, atol=1e-14)
        for name in ("optimal_loss", "max_stable_lr", "slowest_rate", "condition"):
            value = getattr(together, name)[i]
            assert float(value) == pytest.approx(getattr(alone, name), rel=1e-6)
        assert together.epochs_to(0.01)[i] == alone.epochs_to(0.01)
    assert together.epochs == int(together.updates.max())


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_one_series_diverges_and_the_others_go_on(engine):
    x, y, start = data(3)
    scale = torch.tensor([1.0, 30.0, 0.5], dtype=F64)
    options: dict[str, Any] = {"epochs": 900, "record_every": 200, "per_series": True, **ENGINES[engine]}
    result = polyfit.train(x, y, start, optimizer=SGD(0.1), lr_scale=scale, check_stability=False, **options)
    assert result.reasons.tolist() == [Reason.EPOCHS, Reason.DIVERGED, Reason.EPOCHS]
    alone = polyfit.train(
        x[1], y[1], start[1], optimizer=SGD(3.0), epochs=900, record_every=1, check_stability=False,
        early_stopping=EarlyStopping(loss=-math.inf), **ENGINES[engine],
    )  # fmt: skip
    # (Engines differ by an epoch at times: a sum overflows before a mean.)
    assert result.updates.tolist() == [900, alone.epochs, 900]
    for i in (0, 2):
        one = polyfit.train(x[i], y[i], start[i], optimizer=SGD(0.1 * float(scale[i])), epochs=900)
        torch.testing.assert_close(result.coef[i], one.coef, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="must diverge on these data for 1 of 3 series, number 1 most: the largest"):
        polyfit.train(x, y, start, optimizer=SGD(0.1), lr_scale=scale, **options)


# The same numbers in memory in another order: columns before rows, one row for all, every second element.
LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "expanded": lambda t: t[:1].expand_as(t),
    "every second": lambda t: torch.stack((t, torch.full_like(t, 1e3)), -1)[..., 0],
}


@pytest.mark.parametrize("rule", MAKERS)
@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operands_with_any_strides_train_alike(layout, engine, rule):
    if engine == "closed_form" and rule is Adam:
        return
    x, y, start = data(3)
    weight = torch.rand(x.shape, dtype=F64, generator=torch.Generator().manual_seed(1)) + 0.1
    x, y, weight, start = (LAYOUTS[layout](part) for part in (x, y, weight, start))
    scales = {
        "transposed": torch.tensor([1.0, 7.0, 0.5, 7.0, 0.25, 7.0], dtype=F64)[::2],
        "expanded": torch.tensor([0.5], dtype=F64).expand(3),
        "every second": torch.tensor(0.5, dtype=F64),
    }
    scale = scales[layout]
    assert not start.is_contiguous()
    made = SGD(0.05, momentum=0.5) if rule is SGD else Adam(0.05)
    options: dict[str, Any] = {"optimizer": made, "weight": weight, "lr_scale": scale, "per_series": True}
    result = polyfit.train(x, y, start, epochs=60, **options, **ENGINES[engine])
    for i in range(3):
        lr = 0.05 * float(scale.expand(3)[i])
        make = lambda p, lr=lr: MAKERS[rule](p, lr)  # noqa: E731
        loss, coef, _ = eager(x[i].clone(), y[i].clone(), start[i].clone(), make, 60, weight=weight[i])[-1]
        torch.testing.assert_close(result.coef[i], coef, rtol=1e-9, atol=1e-12)
        assert float(result.losses.values[-1, i]) == pytest.approx(loss, rel=1e-9)
    if engine != "closed_form":
        part = polyfit.train(x, y, start, epochs=25, **options, **ENGINES[engine])
        part = polyfit.train(x, y, start, epochs=60, resume=part.state_dict(), **options, **ENGINES[engine])
        assert torch.equal(part.coef, result.coef)


def test_rates_of_series_that_make_no_sense_are_refused():
    x, y, start = data(3)
    run = lambda scale: polyfit.train(x, y, start, optimizer=SGD(0.1), epochs=2, lr_scale=scale)  # noqa: E731
    with pytest.raises(ValueError, match=r"lr_scale has shape \(2,\) and the series are \(3,\)"):
        run(torch.ones(2))
    with pytest.raises(ValueError, match="not positive and finite"):
        run(torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(TypeError, match="lr_scale is list, which does not hold real numbers"):
        run(["1", None, 2.0])


# --- go on ---

RULES = {
    "momentum": SGD(0.05, momentum=0.9, nesterov=True),
    "scheduled": SGD(Cosine(0.1, epochs=3000), momentum=0.3),
    "Adam": Adam(0.01),
    "AdamW": AdamW(0.01),
    "RMSprop": RMSprop(0.001, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", IN_STEPS)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_was_cut_goes_on_bit_for_bit(rule, engine, dtype, tmp_path):
    x, y, start = data(2, dtype=dtype)
    options: dict[str, Any] = {
        "optimizer": RULES[rule], "record_every": 7, "per_series": True, "keep_path": True, **ENGINES[engine],
        "early_stopping": EarlyStopping(patience=70, min_delta=1e-7),
    }  # fmt: skip
    whole = polyfit.train(x, y, start, epochs=1100, **options)
    state, part = None, whole
    for epochs in (1, 7, 300, 1053, 1100):
        part = polyfit.train(x, y, start, epochs=epochs, resume=state, **options)
        torch.save(part.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(part.coef, whole.coef)
    assert all(map(torch.equal, part.losses, whole.losses))
    assert part.path is not None
    assert whole.path is not None
    assert torch.equal(part.path, whole.path)
    assert torch.equal(part.updates, whole.updates)
    assert torch.equal(part.reasons, whole.reasons)


def test_a_run_in_closed_form_goes_on_and_batches_do():
    x, y, start = data()
    both: list[dict[str, Any]] = [{"optimizer": SGD(0.1)}, {"optimizer": Adam(0.01), "batch_size": 33, "seed": 5}]
    for options in both:
        whole = polyfit.train(x, y, start, epochs=90, record_every=20, **options)
        part = polyfit.train(x, y, start, epochs=41, record_every=20, **options)
        part = polyfit.train(x, y, start, epochs=90, record_every=20, resume=part.state_dict(), **options)
        assert torch.equal(part.coef, whole.coef)
        assert all(map(torch.equal, part.losses, whole.losses))


def test_a_state_of_another_run_is_refused():
    x, y, start = data()
    state = polyfit.train(x, y, start, optimizer=Adam(0.01), epochs=50).state_dict()

    def run(**changed: Any) -> None:
        options: dict[str, Any] = {"optimizer": Adam(0.01), "epochs": 90, "resume": state, **changed}
        polyfit.train(x, y, start, **options)

    with pytest.raises(ValueError, match=r"a run with optimizer=Adam\(lr=0.01, .*, not Adam\(lr=0.02"):
        run(optimizer=Adam(0.02))
    with pytest.raises(ValueError, match="a run with record_every=100, not 10"):
        run(record_every=10)
    with pytest.raises(ValueError, match="of engine 'moments'; pass engine='moments'"):
        run(engine="stepwise")
    with pytest.raises(ValueError, match="of epoch 50, beyond epochs=20"):
        run(epochs=20)
    with pytest.raises(TypeError, match="resume is not the state of a run"):
        run(resume={})
    with pytest.raises(ValueError, match="begun without its path"):
        run(keep_path=True)


@pytest.mark.parametrize("engine", ["moments", "stepwise"])
def test_a_state_knows_the_rate_of_each_series(engine):
    x, y, start = data(3)
    options: dict[str, Any] = {"optimizer": Adam(0.01), "engine": engine, "per_series": True}
    scale = torch.tensor([1.0, 0.5, 0.25])
    state = polyfit.train(x, y, start, epochs=50, lr_scale=scale, **options).state_dict()
    # The same factors in another order have the same sum and the same sum of squares.
    for other in (scale.flip(0), scale[[1, 0, 2]], scale * 2, None):
        with pytest.raises(ValueError, match=r"a run with lr_scale=\[1, 0.5, 0.25\], not .*in the same order"):
            polyfit.train(x, y, start, epochs=90, lr_scale=other, resume=state, **options)
    whole = polyfit.train(x, y, start, epochs=90, lr_scale=scale, **options)
    part = polyfit.train(x, y, start, epochs=90, lr_scale=scale, resume=state, **options)
    assert torch.equal(part.coef, whole.coef)
    # A factor that serves all series is that of each.
    state = polyfit.train(x, y, start, epochs=50, lr_scale=torch.tensor(0.5), **options).state_dict()
    polyfit.train(x, y, start, epochs=60, lr_scale=torch.full((3,), 0.5), resume=state, **options)


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_a_state_of_other_data_is_refused(engine):
    x, y, start = data()
    weight = torch.ones_like(x)
    options: dict[str, Any] = {"optimizer": SGD(0.1), **ENGINES[engine]}
    state = polyfit.train(x, y, start, weight=weight, epochs=20, **options).state_dict()
    given: dict[str, Any] = {"x": x, "y": y, "coef": start, "weight": weight}
    polyfit.train(epochs=30, resume=state, **given, **options)
    for name, tensor in given.items():
        bumped = tensor.clone()
        bumped[3] = np.nextafter(float(bumped[3]), math.inf)  # the last bit of one number
        for other in (bumped, None) if name == "weight" else (bumped,):
            with pytest.raises(ValueError, match=f"a run with another {name}: its values differ; pass the {name} that"):
                polyfit.train(epochs=30, resume=state, **{**given, name: other}, **options)
    order = torch.arange(len(x)).flip(0)  # the same sums
    with pytest.raises(ValueError, match="a run with another x"):
        polyfit.train(x[order], y[order], start, weight=weight, epochs=30, resume=state, **options)
    with pytest.raises(ValueError, match=r"a run with x.shape=\(80,\), not \(79,\)"):
        polyfit.train(x[1:], y[1:], start, weight=weight[1:], epochs=30, resume=state, **options)


def test_data_in_float32_and_with_strides_have_one_checksum():
    x, y, start = data(3, dtype=torch.float32)
    options: dict[str, Any] = {"optimizer": Adam(0.01), "per_series": True}
    state = polyfit.train(x, y, start, epochs=20, **options).state_dict()
    x, y, start = (LAYOUTS["transposed"](part) for part in (x, y, start))
    polyfit.train(x, y, start, epochs=30, resume=state, **options)


def test_a_result_that_was_pickled_goes_on_and_holds_no_data():
    x, y, start = data(n=100_000)
    result = polyfit.train(x, y, start, optimizer=Adam(0.01), epochs=20)
    pickled = pickle.dumps(result)
    assert len(pickled) < 20_000
    state = pickle.loads(pickled).state_dict()
    further = polyfit.train(x, y, start, optimizer=Adam(0.01), epochs=30, resume=state)
    assert torch.equal(further.coef, polyfit.train(x, y, start, optimizer=Adam(0.01), epochs=30).coef)


class Halving:
    """A schedule of the user's, without a text of its own."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def rate(self, epoch: int) -> float:
        return self.lr * 0.5 ** (epoch // 100)


@pytest.mark.parametrize("engine", ["moments", "stepwise"])
def test_a_run_with_a_schedule_of_ones_own_goes_on(engine):
    x, y, start = data()
    run = functools.partial(polyfit.train, x, y, start, engine=engine)
    whole = run(optimizer=Adam(Halving(0.1)), epochs=300)
    state = run(optimizer=Adam(Halving(0.1)), epochs=150).state_dict()
    assert torch.equal(run(optimizer=Adam(Halving(0.1)), epochs=300, resume=state).coef, whole.coef)
    with pytest.raises(ValueError, match=r"whose rate at epoch 0 was 0\.1, not 0\.2; pass the schedule"):
        run(optimizer=Adam(Halving(0.2)), epochs=300, resume=state)
    with pytest.raises(ValueError, match="a run with optimizer=Adam"):
        run(optimizer=Adam(0.1), epochs=300, resume=state)


@pytest.mark.parametrize("engine", ["closed_form", "moments", "stepwise"])
def test_a_state_is_that_of_the_run_whatever_becomes_of_its_tensors(engine):
    x = torch.linspace(-1, 1, 50, dtype=F64)
    start, factors = torch.zeros(2, 3, dtype=F64), torch.tensor([0.5, 1.0], dtype=F64)
    y = torch.stack((x, x**2))
    options: dict[str, Any] = {"optimizer": SGD(0.1), "engine": engine}
    coef, scale = start.clone(), factors.clone()
    found = polyfit.train(x, y, coef, lr_scale=scale, epochs=10, **options)
    coef.copy_(found.coef)  # what a user does with a result
    scale.fill_(0.1)
    whole = polyfit.train(x, y, start, lr_scale=factors, epochs=20, **options)
    on = polyfit.train(x, y, start, lr_scale=factors, epochs=20, resume=found.state_dict(), **options)
    assert torch.equal(on.coef, whole.coef)

    found = polyfit.train(x, y, start, lr_scale=factors, epochs=10, **options)
    known = found.state_dict()
    later = polyfit.train(x, y, start, lr_scale=factors, epochs=10, **options)
    y.neg_()
    assert found.state_dict()["checksums"] == known["checksums"]
    for result in (later, pickle.loads(pickle.dumps(later))):
        with pytest.raises(
            RuntimeError, match=r"y was changed in place after the run.*call state_dict\(\) before that"
        ):
            result.state_dict()
        assert torch.equal(result.coef, found.coef)


@pytest.mark.parametrize("engine", ["closed_form", "moments", "stepwise"])
def test_a_state_that_was_changed_is_refused(engine):
    x, y, start = data()
    options: dict[str, Any] = {"optimizer": SGD(0.1, momentum=0.5), "epochs": 60, "engine": engine, "record_every": 10}
    state = polyfit.train(x, y, start, **{**options, "epochs": 30}, keep_path=True).state_dict()

    def refused(
        changed: dict[str, Any], kind: type[Exception] = ValueError, match: str = "the state is damaged"
    ) -> None:
        with pytest.raises(kind, match=match):
            polyfit.train(x, y, start, resume=changed, **options)

    for name in state:
        missing = {key: value for key, value in state.items() if key != name}
        if name in {"version", "engine", "supervisor"}:
            refused(missing, TypeError, "resume is not the state of a run")
        elif name != "lr_scale" and not (engine == "closed_form" and name in {"coef", "memory"}):
            refused(missing)
    for name in state["supervisor"]:
        if name != "path":
            records = {key: value for key, value in state["supervisor"].items() if key != name}
            refused({**state, "supervisor": records}, match=f"the state is damaged: '{name}' is missing")
        records = {**state["supervisor"], name: torch.zeros(7, 7)}
        refused({**state, "supervisor": records}, match=f"'{name}' is torch.float32 of shape")
    refused({**state, "version": 2}, match="the state is of version 2, and this polyfit reads version 3; begin the run")
    refused({**state, "epoch": -1})
    refused({**state, "rates": [(1, 2, 3)]})
    refused({**state, "lr_scale": 3.0})
    reasons = torch.tensor([99], dtype=torch.int8)
    refused({**state, "supervisor": {**state["supervisor"], "reasons": reasons}})
    if engine != "closed_form":
        refused({**state, "coef": state["coef"][:, 1:]}, match="'coef' is torch.float64 of shape")
        refused({**state, "memory": []}, match="'memory' has 0 tensors in place of 1")
        refused({**state, "memory": [None]}, match=r"'memory\[0\]' is missing")


# --- Ctrl-C ---


class CtrlC:
    """Presses it once, at the first record from an epoch on, or as the run ends."""

    every_record = True

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def __call__(self, epoch: int, loss: float, coef: torch.Tensor) -> None:
        if self.epoch is not None and epoch >= self.epoch:
            self.epoch = None
            os.kill(os.getpid(), signal.SIGINT)

    def end(self, losses: Losses, coef: torch.Tensor) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def sigint_is_heard():
    """Python's own handler of SIGINT, whatever the process began with: a shell that runs `make test &` ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_is_heard")
@pytest.mark.parametrize("engine", IN_STEPS)
def test_what_was_reached_is_returned_on_ctrl_c(engine):
    x, y, start = data()

    options: dict[str, Any] = {"optimizer": Adam(0.001), "record_every": 50, **ENGINES[engine]}
    result = polyfit.train(x, y, start, epochs=10**8, monitor=CtrlC(300), **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert result.reason == Reason.INTERRUPTED
    assert 300 <= result.epochs < 10**8
    assert int(result.losses.epochs[-1]) == result.epochs
    same = polyfit.train(x, y, start, epochs=result.epochs, **options)
    assert torch.equal(result.coef, same.coef)
    further = polyfit.train(x, y, start, epochs=result.epochs + 60, resume=result.state_dict(), **options)
    assert torch.equal(further.coef, polyfit.train(x, y, start, epochs=result.epochs + 60, **options).coef)


@pytest.mark.usefixtures("sigint_is_heard")
def test_ctrl_c_while_monitors_end_loses_nothing():
    x, y, start = data()
    options: dict[str, Any] = {"optimizer": Adam(0.001), "epochs": 100}
    result = polyfit.train(x, y, start, monitor=CtrlC(None), **options)
    assert result.reason == Reason.EPOCHS
    assert torch.equal(result.coef, polyfit.train(x, y, start, **options).coef)


# --- memory ---


class NewStorages(TorchDispatchMode):
    """Counts operations that give as many bytes as `least` or more where no operand of theirs lies."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.count = least, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        taken, given = (
            {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}
            for tree in ((args, kwargs), result)
        )
        is_large = any(
            leaf.untyped_storage().nbytes() >= self.least for leaf in tree_leaves(result) if torch.is_tensor(leaf)
        )
        self.count += is_large and not given <= taken
        return result


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_samples", [2000, 60_000])
@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "smooth_l1", "log_cosh", "quantile", "poisson_nll"])
def test_an_epoch_allocates_nothing_of_the_size_of_the_data(loss, n_samples, weighted):
    x, y, start = data(n=n_samples, dtype=torch.float32)
    weight = torch.rand(n_samples) if weighted else None
    counts = []
    for epochs in (5, 5, 50):  # the first run also gets the memory that the thread keeps for its passes
        with NewStorages(4 * n_samples) as new:
            polyfit.train(x, y.abs(), start, optimizer=Adam(0.01), epochs=epochs, loss=loss, weight=weight,
                          engine="stepwise", impl="torch")  # fmt: skip
        counts.append(new.count)
    assert counts[1] == counts[2] > 0


# --- a CUDA graph, with a stand-in for the graph ---


@pytest.mark.parametrize("rule", RULES)
def test_an_epoch_made_for_a_graph_is_the_same(rule, monkeypatch):
    # What is captured works on buffers of its own and reads rates and factors from memory, here as on a GPU.
    x, y, start = data(3)
    scale = np.array([[1.0], [0.5], [0.3]])
    options: dict[str, Any] = {
        "optimizer": RULES[rule], "epochs": 2100, "record_every": 1500, "loss": "huber", "engine": "stepwise",
        "per_series": True, "lr_scale": torch.from_numpy(scale).squeeze(1),
        "early_stopping": EarlyStopping(gradient_norm=0.02),
    }  # fmt: skip
    plain = polyfit.train(x, y, start, **options)

    def graphed(rule, measure, zeros, lr_scale=None):
        def on_tensors(coef, want_losses):
            losses, gradient = measure(coef.numpy(), want_losses)
            return losses, torch.from_numpy(gradient)

        return stepping.Graphed(rule, on_tensors, torch.from_numpy(zeros), torch.from_numpy(lr_scale))

    monkeypatch.setattr(stepping, "captured", lambda function: function)
    monkeypatch.setattr(runs, "Stepping", graphed)
    result = polyfit.train(x, y, start, **options)
    torch.testing.assert_close(result.coef, plain.coef, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(result.losses.values, plain.losses.values, rtol=1e-12, atol=1e-14)
    assert torch.equal(result.updates, plain.updates)


# --- batches ---


@pytest.mark.parametrize("series", [(), (3,)])
@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_are_those_of_a_loop(reduction, loss, series):
    x, y, start = data(*series, n=50)
    weight = torch.rand(50, dtype=F64, generator=torch.Generator().manual_seed(2)) + 0.1
    coef = start.clone().requires_grad_()
    schedule_epochs = 12
    optimizer = torch.optim.Adam([coef], lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=schedule_epochs)
    options: dict[str, Any] = {"pointwise": LOSSES[loss].oracle, "reduction": reduction}
    expected = [plain_loss(x, y, coef, weight=weight, **options).item()]
    for epoch in range(schedule_epochs):
        order = shuffled(50, 3, epoch)
        assert sorted(order.tolist()) == list(range(50))
        for cut in order.split(16):
            optimizer.zero_grad()
            plain_loss(x[..., cut], y[..., cut], coef, weight=weight[cut], **options).backward()
            optimizer.step()
        scheduler.step()
        expected.append(plain_loss(x, y, coef, weight=weight, **options).item())
    result = polyfit.train(
        x, y, start, optimizer=Adam(Cosine(0.02, epochs=schedule_epochs)), epochs=schedule_epochs, loss=loss,
        reduction=reduction, weight=weight, batch_size=16, seed=3, record_every=1,
    )  # fmt: skip
    assert result.engine == "stepwise"
    torch.testing.assert_close(result.coef, coef.detach(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result.losses.values.numpy(), expected, rtol=1e-10)


def test_batches_need_the_engine_that_takes_them():
    x, y, start = data()
    with pytest.raises(ValueError, match="engine='moments' does not apply: it needs the squared loss and no batches"):
        polyfit.train(x, y, start, optimizer=Adam(0.1), epochs=2, batch_size=8, engine="moments")
    assert not torch.equal(shuffled(50, 0, 0), shuffled(50, 0, 1))
    assert not torch.equal(shuffled(50, 0, 0), shuffled(50, 1, 0))
