"""Operands for kernels, and the truth in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cases import LOSSES, LossCase
from oracle import polynomial_loss, polyval
from torch import Tensor

from polyfit import bases

DOMAIN = (-2.5, 4.0)
# Samples and series for programs of 32 threads that take several series: lengths around the 8 samples of a thread and
# the 64 of a tile, and mostly a last program that has more rows than series.
SHORT_SERIES = [(0, 131), (1, 131), (7, 67), (31, 35), (63, 19), (64, 16), (64, 17), (65, 9)]


@dataclass(frozen=True)
class Problem:
    """Canonical operands: x, y, weight (S or 1, N), coef (S, degree + 1)."""

    x: Tensor
    y: Tensor
    coef: Tensor
    weight: Tensor | None
    upstream: Tensor | None
    domain: tuple[float, float] | None
    basis: str = "power"
    case: LossCase = LOSSES["mse"]

    @property
    def degree(self) -> int:
        """Of the polynomial."""
        return self.coef.shape[1] - 1

    @property
    def mapping(self) -> bases.AffineMap | None:
        """From domain to window, for the dtype of the operands."""
        wide = torch.float64 if self.x.dtype == torch.float64 else torch.float32
        return bases.affine_map(self.domain, bases.BASES[self.basis], wide)

    def to(self, dtype: torch.dtype, device: str | None = None) -> Problem:
        """The same numbers in another dtype, or elsewhere."""
        return Problem(
            self.x.to(device, dtype),
            self.y.to(device, dtype),
            self.coef.to(device, dtype),
            None if self.weight is None else self.weight.to(device, dtype),
            None if self.upstream is None else self.upstream.to(device, dtype),
            self.domain,
            self.basis,
            self.case,
        )

    def objective(self) -> dict[str, Tensor]:
        """Everything that the objective gives, by autograd of the plain formula in the dtype of the operands."""
        x, y, coef = (tensor.detach().clone().requires_grad_() for tensor in (self.x, self.y, self.coef))
        weight = None if self.weight is None else self.weight.detach().clone().requires_grad_()
        losses = polynomial_loss(
            x,
            y,
            coef,
            weight,
            "sum",
            per_series=True,
            domain=self.domain,
            basis=self.basis,
            pointwise=self.case.oracle,
        )
        upstream = torch.ones_like(losses) if self.upstream is None else self.upstream.to(losses.dtype)
        options = {"allow_unused": True, "materialize_grads": True}
        grad_x, grad_y = torch.autograd.grad(losses, (x, y), upstream, retain_graph=True, **options)
        (grad_coef,) = torch.autograd.grad(losses, coef, upstream, retain_graph=True, **options)
        results = {"value": losses.detach(), "grad_coef": grad_coef, "grad_x": grad_x, "grad_y": grad_y}
        if weight is not None:
            (results["grad_weight"],) = torch.autograd.grad(losses, weight, upstream, **options)
        return results

    def values(self) -> Tensor:
        """p(x), (S, N)."""
        return polyval(self.x, self.coef, self.domain, self.basis).expand(self.coef.shape[0], -1)

    def size(self) -> float:
        """What roundings of p - y are relative to in its products with P_k: the largest sum of |c_k P_k| times P_k."""
        if not self.values().numel():
            return 0.0
        units = torch.eye(self.degree + 1, dtype=self.coef.dtype, device=self.coef.device)
        terms = torch.stack([polyval(self.x, unit[None], self.domain, self.basis).abs() for unit in units])
        return float((self.coef.T[:, :, None].abs() * terms).sum(0).max() * terms.max().clamp(min=1.0))

    def pull_back(self, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of sum(grad * p(x))."""
        x, coef = (tensor.detach().clone().requires_grad_() for tensor in (self.x, self.coef))
        values = polyval(x, coef, self.domain, self.basis)
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
    basis: str = "power",
    case: LossCase = LOSSES["mse"],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Problem:
    """Random operands of that kind; shared ones have one row."""

    def rows(shared: bool) -> int:
        return 1 if shared else n_series

    coef = torch.randn(n_series, degree + 1)
    if case.positive:  # a rate: far above what the other terms take away on [-1.5, 1.5]
        coef = 0.1 * coef
        coef[:, 0] = 3.0
    problem = Problem(
        torch.rand(rows(shared_x), n_samples) * 3 - 1.5,
        case.targets(torch.randn(rows(shared_y), n_samples)),
        coef,
        torch.rand(rows(shared_x), n_samples) + 0.5 if weight else None,
        torch.rand(n_series) + 0.5 if upstream else None,
        DOMAIN if domain else None,
        basis,
        case,
    )
    return problem.to(dtype, device)


def assert_no_worse_than_eager(
    actual: Tensor, eager: Tensor, truth: Tensor, degree: int, what: str, size: float = 0.0
) -> None:
    """As near to the truth as eager code in the same dtype, give or take the roundings of the recurrence: 4 a step.

    bfloat16 is rounded when it is stored: half an eps of its own. In float64 the truth is eager code itself and no more
    exact than a kernel: roundings of p - y are relative to `size` (see `Problem.size`), where the result is small too.
    """
    assert actual.shape == truth.shape, what
    assert actual.isfinite().all(), f"{what}: {actual}"
    if not truth.numel():
        return
    scale = float(truth.abs().max())
    wide = torch.float64 if actual.dtype == torch.float64 and eager.dtype == torch.float64 else torch.float32
    if wide == torch.float64:
        scale = max(scale, size)
    allowed = 2 * float((eager.double() - truth).abs().max()) + 4 * (degree + 2) * torch.finfo(wide).eps * scale
    if actual.dtype in {torch.float16, torch.bfloat16}:
        # Triton's interpreter truncates to bfloat16 where hardware rounds: a whole eps.
        allowed += torch.finfo(actual.dtype).eps * scale
    error = float((actual.double() - truth).abs().max())
    assert error <= allowed, f"{what}: off by {error:.3e}, allowed {allowed:.3e}"
