"""The polynomial that a fit found, in internal form: Chebyshev polynomials on the range of the data.

There the normal equations of a polynomial are well conditioned, so that every fit is made there, and values of the
polynomial do not cancel. Coefficients are double-double numbers. They are rounded once, after the change to the basis
and domain of the user.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit import bases
from polyfit.bases import Interval
from polyfit.functional import polyval
from polyfit.least_squares.algebra import Array

# A coefficient is undetermined if more than this share of its unit vector lies along undetermined directions. Those
# come from singular vectors, with an error of some eps times the condition of the determined part. So up to condition
# 1e8, no coefficient that the data determine is taken for undetermined.
_UNDETERMINED_SHARE = 1e-8


def convert_internal(high: Array, low: Array, internal_domain: Interval, basis: str, domain: Interval | None) -> Tensor:
    """Internal coefficients ``high + low`` in another basis and domain, (degree + 1,), rounded once."""
    if basis == "chebyshev" and domain == internal_domain:
        return torch.from_numpy(high + low)
    return bases.convert_sum(torch.from_numpy(high), torch.from_numpy(low), "chebyshev", basis, internal_domain, domain)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A fitted polynomial and its uncertainty, in Chebyshev polynomials on the internal domain.

    All arrays are numpy's, in float64.

    Attributes:
        high: coefficients, (degree + 1,).
        low: their low parts, (degree + 1,).
        domain: the internal domain, which is mapped onto [-1, 1].
        spread: (degree + 1, r); ``deviation**2 * spread @ spread.T`` is the covariance.
        undetermined: orthonormal directions that the data do not determine, (degree + 1, m); None where there are none.
        deviation: the residual standard deviation, or one where sigma is absolute.
    """

    high: Array
    low: Array
    domain: Interval
    spread: Array
    undetermined: Array | None
    deviation: float

    def coefficients(self, basis: str, domain: Interval | None) -> Tensor:
        """The coefficients in another basis and domain, (degree + 1,), rounded once."""
        return convert_internal(self.high, self.low, self.domain, basis, domain)

    def cancellation(self, coef: Array, basis: str, domain: Interval | None) -> float:
        """How many times as large as their sum the terms of a series are: a condition number of its evaluation.

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
                terms += np.abs(coef[k] * function)
                function, before = (a * t + b) * function - c * before, function
            size = np.abs(np.polynomial.chebyshev.chebval(nodes, self.high)).max()
            return float(terms.max() / size) if size > 0.0 else 1.0

    def spread_in(self, basis: str, domain: Interval | None) -> tuple[Array, NDArray[np.bool_]]:
        """The spread in another basis and domain, (degree + 1, r), and which coefficients are undetermined there."""
        degree = len(self.high) - 1
        spread, undetermined, size = self.spread, self.undetermined, np.ones(degree + 1)
        matrix = bases.conversion_matrix("chebyshev", basis, self.domain, domain, degree)
        if matrix is not None:
            change = matrix.numpy()
            spread, size = change @ spread, np.linalg.norm(change, axis=1)
            undetermined = None if undetermined is None else change @ undetermined
        if undetermined is None:
            return spread.copy(), np.zeros(degree + 1, bool)
        return spread.copy(), np.linalg.norm(undetermined, axis=1) > _UNDETERMINED_SHARE * size

    def values(self, x: Tensor) -> Tensor:
        """p(x), in float64, in the shape and on the device of x."""
        return self._evaluate(x, self.high)

    def std(self, x: Tensor) -> Tensor:
        """The standard error of p(x), in float64, in the shape of x; NaN where the data do not determine p(x)."""
        flat = x.reshape(-1)
        std = torch.linalg.vector_norm(self._evaluate(flat, self.spread.T), dim=0) * self.deviation
        if self.undetermined is not None:
            share = torch.linalg.vector_norm(self._evaluate(flat, self.undetermined.T), dim=0)
            std = std.masked_fill(share > _UNDETERMINED_SHARE, torch.nan)
        return std.reshape(x.shape)

    def _evaluate(self, x: Tensor, coef: Array) -> Tensor:
        series = torch.tensor(coef, dtype=torch.float64, device=x.device)
        return polyval(x.double(), series, basis="chebyshev", domain=self.domain)
