"""Fits beside numpy's. Checked first, timed after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import polyfit

POLYNOMIAL = np.polynomial.Polynomial


def data(n_samples: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Noise about a sine on [-3, 3]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n_samples, generator=generator, dtype=dtype) * 6 - 3
    return x, torch.sin(x) + 0.1 * torch.randn(n_samples, generator=generator, dtype=dtype)


def check(x: Tensor, y: Tensor, degree: int, precision: str = "auto") -> None:
    series = POLYNOMIAL.fit(x.cpu().numpy(), y.cpu().numpy(), degree).convert()
    coef = polyfit.fit(x, y, degree, precision=precision).in_basis("power").coef
    torch.testing.assert_close(coef.cpu(), torch.tensor(series.coef.tolist()).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("degree", [5, 12])
def test_fit_of_1e7_samples(degree, in_turn):
    x, y = data(10_000_000)
    check(x, y, degree)
    x_array, y_array = x.numpy(), y.numpy()
    in_turn(
        lambda: polyfit.fit(x, y, degree),
        {
            "np.polyfit": lambda: np.polyfit(x_array, y_array, degree),
            "Polynomial.fit": lambda: POLYNOMIAL.fit(x_array, y_array, degree),
        },
        rounds=3,
        bytes=16 * 10_000_000,
    )


@pytest.mark.parametrize("precision", ["double", "extended"])
@pytest.mark.parametrize("n_samples", [100, 2000])
def test_fit_of_few_samples(n_samples, precision, in_turn):
    x, y = data(n_samples)
    check(x, y, 5, precision)
    x_array, y_array = x.numpy(), y.numpy()
    in_turn(
        lambda: [polyfit.fit(x, y, 5, precision=precision) for _ in range(100)],
        {
            "np.polyfit": lambda: [np.polyfit(x_array, y_array, 5) for _ in range(100)],
            "Polynomial.fit": lambda: [POLYNOMIAL.fit(x_array, y_array, 5) for _ in range(100)],
        },
        rounds=15,
        calls=100,
    )


def test_fit_of_1e5_samples_in_extended_precision(in_turn):
    x, y = data(100_000)
    check(x, y, 5)
    x_array, y_array = x.numpy(), y.numpy()
    in_turn(lambda: polyfit.fit(x, y, 5), {"np.polyfit": lambda: np.polyfit(x_array, y_array, 5)}, rounds=9)


@pytest.mark.parametrize("n_samples", [2000, 10_000_000])
def test_degree_up_to_12_with_5_folds(n_samples, in_turn):
    x, y = data(n_samples)
    calls = 20 if n_samples < 10_000 else 1
    in_turn(
        lambda: [polyfit.select_degree(x, y, 12, criterion="cv") for _ in range(calls)],
        {"one fit of degree 12": lambda: [polyfit.fit(x, y, 12) for _ in range(calls)]},
        rounds=5,
        calls=calls,
    )
