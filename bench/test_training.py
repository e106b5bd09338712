"""Training at the tutorial's size: each engine beside the loops that one writes without it, a time an epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import polyfit
from bench import peers
from polyfit.cli.tutorial import eager_loop
from polyfit.monitor import ProgressBar, TensorBoard
from polyfit.optimizers import SGD, Adam

EPOCHS = 80_000
PEER_EPOCHS = 1000
LR = 0.55e-7


def tutorial(n_samples: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.linspace(-math.pi, math.pi, n_samples)
    return x, torch.sin(x), torch.randn(6, generator=torch.Generator().manual_seed(0))


def loops(x: Tensor, y: Tensor, start: Tensor, rule: SGD | Adam, loss: str, epochs: int) -> dict[str, Any]:
    """What one would write: eager autograd and torch.optim, compiled."""
    return {
        "eager Horner": lambda: peers.train_eagerly(x, y, start, rule, loss, epochs),
        "torch.compile of a step": lambda: peers.train_compiled(x, y, start, rule, loss, epochs),
    }


def assert_they_agree(found: dict[str, Any], ours: Tensor) -> None:
    for name, loop in found.items():
        torch.testing.assert_close(loop(), ours, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_80000_epochs_of_the_tutorial(in_turn):
    x, y, start = tutorial()
    found = loops(x, y, start, SGD(LR), "mse", PEER_EPOCHS)
    found["eager formula, the tutorial's"] = lambda: eager_loop(x, y, start, LR, PEER_EPOCHS)

    def ours(epochs: int = EPOCHS) -> Tensor:
        return polyfit.train(x, y, start, optimizer=SGD(LR), epochs=epochs, reduction="sum").coef

    assert_they_agree(found, ours(PEER_EPOCHS))
    on_host = x.double().numpy(), y.double().numpy()
    # First, for the threads of its BLAS keep a core busy for some time after it.
    found = {"np.polyfit, the optimum": lambda: np.polyfit(*on_host, 5)} | found
    calls = dict.fromkeys(found, PEER_EPOCHS) | {"np.polyfit, the optimum": EPOCHS}

    def several_times() -> None:  # milliseconds each: warm, as the peers' epochs are
        for _ in range(10):
            ours()

    in_turn(several_times, found, rounds=9, calls=10 * EPOCHS, peer_calls=calls)


@pytest.mark.parametrize("how", ["moments", "moments-compile"])
def test_80000_epochs_by_adam(in_turn, how):
    engine, _, impl = how.partition("-")
    x, y, start = tutorial()
    rule = Adam(1e-3)
    found = loops(x, y, start, rule, "mse", PEER_EPOCHS)

    def ours(epochs: int = EPOCHS) -> Tensor:
        return polyfit.train(
            x, y, start, optimizer=rule, epochs=epochs, reduction="sum", engine=engine, impl=impl or "auto"
        ).coef

    assert_they_agree(found, ours(PEER_EPOCHS))
    in_turn(ours, found, rounds=5, calls=EPOCHS, peer_calls=dict.fromkeys(found, PEER_EPOCHS))


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_epochs_over_the_data(in_turn, loss):
    x, y, start = tutorial()
    found = loops(x, y, start, SGD(LR), loss, PEER_EPOCHS)

    def ours() -> Tensor:
        return polyfit.train(
            x, y, start, optimizer=SGD(LR), epochs=PEER_EPOCHS, reduction="sum", loss=loss, engine="stepwise"
        ).coef

    assert_they_agree(found, ours())
    in_turn(ours, found, rounds=9, calls=PEER_EPOCHS, peer_calls=dict.fromkeys(found, PEER_EPOCHS))


@pytest.mark.parametrize("n_samples", [2_000, 200_000, 20_000_000])
@pytest.mark.parametrize("engine", ["closed_form", "moments"])
def test_epochs_cost_the_same_for_any_number_of_samples(in_turn, engine, n_samples):
    # What is left of the difference to a run of one epoch is the cost of the others.
    x, y, start = tutorial(n_samples)
    rule, epochs = (SGD(1e-4), 80_000_000) if engine == "closed_form" else (Adam(1e-3), 100_000)

    def run(epochs: int) -> Any:
        return polyfit.train(x, y, start, optimizer=rule, epochs=epochs, engine=engine, record_every=epochs // 1000 + 1)

    in_turn(lambda: run(epochs), {"one epoch": lambda: run(1)}, rounds=3)


@pytest.mark.parametrize("engine", ["moments", "stepwise"])
@pytest.mark.parametrize("kind", ["bar", "tensorboard"])
def test_a_monitor_and_none(in_turn, engine, kind, tmp_path):
    pytest.importorskip("rich" if kind == "bar" else "tensorboard")
    x, y, start = tutorial()
    epochs = 400_000 if engine == "moments" else 100_000
    options: dict[str, Any] = {"optimizer": Adam(1e-3), "epochs": epochs, "engine": engine}
    logs = iter(range(100))

    def watched() -> Any:
        monitor = ProgressBar() if kind == "bar" else TensorBoard(tmp_path / str(next(logs)))
        return polyfit.train(x, y, start, monitor=monitor, **options)

    in_turn(watched, {"no monitor": lambda: polyfit.train(x, y, start, **options)}, rounds=3)
