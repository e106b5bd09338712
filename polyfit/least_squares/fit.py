r"""Least squares: `fit`.

The normal equations of a polynomial are badly conditioned in powers of x and harmless in Chebyshev polynomials of the
range of the data, where their matrix takes 2 d + 1 sums. So that is where every fit is made:

1. one pass over the data gives the Gram matrix G and the moments g of the residuals about a first polynomial;
2. a correction answers to g: by the eigenvectors of G, or where squared singular values have too few digits by the
   singular values of a QR factor of the data (`algebra`);
3. iterative refinement: residuals of the corrected polynomial, their moments, another correction. Their precision
   decides the digits of the result: float64 for "double", twice its digits for "extended" (`residuals`);
4. coefficients are kept as unevaluated sums of two numbers, and rounded once, when they have been taken to the basis
   and the domain that were asked for, by exact matrices (`polyfit.bases`).

For long data the first polynomial is the fit to some thousands of the samples: residuals about it are about as large as
they will be in the end, so that step 1 is as exact as a step of refinement, and one pass is all there is.

References:
    Björck, Numerical Methods for Least Squares Problems (1996), 2.9 and 6.6.5 for iterative refinement and corrected
    seminormal equations; NIST StRD (https://www.itl.nist.gov/div898/strd/) for certified results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from polyfit import _checks, bases
from polyfit.backends import select
from polyfit.bases import Interval
from polyfit.least_squares.conditions import fixed_values, make_conditions
from polyfit.least_squares.data import NAN_POLICIES, prepare
from polyfit.least_squares.refinement import solve
from polyfit.least_squares.result import Fit
from polyfit.least_squares.statistics import make_fit, not_finite
from polyfit.least_squares.total import total_sum_of_squares

PRECISIONS = ("auto", "double", "extended")
# Samples up to which "auto" is "extended": 15 ms on two x86 cores for degree 5.
_EXTENDED_UP_TO = 100_000


def fit(
    x: Tensor,
    y: Tensor,
    degree: int,
    *,
    weight: Tensor | None = None,
    sigma: Tensor | None = None,
    absolute_sigma: bool = False,
    basis: str = "chebyshev",
    domain: Sequence[float] | None = None,
    ridge: float = 0.0,
    fixed: Mapping[int, float] | None = None,
    nan_policy: str = "raise",
    precision: str = "auto",
    impl: str = "auto",
) -> Fit:
    r"""Fit a polynomial to data by weighted least squares.

    .. math:: \min_c \; \sum_n w_n \Bigl( y_n - \sum_{k=0}^{d} c_k P_k(t(x_n)) \Bigr)^2 + \lambda \sum_{k=1}^{d} c_k^2

    Args:
        x: where, (N,).
        y: the data, (N,).
        degree: d, at least 0.
        weight: w, (N,): 1/sigma**2 for independent errors of standard deviation sigma. (numpy's w is its square root.)
            Samples of weight zero are left out, whatever else they hold.
        sigma: standard deviations of y, (N,), in place of weight.
        absolute_sigma: whether sigma is in units of y, so that standard errors follow from it alone. By default only
            its ratios count, and standard errors are scaled with the residuals.
        basis: of the coefficients: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis, which is [-1, 1], and [0, 1] for laguerre; None for
            the range of the data. For coefficients of powers of x itself map the window onto itself,
            ``basis="power", domain=(-1, 1)``, or ask the result for ``in_basis("power")``.
        ridge: lambda, at least 0; shrinks all coefficients of `basis` and `domain` but the constant.
        fixed: values of coefficients of `basis` and `domain` that are not to be fitted, by their index: for a line
            through the origin ``basis="power", domain=(-1, 1), fixed={0: 0.0}``.
        nan_policy: what NaN and infinity in the data lead to: "raise" (an error that says where), "omit" (those samples
            are left out) or "propagate" (a fit of NaN).
        precision: "double" (residuals in float64), "extended" (in twice its digits: all that float64 data allow), or
            "auto": "extended" for up to 100000 samples, "double" beyond.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton" or "torch".

    Returns:
        A `Fit`: coefficients, covariance and standard errors, R^2, rank and condition; it evaluates, predicts with
        intervals, converts to other bases, plots, saves.

    dtypes: float16, bfloat16, float32 or float64, all operands alike; the result is float64 throughout.

    Raises:
        TypeError: not a floating-point tensor, or dtypes that differ; a degree that is no whole number.
        ValueError: shapes that do not fit; NaN or infinity under "raise"; fewer samples than free coefficients;
            negative weights or none above zero; weight and sigma both given; an unknown name.

    Warns:
        FitWarning: the data do not determine all coefficients (`Fit.status` is then "rank_deficient", the least
            coefficients were taken, and those left open have standard errors NaN), or only just.

    >>> import torch, polyfit
    >>> x = torch.linspace(0, 10, 21, dtype=torch.float64)
    >>> fit = polyfit.fit(x, 3 - 2 * x + 0.5 * x**2, degree=2)
    >>> fit.in_basis("power").coef
    tensor([ 3.0000, -2.0000,  0.5000], dtype=torch.float64)
    >>> print(fit)
    y = 11.75 + 15 T_1(t) + 6.25 T_2(t), t = (x - 5)/5
    >>> float(fit(20.0))
    163.0

    References:
        See the module's; numpy.polynomial's ``fit`` for domains and windows, scipy.optimize.curve_fit for
        ``absolute_sigma``.
    """
    degree, ridge, values, bounds = _checked(degree, ridge, fixed, basis, domain, precision, nan_policy)
    data = prepare(x, y, weight, sigma, nan_policy, impl)
    if data is None:
        return not_finite(x, degree, basis, bounds)
    n_free = degree + 1 - len(values)
    if data.n_samples < n_free:
        raise ValueError(
            f"{data.n_samples} samples do not determine {n_free} coefficients of degree {degree}; pass"
            f" degree={max(0, data.n_samples - 1 + len(values))} or less, or more samples"
        )
    if precision == "auto":
        precision = "extended" if data.n_samples <= _EXTENDED_UP_TO else "double"
    bounds = data.domain if bounds is None else bounds
    values = {k: value / data.unit for k, value in values.items()}
    with select.without_autocast(x.device), np.errstate(all="ignore"):
        conditions = make_conditions(degree, data.domain, basis, bounds, ridge, values)
        solution = solve(data, degree, conditions, precision)
        total = total_sum_of_squares(data, solution, has_constant=0 not in values)
    return make_fit(
        solution.high,
        solution.low,
        data.domain,
        basis=basis,
        domain=bounds,
        fixed=values,
        n_samples=data.n_samples,
        gram=solution.gram,
        rss=solution.squares,
        total=total,
        unit=data.unit,
        directions=solution.directions,
        penalty=conditions.penalty,
        absolute_sigma=absolute_sigma,
        method=solution.method,
        precision=precision,
        device=x.device,
    )


# --- what was asked for ---


def _checked(
    degree: int,
    ridge: float,
    fixed: Mapping[int, float] | None,
    basis: str,
    domain: Sequence[float] | None,
    precision: str,
    nan_policy: str,
) -> tuple[int, float, dict[int, float], Interval | None]:
    """Degree, ridge, fixed coefficients and bounds of the domain as plain numbers."""
    degree, ridge = _checks.checked_degree(degree), _checks.checked_ridge(ridge)
    bases.resolve(basis)
    for name, value, accepted in (
        ("precision", precision, PRECISIONS),
        ("nan_policy", nan_policy, NAN_POLICIES),
    ):
        _checks.check_choice(name, value, accepted)
    values = {} if fixed is None else fixed_values(fixed)
    for k, value in values.items():
        if not 0 <= k <= degree:
            raise ValueError(f"fixed has an index {k}; the coefficients of degree {degree} are 0 to {degree}")
        if not math.isfinite(value):
            raise ValueError(f"fixed={{{k}: {value!r}}} is not finite; pass a number that the coefficient is to keep")
    return degree, ridge, dict(sorted(values.items())), None if domain is None else bases.interval(domain)
