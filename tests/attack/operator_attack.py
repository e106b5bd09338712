r"""`polyval` and `polynomial_loss` of random operands against autograd of the plain formula in float64.

What "right" means
    With the unit u of the dtype in which polyfit computes (2**-24, or 2**-53 for float64), and A(t) the sum of the
    absolute values of all terms of the polynomial in powers of t ::

        |p' - p| <= K u ((d + 2) A(t) + (|t| + window) A'(t)),      K = 4

    which is Horner's and Clenshaw's bound (Higham 2002, 5.1) and the rounding of t. A loss and its derivatives are then
    taken at p - e, p and p + e: what they differ by is allowed, and 16 roundings of their own. Sums add (n + 16) u of
    the sum of the absolute values of their terms. Results in float16 and bfloat16 are rounded once more. The gradient
    of an operand that series share is a sum of such results, as in autograd of the formula.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import oracle
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from cases import LAYOUTS, LOSSES, LossCase
from draws import BASES, Rng, chance, laid_out, one_of
from numpy.polynomial import polynomial
from reference import powers_of
from torch import Tensor
from verdict import Judge

import polyfit

F64 = torch.float64
_K = 4.0
_UNITS = {torch.float64: 2.0**-53}
_DTYPES = (torch.float64, torch.float64, torch.float32, torch.float32, torch.float16, torch.bfloat16)


class Operands:
    """Operands of a problem: in float64 as stored, and as they are passed.

    Attributes:
        plain: x, y, coef and weight (or None), float64 and contiguous.
        passed: the same in their dtype and layout; those that want a gradient require it.
        wants: the names of these.
    """

    NAMES = ("x", "y", "coef", "weight")

    def __init__(self, rng: Rng, judge: Judge, *, impl: str = "torch") -> None:
        self.basis = one_of(rng, BASES)
        self.dtype = one_of(rng, _DTYPES if impl == "torch" else _DTYPES[:3])
        self.case: LossCase = LOSSES[one_of(rng, list(LOSSES))]
        self.domain = one_of(rng, (None, (-2.5, 3.0), (-2.0, 2.0), (1999.5, 2031.0), (1e-3, 2e-3)))
        degree = int(rng.integers(0, 6 if self.basis in {"hermite", "hermite_e"} else 10))
        shapes = self._shapes(rng, degree + 1)
        x = torch.from_numpy(rng.uniform(-1.5, 1.5, shapes[0]))
        if self.domain is not None:
            lo, hi = self.domain
            x = lo + (hi - lo) * (x + 1.5) / 3.0
        y = self.case.targets(torch.from_numpy(rng.standard_normal(shapes[1])))
        coef = torch.from_numpy(rng.standard_normal(shapes[2]) * 0.5 ** np.arange(degree + 1))
        if self.case.positive:
            coef = 0.05 * coef / 3.0 ** torch.arange(degree + 1)
            coef[..., 0] = 3.0
        weight = None
        if chance(rng, 0.6):
            weight = torch.from_numpy(rng.uniform(0.2, 2.0, shapes[3]))
            if chance(rng, 0.3):
                weight = torch.ones_like(weight)
        if weight is not None and weight.dim() and weight.numel() > 1 and chance(rng, 0.4):
            weight = torch.where(torch.from_numpy(rng.random(shapes[3]) < 0.3), 0.0, weight)
        parts = [x, y, coef] if weight is None else [x, y, coef, weight]
        parts = [part.to(self.dtype) for part in parts]
        self.plain = [part.double() for part in parts] + ([None] if weight is None else [])
        self.zeros_hold_nan = weight is not None and chance(rng, 0.3) and shapes[3] == shapes[1]
        if self.zeros_hold_nan and weight is not None and weight.shape == y.shape:
            # The oracle keeps a number there, whose weight is zero; polyfit gets NaN.
            parts[1] = torch.where(parts[3] == 0, torch.nan, parts[1])
        self.wants = [name for name in self.NAMES[: len(parts)] if chance(rng, 0.5)]
        self.passed = []
        for name, part in zip(self.NAMES, parts, strict=False):
            part = laid_out(rng, part).detach()  # noqa: PLW2901
            self.passed.append(part.requires_grad_(name in self.wants))
        judge.problem |= {
            "basis": self.basis, "domain": self.domain, "dtype": self.dtype, "loss": self.case.loss,
            "wants": self.wants,
            **{name: part.detach() for name, part in zip(self.NAMES, self.passed, strict=False)},
            "strides": [part.stride() for part in self.passed], "negative": [part.is_neg() for part in self.passed],
        }  # fmt: skip

    @staticmethod
    def _shapes(rng: Rng, size: int) -> list[tuple[int, ...]]:
        """Of x, y, coef, weight."""
        layout = LAYOUTS[one_of(rng, list(LAYOUTS))]
        n, series = int(rng.integers(1, 60)), int(rng.integers(1, 4))

        def other(shape: tuple[int, ...]) -> tuple[int, ...]:
            """The shape with another number of samples and of series."""
            if not shape:
                return shape
            batch = tuple(series if length == 3 else length for length in shape[:-1])
            return (*batch, n)

        x, coef, y, weight = layout
        return [other(x), other(y), (*other((*coef[:-1], 1))[:-1], size), other(weight)]

    @property
    def unit(self) -> float:
        """Of the dtype in which polyfit computes."""
        return _UNITS.get(self.dtype, 2.0**-24)

    def storage(self) -> float:
        """Of the dtype in which results are stored, beyond that."""
        return 2.0 * torch.finfo(self.dtype).eps if self.dtype in {torch.float16, torch.bfloat16} else 0.0


def absolute(operands: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """A(t), A'(t) and A''(t), with samples as the last axis, broadcast."""
    x, _, coef, _ = operands.plain
    assert x is not None
    assert coef is not None
    size = coef.shape[-1]
    rows = np.zeros((size, size))
    for k in range(size):
        rows[k, : k + 1] = [abs(float(value)) for value in powers_of(operands.basis, k)]
    powers = (coef.abs() @ torch.from_numpy(rows)).numpy()
    away = oracle.to_window(x, operands.domain, operands.basis).abs().numpy()
    results = []
    for order in range(3):
        series = polynomial.polyder(powers, order, axis=-1) if order else powers
        by_power = [series[..., k] if series.ndim == 1 else series[..., k, None] for k in range(series.shape[-1])]
        total = sum((c * away**k for k, c in enumerate(by_power)), np.zeros(()))
        results.append(torch.as_tensor(np.asarray(total, dtype=float)))
    return results[0], results[1], results[2]


