"""The plain formulas in float64, written without polyfit: what everything is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# numpy's conversions of a unit series give P_k as a polynomial in t.
TO_POWER = {
    "power": lambda series: series,
    "chebyshev": np.polynomial.chebyshev.cheb2poly,
    "legendre": np.polynomial.legendre.leg2poly,
    "hermite": np.polynomial.hermite.herm2poly,
    "hermite_e": np.polynomial.hermite_e.herme2poly,
    "laguerre": np.polynomial.laguerre.lag2poly,
}
NUMPY_CLASSES = {
    "power": np.polynomial.Polynomial,
    "chebyshev": np.polynomial.Chebyshev,
    "legendre": np.polynomial.Legendre,
    "hermite": np.polynomial.Hermite,
    "hermite_e": np.polynomial.HermiteE,
    "laguerre": np.polynomial.Laguerre,
}


def to_window(x: Tensor, domain: Sequence[float] | None, basis: str = "power") -> Tensor:
    """The domain [lo, hi] onto numpy's window of the basis."""
    if domain is None:
        return x
    lo, hi = domain
    window_lo, window_hi = map(float, NUMPY_CLASSES[basis].window)
    return window_lo + (x - lo) * (window_hi - window_lo) / (hi - lo)


def polyval(x: Tensor, coef: Tensor, domain: Sequence[float] | None = None, basis: str = "power") -> Tensor:
    """The series by way of the power basis, power by power."""
    t = to_window(x, domain, basis)
    size = coef.shape[-1]
    rows = [np.pad(TO_POWER[basis](unit), (0, size))[:size] for unit in np.eye(size)]
    in_powers = coef @ torch.tensor(np.array(rows), dtype=coef.dtype, device=coef.device)
    columns = [column.unsqueeze(-1) if coef.dim() > 1 else column for column in in_powers.unbind(-1)]
    return torch.stack([column * t**k for k, column in enumerate(columns)]).sum(0)


SQUASHES: dict[str | None, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: 2 / (1 + torch.exp(-2 * x)) - 1,
    "algebraic": lambda x: x / (1 + x**2) ** 0.5,
    "clamp": lambda x: torch.where(x > 1, 1.0, torch.where(x < -1, -1.0, x)),
    None: lambda x: x,
}


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None) -> Tensor:
    """A polynomial an edge: for x (B, in), coef (degree, in, out), of P_1 and above, and bias (out,)."""
    t = SQUASHES[squash](x).mT.unsqueeze(1)  # (in, 1, B)
    edges = torch.cat((coef.new_zeros(1, *coef.shape[1:]), coef)).permute(1, 2, 0)
    return polyval(t, edges, basis=basis).sum(0).mT + bias


def continued(
    x: Tensor, coef: Tensor, domain: Sequence[float] | None = None, basis: str = "power", outside: str = "linear"
) -> Tensor:
    """The series inside of the window, and what continues it: the tangents at the ends, the values there, or itself.

    By cases and not by sums, with the derivative of the series by numpy. For x (..., N) and coef (..., degree + 1).
    """
    t = to_window(x, domain, basis)
    if outside == "extend":
        return polyval(t, coef, None, basis)
    ends = [torch.as_tensor(float(end), dtype=x.dtype) for end in NUMPY_CLASSES[basis].window]
    below, above = t < ends[0], t > ends[1]
    value = polyval(torch.where(below, ends[0], torch.where(above, ends[1], t)), coef, None, basis)
    if outside == "clamp":
        return value
    size = coef.shape[-1]
    derivatives = [NUMPY_CLASSES[basis](unit).deriv() for unit in np.eye(size)]
    for end, is_there in zip(ends, (below, above), strict=True):
        slopes = torch.tensor([derivative(float(end)) for derivative in derivatives], dtype=x.dtype)
        slope = (coef * slopes).sum(-1, keepdim=True)
        value = torch.where(is_there, value + slope * torch.where(is_there, t - end, 0.0), value)
    return value


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    per_series: bool = False,
    domain: Sequence[float] | None = None,
    basis: str = "power",
    pointwise: Callable[[Tensor, Tensor], Tensor] = lambda p, y: (p - y) ** 2,
) -> Tensor:
    """(Weighted) pointwise loss, reduced."""
    loss = pointwise(*torch.broadcast_tensors(polyval(x, coef, domain, basis), y))
    loss, weights = torch.broadcast_tensors(loss, torch.ones_like(loss) if weight is None else weight)
    if reduction == "none":
        return weights * loss
    if per_series:
        total, count = (weights * loss).sum(-1), weights.sum(-1)
    else:
        total, count = (weights * loss).sum(), weights.sum()
    return total / count if reduction == "mean" else total
