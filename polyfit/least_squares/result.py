"""`Fit`, the result of a least-squares fit: coefficients, their errors, predictions, other forms, files."""

from __future__ import annotations

import functools
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from polyfit import _checks, bases, plotting
from polyfit._optional import import_optional
from polyfit.bases import Interval
from polyfit.bases.formatting import format_series
from polyfit.least_squares import algebra, document
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.estimate import Estimate
from polyfit.least_squares.warn import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from polyfit.bases.conversion import Series


# A fit warns where the evaluation of its coefficients loses more than this share of the digits of the dtype: 10 of 16
# in float64, 4 of 7 in float32.
_LOST_SHARE = 0.625
# Significant digits of the coefficients in the text of a fit where they do not cancel, and those that tell all float64
# numbers apart.
_SHOWN_DIGITS, _ALL_DIGITS = 6, 17


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
        """Plot the criterion against the degree and mark the chosen degree; needs matplotlib."""
        is_cv = self.criterion == "cv"
        name = f"mean squared error, {self.folds} folds" if is_cv else self.criterion.upper().replace("AICC", "AICc")
        is_log = is_cv and min(self.values) > 0.0
        return plotting.selection_figure(self.degrees, self.values, self.degree, name, is_log=is_log)


@functools.cache
def _most_cancellation(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps ** -_LOST_SHARE


class _Copied:
    """An attribute that is a tensor: whoever reads it gets a copy, so that writing to it does not change the owner."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: Any, owner: type) -> Tensor:
        if instance is None:  # a dataclass asks for the default: there is none
            raise AttributeError(self._name)
        return instance.__dict__[self._name].clone()

    def __set__(self, instance: Any, value: Tensor) -> None:
        instance.__dict__[self._name] = value


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    r"""A fitted polynomial, :math:`p(x) = \sum_k c_k P_k(t(x))`, and its errors.

    P_k are the polynomials of `basis`, and t(x) maps `domain` affinely onto the window of the basis. Numbers are
    float64, whatever the dtype of the data was. Tensors are on the device of the data; they are copies, and writing to
    them does not change the fit. Call the fit to evaluate it.

    Attributes:
        coef: coefficients c, lowest degree first, (degree + 1,). They belong to `basis` and `domain`: pass all three on
            by `as_arguments`.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for t = x.
        n_samples: the number of samples of positive weight.
        rss: the weighted sum of squared residuals, in squared units of y.
        r_squared: 1 - rss / total. The total is the weighted sum of squares of y about its weighted mean, or about
            the constant if that was fixed. NaN where the total is zero.
        degrees_of_freedom: n_samples less rank. With ridge, n_samples less the trace of the hat matrix.
        rank: the number of free coefficients, or of combinations of them, that the data determine.
        condition: of the matrix with columns sqrt(w) T_k(t), T_k on the range of the data, each scaled to length one:
            the factor by which relative errors may grow.
        status: "ok"; "rank_deficient": some coefficients are undetermined by the data, and the result is the
            minimum-norm solution; "interpolates": as many coefficients as samples, so that residuals say nothing about
            errors; "inaccurate": corrections did not converge, a constant alone fits better, or the basis lies too far
            from the data for float64, so that no digit of the coefficients is certain; "not_finite": the data have NaN
            or infinity, which was propagated.
        solver: "moments" (the normal equations), or "qr" (of the data) where these have too few digits.
        precision: "double" or "extended": that of the residuals in the last correction.
        fixed: the indices of the coefficients that were fixed, in `basis` and `domain`.
        absolute_sigma: whether sigma was in units of y, so that errors follow from it alone.
        sample_weight: the weight of a sample if all have the same, otherwise NaN.
        selection: the criterion of all degrees if the fit comes from `polyfit.select_degree`, otherwise None.
    """

    if TYPE_CHECKING:
        coef: Tensor
    else:
        coef: Tensor = _Copied()
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
    absolute_sigma: bool = False
    sample_weight: float = 1.0
    selection: Selection | None = None

    @property
    def degree(self) -> int:
        """The degree of the polynomial."""
        return len(self.estimate.high) - 1

    @property
    def _device(self) -> torch.device:
        """Where tensors of the result lie."""
        return self.__dict__["_coef"].device

    @property
    def residual_std(self) -> float:
        """The residual standard deviation, sqrt(rss / degrees_of_freedom); NaN without degrees of freedom."""
        return self.estimate.residual_std

    @functools.cached_property
    def _spread(self) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_]]:
        """The root of the covariance, by rows and their exponents of two, and which coefficients are undetermined.

        Mantissas and exponents are apart because the conversion, the spread and the deviation may each be beyond
        float64 where their product is not.
        """
        spread, exponents, is_undetermined = self.estimate.spread_in(self.basis, self.domain)
        mantissa, exponent = np.frexp(self.estimate.deviation)
        spread, exponents = spread * mantissa, exponents + int(exponent)
        spread[list(self.fixed)], is_undetermined[list(self.fixed)] = 0.0, False
        return spread, exponents, is_undetermined

    @property
    def std_err(self) -> Tensor:
        """Standard errors of the coefficients, (degree + 1,), in units of y.

        Zero for fixed coefficients. NaN for coefficients that are undetermined by the data, and for all coefficients
        if there are no degrees of freedom, unless sigma is absolute.
        """
        spread, exponents, is_undetermined = self._spread
        with np.errstate(over="ignore", under="ignore"):
            errors = np.ldexp(algebra.row_lengths(spread), exponents)
        errors[is_undetermined] = math.nan
        return torch.from_numpy(errors).to(self._device)

    @property
    def covariance(self) -> Tensor:
        """Covariance of the coefficients, (degree + 1, degree + 1), with zeros and NaN as in `std_err`."""
        spread, exponents, is_undetermined = self._spread
        with np.errstate(over="ignore", under="ignore"):  # infinite where it overflows
            covariance = np.ldexp(spread @ spread.T, exponents + exponents[:, None])
        covariance = np.where(is_undetermined | is_undetermined[:, None], math.nan, covariance)
        return torch.from_numpy(covariance).to(self._device)

    # --- evaluation ---

    def __call__(self, x: ArrayLike | Tensor) -> Tensor:
        """Evaluate p(x).

        The polynomial is evaluated in Chebyshev polynomials on the range of the data, whatever the basis of `coef` is.
        Powers of x far from zero would cancel.

        Args:
            x: a tensor of any shape, or anything that numpy.asarray takes: numbers, lists, arrays, columns of pandas.

        Returns:
            p(x) in float64, in the shape and on the device of x. Differentiable in x.

        Raises:
            TypeError: x does not hold real numbers.
        """
        return self.estimate.values(_checks.data_tensor("x", x))

    def predict(self, x: ArrayLike | Tensor, *, return_std: bool = False) -> Any:
        """Evaluate p(x), and with return_std its standard error.

        Args:
            x: as for a call of the fit.
            return_std: whether to return the standard error of p(x). It is that of the curve, and does not include the
                scatter of single samples about it.

        Returns:
            Values in the shape of x, or with return_std a pair of values and standard errors, in float64. Standard
            errors are NaN where the data do not determine p(x).
        """
        x = _checks.data_tensor("x", x)
        values = self.estimate.values(x)
        return (values, self.estimate.std(x)) if return_std else values

    def interval(
        self,
        x: ArrayLike | Tensor,
        level: float = 0.95,
        *,
        kind: str = "confidence",
        sigma: ArrayLike | Tensor | None = None,
        weight: ArrayLike | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Bounds at each x: of the curve, or of one more sample.

        .. math:: p(x) \pm q \, s(x), \qquad p(x) \pm q \sqrt{s(x)^2 + v / w}

        s(x) is the standard error of p(x). By default v is the residual variance, and q the quantile of Student's t
        distribution with `degrees_of_freedom`. With absolute_sigma v is 1, the variance is known, and q is the quantile
        of the normal distribution.

        Args:
            x: as for a call of the fit.
            level: the probability between the bounds, in (0, 1).
            kind: "confidence": bounds of the curve at that x. "prediction": bounds of one more sample there.
            sigma: the standard deviation of the new sample, in the units of the sigma of the fit; a number, or of the
                shape of x. w is 1/sigma**2. For "prediction" only.
            weight: w, in place of sigma. By default it is the weight of the samples of the fit, which must all have
                the same.

        Returns:
            Lower and upper bounds in the shape of x, in float64.

        Raises:
            TypeError: x, sigma or weight that does not hold real numbers.
            ValueError: a level or kind that is not accepted; a sigma or weight that is not positive and finite, is
                missing where the weights of the samples differ, or is given for "confidence".
            ImportError: scipy is not installed (extra `stats`); absolute_sigma does not need it.

        References:
            Draper & Smith, Applied Regression Analysis (1998), 3.1 for both kinds, 9.2 for weights.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"level={level!r} is not a probability; pass a number between 0 and 1, such as 0.95")
        if kind not in {"confidence", "prediction"}:
            raise ValueError(
                f"kind={kind!r} is unknown; pass 'confidence' (of the curve) or 'prediction' (of a sample)"
            )
        x = _checks.data_tensor("x", x)
        values, std = self.estimate.values(x), self.estimate.std(x)
        if kind == "prediction":
            of_new = self._sigma_of_new(x, sigma, weight) / self.estimate.sigma_unit
            std = torch.hypot(std, of_new * self.estimate.deviation)
        elif sigma is not None or weight is not None:
            raise ValueError("sigma and weight are those of a new sample; pass kind='prediction' with them")
        half = std * self._quantile(0.5 * (1.0 + level))
        return values - half, values + half

    def _sigma_of_new(self, x: Tensor, sigma: Any, weight: Any) -> Tensor:
        """1/sqrt(w) of a new sample at each x, in the shape of x."""
        if sigma is not None and weight is not None:
            raise ValueError("weight and sigma are both given; pass one of them: weight is 1/sigma**2")
        name, given = ("weight", weight) if sigma is None else ("sigma", sigma)
        if given is None and math.isnan(self.sample_weight) and not math.isnan(self.rss):
            raise ValueError(
                "the samples of the fit have different weights, and that of the new sample is not given; pass sigma= or"
                " weight= of the new sample"
            )
        values = _checks.data_tensor(name, self.sample_weight if given is None else given).to(x.device, torch.float64)
        if values.dim() and values.shape != x.shape:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)} and x {tuple(x.shape)}; pass one number, or one for each x"
            )
        if given is not None and not bool((values.isfinite() & (values > 0)).all()):
            raise ValueError(f"{name} of new samples is not positive and finite everywhere; pass positive numbers")
        return (values.rsqrt() if sigma is None else values).expand(x.shape)

    def _quantile(self, probability: float) -> float:
        """The quantile of the distribution of an error over its standard error."""
        if self.absolute_sigma:
            return statistics.NormalDist().inv_cdf(probability)
        stdtrit = import_optional("scipy.special", "Fit.interval", "stats").stdtrit
        return float(stdtrit(self.degrees_of_freedom, probability))

    # --- other forms ---

    @functools.cached_property
    def _cancellation(self) -> float:
        """How many times as large as p(x) the terms ``coef[k] P_k(t(x))`` are, on the range of the data."""
        return self.estimate.cancellation(self.__dict__["_coef"].cpu().numpy(), self.basis, self.domain)

    def warn_of_use(self, dtype: torch.dtype = torch.float64) -> Fit:
        """This fit, with a warning if its coefficients overflow a dtype, or lose most of its digits when evaluated."""
        coef = self.__dict__["_coef"]
        coef = (coef if coef.dtype == dtype else coef.to(dtype)).tolist()
        if not all(map(math.isfinite, coef)) and np.isfinite(self.estimate.high).all():
            lo, hi = self.estimate.domain
            where = "x" if self.domain is None else f"the domain {self.domain}"
            warn(
                f"coefficients of {self.basis} on {where} overflow {str(dtype).removeprefix('torch.')}: they are"
                " infinite or NaN. Evaluate with fit(x), or use coefficients on the range of the data:"
                f" fit.in_basis({self.basis!r}, ({lo!r}, {hi!r}))"
            )
        elif self._cancellation > _most_cancellation(dtype):
            lo, hi = self.estimate.domain
            is_plain = self.domain in (None, bases.BASES[self.basis].window)
            where = "x" if is_plain else f"x mapped from {self.domain}"
            held = round(-math.log10(torch.finfo(dtype).eps))
            lost = min(round(math.log10(self._cancellation)), held) if math.isfinite(self._cancellation) else held
            warn(
                f"the coefficients of {self.basis} of {where} cancel when they are evaluated: about"
                f" {lost} of {held} digits are lost. Evaluate with fit(x), or use coefficients on the range of"
                f" the data: fit.in_basis({self.basis!r}, ({lo!r}, {hi!r}))"
            )
        return self

    def as_arguments(self, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """Coefficients, basis and domain as keyword arguments, which belong together.

        ``polyval(x, **fit.as_arguments())`` is p(x). So are the polynomials of
        ``polynomial_loss(x, y, **fit.as_arguments())`` and, at its start, of
        ``train(x, y, **fit.as_arguments(), optimizer=..., epochs=...)``.

        Args:
            dtype: of the coefficients, which has to be that of x there; None for float64.

        Returns:
            A dict with the keys "coef" (a copy), "basis" and "domain".

        Warns:
            FitWarning: the coefficients overflow this dtype, or cancel when they are evaluated in it, as powers of x
                far from zero do.

        >>> import torch, polyfit
        >>> x = torch.linspace(2000, 2020, 21)
        >>> fit = polyfit.fit(x, 3 * x, degree=1)
        >>> polyfit.polyval(x[:2], **fit.as_arguments(x.dtype))
        tensor([6000., 6003.])
        """
        dtype = torch.float64 if dtype is None else dtype
        coef = self.warn_of_use(dtype).coef.to(dtype)
        return {"coef": coef, "basis": self.basis, "domain": self.domain}

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

        Warns:
            FitWarning: the coefficients overflow float64; or they are right, but cancel when they are evaluated, as
                powers of x far from zero do.
        """
        name = bases.resolve(basis).name
        bounds = None if domain is None else bases.interval(domain)
        if name == self.basis and bounds == self.domain:
            return self
        window = bases.BASES[name].window
        if name == self.basis and (bounds or window) == (self.domain or window):  # the same map, and so the same series
            return replace(self, domain=bounds)
        coef = self.estimate.coefficients(name, bounds).to(self._device)
        return replace(self, coef=coef, basis=name, domain=bounds, fixed=()).warn_of_use()

    def to_numpy(self) -> Series:
        """The series of numpy.polynomial with these coefficients.

        Warns:
            FitWarning: the coefficients overflow float64, or cancel when they are evaluated, as powers of x far from
                zero do.
        """
        self.warn_of_use()
        return bases.to_numpy(self.coef.cpu(), self.basis, self.domain)

    def __str__(self) -> str:
        """The polynomial as text, with the map from x to t; values of the text are right to about 5 digits."""
        lost = self._cancellation if math.isfinite(self._cancellation) else 1.0
        digits = min(_SHOWN_DIGITS + math.floor(math.log10(max(lost, 1.0))), _ALL_DIGITS)
        return format_series(self.coef.tolist(), self.basis, self.domain, digits)

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

    def plot(
        self, x: ArrayLike | Tensor | None = None, y: ArrayLike | Tensor | None = None, *, level: float = 0.95
    ) -> Figure:
        """Plot the curve and its confidence band; with data also the samples and their residuals; needs matplotlib.

        Args:
            x: sample locations, (N,), as for `polyfit.fit`, or None.
            y: sample values, (N,), likewise.
            level: the probability of the band.

        Returns:
            A matplotlib Figure; `figure.savefig("fit.png")` writes it. The curve spans the range of the data of the fit
            and of x.

        Raises:
            ImportError: matplotlib is not installed (extra `cli`), or scipy (extra `stats`).
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


def curve_of(fit: Fit) -> plotting.Curve:
    """The curve of a fit, as a picture shows it."""
    title = f"$R^2$ = {fit.r_squared:.5g}, residual std {fit.residual_std:.4g}"
    return plotting.Curve(fit, fit.interval, fit.estimate.domain, f"degree {fit.degree}", title)
