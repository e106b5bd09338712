"""The autograd Functions: forward is one pass, backward multiplies.

Each operation is a pair of Functions in the `setup_context` style. The backward of the first is the second, whose value
is a product or one more pass, and whose own backward goes through polyfit.formula, where derivatives of any order are
autograd's. So a first derivative costs one pass however it is taken (`backward`, `create_graph=True`,
`torch.func.grad`), and a second one is right. Their `vmap` rules make the new axis an axis of series.

There is no forward mode in them: under it, in an export, and where torch.compile traces a transform of torch.func,
`polyval` and `polynomial_loss` at the end of this file run the formula.

All operands are canonical (see polyfit.backends.operators).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from polyfit import formula, losses
from polyfit.backends import operators
from polyfit.bases import AffineMap

Tensors = tuple[Tensor | None, ...]


def _in_forward_mode() -> bool:
    return forward_ad._current_level >= 0


def _pulls_back_formula(grad: Tensor) -> bool:
    """Whether a backward must be plain PyTorch: in forward mode, and for gradients in batches.

    Those (`is_grads_batched=True`, `torch.autograd.functional` with `vectorize=True`) come by an older vmap, which does
    not know the rules of Functions.
    """
    return not torch.compiler.is_compiling() and (_in_forward_mode() or is_legacy_batchedtensor(grad))


def _runs_formula() -> bool:
    """Whether someone looks on who must see plain PyTorch: forward mode, export, a transform that is compiled."""
    return (
        _in_forward_mode()
        or torch.compiler.is_exporting()
        or (torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active())
    )


def _apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Do what ``function.apply(*args)`` does, in half the time where it is called eagerly.

    For Functions with a `setup_context` PyTorch binds the arguments to the signature of `forward` at each call, to fill
    in defaults, which takes 30 us; ours have none.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    args = unwrap_dead_wrappers(args)
    return super(torch.autograd.Function, function).apply(*args)  # pyright: ignore[reportAttributeAccessIssue]


class _Tied(torch.autograd.Function):
    """The operand itself, to whose gradient it is tied.

    A compiled backward cannot be differentiated, and PyTorch says so if one of its inputs requires a gradient. What the
    forward pass saved is no such input: second derivatives would be missing in silence. So it gets the operand too.
    (With the debugging backend "eager" PyTorch drops the second derivatives of every Function; nothing helps there.)
    """

    @staticmethod
    def forward(operand: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A view."""
        return operand.view_as(operand)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the operand."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient; where it is not a number the operand makes no difference."""
        (operand,) = ctx.saved_tensors
        return torch.where(grad.isnan(), operand * grad, grad)


def tied(*operands: Tensor | None) -> tuple[Any, ...]:
    """Operands as the functions below want them: where a call is compiled, `_Tied`."""
    if not torch.compiler.is_compiling() or _runs_formula():
        return operands
    return tuple(
        _Tied.apply(operand) if operand is not None and operand.requires_grad else operand for operand in operands
    )


def _pull_back(
    function: Callable[..., Any], operands: Sequence[Any], wants: Sequence[bool], upstream: Any
) -> list[Tensor | None]:
    """Gradients of ``sum(upstream * function(*operands))`` to the operands that are wanted; differentiable again."""

    def of_wanted(*wanted: Tensor) -> Any:
        given = iter(wanted)
        return function(*(next(given) if want else operand for operand, want in zip(operands, wants, strict=True)))

    pull: Any
    _, pull = torch.func.vjp(of_wanted, *(operand for operand, want in zip(operands, wants, strict=True) if want))  # pyright: ignore[reportAssignmentType]
    found = iter(pull(upstream))
    return [next(found) if want else None for want in wants]


