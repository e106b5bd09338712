"""`Moments`: the sums over the data that least squares needs, 3 d + 3 numbers for any number of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import _checks, bases
from polyfit.backends import operators, select
from polyfit.errorfree import DoubleDouble, add_double_doubles, multiply_double_doubles, two_sum
from polyfit.least_squares import algebra
from polyfit.least_squares.data import read_series
from polyfit.least_squares.refinement import Solution
from polyfit.least_squares.result import Fit
from polyfit.least_squares.statistics import make_fit
from polyfit.least_squares.unknowns import Uncertainty
from polyfit.least_squares.warn import warn

_VERSION = 2
_REMEDY = "leave these samples out"
_EPS = torch.finfo(torch.float64).eps
# A residual sum of squares is the difference of s and a quadratic form. Below this many eps s it is noise. Measured on
# polynomials without noise: at most 5 (n from 20 to 1e5, degrees 1 to 10).
_NOISE = 64.0
# The condition above which a fit warns. Coefficients have a relative error of some eps condition**2, here 2e-6.
_LARGEST_CONDITION = 1e5
# The standard deviation of t below which data fill little of the domain. It is 0.58 where they fill it evenly.
_NARROW = 0.1
# Degrees of freedom below this share of the samples count as none. With ridge they are a difference of the number of
# samples and a trace; measured, its error is at most 2e-10 n (n = p to 2 p, p up to 12, condition up to 6e3).
_NO_FREEDOM = 1e-9
# The number of samples from which the offset is computed.
_FIRST = 1 << 13
# Sums below this lose digits: the low part of a double-double, 2**-106 of the sum, is below the smallest normal number.
_SMALLEST_SUM = 2.0**-916


class Moments:
    r"""Weighted Chebyshev moments of data on a domain. Moments of parts of the data add up to those of all data.

    .. math:: a_k = \sum_n w_n T_k(t_n), \; k \le 2d, \qquad b_k = \sum_n w_n (y_n - o) T_k(t_n), \; k \le d, \qquad
              s = \sum_n w_n (y_n - o)^2

    with t the image of x on [-1, 1] and o an offset near the mean of the first data. By
    ``T_i T_j = (T_{i+j} + T_{|i-j|}) / 2`` they give the normal equations of every polynomial up to degree d. So `fit`
    needs no data.

    The sum of two moments is the moments of both data, exact to rounding, however the data were split. Totals are kept
    in twice the digits of float64: a million parts lose no more digits than one.

    Moments have limits that `polyfit.fit` on the data does not have. They do not resolve a residual sum of squares
    below about 1e-14 of that of y about the offset. Above condition 1e5 they keep fewer than 6 digits of the
    coefficients, and `fit` warns. Data that fill little of the domain have such a condition.

    Args:
        degree: d, the largest degree that can be fitted.
        domain: ``(lo, hi)``, mapped onto [-1, 1]. Data should lie in it and fill most of it. Outside, Chebyshev
            polynomials grow fast; on a small part of it they are nearly dependent.

    >>> import torch, polyfit
    >>> x = torch.linspace(0, 10, 101, dtype=torch.float64)
    >>> y = (x - 1)**2 + 0.1 * torch.cos(40 * x)
    >>> parts = zip(x.split(40), y.split(40))
    >>> parts = [polyfit.Moments(3, domain=(0, 10)).update(x, y) for x, y in parts]
    >>> both = parts[0] + parts[1] + parts[2]
    >>> both.n_samples
    101
    >>> both.fit(degree=2).in_basis("power").coef.round(decimals=1)
    tensor([ 1., -2.,  1.], dtype=torch.float64)
    """

    def __init__(self, degree: int, domain: Sequence[float]) -> None:
        self._degree = _checks.checked_degree(degree)
        self._domain = bases.interval(domain)
        self._n_samples = 0
        self._offset = math.nan  # until there are samples
        self._weights = math.inf, -math.inf  # the smallest and the largest
        self._high = torch.zeros(3 * self._degree + 3, dtype=torch.float64, device="cpu")  # a, b, s
        self._low = torch.zeros_like(self._high)

    @property
    def degree(self) -> int:
        """The largest degree that can be fitted."""
        return self._degree

    @property
    def domain(self) -> tuple[float, float]:
        """The interval that is mapped onto [-1, 1]."""
        return self._domain

    @property
    def n_samples(self) -> int:
        """The number of samples of positive weight so far."""
        return self._n_samples

    @property
    def total_weight(self) -> float:
        """The sum of the weights."""
        return float(self._high[0] + self._low[0])

    @property
    def of_x(self) -> Tensor:
        """The sums of w T_k, k = 0 .. 2 degree, (2 degree + 1,), float64 on the CPU."""
        return self._totals()[: 2 * self._degree + 1]

    @property
    def of_y(self) -> Tensor:
        """The sums of w y T_k, k = 0 .. degree, (degree + 1,), float64 on the CPU."""
        of_y, _ = self._about(0.0)
        return of_y

    @property
    def of_y_squared(self) -> float:
        """The sum of w y**2."""
        return self._about(0.0)[1]

    def __repr__(self) -> str:
        """Degree, domain and number of samples."""
        return f"Moments(degree={self._degree}, domain={self._domain}): {self._n_samples} samples"

    # --- collecting ---

    def update(
        self,
        x: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        weight: ArrayLike | Tensor | None = None,
        *,
        impl: str = "auto",
    ) -> Self:
        """Add data, in one pass.

        Args:
            x: sample locations, (N,), as for `polyfit.fit`.
            y: sample values, (N,), likewise.
            weight: (N,), one number, or None for ones. Samples of weight zero are left out, whatever their x and y are.
            impl: "auto", "triton" or "torch", as for `polyfit.fit`.

        Returns:
            These moments, with the data added. If an error is raised, they are unchanged.

        Raises:
            TypeError: data that are not real numbers.
            ValueError: shapes or devices that differ, negative weights, NaN or infinity, sums that overflow.

        Warns:
            FitWarning: y or weights are so small that sums underflow.
        """
        given = read_series(x, y, weight, remedy=_REMEDY)
        impl = select.resolve_fit_impl(impl, given.x.device)
        used = given if given.weight is None else given.of(given.weight != 0)
        x, y, weight = used.x, used.y, used.weight
        if not x.shape[0]:
            return self
        with torch.no_grad(), select.without_autocast(x.device):
            offset = self._offset if self._n_samples else _offset(y)
            guess = None
            if offset:
                guess = torch.zeros(self._degree + 1, dtype=torch.float64, device=x.device)
                guess[0] = offset
            sums = operators.moments(x, y, weight, self._degree, self._domain, guess, impl)
            added = torch.cat([part.reshape(-1).cpu() for part in sums if part is not None])
            total = add_double_doubles((self._high, self._low), (added, torch.zeros_like(added)))
        if not bool(total[0].isfinite().all()):
            given.check_finite(_REMEDY)
            raise ValueError("x lies far outside of domain, or y is too large to be squared in float64; scale them")
        sum_of_weights, squares = float(total[0][0]), float(total[0][-1])
        if min(sum_of_weights, squares) < _SMALLEST_SUM and bool((y != offset).any()):
            warn(
                f"the sum of weights is {sum_of_weights:.1e}, and that of weighted squares of y is {squares:.1e}: their"
                " terms underflow float64, and coefficients, rss and standard errors lose digits. Scale y, or weight"
            )
        lightest, heaviest = (1.0, 1.0) if weight is None else map(float, torch.aminmax(weight))
        self._offset = offset
        self._weights = min(lightest, self._weights[0]), max(heaviest, self._weights[1])
        self._n_samples += x.shape[0]
        self._high, self._low = total
        return self

    def __add__(self, other: Moments) -> Moments:
        """The moments of both data."""
        if not isinstance(other, Moments):
            return NotImplemented
        if (other._degree, other._domain) != (self._degree, self._domain):
            raise ValueError(
                f"moments of degree {self._degree} on {self._domain} and of degree {other._degree} on {other._domain}"
                " cannot be added; collect both with the same degree and domain"
            )
        total = Moments(self._degree, self._domain)
        first, second = (self, other) if self._n_samples else (other, self)
        total._n_samples, total._offset = self._n_samples + other._n_samples, first._offset
        total._weights = min(self._weights[0], other._weights[0]), max(self._weights[1], other._weights[1])
        total._high, total._low = add_double_doubles((first._high, first._low), second._shifted(first._offset))
        if not bool(total._high.isfinite().all()):
            raise ValueError("the sums of both data overflow float64; collect moments of y in a larger unit")
        return total

    def __radd__(self, other: object) -> Moments:
        """The moments themselves for 0, with which ``sum`` begins."""
        return self + Moments(self._degree, self._domain) if other == 0 else NotImplemented

    def _shifted(self, offset: float) -> DoubleDouble:
        """The sums about another offset, as double-doubles."""
        high, low = self._high, self._low
        if not self._n_samples or offset == self._offset:
            return high, low
        size = self._degree + 1
        of_x, of_y, squares = (slice(0, size), slice(2 * size - 1, 3 * size - 1), slice(3 * size - 1, 3 * size))
        # y - offset = (y - old) - step
        step = two_sum(high.new_tensor(offset), high.new_tensor(-self._offset))
        by_step = multiply_double_doubles((high[of_x], low[of_x]), step)
        new_y = add_double_doubles((high[of_y], low[of_y]), (-by_step[0], -by_step[1]))
        # s - 2 step b_0 + step^2 a_0 = s - step (b_0 + new b_0)
        both = add_double_doubles((high[of_y][:1], low[of_y][:1]), (new_y[0][:1], new_y[1][:1]))
        by_both = multiply_double_doubles(both, step)
        new_squares = add_double_doubles((high[squares], low[squares]), (-by_both[0], -by_both[1]))
        unchanged = slice(0, 2 * size - 1)
        return (
            torch.cat((high[unchanged], new_y[0], new_squares[0])),
            torch.cat((low[unchanged], new_y[1], new_squares[1])),
        )

    def _totals(self) -> Tensor:
        return self._high + self._low

    def _about(self, offset: float) -> tuple[Tensor, float]:
        """The sums of w (y - offset) T_k, (degree + 1,), and of w (y - offset)**2."""
        high, low = self._shifted(offset)
        totals = high + low
        return totals[2 * self._degree + 1 : -1], float(totals[-1])

    # --- fitting ---

    def fit(self, degree: int | None = None, ridge: float = 0.0) -> Fit:
        """Fit a polynomial by least squares, from the moments alone.

        Args:
            degree: at most that of the moments, which is the default.
            ridge: the factor of the sum of squared coefficients, the constant exempt; at least 0.

        Returns:
            A `Fit` in Chebyshev polynomials on `domain`. Its residual sum of squares is a difference. Where this is
            smaller than its rounding error, `rss` is a bound of that error, and a warning says so.

        Raises:
            TypeError: a degree that is not an integer.
            ValueError: a degree above that of the moments; no samples, or without ridge fewer than coefficients;
                a negative ridge.

        Warns:
            FitWarning: the data do not determine all coefficients; they fill little of the domain, or the condition is
                too large for moments for another reason; or the residuals are too small for moments.
        """
        degree = self._degree if degree is None else _checks.checked_degree(degree)
        if degree > self._degree:
            raise ValueError(
                f"degree={degree} is above that of the moments, {self._degree};"
                " pass a degree up to that, or collect moments of a higher degree"
            )
        ridge = _checks.checked_ridge(ridge)
        if self._n_samples <= (0 if ridge else degree):
            raise ValueError(
                f"{self._n_samples} samples do not determine {degree + 1} coefficients; pass"
                f" degree={max(0, self._n_samples - 1)} or less, ridge > 0, or add data"
            )
        gram = algebra.gram(self.of_x.numpy()[: 2 * degree + 1], degree)
        of_y, squares = self._about(self._offset)
        moments = of_y.numpy()[: degree + 1]
        penalty = None if not ridge else ridge * np.diag([0.0] + [1.0] * degree)
        directions = algebra.from_gram(gram if penalty is None else gram + penalty)
        if directions.condition > _LARGEST_CONDITION:
            self._warn_of_condition(directions)
        coef = directions.correction(moments)
        # One step of iterative refinement.
        rest = moments - gram @ coef
        coef = coef + directions.correction(rest if penalty is None else rest - penalty @ coef)
        rest = moments - gram @ coef
        rss = squares - float(coef @ (moments + rest))
        if rss < _NOISE * _EPS * squares:
            if self._n_samples > degree + 1:
                warn(
                    "the residuals are smaller than the rounding errors of the moments: rss and standard errors are"
                    " bounds of these errors. Fit the data themselves with polyfit.fit"
                )
            rss = _NOISE * _EPS * squares
        uncertainty = _uncertainty(directions, self._n_samples, None if penalty is None else gram)
        high, low = _with_offset(coef, self._offset, directions)
        return make_fit(
            Solution(high, low, gram, rss, rest, uncertainty, "moments"),
            internal_domain=self._domain,
            basis="chebyshev",
            domain=self._domain,
            fixed={},
            n_samples=self._n_samples,
            # Divided first: the square may overflow for large weights.
            total=max(squares - float(of_y[0]) * (float(of_y[0]) / float(gram[0, 0])), 0.0),
            unit=1.0,
            sigma_unit=1.0,
            absolute_sigma=False,
            sample_weight=self._weights[0] if self._weights[0] == self._weights[1] else math.nan,
            precision="double",
            device=torch.device("cpu"),
        )

    def _warn_of_condition(self, directions: algebra.Directions) -> None:
        """Warn of a condition that is too large for moments, unless few different x that fill the domain cause it."""
        (lo, hi), (total, first, second) = self._domain, self.of_x[:3].tolist()
        mean = first / total  # of t, and T_2 = 2 t**2 - 1
        deviation = math.sqrt(max(0.5 * (second / total + 1.0) - mean**2, 0.0))
        half, condition = 0.5 * hi - 0.5 * lo, directions.condition
        if directions.undetermined is not None and abs(mean) <= 1.0 and deviation > _NARROW:
            return
        n_digits = max(0.0, 15.0 - 2.0 * math.log10(condition)) if condition < math.inf else 0.0
        warn(
            f"the condition is {condition:.1e}: moments keep about {n_digits:.0f} digits of the coefficients."
            f" The domain is ({lo:g}, {hi:g}), and x has the mean {0.5 * lo + 0.5 * hi + half * mean:g} and the"
            f" standard deviation {half * deviation:.2g}. Collect moments on a domain that the data fill, or pass a"
            " lower degree, or fit the data themselves with polyfit.fit"
        )

    # --- state ---

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, as numbers and tensors: for torch.save, or for another process."""
        return {
            "version": _VERSION,
            "degree": self._degree,
            "domain": self._domain,
            "n_samples": self._n_samples,
            "offset": self._offset,
            "weights": self._weights,
            "high": self._high.clone(),
            "low": self._low.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the moments to a state that `state_dict` returned.

        Raises:
            ValueError: a state that is incomplete, damaged, of another degree or domain, or of another version. The
                moments are then unchanged.
        """
        keys = self.state_dict().keys()
        if not isinstance(state, Mapping) or keys - state.keys():
            lacks = f"lacks {', '.join(sorted(keys - state.keys()))}" if isinstance(state, Mapping) else "is not a dict"
            raise ValueError(f"state {lacks}; pass a result of Moments.state_dict")
        if state["version"] != _VERSION:
            raise ValueError(
                f"state has version {state['version']!r} and this polyfit reads {_VERSION}; read it with the version of"
                " fused-polyfit that wrote it"
            )
        try:
            degree, domain = _checks.checked_degree(state["degree"]), bases.interval(state["domain"])
            loaded = _checked_state(state, 3 * degree + 3)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"state is damaged ({error}); pass a result of Moments.state_dict") from None
        if (degree, domain) != (self._degree, self._domain):
            raise ValueError(
                f"state is of degree {degree} on {domain}, and these moments of degree {self._degree} on"
                f" {self._domain}; load it into Moments({degree}, domain={domain})"
            )
        self._n_samples, self._offset, self._weights, self._high, self._low = loaded


def _checked_state(state: Mapping[str, Any], size: int) -> tuple[int, float, tuple[float, float], Tensor, Tensor]:
    """Number of samples, offset, smallest and largest weight, and totals (size,) of a state.

    Raises:
        TypeError: a value of another type.
        ValueError: a value that `Moments` does not have.
    """
    n_samples, offset, (lightest, heaviest) = state["n_samples"], float(state["offset"]), map(float, state["weights"])
    _checks.check_count("n_samples", n_samples, 0)
    totals = []
    for name in ("high", "low"):
        tensor = _checks.data_tensor(name, state[name]).detach().to("cpu", torch.float64, copy=True)
        if tensor.shape != (size,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} in place of {(size,)}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is not finite")
        totals.append(tensor)
    if n_samples and not (math.isfinite(offset) and 0.0 < lightest <= heaviest < math.inf and totals[0][0] > 0.0):
        raise ValueError(f"offset {offset!r}, weights from {lightest!r} to {heaviest!r}, sum {float(totals[0][0])!r}")
    if not n_samples and any(map(torch.any, totals)):
        raise ValueError("sums of no samples are not zero")
    return n_samples, offset, (lightest, heaviest), totals[0], totals[1]


def _uncertainty(directions: algebra.Directions, n_samples: int, penalised_gram: algebra.Array | None) -> Uncertainty:
    """The uncertainty of coefficients; the Gram matrix is passed where they have a penalty."""
    spread, undetermined, condition = directions
    n_effective = float(directions.rank)
    if penalised_gram is not None:
        spread, n_effective = algebra.penalised_spread(spread, penalised_gram)
    freedom = n_samples - n_effective
    freedom = freedom if freedom > _NO_FREEDOM * n_samples else 0.0
    return Uncertainty(None, spread, undetermined, freedom, directions.rank, condition)


def _with_offset(
    coef: algebra.Array, offset: float, directions: algebra.Directions
) -> tuple[algebra.Array, algebra.Array]:
    """Coefficients of y from those of y - offset, as double-doubles: the minimum-norm solution."""
    constant = np.zeros_like(coef)
    constant[0] = offset
    high, low = two_sum(coef, constant)
    return two_sum(high, low - directions.undetermined_part(high))


def _offset(y: Tensor) -> float:
    """The mean of the first y rounded to 24 bits, so that y - offset is often exact; 0 where it is not finite."""
    mean = float(y[:_FIRST].mean(dtype=torch.float64))
    if not math.isfinite(mean):
        return 0.0
    mantissa, exponent = math.frexp(mean)
    return math.ldexp(round(mantissa * 2.0**24), exponent - 24)