def factor_of(operands: Operands) -> float:
    """dt/dx."""
    if operands.domain is None:
        return 1.0
    start, stop = map(float, oracle.NUMPY_CLASSES[operands.basis].window)
    return (stop - start) / (operands.domain[1] - operands.domain[0])


def errors_of_p(operands: Operands) -> tuple[Tensor, Tensor]:
    """What p and dp/dt may be off by."""
    a, a1, a2 = absolute(operands)
    x, _, coef, _ = operands.plain
    assert x is not None
    assert coef is not None
    of_t = oracle.to_window(x, operands.domain, operands.basis).abs() + (operands.domain is not None)
    u, size = _K * operands.unit, coef.shape[-1]
    return u * ((size + 1) * a + of_t * a1), u * ((size + 2) * a1 + of_t * a2)


def attack_polyval(rng: Rng, judge: Judge, impl: str = "torch") -> None:
    """Values and gradients of polyval."""
    operands = Operands(rng, judge, impl=impl)
    x, coef = operands.passed[0], operands.passed[2]
    values = judge.ask(polyfit.polyval, x, coef, basis=operands.basis, domain=operands.domain, impl=impl)
    if values is None:
        return
    plain = [part.clone().requires_grad_() for part in operands.plain[::2] if part is not None][:2]
    truth = oracle.polyval(plain[0], plain[1], operands.domain, operands.basis)
    judge.true(f"shape {values.shape}, expected {truth.shape}", values.shape == truth.shape)
    of_p, of_slope = errors_of_p(operands)
    factor = factor_of(operands)
    stored = operands.storage()
    judge_close(judge, "value", values, truth, of_p + stored * truth.abs())
    wanted = [tensor for tensor in (x, coef) if tensor.requires_grad]
    if not wanted or judge.wrong or not values.numel():
        return
    upstream = torch.from_numpy(rng.standard_normal(truth.shape)).to(operands.dtype)
    upstream = laid_out(rng, upstream if chance(rng, 0.7) else torch.ones_like(upstream))
    grads = judge.ask(torch.autograd.grad, values, wanted, upstream)
    if grads is None:
        return
    exact = torch.autograd.grad(truth, plain, upstream.double())
    g = upstream.double().abs()
    n = truth.numel()
    sizes = [functions_size(operands, k) for k in range(plain[1].shape[-1])]
    for tensor, grad in zip(wanted, grads, strict=True):
        if tensor is x:
            allowed = summed((g * of_slope * abs(factor)).expand(truth.shape), x.shape)
            slope = summed((absolute(operands)[1] * abs(factor) * g).expand(truth.shape), x.shape)
            allowed = allowed + ((n + 16) * operands.unit + stored) * slope
            judge_close(judge, "grad_x", grad, exact[0], allowed)
        else:
            columns = [
                (_K * (n + 16 + 8 * (k + 2)) * operands.unit + stored) * summed_series(g * size, operands)
                for k, size in enumerate(sizes)
            ]
            judge_close(judge, "grad_coef", grad, exact[1], torch.stack(columns, -1).reshape(coef.shape))


