r"""Least squares for one series: `fit`.

The steps, and the modules that hold them:

1. `data` checks the samples and keeps those that count.
2. `conditions` states ridge and fixed coefficients in terms of the internal coefficients: those of Chebyshev
   polynomials on the range of the data. Every fit is made in these. The normal equations of a polynomial are badly
   conditioned in powers of x and well conditioned there, and their matrix takes 2 d + 1 sums.
3. `refinement` computes the solution, with `unknowns`, `algebra`, `decimals`, `design` and `residuals`.
4. `total` computes the sum of squares that R^2 needs.
5. `statistics` makes a `Fit` of it: the coefficients in the basis and domain of the user, rounded once, and their
   covariance.

References:
    Björck, Numerical Methods for Least Squares Problems (1996); NIST StRD (https://www.itl.nist.gov/div898/strd/) for
    certified results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import _checks, bases
from polyfit.backends import select
from polyfit.bases import Interval
from polyfit.least_squares.conditions import checked_fixed, make_conditions
from polyfit.least_squares.data import NAN_POLICIES, Data, prepare, read_series
from polyfit.least_squares.refinement import solve
from polyfit.least_squares.result import Fit
from polyfit.least_squares.statistics import make_fit, not_finite
from polyfit.least_squares.total import checked, total_of

# The domains that have a name.
DOMAINS = ("auto", "data")
PRECISIONS = ("auto", "double", "extended")
# The most samples for which "auto" is "extended". At this length and degree 5 a fit takes 114 ms, and 51 ms in float64
# (two busy Xeon cores, best of 15, 2026-11-26).
_EXTENDED_UP_TO = 100_000
# The largest polynomial that fixed coefficients may demand: a factor of 1e8 below the largest float64 number is left
# for sums of its terms.
_LARGEST_POLYNOMIAL = Decimal("1e300")


def fit(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    degree: int,
    *,
    weight: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | None = None,
    absolute_sigma: bool = False,
    basis: str = "chebyshev",
    domain: Sequence[float] | str | None = "auto",
    ridge: float = 0.0,
    fixed: Mapping[int, float] | None = None,
    nan_policy: str = "raise",
    precision: str = "auto",
    impl: str = "auto",
) -> Fit:
    r"""Fit a polynomial to data by weighted least squares.

    .. math:: \min_c \; \sum_n w_n \Bigl( y_n - \sum_{k=0}^{d} c_k P_k(t(x_n)) \Bigr)^2 + \lambda \sum_{k=1}^{d} c_k^2

    P_k are the polynomials of the basis, and t(x) maps `domain` affinely onto the window of the basis. Whatever basis
    and domain are, the fit is made in Chebyshev polynomials on the range of the data, and its result is converted.

    Args:
        x: sample locations, (N,): a tensor, or anything that numpy.asarray takes: an array, a list, a column of pandas
            or polars. No gradient flows through a fit.
        y: sample values, (N,), likewise.
        degree: d, at least 0.
        weight: w, (N,), or one number; 1/sigma**2 for independent errors of standard deviation sigma. (numpy's w is its
            square root.) Samples of weight zero are left out, whatever their x and y are.
        sigma: standard deviations of y, (N,), or one number. Pass it instead of weight.
        absolute_sigma: True if sigma is in units of y: standard errors then follow from sigma alone. By default only
            the ratios of sigma count, and standard errors are scaled with the residuals.
        basis: of the coefficients: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: the interval ``(lo, hi)`` that is mapped onto the window of the basis: [0, 1] for laguerre, [-1, 1] for
            the others. None is no mapping, t = x. "data" is the range of the data. "auto" is None for "power" and
            "data" for the other bases.
        ridge: lambda, at least 0. It shrinks all coefficients of `basis` and `domain` except the constant.
        fixed: values of coefficients of `basis` and `domain` that are not fitted, by their index. A line through the
            origin: ``basis="power", fixed={0: 0.0}``.
        nan_policy: for NaN and infinity in the data: "raise" (an error that says where they are), "omit" (leave these
            samples out) or "propagate" (return a fit of NaN).
        precision: of the residuals: "double" (float64), "extended" (twice the digits of float64, which gives all digits
            that float64 data allow), or "auto": "extended" for up to 100000 samples, "double" for more.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        A `Fit`: coefficients, covariance, standard errors, R^2, rank and condition. It evaluates the polynomial,
        predicts with intervals, converts to other bases, plots and saves.

    dtypes: float16, bfloat16, float32 or float64; integers and booleans become float64. Operands of several dtypes are
    promoted as by torch.promote_types. The result is float64, on the device of the data. Data that are not tensors are
    on the CPU, whatever torch's default device is.

    Raises:
        TypeError: data that are not real numbers (complex numbers, dates, texts); a degree that is not an integer;
            fixed that does not map integers to numbers; a domain that is not a pair of numbers.
        ValueError: shapes or devices that differ; NaN or infinity under "raise"; fewer samples than coefficients to
            fit, unless ridge is positive; negative weights, or no positive one; both weight and sigma; absolute_sigma
            without either; a name that is unknown; fixed values whose polynomial overflows float64 on the data.

    Warns:
        FitWarning: different x became equal in their dtype; the coefficients overflow float64, or cancel when they are
            evaluated, as powers of x far from zero do; the condition is above 1e10; the corrections did not converge
            (`Fit.status` is "inaccurate"); or the data do not determine all coefficients. In the last case `Fit.status`
            is "rank_deficient", the result is the minimum-norm solution (the smallest sum of squared Chebyshev
            coefficients on the range of the data), and undetermined coefficients have standard errors NaN.

    >>> import torch, polyfit
    >>> x = torch.linspace(0, 10, 21, dtype=torch.float64)
    >>> fit = polyfit.fit(x, 3 - 2 * x + 0.5 * x**2, degree=2)
    >>> fit.in_basis("power").coef
    tensor([ 3.0000, -2.0000,  0.5000], dtype=torch.float64)
    >>> float(polyfit.polyval(torch.tensor([20.0]).double(), **fit.as_arguments()))
    163.0
    >>> print(fit)
    y = 11.75 + 15 T_1(t) + 6.25 T_2(t), t = (x - 5)/5
    >>> float(fit(20.0))
    163.0

    References:
        Björck, Numerical Methods for Least Squares Problems (1996), for iterative refinement. Domains and windows are
        those of ``fit`` in numpy.polynomial, ``absolute_sigma`` is that of scipy.optimize.curve_fit.
    """
    degree, ridge = _checks.checked_degree(degree), _checks.checked_ridge(ridge)
    _checks.check_choice("precision", precision, PRECISIONS)
    _checks.check_choice("nan_policy", nan_policy, NAN_POLICIES)
    values = checked_fixed(fixed, degree)
    bounds = checked_domain(domain, basis)
    check_absolute(absolute_sigma, weight, sigma)
    data = prepare(x, y, weight, sigma, nan_policy, impl)
    if data is None:
        given = read_series(x, y, weight, sigma, nan_policy)
        return not_finite(len(given.x), degree, basis, None if bounds == "data" else bounds, given.x.device)
    return fit_samples(
        data,
        degree,
        absolute_sigma=absolute_sigma,
        basis=basis,
        bounds=bounds,
        ridge=ridge,
        fixed=values,
        precision=precision,
    )


def fit_samples(
    data: Data,
    degree: int,
    *,
    absolute_sigma: bool,
    basis: str,
    bounds: Interval | Literal["data"] | None,
    ridge: float,
    fixed: dict[int, float],
    precision: str,
) -> Fit:
    """`fit` for samples and arguments that are checked."""
    n_free = degree + 1 - len(fixed)
    if data.n_samples < n_free and not ridge:
        raise ValueError(
            f"{data.n_samples} samples do not determine {n_free} coefficients of degree {degree}; pass"
            f" degree={max(0, data.n_samples - 1 + len(fixed))} or less, more samples, or ridge > 0"
        )
    if precision == "auto":
        precision = "extended" if data.n_samples <= _EXTENDED_UP_TO else "double"
    bounds = data.domain if bounds == "data" else bounds
    with select.without_autocast(data.x.device), np.errstate(all="ignore"):
        conditions = make_conditions(degree, data.domain, basis, bounds, ridge, fixed, data.sigma_unit)
        given = data
        if conditions is not None and fixed:
            if conditions.size > _LARGEST_POLYNOMIAL:
                raise ValueError(
                    f"the polynomials that fulfil fixed={fixed} reach {conditions.size:.0e} on the range of x, and"
                    " overflow float64; pass smaller values, or x in another unit"
                )
            data = data.in_unit_for(conditions.size)
        if conditions is not None:
            conditions = conditions.in_unit(data.unit)
        solution = solve(data, degree, conditions, precision)
        total = total_of(data, given, solution, fixed.get(0))
    return make_fit(
        solution if fixed else checked(solution, total),
        internal_domain=data.domain,
        basis=basis,
        domain=bounds,
        fixed=fixed,
        n_samples=data.n_samples,
        total=total,
        unit=data.unit,
        sigma_unit=data.sigma_unit,
        absolute_sigma=bool(absolute_sigma),
        sample_weight=data.sample_weight,
        precision=precision,
        device=data.x.device,
    ).warn_of_use()


def checked_domain(domain: Sequence[float] | str | None, basis: str) -> Interval | Literal["data"] | None:
    """The domain of the result: an interval, "data" for the range of the data, or None for t = x."""
    if isinstance(domain, str):
        _checks.check_choice("domain", domain, DOMAINS, ", a pair (lo, hi), or None for t = x")
        is_plain = domain == "auto" and bases.resolve(basis).name == "power"
        return None if is_plain else "data"
    return None if domain is None else bases.interval(domain)


def check_absolute(absolute_sigma: bool, weight: object, sigma: object) -> None:
    """Refuse errors in units of y where no errors are given."""
    if absolute_sigma and weight is None and sigma is None:
        raise ValueError(
            "absolute_sigma=True, and sigma is not given; pass sigma, the standard deviation of each sample or one"
            " number, or weight = 1/sigma**2"
        )
