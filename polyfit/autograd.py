"""The autograd Functions: forward is one pass, backward multiplies.

Both are written in the `setup_context` style and take canonical operands (see polyfit.ops). Where a backward must
itself be differentiable (`create_graph=True`, or a transform of torch.func), it goes through polyfit.formula, whose
derivatives of any order are autograd's own. There is no forward mode: a tangent raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from polyfit import formula, losses, ops
from polyfit.bases import AffineMap
from polyfit.losses import Loss


def _differentiable_gradients(
    function: Callable[..., Tensor], tensors: tuple[Tensor, ...], needs: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of sum(grad * function(*tensors)) that can be differentiated again."""
    with torch.enable_grad():
        # An alias each: one tensor may stand in two places, or be a function of another one.
        aliases = [tensor.view_as(tensor) if need else tensor for tensor, need in zip(tensors, needs, strict=True)]
        wanted = [alias for alias, need in zip(aliases, needs, strict=True) if need]
        # A constant polynomial does not depend on x: zeros there.
        options = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        gradients = iter(torch.autograd.grad(function(*aliases), wanted, grad, **options))
    return [next(gradients) if need else None for need in needs]


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Do what ``function.apply(*args)`` does, in half the time where it is called eagerly.

    For Functions with a `setup_context` PyTorch binds the arguments to the signature of `forward` at each call, to fill
    in defaults, which takes 30 us; ours have none.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    args = unwrap_dead_wrappers(args)
    return super(torch.autograd.Function, function).apply(*args)  # pyright: ignore[reportAttributeAccessIssue]