def functions_size(operands: Operands, k: int) -> Tensor:
    """The absolute terms of P_k(t), those of its derivative times the size of t included."""
    x = operands.plain[0]
    assert x is not None
    t = oracle.to_window(x, operands.domain, operands.basis).abs()
    parts = [abs(float(value)) * t**j * (1 + j) for j, value in enumerate(powers_of(operands.basis, k))]
    more = [j * abs(float(value)) * t ** max(j - 1, 0) for j, value in enumerate(powers_of(operands.basis, k))]
    return sum(parts, torch.zeros_like(t)) + (sum(more, torch.zeros_like(t)) if operands.domain is not None else 0.0)


def summed(values: Tensor, shape: torch.Size) -> Tensor:
    """Summed over the axes that an operand of that shape is broadcast over."""
    return values.sum_to_size(shape) if values.shape != shape else values


def summed_series(values: Tensor, operands: Operands) -> Tensor:
    """Summed over the samples, and over the series that share a coefficient."""
    coef = operands.plain[2]
    assert coef is not None
    if coef.dim() == 1:
        return values.sum()
    shape = torch.broadcast_shapes(values.shape[:-1], coef.shape[:-1])
    return values.expand(*shape, values.shape[-1]).sum(-1).sum_to_size(coef.shape[:-1])


def judge_close(judge: Judge, what: str, ours: Tensor, exact: Tensor, allowed: Tensor) -> None:
    """Shapes and values."""
    if not judge.true(f"{what}: shape {tuple(ours.shape)}, expected {tuple(exact.shape)}", ours.shape == exact.shape):
        return
    tiny = torch.finfo(ours.dtype).smallest_normal if ours.is_floating_point() else 0.0
    exact, allowed = exact.detach(), torch.broadcast_to(allowed.detach(), exact.shape) + tiny
    largest = torch.finfo(ours.dtype).max
    keep = (exact.abs() < 0.9 * largest).numpy()
    judge.within_all(
        what, ours.detach().double().numpy()[keep], exact.numpy()[keep], np.ascontiguousarray(allowed.numpy()[keep])
    )


