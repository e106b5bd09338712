"""The command line: what it prints and writes, and that bad input costs one line and no file."""

import csv
import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Never

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.polynomial import Polynomial

import polyfit
from polyfit import plotting
from polyfit.__main__ import main
from polyfit.cli import app as cli
from polyfit.io.tables import read_columns

DATA = Path(__file__).parents[2] / "data"
# Exact least squares, in rational arithmetic, of the values as printed in co2.csv.
CO2_REFERENCE = json.loads((DATA / "co2_reference.json").read_text("utf-8"))
NUMBER = r"([-+]?\d[\d.e+-]*)"


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    def number(self, pattern: str) -> float:
        """The one number that is printed where the pattern has its group."""
        found = re.findall(pattern, self.out + self.err, re.MULTILINE)
        assert len(found) == 1
        return float(found[0])

    def coef(self) -> list[float]:
        """The coefficients of the one polynomial printed."""
        (text,) = re.findall(r"^y = (.*)$", self.out, re.MULTILINE)
        signed = text.replace("- ", "-").replace("+ ", "+").split()
        return [float(signed[0]), *map(float, signed[1::2])]


Command = Callable[..., Outcome]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process, in a folder that holds line.csv: y = 1 + 2 x at 0, 1, ..., 10."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # rich breaks lines there
    write_csv("line.csv", range(11), range(1, 22, 2))

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["polyfit", *map(str, arguments)])
        status = cli.run()
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    # 2000 samples are too few to share, and threads that wait for each other slow down tenfold beside other processes.
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


