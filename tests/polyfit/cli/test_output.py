"""Files that commands write: whole or not at all, and checked before the work."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest
from commands import Command, assert_shows_curves, contents, train
from matplotlib.figure import Figure

from polyfit import plotting


def test_outputs_replace_older_files(command: Command):
    for name in ("fit.json", "fit.PNG"):
        Path(name).write_bytes(b"old")
    outcome = command(*train(save="fit.json", out="fit.PNG", epochs=500))
    assert (outcome.status, outcome.err) == (0, "")
    assert json.loads(Path("fit.json").read_text("utf-8"))["file"] == "line.csv"
    assert_shows_curves(Path("fit.PNG"))
    assert set(contents(Path())) == {"line.csv", "fit.json", "fit.PNG"}


@pytest.mark.parametrize("ending", plotting.supported_formats())
def test_every_ending_that_is_offered_can_be_written(tmp_path: Path, ending):
    # The figure has text: some formats need other programs only for text.
    figure = Figure(figsize=(1, 1))
    figure.text(0.1, 0.5, "x")
    path = tmp_path / f"fit.{ending}"
    plotting.save_figure(figure, path)
    assert path.stat().st_size > 0
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_cannot_be_read_are_counted_apart_and_the_first_is_shown(command: Command):
    rest = "".join(f"{k},{k}\n" for k in range(4, 40))
    Path("data.csv").write_text(f"x,y\n1,2\n2,\n3,many\n{rest},many\n", "utf-8")
    outcome = command(*train("data.csv"))
    assert outcome.out.startswith(
        "data.csv: 40 rows, 37 used, 2 skipped for a missing value, 1 for a value that is neither a number nor a date\n"
        "warning: line 4: 'many' in column 'y' is not a finite number: the row is left out\n"
    )


def test_a_column_of_y_that_holds_dates_is_shown(command: Command):
    Path("data.csv").write_text("x,y\n1,2024-01-31\n2,2024-02-01 06:30\n", "utf-8")
    outcome = command("fit", "data.csv", "--x", "x", "--y", "y", "--degree", 1)
    assert "\nx: 1 .. 2\ny: dates, read as days since 1970-01-01, 2024-01-31 .. 2024-02-01T06:30:00\n" in outcome.out


BAD_OUTPUTS = [
    pytest.param({"out": "fit.xyz"}, ["fit.xyz is not a picture", "pdf", "png", "svg"], id="unknown ending"),
    pytest.param({"out": "fit"}, ["fit is not a picture", "png"], id="no ending"),
    pytest.param({"out": "absent/fit.png"}, ["absent/fit.png", "no folder"], id="picture in no folder"),
    pytest.param({"save": "absent/fit.json"}, ["absent/fit.json", "no folder"], id="JSON in no folder"),
    pytest.param({"save": "line.csv/fit.json"}, ["line.csv/fit.json", "no folder"], id="JSON below a file"),
    pytest.param({"out": "folder.png"}, ["folder.png is a folder"], id="picture is a folder"),
    pytest.param({"save": "folder.png"}, ["folder.png is a folder"], id="JSON is a folder"),
]
OVERWRITING = [
    pytest.param({"save": "line.csv"}, ["line.csv", "overwrite"], id="JSON over the data"),
    pytest.param({"save": "folder.png/../line.csv"}, ["line.csv", "overwrite"], id="JSON over the data by a detour"),
    pytest.param({"file": "link.csv", "save": "line.csv"}, ["line.csv", "overwrite"], id="JSON over what a link names"),
    pytest.param({"file": "data.png", "out": "data.png"}, ["data.png", "overwrite"], id="picture over the data"),
    pytest.param({"save": "fit.png", "out": "fit.png"}, ["fit.png"], id="picture over the JSON"),
]


@pytest.mark.parametrize(("options", "said"), BAD_OUTPUTS + OVERWRITING)
def test_outputs_that_cannot_or_must_not_be_written_are_refused(
    refused: Callable[..., str], options: dict[str, object], said
):
    Path("folder.png").mkdir()
    Path("data.png").write_bytes(Path("line.csv").read_bytes())
    Path("link.csv").symlink_to("line.csv")
    line = refused(*train(**options))  # pyright: ignore[reportArgumentType]
    assert all(part in line for part in said)


def test_outputs_are_checked_before_the_work(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr("polyfit.cli.train.train")
    monkeypatch.delattr("polyfit.cli.demo.train")
    monkeypatch.delattr("polyfit.cli.train.read_columns")
    assert "no folder" in refused(*train(out="absent/fit.png"))
    assert "no folder" in refused("demo", "--out", "absent/fit.png")


def test_json_that_fails_midway_leaves_the_old_file(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    def fail_midway(path: Path, text: str, **_: object) -> Never:
        path.write_bytes(text.encode()[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("fit.json").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_text", fail_midway)
    assert refused(*train(save="fit.json")) == f"error: fit.json cannot be written: {os.strerror(errno.ENOSPC)}\n"


@pytest.mark.parametrize(
    "arguments", [train(out="fit.png"), ["demo", "--epochs", 1, "--eager-epochs", 1, "--out", "fit.png"]]
)
def test_picture_that_fails_midway_leaves_the_old_file(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments
):
    def fail_midway(_: Figure, path: Path, **__: object) -> Never:
        path.write_bytes(b"half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("fit.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail_midway)
    assert refused(*arguments) == f"error: fit.png cannot be written: {os.strerror(errno.ENOSPC)}\n"
