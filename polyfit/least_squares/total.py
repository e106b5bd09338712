r"""The total sum of squares of y, to which R^2 relates the sum of squared residuals.

It is taken about the weighted mean, or about zero where the constant is fixed. About a number m near the mean ::

    sum(w (y - m)**2) - sum(w (y - m))**2 / sum(w)

is exact to rounding, however m was rounded.

References:
    Chan, Golub & LeVeque, "Algorithms for computing the sample variance", Am. Stat. 37 (1983).
"""

from __future__ import annotations

import itertools

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
# Elements that a sum over long data holds at a time: 512 KiB.
_CHUNK = 1 << 16


def total_sum_of_squares(data: Data, solution: Solution, *, has_constant: bool) -> float:
    """The total sum of squares, about the weighted mean with has_constant; 0 where it is no more than rounding.

    For few data it comes from the data, for long data from the solution, unless the condition costs too many digits.
    """
    is_few = data.n_samples <= sizes.current().few_samples
    if not is_few and solution.directions.condition < _SMALL_CONDITION:
        return _from_solution(solution, has_constant=has_constant)
    sums = _sums_at_once if is_few else _sums_in_chunks
    sum_of_weights, mean, first, total = sums(data, has_constant=has_constant)
    if not has_constant:
        return total
    # Divided first: the square may overflow for large weights.
    return _unless_rounding(total - first * (first / sum_of_weights), sum_of_weights, mean)


def _unless_rounding(total: float, sum_of_weights: float, mean: float) -> float:
    """The total, or 0 where y differs from its mean by no more than four roundings of it."""
    return total if total > sum_of_weights * (4.0 * _EPS * mean) ** 2 else 0.0


def _from_solution(solution: Solution, *, has_constant: bool) -> float:
    """The total without a pass over the data: y less its mean is V e + r, with e the coefficients less the mean.

    So it is ``e.G e + 2 e.g + rss``, with the moments g of the residuals r.
    """
    gram, moments, difference = solution.gram, solution.moments, solution.high
    sum_of_weights, mean = float(gram[0, 0]), 0.0
    if has_constant:
        # The mean of V e + r is zero, which gives the first entry of e without a difference of coefficient and mean.
        first = -float(moments[0] + gram[0, 1:] @ difference[1:]) / sum_of_weights
        mean = float(difference[0]) - first
        difference = np.concatenate(([first], difference[1:]))
    total = solution.rss + float(difference @ (gram @ difference + 2.0 * moments))
    return _unless_rounding(total, sum_of_weights, mean) if has_constant else total


# --- from the data: sum(w), the mean m or 0, sum(w (y - m)), sum(w (y - m)**2) ---

_Sums = tuple[float, float, float, float]


def _sums_at_once(data: Data, *, has_constant: bool) -> _Sums:
    y = to_array(data.y)
    weight = None if data.weight is None else to_array(data.weight)
    sum_of_weights = float(data.n_samples if weight is None else weight.sum())
    mean = float(y.sum() if weight is None else weight @ y) / sum_of_weights if has_constant else 0.0
    difference = y - mean
    weighted = difference if weight is None else weight * difference
    return sum_of_weights, mean, float(weighted.sum()), float(weighted @ difference)


def _sums_in_chunks(data: Data, *, has_constant: bool) -> _Sums:
    mean = 0.0
    if has_constant:
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
