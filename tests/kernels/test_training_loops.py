"""The engines of `polyfit.train` that run in kernels, by Triton's interpreter, against those that do not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import polyfit
from polyfit.optimizers import SGD, Adam, RMSprop
from polyfit.training import EarlyStopping, Reason

pytestmark = pytest.mark.interpreter

F64 = torch.float64
RULES = {"momentum": SGD(0.05, momentum=0.5), "Adam": Adam(0.05), "RMSprop": RMSprop(0.01, centered=True, momentum=0.3)}
CASES = {"moments": ("moments", "mse"), "resident": ("resident", "mse"), "resident, huber": ("resident", "huber")}


def data(*series: int):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*series, 70, dtype=F64, generator=generator) * 2 - 1
    return x, torch.sin(3 * x), torch.randn(*series, 4, dtype=F64, generator=generator)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_series_train_as_step_by_step(case, rule):
    engine, loss = CASES[case]
    x, y, start = data(3)
    # 24: one series or two meet the loss that ends them, after 7, 14 or 21 epochs; the others end between two records.
    options: dict[str, Any] = {
        "optimizer": RULES[rule], "epochs": 24, "loss": loss, "record_every": 7, "per_series": True, "keep_path": True,
        "lr_scale": torch.tensor([1.0, 0.5, 0.3]), "early_stopping": EarlyStopping(loss=0.2),
        "weight": torch.rand(70, dtype=F64, generator=torch.Generator().manual_seed(1)) + 0.5,
    }  # fmt: skip
    kernel = polyfit.train(x, y, start, engine=engine, impl="triton", **options)
    plain = polyfit.train(x, y, start, engine="stepwise", impl="torch", **options)
    assert kernel.engine == engine
    assert torch.equal(kernel.updates, plain.updates)
    assert torch.equal(kernel.reasons, plain.reasons)
    assert torch.equal(kernel.losses.epochs, plain.losses.epochs)
    torch.testing.assert_close(kernel.losses.values, plain.losses.values, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(kernel.coef, plain.coef, rtol=1e-11, atol=1e-13)
    assert kernel.path is not None
    assert plain.path is not None
    torch.testing.assert_close(kernel.path, plain.path, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_cut_goes_on_bit_for_bit(case):
    engine, loss = CASES[case]
    x, y, start = data()
    options: dict[str, Any] = {
        "optimizer": Adam(0.02), "loss": loss, "record_every": 6, "engine": engine, "impl": "triton"
    }  # fmt: skip
    whole = polyfit.train(x, y, start, epochs=30, **options)
    state = None
    for epochs in (5, 18, 30):
        part = polyfit.train(x, y, start, epochs=epochs, resume=state, **options)
        state = part.state_dict()
        if epochs == 30:
            assert torch.equal(part.coef, whole.coef)
            assert all(map(torch.equal, part.losses, whole.losses))


@pytest.mark.parametrize("case", CASES)
def test_operands_with_any_strides_train_alike(case):
    engine, loss = CASES[case]
    x, y, start = data(3)
    weight = torch.rand(3, 70, dtype=F64, generator=torch.Generator().manual_seed(1)) + 0.5
    scale = torch.tensor([1.0, 7.0, 0.5, 7.0, 0.25, 7.0], dtype=F64)
    options: dict[str, Any] = {"optimizer": Adam(0.05), "epochs": 20, "loss": loss, "per_series": True}
    plain = polyfit.train(
        x, y, start, engine="stepwise", impl="torch", weight=weight, lr_scale=scale[::2].clone(), **options
    )
    x, y, weight, start = (part.mT.contiguous().mT for part in (x, y, weight, start))
    options |= {"engine": engine, "impl": "triton", "weight": weight}
    result = polyfit.train(x, y, start, lr_scale=scale[::2], **options)
    torch.testing.assert_close(result.coef, plain.coef, rtol=1e-11, atol=1e-13)
    # One start and one factor for all series.
    one = polyfit.train(x, y, start[:1].expand(3, 4), lr_scale=torch.tensor(0.5), **options)
    same = polyfit.train(
        x,
        y,
        start[:1].repeat(3, 1),
        lr_scale=torch.full((3,), 0.5),
        **{**options, "engine": "stepwise", "impl": "torch"},
    )
    torch.testing.assert_close(one.coef, same.coef, rtol=1e-11, atol=1e-13)


def test_auto_keeps_data_on_chip_where_it_can():
    x, y, start = data()
    run = lambda **o: polyfit.train(x, y, start, optimizer=SGD(0.01), epochs=3, impl="triton", **o)  # noqa: E731
    assert run(loss="log_cosh").engine == "resident"
    assert run(loss="mse").engine == "closed_form"
    assert run(loss="huber", batch_size=16).engine == "stepwise"
    with pytest.raises(ValueError, match="engine='resident' does not apply: it needs a GPU and Triton, no batches"):
        polyfit.train(x, y, start, optimizer=SGD(0.01), epochs=3, engine="resident", impl="torch")


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
@pytest.mark.parametrize("engine", ["moments", "resident"])
def test_the_epoch_of_divergence_is_found(engine):
    x, y, start = data(2)
    options: dict[str, Any] = {"optimizer": SGD(0.1), "epochs": 120, "per_series": True, "engine": engine}
    scale = torch.tensor([0.5, 6e4], dtype=F64)
    result = polyfit.train(
        x, y, start, record_every=50, impl="triton", lr_scale=scale, check_stability=False, **options
    )
    plain = polyfit.train(
        x, y, start, record_every=1, impl="torch", lr_scale=scale, check_stability=False,
        early_stopping=EarlyStopping(loss=-math.inf), **{**options, "engine": "stepwise"},
    )  # fmt: skip
    assert result.reasons.tolist() == [Reason.EPOCHS, Reason.DIVERGED]
    assert abs(int(result.updates[1]) - int(plain.updates[1])) <= 1  # a sum overflows before a mean
    torch.testing.assert_close(result.coef[0], plain.coef[0], rtol=1e-11, atol=1e-13)