def attack_loss(rng: Rng, judge: Judge, impl: str = "torch") -> None:
    """Value and gradients of polynomial_loss."""
    operands = Operands(rng, judge, impl=impl)
    options: dict[str, Any] = one_of(
        rng,
        (
            {},
            {"per_series": True},
            {"reduction": "sum"},
            {"reduction": "sum", "per_series": True},
            {"reduction": "none"},
        ),
    )
    judge.problem |= options
    weighted = operands.plain[3] is not None
    value = judge.ask(
        polyfit.polynomial_loss,
        *operands.passed[:3],
        loss=operands.case.loss,
        weight=operands.passed[3] if weighted else None,
        basis=operands.basis,
        domain=operands.domain,
        impl=impl,
        **options,
    )
    if value is None:
        return
    plain = [part.clone().requires_grad_() for part in operands.plain if part is not None]
    more = {"domain": operands.domain, "basis": operands.basis, "pointwise": operands.case.oracle}
    truth = oracle.polynomial_loss(*plain, *([] if weighted else [None]), **options, **more)  # pyright: ignore
    if not judge.true(f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}", value.shape == truth.shape):
        return
    if not truth.numel() or not bool(truth.isfinite().all()):
        return  # a mean over nothing
    bounds = Bounds(operands, options)
    stored = operands.storage()
    judge_close(judge, "value", value, truth, bounds.value() + stored * truth.abs())
    wanted = [name for name in operands.wants if name != "weight" or weighted]
    if not wanted or judge.wrong:
        return
    upstream = torch.from_numpy(rng.standard_normal(truth.shape)).to(operands.dtype)
    upstream = laid_out(rng, upstream)
    inputs = [operands.passed[Operands.NAMES.index(name)] for name in wanted]
    grads = judge.ask(torch.autograd.grad, value, inputs, upstream)
    if grads is None:
        return
    exact = torch.autograd.grad(truth, plain, upstream.double(), allow_unused=True, materialize_grads=True)
    allowed = bounds.gradients(upstream.double())
    for name, grad in zip(wanted, grads, strict=True):
        expected = exact[Operands.NAMES.index(name)]
        if name == "y" and operands.zeros_hold_nan:
            judge.true("grad_y of samples of weight zero", bool((grad[operands.plain[3] == 0] == 0).all()))
        if name == "weight" and operands.zeros_hold_nan:
            continue
        judge_close(judge, f"grad_{name}", grad, expected, allowed[name])


