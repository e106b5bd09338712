"""Update rules, losses, bases, engines and monitors by their names."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Command, train

import polyfit
from polyfit import bases, losses, training


def test_help_offers_every_rule_loss_basis_and_engine(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "500")
    helped = command("train", "--help").out
    for offered in (["sgd", "momentum", "adam", "adamw", "rmsprop"], losses.LOSSES, bases.BASES, training.ENGINES):
        assert all(re.search(rf"[ ,]{name}[,.]", helped) for name in offered)


@pytest.mark.parametrize(
    ("optimizer", "loss", "basis", "engine"),
    [
        ("sgd", "mse", "chebyshev", "closed_form"),
        ("momentum", "mse", "legendre", "closed_form"),
        ("adam", "mse", "power", "moments"),
        ("adamw", "huber", "legendre", "stepwise"),
        ("rmsprop", "cauchy", "hermite_e", "stepwise"),
    ],
)
def test_train_takes_rules_losses_bases_and_says_its_engine(command, optimizer, loss, basis, engine):
    options = {"optimizer": optimizer, "loss": loss, "basis": basis, "epochs": 3000, "save": "line.json"}
    outcome = command(*train(**options))
    assert (outcome.status, outcome.err) == (0, "")
    assert f"after 3000 epochs ({engine})" in outcome.out
    saved = json.loads(Path("line.json").read_text())
    assert (saved["basis"], saved["loss"], saved["engine"]) == (basis, loss, engine)
    x = torch.arange(11, dtype=torch.float64)
    values = polyfit.polyval(x, torch.tensor(saved["coef"], dtype=torch.float64), basis=basis, domain=saved["domain"])
    # y = 1 + 2 x on eleven points. Rules that scale the gradient come near the minimum and oscillate there.
    torch.testing.assert_close(
        values, 1 + 2 * x, rtol=0, atol=1e-6 if "m" in optimizer[:1] or optimizer == "sgd" else 1.0
    )


def test_names_that_train_does_not_know_are_refused(refused):
    assert "--optimizer newton is unknown" in refused(*train(optimizer="newton"))
    assert "loss='hinge' is unknown" in refused(*train(loss="hinge"))
    assert "basis='cubic' is unknown" in refused(*train(basis="cubic"))
    assert "engine='fast' is unknown" in refused(*train(engine="fast"))
    assert "does not apply" in refused(*train(engine="closed_form", optimizer="adam"))
    assert "--lr 10 diverges on these data" in refused(*train(lr=10.0))


def test_train_writes_a_log_for_tensorboard(command: Command):
    pytest.importorskip("tensorboard")
    outcome = command(*train(epochs=1000, monitor="tensorboard:logs/line,bar"))
    assert (outcome.status, outcome.err) == (0, "")
    assert len(list(Path("logs/line").iterdir())) == 1
    assert "1000/1000" in outcome.out
    assert "1000/1000" not in command(*train(epochs=1000, monitor="none")).out


def test_a_monitor_that_fails_is_shown_in_a_line_and_the_polynomial_is_saved(
    command: Command, monkeypatch: pytest.MonkeyPatch
):
    class Full:
        def __call__(self, epoch: int, loss: float, coef: torch.Tensor) -> None:
            raise OSError("disk full")

    monkeypatch.setattr("polyfit.cli.options.ProgressBar", Full)
    outcome = command(*train(epochs=1000, save="line.json"))
    assert (outcome.status, outcome.err) == (0, "")
    assert (
        "warning: the monitor Full raised OSError: disk full; it is not called any more, and the run continues\n"
        in outcome.out
    )
    assert Path("line.json").exists()


def test_monitors_that_are_unknown_or_not_installed_are_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    assert "--monitor radio is unknown; pass bar, tensorboard:DIR" in refused(*train(monitor="radio"))
    assert "--monitor tensorboard is unknown; pass bar, tensorboard:DIR" in refused(*train(monitor="tensorboard"))
    assert "'one' is not a port; pass a number" in refused(*train(monitor="visdom:localhost:one"))
    monkeypatch.setitem(sys.modules, "visdom", None)
    assert "pip install 'fused-polyfit[visdom]'" in refused(*train(monitor="visdom"))


@pytest.mark.parametrize(
    ("given", "character"), [(";", ";"), ("tab", "\t"), ("\t", "\t"), ("~", "~"), (None, "|"), (" ", " ")]
)
def test_the_delimiter_can_be_given(command: Command, given, character):
    Path("data.csv").write_text(character.join("xy") + "\n" + "".join(f"{k}{character}{k}\n" for k in range(4)))
    delimiter = () if given is None else ("--delimiter", given)
    for arguments in (train("data.csv"), ["fit", "data.csv", "--x", "x", "--y", "y", "--degree", 1]):
        outcome = command(*arguments, *delimiter)
        assert (outcome.status, outcome.err) == (0, "")
        assert "data.csv: 4 rows, 4 used" in outcome.out


def test_a_delimiter_of_several_characters_is_refused(refused: Callable[..., str]):
    for given in (";;", "", '"'):
        assert f"--delimiter {given!r} is not one character; pass" in refused(*train(delimiter=given))
