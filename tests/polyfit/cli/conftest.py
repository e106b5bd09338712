"""Fixtures that run commands in this process."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import Command, Outcome, contents, write_csv

from polyfit.cli import app


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process, in a folder that holds line.csv: y = 1 + 2 x at 0, 1, ..., 10."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # the width at which rich breaks lines
    write_csv("line.csv", range(11), range(1, 22, 2))

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["polyfit", *map(str, arguments)])
        status = app.run()
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    # 2000 samples are too few for threads: beside other processes, waiting for each other makes them ten times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """Runs a command that must be refused with one line and without a trace, and returns the line."""

    def run(*arguments: object) -> str:
        before = contents(Path())
        outcome = command(*arguments)
        assert outcome.status == 2
        assert re.fullmatch(r"error: \S.*\n", outcome.err)
        assert contents(Path()) == before
        return outcome.err

    return run
