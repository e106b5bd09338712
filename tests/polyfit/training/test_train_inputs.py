"""What `train` takes as data, and what it refuses: weights of zero, values that are not finite, arrays and lists."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracle import polynomial_loss as plain_loss

import polyfit
from polyfit.optimizers import SGD, Adam, AdamW, Cosine, RMSprop, Step, Warmup
from polyfit.training import explain, max_stable_lr

F64 = torch.float64
NAN, INF = math.nan, math.inf
ENGINES: dict[str, dict[str, Any]] = {
    "closed_form": {"engine": "closed_form"},
    "moments": {"engine": "moments"},
    "moments in C++": {"engine": "moments", "impl": "compile"},
    "stepwise": {"engine": "stepwise"},
    "huber": {"loss": "huber"},
    "batches": {"batch_size": 100},
}
EVERY_ENGINE = [
    pytest.param(name, marks=pytest.mark.compiler) if options.get("impl") == "compile" else name
    for name, options in ENGINES.items()
]


def data(n: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, n, dtype=F64)
    return x, torch.sin(3 * x), torch.zeros(4, dtype=F64)


def with_value(tensor: torch.Tensor, place: Any, value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed[place] = value
    return changed


# --- weights of zero ---

JUNK = {"x is NaN": (NAN, 0.0), "y is NaN": (0.5, NAN), "both infinite": (-INF, INF), "far away": (1e200, -1e300)}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_a_sample_of_weight_zero_is_left_out_whatever_it_holds(engine, junk):
    x, y, start = data()
    weight = torch.rand(40, dtype=F64, generator=torch.Generator().manual_seed(0)) + 0.1
    kept = torch.arange(40) % 7 != 3
    alone = polyfit.train(
        x[kept], y[kept], start, weight=weight[kept], optimizer=SGD(0.1), epochs=50, **ENGINES[engine]
    )
    x[~kept], y[~kept] = JUNK[junk]
    weight[~kept] = 0.0
    result = polyfit.train(x, y, start, weight=weight, optimizer=SGD(0.1), epochs=50, **ENGINES[engine])
    torch.testing.assert_close(result.coef, alone.coef, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(result.losses.values, alone.losses.values, rtol=1e-11, atol=1e-14)
    assert max_stable_lr(x, 3, weight=weight) == pytest.approx(
        max_stable_lr(x[kept], 3, weight=weight[kept]), rel=1e-12
    )


@pytest.mark.parametrize("engine", ["closed_form", "moments", "stepwise"])
def test_weights_of_zero_in_some_series(engine):
    x, y, _ = data()
    y = torch.stack([y, y.cos(), y + 1.0])
    weight = torch.ones(3, 40, dtype=F64)
    weight[0, 5], weight[2, 7] = 0.0, 0.0
    junk = with_value(with_value(y, (0, 5), NAN), (2, 7), INF)
    start = torch.zeros(3, 4, dtype=F64)
    options: dict[str, Any] = {"weight": weight, "optimizer": SGD(0.1), "epochs": 50, "per_series": True}
    result = polyfit.train(x, junk, start, engine=engine, **options)
    expected = polyfit.train(x, y, start, engine=engine, **options)  # finite values of weight zero
    torch.testing.assert_close(result.coef, expected.coef, rtol=1e-13, atol=0)
    for i in range(3):
        kept = weight[i] > 0
        alone = polyfit.train(x[kept], y[i][kept], start[i], optimizer=SGD(0.1), epochs=50)
        torch.testing.assert_close(result.coef[i], alone.coef, rtol=1e-11, atol=1e-14)


def test_weights_that_are_all_zero_are_refused():
    x, y, start = data()
    with pytest.raises(ValueError, match="all weights are zero, which leaves no sample to train on; pass weights"):
        polyfit.train(x, y, start, weight=torch.zeros(40, dtype=F64), optimizer=SGD(0.1), epochs=3)
    weight = torch.ones(3, 40, dtype=F64)
    weight[1] = 0.0
    with pytest.raises(ValueError, match=r"all weights of series 1 are zero \(1 of 3 series\)"):
        polyfit.train(x, y, start.expand(3, 4), weight=weight, optimizer=SGD(0.1), epochs=3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("per_series", [False, True])
def test_a_batch_without_weight_has_no_gradient(per_series, reduction):
    x, y, start = data(12)
    weight = torch.ones(12, dtype=F64)
    order = polyfit.training.shuffled(12, seed=0, epoch=0)
    weight[order[4:8]] = 0.0
    coef = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([coef], lr=0.05, momentum=0.5)
    for batch in order.split(4):
        optimizer.zero_grad()
        if bool(weight[batch].any()):
            plain_loss(x[batch], y[batch], coef, weight[batch], reduction).backward()
        else:
            coef.grad = torch.zeros_like(coef)
        optimizer.step()
    result = polyfit.train(
        x, y, start, weight=weight, optimizer=SGD(0.05, momentum=0.5), epochs=1, batch_size=4, reduction=reduction,
        per_series=per_series,
    )  # fmt: skip
    torch.testing.assert_close(result.coef, coef.detach(), rtol=1e-12, atol=1e-15)


# --- values that are not finite ---


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_data_that_are_not_finite_are_refused(engine):
    x, y, start = data()
    weight = torch.ones(40, dtype=F64)

    def run(x: Any = x, y: Any = y, start: Any = start, weight: Any = weight) -> None:
        polyfit.train(x, y, start, weight=weight, optimizer=SGD(0.1), epochs=3, **ENGINES[engine])

    remedy = "leave such samples out, or give them a weight of zero"
    with pytest.raises(ValueError, match=rf"x has 1 value that is not finite, the first is x\[3\] = nan: {remedy}"):
        run(x=with_value(x, 3, NAN))
    with pytest.raises(ValueError, match=r"y has 2 values that are not finite, the first is y\[4\] = -inf"):
        run(y=with_value(y, slice(4, 6), -INF), weight=None)
    with pytest.raises(ValueError, match=r"weight\[5\] = inf: pass finite weights"):
        run(weight=with_value(weight, 5, INF))
    with pytest.raises(ValueError, match=r"weight\[5\] is -1\.0, and 1 weights are negative"):
        run(weight=with_value(weight, 5, -1.0))
    with pytest.raises(ValueError, match=r"coef has 1 value that is not finite, the first is coef\[2\] = nan: pass a"):
        run(start=with_value(start, 2, NAN))


def test_the_place_in_a_batch_is_named():
    x, y, start = data()
    y = with_value(torch.stack([y, y]), (1, 3), INF)
    with pytest.raises(ValueError, match=r"the first is y\[1, 3\] = inf"):
        polyfit.train(x, y, start.expand(2, 4), optimizer=SGD(0.1), epochs=3)
    with pytest.raises(ValueError, match=r"x\[2\] = nan"):
        max_stable_lr(with_value(x, 2, NAN), 3)
    with pytest.raises(ValueError, match=r"weight\[2\] = nan"):
        max_stable_lr(x, 3, weight=with_value(x, 2, NAN))


def test_x_whose_powers_overflow_are_refused():
    x, y, start = data()
    for run in (
        lambda: polyfit.train(1e80 * x, y, start, optimizer=Adam(0.1), epochs=3),
        lambda: max_stable_lr(1e80 * x, 3),
    ):
        with pytest.raises(ValueError, match=r"the curvature of the squared loss overflows float64: .*; pass domain="):
            run()


def test_nothing_to_train_on_is_refused():
    nothing = torch.zeros(0, dtype=F64)
    start = torch.zeros(3, dtype=F64)
    with pytest.raises(ValueError, match="hold no samples; pass at least one"):
        polyfit.train(nothing, nothing, start, optimizer=SGD(0.1), epochs=3, reduction="sum")
    with pytest.raises(ValueError, match="no samples"):
        max_stable_lr(nothing, 2)
    for loss in ("mse", "huber"):
        x, series = torch.zeros(0, 5, dtype=F64), torch.zeros(0, 3, dtype=F64)
        with pytest.raises(ValueError, match="hold no series; pass at least one"):
            polyfit.train(x, x, series, optimizer=SGD(0.1), epochs=3, per_series=True, loss=loss)


# --- kinds of data ---

KINDS = {
    "lists": lambda values: values,
    "arrays": np.asarray,
    "integers": lambda values: np.asarray(values, dtype=np.int32),
    "reversed": lambda values: np.asarray(values[::-1], dtype=float)[::-1],
    "integer tensors": lambda values: torch.tensor(values, dtype=torch.int64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_may_be_of_any_kind(kind):
    x, y, start, weight = [-2, -1, 0, 1, 2], [4, 1, 0, 1, 5], [0, 0, 1], [1, 2, 1, 2, 1]
    make = KINDS[kind]
    given: dict[str, Any] = {"optimizer": Adam(0.1), "epochs": np.int64(20)}
    result = polyfit.train(make(x), make(y), make(start), weight=make(weight), **given)
    of_tensors = [torch.tensor(values, dtype=F64) for values in (x, y, start, weight)]
    expected = polyfit.train(*of_tensors[:3], weight=of_tensors[3], optimizer=Adam(0.1), epochs=20)
    assert result.coef.dtype == F64
    assert torch.equal(result.coef, expected.coef)
    assert result.epochs == 20
    assert explain(make(x), make(y), make(start), optimizer=SGD(0.1)).engine == "closed_form"
    degree: Any = np.int32(1)
    largest = max_stable_lr(of_tensors[0], 1, weight=of_tensors[3])
    assert max_stable_lr(make(x), degree, weight=make(weight)) == largest


def test_dtypes_are_promoted():
    x, y, start = data()
    result = polyfit.train(x.float(), y.half(), start.float(), optimizer=SGD(0.1), epochs=3)
    assert result.coef.dtype == torch.float32
    assert polyfit.train(x.numpy(), y.float(), start.float(), optimizer=SGD(0.1), epochs=3).coef.dtype == F64


# A number, and what it stands for.
NUMBERS: dict[str, tuple[Any, float]] = {
    "an int": (1, 1.0),
    "of numpy": (np.float64(0.1), 0.1),
    "float32": (np.float32(0.25), 0.25),
    "an integer of numpy": (np.int64(1), 1.0),
    "an array": (np.array([0.5]), 0.5),
    "a tensor": (torch.tensor(0.5, dtype=F64), 0.5),
    "a tensor with an axis": (torch.tensor([0.5], requires_grad=True), 0.5),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_a_rule_may_be_of_any_kind(kind):
    value, same = NUMBERS[kind]
    count: Any = np.int64(3)
    pairs: list[tuple[Any, Any]] = [
        (SGD(value, momentum=value, weight_decay=value), SGD(same, momentum=same, weight_decay=same)),
        (AdamW(value, eps=value), AdamW(same, eps=same)),
        (RMSprop(value, alpha=value), RMSprop(same, alpha=same)),
        (SGD(Warmup(value, count)), SGD(Warmup(same, 3))),
        (SGD(Step(value, count, value)), SGD(Step(same, 3, same))),
        (SGD(Cosine(value, count)), SGD(Cosine(same, 3))),
    ]
    if same < 1.0:
        betas: Any = [value, 0.9]
        pairs.append((Adam(betas=betas), Adam(betas=(same, 0.9))))
    for found, expected in pairs:
        assert found == expected
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("betas", [0.9, (0.9,), (0.9, 0.99, 0.999), "ab", None])
def test_betas_that_are_no_pair_are_refused(betas):
    with pytest.raises(TypeError, match=r"is not a pair of numbers; pass two, such as betas=\(0\.9, 0\.999\)"):
        Adam(betas=betas)


# --- what is set for the whole process ---


@pytest.mark.parametrize("engine", EVERY_ENGINE)
@pytest.mark.parametrize("setting", ["meta", "float64", "float16"])
def test_default_device_and_dtype_change_nothing(setting, engine):
    x, y, start = (part.float() for part in data())
    weight = torch.ones(40)
    weight[3] = 0.0
    options: dict[str, Any] = {
        "optimizer": SGD(0.1, momentum=0.5), "epochs": 40, "record_every": 10, "keep_path": True, "weight": weight,
        "lr_scale": [1.0], "early_stopping": polyfit.training.EarlyStopping(loss=1e-9, gradient_norm=1e-12),
        **ENGINES[engine],
    }  # fmt: skip
    before = polyfit.train(x, y, start, **options)
    dtype = torch.get_default_dtype()
    try:
        if setting == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, setting))
        result = polyfit.train(x, y, start, **options)
        part = polyfit.train(x, y, start, **{**options, "epochs": 20})
        resumed = polyfit.train(x, y, start, resume=part.state_dict(), **options)
        largest = max_stable_lr(x, 3)
        diverging = polyfit.train(
            x, y, start, **{**options, "optimizer": SGD(1e9), "check_stability": False, "early_stopping": None}
        )
        assert result.epochs_to(0.5) == before.epochs_to(0.5)
        assert engine == "huber" or diverging.reason == polyfit.training.Reason.DIVERGED
    finally:
        torch.set_default_device(None)  # a device, "cpu" too, would leave a mode that later tests run under
        torch.set_default_dtype(dtype)
    for run in (result, resumed):
        assert torch.equal(run.coef, before.coef)
        assert torch.equal(run.losses.values, before.losses.values)
        assert run.path is not None
        assert before.path is not None
        assert torch.equal(run.path, before.path)
    assert largest == max_stable_lr(x, 3)


@pytest.mark.parametrize("name", EVERY_ENGINE)
def test_views_that_torch_negates_lazily_are_data(name):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.rand(40, dtype=F64, generator=generator) for _ in range(2))
    y, start = (torch.randn(2, n, dtype=F64, generator=generator) for n in (40, 3))
    scales = torch.tensor([0.5, 1.0], dtype=F64)

    def negated(tensor: torch.Tensor) -> torch.Tensor:
        return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag

    def run(change: Any) -> Any:
        options = {"weight": change(weight), "lr_scale": change(scales), **ENGINES[name]}
        return polyfit.train(change(x), change(y), change(start), optimizer=SGD(0.1), epochs=20, **options)

    assert torch.equal(run(negated).coef, run(lambda tensor: tensor).coef)
