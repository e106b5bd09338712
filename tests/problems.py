"""Operands for kernels, and the truth in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from oracle import polynomial_loss, polyval
from torch import Tensor

from polyfit import bases

DOMAIN = (-2.5, 4.0)


@dataclass(frozen=True)
class Problem:
    """Canonical operands: x, y, weight (S or 1, N), coef (S, degree + 1)."""

    x: Tensor
    y: Tensor
    coef: Tensor
    weight: Tensor | None
    upstream: Tensor | None
    domain: tuple[float, float] | None

    @property
    def mapping(self) -> bases.AffineMap | None:
        """From domain to window, for the dtype of the operands."""
        wide = torch.float64 if self.x.dtype == torch.float64 else torch.float32
        return bases.affine_map(self.domain, bases.POWER, wide)

    def to(self, dtype: torch.dtype, device: str | None = None) -> Problem:
        """The same numbers in another dtype, or elsewhere."""
        return Problem(
            self.x.to(device, dtype),
            self.y.to(device, dtype),
            self.coef.to(device, dtype),
            None if self.weight is None else self.weight.to(device, dtype),
            None if self.upstream is None else self.upstream.to(device, dtype),
            self.domain,
        )

    def objective(self) -> dict[str, Tensor]:
        """Everything that the objective gives, by autograd of the plain formula in the dtype of the operands."""
        x, y, coef = (tensor.detach().clone().requires_grad_() for tensor in (self.x, self.y, self.coef))
        losses = polynomial_loss(x, y, coef, self.weight, "sum", per_series=True, domain=self.domain)
        upstream = torch.ones_like(losses) if self.upstream is None else self.upstream.to(losses.dtype)
        options = {"allow_unused": True, "materialize_grads": True}
        grad_x, grad_y = torch.autograd.grad(losses, (x, y), upstream, retain_graph=True, **options)
        (grad_coef,) = torch.autograd.grad(losses, coef, upstream, **options)
        return {"value": losses.detach(), "grad_coef": grad_coef, "grad_x": grad_x, "grad_y": grad_y}

    def values(self) -> Tensor:
        """p(x), (S, N)."""
        return polyval(self.x, self.coef, self.domain).expand(self.coef.shape[0], -1)

    def pull_back(self, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of sum(grad * p(x))."""
        x, coef = (tensor.detach().clone().requires_grad_() for tensor in (self.x, self.coef))
        values = polyval(x, coef, self.domain)
        grad = grad.to(values.dtype)
        grad_x, grad_coef = torch.autograd.grad(
            values.expand(coef.shape[0], -1), (x, coef), grad, allow_unused=True, materialize_grads=True
        )
        return {"grad_x": grad_x, "grad_coef": grad_coef}


def make_problem(
    n_samples: int,
    degree: int,
    *,
    n_series: int = 1,
    shared_x: bool = True,
    shared_y: bool = False,
    weight: bool = False,
    upstream: bool = False,
    domain: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Problem:
    """Random operands of that kind; shared ones have one row."""

    def rows(shared: bool) -> int:
        return 1 if shared else n_series

    problem = Problem(
        torch.rand(rows(shared_x), n_samples) * 3 - 1.5,
        torch.randn(rows(shared_y), n_samples),
        torch.randn(n_series, degree + 1),
        torch.rand(rows(shared_x), n_samples) + 0.5 if weight else None,
        torch.rand(n_series) + 0.5 if upstream else None,
        DOMAIN if domain else None,
    )
    return problem.to(dtype, device)


def assert_no_worse_than_eager(actual: Tensor, eager: Tensor, truth: Tensor, what: str) -> None:
    """As near to the truth as eager code in the same dtype, give or take a few roundings of the dtype that computes.

    bfloat16 is rounded when it is stored: half an eps of its own.
    """
    assert actual.shape == truth.shape, what
    assert actual.isfinite().all(), f"{what}: {actual}"
    if not truth.numel():
        return
    scale = float(truth.abs().max())
    wide = torch.float64 if actual.dtype == torch.float64 and eager.dtype == torch.float64 else torch.float32
    allowed = 2 * float((eager.double() - truth).abs().max()) + 8 * torch.finfo(wide).eps * scale
    if actual.dtype in {torch.float16, torch.bfloat16}:
        # Triton's interpreter truncates to bfloat16 where hardware rounds: a whole eps.
        allowed += torch.finfo(actual.dtype).eps * scale
    error = float((actual.double() - truth).abs().max())
    assert error <= allowed, f"{what}: off by {error:.3e}, allowed {allowed:.3e}"
