"""From a solution to a `Fit`: degrees of freedom, variance, covariance, status and warnings."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from polyfit import bases
from polyfit.bases import Interval
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.estimate import Estimate, in_basis
from polyfit.least_squares.result import Fit, FitWarning

_ILL_CONDITIONED = 1e10


def make_fit(
    high: Array,
    low: Array,
    own: Interval,
    *,
    basis: str,
    domain: Interval,
    fixed: dict[int, float],
    n_samples: int,
    gram: Array,
    rss: float,
    total: float,
    unit: float,
    directions: algebra.Directions,
    penalty: Array | None,
    absolute_sigma: bool,
    method: str,
    precision: str,
    device: torch.device,
) -> Fit:
    """Put together what was found; called by what the user calls, which warnings point to.

    Args:
        high: coefficients of Chebyshev polynomials on `own`, (p,).
        low: what they lack.
        own: the domain that the fit was made on.
        basis: that is wanted.
        domain: that is wanted.
        fixed: coefficients in these that keep their values.
        n_samples: of positive weight.
        gram: the Gram matrix on `own`, (p, p).
        rss: sum(w r**2).
        total: the same of y, about its mean where the constant is free; 0 where it is rounding.
        unit: of y, in which coefficients, fixed ones, rss and total are given: a power of two.
        directions: of the normal equations.
        penalty: that they include, (p, p), or None.
        absolute_sigma: whether weights are 1/sigma**2 in units of y.
        method: how directions were found.
        precision: of the residuals.
        device: where `Fit.coef` is to lie.
    """
    n_free = len(high) - len(fixed)
    spread, effective = directions.basis, float(directions.rank)
    if penalty is not None:
        # With A the matrix of the normal equations and B B.T its inverse, A^-1 V.T W e has covariance B (B.T G B) B.T.
        inner, vectors = np.linalg.eigh(spread.T @ gram @ spread)
        effective = float(inner.sum())
        spread = spread @ (vectors * np.sqrt(np.maximum(inner, 0.0)))
    freedom = n_samples - effective
    freedom = freedom if freedom > 1e-9 * n_samples else 0.0
    deviation = 1.0 if absolute_sigma else unit * math.sqrt(rss / freedom) if freedom else math.nan
    high, low = unit * high, unit * low
    coef = in_basis(high, low, basis, own, domain)
    for k, value in fixed.items():
        coef[k] = unit * value
    status = "ok" if freedom else "interpolates"
    if directions.rank < n_free:
        status = "rank_deficient"
        warnings.warn(
            f"the data determine {directions.rank} of {n_free} coefficients: of all polynomials that fit them alike,"
            " the one with the least coefficients was taken, and standard errors of what is open are NaN. Pass"
            f" degree={max(0, len(high) - 1 - n_free + directions.rank)} or less, samples at more different x, or"
            " ridge > 0",
            FitWarning,
            stacklevel=3,
        )
    elif directions.condition > _ILL_CONDITIONED:
        warnings.warn(
            f"the condition is {directions.condition:.1e}: errors of the data may grow by as much in the coefficients."
            " Pass a lower degree, samples that fill their range more evenly, or ridge > 0",
            FitWarning,
            stacklevel=3,
        )
    elif not all(map(math.isfinite, coef.tolist())):
        warnings.warn(
            f"coefficients of {basis} on {domain} are larger than float64 holds; pass a domain nearer to the data",
            FitWarning,
            stacklevel=3,
        )
    return Fit(
        coef=coef.to(device),
        basis=basis,
        domain=domain,
        n_samples=n_samples,
        rss=unit * (unit * rss),
        r_squared=1.0 - rss / total if total > 0.0 else math.nan,
        degrees_of_freedom=freedom,
        rank=directions.rank,
        condition=directions.condition,
        status=status,
        solver=method,
        precision=precision,
        estimate=Estimate(high, low, own, spread, directions.null, deviation),
        fixed=tuple(fixed),
    )


def not_finite(x: Tensor, degree: int, basis: str, domain: Interval | None) -> Fit:
    """A fit of NaN, for data that are not finite under "propagate"."""
    nan = np.full(degree + 1, math.nan)
    return Fit(
        coef=torch.from_numpy(nan.copy()).to(x.device),
        basis=basis,
        domain=bases.BASES[basis].window if domain is None else domain,
        n_samples=x.shape[0],
        rss=math.nan,
        r_squared=math.nan,
        degrees_of_freedom=math.nan,
        rank=0,
        condition=math.nan,
        status="not_finite",
        solver="moments",
        precision="double",
        estimate=Estimate(nan, nan, (-1.0, 1.0), nan[:, None], None, math.nan),
    )
