r"""`select_degree`: the degree that a criterion prefers, from one pass over the data.

`folds` gives the sums of squares of all degrees. Sums at the level of rounding count as equal, and of equal degrees the
smallest is chosen: on data without noise the others follow the roundings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import _checks
from polyfit.backends import select
from polyfit.least_squares import fit as fitting
from polyfit.least_squares.data import NAN_POLICIES, Data, prepare
from polyfit.least_squares.folds import collect
from polyfit.least_squares.result import Fit, Selection
from polyfit.least_squares.statistics import in_unit
from polyfit.least_squares.warn import warn

CRITERIA = ("aic", "aicc", "bic", "cv")


def select_degree(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    max_degree: int,
    *,
    criterion: str = "bic",
    folds: int = 5,
    weight: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | None = None,
    absolute_sigma: bool = False,
    basis: str = "chebyshev",
    domain: Sequence[float] | str | None = "auto",
    nan_policy: str = "raise",
    precision: str = "auto",
    impl: str = "auto",
) -> Fit:
    r"""Choose the degree of a polynomial by a criterion, and fit it.

    .. math:: \text{AIC} = n \ln(\text{rss}/n) + 2k, \qquad \text{AICc} = \text{AIC} + \frac{2k(k+1)}{n-k-1}, \qquad
              \text{BIC} = n \ln(\text{rss}/n) + k \ln n

    with n samples and k = d + 2 parameters: the coefficients and the variance. With absolute_sigma the variance is
    known. Then rss replaces n ln(rss/n), and k = d + 1. Otherwise degrees without degrees of freedom are not compared.

    An rss at the level of the rounding of y counts as that level. Of degrees with the same value, the smallest is
    chosen.

    "cv" is cross-validation: each fold is predicted by the fit to the other folds, and the criterion is the weighted
    mean of the squared errors. Sample i belongs to fold i mod folds, so that each fold covers the range of sorted data.
    Samples that are left out (of weight zero, or omitted) are not counted. Shuffle data whose order has a period.

    Args:
        x: sample locations, (N,), as for `polyfit.fit`.
        y: sample values, (N,), likewise.
        max_degree: the largest degree to compare, at least 0.
        criterion: "aic", "aicc", "bic" or "cv"; the degree with its smallest value is chosen.
        folds: the number of folds of cross-validation, at least 2. Other criteria ignore it.
        weight: as for `polyfit.fit`.
        sigma: as for `polyfit.fit`.
        absolute_sigma: as for `polyfit.fit`.
        basis: as for `polyfit.fit`.
        domain: as for `polyfit.fit`.
        nan_policy: as for `polyfit.fit`.
        precision: as for `polyfit.fit`.
        impl: as for `polyfit.fit`.

    Returns:
        The result of `polyfit.fit` for the chosen degree. Its `selection` holds the criterion of all degrees.

    Raises:
        TypeError: as for `polyfit.fit`.
        ValueError: as for `polyfit.fit`; an unknown criterion; folds that are not accepted; fewer samples, or for "cv"
            fewer samples outside a fold, than coefficients of max_degree.

    Warns:
        FitWarning: the data do not determine the largest degrees, and these are not compared; "aic" or "bic" chose more
            coefficients than half of the samples.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    >>> noise = 0.1 * torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> fit = polyfit.select_degree(x, x**3 - x + noise, max_degree=10)
    >>> fit.degree, fit.selection.criterion
    (3, 'bic')

    References:
        Akaike (1974); Hurvich & Tsai (1989) for AICc; Schwarz (1978) for BIC; Stone (1974) for cross-validation.
    """
    _checks.check_choice("criterion", criterion, CRITERIA)
    max_degree = _checks.checked_degree(max_degree, "max_degree")
    folds = _checks.checked_degree(folds, "folds") if criterion == "cv" else 0
    if folds == 1 or (criterion == "cv" and folds < 1):
        raise ValueError(f"folds={folds} leaves no samples to fit or none to test; pass at least 2")
    _checks.check_choice("precision", precision, fitting.PRECISIONS)
    _checks.check_choice("nan_policy", nan_policy, NAN_POLICIES)
    fitting.check_absolute(absolute_sigma, weight, sigma)
    bounds = fitting.checked_domain(domain, basis)
    data = prepare(x, y, weight, sigma, nan_policy, impl)
    if data is None:  # not finite, and to be propagated
        options = {"weight": weight, "sigma": sigma, "basis": basis, "domain": domain, "nan_policy": nan_policy}
        return fitting.fit(x, y, max_degree, **options)
    n_training = data.n_samples - -(-data.n_samples // folds) if folds else data.n_samples
    if n_training <= max_degree:
        raise ValueError(
            f"{n_training} samples{' outside a fold' if folds else ''} do not determine {max_degree + 1} coefficients;"
            f" pass max_degree={max(0, n_training - 1)} or less, or more samples"
        )
    if folds > data.n_samples:
        raise ValueError(f"folds={folds} is more than the {data.n_samples} samples; pass at most {data.n_samples}")
    with torch.no_grad(), select.without_autocast(data.x.device), np.errstate(all="ignore"):
        sums = collect(data, max_degree, max(1, folds))
    if sums.n_degrees <= max_degree:
        warn(
            f"the data do not determine degrees from {sums.n_degrees} on: these are not compared. Pass"
            f" max_degree={sums.n_degrees - 1}, or samples at more different x"
        )
    degrees = range(sums.n_degrees)
    rss = sums.sums_of_squares()
    if folds:
        total_weight = float(data.n_samples if data.weight is None else data.weight.sum(dtype=torch.float64))
        means = [max(error, sums.floor) / total_weight for error in sums.prediction_errors()]
        values = [data.unit * (data.unit * mean) for mean in means]
    else:
        if not absolute_sigma:  # without degrees of freedom, rss is a rounding and says nothing of the variance
            degrees = range(max(1, min(sums.n_degrees, data.n_samples - 1)))
        values = means = [
            _information(criterion, max(rss[degree], sums.floor), data, degree, is_variance_known=absolute_sigma)
            for degree in degrees
        ]
    best = min(degrees, key=means.__getitem__)
    if criterion in {"aic", "bic"} and not absolute_sigma and 2 * (best + 1) > data.n_samples:
        warn(
            f"criterion={criterion!r} chose {best + 1} coefficients for {data.n_samples} samples; it is meant for many"
            " samples, and prefers too large degrees where few degrees of freedom are left. Pass criterion='aicc' or"
            f" 'cv', or max_degree={max(0, data.n_samples // 3 - 1)}"
        )
    rss = tuple(in_unit(value, data.unit, data.sigma_unit, squared=True) for value in rss[: len(degrees)])
    fit = fitting.fit_samples(
        data,
        best,
        absolute_sigma=absolute_sigma,
        basis=basis,
        bounds=bounds,
        ridge=0.0,
        fixed={},
        precision=precision,
    )
    return replace(fit, selection=Selection(criterion, tuple(degrees), tuple(values), rss, best, folds))


def _information(criterion: str, rss: float, data: Data, degree: int, *, is_variance_known: bool) -> float:
    """An information criterion, see `select_degree`; rss is measured in the units of the data."""
    parameters, n = degree + 1 + (not is_variance_known), data.n_samples
    if is_variance_known:
        deviance = in_unit(rss, data.unit, data.sigma_unit, squared=True)
    else:
        log_scale = math.log(data.unit) - math.log(data.sigma_unit)
        deviance = n * (math.log(rss / n) + 2.0 * log_scale) if rss > 0.0 else -math.inf
    if criterion == "bic":
        return deviance + parameters * math.log(n)
    value = deviance + 2.0 * parameters
    if criterion == "aicc":
        left = n - parameters - 1
        value += 2.0 * parameters * (parameters + 1) / left if left > 0 else math.inf
    return value
