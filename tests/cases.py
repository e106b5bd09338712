"""The registry of cases: losses, layouts, and combinations of both with bases and reductions.

A case knows its operands, what polyfit makes of them, and the same by the plain formula; test files transform both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from oracle import NUMPY_CLASSES, continued, polynomial_loss, polyval
from torch import Tensor

import polyfit
from polyfit import autograd, bases, losses
from polyfit.formula import OUTSIDE, Model

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class LossCase:
    """One loss.

    Attributes:
        loss: the object of polyfit.losses.
        oracle: the loss of p and y as the textbook has it, of operations that every transform knows.
        targets: makes targets of plain normal numbers.
        positive: whether predictions must be positive.
        torchs: torch's own function, where it has one and the oracle is another.
    """

    loss: losses.Loss
    oracle: Callable[[Tensor, Tensor], Tensor]
    targets: Callable[[Tensor], Tensor] = lambda y: y
    positive: bool = False
    torchs: Function | None = None


def _quantile(q: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, y: torch.maximum(q * (y - p), (q - 1) * (y - p))


def _poisson(log_input: bool, full: bool) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, y: F.poisson_nll_loss(p, y, log_input, full, reduction="none")


def _counts(y: Tensor) -> Tensor:
    return (3 * y.abs()).floor()


def _half_counts(y: Tensor) -> Tensor:
    """Never zero, where torch's own derivative of Stirling's term to the target is not a number."""
    return _counts(y) + 0.5


def _classes(y: Tensor) -> Tensor:
    return torch.sigmoid(2 * y)


def _huber(delta: float) -> Function:
    return lambda p, y: torch.where((p - y).abs() <= delta, 0.5 * (p - y) ** 2, delta * ((p - y).abs() - 0.5 * delta))


def _smooth_l1(beta: float) -> Function:
    return lambda p, y: torch.where((p - y).abs() < beta, 0.5 * (p - y) ** 2 / beta, (p - y).abs() - 0.5 * beta)


def _torchs(function: Callable[..., Tensor], **options: Any) -> Function:
    return lambda p, y: function(p, y, reduction="none", **options)


LOSSES = {
    "mse": LossCase(losses.MSE(), lambda p, y: (p - y) ** 2, torchs=_torchs(F.mse_loss)),
    "l1": LossCase(losses.L1(), lambda p, y: (p - y).abs(), torchs=_torchs(F.l1_loss)),
    "huber": LossCase(losses.Huber(), _huber(1.0), torchs=_torchs(F.huber_loss)),
    "huber 0.3": LossCase(losses.Huber(0.3), _huber(0.3), torchs=_torchs(F.huber_loss, delta=0.3)),
    "smooth_l1": LossCase(losses.SmoothL1(), _smooth_l1(1.0), torchs=_torchs(F.smooth_l1_loss)),
    "smooth_l1 0.3": LossCase(losses.SmoothL1(0.3), _smooth_l1(0.3), torchs=_torchs(F.smooth_l1_loss, beta=0.3)),
    "smooth_l1 0": LossCase(losses.SmoothL1(0.0), lambda p, y: (p - y).abs(), torchs=_torchs(F.smooth_l1_loss, beta=0)),
    "log_cosh": LossCase(losses.LogCosh(), lambda p, y: torch.logaddexp(p - y, y - p) - math.log(2)),
    "quantile": LossCase(losses.Quantile(), _quantile(0.5)),
    "quantile 0.9": LossCase(losses.Quantile(0.9), _quantile(0.9)),
    "bce_with_logits": LossCase(
        losses.BCEWithLogits(), lambda p, y: F.binary_cross_entropy_with_logits(p, y, reduction="none"), _classes
    ),
    "bce_with_logits 3": LossCase(
        losses.BCEWithLogits(3.0),
        lambda p, y: F.binary_cross_entropy_with_logits(p, y, reduction="none", pos_weight=p.new_tensor(3.0)),
        _classes,
    ),
    "poisson_nll": LossCase(losses.PoissonNLL(), _poisson(True, False), _counts),
    "poisson_nll full": LossCase(losses.PoissonNLL(full=True), _poisson(True, True), _half_counts),
    "poisson_nll rate": LossCase(losses.PoissonNLL(log_input=False), _poisson(False, False), _counts, positive=True),
    "poisson_nll rate full": LossCase(
        losses.PoissonNLL(False, True), _poisson(False, True), _half_counts, positive=True
    ),
    "cauchy": LossCase(losses.Cauchy(), lambda p, y: 0.5 * torch.log1p((p - y) ** 2)),
    "cauchy 0.3": LossCase(losses.Cauchy(0.3), lambda p, y: 0.045 * torch.log1p(((p - y) / 0.3) ** 2)),
}

# What x, coef, y and weight may look like: their shapes.
LAYOUTS = {
    "one series": ((37,), (4,), (37,), (37,)),
    "x of two axes": ((3, 11), (4,), (3, 11), (3, 11)),
    "x of three axes": ((2, 3, 5), (4,), (2, 3, 5), (2, 3, 5)),
    "a single number": ((), (4,), (), ()),
    "one coef, several y": ((11,), (4,), (3, 11), (11,)),
    "one coef, several x": ((3, 11), (4,), (11,), (3, 11)),
    "own x": ((3, 11), (3, 4), (3, 11), (3, 11)),
    "shared x": ((11,), (3, 4), (3, 11), (11,)),
    "shared x and y": ((11,), (3, 4), (11,), (3, 11)),
    "own x, shared y": ((3, 11), (3, 4), (11,), (11,)),
    "two batch axes": ((2, 3, 7), (2, 3, 4), (2, 3, 7), (2, 3, 7)),
    "batch axes that broadcast": ((2, 1, 7), (3, 4), (3, 7), (2, 1, 7)),
    "a batch of one": ((1, 7), (1, 4), (1, 7), (7,)),
    "no series": ((0, 7), (0, 4), (0, 7), (7,)),
    "constant": ((9,), (1,), (9,), (9,)),
    "line": ((9,), (2,), (9,), (9,)),
}
DOMAIN = (-2.5, 3.0)
# Of activations: some samples lie outside.
NARROW = (-1.0, 1.25)
# Layouts and reductions in turn, so that over the cases each meets many losses and bases.
_LAYOUTS_IN_TURN = ("one series", "own x", "shared x", "shared x and y", "own x, shared y", "batch axes that broadcast")
_REDUCTIONS_IN_TURN = (
    {},
    {"per_series": True},
    {"reduction": "sum"},
    {"reduction": "sum", "per_series": True},
    {"reduction": "none"},
)


@dataclass(frozen=True)
class Case:
    """A combination of loss, basis, layout and reduction.

    Attributes:
        loss: the name of the loss in `LOSSES`.
        basis: its name.
        layout: its name in `LAYOUTS`.
        options: reduction and per_series.
    """

    loss: str
    basis: str
    layout: str
    options: dict[str, Any]

    def operands(self, seed: int = 0) -> list[Tensor]:
        """x, y, coef and weight in float64, away from kinks."""
        generator = torch.Generator().manual_seed(seed)
        x_shape, coef_shape, y_shape, weight_shape = LAYOUTS[self.layout]
        options = {"generator": generator, "dtype": torch.float64}
        x = torch.rand(x_shape, **options) * 3 - 1.5
        y = LOSSES[self.loss].targets(torch.randn(y_shape, **options))
        coef = torch.randn(coef_shape, **options)
        if LOSSES[self.loss].positive:
            coef = 0.1 * coef
            coef[..., 0] += 3.0
        return [x, y, coef, torch.rand(weight_shape, **options) + 0.5]

    @property
    def loss_pair(self) -> tuple[Function, Function]:
        """The loss of x, y, coef and weight by polyfit, and by the plain formula."""
        return self._loss, self._plain_loss

    @property
    def value_pair(self) -> tuple[Function, Function]:
        """The values for x and coef by polyfit, and by the plain formula."""
        return self._values, self._plain_values

    @property
    def activation_pair(self) -> tuple[Function, Function]:
        """The same with what continues the polynomials outside of a domain; each series is a group of channels."""
        return self._activation, self._plain_activation

    @property
    def _outside(self) -> str:
        return OUTSIDE[len(self.loss + self.layout) % len(OUTSIDE)]

    @property
    def pairs(self) -> list[tuple[Function, Function, tuple[int, ...]]]:
        """All pairs, and which of the operands they take."""
        return [(*self.loss_pair, (0, 1, 2, 3)), (*self.value_pair, (0, 2)), (*self.activation_pair, (0, 2))]

    def _loss(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor, **more: Any) -> Tensor:
        options = {"weight": weight, "loss": LOSSES[self.loss].loss, "basis": self.basis, "domain": DOMAIN}
        return polyfit.polynomial_loss(x, y, coef, **options, **self.options, **more)

    def _plain_loss(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor) -> Tensor:
        options = {"domain": DOMAIN, "basis": self.basis, "pointwise": LOSSES[self.loss].oracle}
        return polynomial_loss(x, y, coef, weight, **options, **self.options)

    def _values(self, x: Tensor, coef: Tensor) -> Tensor:
        return polyfit.polyval(x, coef, basis=self.basis, domain=DOMAIN)

    def _plain_values(self, x: Tensor, coef: Tensor) -> Tensor:
        return polyval(x, coef, DOMAIN, self.basis)

    def _activation(self, x: Tensor, coef: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(x.shape[:-1], coef.shape[:-1]) if coef.dim() > 1 else torch.Size()
        n_series = math.prod(batch)
        shape = (*batch, x.shape[-1]) if coef.dim() > 1 else x.shape
        rows = x.expand(shape).reshape(1, n_series, math.prod(shape) // n_series)
        model = Model(self.basis, bases.affine_map(NARROW, bases.BASES[self.basis], x.dtype), outside=self._outside)
        coef = coef.expand(*batch, coef.shape[-1]).reshape(n_series, -1)
        return autograd.activation(rows, coef, model, "torch").reshape(shape)

    def _plain_activation(self, x: Tensor, coef: Tensor) -> Tensor:
        return continued(x, coef, NARROW, self.basis, self._outside)


def _registry() -> dict[str, Case]:
    cases = {}

    def add(loss: str, basis: str) -> None:
        layout = _LAYOUTS_IN_TURN[len(cases) % len(_LAYOUTS_IN_TURN)]
        options = _REDUCTIONS_IN_TURN[len(cases) % len(_REDUCTIONS_IN_TURN)]
        cases[f"{loss}, {basis}, {layout}"] = Case(loss, basis, layout, options)

    for basis in NUMPY_CLASSES:
        add("mse", basis)
    for i, loss in enumerate(list(LOSSES)[1:]):
        add(loss, list(NUMPY_CLASSES)[i % 4])
    return cases


CASES = _registry()
