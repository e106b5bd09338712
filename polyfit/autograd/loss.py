"""The reduced loss as a pair of autograd Functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyfit import formula
from polyfit.autograd import composed
from polyfit.autograd._batching import (
    Tensors,
    batch_operand,
    count_axes,
    flatten_examples,
    merge_examples,
    merge_sums,
    split_examples,
    vmap_results,
)
from polyfit.autograd._pullback import pull_back, pull_back_twice
from polyfit.autograd._torch import (
    apply,
    in_forward_mode,
    is_few_under_transforms,
    is_in_batches,
    is_transformed,
    pulls_back_formula,
    runs_formula,
)
from polyfit.autograd.polyval import general_polyval
from polyfit.backends import operators
from polyfit.backends.results import Wants
from polyfit.backends.select import is_traced
from polyfit.formula import Model
from polyfit.losses import MSE, Loss

_WANTS_COEF = Wants(coef=True)


class Reduced(NamedTuple):
    """What a reduced loss is, apart from its operands.

    Attributes:
        model: basis, mapping and pointwise loss.
        reduction: "mean" or "sum".
        n_losses: number of losses, each over as many series in a row; None for one loss, as a scalar.
        impl: resolved.
    """

    model: Model
    reduction: str
    n_losses: int | None
    impl: str

    def formula(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None) -> Tensor:
        """The losses by polyfit.formula."""
        return formula.polynomial_loss(x, y, coef, weight, self.model, self.reduction, self.n_losses)

    def composed(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None) -> Tensor:
        """The losses by `polyfit.autograd.composed`."""

        def values(x: Tensor, coef: Tensor) -> Tensor:
            return general_polyval(x, coef, self.model, self.plain_impl)

        return composed.polynomial_loss(x, y, coef, weight, self.model, self.reduction, self.n_losses, values)

    @property
    def plain_impl(self) -> str:
        """The way for second derivatives: one that compiles no further loop."""
        return "torch" if self.impl == "compile" else self.impl

    def has_waits(self, n_series: int) -> bool:
        """Whether gradients to operands that series share have to wait for the upstream gradient.

        Such an operand gets one gradient, summed over the series. If each series has a loss of its own, the upstream
        gradient decides the terms of that sum.
        """
        return n_series != 1 and self.n_losses not in {None, 1}

    def waits(self, axes: int, n_series: int) -> bool:
        """Whether the gradient to an operand of so many axes has to wait: series share operands of one axis."""
        return axes == 1 and self.has_waits(n_series)

    def known_scale(self, n_samples: int, n_series: int, is_weighted: bool) -> float:
        """The factor of the sums over a loss as far as it is known before the pass: all but the sums of the weights."""
        if self.reduction == "sum" or is_weighted or n_series == 0:
            return 1.0
        return (self.n_losses or 1) / (n_samples * n_series)

    def found_scale(self, total_weight: Tensor | None) -> Tensor | float:
        """The rest of the factor: one over the sum of the weights of each loss."""
        if self.reduction == "sum" or total_weight is None:
            return 1.0
        return 1.0 / self.over_series(total_weight)

    def over_series(self, sums: Tensor) -> Tensor:
        """Sums (S,) of the series added up for each loss: (n_losses,), or a scalar."""
        if self.n_losses is None:
            return sums.squeeze(0) if sums.shape[0] == 1 else sums.sum()
        return sums if sums.shape[0] == self.n_losses else sums.view(self.n_losses, -1).sum(1)

    def of_series(self, of_losses: Tensor, n_series: int) -> Tensor:
        """Numbers of the losses, repeated for the series of each: (S,); a scalar stays a scalar."""
        if self.n_losses is None or self.n_losses == n_series:
            return of_losses
        return of_losses.unsqueeze(1).expand(-1, n_series // self.n_losses).reshape(n_series)


def _needs(operands: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> Wants:
    """Which of x, y, coef and weight require a gradient."""
    x, y, coef, weight = operands
    needs_weight = weight is not None and weight.requires_grad
    return Wants(x.requires_grad, y.requires_grad, coef.requires_grad, needs_weight)


def _n_series(coef: Tensor) -> int:
    return coef.shape[0] if coef.dim() == 2 else 1


def _factor_of_rows(factor: Tensor, rows: Tensor) -> Tensor:
    """Factors of the series, or one for all, in a shape that multiplies rows (S, K) or (K,)."""
    if factor.dim() == 0:  # which changes no dtype
        return factor
    factor = factor.to(rows.dtype)
    return factor.unsqueeze(1) if rows.dim() == 2 else factor


class PolynomialLoss(torch.autograd.Function):
    """The reduced loss.

    Forward returns the loss and, as outputs that are not differentiable, the sums and gradients of the one pass;
    backward scales them with what comes from upstream.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Reduced, wants: Wants
    ) -> Tensors:
        """One pass over the data for the value and for the gradients that are wanted."""
        n_series = _n_series(coef)
        scale = terms.known_scale(x.shape[-1], n_series, weight is not None)
        now = wants
        if terms.has_waits(n_series):
            now = Wants(
                x=wants.x and x.dim() == 2,
                y=wants.y and y.dim() == 2,
                coef=wants.coef,
                weight=wants.weight and weight is not None and weight.dim() == 2,
            )
        result = operators.objective(x, y, coef, weight, None, terms.model, terms.impl, now, scale=scale)
        assert result.value is not None
        reduced = terms.over_series(result.value)
        if result.total_weight is not None:
            reduced = reduced * terms.found_scale(result.total_weight)
        # A copy in any case: PyTorch forbids to modify in place what a Function returns as a view.
        reduced = reduced.to(coef.dtype, copy=True)
        return reduced, result.value if wants.weight else None, *result[1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keep operands and gradients; only the loss is differentiable."""
        *operands, ctx.terms, _ = inputs
        # A compiled call drops the other outputs, and torch 2.11 fails to mark them where a shape is symbolic.
        if not torch.compiler.is_compiling():
            ctx.mark_non_differentiable(*(part for part in output[1:] if part is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*operands, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients of the forward pass."""
        if grad is None:
            return (None,) * 6
        saved, wants = ctx.saved_tensors, Wants(*ctx.needs_input_grad[:4])
        return *loss_gradients(grad, saved[:4], saved[4:], ctx.terms, wants), None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], *args: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """The losses of B * S series."""
        operands, (terms, wants), batch = args[:4], args[4:], info.batch_size
        axes = [count_axes(operand, dim) for operand, dim in zip(operands, in_dims[:4], strict=True)]
        # An outer transform may want gradients that the inner one does not.
        merged_wants = Wants(*(want or need for want, need in zip(wants, _needs(operands), strict=True)))
        apart = merged_wants._replace(coef=True)
        merged, n_series = merge_examples(operands, in_dims[:4], axes, apart, batch)
        merged_terms = terms._replace(n_losses=batch * (terms.n_losses or 1))
        reduced, *sums, grad_x, grad_y, grad_weight = apply(PolynomialLoss, *merged, merged_terms, merged_wants)
        if terms.n_losses is not None:
            reduced = reduced.unflatten(0, (batch, -1))
        value, total_weight, grad_coef = (None if part is None else part.unflatten(0, (batch, -1)) for part in sums)
        # A gradient that waits is not an output of an example.
        per_sample = [
            split_examples(rows, batch, n_axes) if want and not terms.waits(n_axes, n_series) else None
            for rows, n_axes, want in zip(
                (grad_x, grad_y, grad_weight),
                (axes[0], axes[1], axes[3]),
                (wants.x, wants.y, wants.weight),
                strict=True,
            )
        ]
        return vmap_results(
            reduced, value if wants.weight else None, total_weight, grad_coef if wants.coef else None, *per_sample
        )


