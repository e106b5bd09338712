"""Elementwise polynomials of groups of channels for kernels, and the truth in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from oracle import NUMPY_CLASSES, polyval
from problems import assert_no_worse_than_eager
from torch import Tensor

from polyfit import bases

DOMAIN = (-2.5, 4.0)


def continued(x: Tensor, coef: Tensor, domain: tuple[float, float] | None, basis: str, outside: str) -> Tensor:
    """p(x) for x (outer, groups, inner) and coef (groups, degree + 1), by way of powers and numpy's derivatives."""
    if outside == "extend":
        return polyval(x, coef, domain, basis)
    numpy_class = NUMPY_CLASSES[basis]
    lo, hi = numpy_class.window.tolist() if domain is None else domain
    values = polyval(x.clamp(lo, hi), coef, domain, basis)
    if outside == "clamp":
        return values
    for end, excess in ((lo, -(lo - x).relu()), (hi, (x - hi).relu())):  # which have no slope at the end itself
        units = [numpy_class.basis(k, domain=(lo, hi)) for k in range(coef.shape[1])]
        slopes = torch.tensor([unit.deriv()(end) for unit in units], dtype=torch.float64).to(coef)
        values = values + (coef @ slopes)[:, None] * excess
    return values


@dataclass(frozen=True)
class Activation:
    """Operands: grad and x (outer, groups, inner), coef (groups, degree + 1)."""

    grad: Tensor
    x: Tensor
    coef: Tensor
    domain: tuple[float, float] | None
    basis: str
    outside: str

    @property
    def mapping(self) -> bases.AffineMap | None:
        """From domain to window, for the dtype of the operands."""
        wide = torch.float64 if self.x.dtype == torch.float64 else torch.float32
        return bases.affine_map(self.domain, bases.BASES[self.basis], wide)

    def results(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Values and gradients by autograd, computed in dtype."""
        x, coef = (part.detach().to(dtype).requires_grad_() for part in (self.x, self.coef))
        values = continued(x, coef, self.domain, self.basis, self.outside)
        options = {"allow_unused": True, "materialize_grads": True}
        grad_x, grad_coef = torch.autograd.grad(values, (x, coef), self.grad.to(dtype), **options)
        return {"values": values.detach(), "grad_x": grad_x, "grad_coef": grad_coef}

    def check(self, found: dict[str, Tensor], what: str = "") -> None:
        """No worse than eager code in the dtype that computes; grad_coef is float64, the others in the dtype of x."""
        truth = self.results(torch.float64)
        eager = truth if self.x.dtype == torch.float64 else self.results(torch.float32)
        for name, actual in found.items():
            assert actual.dtype == (torch.float64 if name == "grad_coef" else self.x.dtype)
            size = self.size() if self.x.dtype == torch.float64 else 0.0
            degree = self.coef.shape[1] - 1
            assert_no_worse_than_eager(actual, eager[name], truth[name], degree, f"{what}: {name}", size)

    def size(self) -> float:
        """What roundings are relative to where results are small: by the largest of all terms of all sums."""
        if not self.x.numel():
            return 0.0
        return max(float(part.abs().max()) for part in self.larger().results(torch.float64).values())

    def larger(self) -> Activation:
        """The same with coefficients and gradients without signs."""
        return Activation(self.grad.abs(), self.x, self.coef.abs(), self.domain, self.basis, self.outside)


def make_activation(
    shape: tuple[int, int, int],
    degree: int,
    *,
    basis: str = "chebyshev",
    outside: str = "linear",
    domain: tuple[float, float] | None = DOMAIN,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Activation:
    """Random operands, a third of the samples outside of the domain; coefficients of half types are float32."""
    lo, hi = NUMPY_CLASSES[basis].window.tolist() if domain is None else domain
    x = lo + (hi - lo) * (1.5 * torch.rand(shape, dtype=torch.float64) - 0.25)
    coef = torch.randn(degree + 1, shape[1], dtype=torch.float64).t()
    grad = torch.randn(shape, dtype=torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return Activation(grad.to(device, dtype), x.to(device, dtype), coef.to(device, wide), domain, basis, outside)
