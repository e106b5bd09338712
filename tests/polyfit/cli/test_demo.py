"""`polyfit demo`: what it computes, compares and draws."""

import dataclasses
import math
from pathlib import Path

import exact
import numpy as np
import pytest
import torch
from commands import NUMBER, Command, assert_shows_curves, contents

from polyfit.cli import demo
from polyfit.training import Reason


def test_demo_descends_as_numpy_does_in_double(command: Command):
    epochs = 300
    outcome = command("demo", "--epochs", epochs, "--eager-epochs", 1)
    assert (outcome.status, outcome.err) == (0, "")

    lr = 0.55e-7
    x = np.linspace(-math.pi, math.pi, 2000)
    powers = np.vander(x, 6, increasing=True)
    coef = torch.randn(6, generator=torch.Generator().manual_seed(0)).double().numpy()
    for _ in range(epochs):
        gradient = 2 * powers.T @ (powers @ coef - np.sin(x))
        coef = coef - lr * gradient
    # An update rounds each coefficient once in float32, and six digits are printed.
    tolerance = (epochs * 2.0**-24 + 5e-6) * np.abs(coef).max()
    np.testing.assert_allclose(outcome.coef(), coef, rtol=0, atol=tolerance)
    residual = powers @ coef - np.sin(x)
    loss, gradient = residual @ residual, 2 * powers.T @ residual
    # The tolerance of the coefficients, carried over to the loss. The float32 sum adds no error of this size.
    loss_tolerance = np.abs(gradient).sum() * tolerance + 5e-6 * loss
    assert loss_tolerance < 0.01 * loss
    printed = outcome.number(rf"^loss {NUMBER} after {epochs} epochs in ")
    assert printed == pytest.approx(loss, rel=0, abs=loss_tolerance)


def test_demo_compares_with_eager_and_draws_a_picture(command: Command):
    epochs = 50
    outcome = command("demo", "--epochs", 200, "--eager-epochs", epochs, "--out", "demo.png")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.number(rf"ratio\W+{NUMBER}") > 0
    # Both loops round each of the coefficients, below 4 in size, once in an update.
    difference = outcome.number(rf"largest difference between coefficients after {epochs} epochs: {NUMBER}")
    assert 0 <= difference <= 2 * epochs * 2.0**-23
    assert "picture in demo.png" in outcome.out
    assert_shows_curves(Path("demo.png"))
    # The exact minimum loss, and the curvatures from the singular values by numpy.
    x = np.linspace(-math.pi, math.pi, 2000)
    powers = np.vander(x, 6, increasing=True)
    best = float(exact.fit(x.tolist(), np.sin(x).tolist(), 5).rss)
    assert outcome.number(rf"the minimum loss is {NUMBER}:") == pytest.approx(best, rel=1e-3)
    singular = np.linalg.svd(powers, compute_uv=False)
    assert outcome.number(rf"largest curvature of the loss is {NUMBER} times the smallest") == pytest.approx(
        (singular[0] / singular[-1]) ** 2, rel=0.05
    )
    assert outcome.number(rf"limits the learning rate to {NUMBER};") == pytest.approx(1 / singular[0] ** 2, rel=1e-2)
    assert 10 < outcome.number(rf"within 1 % of the minimum loss after {NUMBER} epochs") < 1000
    assert set(contents(Path())) == {"line.csv", "demo.png"}


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ({"engine": "stepwise"}, "stepwise"),
        ({"engine": "moments"}, "moments"),
        ({"optimizer": "adam"}, "moments"),
        ({"optimizer": "momentum", "basis": "chebyshev"}, "closed_form"),
        ({"optimizer": "rmsprop", "loss": "huber", "basis": "legendre"}, "stepwise"),
    ],
)
def test_demo_takes_rules_losses_bases_engines_and_agrees_with_eager(command: Command, options, engine):
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    outcome = command("demo", "--epochs", 100, "--eager-epochs", 30, "--monitor", "bar", *named)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.number(rf"^loss {NUMBER} after 100 epochs in .* \({engine}\)$") > 0
    assert outcome.number(rf"largest difference between coefficients after 30 epochs: {NUMBER}") < 1e-5
    assert "100/100" in outcome.out


@pytest.mark.parametrize("run", [1, 2, 3, 4])
def test_ctrl_c_in_any_run_of_the_demo_ends_it_without_a_comparison(
    command: Command, monkeypatch: pytest.MonkeyPatch, run
):
    whole, calls = demo.train, []

    def train(*values, **options):
        calls.append(options["epochs"])
        result = whole(*values, **options)
        ended = torch.full_like(result.reasons, Reason.INTERRUPTED if len(calls) == run else Reason.EPOCHS)
        return dataclasses.replace(result, reasons=ended)

    monkeypatch.setattr(demo, "train", train)
    outcome = command("demo", "--epochs", 200, "--eager-epochs", 20, "--out", "demo.png")
    assert len(calls) == run  # warming, the run, the Chebyshev basis, the comparison
    assert outcome.status == 130
    assert "largest difference between coefficients" not in outcome.out
    assert Path("demo.png").exists() == (run > 1)
    if run > 2:
        assert "stopped by Ctrl-C: the comparison is not complete" in outcome.out
