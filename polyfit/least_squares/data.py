"""The samples that a fit uses: checked, finite, and of positive weight."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import _checks, bases
from polyfit.backends import select
from polyfit.bases import Interval
from polyfit.least_squares.warn import warn

NAN_POLICIES = ("raise", "omit", "propagate")
_REMEDY = "pass nan_policy='omit' to leave these samples out, or 'propagate' for a result of NaN"
# Magnitudes of y between which y is not scaled. Squares are then within 1e+-280. That leaves a factor of 1e28 for the
# sum of the weights below the largest number, 2e308, and residuals down to 1e-14 y above the smallest normal number.
_SMALLEST, _LARGEST = 1e-140, 1e140
# The same for the largest weight. Squares of y times a weight leave a factor of 1e22 for the number of samples.
_LIGHTEST, _HEAVIEST = 1e-6, 1e6
# The same for the smallest sigma: its square and the reciprocal of that are within 1e+-140.
_SMALLEST_SIGMA, _LARGEST_SIGMA = 1e-70, 1e70


class Data(NamedTuple):
    """The samples of a fit: finite, and of positive weight.

    Attributes:
        x: (N,).
        y: (N,), measured in units of `unit`.
        weight: (N,), measured in units of 1/sigma_unit**2, or None for ones.
        domain: the range of x, widened where all x are equal. It is the internal domain of the fit.
        n_samples: N.
        impl: "auto", "triton" or "torch", as the caller passed it.
        sample_weight: the weight of a sample if all have the same, otherwise NaN; NaN where it overflows or underflows.
        unit: a power of two: near the largest |y| where squares of y could overflow or underflow float64, otherwise 1.
            Fixed coefficients whose polynomial is larger than y decide in place of y.
        sigma_unit: a power of two: 1, unless weights are so large or small that sums with them could overflow or
            underflow.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None
    domain: Interval
    n_samples: int
    impl: str
    sample_weight: float
    unit: float
    sigma_unit: float

    def in_unit_for(self, size: Decimal) -> Data:
        """The same samples, with y in a unit for squares of y and of another number, whose magnitude is size."""
        size = max(size, Decimal(float(self.y.abs().max())) * Decimal(self.unit))
        unit = _unit_of(float(size))
        # In two steps: the quotient of the units may overflow.
        return self if unit == self.unit else self._replace(y=self.y.double() * self.unit / unit, unit=unit)


class Series(NamedTuple):
    """One series as a user passed it: tensors of one dtype and shape on one device, detached.

    Attributes:
        x: (N,).
        y: (N,).
        weight: (N,), measured in units of 1/sigma_unit**2, or None for ones.
        resolution: the relative distance of neighbouring numbers in the dtype that x had.
        sigma_unit: a power of two; 1 unless sigma was given.
        scale: "weight" or "sigma": the argument that the weight comes from.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None
    resolution: float
    sigma_unit: float = 1.0
    scale: str = "weight"

    def of(self, samples: Tensor) -> Series:
        """The samples for which a mask (N,) is true."""
        if bool(samples.all()):
            return self
        weight = None if self.weight is None else self.weight[samples]
        return self._replace(x=self.x[samples], y=self.y[samples], weight=weight)

    def check_finite(self, remedy: str) -> None:
        """Refuse NaN and infinity in the samples of positive weight; places are those in the user's data."""
        x, y, weight = self.x, self.y, self.weight
        if weight is not None:
            x, y = (values.masked_fill(weight == 0, 0.0) for values in (x, y))
        _checks.check_finite({"x": x, "y": y, self.scale: weight}, remedy)


