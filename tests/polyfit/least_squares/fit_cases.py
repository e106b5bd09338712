"""Data that the tests of `polyfit.fit` share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from oracle import NUMPY_CLASSES
from torch import Tensor

import polyfit
from polyfit import Fit, FitWarning

F64 = torch.float64
EPS = torch.finfo(F64).eps
BASES = list(NUMPY_CLASSES)
PRECISIONS = ["double", "extended"]


def quiet(*args: Any, **options: Any) -> Fit:
    """A fit without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polyfit.fit(*args, **options)


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def uniform(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def line(n: int) -> Tensor:
    return torch.linspace(-1.0, 1.0, n, dtype=F64)


def curve(n: int) -> Tensor:
    t = line(n)
    return 1.0 + t - 2.0 * t**2 + 0.1 * noise(n)


Problem = tuple[Tensor, Tensor, Tensor | None, int]
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "a quadratic": lambda: (line(50), curve(50), None, 2),
    "shuffled": lambda: (line(50).flip(0)[torch.randperm(50)], curve(50), None, 3),
    "timestamps": lambda: (1.7e9 + 60.0 * torch.arange(48, dtype=F64), curve(48), None, 3),
    "timestamps, fractions of a second": lambda: (1.7e9 + uniform(40), curve(40), None, 4),
    "y around 1e12": lambda: (line(50), 1e12 + curve(50), None, 3),
    "y around 1e15": lambda: (line(50), 1e15 + curve(50), None, 3),
    "y nearly x": lambda: (line(50), line(50) * (1.0 + 1e-9 * noise(50)), None, 3),
    "as many as coefficients": lambda: (uniform(6), noise(6), None, 5),
    "a mean": lambda: (uniform(30), noise(30), None, 0),
    "a mean at one x": lambda: (torch.full((9,), 3.0, dtype=F64), noise(9), None, 0),
    "a single sample": lambda: (torch.tensor([-7.0], dtype=F64), torch.tensor([0.3], dtype=F64), None, 0),
    "repeated x": lambda: (torch.arange(40, dtype=F64) % 5, noise(40), None, 4),
    "weights over 20 orders": lambda: (line(50), curve(50), 10.0 ** (20.0 * uniform(50) - 10.0), 3),
    "weights that fall over 20 orders": lambda: (line(50), curve(50), 10.0 ** -torch.linspace(0, 20, 50, dtype=F64), 3),
    "weights around 1e-200": lambda: (line(50), curve(50), 1e-200 * (0.5 + uniform(50)), 3),
    "weights around 1e200": lambda: (line(50), curve(50), 1e200 * (0.5 + uniform(50)), 3),
    "two clusters": lambda: (torch.cat((1e-6 * uniform(25), 1 + 1e-6 * uniform(25, 2))), curve(50), None, 3),
    "an outlier at 1000": lambda: (torch.cat((line(49), torch.tensor([1e3], dtype=F64))), curve(50), None, 3),
    "x over 6 orders": lambda: (10.0 ** (3.0 * line(50)), curve(50), None, 5),
    "x around 1e-300": lambda: (1e-300 * line(50), curve(50), None, 2),
    "x up to 1e300": lambda: (1e300 * line(50), curve(50), None, 2),
    "y around 1e-140": lambda: (line(50), 1e-140 * curve(50), None, 2),
    "y around 1e150": lambda: (line(50), 1e150 * curve(50), None, 2),
    "y zero": lambda: (line(20), torch.zeros(20, dtype=F64), None, 2),
    "y one number": lambda: (line(20), torch.full((20,), 0.1, dtype=F64), None, 2),
    "an equispaced degree 12": lambda: (line(60), torch.sin(5 * line(60)) + 0.1 * noise(60), None, 12),
}
ILL = {"weights that fall over 20 orders", "two clusters", "an outlier at 1000"}


def long_data(dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor]:
    n = 20_000
    x = uniform(n) ** 3
    return x.to(dtype), (torch.sin(3.0 * x) + 0.01 * noise(n)).to(dtype), uniform(n, 5).to(dtype)
