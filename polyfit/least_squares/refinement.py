r"""The solution of a least-squares problem: a first polynomial, then corrections until they no longer count.

1. One pass over the data gives the Gram matrix G and the moments g of the residuals about a first polynomial.
2. A correction makes the moments zero: by the eigenvectors of G, or, where squares of singular values have too few
   digits, by the singular values of a QR factor of the data (`algebra`).
3. The residuals of the corrected polynomial give new moments, and these the next correction. The precision of the
   residuals decides the digits of the result: float64 for "double", twice its digits for "extended" (`residuals`).

Few data start from zero. Long data start from the fit to some thousands of the samples. Residuals about that polynomial
are about as large as those of the solution, so that the first pass in float64 counts as a step of refinement, and most
fits take no second pass.

References:
    Björck, Numerical Methods for Least Squares Problems (1996), 2.9 for iterative refinement, 6.6.5 for corrected
    seminormal equations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from polyfit.backends import operators, select, sizes
from polyfit.backends.results import MomentSums
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array, to_array
from polyfit.least_squares.conditions import Conditions
from polyfit.least_squares.data import Data
from polyfit.least_squares.design import DesignMatrix
from polyfit.least_squares.residuals import ExtendedResiduals
from polyfit.least_squares.unknowns import ConstrainedUnknowns, Uncertainty, Unknowns

_EPS = torch.finfo(torch.float64).eps
# The relative error of a correction, in eps condition**2 (by G) or eps condition (by QR). Measured on 200 problems: at
# most 5.3 by G and 119 by QR.
_CORRECTION_ROUNDINGS = 8.0
# Refinement ends where the next correction is expected below this share of the largest coefficient. "double": 32 eps,
# the rounding of residuals in float64. "extended": 17 bits below the rounding of a coefficient, left for terms that
# cancel in the change of basis. After corrections by QR an error of up to 2**-66 may remain: 119 / 8 of 2**-70.
_ENOUGH = {"double": 2.0**-47, "extended": 2.0**-70}
# Five corrections reach 2**-70 up to condition 3e10: (8 eps 3e10)**5. A warning starts at 1e10. Measured for
# "extended": 2 corrections up to condition 1e2, 3 up to 1e8, 4 up to 1e10, 5 at 3e10.
_MOST_CORRECTIONS = 5
# A sum of squares may be computed as a difference where it loses at most two bits by it.
_LARGEST_DECREASE = 4.0


# A solution is inaccurate if its last correction was above this share of the largest coefficient and refinement did not
# end by itself.
_INACCURATE = 2.0**-20


# A function of coefficients, high and low, that returns moments and sum of squares of the residuals.
Residuals = Callable[[Array, Array], tuple[Array, float]]


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients of Chebyshev polynomials on the internal domain, and the equations that they solve.

    Attributes:
        high: coefficients, (p,) with p = degree + 1.
        low: their low parts, (p,).
        gram: the Gram matrix G, (p, p).
        rss: the weighted sum of squared residuals.
        moments: sum(w r T_k) of the residuals, (p,).
        uncertainty: of the coefficients.
        method: how the directions were found, "moments" or "qr".
        rest: further parts of the coefficients, (parts, p), or None.
        is_accurate: False where the corrections did not become small, or float64 does not hold the coefficients.
    """

    high: Array
    low: Array
    gram: Array
    rss: float
    moments: Array
    uncertainty: Uncertainty
    method: str
    rest: Array | None = None
    is_accurate: bool = True


def solve(data: Data, degree: int, conditions: Conditions | None, precision: str) -> Solution:
    """Solve for the coefficients; the steps are those of the module.

    Args:
        data: the samples.
        degree: of the polynomial.
        conditions: ridge and fixed coefficients, or None.
        precision: of the residuals, "double" or "extended".
    """
    extended = None
    if precision == "extended":
        extended = ExtendedResiduals(data.x, data.y, data.weight, degree, data.domain)
    matrix = _design_matrix(data, degree, extended)
    guess = np.zeros(degree + 1) if matrix is not None else first_guess(data, degree)
    unknowns = Unknowns(guess) if conditions is None else ConstrainedUnknowns(conditions, guess)
    if matrix is not None:
        (of_x, moments), rss = matrix.moments(), math.inf
    else:
        sums = _pass(data, degree, unknowns.high, want_gram=True)
        assert sums.of_x is not None
        of_x, (moments, rss) = to_array(sums.of_x[0]), _of_residuals(sums)
    gram = algebra.gram(of_x, degree)
    if matrix is not None and conditions is not None:
        moments = moments - gram @ unknowns.high
    unknowns.determine(gram, data)
    if unknowns.solved is not None:
        latest, is_accurate = unknowns.solved, True
    else:
        residuals = _residuals(data, degree, matrix, extended)
        is_refined = matrix is None and extended is None
        latest, is_accurate = _refine(unknowns, gram, (rss, moments), residuals, precision, is_refined=is_refined)
    unknowns.finish()
    uncertainty, rest = unknowns.uncertainty(), unknowns.rest()
    return Solution(
        unknowns.high,
        unknowns.low,
        gram,
        *latest,
        uncertainty=uncertainty,
        method=unknowns.method,
        rest=rest,
        is_accurate=is_accurate and unknowns.has_digits,
    )


