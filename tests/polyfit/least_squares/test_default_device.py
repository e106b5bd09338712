"""The default device and dtype of PyTorch do not matter to fits: what is computed is on the device of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fit_cases import F64, curve, line, quiet, uniform
from torch import Tensor

import polyfit
from polyfit import Fit, Moments, bases

X, Y, WEIGHT = 5.0 + line(30), curve(30), 0.5 + uniform(30)
POWERS: dict[str, Any] = {"basis": "power", "domain": (-1, 1)}


@pytest.fixture(params=["meta", "float16"])
def default(request) -> Iterator[Callable[[], None]]:
    """A function that sets a default on which every result would be lost or rounded."""

    def change() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(torch.float16)

    yield change
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def numbers(fit: Fit) -> list[Tensor]:
    """All that a fit computes."""
    powers = fit.in_basis("power")
    values, std = fit.predict(X, return_std=True)
    return [fit.coef, fit.std_err, fit.covariance, powers.coef, powers.std_err, fit(X), values, std]


def collected() -> Fit:
    first = Moments(3, domain=(4.0, 6.0)).update(X, Y, WEIGHT)
    second = Moments(3, domain=(4.0, 6.0))
    second.load_state_dict(first.state_dict())
    return (first + second.update(X, 2.0 * Y)).fit()


FITS: dict[str, Callable[[], Fit]] = {
    "chebyshev": lambda: polyfit.fit(X, Y, 2, weight=WEIGHT),
    "powers": lambda: polyfit.fit(X, Y, 2, **POWERS),
    "a domain": lambda: polyfit.fit(X, Y, 2, sigma=WEIGHT, domain=(0, 10), precision="double"),
    "fixed": lambda: polyfit.fit(X, Y, 2, **POWERS, fixed={0: 1.0}),
    "ridge": lambda: polyfit.fit(X, Y, 2, **POWERS, ridge=1.0),
    "ridge of few": lambda: polyfit.fit(X[:2], Y[:2], 2, **POWERS, ridge=1.0),
    "rank deficient": lambda: quiet(X[:6] * 0, Y[:6], 2),
    "omit": lambda: polyfit.fit(X.where(X < 5.5, torch.nan), Y, 2, nan_policy="omit"),
    "aic": lambda: polyfit.select_degree(X, Y, 5, criterion="aic"),
    "cross-validation": lambda: polyfit.select_degree(X, Y, 5, criterion="cv", weight=WEIGHT),
    "moments": collected,
}


@pytest.mark.parametrize("few", [8, 4096])
@pytest.mark.parametrize("name", FITS)
def test_fits(name, few, default, set_sizes):
    set_sizes(few_samples=few)
    expected = numbers(FITS[name]())
    default()
    for ours, theirs in zip(numbers(FITS[name]()), expected, strict=True):
        assert ours.device.type == "cpu"
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_files_and_series_of_numpy(default, tmp_path):
    fit = polyfit.fit(X, Y, 3)
    default()
    fit.save(tmp_path / "fit.json")
    assert polyfit.Fit.load(tmp_path / "fit.json").coef.tolist() == fit.coef.tolist()
    coef, _, _ = bases.from_numpy(fit.to_numpy())
    assert (coef.device.type, coef.dtype) == ("cpu", F64)
    assert coef.tolist() == fit.coef.tolist()


def test_a_plot(default):
    pytest.importorskip("matplotlib")
    fit = polyfit.fit(X, Y, 3)
    default()
    curve_of_fit = fit.plot().axes[0].get_lines()[0]
    assert np.size(curve_of_fit.get_xdata()) > 30