def _slope_of_mean(
    terms: Reduced, factor: Tensor, scale: Tensor | float, value: Tensor | None, weight: Tensor, n_series: int
) -> Tensor:
    """The part of the gradient of a mean to the weight that comes from its denominator, the sum of the weights."""
    assert value is not None
    means = (factor * terms.of_series(terms.over_series(value) * scale, n_series)).expand(n_series)
    return _factor_of_rows(means, weight) if weight.dim() == 2 else means.sum().to(weight.dtype)


class LossGradients(torch.autograd.Function):
    """Gradients of sum(grad * losses) to x, y, coef and weight, from the sums and gradients of `PolynomialLoss`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        grad: Tensor,
        x: Tensor,
        y: Tensor,
        coef: Tensor,
        weight: Tensor | None,
        value: Tensor | None,
        total_weight: Tensor | None,
        grad_coef: Tensor | None,
        grad_x: Tensor | None,
        grad_y: Tensor | None,
        grad_weight: Tensor | None,
        terms: Reduced,
        wants: Wants,
    ) -> Tensors:
        """Multiply the gradients of the forward pass; one further pass gives those that had to wait.

        Gradients wait for operands that series share where each series has a loss, and an upstream gradient, of its
        own.
        """
        n_series = _n_series(coef)
        scale = terms.found_scale(total_weight)
        if grad_coef is not None:  # which has the known scale already
            factor = terms.of_series(grad if total_weight is None else grad.double() * scale, n_series)
            grad_coef = (grad_coef * _factor_of_rows(factor, grad_coef)).to(coef.dtype).view(coef.shape)
        if wants == _WANTS_COEF and grad_coef is not None:
            return None, None, grad_coef, None

        scale = scale * terms.known_scale(x.shape[-1], n_series, total_weight is not None)
        factor = terms.of_series(grad.double() * scale, n_series)  # (S,), or () for all
        early = (grad_x, grad_y, grad_coef, grad_weight)
        missing = Wants(*(want and part is None for want, part in zip(wants, early, strict=True)))
        late: Tensors = (None,) * 4
        if any(missing):
            sums = operators.objective(x, y, coef, weight, factor.expand(n_series), terms.model, terms.impl, missing)
            late = (sums.grad_x, sums.grad_y, sums.grad_coef, sums.grad_weight)
            value = sums.value if value is None else value

        def gradient(operand: Tensor, early: Tensor | None, late: Tensor | None) -> Tensor:
            wide = late if early is None else early * _factor_of_rows(factor, early)
            assert wide is not None
            return wide.to(operand.dtype).view(operand.shape)

        if wants.coef and grad_coef is None:
            grad_coef = gradient(coef, None, late[2])
        to_weight = None
        if wants.weight and weight is not None:
            wide = weight.to(formula.compute_dtype(weight.dtype))
            to_weight = gradient(wide, grad_weight, late[3])
            if terms.reduction == "mean":
                to_weight = to_weight - _slope_of_mean(terms, factor, scale, value, wide, n_series)
            to_weight = to_weight.to(weight.dtype)
        return (
            gradient(x, grad_x, late[0]) if wants.x else None,
            gradient(y, grad_y, late[1]) if wants.y else None,
            grad_coef if wants.coef else None,
            to_weight,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keep the operands."""
        *_, ctx.terms, ctx.wants = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `second_derivatives`."""
        found = second_derivatives(ctx.saved_tensors, ctx.terms, ctx.wants, ctx.needs_input_grad[:5], upstream)
        return *found, *(None,) * 8

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, *args: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """The gradients of B * S series."""
        operands, sums, per_sample, (terms, wants) = args[:4], args[4:7], args[7:10], args[10:]
        batch = info.batch_size
        axes = [count_axes(operand, dim) for operand, dim in zip(operands, in_dims[1:5], strict=True)]
        merged, n_series = merge_examples(operands, in_dims[1:5], axes, wants._replace(coef=True), batch)
        n_axes_of = (axes[0], axes[1], axes[3])
        found = apply(
            LossGradients,
            merge_sums(grad, in_dims[0], batch),
            *merged,
            *(merge_sums(part, dim, batch) for part, dim in zip(sums, in_dims[5:8], strict=True)),
            # A sum over series is not the gradient of each series: those take a pass.
            *(
                None
                if part is None or (n_axes == 1 and n_series > 1)
                else flatten_examples(batch_operand(part, dim, n_axes), batch, n_series)
                for part, dim, n_axes in zip(per_sample, in_dims[8:11], n_axes_of, strict=True)
            ),
            terms._replace(n_losses=batch * (terms.n_losses or 1)),
            wants,
        )
        return vmap_results(*(split_examples(rows, batch, n_axes) for rows, n_axes in zip(found, axes, strict=True)))


def second_derivatives(
    saved: Sequence[Any],
    terms: Reduced,
    wants: Sequence[bool],
    needs: Sequence[bool],
    upstream: Sequence[Tensor | None],
) -> Sequence[Tensor | None]:
    """Pull the upstream gradients of the gradients that are wanted back to what is saved: grad, x, y, coef and weight.

    By the curvature of the loss where it is a matter of coef alone, otherwise through values and pointwise losses.
    """
    grad, *operands = saved
    if _is_of_coef_alone(operands, needs, upstream):
        return None, None, None, _hessian_product(terms, grad, *operands, upstream[2]), None  # pyright: ignore[reportCallIssue]
    losses = terms.formula if any(map(is_in_batches, upstream)) else terms.composed
    return pull_back_twice(losses, grad, operands, wants, needs, upstream)


def _is_of_coef_alone(
    operands: Sequence[Tensor | None], needs: Sequence[bool], upstream: Sequence[Tensor | None]
) -> bool:
    """Whether a second derivative is a product of the Hessian to the coefficients of one series, not differentiated.

    No weight must be zero: the loss of such a sample may not be a number.
    """
    (*_, coef, weight), (to_x, to_y, to_coef, to_weight) = operands, upstream
    return (
        tuple(needs[:3]) == (False, False, False)
        and not needs[4]
        and to_x is to_y is to_weight is None
        and to_coef is not None
        and not (torch.is_grad_enabled() or is_transformed() or in_forward_mode() or is_traced())
        and not is_in_batches(to_coef)
        and coef is not None
        and coef.dim() == 1
        and (weight is None or bool(weight.all()))
    )


def _hessian_product(
    terms: Reduced, grad: Tensor, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, along: Tensor
) -> Tensor:
    """The Hessian of grad times the loss, to the coefficients of one series, times a vector `along` (degree + 1,).

    With V the basis functions of the samples as rows, p = V^T coef: V (w l'' V^T along), three passes over x.
    """
    model, loss, impl = terms.model, terms.model.loss, terms.plain_impl
    assert isinstance(loss, Loss)
    dtype = formula.compute_dtype(x.dtype)
    x, y, coef_wide = x.to(dtype), y.to(dtype), coef.to(dtype)
    direction = operators.evaluate(x, along.to(dtype), model, impl)
    if isinstance(loss, MSE):
        delta = 2.0 * direction  # whatever the values are
    else:
        delta = direction * loss.curvature(operators.evaluate(x, coef_wide, model, impl), y)
    scale: Tensor | float = terms.known_scale(x.shape[-1], 1, weight is not None)
    if weight is not None:
        delta = delta * weight
        if terms.reduction == "mean":
            scale = 1.0 / weight.sum(dtype=torch.float64)
    _, product = operators.evaluate_backward(delta, x, coef_wide, model, impl, _WANTS_COEF)
    assert product is not None
    return (product * (grad.double() * scale)).to(coef.dtype).view(coef.shape)


def loss_gradients(
    grad: Tensor, operands: Sequence[Any], sums: Sequence[Tensor | None], terms: Reduced, wants: Wants
) -> Tensors:
    """Gradients of sum(grad * losses) to x, y, coef and weight, differentiable where a graph is made.

    Args:
        grad: upstream gradient.
        operands: x, y, coef and weight.
        sums: what the forward pass gave: value, total_weight and gradients to coef, x, y, weight. A pass gives those
            that are None; but with weights the sum of the weights has to be there.
        terms: what the loss is.
        wants: which gradients are wanted.
    """
    if pulls_back_formula(grad):
        return tuple(pull_back(terms.formula, operands, wants, grad))
    if torch.is_grad_enabled():
        return apply(LossGradients, grad, *operands, *sums, terms, wants)
    return LossGradients.forward(grad, *operands, *sums, terms, wants)  # pyright: ignore[reportCallIssue]


def without_sums(weight: Tensor | None) -> Tensors:
    """The `sums` of `loss_gradients` for a single loss, where the forward pass kept none."""
    total_weight = None if weight is None else weight.detach().sum(dtype=torch.float64).unsqueeze(0)
    return None, total_weight, None, None, None, None


def general_loss(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Reduced) -> Tensor:
    """The reduced loss, differentiable: a scalar, or (n_losses,), each over as many series in a row."""
    if runs_formula() or is_few_under_transforms(x, coef):
        return terms.formula(x, y, coef, weight)
    operands = (x, y, coef, weight)
    wants = _needs(operands) if torch.is_grad_enabled() else Wants()
    if any(wants) or is_transformed():
        return apply(PolynomialLoss, *operands, terms, wants)[0]
    value = PolynomialLoss.forward(*operands, terms, wants)[0]
    assert value is not None
    return value
