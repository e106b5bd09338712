"""The polynomial that a fit found, in internal form: Chebyshev polynomials on the range of the data.

There the normal equations of a polynomial are well conditioned, so that every fit is made there, and values of the
polynomial do not cancel. Coefficients are double-double numbers. They are rounded once, after the change to the basis
and domain of the user.
"""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit import bases
from polyfit.bases import Interval
from polyfit.functional import polyval
from polyfit.least_squares import decimals
from polyfit.least_squares.algebra import Array, row_lengths
from polyfit.least_squares.decimals import Decimals

# A coefficient is undetermined if more than this share of its unit vector lies along undetermined directions. Those
# come from singular vectors, with an error of some eps times the condition of the determined part. So up to condition
# 1e8, no coefficient that the data determine is taken for undetermined.
_UNDETERMINED_SHARE = 1e-8
# Decimal digits of a conversion beyond those that its operands have.
_SPARE_DIGITS = 30


@dataclass(frozen=True, eq=False)
class Estimate:
    """A fitted polynomial and its uncertainty, in Chebyshev polynomials on the internal domain.

    All arrays are numpy's, in float64.

    Attributes:
        high: coefficients, (degree + 1,).
        low: their low parts, (degree + 1,).
        domain: the internal domain, which is mapped onto [-1, 1].
        spread: (q, r); ``deviation**2 * spread @ spread.T`` is the covariance in terms of the columns of the frame.
        undetermined: orthonormal directions that the data do not determine, (q, m); None where there are none.
        deviation: the standard deviation of a sample whose sigma is sigma_unit: from the residuals, or where sigma is
            absolute, sigma_unit itself.
        rest: further parts of the coefficients, (parts, degree + 1): under ridge or fixed coefficients they cancel by
            more than twice the digits of float64 in a basis far from the data. None where high and low suffice.
        frame: unevaluated sums of float64 numbers, (parts, degree + 1, q), for the same reason; None for the unit
            matrix.
        residual_std: sqrt(rss / degrees of freedom), also where rss overflows or underflows; NaN without degrees of
            freedom.
        sigma_unit: a power of two near the sigma of the samples where their weights are extreme, otherwise 1.
    """

    high: Array
    low: Array
    domain: Interval
    spread: Array
    undetermined: Array | None
    deviation: float
    rest: Array | None = None
    frame: Array | None = None
    residual_std: float = math.nan
    sigma_unit: float = 1.0

    def coefficients(self, basis: str, domain: Interval | None) -> Tensor:
        """The coefficients in another basis and domain, (degree + 1,), rounded once."""
        if basis == "chebyshev" and domain == self.domain:
            return torch.from_numpy(self.high + self.low)
        if self.rest is not None and len(self.rest):
            parts = np.concatenate((self.high[None], self.low[None], self.rest))
            return torch.from_numpy(_convert(parts[..., None], self.domain, basis, domain)[:, 0])
        high, low = torch.from_numpy(self.high), torch.from_numpy(self.low)
        return bases.convert_sum(high, low, "chebyshev", basis, self.domain, domain)

    def cancellation(self, coef: Array, basis: str, domain: Interval | None) -> float:
        """How many times as large as their sum the terms of a series are: a condition number of its evaluation.

        Infinite where terms overflow, and NaN for a polynomial of NaN.

        The terms are ``|coef[k] P_k(t)|``, the sum is p. Both are the largest of points over the internal domain.

        Args:
            coef: the coefficients of this polynomial in the basis and domain, (degree + 1,).
            basis: of the series.
            domain: of the series, or None.
        """
        if basis == "chebyshev" and domain == self.domain:
            return 1.0  # the terms are at most 2 (degree + 1) times as large: a coefficient is a mean of 2 p T_k
        lo, hi = self.domain
        nodes = np.cos(np.linspace(math.pi, 0.0, 2 * len(coef) + 1))  # the ends, and two for each half wave
        mapping = bases.affine_map(domain, bases.resolve(basis), torch.float64)
        t = (0.5 * hi - 0.5 * lo) * nodes + (0.5 * lo + 0.5 * hi)
        if mapping is not None:
            t = (t - mapping.center) * mapping.scale + mapping.shift
        function, before, terms = np.ones_like(t), np.zeros_like(t), np.zeros_like(t)
        with np.errstate(all="ignore"):
            for k, (a, b, c) in enumerate(bases.resolve(basis).steps(len(coef))):
                # A function that underflows is off by up to the smallest normal number.
                terms += np.abs(coef[k]) * np.maximum(np.abs(function), sys.float_info.min)
                function, before = (a * t + b) * function - c * before, function
            size = np.abs(np.polynomial.chebyshev.chebval(nodes, self.high)).max()
            ratio = float(terms.max() / size) if size > 0.0 else 1.0
        # A function that overflows times a coefficient that underflows: float64 does not hold the term.
        return math.inf if math.isnan(ratio) and np.isfinite(self.high).all() else ratio

    def spread_in(self, basis: str, domain: Interval | None) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_]]:
        """The spread in another basis and domain.

        Returns:
            Rows near 1 in size, (degree + 1, r); the exponents of two by which they are to be multiplied,
            (degree + 1,), since float64 may not hold the products; and which coefficients are undetermined.
        """
        degree = len(self.high) - 1
        if self.frame is not None:
            with _digits_of(self.frame):
                change, exponents = decimals.to_scaled_floats(_product(self.frame, self.domain, basis, domain))
        else:
            parts = bases.scaled_conversion_matrix("chebyshev", basis, self.domain, domain, degree)
            change, exponents = (part.numpy() for part in parts)
        spread = change @ self.spread
        of_spread = np.frexp(np.abs(spread).max(1, initial=0.0))[1]
        spread, exponents = np.ldexp(spread, -of_spread[:, None]), exponents + of_spread
        if self.undetermined is None:
            return spread, exponents, np.zeros(degree + 1, bool)
        share, size = (row_lengths(rows) for rows in (change @ self.undetermined, change))
        return spread, exponents, share > _UNDETERMINED_SHARE * size

    def values(self, x: Tensor) -> Tensor:
        """p(x), in float64, in the shape and on the device of x."""
        return self._evaluate(x, self.high)

    def std(self, x: Tensor) -> Tensor:
        """The standard error of p(x), in float64, in the shape of x; NaN where the data do not determine p(x)."""
        flat = x.reshape(-1)
        frame = None if self.frame is None else self.frame.sum(0)
        spread, undetermined = (
            columns if frame is None or columns is None else frame @ columns
            for columns in (self.spread, self.undetermined)
        )
        assert spread is not None
        # Columns near 1 in size: the squares of a spread for weights of 1e200 underflow.
        size = float(np.abs(spread).max(initial=0.0)) or 1.0
        std = torch.linalg.vector_norm(self._evaluate(flat, spread.T / size), dim=0) * size * self.deviation
        if undetermined is not None:
            share = torch.linalg.vector_norm(self._evaluate(flat, undetermined.T), dim=0)
            std = std.masked_fill(share > _UNDETERMINED_SHARE, torch.nan)
        return std.reshape(x.shape)

    def _evaluate(self, x: Tensor, coef: Array) -> Tensor:
        series = torch.tensor(coef, dtype=torch.float64, device=x.device)
        return polyval(x.double(), series, basis="chebyshev", domain=self.domain)


def _convert(parts: Array, internal_domain: Interval, basis: str, domain: Interval | None) -> Array:
    """Columns that are unevaluated sums of internal coefficients, (parts, p, k), in another basis; rounded once."""
    with _digits_of(parts):
        return decimals.to_floats(_product(parts, internal_domain, basis, domain))


def _product(parts: Array, internal_domain: Interval, basis: str, domain: Interval | None) -> Decimals:
    """`_convert` in decimal numbers."""
    rows = bases.exact_conversion("chebyshev", basis, internal_domain, domain, parts.shape[1] - 1)
    return decimals.product(decimals.from_fractions(rows), decimals.from_parts(parts))


def _digits_of(parts: Array) -> AbstractContextManager[None]:
    """Compute with as many digits as unevaluated sums have, and some more."""
    return decimals.digits(decimals.DIGITS_OF_FLOAT * len(parts) + _SPARE_DIGITS)