def write_csv(name: str, x: object, y: object, names: tuple[str, str] = ("x", "y")) -> None:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *zip(x, y, strict=True)])  # pyright: ignore[reportArgumentType]


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that lies in the folder and below, hidden files included; None for a folder."""
    return {str(path): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def train(file: str = "line.csv", **options: object) -> list[object]:
    """Arguments of `polyfit train`: a quick fit of a straight line, but for the options given."""
    named = {"x": "x", "y": "y", "degree": 1, "epochs": 20} | options
    return ["train", file, *(part for name, value in named.items() for part in (f"--{name}", value))]


def vandermonde(x: np.ndarray, degree: int) -> np.ndarray:
    """x mapped to [-1, 1], to the powers 0, 1, ..., degree."""
    return np.vander(2 * (x - x.min()) / np.ptp(x) - 1, degree + 1, increasing=True)


def largest_stable_lr(x: np.ndarray, degree: int) -> float:
    """2 / the largest eigenvalue of the Hessian of the mean squared error, from the singular values."""
    return len(x) / np.linalg.svd(vandermonde(x, degree), compute_uv=False)[0] ** 2


def assert_shows_curves(picture: Path) -> None:
    """A PNG with the loss curve in its left half, and the data and the polynomial in its right half."""
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = np.rint(matplotlib.image.imread(picture)[..., :3] * 255).astype(int)
    left, right = np.array_split(pixels, 2, axis=1)

    def count(half: np.ndarray, color: tuple[int, int, int]) -> int:
        return int((half == color).all(axis=-1).sum())

    red, blue, gray = (214, 39, 40), (31, 119, 180), (140, 140, 140)
    # A curve crosses its half of the picture, and each of its columns holds some of the colour itself.
    width = left.shape[1] // 2
    assert count(left, red) > width
    assert count(right, blue) > width
    assert count(right, gray) > 0
    assert count(left, blue) == count(right, red) == 0


# --- demo ---


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
    # What the tolerance of the coefficients is to the loss; the float32 sum is carried.
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
    difference = outcome.number(rf"largest difference of a coefficient after {epochs} epochs: {NUMBER}")
    assert 0 <= difference <= 2 * epochs * 2.0**-23
    assert "picture in demo.png" in outcome.out
    assert_shows_curves(Path("demo.png"))
    # What is said of the landscape: the least loss by numpy, and curvatures by its singular values.
    x = np.linspace(-math.pi, math.pi, 2000)
    powers = np.vander(x, 6, increasing=True)
    best = np.linalg.lstsq(powers, np.sin(x), rcond=None)[0]
    assert outcome.number(rf"the least loss is {NUMBER}:") == pytest.approx(
        ((powers @ best - np.sin(x)) ** 2).sum(), rel=1e-3
    )
    singular = np.linalg.svd(powers, compute_uv=False)
    assert outcome.number(rf"differs {NUMBER}-fold") == pytest.approx((singular[0] / singular[-1]) ** 2, rel=0.05)
    assert outcome.number(rf"largest stable rate, {NUMBER}, is set") == pytest.approx(1 / singular[0] ** 2, rel=1e-2)
    assert 10 < outcome.number(rf"within 1 % of the least loss after {NUMBER} epochs") < 1000
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
    assert outcome.number(rf"largest difference of a coefficient after 30 epochs: {NUMBER}") < 1e-5
    assert "100/100" in outcome.out


# --- train ---


@pytest.mark.parametrize(("degree", "r_squared"), [(1, "0.9737"), (2, "0.9831"), (3, "0.9841")])
def test_co2_is_fitted_as_exact_least_squares_does(command: Command, degree, r_squared):
    exact = CO2_REFERENCE[f"degree{degree}"]
    outcome = command("train", DATA / "co2.csv", "--x", "date", "--y", "co2", "--degree", degree, "--save", "fit.json")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"R^2 {r_squared}\n" in outcome.out
    mean_squared_error = float(exact["rss"]) / CO2_REFERENCE["n_finite"]
    assert f"loss {mean_squared_error:.6g} (mean squared error) after 20000 epochs" in outcome.out
    assert "still falling" not in outcome.out

    document = json.loads(Path("fit.json").read_text("utf-8"))
    assert document["r_squared"] == pytest.approx(float(exact["r_squared"]), abs=1e-12)
    assert document["loss_value"] == pytest.approx(mean_squared_error, rel=1e-12)
    # The reference counts the weeks 0, 1, ..., 2283, which are -1 ... 1 in t.
    weeks = Polynomial([2283 / 2, 2283 / 2])
    in_t = np.array(Polynomial([float(c) for c in exact["coef"]])(weeks).coef, dtype=float)
    # At the optimum the gradient is a sum that rounds at n eps of its terms, and the Hessian's condition is below 100.
    np.testing.assert_allclose(document["coef"], in_t, rtol=0, atol=1e-10 * np.abs(in_t).max())
    np.testing.assert_allclose(outcome.coef(), in_t, rtol=5.1e-6)


def test_saved_polynomial_is_the_one_that_numpy_fits(command: Command):
    command(
        "train", DATA / "co2.csv", "--x", "date", "--y", "co2", "--degree", 3, "--epochs", 5000, "--save", "fit.json"
    )
    document = json.loads(Path("fit.json").read_text("utf-8"))
    with (DATA / "co2.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["co2"]]
    dates = [f"{row['date'][:4]}-{row['date'][4:6]}-{row['date'][6:]}" for row in rows]
    days = np.array(dates, dtype="datetime64[D]").astype(float)
    co2 = np.array([float(row["co2"]) for row in rows])

    saved = Polynomial(document["coef"], domain=document["domain"])
    fitted = Polynomial.fit(days, co2, 3, domain=document["domain"])
    assert document["domain"] == [days.min(), days.max()]
    np.testing.assert_allclose(saved(days), fitted(days), rtol=1e-10)
    assert document["x"] == {"column": "date", "unit": "days since 1970-01-01"}
    assert document["y"] == {"column": "co2", "unit": None}
    assert (document["n_rows"], document["n_used"]) == (len(rows) + 59, len(rows))
    assert (document["basis"], document["loss"], document["epochs"]) == ("power", "mse", 5000)


def test_co2_is_read_as_dates_with_59_rows_skipped(command: Command):
    outcome = command("train", DATA / "co2.csv", "--x", "date", "--y", "co2", "--degree", 1, "--epochs", 1)
    assert "2284 rows, 2225 used, 59 skipped for a missing value\n" in outcome.out
    assert "date: dates, as numbers of days, 1958-03-29 .. 2001-12-29\n" in outcome.out
    assert "the loss is still falling: more --epochs" in outcome.out


def test_lr_and_epochs_are_those_asked_for(command: Command):
    outcome = command(*train(degree=2, epochs=7, lr=0.125, save="fit.json"))
    powers, y = vandermonde(np.arange(11.0), 2), np.arange(1.0, 22.0, 2.0)
    coef = np.zeros(3)
    for _ in range(7):
        coef = coef - 0.125 * 2 / 11 * powers.T @ (powers @ coef - y)
    document = json.loads(Path("fit.json").read_text("utf-8"))
    np.testing.assert_allclose(document["coef"], coef, rtol=1e-12)
    assert document["loss_value"] == pytest.approx(np.mean((powers @ coef - y) ** 2), rel=1e-12)
    assert document["optimizer"] == {"rule": "SGD", "lr": 0.125}
    assert document["epochs"] == 7
    assert "learning rate 0.125\n" in outcome.out


def test_rate_is_chosen_below_the_largest_stable_one(command: Command):
    outcome = command(*train(degree=4, save="fit.json"))
    largest = largest_stable_lr(np.arange(11.0), 4)
    named = outcome.number(rf"chosen as 95% of the largest stable one for mse, {NUMBER}$")
    assert named == pytest.approx(largest, rel=1e-3)
    document = json.loads(Path("fit.json").read_text("utf-8"))
    assert document["optimizer"]["lr"] == pytest.approx(0.95 * largest, rel=1e-12)


def test_polynomial_and_map_that_are_printed_give_the_line(command: Command):
    outcome = command(*train(epochs=200))
    found = re.search(rf"^with t = \(x - {NUMBER}\) / {NUMBER}$", outcome.out, re.MULTILINE)
    assert found is not None
    center, half_width = map(float, found.groups())
    x = np.arange(11.0)
    np.testing.assert_allclose(Polynomial(outcome.coef())((x - center) / half_width), 1 + 2 * x, rtol=1e-5)


# Seconds, milliseconds and a range whose ends are further apart than the largest number.
@pytest.mark.parametrize(
    ("low", "high"), [(1.7e9, 1.7e9 + 60), (1700000000123.0, 1700000001123.0), (-1.5e308, 1.5e308)]
)
def test_map_that_is_printed_takes_the_data_to_one_in_size(command: Command, low, high):
    write_csv("data.csv", [low, high], [1, 2])
    outcome = command(*train("data.csv"))
    found = re.search(rf"^with t = \(x - {NUMBER}\) / (\S+)$", outcome.out, re.MULTILINE)
    assert found is not None
    center, half_width = map(float, found.groups())
    # As many digits as the coefficients have.
    assert (low - center) / half_width == pytest.approx(-1, abs=5e-6)
    assert (high - center) / half_width == pytest.approx(1, abs=5e-6)


def test_picture_of_dates_shows_data_and_curves(command: Command):
    outcome = command(
        "train", DATA / "co2.csv", "--x", "date", "--y", "co2", "--degree", 2, "--epochs", 1000, "--out", "fit.png"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert "picture in fit.png" in outcome.out
    assert_shows_curves(Path("fit.png"))


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
    # With text in it: some formats call for other programs only then.
    figure = Figure(figsize=(1, 1))
    figure.text(0.1, 0.5, "x")
    path = tmp_path / f"fit.{ending}"
    plotting.save_figure(figure, path)
    assert path.stat().st_size > 0
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_cannot_be_read_are_counted_apart(command: Command):
    Path("data.csv").write_text("x,y\n1,2\n2,\n3,many\n4,5\n,many\n", "utf-8")
    outcome = command(*train("data.csv"))
    assert "5 rows, 2 used, 2 skipped for a missing value, 1 for one that is no number or date\n" in outcome.out


@pytest.mark.parametrize("level", [7.0, 0.0])
def test_constant_y_is_fitted_without_r_squared(command: Command, level):
    write_csv("data.csv", range(5), [level] * 5)
    outcome = command(*train("data.csv", epochs=300, save="fit.json", out="fit.png"))
    assert (outcome.status, outcome.err) == (0, "")
    assert "R^2 is not defined: y is constant\n" in outcome.out
    document = json.loads(Path("fit.json").read_text("utf-8"))
    assert document["r_squared"] is None
    assert document["coef"] == pytest.approx([level, 0.0], abs=1e-12)


def test_fewer_rows_than_coefficients_are_pointed_out(command: Command):
    write_csv("data.csv", [0, 1], [1, 3])
    assert "fewer rows than coefficients" in command(*train("data.csv", degree=2)).out
    assert "fewer rows than coefficients" not in command(*train("data.csv", degree=1)).out


@pytest.mark.parametrize("name", ["v [m/s]", "rate [/s]", "[bold]", "a:x:b", "cost [a/b] $^$", "$x_$", "back\\[b]"])
def test_names_are_shown_as_they_are(command: Command, name):
    file = f"{name.replace('/', ' per ')}.csv"
    write_csv(file, range(5), [3] * 5, names=(name, "2" + name))
    picture = file.replace(".csv", ".png")
    outcome = command(*train(file, x=name, y="2" + name, out=picture))
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert f"{file}: 5 rows, 5 used, 0 skipped for a missing value" in lines
    assert f"{name}: 0 .. 4" in lines
    assert f"with t = ({name} - 2) / 2" in lines
    assert f"R^2 is not defined: 2{name} is constant" in lines
    assert f"picture in {picture}" in lines


def test_dates_at_the_end_of_the_calendar_can_be_drawn(command: Command):
    # 9999-12-31 stands for "open" in many a table.
    write_csv("data.csv", ["2000-01-01", "2010-01-01", "9999-12-31"], [1, 2, 3])
    outcome = command(*train("data.csv", out="fit.png"))
    assert (outcome.status, outcome.err) == (0, "")
    assert "x: dates, as numbers of days, 2000-01-01 .. 9999-12-31\n" in outcome.out
    assert_shows_curves(Path("fit.png"))


# --- what is refused ---


BAD_DATA = [
    pytest.param({"file": "absent.csv"}, "absent.csv: no such file", id="no such file"),
    pytest.param({"file": "folder"}, "folder is a folder; name a CSV file", id="a folder"),
    pytest.param({"file": "empty.csv"}, "empty.csv is empty", id="empty file"),
    pytest.param({"file": "header.csv"}, "none of 0 rows can be used", id="header only"),
    pytest.param({"file": "latin.csv"}, "not text in UTF-8", id="another encoding"),
    pytest.param({"x": "z"}, "no column 'z'; its columns are 'x', 'y'", id="x not there"),
    pytest.param({"y": "z"}, "no column 'z'; its columns are 'x', 'y'", id="y not there"),
    pytest.param({"file": "gaps.csv"}, "none of 3 rows can be used: 2 lack a value", id="no usable row"),
    pytest.param({"file": "constant.csv"}, "all values of 'x' are 2.5", id="constant x"),
    pytest.param({"file": "day.csv"}, "all values of 'x' are 2020-01-31", id="constant date"),
    pytest.param({"file": "narrow.csv"}, "", id="x too narrow to be mapped"),
    pytest.param({"file": "narrowest.csv"}, "", id="x as narrow as can be"),
    pytest.param({"file": "huge.csv"}, "scale y down", id="squares of y overflow"),
]
BAD_OPTIONS = [
    pytest.param({"degree": -1}, "'--degree'", id="degree negative"),
    pytest.param({"degree": "two"}, "'--degree'", id="degree a word"),
    pytest.param({"degree": 1.5}, "'--degree'", id="degree a fraction"),
    pytest.param({"epochs": 0}, "'--epochs'", id="epochs 0"),
    pytest.param({"epochs": -3}, "'--epochs'", id="epochs negative"),
    pytest.param({"lr": -0.1}, "--lr=-0.1", id="lr negative"),
    pytest.param({"lr": 0}, "--lr=0.0", id="lr zero"),
    pytest.param({"lr": "nan"}, "--lr=nan", id="lr nan"),
    pytest.param({"lr": "inf"}, "--lr=inf", id="lr infinite"),
    pytest.param({"lr": "fast"}, "'--lr'", id="lr a word"),
    pytest.param({"lr": 100}, "--lr 100 must diverge", id="lr too large"),
    pytest.param({"speed": 3}, "--speed", id="no such option"),
]


@pytest.mark.parametrize(("changes", "said"), BAD_DATA + BAD_OPTIONS)
def test_bad_input_is_refused_and_older_outputs_stay(refused: Callable[..., str], changes: dict[str, object], said):
    Path("folder").mkdir()
    Path("empty.csv").touch()
    Path("header.csv").write_text("x,y\n", "utf-8")
    Path("latin.csv").write_text("x,y,été\n1,2,3\n2,3,4\n", "latin-1")
    write_csv("gaps.csv", [1, "", 3], ["", 2, "many"])
    write_csv("constant.csv", [2.5] * 3, [1, 2, 3])
    write_csv("day.csv", ["2020-01-31"] * 3, [1, 2, 3])
    write_csv("narrow.csv", [0, 1e-309], [1, 2])
    write_csv("narrowest.csv", [0, 5e-324], [1, 2])
    write_csv("huge.csv", [1, 2], [1e200, 2e200])
    Path("old.json").write_bytes(b"old fit")
    Path("old.png").write_bytes(b"old picture")
    options = {"save": "old.json", "out": "old.png"} | changes
    assert said in refused(*train(str(options.pop("file", "line.csv")), **options))


BAD_OUTPUTS = [
    pytest.param({"out": "fit.xyz"}, ["fit.xyz is no picture", "pdf", "png", "svg"], id="unknown ending"),
    pytest.param({"out": "fit"}, ["fit is no picture", "png"], id="no ending"),
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
    monkeypatch.delattr("polyfit.cli.output.train")
    monkeypatch.delattr("polyfit.cli.demo.train")
    monkeypatch.delattr("polyfit.cli.train.read_columns")
    assert "no folder" in refused(*train(out="absent/fit.png"))
    assert "no folder" in refused("demo", "--out", "absent/fit.png")


@pytest.mark.parametrize("degree", [0, 1, 3, 5])
def test_largest_stable_rate_is_named_and_can_be_taken(
    command: Command, refused: Callable[..., str], degree, tmp_path: Path
):
    x = np.array([0.0, 0.3, 1.0, 1.7, 2.0, 2.2, 5.0])
    write_csv("data.csv", x, x**2)
    largest = largest_stable_lr(x, degree)
    line = refused(*train("data.csv", degree=degree, lr=1.001 * largest, save="fit.json"))
    assert "must diverge" in line
    named = re.findall(rf"largest stable rate for these data is {NUMBER}\n", line)[0]
    assert float(named) == pytest.approx(largest, rel=1e-3)
    assert command(*train("data.csv", degree=degree, lr=named)).status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--epochs", 0], "'--epochs'"),
        (["demo", "--eager-epochs", 0], "'--eager-epochs'"),
        (["demo", "--out", "demo.xyz"], "demo.xyz is no picture"),
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
def test_commands_that_make_no_sense_are_refused(refused: Callable[..., str], arguments, said):
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


# --- when something fails on the way ---


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


def test_interrupt_stops_without_a_traceback(command: Command, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object, **__: object) -> Never:
        raise KeyboardInterrupt

    Path("fit.json").write_bytes(b"old")
    before = contents(Path())
    monkeypatch.setattr("polyfit.cli.output.train", interrupt)
    outcome = command(*train(save="fit.json", out="fit.png"))
    assert outcome.status == 130
    assert outcome.err.strip() == "stopped"
    assert contents(Path()) == before


def test_defects_of_our_own_are_not_hidden(command: Command, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> Never:
        raise ZeroDivisionError

    monkeypatch.setattr("polyfit.cli.output.train", fail)
    with pytest.raises(ZeroDivisionError):
        command(*train())


# --- python -m polyfit ------------------------------------------------------------------------------------------------


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


def test_main_ends_the_process_with_the_status_of_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli, "run", lambda: 130)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


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
    # y = 1 + 2 x on eleven points; rules with a rate of their own come near and hover there.
    torch.testing.assert_close(
        values, 1 + 2 * x, rtol=0, atol=1e-6 if "m" in optimizer[:1] or optimizer == "sgd" else 1.0
    )


def test_names_that_train_does_not_know_are_refused(refused):
    assert "--optimizer newton is unknown" in refused(*train(optimizer="newton"))
    assert "loss='hinge' is unknown" in refused(*train(loss="hinge"))
    assert "basis='cubic' is unknown" in refused(*train(basis="cubic"))
    assert "engine='fast' is unknown" in refused(*train(engine="fast"))
    assert "does not apply" in refused(*train(engine="closed_form", optimizer="adam"))
    assert "must diverge" in refused(*train(lr=10.0))


def test_patience_ends_a_run_that_no_longer_falls(command: Command):
    outcome = command(*train(epochs=100_000, patience=500, optimizer="momentum", engine="moments"))
    assert (outcome.status, outcome.err) == (0, "")
    assert "stopped: the loss has not come down any more" in outcome.out
    assert 500 < outcome.number(rf"after {NUMBER} epochs") < 10_000


def test_train_writes_a_log_for_tensorboard(command: Command):
    pytest.importorskip("tensorboard")
    outcome = command(*train(epochs=1000, monitor="tensorboard:logs/line,bar"))
    assert (outcome.status, outcome.err) == (0, "")
    assert len(list(Path("logs/line").iterdir())) == 1
    assert "1000/1000" in outcome.out
    assert "1000/1000" not in command(*train(epochs=1000, monitor="none")).out


def test_a_monitor_that_fails_is_told_in_a_line_and_the_polynomial_is_saved(
    command: Command, monkeypatch: pytest.MonkeyPatch
):
    class Full:
        def __call__(self, epoch: int, loss: float, coef: torch.Tensor) -> None:
            raise OSError("disk full")

    monkeypatch.setattr("polyfit.cli.options.ProgressBar", Full)
    outcome = command(*train(epochs=1000, save="line.json"))
    assert (outcome.status, outcome.err) == (0, "")
    assert (
        "warning: the monitor Full failed and is called no more, the run goes on: OSError('disk full')" in outcome.out
    )
    assert Path("line.json").exists()


def test_monitors_that_cannot_be_had_are_refused(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    assert "--monitor radio is unknown; pass bar, tensorboard:DIR" in refused(*train(monitor="radio"))
    assert "--monitor tensorboard is unknown; pass bar, tensorboard:DIR" in refused(*train(monitor="tensorboard"))
    assert "'one' is no port; pass a number" in refused(*train(monitor="visdom:localhost:one"))
    monkeypatch.setitem(sys.modules, "visdom", None)
    assert "pip install 'fused-polyfit[visdom]'" in refused(*train(monitor="visdom"))


def test_ctrl_c_within_a_run_gives_what_was_reached(command: Command, monkeypatch: pytest.MonkeyPatch):
    class Impatient:
        def __call__(self, epoch: int, loss: float, coef: torch.Tensor) -> None:
            if epoch > 0:
                raise KeyboardInterrupt

    monkeypatch.setattr("polyfit.cli.options.ProgressBar", Impatient)
    outcome = command(*train(epochs=10**8, engine="moments", save="line.json", out="line.png"))
    assert outcome.status == 130
    assert "stopped by Ctrl-C: this is what was reached" in outcome.out
    assert json.loads(Path("line.json").read_text())["epochs"] < 10**8
    assert_shows_curves(Path("line.png"))


# --- fit ---


def test_fit_prints_the_exact_fit_and_its_errors_and_saves_them(command, tmp_path):
    shutil.copy(DATA / "co2.csv", "co2.csv")
    outcome = command(
        "fit", "co2.csv", "--x", "date", "--y", "co2", "--degree", 2, "--save", "fit.json", "--out", "fit.png"
    )
    assert outcome.status == 0, outcome.err
    fit = polyfit.Fit.load("fit.json")
    table = read_columns(Path("co2.csv"), "date", "co2")
    expected = Polynomial.fit(table.x.values, table.y.values, 2)
    np.testing.assert_allclose(fit.to_numpy()(np.array(table.x.values)), expected(np.array(table.x.values)), rtol=1e-12)
    rows = re.findall(r"│ +(\d+) │ +(\S+) │ +(\S+) │", outcome.out)
    assert [int(k) for k, _, _ in rows] == [0, 1, 2]
    assert [float(value) for _, value, _ in rows] == pytest.approx(fit.coef.tolist(), rel=1e-14)
    assert [float(error) for _, _, error in rows] == pytest.approx(fit.std_err.tolist(), rel=1e-5)
    assert outcome.number(rf"^R\^2 {NUMBER},") == pytest.approx(fit.r_squared, abs=1e-6)
    # Residuals do not depend on how x counts time: rows, in the reference.
    assert fit.rss == pytest.approx(float(CO2_REFERENCE["degree2"]["rss"]), rel=1e-12)
    picture = matplotlib.image.imread("fit.png")
    assert picture.std() > 0.05


def test_fit_in_powers_of_x_and_a_chosen_degree(command):
    outcome = command("fit", "line.csv", "--x", "x", "--y", "y", "--degree", 1, "--basis", "power", "--raw")
    assert "y = 1 + 2 x" in outcome.out
    write_csv(
        "wave.csv", [k / 50 for k in range(101)], [math.sin(3 * k / 50) + 0.01 * math.cos(999 * k) for k in range(101)]
    )
    outcome = command("fit", "wave.csv", "--x", "x", "--y", "y", "--max-degree", 12, "--criterion", "cv")
    x = torch.tensor([k / 50 for k in range(101)], dtype=torch.float64)
    y = torch.tensor([math.sin(3 * k / 50) + 0.01 * math.cos(999 * k) for k in range(101)], dtype=torch.float64)
    expected = polyfit.select_degree(x, y, 12, criterion="cv")
    assert f"degree {expected.degree} of 0 to 12, by cv" in outcome.out


def test_what_fit_refuses(refused, command):
    assert "one of --degree" in refused("fit", "line.csv", "--x", "x", "--y", "y")
    assert "one of --degree" in refused("fit", "line.csv", "--x", "x", "--y", "y", "--degree", 1, "--max-degree", 2)
    assert "basis='cubic' is unknown" in refused(
        "fit", "line.csv", "--x", "x", "--y", "y", "--degree", 1, "--basis", "cubic"
    )
    assert "criterion='r2' is unknown" in refused(
        "fit", "line.csv", "--x", "x", "--y", "y", "--max-degree", 1, "--criterion", "r2"
    )
    assert "do not determine 12 coefficients" in refused("fit", "line.csv", "--x", "x", "--y", "y", "--degree", 11)
    write_csv("same.csv", [1, 1, 1], [1, 2, 3])
    outcome = command("fit", "same.csv", "--x", "x", "--y", "y", "--degree", 1)
    assert outcome.status == 0
    assert "warning: the data determine 1 of 2 coefficients" in outcome.out
    assert "rank_deficient" in outcome.out
