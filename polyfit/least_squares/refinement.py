"""The solution of a least-squares problem by a first polynomial and iterative refinement."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from polyfit import bases
from polyfit.backends import chunked, operators, select, sizes
from polyfit.backends.results import MomentSums
from polyfit.bases import CHEBYSHEV
from polyfit.errorfree import two_sum
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.conditions import Conditions
from polyfit.least_squares.data import Data
from polyfit.least_squares.design import FewSamples
from polyfit.least_squares.residuals import ExtendedResiduals, to_array

_EPS = torch.finfo(torch.float64).eps
# Condition from which on the squares of singular values have too few digits.
_LARGEST_CONDITION = 1e4
# Refinement stops where what the next correction would bring is expected below this share of the coefficients.
_ENOUGH = {"double": 2.0**-47, "extended": 2.0**-70}
_MOST_STEPS = 5
# A sum of squares is not taken from one that is so many times larger, by a correction.
_SHRINKS = 4.0


class Solution(NamedTuple):
    """Coefficients on Data.domain and what they rest on."""

    high: Array
    low: Array
    gram: Array
    directions: algebra.Directions
    squares: float  # of the residuals
    moments: Array  # of the residuals
    method: str


def solve(data: Data, degree: int, conditions: Conditions, precision: str) -> Solution:
    """The coefficients, by a first polynomial and corrections; see the module."""
    extended = None
    if precision == "extended":
        extended = ExtendedResiduals(data.x, data.y, data.weight, degree, data.domain)
    few = _few(data, degree, extended)
    if few is not None:
        of_x, moments = few.normal()
        high, squares = np.zeros(degree + 1), math.inf
    else:
        high = first_guess(data, degree)
        sums = _moments(data, degree, high, want_gram=True)
        assert sums.of_x is not None
        of_x, (moments, squares) = to_array(sums.of_x[0]), _of_residuals(sums)
    low = np.zeros(degree + 1)
    gram = algebra.gram(of_x, degree)
    directions, method = _directions(data, degree, gram, conditions)
    residuals = _residuals(data, degree, few, extended)
    # The first residuals of long data are small, and their moments exact: a step of refinement already.
    is_refined = few is None and extended is None
    after = squares, moments
    for _ in range(_MOST_STEPS):
        change = _correction(high, low, moments, directions, gram, conditions)
        high, low = _add(high, low, change)
        if is_refined:
            after = _after(squares, moments, change, gram)
            if _is_enough(high, change, squares, after[0], directions, precision, method):
                break
        is_refined = True
        moments, squares = residuals(high, low)
        after = squares, moments
    if directions.null is not None:  # nothing along what is open, whatever was begun with
        high, low = _add(high, low, -directions.without_open(high))
    return Solution(high, low, gram, directions, *after, method)


def _few(data: Data, degree: int, extended: ExtendedResiduals | None) -> FewSamples | None:
    """The functions of all samples, for few of them: on a CPU, where these are less work than a launch."""
    if data.n_samples > sizes.current().few_samples or data.impl == "triton":
        return None
    if extended is not None and (laid := extended.kept()) is not None:
        return FewSamples(laid.functions.high, laid.y, laid.weight)
    return FewSamples.lay_out(data.x, data.y, data.weight, degree, data.domain)


def first_guess(data: Data, degree: int) -> Array:
    """A polynomial near the one that is looked for, from samples all over the data: (degree + 1,)."""
    step = -(-data.n_samples // sizes.current().few_samples)
    weight = None if data.weight is None else data.weight[::step]
    of_x, moments = FewSamples.lay_out(data.x[::step], data.y[::step], weight, degree, data.domain).normal()
    return algebra.from_gram(algebra.gram(of_x, degree)).correction(moments)


def _moments(data: Data, degree: int, coef: Array, *, want_gram: bool) -> MomentSums:
    """A pass over the data: moments of x, where they are wanted, and of the residuals about a polynomial."""
    impl = select.resolve_fit_impl(data.impl, data.x.device)
    series = torch.from_numpy(coef).to(data.x.device)
    return operators.moments(data.x, data.y, data.weight, degree, data.domain, series, impl, want_gram=want_gram)


def _of_residuals(sums: MomentSums) -> tuple[Array, float]:
    """Moments and squares of the residuals."""
    return to_array(sums.of_residuals[0]), float(sums.squares[0])


Residuals = Callable[[Array, Array], tuple[Array, float]]


def _residuals(data: Data, degree: int, few: FewSamples | None, extended: ExtendedResiduals | None) -> Residuals:
    """A function of coefficients, high and low, that gives moments and squares of the residuals."""
    if extended is not None:
        return extended
    if few is not None:
        return lambda high, low: few.residuals(high)
    return lambda high, low: _of_residuals(_moments(data, degree, high, want_gram=False))


def _directions(data: Data, degree: int, gram: Array, conditions: Conditions) -> tuple[algebra.Directions, str]:
    directions = algebra.from_gram(gram, conditions.penalty, conditions.free)
    if directions.condition <= _LARGEST_CONDITION and directions.null is None:
        return directions, "moments"
    weight = None if data.weight is None else data.weight[None]
    mapping = bases.affine_map(data.domain, CHEBYSHEV, torch.float64)
    triangle = to_array(chunked.triangle(data.x[None], weight, degree, mapping))
    return algebra.from_triangle(triangle, data.n_samples, conditions.penalty_root, conditions.free), "qr"


def _correction(
    high: Array, low: Array, moments: Array, directions: algebra.Directions, gram: Array, conditions: Conditions
) -> Array:
    """The change of the coefficients that answers to the moments of the residuals, under all conditions."""
    penalty, fixed = conditions.penalty, conditions.fixed
    if penalty is not None:
        moments = moments - penalty @ high
    if fixed is None or conditions.missing is None:
        return directions.correction(moments)
    needed = fixed.to_coef @ conditions.missing(high, low)
    moments = moments - gram @ needed
    if penalty is not None:
        moments = moments - penalty @ needed
    return needed + directions.correction(moments)


def _add(high: Array, low: Array, change: Array) -> tuple[Array, Array]:
    """The sum high + low + change, as a rounded part and what it lacks."""
    total, error = two_sum(high, change)
    error += low
    rounded = total + error
    total -= rounded
    error += total
    return rounded, error


def _after(squares: float, moments: Array, change: Array, gram: Array) -> tuple[float, Array]:
    """Squares and moments of the residuals after a change of coefficients."""
    changed = moments - gram @ change
    after = squares - float(change @ (moments + changed))
    return after if not after < 0.0 else 0.0, changed


def _is_enough(
    high: Array,
    change: Array,
    squares: float,
    rss: float,
    directions: algebra.Directions,
    precision: str,
    method: str,
) -> bool:
    """Whether one more correction would bring nothing that counts."""
    error = 8.0 * _EPS * directions.condition ** (2 if method == "moments" else 1)
    size, last = (max(map(abs, values.tolist())) for values in (high, change))
    return last * min(error, 1.0) <= _ENOUGH[precision] * size and (
        squares <= _SHRINKS * rss or last <= _ENOUGH["double"] * size
    )
