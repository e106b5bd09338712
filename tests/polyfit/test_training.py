"""Training against eager loops with torch.optim, and the largest stable rate against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import polynomial_loss as plain_loss

import polyfit
from polyfit.optimizers import SGD
from polyfit.training import max_stable_lr

F64 = torch.float64


def eager_path(x, y, start, lr, epochs, **options):
    """Coefficients and losses before each update and after the last one, by autograd and torch.optim.SGD."""
    coef = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([coef], lr=lr)
    path = []
    for _ in range(epochs + 1):
        optimizer.zero_grad()
        loss = plain_loss(x, y, coef, **options)
        path.append((loss.item(), coef.detach().clone()))
        loss.backward()
        optimizer.step()
    return path


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
@pytest.mark.parametrize("problem", PROBLEMS)
def test_path_is_that_of_torch_optim(problem, several_chunks, request):
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
    seen = []
    result = polyfit.train(
        x, y, start, optimizer=SGD(lr), epochs=60, record_every=7, monitor=lambda *at: seen.append(at), **options
    )
    assert result.losses.epochs.tolist() == [*range(0, 60, 7), 60]
    for (epoch, loss, coef), value in zip(seen, result.losses.values.tolist(), strict=True):
        expected_loss, expected_coef = path[epoch]
        assert loss == value == pytest.approx(expected_loss, rel=1e-12)
        torch.testing.assert_close(coef, expected_coef, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.coef, path[60][1], rtol=1e-12, atol=1e-12)
    assert result.loss == result.losses.values[-1].item()
    assert (result.epochs, result.engine) == (60, "stepwise")


def test_float32_is_as_near_to_the_truth_as_an_eager_loop():
    x = torch.linspace(-np.pi, np.pi, 500)
    y, start = torch.sin(x), torch.randn(6)
    lr, epochs = 0.9 * max_stable_lr(x, 5), 2000
    truth = eager_path(x.double(), y.double(), start.double(), lr, epochs)[-1][1]
    eager = eager_path(x, y, start, lr, epochs)[-1][1]
    ours = polyfit.train(x, y, start, optimizer=SGD(lr), epochs=epochs).coef
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
        polyfit.train(x, y, start, optimizer=SGD(share * largest), epochs=4000).losses.values for share in (0.99, 1.01)
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
    ({"engine": "resident"}, ValueError, "engine='resident' is unknown; pass one of 'auto', 'stepwise'"),
    ({"reduction": "none"}, ValueError, "pass 'mean' or 'sum'"),
    ({"x": torch.zeros(4)}, ValueError, "last axis is samples"),
    ({"x": torch.zeros(5, dtype=torch.int32)}, TypeError, "torch.int32"),
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
