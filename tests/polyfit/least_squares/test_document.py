"""Files of fits."""

from __future__ import annotations

import json
import pickle
import re
from typing import Any

import pytest
from result_cases import assert_same, data, fits

import polyfit
from polyfit import Fit


@pytest.mark.filterwarnings("ignore:the coefficients of .* cancel:polyfit.FitWarning")
@pytest.mark.parametrize("name", fits())
def test_files_bring_everything_back(name, tmp_path):
    fit = fits()[name]
    path = tmp_path / "fit.json"
    fit.save(path)
    assert_same(Fit.load(path), fit)
    text = path.read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON
    assert document["version"] == 2
    Fit.load(str(path)).save(path)
    assert path.read_text(encoding="utf-8") == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.json"]


def damaged(path: Any, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(version=3), "version 3 of its format and this polyfit reads 2; read it with the version"),
        (lambda d: d.update(version=1), "version 1 of its format"),
        (lambda d: d.update(version="2"), "version '2'"),
        (lambda d: d.pop("version"), "version None"),
        (lambda d: d.update(format="other"), "does not hold a fit; pass a file that Fit.save wrote"),
        (lambda d: d.pop("coef"), "is damaged.*coef"),
        (lambda d: d.pop("rss"), "is damaged.*rss"),
        (lambda d: d.update(coef=3.0), "is damaged"),
        (lambda d: d.update(coef=["a"]), "is damaged"),
        (lambda d: d.update(basis="monomial"), "is damaged.*monomial"),
        (lambda d: d.update(domain=[1.0]), "is damaged"),
        (lambda d: d.update(estimate=None), "is damaged"),
        (lambda d: d["estimate"].update(spread=[[1.0]]), "is damaged"),
        (lambda d: d["estimate"].update(high=[1.0]), "is damaged"),
        (lambda d: d["estimate"].update(high=[1.0, 2.0, 3.0, 4.0]), "is damaged"),
        (lambda d: d.update(coef=[1.0]), "is damaged"),
        (lambda d: d["coef"].__setitem__(1, 7.0), "is damaged.*coef are not the coefficients of its estimate"),
        (lambda d: d["coef"].__setitem__(1, {"number": "nan"}), "is damaged.*coef are not"),
        (lambda d: d["estimate"]["high"].__setitem__(1, 7.0), "is damaged.*coef are not"),
        (lambda d: d["estimate"].update(domain=[0.0, 100.0]), "is damaged.*coef are not"),
        (lambda d: d.update(basis="legendre"), "is damaged.*coef are not"),
        (lambda d: d.update(std_err=[1.0]), "is damaged.*std_err"),
        (lambda d: d.update(std_err=None), "is damaged.*std_err"),
        (lambda d: d.update(rss=None), "is damaged.*rss is None"),
        (lambda d: d.update(rss="1"), "is damaged.*rss"),
        (lambda d: d.update(rss=10**400), "is damaged"),
        (lambda d: d.update(n_samples=2.5), "is damaged.*n_samples"),
        (lambda d: d.update(n_samples=True), "is damaged.*n_samples"),
        (lambda d: d.update(n_samples=-1), "is damaged.*n_samples"),
        (lambda d: d.update(rank=None), "is damaged.*rank"),
        (lambda d: d.update(status=0), "is damaged.*status"),
        (lambda d: d.update(absolute_sigma=0), "is damaged.*absolute_sigma"),
        (lambda d: d.update(sample_weight=[]), "is damaged.*sample_weight"),
        (lambda d: d.update(fixed=[3]), "is damaged.*fixed"),
        (lambda d: d.update(fixed=["0"]), "is damaged.*fixed"),
        (lambda d: d.update(fixed=None), "is damaged"),
        (lambda d: (d.update(fixed=[0]), d["coef"].__setitem__(0, {"number": "nan"})), "is damaged.*not finite"),
        (lambda d: d["estimate"].update(deviation=None), "is damaged"),
        (lambda d: d["coef"].__setitem__(0, 10**400), "is damaged"),
        (lambda d: d["estimate"].update(high=10**400), "is damaged"),
        (lambda d: d["estimate"].update(spread=[[None]]), "is damaged"),
        (lambda d: d.update(domain={"number": "nan"}), "is damaged"),
    ],
)
def test_files_that_are_not_ours_are_named(change, match, tmp_path):
    path = tmp_path / "fit.json"
    polyfit.fit(*data()[:2], 2).save(path)
    damaged(path, change)
    with pytest.raises(ValueError, match=match):
        Fit.load(path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "null", "\x00\x01", "[" * 100_000, "1" * 5000], ids=range(8))
def test_files_that_hold_no_fit_are_named(text, tmp_path):
    path = tmp_path / "fit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Fit.load(path)


def test_a_pickle_is_no_file_of_ours(tmp_path):
    path = tmp_path / "fit.json"
    path.write_bytes(pickle.dumps(polyfit.fit(*data()[:2], 2)))
    with pytest.raises(ValueError, match="not JSON"):
        Fit.load(path)


@pytest.mark.filterwarnings("ignore::polyfit.FitWarning")
@pytest.mark.parametrize(("unit", "origin", "domain"), [(1e198, 0.0, (-1e299, 1.3e300)), (1.0, 100.0, None)])
def test_fixed_coefficients_of_a_basis_far_from_the_data(unit, origin, domain, tmp_path):
    # In the estimate terms cancel: the fixed zero is a sum of some 1e-23 there.
    x, y, _ = data()
    x = unit * (origin + x)
    fit = polyfit.fit(x, y, 6, basis="hermite_e", domain=domain, fixed={0: 1.0, 1: 0.0}, ridge=1.0)
    fit.save(tmp_path / "fit.json")
    assert_same(Fit.load(tmp_path / "fit.json"), fit)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Fit.load(tmp_path / "none.json")


def test_deep_nesting_is_named(tmp_path):
    path = tmp_path / "fit.json"
    polyfit.fit(*data()[:2], 2).save(path)
    text = path.read_text().replace('"status": "ok"', '"status": ' + "[" * 900 + "]" * 900)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is damaged|is not JSON"):
        Fit.load(path)


def test_numbers_that_are_whole_come_back_as_floats(tmp_path):
    path = tmp_path / "fit.json"
    polyfit.fit(*data()[:2], 2).save(path)
    damaged(path, lambda d: d.update(rss=3, condition=2))
    fit = Fit.load(path)
    assert (type(fit.rss), type(fit.condition)) == (float, float)
