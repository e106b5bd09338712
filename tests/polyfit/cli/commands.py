"""Arguments and outcomes of commands, and checks of data and pictures."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import numpy as np

DATA = Path(__file__).parents[2] / "data"
# The exact least-squares fits, by rational arithmetic, to the values as printed in co2.csv.
CO2_REFERENCE = json.loads((DATA / "co2_reference.json").read_text("utf-8"))
NUMBER = r"([-+]?\d[\d.e+-]*)"


class Outcome(NamedTuple):
    status: int
    out: str
    err: str

    def number(self, pattern: str) -> float:
        """The number that matches the group of the pattern, which must occur once."""
        found = re.findall(pattern, self.out + self.err, re.MULTILINE)
        assert len(found) == 1
        return float(found[0])

    def coef(self) -> list[float]:
        """The coefficients of the one polynomial printed."""
        (text,) = re.findall(r"^y = (.*)$", self.out, re.MULTILINE)
        signed = text.replace("- ", "-").replace("+ ", "+").split()
        return [float(signed[0]), *map(float, signed[1::2])]


Command = Callable[..., Outcome]


def write_csv(name: str, x: object, y: object, names: tuple[str, str] = ("x", "y")) -> None:
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *zip(x, y, strict=True)])  # pyright: ignore[reportArgumentType]


def contents(folder: Path) -> dict[str, bytes | None]:
    """The bytes of each file in the folder and below, hidden files included; None for a folder."""
    return {str(path): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def train(file: str = "line.csv", **options: object) -> list[object]:
    """Arguments of `polyfit train`: a short run of degree 1, changed by the options given."""
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
    # A curve crosses its half of the picture, and each column of pixels has some of its colour.
    width = left.shape[1] // 2
    assert count(left, red) > width
    assert count(right, blue) > width
    assert count(right, gray) > 0
    assert count(left, blue) == count(right, red) == 0
