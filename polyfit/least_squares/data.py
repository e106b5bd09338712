"""The samples that a fit counts: checked, finite, and of positive weight."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit import _checks, bases
from polyfit.backends import select
from polyfit.bases import Interval

NAN_POLICIES = ("raise", "omit", "propagate")
_REMEDY = "pass nan_policy='omit' to leave these samples out, or 'propagate' for a result of NaN"
# Sizes of y whose squares, and sums of them, float64 holds.
_SMALLEST, _LARGEST = 1e-140, 1e140


class Data(NamedTuple):
    """Samples that count: finite, and of positive weight.

    Attributes:
        x: (N,).
        y: (N,).
        weight: (N,), or None for ones.
        domain: the range of x, widened where it has no width.
        n_samples: N.
        impl: "auto", "triton" or "torch", as it was asked for.
        unit: a power of two in which y is counted, 1 but for numbers whose squares float64 would not hold.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None
    domain: Interval
    n_samples: int
    impl: str
    unit: float


def prepare(
    x: Tensor, y: Tensor, weight: Tensor | None, sigma: Tensor | None, nan_policy: str, impl: str
) -> Data | None:
    """The samples that count, checked; None for data that are not finite under "propagate"."""
    if weight is not None and sigma is not None:
        raise ValueError("weight and sigma are both given; pass one of them: weight is 1/sigma**2")
    _checks.check_tensors({"x": x, "y": y, "weight": weight, "sigma": sigma})
    _checks.check_one_series({"x": x, "y": y, "weight": weight, "sigma": sigma})
    select.resolve_fit_impl(impl, x.device)
    x, y = x.detach(), y.detach()
    if sigma is not None:
        weight = _weight_of(sigma.detach(), nan_policy)
    elif weight is not None:
        weight = weight.detach()
    if weight is not None:
        x, y, weight = _with_weight(x, y, weight, nan_policy)
    return _finite(x, y, weight, nan_policy, impl)


def _weight_of(sigma: Tensor, nan_policy: str) -> Tensor:
    """1/sigma**2."""
    is_positive = (sigma > 0) | sigma.isnan()
    if not bool(is_positive.all()):
        where = int(is_positive.logical_not().nonzero()[0])
        raise ValueError(
            f"sigma[{where}] is {float(sigma[where])!r}; standard deviations are positive: leave such samples out,"
            " or pass what they are"
        )
    if nan_policy == "raise" and bool(sigma.isnan().any()):
        _checks.check_finite({"sigma": sigma}, _REMEDY)
    return sigma.double().pow(-2)


def _with_weight(x: Tensor, y: Tensor, weight: Tensor, nan_policy: str) -> tuple[Tensor, Tensor, Tensor]:
    """The samples whose weight is not zero."""
    _checks.check_weights(weight)
    is_used = weight != 0
    if not bool(is_used.any()):
        raise ValueError(
            f"all {weight.shape[0]} weights are zero; pass weights that are positive for the samples to fit"
        )
    if nan_policy == "raise":
        _checks.check_finite({"weight": weight}, _REMEDY)
    if bool(is_used.all()):
        return x, y, weight
    return x[is_used], y[is_used], weight[is_used]


def _finite(x: Tensor, y: Tensor, weight: Tensor | None, nan_policy: str, impl: str) -> Data | None:
    """The data, without what is not finite under "omit"."""
    if nan_policy == "omit":
        is_finite = x.isfinite() & y.isfinite()
        if weight is not None:
            is_finite &= weight.isfinite()
        if not bool(is_finite.all()):
            x, y = x[is_finite], y[is_finite]
            weight = None if weight is None else weight[is_finite]
    n = x.shape[0]
    if not n:
        raise ValueError("no samples are left to fit; pass some that are finite and of positive weight")
    # One look at all of x is needed anyway, and smallest and largest are NaN where anything is.
    (low, high), (bottom, top) = torch.aminmax(x), torch.aminmax(y)
    lo, hi, least, most = low.item(), high.item(), bottom.item(), top.item()
    largest_weight = 0.0 if weight is None else weight.max().item()
    if not all(map(math.isfinite, (lo, hi, least, most, largest_weight))):
        if nan_policy == "propagate":
            return None
        _checks.check_finite({"x": x, "y": y, "weight": weight}, _REMEDY)
    size, unit = max(-least, most), 1.0
    if size and not _SMALLEST < size < _LARGEST:
        unit = math.ldexp(1.0, math.frexp(size)[1] - 1)
        y = y.double() / unit
    return Data(x, y, weight, bases.widened(lo, hi), n, impl, unit)