def _pull_back_twice(
    function: Callable[..., Any],
    grad: Tensor,
    operands: Sequence[Any],
    wants: Sequence[bool],
    needs: Sequence[bool],
    upstream: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Pull `upstream` back through ``_pull_back(function, operands, wants, grad)``, to grad and operands."""
    reached = [want and part is not None for want, part in zip(wants, upstream, strict=True)]
    if not any(reached):
        return [None] * (1 + len(operands))

    def gradients(grad: Tensor, *operands: Any) -> tuple[Tensor, ...]:
        return tuple(part for part in _pull_back(function, operands, reached, grad) if part is not None)

    parts = tuple(part for part, is_reached in zip(upstream, reached, strict=True) if is_reached)
    return _pull_back(gradients, (grad, *operands), needs, parts)


# --- vmap: its axis becomes an axis of series ---


def _axes(operand: Tensor | None, dim: int | None) -> int:
    """Axes of an operand within an example."""
    return 0 if operand is None else operand.dim() - (dim is not None)


def _batched(operand: Tensor, dim: int | None, axes: int) -> Tensor:
    """An operand of one or two axes as (B or 1, S or 1, K)."""
    operand = operand.unsqueeze(0) if dim is None else operand.movedim(dim, 0)
    return operand.unsqueeze(1) if axes == 1 else operand


def _rows(operand: Tensor, batch: int, n_series: int) -> Tensor:
    """(B * S, K) for (B or 1, S or 1, K): a view, unless S > 1 series of an example share what examples do not."""
    return operand.expand(batch, n_series, -1).reshape(batch * n_series, -1)


def _merged(
    operands: Sequence[Tensor | None],
    dims: Sequence[int | None],
    axes: Sequence[int],
    apart: Sequence[bool],
    batch: int,
) -> tuple[list[Tensor | None], int]:
    """Operands of B * S series from those of B examples, and S; the coefficients are among them, and have all S.

    One row that all examples share is still shared afterwards, unless it is to be kept `apart`, since each example
    wants a gradient of its own to it.
    """
    batched = [
        None if operand is None else _batched(operand, dim, n_axes)
        for operand, dim, n_axes in zip(operands, dims, axes, strict=True)
    ]
    n_series = max(operand.shape[1] for operand in batched if operand is not None)
    merged: list[Tensor | None] = []
    for operand, is_apart in zip(batched, apart, strict=True):
        if operand is None or (not is_apart and operand.shape[:2] == (1, 1)):
            merged.append(None if operand is None else operand[0, 0])
        else:
            merged.append(_rows(operand, batch, n_series))
    return merged, n_series


def _stacked(part: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """(B * S, ...) of sums (S, ...), or (B,) of a scalar."""
    if part is None:
        return None
    part = part.unsqueeze(0) if dim is None else part.movedim(dim, 0)
    part = part.expand(batch, *part.shape[1:])
    return part if part.dim() == 1 else part.flatten(0, 1)


def _split(rows: Tensor | None, batch: int, axes: int) -> Tensor | None:
    """Rows (B * S, K) as (B, S, K); of what had one axis and was shared by the series their sum, (B, K)."""
    if rows is None:
        return None
    rows = rows.unflatten(0, (batch, -1))
    if axes == 2:
        return rows
    return rows.squeeze(1) if rows.shape[1] == 1 else rows.sum(1)


def _results(*results: Tensor | None) -> tuple[Tensors, tuple[int | None, ...]]:
    """What a vmap rule returns: results, each with the new axis in front or None."""
    return results, tuple(None if result is None else 0 for result in results)


# --- polyval ---


class Polyval(torch.autograd.Function):
    """p(x)."""

    @staticmethod
    def forward(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, impl: str) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `polyfit.backends.operators.evaluate`."""
        return operators.evaluate(x, coef, mapping, basis, impl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands; nothing of the forward pass is needed again."""
        x, coef, *ctx.constants = inputs
        ctx.save_for_backward(x, coef)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vector-Jacobian product, in one pass over x and grad."""
        x, coef = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        if _pulls_back_formula(grad):
            mapping, basis, _ = ctx.constants
            found = _pull_back(lambda x, coef: formula.polyval(x, coef, mapping, basis), (x, coef), wants, grad)
        elif torch.is_grad_enabled():
            found = _apply(PolyvalGradients, grad, x, coef, *ctx.constants, *wants)
        else:
            found = PolyvalGradients.forward(grad, x, coef, *ctx.constants, *wants)
        return *found, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, coef: Tensor, *constants: Any) -> tuple[Tensor, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Values of B * S series."""
        batch = info.batch_size
        axes = [_axes(operand, dim) for operand, dim in zip((x, coef), in_dims[:2], strict=True)]
        merged, n_series = _merged((x, coef), in_dims[:2], axes, (False, True), batch)
        values = _apply(Polyval, *merged, *constants).unflatten(0, (batch, n_series))
        return (values.squeeze(1) if axes[1] == 1 else values), 0


class PolyvalGradients(torch.autograd.Function):
    """Gradients of sum(grad * p(x)) to x and coef."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        grad: Tensor,
        x: Tensor,
        coef: Tensor,
        mapping: AffineMap | None,
        basis: str,
        impl: str,
        want_x: bool,
        want_coef: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `polyfit.backends.operators.evaluate_backward`."""
        grad_x, grad_coef = operators.evaluate_backward(
            grad, x, coef, mapping, basis, impl, want_x=want_x, want_coef=want_coef
        )
        return None if grad_x is None else grad_x.to(x.dtype), None if grad_coef is None else grad_coef.to(coef.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, Tensor | None]) -> None:
        """Keep the operands."""
        grad, x, coef, ctx.mapping, ctx.basis, _, *ctx.wants = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, coef)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Through the formula."""
        grad, *operands = ctx.saved_tensors

        def values(x: Tensor, coef: Tensor) -> Tensor:
            return formula.polyval(x, coef, ctx.mapping, ctx.basis)

        needs = ctx.needs_input_grad[:3]
        return *_pull_back_twice(values, grad, operands, ctx.wants, needs, upstream), None, None, None, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, x: Tensor, coef: Tensor, *constants: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """Gradients of B * S series."""
        batch, want_x = info.batch_size, constants[-2]
        axes = [_axes(operand, dim) for operand, dim in zip((grad, x, coef), in_dims[:3], strict=True)]
        merged, _ = _merged((grad, x, coef), in_dims[:3], axes, (True, want_x, True), batch)
        grad_x, grad_coef = _apply(PolyvalGradients, *merged, *constants)
        return _results(_split(grad_x, batch, axes[1]), _split(grad_coef, batch, axes[2]))


def polyval(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, impl: str) -> Tensor:
    """p(x), differentiable."""
    if _runs_formula():
        return formula.polyval(x, coef, mapping, basis)
    wants = torch.is_grad_enabled() and (x.requires_grad or coef.requires_grad)
    if wants or torch._C._are_functorch_transforms_active():
        return _apply(Polyval, x, coef, mapping, basis, impl)
    return operators.evaluate(x, coef, mapping, basis, impl)


# --- the loss ---


Wants = tuple[bool, bool, bool, bool]  # gradients to x, y, coef, weight


class Terms(NamedTuple):
    """What a loss is, apart from its operands.

    Attributes:
        mapping: from domain to window, or None.
        basis: its name.
        loss: the pointwise loss.
        reduction: "mean" or "sum".
        n_losses: how many losses there are, each over as many series in a row; None for one, as a scalar.
        impl: resolved.
    """

    mapping: AffineMap | None
    basis: str
    loss: losses.Loss
    reduction: str
    n_losses: int | None
    impl: str

    def formula(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None) -> Tensor:
        """The losses by polyfit.formula."""
        return formula.polynomial_loss(
            x, y, coef, weight, self.mapping, self.basis, self.loss.value, self.reduction, self.n_losses
        )

    @property
    def pointwise(self) -> tuple[AffineMap | None, str, losses.Loss]:
        """What the pass over the data is told."""
        return self[:3]

    def waits(self, axes: int, n_series: int) -> bool:
        """Whether the gradient to an operand of so many axes waits for what comes from upstream.

        What series share gets one gradient for all of them; if each has a loss of its own, their gradients may differ.
        """
        return axes == 1 and n_series != 1 and self.n_losses not in {None, 1}

    def known_scale(self, n_samples: int, n_series: int, is_weighted: bool) -> float:
        """What sums over a loss are multiplied with, as far as it is known before the pass: all but sums of weights."""
        if self.reduction == "sum" or is_weighted or n_series == 0:
            return 1.0
        return (self.n_losses or 1) / (n_samples * n_series)

    def found_scale(self, total_weight: Tensor | None) -> Tensor | float:
        """The rest: one over the sum of the weights of each loss."""
        if self.reduction == "sum" or total_weight is None:
            return 1.0
        return 1.0 / self.over_series(total_weight)

    def over_series(self, sums: Tensor) -> Tensor:
        """Sums (S,) of the series added up for each loss: (n_losses,), or a scalar."""
        if self.n_losses is None:
            return sums.squeeze(0) if sums.shape[0] == 1 else sums.sum()
        return sums if sums.shape[0] == self.n_losses else sums.view(self.n_losses, -1).sum(1)

    def of_series(self, of_losses: Tensor, n_series: int) -> Tensor:
        """Numbers of each loss for its series: (S,); a scalar stays one."""
        if self.n_losses is None or self.n_losses == n_series:
            return of_losses
        return of_losses.unsqueeze(1).expand(-1, n_series // self.n_losses).reshape(n_series)


def _needs(operands: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> Wants:
    """Which of x, y, coef and weight require a gradient."""
    x, y, coef, weight = operands
    return x.requires_grad, y.requires_grad, coef.requires_grad, weight is not None and weight.requires_grad


def _n_series(coef: Tensor) -> int:
    return coef.shape[0] if coef.dim() == 2 else 1


def _beside(factor: Tensor, rows: Tensor) -> Tensor:
    """Factors of the series, or one of all, as they multiply rows (S, K) or (K,)."""
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
        x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, terms: Terms, wants: Wants
    ) -> Tensors:
        """One pass over the data for the value and for the gradients that are wanted."""
        n_series = _n_series(coef)
        want_x, want_y, want_coef, want_weight = wants
        scale = terms.known_scale(x.shape[-1], n_series, weight is not None)
        result = operators.objective(
            x, y, coef, weight, None, *terms.pointwise, terms.impl,
            scale=scale,
            want_coef=want_coef,
            want_x=want_x and not terms.waits(x.dim(), n_series),
            want_y=want_y and not terms.waits(y.dim(), n_series),
            want_weight=want_weight and weight is not None and not terms.waits(weight.dim(), n_series),
        )  # fmt: skip
        assert result.value is not None
        reduced = terms.over_series(result.value)
        if result.weight is not None:
            reduced = reduced * terms.found_scale(result.weight)
        # A copy in any case: what a Function returns as a view cannot be modified in place by whoever gets it.
        reduced = reduced.to(coef.dtype, copy=True)
        return reduced, result.value if want_weight else None, *result[1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Keep operands and gradients; only the loss is differentiable."""
        *operands, ctx.terms, _ = inputs
        ctx.mark_non_differentiable(*(part for part in output[1:] if part is not None))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*operands, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients of the forward pass."""
        if grad is None:
            return (None,) * 6
        saved, wants = ctx.saved_tensors, ctx.needs_input_grad[:4]
        if _pulls_back_formula(grad):
            found = _pull_back(ctx.terms.formula, saved[:4], wants, grad)
        elif torch.is_grad_enabled():
            found = _apply(LossGradients, grad, *saved, ctx.terms, wants)
        else:
            found = LossGradients.forward(grad, *saved, ctx.terms, wants)  # pyright: ignore[reportCallIssue]
        return *found, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], *args: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """The losses of B * S series."""
        operands, (terms, wants), batch = args[:4], args[4:], info.batch_size
        axes = [_axes(operand, dim) for operand, dim in zip(operands, in_dims[:4], strict=True)]
        # Someone outside may want what nobody inside does.
        needs = _needs(operands)
        merged_wants = tuple(want or need for want, need in zip(wants, needs, strict=True))
        merged, n_series = _merged(operands, in_dims[:4], axes, (*merged_wants[:2], True, merged_wants[3]), batch)
        merged_terms = terms._replace(n_losses=batch * (terms.n_losses or 1))
        reduced, *sums, grad_x, grad_y, grad_weight = _apply(PolynomialLoss, *merged, merged_terms, merged_wants)
        if terms.n_losses is not None:
            reduced = reduced.unflatten(0, (batch, -1))
        value, total_weight, grad_coef = (None if part is None else part.unflatten(0, (batch, -1)) for part in sums)
        # What waits within an example is none of its outputs.
        per_sample = [
            _split(rows, batch, n_axes) if want and not terms.waits(n_axes, n_series) else None
            for rows, n_axes, want in zip(
                (grad_x, grad_y, grad_weight), (axes[0], axes[1], axes[3]), (wants[0], wants[1], wants[3]), strict=True
            )
        ]
        return _results(
            reduced, value if wants[3] else None, total_weight, grad_coef if wants[2] else None, *per_sample
        )


class LossGradients(torch.autograd.Function):
    """Gradients of sum(grad * losses) to x, y, coef and weight, from what the pass of `PolynomialLoss` gave."""

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
        terms: Terms,
        wants: Wants,
    ) -> Tensors:
        """Multiply; where something is missing, one further pass.

        That is so for an operand that series share when each has a loss, and a gradient from upstream, of its own.
        """
        n_series = _n_series(coef)
        scale = terms.found_scale(total_weight)
        if grad_coef is not None:  # which has the known scale already
            factor = terms.of_series(grad if total_weight is None else grad.double() * scale, n_series)
            grad_coef = (grad_coef * _beside(factor, grad_coef)).to(coef.dtype).view(coef.shape)
        if wants == (False, False, True, False) and grad_coef is not None:
            return None, None, grad_coef, None

        scale = scale * terms.known_scale(x.shape[-1], n_series, total_weight is not None)
        factor = terms.of_series(grad.double() * scale, n_series)  # (S,), or () for all
        early = (grad_x, grad_y, grad_coef, grad_weight)
        misses = [want and part is None for want, part in zip(wants, early, strict=True)]
        late: Tensors = (None,) * 4
        if any(misses):
            names = ("want_x", "want_y", "want_coef", "want_weight")
            sums = operators.objective(
                x, y, coef, weight, factor.expand(n_series), *terms.pointwise, terms.impl,
                **dict(zip(names, misses, strict=True)),
            )  # fmt: skip
            late = (sums.grad_x, sums.grad_y, sums.grad_coef, sums.grad_weight)
            value = sums.value if value is None else value

        def gradient(operand: Tensor, early: Tensor | None, late: Tensor | None) -> Tensor:
            wide = late if early is None else early * _beside(factor, early)
            assert wide is not None
            return wide.to(operand.dtype).view(operand.shape)

        to_weight = None
        if wants[3] and weight is not None:
            wide = weight.to(formula.compute_dtype(weight.dtype))
            to_weight = gradient(wide, grad_weight, late[3])
            if terms.reduction == "mean":  # a heavier sample draws the mean to its own loss, too
                assert value is not None
                means = (factor * terms.of_series(terms.over_series(value) * scale, n_series)).expand(n_series)
                to_weight = to_weight - (_beside(means, wide) if wide.dim() == 2 else means.sum().to(wide.dtype))
            to_weight = to_weight.to(weight.dtype)
        if wants[2] and grad_coef is None:
            grad_coef = gradient(coef, None, late[2])
        return (
            gradient(x, grad_x, late[0]) if wants[0] else None,
            gradient(y, grad_y, late[1]) if wants[1] else None,
            grad_coef if wants[2] else None,
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
        """Through the formula."""
        grad, *operands = ctx.saved_tensors
        needs = ctx.needs_input_grad[:5]
        found = _pull_back_twice(ctx.terms.formula, grad, operands, ctx.wants, needs, upstream)
        return *found, *(None,) * 8

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, *args: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """The gradients of B * S series."""
        operands, sums, per_sample, (terms, wants) = args[:4], args[4:7], args[7:10], args[10:]
        batch = info.batch_size
        axes = [_axes(operand, dim) for operand, dim in zip(operands, in_dims[1:5], strict=True)]
        merged, n_series = _merged(operands, in_dims[1:5], axes, (*wants[:2], True, wants[3]), batch)
        n_axes_of = (axes[0], axes[1], axes[3])
        found = _apply(
            LossGradients,
            _stacked(grad, in_dims[0], batch),
            *merged,
            *(_stacked(part, dim, batch) for part, dim in zip(sums, in_dims[5:8], strict=True)),
            # A sum over series is not the gradient of each: that takes a pass.
            *(
                None
                if part is None or (n_axes == 1 and n_series > 1)
                else _rows(_batched(part, dim, n_axes), batch, n_series)
                for part, dim, n_axes in zip(per_sample, in_dims[8:11], n_axes_of, strict=True)
            ),
            terms._replace(n_losses=batch * (terms.n_losses or 1)),
            wants,
        )
        return _results(*(_split(rows, batch, n_axes) for rows, n_axes in zip(found, axes, strict=True)))


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    mapping: AffineMap | None,
    basis: str,
    loss: losses.Loss,
    reduction: str,
    n_losses: int | None,
    impl: str,
) -> Tensor:
    """The reduced loss, differentiable: a scalar, or (n_losses,), each over as many series in a row."""
    terms = Terms(mapping, basis, loss, reduction, n_losses, impl)
    if _runs_formula():
        return terms.formula(x, y, coef, weight)
    operands = (x, y, coef, weight)
    wants = _needs(operands) if torch.is_grad_enabled() else (False, False, False, False)
    if any(wants) or torch._C._are_functorch_transforms_active():
        return _apply(PolynomialLoss, *operands, terms, wants)[0]
    value = PolynomialLoss.forward(*operands, terms, wants)[0]
    assert value is not None
    return value
