"""`Fit`: what a least-squares fit found, how sure it is of it, and what can be done with it."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit import bases
from polyfit.bases import Interval
from polyfit.bases.formatting import format_series
from polyfit.functional import polyval
from polyfit.least_squares import document
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.estimate import Estimate, in_basis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from polyfit.bases.conversion import Series

# Share of a direction that is left open, from which on a coefficient counts as not determined. Directions come from
# singular vectors, which are good to some eps times the condition of what is determined.
_OPEN = 1e-8


class FitWarning(UserWarning):
    """The data do not determine all that was asked of a fit; the message says what to change."""


@dataclass(frozen=True)
class Selection:
    """The criterion of each degree.

    Attributes:
        criterion: "aic", "aicc", "bic" or "cv".
        degrees: the degrees that were compared, 0, 1, ...
        values: the criterion for each; less is better.
        rss: the weighted sum of squared residuals for each.
        degree: the degree of the least value.
        folds: of cross-validation; 0 for other criteria.
    """

    criterion: str
    degrees: tuple[int, ...]
    values: tuple[float, ...]
    rss: tuple[float, ...]
    degree: int
    folds: int

    def plot(self) -> Figure:
        """The criterion against the degree, the chosen one marked; needs matplotlib."""
        from polyfit.plotting import selection_figure

        return selection_figure(self)


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    r"""A fitted polynomial, :math:`p(x) = \sum_k c_k P_k(t(x))`, with its errors.

    Numbers are float64, however the data were stored. Tensors lie on the device of the data. Call it to evaluate it.

    Attributes:
        coef: coefficients, lowest degree first, (degree + 1,).
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for t = x.
        n_samples: samples of positive weight.
        rss: the weighted sum of squared residuals.
        r_squared: the share of the weighted sum of squares that the fit explains: about the weighted mean, or about
            zero where the constant was fixed. NaN where that sum is zero.
        degrees_of_freedom: samples less coefficients that were determined (with ridge, less their effective number,
            the trace of the hat matrix).
        rank: free coefficients, or combinations of them, that the data determine.
        condition: of the columns sqrt(w) T_k(t) of the data, scaled to one length: how much relative errors may grow.
        status: "ok"; "rank_deficient": the data leave something open, of which the least coefficients were taken;
            "interpolates": as many coefficients as samples, so that nothing is left to tell an error from;
            "not_finite": NaN or inf in the data, propagated.
        solver: "moments", or "qr" on the data where moments have too few digits.
        precision: "double" or "extended", of the residuals that the last correction came from.
        selection: for `polyfit.select_degree`, the criterion of each degree.
    """

    coef: Tensor
    basis: str
    domain: Interval | None
    n_samples: int
    rss: float
    r_squared: float
    degrees_of_freedom: float
    rank: int
    condition: float
    status: str
    solver: str
    precision: str
    estimate: Estimate = field(repr=False)
    fixed: tuple[int, ...] = ()
    selection: Selection | None = None

    @property
    def degree(self) -> int:
        """The degree of the polynomial."""
        return self.coef.shape[0] - 1

    @property
    def residual_std(self) -> float:
        """The root of rss / degrees_of_freedom; NaN where no degrees of freedom are left."""
        return math.sqrt(self.rss / self.degrees_of_freedom) if self.degrees_of_freedom > 0.0 else math.nan

    @functools.cached_property
    def _spread(self) -> tuple[Array, NDArray[np.bool_]]:
        """The root of the covariance in this basis, (degree + 1, r), and which coefficients are open."""
        estimate = self.estimate
        spread, null, size = estimate.spread, estimate.null, np.ones(self.degree + 1)
        matrix = bases.conversion_matrix("chebyshev", self.basis, estimate.domain, self.domain, self.degree)
        if matrix is not None:
            change = matrix.numpy()
            spread, size = change @ spread, np.linalg.norm(change, axis=1)
            null = None if null is None else change @ null
        spread = spread.copy()
        is_open = np.zeros(self.degree + 1, bool) if null is None else np.linalg.norm(null, axis=1) > _OPEN * size
        spread[list(self.fixed)], is_open[list(self.fixed)] = 0.0, False
        return spread, is_open

    @functools.cached_property
    def std_err(self) -> Tensor:
        """Standard errors of the coefficients, (degree + 1,).

        Zero for those that were fixed, NaN for those that the data do not determine, and for all where no degrees of
        freedom are left.
        """
        spread, is_open = self._spread
        errors = np.linalg.norm(spread, axis=1) * self.estimate.deviation
        errors[is_open] = math.nan
        return torch.from_numpy(errors).to(self.coef.device)

    @functools.cached_property
    def covariance(self) -> Tensor:
        """Covariance of the coefficients, (degree + 1, degree + 1), with NaN as in `std_err`."""
        spread, is_open = self._spread
        spread = spread * self.estimate.deviation
        covariance = spread @ spread.T
        covariance = np.where(is_open | is_open[:, None], math.nan, covariance)
        return torch.from_numpy(covariance).to(self.coef.device)

    # --- evaluation ---

    def __call__(self, x: Tensor | float | Sequence[float]) -> Tensor:
        """The value p(x): for a floating-point tensor in its dtype and on its device, for other numbers in float64.

        Evaluated in Chebyshev polynomials on the range of the data, whatever the basis of `coef` is: coefficients of
        powers of x far from zero would cancel.
        """
        x = _samples(x)
        return self._values(x, self.estimate.high)

    def _values(self, x: Tensor, coef: Array) -> Tensor:
        series = torch.tensor(coef, dtype=torch.float64).to(x.device, x.dtype)
        return polyval(x, series, basis="chebyshev", domain=self.estimate.domain)

    def predict(self, x: Tensor | float | Sequence[float], *, return_std: bool = False) -> Any:
        """The value p(x), and with return_std its standard error.

        Args:
            x: where; any shape.
            return_std: whether the standard error is wanted: that of the curve, for which the scatter of single
                samples about it does not count. NaN where the data do not determine the curve.

        Returns:
            Values in the shape of x; with return_std a pair of values and standard errors.
        """
        x = _samples(x)
        values = self(x)
        return (values, self._std(x)) if return_std else values

    def _std(self, x: Tensor) -> Tensor:
        estimate, flat = self.estimate, x.reshape(-1)
        spread = self._values(flat, estimate.spread.T)
        std = torch.linalg.vector_norm(spread, dim=0) * estimate.deviation
        if estimate.null is not None:
            is_open = torch.linalg.vector_norm(self._values(flat, estimate.null.T), dim=0) > _OPEN
            std = std.masked_fill(is_open, math.nan)
        return std.reshape(x.shape)

    def interval(
        self, x: Tensor | float | Sequence[float], level: float = 0.95, *, kind: str = "confidence"
    ) -> tuple[Tensor, Tensor]:
        r"""Bounds at each x, by Student's t with the degrees of freedom of the fit.

        Args:
            x: where; any shape.
            level: the probability between the bounds, in (0, 1).
            kind: "confidence": of the curve, at that x. "prediction": of one more sample there, of weight one.

        Returns:
            Lower and upper bounds in the shape of x.

        Raises:
            ValueError: a level or kind that is not accepted.
            ImportError: scipy is not installed (extra `stats`).
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level={level!r} is no probability; pass one between 0 and 1, such as 0.95")
        if kind not in {"confidence", "prediction"}:
            raise ValueError(
                f"kind={kind!r} is unknown; pass 'confidence' (of the curve) or 'prediction' (of a sample)"
            )
        from scipy.special import stdtrit

        x = _samples(x)
        values, std = self(x), self._std(x)
        if kind == "prediction":
            std = torch.hypot(std, torch.full_like(std, self.estimate.deviation))
        half = std * float(stdtrit(self.degrees_of_freedom, 0.5 * (1.0 + level)))
        return values - half, values + half

    # --- other forms ---

    def in_basis(self, basis: str, domain: Sequence[float] | None = None) -> Fit:
        """The same polynomial in another basis and domain, with its covariance.

        Args:
            basis: the basis that is wanted.
            domain: ``(lo, hi)`` to be mapped onto its window; None for t = x. So ``fit.in_basis("power").coef`` are the
                coefficients of powers of x.

        Coefficients are carried in twice the digits of float64 up to here and are rounded once.

        Raises:
            TypeError: a domain that is not a pair of numbers.
            ValueError: an unknown basis; a domain that is not finite or has lo >= hi.
        """
        name = bases.resolve(basis).name
        bounds = None if domain is None else bases.interval(domain)
        if name == self.basis and bounds == self.domain:
            return self
        estimate = self.estimate
        coef = in_basis(estimate.high, estimate.low, name, estimate.domain, bounds)
        return replace(self, coef=coef.to(self.coef.device), basis=name, domain=bounds, fixed=())

    def to_numpy(self) -> Series:
        """The series of numpy.polynomial that evaluates the same.

        Raises:
            ImportError: numpy is not installed.
        """
        return bases.to_numpy(self.coef.cpu(), self.basis, self.domain)

    def __str__(self) -> str:
        """A readable polynomial, and what its variable is."""
        return format_series(self.coef.tolist(), self.basis, self.domain)

    def __repr__(self) -> str:
        """The polynomial and how good it is, in a few lines."""
        lines = [
            f"Fit of degree {self.degree} to {self.n_samples} samples ({self.status})",
            f"  {self}",
            f"  R^2 {self.r_squared:.6g}, residual std {self.residual_std:.6g},"
            f" {self.degrees_of_freedom:g} degrees of freedom",
            f"  rank {self.rank}, condition {self.condition:.3g}, {self.solver}, {self.precision}",
        ]
        return "\n".join(lines)

    def plot(self, x: Tensor | None = None, y: Tensor | None = None, *, level: float = 0.95) -> Figure:
        """Curve and confidence band, and for data x and y (N,) these and their residuals; needs matplotlib.

        Returns:
            A matplotlib Figure; `figure.savefig("fit.png")` writes it.
        """
        from polyfit.plotting import fit_figure

        return fit_figure(self, x, y, level)

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file, whole or not at all. Numbers come back with the same bits."""
        document.write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Fit:
        """Read a file that `save` wrote. Tensors are on the CPU; `selection` is not kept.

        Raises:
            ValueError: no such file format, or one of a newer version.
        """
        return cls(**document.read(path))


def _samples(x: Any) -> Tensor:
    """A floating-point tensor as it is, anything else as one in float64."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return x
    return torch.as_tensor(x, dtype=torch.float64)
