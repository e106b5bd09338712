"""The total sum of squares of a fit's data, which R^2 is measured against."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from polyfit.backends import sizes
from polyfit.least_squares.data import Data
from polyfit.least_squares.refinement import Solution
from polyfit.least_squares.residuals import to_array

_EPS = torch.finfo(torch.float64).eps
# Condition up to which quadratic forms of the Gram matrix have 12 digits.
_SMALL_CONDITION = 32.0
# Elements that a sum over long data holds at a time.
_CHUNK = 1 << 16


def total_sum_of_squares(data: Data, solution: Solution, *, has_constant: bool) -> float:
    """The sum of squares of y, about its mean where there is a constant; 0 where it is no more than rounding.

    About a number m near the mean, ``sum(w (y - m)**2) - sum(w (y - m))**2 / sum(w)`` is exact to rounding, however m
    was rounded (Chan, Golub & LeVeque, Am. Stat. 37 (1983)). For long data of small condition it is put together from
    what is known: with e the coefficients less the mean, y - mean = r + V e.
    """
    gram, about = solution.gram, solution.high
    if data.n_samples > sizes.current().few_samples and solution.directions.condition < _SMALL_CONDITION:
        sum_of_weights, mean, total = float(gram[0, 0]), 0.0, solution.squares
        if has_constant:
            above = -float(solution.moments[0] + gram[0, 1:] @ about[1:]) / sum_of_weights
            mean = float(about[0]) - above
            about = np.concatenate(([above], about[1:]))
        total += float(about @ (gram @ about + 2.0 * solution.moments))
        return _unless_rounding(total, sum_of_weights, mean) if has_constant else total
    if data.n_samples <= sizes.current().few_samples:
        values = to_array(data.y)
        weights = None if data.weight is None else to_array(data.weight)
        sum_of_weights = float(data.n_samples if weights is None else weights.sum())
        mean = float(values.sum() if weights is None else weights @ values) / sum_of_weights if has_constant else 0.0
        left = values - mean
        weighted = left if weights is None else weights * left
        first, total = float(weighted.sum()), float(weighted @ left)
    else:
        sum_of_weights, mean = 0.0, 0.0
        if has_constant:
            sum_of_weights, first, _ = _sums_about(data, 0.0)
            mean = first / sum_of_weights
        sum_of_weights, first, total = _sums_about(data, mean)
    if not has_constant:
        return total
    total -= first * (first / sum_of_weights)  # squares of large weights overflow
    return _unless_rounding(total, sum_of_weights, mean)


def _unless_rounding(total: float, sum_of_weights: float, mean: float) -> float:
    return total if total > sum_of_weights * (4.0 * _EPS * mean) ** 2 else 0.0


def _sums_about(data: Data, mean: float) -> tuple[float, float, float]:
    """The sums of w, w (y - mean) and w (y - mean)**2, a chunk at a time."""
    sums = []
    weights = [None] if data.weight is None else data.weight.split(_CHUNK)
    for y, weight in zip(data.y.split(_CHUNK), itertools.cycle(weights), strict=False):
        left = y.double() - mean if mean or y.dtype != torch.float64 else y
        weighted = left if weight is None else left * weight
        total = left.new_tensor(len(left)) if weight is None else weight.sum(dtype=torch.float64)
        sums.append(torch.stack((total, weighted.sum(), torch.dot(weighted, left))))
    sum_of_weights, first, second = torch.stack(sums).sum(0).tolist()
    return sum_of_weights, first, second
