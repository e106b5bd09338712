"""The program: its commands, its help, its exit statuses, and `python -m polyfit`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest
from commands import Command, contents, train, write_csv

import polyfit
from polyfit.__main__ import main
from polyfit.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--epochs", 0], "'--epochs'"),
        (["demo", "--eager-epochs", 0], "'--eager-epochs'"),
        (["demo", "--out", "demo.xyz"], "demo.xyz is not a picture"),
        (["demo", "--out", "folder.png"], "folder.png is a folder"),
        (["demo", "line.csv"], "line.csv"),
        (["solve"], "'solve'"),
        (["fit"], "'file'"),
        (["train"], "'file'"),
        (["train", "line.csv", "--x", "x", "--y", "y"], "'--degree'"),
        (["train", "line.csv", "--x", "x", "--degree", 1], "'--y'"),
        (["train", "line.csv", "--y", "y", "--degree", 1], "'--x'"),
    ],
)
def test_bad_commands_are_refused(refused: Callable[..., str], arguments, said):
    Path("folder.png").mkdir()
    line = refused(*arguments)
    assert said.lower() in line.lower()


def test_no_command_shows_help_and_no_empty_error(command: Command):
    outcome = command()
    assert "demo" in outcome.out + outcome.err
    assert "train" in outcome.out + outcome.err
    assert "error:  " not in outcome.err


def test_help_of_each_command_names_its_options(command: Command):
    for arguments, names in [
        ((), ["demo", "train"]),
        (("demo",), ["--eager-epochs"]),
        (("train",), ["--lr", "--save"]),
    ]:
        outcome = command(*arguments, "--help")
        assert (outcome.status, outcome.err) == (0, "")
        assert all(name in outcome.out for name in names)


def test_interrupt_stops_without_a_traceback(command: Command, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> Never:
        raise KeyboardInterrupt

    Path("fit.json").write_bytes(b"old")
    before = contents(Path())
    monkeypatch.setattr("polyfit.cli.train.train", interrupt)
    outcome = command(*train(save="fit.json", out="fit.png"))
    assert outcome.status == 130
    assert outcome.err.strip() == "stopped"
    assert contents(Path()) == before


def test_errors_of_polyfit_itself_are_raised(command: Command, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> Never:
        raise ZeroDivisionError

    monkeypatch.setattr("polyfit.cli.train.train", fail)
    with pytest.raises(ZeroDivisionError):
        command(*train())


def test_the_process_ends_with_status_2_one_line_and_no_traceback(tmp_path: Path):
    root = Path(polyfit.__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", "polyfit", *map(str, train("absent.csv", save="fit.json"))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: absent.csv: no such file\n"
    assert ended.stdout == ""
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("target", "status"), [("a reader that has gone", 0), ("a full disk", 2)])
def test_files_are_written_where_standard_output_cannot_be(tmp_path: Path, target, status):
    write_csv(str(tmp_path / "line.csv"), range(11), range(11))
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    root = Path(polyfit.__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", "polyfit", "fit", "line.csv", "--x=x", "--y=y", "--degree=1", "--save=a.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdout=full if target == "a full disk" else writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(full)
    os.close(writing)
    assert ended.returncode == status
    assert ended.stderr == (
        "error: standard output cannot be written: No space left on device; files are written all the same\n"
        if status
        else ""
    )
    assert set(contents(tmp_path)) == {str(tmp_path / "line.csv"), str(tmp_path / "a.json")}


def test_names_of_options_are_checked_before_the_file_is_read(refused: Callable[..., str]):
    train_absent = ["train", "absent.csv", "--x", "x", "--y", "y", "--degree", 1]
    fit_absent = ["fit", "absent.csv", "--x", "x", "--y", "y", "--max-degree", 1]
    assert "--optimizer newton is unknown" in refused(*train_absent, "--optimizer", "newton")
    assert "loss='hinge' is unknown" in refused(*train_absent, "--loss", "hinge")
    assert "engine='fast' is unknown" in refused(*train_absent, "--engine", "fast")
    assert "--monitor radio is unknown" in refused(*train_absent, "--monitor", "radio")
    assert "--lr=-1.0" in refused(*train_absent, "--lr", -1)
    assert "criterion='r2' is unknown" in refused(*fit_absent, "--criterion", "r2")
    for arguments in (train_absent, fit_absent):
        assert "basis='cubic' is unknown" in refused(*arguments, "--basis", "cubic")


@pytest.mark.parametrize("missing", ["typer", "rich", "matplotlib"])
def test_a_missing_library_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing
):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert (
        captured.err == f"error: the command line needs {missing}; install it with: pip install 'fused-polyfit[cli]'\n"
    )
    assert captured.out == ""


def test_ctrl_c_while_libraries_load_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "polyfit.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "polyfit.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "stopped\n")


def test_main_ends_the_process_with_the_status_of_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "run", lambda: 130)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
