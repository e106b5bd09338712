"""Fits of every kind, and their comparison."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

import polyfit
from polyfit import Fit, FitWarning

F64 = torch.float64
EPS = torch.finfo(F64).eps


def data(n: int = 40, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = 2.0 + 6.0 * torch.rand(n, generator=generator, dtype=F64)
    y = 1.0 - x + 0.25 * x**2 + noise * torch.randn(n, generator=generator, dtype=F64)
    return x, y, 0.5 + torch.rand(n, generator=generator, dtype=F64)


def deficient() -> Fit:
    """With values known at three places, and four coefficients: status "rank_deficient"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polyfit.fit(torch.tensor([1.0, 2.0, 3.0] * 5, dtype=F64), data(15)[1], 3)


def same(a: Any, b: Any) -> bool:
    """Equal, and NaN like NaN."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))
    return a == b or (math.isnan(a) and math.isnan(b))


SCALARS = ["basis", "domain", "n_samples", "rss", "r_squared", "degrees_of_freedom", "rank", "condition", "status"]
SCALARS += ["solver", "precision", "fixed", "degree", "residual_std"]


def assert_same(a: Fit, b: Fit) -> None:
    x = torch.linspace(-3.0, 12.0, 31, dtype=F64)
    for name in (*SCALARS, "coef", "std_err", "covariance"):
        assert same(getattr(a, name), getattr(b, name)), name
    for ours, theirs in zip(a.predict(x, return_std=True), b.predict(x, return_std=True), strict=True):
        assert same(ours, theirs)
    for basis in ("power", "laguerre"):
        first, second = a.in_basis(basis), b.in_basis(basis)
        assert same(first.coef, second.coef)
        assert same(first.covariance, second.covariance)
    assert str(a) == str(b)
    assert repr(a) == repr(b)


def fits() -> dict[str, Fit]:
    x, y, weight = data()
    nan = y.clone()
    nan[3] = math.nan
    return {
        "plain": polyfit.fit(x, y, 3),
        "weighted legendre": polyfit.fit(x, y, 4, weight=weight, basis="legendre", domain=(0.0, 10.0)),
        "float32": polyfit.fit(x.float(), y.float(), 2, basis="laguerre", precision="double"),
        "powers of x": polyfit.fit(x, y, 3).in_basis("power"),
        "fixed": polyfit.fit(x, y, 3, basis="power", fixed={0: 0.0, 2: 1.0}),
        "ridge": polyfit.fit(x, y, 3, ridge=0.1),
        "absolute sigma": polyfit.fit(x, y, 3, sigma=weight, absolute_sigma=True),
        "interpolates": polyfit.fit(x[:3], y[:3], 2),
        "rank deficient": deficient(),
        "not finite": polyfit.fit(x, nan, 2, nan_policy="propagate"),
        "a mean": polyfit.fit(x, y, 0),
        "timestamps": polyfit.fit(1.7e9 + x, y, 2),
    }
