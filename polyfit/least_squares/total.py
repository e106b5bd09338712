r"""The total sum of squares of y, to which R^2 relates the sum of squared residuals.

It is taken about the weighted mean, or about the constant where that is fixed: it is the sum of squared residuals of
the fit without its other terms. About a number m near the mean ::

    sum(w (y - m)**2) - sum(w (y - m))**2 / sum(w)

is exact to rounding, however m was rounded.

References:
    Chan, Golub & LeVeque, "Algorithms for computing the sample variance", Am. Stat. 37 (1983).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import torch

from polyfit.backends import sizes
from polyfit.least_squares.algebra import to_array
from polyfit.least_squares.data import Data
from polyfit.least_squares.refinement import Solution

_EPS = torch.finfo(torch.float64).eps
# The largest condition at which the total of long data is computed from the solution. A quadratic form of the Gram
# matrix has a relative error of some eps condition**2, here 2e-13.
_SMALL_CONDITION = 32.0
# The largest rss, as a share of the total sum of squares, of a solution without fixed coefficients. A constant alone
# has the share 1 and no penalty. The rest is for roundings.
_LARGEST_RSS = 1.0 + 1e-6
# Elements that a sum over long data holds at a time: 512 KiB.
_CHUNK = 1 << 16


def total_sum_of_squares(data: Data, solution: Solution | None, *, about: float | None) -> float:
    """The total sum of squares about a number, or about the weighted mean for None; 0 where it is only rounding.

    For few data it comes from the data, for long data from the solution, unless that is None, or the condition costs
    too many digits.
    """
    is_few = data.n_samples <= sizes.current().few_samples
    if not is_few and solution is not None and solution.uncertainty.condition < _SMALL_CONDITION:
        return _from_solution(solution, about)
    sums = _sums_at_once if is_few else _sums_in_chunks
    sum_of_weights, mean, first, total = sums(data, about)
    if about is not None:
        return _unless_rounding(total, sum_of_weights, about)
    # Divided first: the square may overflow for large weights.
    return _unless_rounding(total - first * (first / sum_of_weights), sum_of_weights, mean)


def total_of(data: Data, given: Data, solution: Solution, about: float | None) -> float:
    """The total sum of squares about a number of any size, or about the mean for None, in the units of data.

    It is computed in units of its own where fixed coefficients decided the unit of data: squares of y may underflow
    there.

    Args:
        data: the samples, in the units of the solution.
        given: the same samples, in the unit of y.
        solution: the solution.
        about: a number, in the unit 1, or None.
    """
    if about is not None:
        given = given.in_unit_for(abs(Decimal(about)))
        about /= given.unit
    if given.unit == data.unit:
        return total_sum_of_squares(data, solution, about=about)
    ratio, total = given.unit / data.unit, total_sum_of_squares(given, None, about=about)
    # A total that underflows stays positive: R^2 is then -inf.
    return max(total * ratio * ratio, math.ulp(0.0)) if total > 0.0 else 0.0


def checked(solution: Solution, total: float) -> Solution:
    """The solution without fixed coefficients, marked as inaccurate where a constant alone has a smaller rss."""
    return replace(solution, is_accurate=False) if solution.rss > _LARGEST_RSS * total > 0.0 else solution


def _unless_rounding(total: float, sum_of_weights: float, mean: float) -> float:
    """The total, or 0 where y differs from its mean by no more than four roundings of it."""
    return total if total > sum_of_weights * (4.0 * _EPS * mean) ** 2 else 0.0


def _from_solution(solution: Solution, about: float | None) -> float:
    """The total without a pass over the data: y less a number is V e + r, with e the coefficients less the number.

    So it is ``e.G e + 2 e.g + rss``, with the moments g of the residuals r.
    """
    gram, moments, difference = solution.gram, solution.moments, solution.high
    sum_of_weights = float(gram[0, 0])
    if about is None:
        # The mean of V e + r is zero, which gives the first entry of e without a difference of coefficient and mean.
        first = -float(moments[0] + gram[0, 1:] @ difference[1:]) / sum_of_weights
        about = float(difference[0]) - first
    else:
        first = float(difference[0] - about + solution.low[0])
    difference = np.concatenate(([first], difference[1:]))
    total = solution.rss + float(difference @ (gram @ difference + 2.0 * moments))
    return _unless_rounding(total, sum_of_weights, about)


# --- from the data: sum(w), the mean m or the given number, sum(w (y - m)), sum(w (y - m)**2) ---

_Sums = tuple[float, float, float, float]


def _sums_at_once(data: Data, about: float | None) -> _Sums:
    y = to_array(data.y)
    weight = None if data.weight is None else to_array(data.weight)
    sum_of_weights = float(data.n_samples if weight is None else weight.sum())
    mean = about
    if mean is None:
        mean = float(y.sum() if weight is None else weight @ y) / sum_of_weights
    difference = y - mean
    weighted = difference if weight is None else weight * difference
    return sum_of_weights, mean, float(weighted.sum()), float(weighted @ difference)


def _sums_in_chunks(data: Data, about: float | None) -> _Sums:
    mean = about
    if mean is None:
        sum_of_weights, first, _ = _sums_about(data, 0.0)
        mean = first / sum_of_weights
    sum_of_weights, first, total = _sums_about(data, mean)
    return sum_of_weights, mean, first, total


def _sums_about(data: Data, mean: float) -> tuple[float, float, float]:
    """The sums of w, w (y - mean) and w (y - mean)**2, one chunk at a time."""
    sums = []
    weights = [None] if data.weight is None else data.weight.split(_CHUNK)
    for y, weight in zip(data.y.split(_CHUNK), itertools.cycle(weights), strict=False):
        difference = y.double() - mean if mean or y.dtype != torch.float64 else y
        weighted = difference if weight is None else difference * weight
        total = difference.new_tensor(len(difference)) if weight is None else weight.sum(dtype=torch.float64)
        sums.append(torch.stack((total, weighted.sum(), torch.dot(weighted, difference))))
    sum_of_weights, first, second = torch.stack(sums).sum(0).tolist()
    return sum_of_weights, first, second
