"""From a solution to a `Fit`: degrees of freedom, variance, covariance, status and warnings."""

from __future__ import annotations

import math

import numpy as np
import torch

from polyfit.bases import Interval
from polyfit.least_squares.estimate import Estimate
from polyfit.least_squares.refinement import Solution
from polyfit.least_squares.result import Fit
from polyfit.least_squares.unknowns import Uncertainty
from polyfit.least_squares.warn import warn

# The condition above which a fit warns. There the rounding of the data to float64, 1e-16, may become 1e-6 in a
# coefficient. From 3e10 on, refinement may end before it has found all digits, see `refinement`.
_ILL_CONDITIONED = 1e10


def make_fit(
    solution: Solution,
    *,
    internal_domain: Interval,
    basis: str,
    domain: Interval | None,
    fixed: dict[int, float],
    n_samples: int,
    total: float,
    unit: float,
    sigma_unit: float,
    absolute_sigma: bool,
    sample_weight: float,
    precision: str,
    device: torch.device,
) -> Fit:
    """The `Fit` of a solution. Warnings point to the user's line.

    Args:
        solution: in terms of Chebyshev polynomials on the internal domain.
        internal_domain: the domain on which the solution was computed.
        basis: the basis of the result.
        domain: the domain of the result, or None for t = x.
        fixed: values of the coefficients of basis and domain that were not fitted, by their index.
        n_samples: the number of samples of positive weight.
        total: the total sum of squares, see `total`.
        unit: a power of two in which y and the solution are measured.
        sigma_unit: a power of two; weights are measured in 1/sigma_unit**2, and sums of weighted squares in
            ``(unit / sigma_unit)**2``.
        absolute_sigma: whether weights are 1/sigma**2 in units of y.
        sample_weight: the weight of a sample if all have the same, otherwise NaN.
        precision: of the residuals.
        device: where `Fit.coef` is to lie.
    """
    uncertainty, degree = solution.uncertainty, len(solution.high) - 1
    n_free = degree + 1 - len(fixed)
    freedom = uncertainty.freedom
    in_units = math.sqrt(solution.rss / freedom) if freedom else math.nan
    residual_std = in_unit(in_units, unit, sigma_unit)
    estimate = Estimate(
        solution.high if unit == 1.0 else unit * solution.high,
        solution.low if unit == 1.0 else unit * solution.low,
        internal_domain,
        uncertainty.spread,
        uncertainty.undetermined,
        sigma_unit if absolute_sigma else unit * in_units,
        None if solution.rest is None else unit * solution.rest,
        uncertainty.frame,
        residual_std,
        sigma_unit,
    )
    coef = estimate.coefficients(basis, domain)
    for k, value in fixed.items():
        coef[k] = value
    if uncertainty.rank < n_free:
        status = "rank_deficient"
    elif not solution.is_accurate:
        status = "inaccurate"
    else:
        status = "ok" if freedom else "interpolates"
    message = _warning(uncertainty, status, degree, n_free, basis, domain)
    if message is not None:
        warn(message)
    return Fit(
        coef=coef if coef.device == device else coef.to(device),
        basis=basis,
        domain=domain,
        n_samples=n_samples,
        rss=in_unit(solution.rss, unit, sigma_unit, squared=True),
        r_squared=1.0 - solution.rss / total if total > 0.0 else math.nan,
        degrees_of_freedom=freedom,
        rank=uncertainty.rank,
        condition=uncertainty.condition,
        status=status,
        solver=solution.method,
        precision=precision,
        estimate=estimate,
        fixed=tuple(fixed),
        absolute_sigma=absolute_sigma,
        sample_weight=sample_weight,
    )


def in_unit(value: float, unit: float, sigma_unit: float, *, squared: bool = False) -> float:
    """A value that is measured in ``unit / sigma_unit``, powers of two, or in its square; infinite on overflow."""
    if unit == sigma_unit:
        return float(value)
    exponent = math.frexp(unit)[1] - math.frexp(sigma_unit)[1]
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, 2 * exponent if squared else exponent))


def not_finite(n_samples: int, degree: int, basis: str, domain: Interval | None, device: torch.device) -> Fit:
    """A fit of NaN, for data that are not finite under "propagate"."""
    nan = np.full(degree + 1, math.nan)
    return Fit(
        coef=torch.from_numpy(nan.copy()).to(device),
        basis=basis,
        domain=domain,
        n_samples=n_samples,
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


def _warning(
    uncertainty: Uncertainty,
    status: str,
    degree: int,
    n_free: int,
    basis: str,
    domain: Interval | None,
) -> str | None:
    """The warning about a solution, or None."""
    if status == "rank_deficient":
        return (
            f"the data determine {uncertainty.rank} of {n_free} coefficients: the result is the minimum-norm solution,"
            " and standard errors of undetermined coefficients are NaN. Pass"
            f" degree={max(0, degree - n_free + uncertainty.rank)} or less, samples at more different x, or ridge > 0"
        )
    if status == "inaccurate":
        where = "x" if domain is None else f"the domain {domain}"
        return (
            f"the coefficients are inaccurate: corrections did not converge at condition {uncertainty.condition:.1e},"
            f" or {basis} on {where} lies too far from the data for float64."
            " Pass a lower degree, samples that fill their range more evenly, or a domain nearer to the data"
        )
    if uncertainty.condition > _ILL_CONDITIONED:
        return (
            f"the condition is {uncertainty.condition:.1e}: relative errors of the data may grow by this factor in the"
            " coefficients. Pass a lower degree, samples that fill their range more evenly, or ridge > 0"
        )
    return None