class Bounds:
    """What the loss and its gradients may be off by; see the module."""

    def __init__(self, operands: Operands, options: dict[str, Any]) -> None:
        x, y, coef, weight = operands.plain
        self.operands, self.options = operands, options
        assert x is not None
        assert y is not None
        assert coef is not None
        p = oracle.polyval(x, coef, operands.domain, operands.basis)
        of_p, of_slope = errors_of_p(operands)
        self.factor = factor_of(operands)
        shape = torch.broadcast_shapes(p.shape, y.shape, *([] if weight is None else [weight.shape]))
        self.p, self.y, self.of_p, self.of_slope = (v.expand(shape) for v in (p, y, of_p, of_slope))
        self.weight = torch.ones(shape, dtype=F64) if weight is None else weight.expand(shape)
        self.slope = (absolute(operands)[1]).expand(shape)
        self.n = max(1, self.p.numel())
        u = operands.unit
        # The rounding of p - y, too.
        away = self.of_p + 2 * u * (self.p.abs() + self.y.abs())
        at, here = [], []
        for shifted in (self.p - away, self.p, self.p + away):
            value, of_prediction, of_target = self._pointwise(shifted)
            at.append((value, of_prediction, of_target))
        here = at[1]
        self.loss = here[0]
        self.of_loss = self._spread(at, 0) + 16 * u * (here[0].abs() + self._parts())
        self.slopes, self.of_slopes = here[1], self._spread(at, 1) + 16 * u * here[1].abs()
        self.targets, self.of_targets = here[2], self._spread(at, 2) + 16 * u * (here[2].abs() + self.p.abs() + 1.0)
        if operands.case.loss.__class__.__name__ in {"PoissonNLL", "BCEWithLogits", "LogCosh"}:
            # Differences of terms: exp(p) - y, sigmoid(p) - y, tanh(r).
            self.of_slopes = self.of_slopes + 16 * u * (1.0 + self.y.abs() + (here[1].abs() + self.y.abs()))

    def _parts(self) -> Tensor:
        """The size of the terms of a loss, which may cancel."""
        name = self.operands.case.loss.__class__.__name__
        if name in {"PoissonNLL", "BCEWithLogits"}:
            size = 1.0 + self.p.abs() + self.y.abs() * (1.0 + self.p.abs() + (1.0 + self.y.abs()).log())
            return size + (self.p.exp() if getattr(self.operands.case.loss, "log_input", False) else 0.0)
        return torch.where(self.p.isfinite(), 1e-300, 0.0) + (1.0 if name == "LogCosh" else 0.0)

    def _pointwise(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, y = p.clone().requires_grad_(), self.y.clone().requires_grad_()
        value = self.operands.case.oracle(p, y)
        slopes = torch.autograd.grad(value.sum(), (p, y), allow_unused=True, materialize_grads=True)
        return value.detach(), *(slope.detach() for slope in slopes)  # pyright: ignore[reportReturnType]

    @staticmethod
    def _spread(at: list[Any], part: int) -> Tensor:
        return torch.maximum((at[0][part] - at[1][part]).abs(), (at[2][part] - at[1][part]).abs())

    def _reduced(self, values: Tensor) -> Tensor:
        """Reduced as the loss is."""
        if self.options.get("reduction") == "none":
            return values
        is_mean = self.options.get("reduction", "mean") == "mean"
        if self.options.get("per_series") and values.dim():
            return values.sum(-1) / (self.weight.sum(-1) if is_mean else 1.0)
        return values.sum() / (self.weight.sum() if is_mean else 1.0)

    def value(self) -> Tensor:
        """Of the loss."""
        sums = self._reduced(self.weight * self.loss.abs())
        roundings = 4 if self.options.get("reduction") == "none" else 2 * self.n + 16
        return self._reduced(self.weight * self.of_loss) + roundings * self.operands.unit * sums

    def gradients(self, upstream: Tensor) -> dict[str, Tensor]:
        """Of the gradients, for an upstream gradient of the loss."""
        operands, u = self.operands, self.operands.unit
        scale = self._upstream(upstream.abs())
        w = self.weight * scale
        of_w = (2 * self.n + 16) * u * w
        rounding = (2 * self.p.numel() + 16) * u + operands.storage()
        slopes = w * self.of_slopes + of_w * self.slopes.abs()
        x, y, coef, weight = operands.plain
        assert x is not None
        assert y is not None
        assert coef is not None
        results = {
            "y": summed(w * self.of_targets + of_w * self.targets.abs() + rounding * w * self.targets.abs(), y.shape)
        }
        of_x = slopes * self.slope + w * self.slopes.abs() * (self.of_slope + rounding * self.slope)
        results["x"] = summed(abs(self.factor) * of_x, x.shape)
        columns = []
        for k in range(coef.shape[-1]):
            size = functions_size(operands, k).expand(w.shape)
            column = slopes * size + (rounding + _K * (k + 2) * u) * w * self.slopes.abs() * size
            columns.append(self._of_series(column, coef.shape[:-1]))
        results["coef"] = torch.stack(columns, -1)
        if weight is not None:
            mean = self._upstream(self._mean_size(upstream)) if self.options.get("reduction", "mean") == "mean" else 0.0
            of_weight = scale * (self.of_loss + rounding * self.loss.abs()) + rounding * mean
            results["weight"] = summed(of_weight.expand(w.shape), weight.shape) * 2 + self._mean_error(upstream, weight)
        return results

    def _mean_size(self, upstream: Tensor) -> Tensor:
        """|upstream mean|: what every weight of a mean shares."""
        return upstream.abs() * self._reduced(self.weight * self.loss.abs())

    def _mean_error(self, upstream: Tensor, weight: Tensor) -> Tensor:
        """The error of the mean, which comes into the gradient of every weight."""
        if self.options.get("reduction", "mean") != "mean":
            return torch.zeros(())
        shared = self._upstream(upstream.abs() * self.value())
        return summed(shared.expand(self.weight.shape), weight.shape)

    def _upstream(self, upstream: Tensor) -> Tensor:
        """The factor of every w l."""
        if self.options.get("reduction") == "none":
            return upstream
        is_mean = self.options.get("reduction", "mean") == "mean"
        if self.options.get("per_series") and self.weight.dim():
            total = self.weight.sum(-1) if is_mean else torch.ones(())
            return (upstream / total).unsqueeze(-1).expand(self.weight.shape)
        total = self.weight.sum() if is_mean else torch.ones(())
        return (upstream / total).expand(self.weight.shape)

    def _of_series(self, values: Tensor, batch: torch.Size) -> Tensor:
        if not batch:
            return values.sum()
        return values.sum(-1).sum_to_size(batch)


def attack_polyval_compiled(rng: Rng, judge: Judge) -> None:
    """polyval by impl="compile"."""
    attack_polyval(rng, judge, impl="compile")


def attack_loss_compiled(rng: Rng, judge: Judge) -> None:
    """polynomial_loss by impl="compile"."""
    attack_loss(rng, judge, impl="compile")


def attack_polyval_kernel(rng: Rng, judge: Judge) -> None:
    """polyval by the Triton kernels, in Triton's interpreter."""
    attack_polyval(rng, judge, impl="triton")


def attack_loss_kernel(rng: Rng, judge: Judge) -> None:
    """polynomial_loss by the Triton kernels, in Triton's interpreter."""
    attack_loss(rng, judge, impl="triton")


def attack_loss_functions(rng: Rng, judge: Judge) -> None:
    """Functions of torch as `loss`: what is no loss of each sample is refused, and the message says what to pass."""
    n, kind = int(rng.integers(1, 30)), one_of(rng, ("mean", "sum", "none", "module"))
    x, y, coef = (torch.from_numpy(rng.standard_normal(shape)) for shape in (n, n, 3))
    weight = torch.from_numpy(rng.uniform(0.2, 2.0, n))
    reduction = one_of(rng, ("mean", "sum", "none"))
    function = torch.nn.MSELoss() if kind == "module" else functools.partial(F.mse_loss, reduction=kind)
    judge.problem |= {"x": x, "y": y, "coef": coef, "weight": weight, "reduction": reduction, "function": kind}
    try:
        value = polyfit.polynomial_loss(x, y, coef, loss=function, weight=weight, reduction=reduction)
    except (ValueError, TypeError) as error:
        judge.true(f"refused: {error}", kind != "none" and "none" in str(error))
        judge.said.append(str(error))
        return
    truth = oracle.polynomial_loss(x, y, coef, weight, reduction)
    scale = 64 * n * 2.0**-53 * (1.0 + truth.abs())
    if judge.true(f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}", value.shape == truth.shape):
        judge_close(judge, f"a function that returns {kind}", value, truth, 16 * scale)


KINDS = {"polyval": attack_polyval, "loss": attack_loss, "loss functions": attack_loss_functions}
COMPILED = {"loss in C++": attack_loss_compiled}
KERNELS = {"polyval kernel": attack_polyval_kernel, "loss kernel": attack_loss_kernel}