def read_series(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    weight: ArrayLike | Tensor | None,
    sigma: ArrayLike | Tensor | None = None,
    nan_policy: str = "raise",
    remedy: str = _REMEDY,
) -> Series:
    """The operands of a fit as tensors; sigma becomes a weight.

    Args:
        x: sample locations, (N,); like all of these, whatever `_checks.data_tensor` takes.
        y: sample values, (N,).
        weight: (N,), a number for all samples, or None.
        sigma: standard deviations of y in place of weight, (N,), a number, or None.
        nan_policy: one of `NAN_POLICIES`.
        remedy: for a sigma that is NaN, as the end of a sentence.

    Raises:
        TypeError: data that are not real numbers.
        ValueError: shapes or devices that differ; weights that are not accepted; both weight and sigma.
    """
    if weight is not None and sigma is not None:
        raise ValueError("weight and sigma are both given; pass one of them: weight is 1/sigma**2")
    name, scale = ("weight", weight) if sigma is None else ("sigma", sigma)
    scale = None if scale is None else _checks.data_tensor(name, scale)
    is_number = scale is not None and scale.dim() == 0
    x = _checks.data_tensor("x", x)
    resolution = torch.finfo(x.dtype).eps
    operands = {"x": x, "y": y} if is_number or scale is None else {"x": x, "y": y, name: scale}
    tensors = _checks.data_tensors(operands)
    _checks.check_one_series(tensors)
    x, y = (
        tensor.detach() if tensor.requires_grad else tensor
        for tensor in (tensors["x"], tensors["y"])
        if tensor is not None
    )
    if is_number and scale is not None:
        scale = scale.to(x.device, torch.float64).repeat(x.shape[0])
    elif scale is not None:
        scale = tensors[name]
    if scale is None:
        return Series(x, y, None, resolution)
    scale = scale.detach()
    if sigma is not None:
        weight, sigma_unit = _weight_of(scale, nan_policy, remedy)
        return Series(x, y, weight, resolution, sigma_unit, "sigma")
    _checks.check_weights(scale)
    return Series(x, y, scale, resolution)


def _weight_of(sigma: Tensor, nan_policy: str, remedy: str) -> tuple[Tensor, float]:
    """1/sigma**2 in units of 1/sigma_unit**2, and sigma_unit."""
    is_positive = (sigma > 0) | sigma.isnan()
    if not bool(is_positive.all()):
        where = int(is_positive.logical_not().nonzero()[0])
        raise ValueError(
            f"sigma[{where}] is {float(sigma[where])!r}; pass positive standard deviations, or leave these samples out"
        )
    if nan_policy == "raise" and bool(sigma.isnan().any()):
        _checks.check_finite({"sigma": sigma}, remedy)
    sigma, unit = sigma.double(), 1.0
    is_finite = sigma.isfinite()
    if bool(is_finite.any()):
        smallest = float(sigma.where(is_finite, math.inf).min())
        if not _SMALLEST_SIGMA < smallest < _LARGEST_SIGMA:
            unit = math.ldexp(1.0, math.frexp(smallest)[1])
    weight = (sigma / unit).pow(-2)
    _refuse_lost(weight, (weight == 0) & is_finite, "sigma", sigma)
    return weight, unit


def _refuse_lost(weight: Tensor, is_lost: Tensor, name: str, given: Tensor) -> None:
    """Refuse weights that float64 does not hold beside the largest one: their samples would be left out."""
    if bool(is_lost.any()):
        where, largest = int(is_lost.nonzero()[0]), int(weight.nan_to_num(0.0).argmax())
        raise ValueError(
            f"{name}[{where}] is {float(given[where])!r} and {name}[{largest}] is {float(given[largest])!r}: the"
            f" quotient of their weights is 0 in float64; leave out the samples of negligible weight, or pass a"
            f" smaller range of {name}"
        )


