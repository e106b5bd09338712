"""`polyfit fit`: what it prints and saves, and what it refuses."""

import math
import re
import shutil
import sys
from pathlib import Path

import exact
import matplotlib.image
import pytest
import torch
from commands import CO2_REFERENCE, DATA, NUMBER, write_csv

import polyfit
from polyfit.io.tables import read_columns


def test_fit_prints_the_exact_fit_and_its_errors_and_saves_them(command, tmp_path):
    shutil.copy(DATA / "co2.csv", "co2.csv")
    outcome = command(
        "fit", "co2.csv", "--x", "date", "--y", "co2", "--degree", 2, "--save", "fit.json", "--out", "fit.png"
    )
    assert outcome.status == 0, outcome.err
    fit = polyfit.Fit.load("fit.json")
    table = read_columns(Path("co2.csv"), "date", "co2")
    truth = exact.fit(table.x.values, table.y.values, 2, basis=fit.basis, domain=fit.domain)
    assert all(exact.digits(ours, value) >= 15.5 for ours, value in zip(fit.coef.tolist(), truth.coef, strict=True))
    rows = re.findall(r"│ +(\d+) │ +(\S+) │ +(\S+) │", outcome.out)
    assert [int(k) for k, _, _ in rows] == [0, 1, 2]
    assert [float(value) for _, value, _ in rows] == pytest.approx(fit.coef.tolist(), rel=1e-14)
    assert [float(error) for _, _, error in rows] == pytest.approx(fit.std_err.tolist(), rel=1e-5)
    assert outcome.number(rf"^R\^2 {NUMBER},") == pytest.approx(fit.r_squared, abs=1e-6)
    # Residuals do not depend on the unit of x, which is a row in the reference.
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


def test_bad_options_of_fit_are_refused(refused, command):
    assert "neither --degree nor --max-degree is given; pass one" in refused("fit", "line.csv", "--x", "x", "--y", "y")
    assert "--degree and --max-degree are given; pass one" in refused(
        "fit", "line.csv", "--x", "x", "--y", "y", "--degree", 1, "--max-degree", 2
    )
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


def test_a_picture_without_scipy_is_refused_before_anything_is_written(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.special", None)  # as if it were not installed
    line = refused("fit", "line.csv", "--x", "x", "--y", "y", "--degree", 1, "--save", "fit.json", "--out", "fit.png")
    assert "--out needs scipy.special: " in line
    assert "pip install 'fused-polyfit[cli]'" in line
