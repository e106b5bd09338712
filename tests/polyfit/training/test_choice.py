"""Which engine is chosen: `explain` takes what `train` takes, and says what `train` does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import polynomial_loss as plain_loss

import polyfit
from polyfit.optimizers import SGD, Adam, Cosine
from polyfit.training import EarlyStopping, agreement, explain
from polyfit.training.quadratic import make_quadratic

F64 = torch.float64
RULES = {"sgd": SGD(0.01), "scheduled": SGD(Cosine(0.01, epochs=5)), "adam": Adam(0.01)}


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("loss", ["mse", "huber"])
@pytest.mark.parametrize("rule", RULES)
def test_explain_says_what_train_does(rule, loss, batch_size):
    x = torch.linspace(-1, 1, 20, dtype=F64)
    options: dict[str, Any] = {
        "optimizer": RULES[rule], "loss": loss, "batch_size": batch_size, "epochs": 3, "record_every": 1,
        "early_stopping": EarlyStopping(loss=0.0), "weight": torch.ones(20, dtype=F64), "reduction": "sum",
    }  # fmt: skip
    start = torch.zeros(3, dtype=F64)
    choice = explain(x, x, start, **options)
    assert choice.engine == polyfit.train(x, x, start, **options).engine
    expected = "stepwise" if loss == "huber" or batch_size else "closed_form" if rule == "sgd" else "moments"
    assert choice.engine == expected
    assert choice.reason


def test_explain_looks_at_the_data(monkeypatch):
    # Data of a series that registers hold, and data that they do not; many samples of a batch are one series.
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # which lets impl="triton" take tensors on a CPU
    pytest.importorskip("triton")
    options: dict[str, Any] = {"optimizer": SGD(0.01), "loss": "huber", "impl": "triton"}
    for n_samples, dtype, degree, expected in (
        (8192, torch.float32, 5, "resident"),
        (8193, torch.float32, 5, "stepwise"),
        (4096, F64, 5, "resident"),
        (4097, F64, 5, "stepwise"),
        (8192, torch.float32, 20, "stepwise"),
        (10, torch.float32, 21, "stepwise"),
    ):
        x, start = torch.zeros(n_samples, dtype=dtype), torch.zeros(degree + 1, dtype=dtype)
        assert explain(x, x, start, **options).engine == expected
    x = torch.zeros(3, 4096)
    assert explain(x, x, torch.zeros(6), **options).engine == "stepwise"
    assert explain(x, x, torch.zeros(3, 6), **options).engine == "resident"
    weight = torch.ones(4097)
    assert explain(torch.zeros(4097), torch.zeros(4097), torch.zeros(6), weight=weight, **options).engine == "stepwise"


def test_explain_refuses_what_train_refuses():
    x, start = torch.zeros(5), torch.zeros(2)
    for call in (lambda **o: explain(x, x, start, **o), lambda **o: polyfit.train(x, x, start, epochs=1, **o)):
        with pytest.raises(ValueError, match="engine='closed_form' does not apply: it needs the squared loss, SGD at"):
            call(optimizer=Adam(0.1), engine="closed_form")
        for wrong in ("sgd", None, SGD):
            with pytest.raises(TypeError, match=r"optimizer is .*; pass a rule"):
                call(optimizer=wrong)
        with pytest.raises(ValueError, match="loss='hinge' is unknown"):
            call(optimizer=SGD(0.1), loss="hinge")
        with pytest.raises(TypeError, match="learning_rate"):
            call(optimizer=SGD(0.1), learning_rate=0.1)


@pytest.fixture
def wrong_quadratic(monkeypatch):
    """The loss of the quadratic is wrong by so much in one series of the data."""

    def make(problem: Any, scale: float) -> Any:
        right = make_quadratic(problem, scale)
        loss = right.loss.copy()
        loss[-1] += error[0]
        return replace(right, loss=loss)

    error = [1e-4]
    monkeypatch.setattr(agreement, "make_quadratic", make)
    return error


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("rule", RULES)
def test_a_quadratic_that_disagrees_with_the_data_is_not_trained_on(wrong_quadratic, rule, dtype):
    x = torch.linspace(-1, 1, 20, dtype=dtype)
    y, start = torch.stack((x.cos(), 2.0 + x)), torch.zeros(2, 3, dtype=dtype)
    wrong_quadratic[0] = 1e-4 if dtype == F64 else 0.1
    options: dict[str, Any] = {"optimizer": RULES[rule], "epochs": 30, "record_every": 10, "per_series": True}
    choice = explain(x, y, start, **options)
    result = polyfit.train(x, y, start, **options)
    assert choice.engine == result.engine == "stepwise"
    assert "do not apply: at the start the quadratic gives the loss 4." in choice.reason
    assert "in 1 of 2 series, first in number 1" in choice.reason
    assert result.optimal_loss is None
    assert result.max_stable_lr is None
    plain = polyfit.train(x, y, start, engine="stepwise", **options)
    assert torch.equal(result.coef, plain.coef)
    exact = float(plain_loss(x.double(), y.double()[1], start.double()[1]))
    assert float(result.losses.values[0, 1]) == pytest.approx(exact, rel=1e-6)
    options["epochs"] = 60
    resumed = polyfit.train(x, y, start, **options, resume=result.state_dict())
    assert resumed.engine == "stepwise"


def test_an_engine_whose_quadratic_is_wrong_is_refused(wrong_quadratic):
    x, start = torch.linspace(-1, 1, 20, dtype=F64), torch.ones(3, dtype=F64)
    for call in (explain, polyfit.train):
        options: dict[str, Any] = {"optimizer": SGD(0.1), "epochs": 3}
        for engine in ("closed_form", "moments"):
            with pytest.raises(ValueError, match=rf"engine='{engine}' does not apply: .* Pass engine='stepwise'"):
                call(x, x.sin(), start, engine=engine, **options)
        wrong_quadratic[0] = 1e-12  # a rounding
        assert call(x, x.sin(), start, engine="closed_form", **options).engine == "closed_form"
        wrong_quadratic[0] = math.nan
        assert call(x, x.sin(), start, **options).engine == "stepwise"
        wrong_quadratic[0] = 1e-4