def prepare(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    weight: ArrayLike | Tensor | None,
    sigma: ArrayLike | Tensor | None,
    nan_policy: str,
    impl: str,
) -> Data | None:
    """Check the data and select the samples to fit.

    Args:
        x: as for `read_series`, like the next three.
        y: sample values.
        weight: of the samples, or None.
        sigma: standard deviations of y, or None.
        nan_policy: one of `NAN_POLICIES`.
        impl: "auto", "triton" or "torch".

    Returns:
        The samples; None for data that are not finite under "propagate".

    Raises:
        TypeError: data that are not real numbers.
        ValueError: shapes or devices that differ; weights that are not accepted; NaN or infinity under "raise"; no
            samples.

    Warns:
        FitWarning: the dtype of x does not hold the different x.
    """
    given = read_series(x, y, weight, sigma, nan_policy)
    select.resolve_fit_impl(impl, given.x.device)
    used = given
    if given.weight is not None:
        is_used = given.weight != 0
        if not bool(is_used.any()):
            if given.scale == "sigma":
                raise ValueError(f"all {is_used.shape[0]} sigma are infinite; pass finite sigma for the samples to fit")
            raise ValueError(f"all {is_used.shape[0]} weights are zero; pass positive weights for the samples to fit")
        used = given.of(is_used)
    if nan_policy == "omit":
        is_finite = used.x.isfinite() & used.y.isfinite()
        used = used.of(is_finite if used.weight is None else is_finite & used.weight.isfinite())
    x, y, weight, sigma_unit = used.x, used.y, used.weight, used.sigma_unit
    n = x.shape[0]
    if not n:
        raise ValueError("no samples are left to fit; pass samples that are finite and of positive weight")
    # The range of x is needed anyway, and smallest and largest are NaN where any value is NaN: no other pass is needed.
    extremes = [torch.aminmax(values) for values in (x, y, weight) if values is not None]
    (lo, hi), (least, most), *of_weight = ((float(low), float(high)) for low, high in extremes)
    lightest, heaviest = of_weight[0] if of_weight else (1.0, 1.0)
    if not all(map(math.isfinite, (lo, hi, least, most, heaviest))):
        if nan_policy == "propagate":
            return None
        given.check_finite(_REMEDY)
    _warn_of_lost_places(used, lo, hi)
    unit = _unit_of(max(-least, most))
    if unit != 1.0:
        y = y.double() / unit
    if weight is not None and given.scale == "weight" and not _LIGHTEST < heaviest < _HEAVIEST:
        exponent = math.frexp(heaviest)[1] // 2
        sigma_unit = math.ldexp(1.0, -exponent)
        # In two steps: a power of two up to 2**1074 is not a float64 number, and this loses no digit.
        scaled = weight.double() * sigma_unit * sigma_unit
        _refuse_lost(scaled, scaled == 0, "weight", weight)
        weight, lightest, heaviest = scaled, lightest * sigma_unit * sigma_unit, heaviest * sigma_unit * sigma_unit
    sample_weight = heaviest / sigma_unit / sigma_unit if lightest == heaviest else math.nan
    sample_weight = sample_weight if sys.float_info.min <= sample_weight < math.inf else math.nan
    return Data(x, y, weight, bases.widened(lo, hi), n, impl, sample_weight, unit, sigma_unit)


def _unit_of(size: float) -> float:
    """A power of two: near size where squares of it could overflow or underflow float64, otherwise 1."""
    return 1.0 if not size or _SMALLEST < size < _LARGEST else math.ldexp(1.0, math.frexp(size)[1] - 1)


def _warn_of_lost_places(series: Series, lo: float, hi: float) -> None:
    """Warn if the dtype that x had holds too few numbers in the range of x: time stamps in float32, for example."""
    far = max(-lo, hi)
    if lo == hi or 0.5 * far < hi - lo:  # near zero a shift does not help
        return
    step = math.ldexp(series.resolution, math.frexp(far)[1] - 1)  # of neighbouring numbers at the far end
    n, n_numbers = series.x.shape[0], (hi - lo) / step + 1.0 if step else math.inf
    if n <= n_numbers:
        return
    n_different = len(series.x.unique())
    if n_numbers / 4.0 < n_different < n:  # few different x may be meant
        remedy = "pass x in float64, or " if series.resolution > torch.finfo(torch.float64).eps else ""
        warn(
            f"{n} samples have {n_different} different x, because numbers of this size are {step:g} apart in the dtype"
            f" of x: {remedy}subtract an origin from x before it is rounded to floating-point numbers"
        )
