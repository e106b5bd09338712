"""The command lines of the examples: help, and what is refused before any work."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

PROGRAMS = ("fit", "fully_connected", "convolutional", "kan", "regression", "registry")


def run(program: str, *arguments: str) -> int:
    """The exit status of a program that ends before it begins to work."""
    name = f"polyfit.examples.{program}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, name, raising=False)
        patch.setattr(sys, "argv", [f"{program}.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is ignored would start a training."""

    def fail(*_: object) -> None:
        raise AssertionError("the program began to work")

    monkeypatch.setattr("polyfit.examples._digits.load", fail)
    monkeypatch.setattr("polyfit.nn.PolynomialRegression.__init__", fail)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, "--help") == 0
    printed = capsys.readouterr().out
    text = importlib.import_module(f"polyfit.examples.{program}").__doc__
    assert text is not None
    assert text.splitlines()[0] in printed
    for option, described in (("--epochs", "epochs of training"), ("--picture", "write a picture")):
        assert (option in printed.partition("options:")[2]) == (described in printed)


@pytest.mark.parametrize("program", PROGRAMS)
def test_unknown_options_are_refused(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, "--epoch", "3") == 2
    assert "unrecognized arguments: --epoch" in capsys.readouterr().err


@pytest.mark.parametrize("epochs", ["0", "-1", "many", "1.5"])
@pytest.mark.parametrize("program", ["fully_connected", "convolutional", "kan"])
def test_epochs_that_are_refused(program: str, epochs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(program, f"--epochs={epochs}") == 2
    assert f"'{epochs}' is not a number of epochs; pass an int of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["convolutional", "kan"])
def test_pictures_that_are_refused(program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for path, message in (
        (tmp_path / "missing/x.png", "there is no folder"),
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "x.abc", "names no format; end it with one of ."),
        (tmp_path / "x", "names no format"),
    ):
        assert run(program, "--picture", str(path)) == 2
        assert message in capsys.readouterr().err


def test_a_picture_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("kan", "--picture", "x.png") == 2
    assert "fused-polyfit[cli]" in capsys.readouterr().err