class Polyval(torch.autograd.Function):
    """p(x) for canonical operands."""

    @staticmethod
    def forward(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, impl: str) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `polyfit.ops.evaluate`."""
        return ops.evaluate(x, coef, mapping, basis, impl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands; nothing of the forward pass is needed again."""
        x, coef, ctx.mapping, ctx.basis, ctx.impl = inputs
        ctx.save_for_backward(x, coef)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vector-Jacobian product, in one pass over x and grad."""
        x, coef = ctx.saved_tensors
        want_x, want_coef = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            grad_x, grad_coef = _differentiable_gradients(
                lambda x, coef: formula.polyval(x, coef, ctx.mapping, ctx.basis), (x, coef), (want_x, want_coef), grad
            )
        else:
            grad_x, grad_coef = ops.evaluate_backward(
                grad, x, coef, ctx.mapping, ctx.basis, ctx.impl, want_x=want_x, want_coef=want_coef
            )
        return (
            None if grad_x is None else grad_x.to(x.dtype),
            None if grad_coef is None else grad_coef.to(coef.dtype),
            None,
            None,
            None,
        )


def polyval(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, impl: str) -> Tensor:
    """p(x) for canonical operands, differentiable."""
    if torch.is_grad_enabled() and (x.requires_grad or coef.requires_grad):
        return _apply(Polyval, x, coef, mapping, basis, impl)
    return ops.evaluate(x, coef, mapping, basis, impl)


def _n_series(coef: Tensor) -> int:
    return coef.shape[0] if coef.dim() == 2 else 1


def _scale(
    total_weight: Tensor | None, reduction: str, per_series: bool, n_samples: int, n_series: int
) -> Tensor | float:
    """What the sums are multiplied with: 1, or one over the sum of the weights, of each series or of all."""
    if reduction == "sum":
        return 1.0
    if total_weight is None:
        return 1.0 / (n_samples if per_series else n_samples * n_series)
    return 1.0 / (total_weight if per_series else total_weight.sum())


def _reduce(value: Tensor, scale: Tensor | float, per_series: bool, dtype: torch.dtype) -> Tensor:
    if not per_series:
        value = value.squeeze(0) if value.shape[0] == 1 else value.sum()
    return (value * scale).to(dtype)


class PolynomialLoss(torch.autograd.Function):
    """The reduced loss for canonical operands.

    Forward returns the loss and, as outputs that are not differentiable, the sums and gradients of the one pass;
    backward scales them with what comes from upstream.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        x: Tensor,
        y: Tensor,
        coef: Tensor,
        weight: Tensor | None,
        mapping: AffineMap | None,
        basis: str,
        loss: str,
        parameter: float,
        reduction: str,
        per_series: bool,
        impl: str,
        want_x: bool,
        want_y: bool,
        want_coef: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """One pass over the data for the value and for the gradients that are wanted."""
        n_series = _n_series(coef)
        # What series share gets one gradient for all of them; if their losses may get unequal gradients from upstream,
        # it has to wait for those.
        waits = per_series and n_series > 1
        result = ops.objective(
            x,
            y,
            coef,
            weight,
            None,
            mapping,
            basis,
            loss,
            parameter,
            impl,
            want_coef=want_coef,
            want_x=want_x and not (waits and x.dim() == 1),
            want_y=want_y and not (waits and y.dim() == 1),
        )
        scale = _scale(result.weight, reduction, per_series, x.shape[-1], n_series)
        reduced = _reduce(result.value, scale, per_series, coef.dtype)
        return reduced, result.weight, result.grad_coef, result.grad_x, result.grad_y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        """Keep operands and gradients; only the loss is differentiable."""
        x, y, coef, weight, ctx.mapping, ctx.basis, ctx.loss, ctx.parameter = inputs[:8]
        ctx.reduction, ctx.per_series, ctx.impl = inputs[8:11]
        ctx.mark_non_differentiable(*(part for part in output[1:] if part is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, coef, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients of the forward pass."""
        x, y, coef, weight, total_weight, grad_coef, grad_x, grad_y = ctx.saved_tensors
        want_x, want_y, want_coef = ctx.needs_input_grad[:3]
        nothing = (None,) * 11
        if grad is None:
            return None, None, None, *nothing
        if torch.is_grad_enabled():
            pointwise = losses.from_kernel(ctx.loss, ctx.parameter).value

            def loss(x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
                return formula.polynomial_loss(
                    x, y, coef, weight, ctx.mapping, ctx.basis, pointwise, ctx.reduction, ctx.per_series
                )

            needs = (want_x, want_y, want_coef)
            return *_differentiable_gradients(loss, (x, y, coef), needs, grad), *nothing

        scale = _scale(total_weight, ctx.reduction, ctx.per_series, x.shape[-1], _n_series(coef))
        factor = grad.double() * scale  # (), or (S,) with per_series
        if (want_x and grad_x is None) or (want_y and grad_y is None):
            # An operand that series share, and a gradient from upstream for each of them: the one further pass. The
            # factor of each series is in its result, so that of the sum of the series is one.
            late = ops.objective(
                x, y, coef, weight, factor, ctx.mapping, ctx.basis, ctx.loss, ctx.parameter, ctx.impl,
                want_coef=False, want_x=want_x and grad_x is None, want_y=want_y and grad_y is None,
            )  # fmt: skip
        else:
            late = None
        if want_coef:
            factors = factor.unsqueeze(-1) if factor.dim() else factor
            grad_coef = (grad_coef * factors).to(coef.dtype).view(coef.shape)
        return (
            _scaled(grad_x, late and late.grad_x, factor, x) if want_x else None,
            _scaled(grad_y, late and late.grad_y, factor, y) if want_y else None,
            grad_coef if want_coef else None,
            *nothing,
        )


def _scaled(gradient: Tensor | None, late: Tensor | None, factor: Tensor, operand: Tensor) -> Tensor:
    """The per-sample gradient of the forward pass times the factor, or the one that already holds the factors."""
    if gradient is None:
        assert late is not None
        return late.to(operand.dtype)
    factor = factor.to(gradient.dtype)
    return (gradient * (factor.unsqueeze(-1) if factor.dim() else factor)).to(operand.dtype)


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    mapping: AffineMap | None,
    basis: str,
    loss: Loss,
    reduction: str,
    per_series: bool,
    impl: str,
) -> Tensor:
    """The reduced loss for canonical operands, differentiable; (S,) with per_series, else a scalar."""
    if weight is not None and weight.requires_grad and torch.is_grad_enabled():
        return formula.polynomial_loss(x, y, coef, weight, mapping, basis, loss.value, reduction, per_series)
    wants = (x.requires_grad, y.requires_grad, coef.requires_grad) if torch.is_grad_enabled() else (False,) * 3
    if any(wants):
        arguments = (x, y, coef, weight, mapping, basis, *loss.kernel, reduction, per_series, impl, *wants)
        return _apply(PolynomialLoss, *arguments)[0]
    result = ops.objective(
        x, y, coef, weight, None, mapping, basis, *loss.kernel, impl, want_coef=False, want_x=False, want_y=False
    )
    scale = _scale(result.weight, reduction, per_series, x.shape[-1], _n_series(coef))
    return _reduce(result.value, scale, per_series, coef.dtype)