def _refine(
    unknowns: Unknowns,
    gram: Array,
    latest: tuple[float, Array],
    residuals: Residuals,
    precision: str,
    *,
    is_refined: bool,
) -> tuple[tuple[float, Array], bool]:
    """Correct the unknowns until corrections no longer count.

    Args:
        unknowns: with their directions.
        gram: the Gram matrix.
        latest: sum of squares and moments of the residuals of the unknowns.
        residuals: see `_residuals`.
        precision: of the residuals.
        is_refined: whether `latest` has this precision.

    Returns:
        Sum of squares and moments of the residuals at the end, and whether the corrections became small.
    """
    condition, method, change = unknowns.directions.condition, unknowns.method, gram[0]
    for _ in range(_MOST_CORRECTIONS):
        rss, moments = latest
        change = unknowns.correct(moments)
        if is_refined:
            latest = _after(rss, moments, change, gram)
            if _is_enough(unknowns.high, change, rss, latest[0], condition, precision, method):
                return latest, True
        is_refined = True
        moments, rss = residuals(unknowns.high, unknowns.low)
        latest = rss, moments
    return latest, _size(change) <= _INACCURATE * _size(unknowns.high)


def keeps_digits(before: float, after: float) -> bool:
    """Whether a sum of squares that was computed as a difference from `before` has lost at most two bits by it."""
    return before <= _LARGEST_DECREASE * after


# --- the data ---


def _design_matrix(data: Data, degree: int, extended: ExtendedResiduals | None) -> DesignMatrix | None:
    """The design matrix of few samples, which takes less time than a launch on a GPU; None for many samples."""
    if data.n_samples > sizes.current().few_samples or data.impl == "triton":
        return None
    if extended is not None and (chunk := extended.only_chunk) is not None:
        return DesignMatrix(chunk.functions.high, chunk.y, chunk.weight)
    return DesignMatrix.of_samples(data.x, data.y, data.weight, degree, data.domain)


def first_guess(data: Data, degree: int) -> Array:
    """The fit to every k-th sample, with k such that few remain: coefficients (degree + 1,) near the solution."""
    step = -(-data.n_samples // sizes.current().few_samples)
    weight = None if data.weight is None else data.weight[::step]
    of_x, moments = DesignMatrix.of_samples(data.x[::step], data.y[::step], weight, degree, data.domain).moments()
    return algebra.from_gram(algebra.gram(of_x, degree)).correction(moments)


def _pass(data: Data, degree: int, coef: Array, *, want_gram: bool) -> MomentSums:
    """One pass over the data: moments of the residuals about a polynomial, and with want_gram those of x."""
    impl = select.resolve_fit_impl(data.impl, data.x.device)
    series = torch.from_numpy(coef).to(data.x.device)
    return operators.moments(data.x, data.y, data.weight, degree, data.domain, series, impl, want_gram=want_gram)


def _of_residuals(sums: MomentSums) -> tuple[Array, float]:
    """Moments and sum of squares of the residuals."""
    return to_array(sums.of_residuals[0]), float(sums.squares[0])


def _residuals(data: Data, degree: int, matrix: DesignMatrix | None, extended: ExtendedResiduals | None) -> Residuals:
    """The residuals in the precision that was asked for, from the data or from their design matrix."""
    if extended is not None:
        return extended
    if matrix is not None:
        return lambda high, low: matrix.residuals(high)
    return lambda high, low: _of_residuals(_pass(data, degree, high, want_gram=False))


# --- corrections ---


def _after(rss: float, moments: Array, change: Array, gram: Array) -> tuple[float, Array]:
    """Sum of squares and moments of the residuals after a change of the coefficients."""
    changed = moments - gram @ change
    after = rss - float(change @ (moments + changed))
    return after if not after < 0.0 else 0.0, changed


def _is_enough(
    high: Array, change: Array, before: float, after: float, condition: float, precision: str, method: str
) -> bool:
    """Whether to end refinement: the next correction is expected to be too small, and the sum of squares is known.

    Args:
        high: the coefficients.
        change: the last correction.
        before: the sum of squared residuals before it, from the residuals themselves.
        after: the same after it, computed as a difference.
        condition: of the problem.
        precision: of the residuals.
        method: of the directions.
    """
    error = _CORRECTION_ROUNDINGS * _EPS * condition ** (2 if method == "moments" else 1)
    size, last = _size(high), _size(change)
    return last * min(error, 1.0) <= _ENOUGH[precision] * size and (
        keeps_digits(before, after) or last <= _ENOUGH["double"] * size
    )


def _size(values: Array) -> float:
    """The largest magnitude."""
    return max(map(abs, values.tolist()))
