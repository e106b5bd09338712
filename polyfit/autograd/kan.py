"""The layer of polynomials on all edges between inputs and outputs (KAN) as a pair of autograd Functions.

The gradient to the bias is a sum over the rows, apart from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polyfit import formula
from polyfit.autograd._batching import Tensors, vmap_results
from polyfit.autograd._pullback import pull_back, pull_back_twice
from polyfit.autograd._tied import tied
from polyfit.autograd._torch import apply, is_transformed, pulls_back_formula, runs_formula
from polyfit.backends import operators
from polyfit.backends.results import Wants
from polyfit.backends.select import without_autocast
from polyfit.formula import compute_dtype


def _formula(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None) -> Tensor:
    """The formula, without autocast, which would reach into its products."""
    with without_autocast(x.device):
        return formula.kan(x, coef, bias, basis, squash)


def _without_bias(basis: str, squash: str | None) -> Any:
    """The formula as a function of x and coef, which no gradient but that to the bias depends on."""
    return lambda x, coef: _formula(x, coef, coef.new_zeros(coef.shape[-1]), basis, squash)


def _examples(operands: Sequence[Tensor], dims: Sequence[int | None], batch: int) -> list[list[Tensor]]:
    """The operands of each example."""
    columns = [
        [operand] * batch if dim is None else list(operand.unbind(dim))
        for operand, dim in zip(operands, dims, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _batched(operand: Tensor, dim: int | None) -> Tensor:
    """Rows (batch or 1, B, K) of the examples, which may share them."""
    return operand.unsqueeze(0) if dim is None else operand.movedim(dim, 0)


def _rows(operand: Tensor, dim: int | None, batch: int) -> Tensor:
    """Rows of all examples, one example after the other: (batch * B, K)."""
    return _batched(operand, dim).expand(batch, -1, -1).flatten(0, 1)


def _coef_gradients(grad: Tensor, x: Tensor, like: Tensor, basis: str, squash: str | None) -> Tensor:
    """The gradient to coef, (batch, degree, in, out), for grad (batch or 1, B, out) and x (batch or 1, B, in)."""
    dtype = compute_dtype(x.dtype)
    with without_autocast(x.device):
        terms = formula.functions(formula.SQUASHES[squash](x.to(dtype)), basis, like.shape[0])
        products = [term.mT @ grad.to(dtype) for term in terms]
    batch = max(x.shape[0], grad.shape[0])
    return torch.stack(products, 1).to(like.dtype) if products else like.new_zeros(batch, *like.shape)


class Kan(torch.autograd.Function):
    """y, see `polyfit.formula.kan`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None, impl: str
    ) -> Tensor:
        """See `polyfit.backends.operators.kan`."""
        return operators.kan(x, coef, bias, basis, squash, impl)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands; nothing of the forward pass is needed again."""
        x, coef, bias, *ctx.constants = inputs
        ctx.bias_dtype = bias.dtype
        ctx.save_for_backward(x, coef)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Vector-Jacobian product, in one pass over x and grad."""
        x, coef = ctx.saved_tensors
        want_x, want_coef, want_bias = ctx.needs_input_grad[:3]
        wants = (want_x, want_coef)
        basis, squash, impl = ctx.constants
        if not any(wants):
            found = (None, None)
        elif pulls_back_formula(grad):
            found = pull_back(_without_bias(basis, squash), (x, coef), wants, grad)
        elif torch.is_grad_enabled():
            found = apply(KanGradients, grad, x, coef, basis, squash, impl, wants)
        else:
            found = KanGradients.forward(grad, x, coef, basis, squash, impl, wants)
        grad_bias = grad.sum(0, dtype=ctx.bias_dtype) if want_bias else None
        return *found, grad_bias, None, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], x: Tensor, coef: Tensor, bias: Tensor, *constants: Any
    ) -> tuple[Tensor, int]:
        """Examples that share the coefficients are rows of one call. Others take a call each: a layer of its own."""
        dims, batch = in_dims[:3], info.batch_size
        if dims[1] is not None:
            calls = _examples((x, coef, bias), dims, batch)
            return torch.stack([apply(Kan, *operands, *constants) for operands in calls]), 0
        shared_bias = bias if dims[2] is None else coef.new_zeros(coef.shape[-1])
        if dims[0] is None:
            values = apply(Kan, x, coef, shared_bias, *constants).unsqueeze(0)
        else:
            rows = _rows(x, dims[0], batch)
            values = apply(Kan, rows, coef, shared_bias, *constants)
            values = values.unflatten(0, (batch, rows.shape[0] // batch))
        if dims[2] is not None:
            values = values + bias.movedim(dims[2], 0).unsqueeze(1)
        return values, 0


class KanGradients(torch.autograd.Function):
    """Gradients of sum(grad * y) to x and coef."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, impl: str, wants: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `polyfit.backends.operators.kan_backward`."""
        want_x, want_coef = wants
        wanted = Wants(x=want_x, coef=want_coef)
        grad_x, grad_coef = operators.kan_backward(grad, x, coef, basis, squash, impl, wanted)
        return grad_x, None if grad_coef is None else grad_coef.to(coef.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, Tensor | None]) -> None:
        """Keep the operands."""
        grad, x, coef, ctx.basis, ctx.squash, _, ctx.wants = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, coef)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensors:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Through the formula."""
        grad, *operands = ctx.saved_tensors
        function = _without_bias(ctx.basis, ctx.squash)
        needs = ctx.needs_input_grad[:3]
        return *pull_back_twice(function, grad, operands, ctx.wants, needs, upstream), None, None, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, x: Tensor, coef: Tensor, *constants: Any
    ) -> tuple[Tensors, tuple[int | None, ...]]:
        """Gradients of the examples.

        Those to x are rows of one call, where examples share the coefficients. Those to the coefficients are a matrix
        an example, by batched products.
        """
        dims, batch = in_dims[:3], info.batch_size
        basis, squash, impl, wants = constants
        want_x, want_coef = wants
        if dims[2] is not None:
            calls = _examples((grad, x, coef), dims, batch)
            found = zip(*[apply(KanGradients, *operands, *constants) for operands in calls], strict=True)
            return vmap_results(
                *(torch.stack(parts) if want else None for parts, want in zip(found, wants, strict=True))
            )
        grad_x = grad_coef = None
        if want_x:
            rows = (_rows(grad, dims[0], batch), _rows(x, dims[1], batch))
            grad_x, _ = apply(KanGradients, *rows, coef, basis, squash, impl, (True, False))
            grad_x = grad_x.unflatten(0, (batch, grad_x.shape[0] // batch))
        if want_coef:
            grad_coef = _coef_gradients(_batched(grad, dims[0]), _batched(x, dims[1]), coef, basis, squash)
        return vmap_results(grad_x, grad_coef)


def _in_autocast_dtype(*operands: Tensor) -> tuple[Tensor, ...]:
    """The operands, where autocast is on in its dtype, as those of torch.nn.Linear: float64 stays."""
    if not torch._C._is_any_autocast_enabled():  # a tenth of the time of the next two
        return operands
    kind = operands[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return operands
    dtype = torch.get_autocast_dtype(kind)
    return tuple(operand if operand.dtype == torch.float64 else operand.to(dtype) for operand in operands)


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None, impl: str) -> Tensor:
    """`polyfit.formula.kan` for x (B, in), coef (degree, in, out) and bias (out,), differentiable."""
    x, coef, bias = _in_autocast_dtype(x, coef, bias)
    if runs_formula():
        return _formula(x, coef, bias, basis, squash)
    wants = torch.is_grad_enabled() and (x.requires_grad or coef.requires_grad or bias.requires_grad)
    if wants or is_transformed():
        return apply(Kan, *tied(x, coef, bias), basis, squash, impl)
    return operators.kan(x, coef, bias, basis, squash, impl)
