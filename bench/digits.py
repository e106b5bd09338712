"""Correct digits on NIST's certified least-squares problems, ours beside what else a user could call.

`python -m bench.digits` prints a table for each of coefficients and standard errors: the digits, -log10 of the relative
error, of the worst coefficient of powers of x, with data read as float64. Where NIST certifies a standard error of
zero, the absolute error stands in its place. All 15 digits that NIST prints count as 15.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polyfit

DATA = Path(__file__).parent.parent / "tests" / "data" / "nist"
NAMES = ("Norris", "Pontius", "NoInt1", "Filip", "Wampler1", "Wampler2", "Wampler3")
_PRINTED = 15.0

Result = tuple[list[float] | None, list[float] | None]


def load(name: str) -> dict[str, Any]:
    """A problem: data and certified values, as NIST prints them."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def ours(problem: dict[str, Any], precision: str) -> Result:
    """Coefficients and standard errors by `polyfit.fit`."""
    x, y = (torch.tensor([float(value) for value in problem[key]], dtype=torch.float64) for key in "xy")
    options: dict[str, Any] = {}
    if 0 not in problem["coef_degrees"]:
        options = {"basis": "power", "fixed": {0: 0.0}}
    fit = polyfit.fit(x, y, problem["degree"], precision=precision, **options).in_basis("power")
    return fit.coef[problem["coef_degrees"]].tolist(), fit.std_err[problem["coef_degrees"]].tolist()


def _arrays(problem: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.array([float(value) for value in problem[key]]) for key in "xy")
    return x, y


def numpy_polyfit(problem: dict[str, Any]) -> Result:
    """np.polyfit, which always has a constant."""
    if 0 not in problem["coef_degrees"]:
        return None, None
    x, y = _arrays(problem)
    coef = np.polyfit(x, y, problem["degree"])
    errors = None
    if len(x) > problem["degree"] + 3:
        _, covariance = np.polyfit(x, y, problem["degree"], cov=True)
        errors = np.sqrt(np.diag(covariance))[::-1].tolist()
    return coef[::-1].tolist(), errors


def polynomial_fit(problem: dict[str, Any]) -> Result:
    """numpy.polynomial.Polynomial.fit, converted to powers of x."""
    x, y = _arrays(problem)
    if 0 in problem["coef_degrees"]:
        series: Any = np.polynomial.Polynomial.fit(x, y, problem["degree"])
    else:
        series = np.polynomial.Polynomial.fit(x, y, problem["coef_degrees"], domain=[-1, 1])
    coef = series.convert().coef
    return coef[problem["coef_degrees"]].tolist(), None


def scipy_lstsq(problem: dict[str, Any]) -> Result:
    """scipy.linalg.lstsq on the matrix of powers of x."""
    import scipy.linalg

    x, y = _arrays(problem)
    solution: Any = scipy.linalg.lstsq(x[:, None] ** np.array(problem["coef_degrees"]), y)
    return solution[0].tolist(), None


METHODS: dict[str, Callable[[dict[str, Any]], Result]] = {
    "polyfit, extended": lambda problem: ours(problem, "extended"),
    "polyfit, double": lambda problem: ours(problem, "double"),
    "np.polyfit": numpy_polyfit,
    "Polynomial.fit": polynomial_fit,
    "scipy.linalg.lstsq": scipy_lstsq,
}


def digits(values: list[float], certified: list[str]) -> float:
    """Correct digits of the worst of some values."""
    worst = _PRINTED
    for value, text in zip(values, certified, strict=True):
        exact = Fraction(text)
        error = abs(Fraction(value) - exact) / (abs(exact) or 1)
        worst = min(worst, -math.log10(error) if error else _PRINTED)
    return max(worst, 0.0)


def table(kind: str) -> list[str]:
    """Lines of a Markdown table of digits: of "coef" or of "std_err"."""
    lines = ["| | " + " | ".join(NAMES) + " |", "|---|" + "---|" * len(NAMES)]
    for name, method in METHODS.items():
        row = []
        for problem in map(load, NAMES):
            coef, errors = method(problem)
            values = coef if kind == "coef" else errors
            row.append("" if values is None else f"{digits(values, problem['certified'][kind]):.1f}")
        if any(row):
            lines.append(f"| {name} | " + " | ".join(row) + " |")
    return lines


def main() -> int:
    """Print both tables."""
    warnings.simplefilter("ignore")  # np.polyfit's rank warning on Filip: its digits say it too
    for kind, title in (("coef", "Coefficients"), ("std_err", "Standard errors")):
        print(f"{title}, correct digits of the worst\n", *table(kind), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
