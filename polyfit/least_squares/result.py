"""`Fit`, the result of a least-squares fit: coefficients, their errors, predictions, other forms, files."""

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

from polyfit import bases, plotting
from polyfit._optional import import_optional
from polyfit.bases import Interval
from polyfit.bases.formatting import format_series
from polyfit.least_squares import document
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from polyfit.bases.conversion import Series


class FitWarning(UserWarning):
    """The data do not determine the fit, or only just. The message says what to change."""


@dataclass(frozen=True)
class Selection:
    """The criterion of each degree, from `polyfit.select_degree`.

    Attributes:
        criterion: "aic", "aicc", "bic" or "cv".
        degrees: the degrees that were compared, 0, 1, ...
        values: the criterion of each degree; smaller is better.
        rss: the weighted sum of squared residuals of each degree.
        degree: the degree with the smallest value.
        folds: of cross-validation; 0 for other criteria.
    """

    criterion: str
    degrees: tuple[int, ...]
    values: tuple[float, ...]
    rss: tuple[float, ...]
    degree: int
    folds: int

    def plot(self) -> Figure:
        """Plot the criterion against the degree and mark the chosen degree; needs matplotlib (extra `cli`)."""
        is_cv = self.criterion == "cv"
        name = f"mean squared error, {self.folds} folds" if is_cv else self.criterion.upper().replace("AICC", "AICc")
        is_log = is_cv and min(self.values) > 0.0
        return plotting.selection_figure(self.degrees, self.values, self.degree, name, is_log=is_log)


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    r"""A fitted polynomial, :math:`p(x) = \sum_k c_k P_k(t(x))`, and its errors.

    P_k are the polynomials of `basis`, and t(x) maps `domain` affinely onto the window of the basis. Numbers are
    float64, whatever the dtype of the data was. Tensors are on the device of the data. Call the fit to evaluate it.

    Attributes:
        coef: coefficients c, lowest degree first, (degree + 1,).
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for t = x.
        n_samples: the number of samples of positive weight.
        rss: the weighted sum of squared residuals, in squared units of y.
        r_squared: 1 - rss / total. The total is the weighted sum of squares of y about its weighted mean, or about zero
            if the constant was fixed. NaN where the total is zero.
        degrees_of_freedom: n_samples less rank. With ridge, n_samples less the trace of the hat matrix.
        rank: the number of free coefficients, or of combinations of them, that the data determine.
        condition: of the matrix with columns sqrt(w) T_k(t), T_k on the range of the data, each scaled to length one:
            the factor by which relative errors may grow.
        status: "ok"; "rank_deficient": some coefficients are undetermined by the data, and the result is the
            minimum-norm solution; "interpolates": as many coefficients as samples, so that residuals say nothing about
            errors; "not_finite": the data have NaN or infinity, which was propagated.
        solver: "moments" (the normal equations), or "qr" (of the data) where these have too few digits.
        precision: "double" or "extended": that of the residuals in the last correction.
        selection: the criterion of all degrees if the fit comes from `polyfit.select_degree`, otherwise None.
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
        """The residual standard deviation, sqrt(rss / degrees_of_freedom); NaN without degrees of freedom."""
        return math.sqrt(self.rss / self.degrees_of_freedom) if self.degrees_of_freedom > 0.0 else math.nan

    @functools.cached_property
    def _spread(self) -> tuple[Array, NDArray[np.bool_]]:
        """The root of the covariance for deviation one, (degree + 1, r), and which coefficients are undetermined."""
        spread, is_undetermined = self.estimate.spread_in(self.basis, self.domain)
        spread[list(self.fixed)], is_undetermined[list(self.fixed)] = 0.0, False
        return spread, is_undetermined

    @functools.cached_property
    def std_err(self) -> Tensor:
        """Standard errors of the coefficients, (degree + 1,), in units of y.

        Zero for fixed coefficients. NaN for coefficients that are undetermined by the data, and for all coefficients
        if there are no degrees of freedom, unless sigma is absolute.
        """
        spread, is_undetermined = self._spread
        errors = np.linalg.norm(spread, axis=1) * self.estimate.deviation
        errors[is_undetermined] = math.nan
        return torch.from_numpy(errors).to(self.coef.device)

    @functools.cached_property
    def covariance(self) -> Tensor:
        """Covariance of the coefficients, (degree + 1, degree + 1), with zeros and NaN as in `std_err`."""
        spread, is_undetermined = self._spread
        spread = spread * self.estimate.deviation
        covariance = spread @ spread.T
        covariance = np.where(is_undetermined | is_undetermined[:, None], math.nan, covariance)
        return torch.from_numpy(covariance).to(self.coef.device)

    # --- evaluation ---

    def __call__(self, x: Tensor | float | Sequence[float]) -> Tensor:
        """Evaluate p(x).

        The polynomial is evaluated in Chebyshev polynomials on the range of the data, whatever the basis of `coef` is.
        Powers of x far from zero would cancel.

        Args:
            x: any shape; a floating-point tensor, or numbers.

        Returns:
            p(x) in the shape of x; in the dtype and on the device of a floating-point tensor, in float64 otherwise.
        """
        return self.estimate.values(_as_tensor(x))

    def predict(self, x: Tensor | float | Sequence[float], *, return_std: bool = False) -> Any:
        """Evaluate p(x), and with return_std its standard error.

        Args:
            x: as for a call of the fit.
            return_std: whether to return the standard error of p(x). It is that of the curve, and does not include the
                scatter of single samples about it.

        Returns:
            Values in the shape of x, or with return_std a pair of values and standard errors. Standard errors are NaN
            where the data do not determine p(x).
        """
        x = _as_tensor(x)
        values = self.estimate.values(x)
        return (values, self.estimate.std(x)) if return_std else values

    def interval(
        self, x: Tensor | float | Sequence[float], level: float = 0.95, *, kind: str = "confidence"
    ) -> tuple[Tensor, Tensor]:
        r"""Bounds at each x, by Student's t distribution with `degrees_of_freedom`.

        Args:
            x: as for a call of the fit.
            level: the probability between the bounds, in (0, 1).
            kind: "confidence": bounds of the curve at that x. "prediction": bounds of one more sample there, of weight
                one.

        Returns:
            Lower and upper bounds in the shape of x.

        Raises:
            ValueError: a level or kind that is not accepted.
            ImportError: scipy is not installed (extra `stats`).
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level={level!r} is not a probability; pass a number between 0 and 1, such as 0.95")
        if kind not in {"confidence", "prediction"}:
            raise ValueError(
                f"kind={kind!r} is unknown; pass 'confidence' (of the curve) or 'prediction' (of a sample)"
            )
        stdtrit = import_optional("scipy.special", "Fit.interval", "stats").stdtrit

        x = _as_tensor(x)
        values, std = self.estimate.values(x), self.estimate.std(x)
        if kind == "prediction":
            std = torch.hypot(std, torch.full_like(std, self.estimate.deviation))
        half = std * float(stdtrit(self.degrees_of_freedom, 0.5 * (1.0 + level)))
        return values - half, values + half

    # --- other forms ---

    def in_basis(self, basis: str, domain: Sequence[float] | None = None) -> Fit:
        """The same polynomial in another basis and domain, with its covariance.

        Coefficients are kept in twice the digits of float64 and are rounded once, after the conversion.

        Args:
            basis: the basis of the result.
            domain: ``(lo, hi)``, mapped onto the window of the basis; None for t = x. So ``fit.in_basis("power").coef``
                are the coefficients of powers of x.

        Raises:
            TypeError: a domain that is not a pair of numbers.
            ValueError: an unknown basis; a domain that is not finite or has lo >= hi.
        """
        name = bases.resolve(basis).name
        bounds = None if domain is None else bases.interval(domain)
        if name == self.basis and bounds == self.domain:
            return self
        coef = self.estimate.coefficients(name, bounds).to(self.coef.device)
        return replace(self, coef=coef, basis=name, domain=bounds, fixed=())

    def to_numpy(self) -> Series:
        """The series of numpy.polynomial with these coefficients.

        Raises:
            ImportError: numpy is not installed.
        """
        return bases.to_numpy(self.coef.cpu(), self.basis, self.domain)

    def __str__(self) -> str:
        """The polynomial as text, with the map from x to t."""
        return format_series(self.coef.tolist(), self.basis, self.domain)

    def __repr__(self) -> str:
        """The polynomial and its quality, in a few lines."""
        lines = [
            f"Fit of degree {self.degree} to {self.n_samples} samples ({self.status})",
            f"  {self}",
            f"  R^2 {self.r_squared:.6g}, residual std {self.residual_std:.6g},"
            f" {self.degrees_of_freedom:g} degrees of freedom",
            f"  rank {self.rank}, condition {self.condition:.3g}, {self.solver}, {self.precision}",
        ]
        return "\n".join(lines)

    def plot(self, x: Tensor | None = None, y: Tensor | None = None, *, level: float = 0.95) -> Figure:
        """Plot the curve and its confidence band; with data also the samples and their residuals.

        It needs matplotlib and scipy (extra `cli`).

        Args:
            x: sample locations, (N,), or None.
            y: sample values, (N,), or None.
            level: the probability of the band.

        Returns:
            A matplotlib Figure; `figure.savefig("fit.png")` writes it.
        """
        return plotting.fit_figure(curve_of(self), x, y, level)

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fit to a JSON file. Numbers keep their bits. The file is written whole or not at all."""
        document.write({name: getattr(self, name) for name in document.ATTRIBUTES}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Fit:
        """Read a file that `save` wrote. Tensors are on the CPU; `selection` is not kept.

        Raises:
            ValueError: the file is not one that `save` wrote, or is damaged, or has a newer version of the format.
        """
        return cls(**document.read(path))


def _as_tensor(x: Any) -> Tensor:
    """A floating-point tensor as it is, other numbers as a tensor in float64."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return x
    return torch.as_tensor(x, dtype=torch.float64)


def curve_of(fit: Fit) -> plotting.Curve:
    """The curve of a fit, as a picture shows it."""
    title = f"$R^2$ = {fit.r_squared:.5g}, residual std {fit.residual_std:.4g}"
    return plotting.Curve(fit, fit.interval, fit.estimate.domain, f"degree {fit.degree}", title)
