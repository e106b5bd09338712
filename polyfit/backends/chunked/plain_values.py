"""Values of plain series, and their gradients, by the way that suits their number: see `plain_loss`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked import many
from polyfit.backends.chunked.matrix import steps_of
from polyfit.backends.chunked.plain_rows import added, are_rows, pieces
from polyfit.backends.chunked.samples import clenshaw
from polyfit.backends.chunked.short import DTYPES, columns, derivative, horner, is_few, quiet, to_window, workspace_for
from polyfit.backends.results import Wants
from polyfit.backends.select import autocast_is_off
from polyfit.formula import Model


@autocast_is_off
def evaluate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p(x) for x (N,) and coef (degree + 1,), or x (S, N) or (N,) and coef (S, degree + 1)."""
    if x.dim() < coef.dim():
        return _evaluate_shared(x, coef, model)
    if is_few(x, coef, model.basis):
        return _evaluate_few(x, coef, model)
    if not are_rows(x, coef, model.basis):
        return many.evaluate(x, coef, model)
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    if (
        coef.dim() == 1 and model.affine_map is None and model.basis == "power" and x.is_contiguous()
    ):  # without a buffer
        numbers = coef.unbind()
        size, steps = sizes.current().chunk_of_one(x.device, x.shape[0]), steps_of("power", len(numbers) - 1)
        for t, place in zip(x.split(size), values.split(size), strict=True) if x.shape[0] > size else ((x, values),):
            clenshaw(t, numbers, steps, place)
        return values
    for piece, rows in pieces(x, coef, model):
        samples, factors, out = x, coef, values
        if piece is not None:
            samples, factors, out = x[piece], coef if coef.dim() == 1 else coef[piece], values[piece]
        rows.load(samples, model, coef.shape[-1])
        rows.evaluate(rows.numbers(factors), out)
    return values


@quiet
def _evaluate_few(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    out, t = values.numpy(), x.numpy(force=True)
    if model.basis != "power":
        rows = workspace_for(x, coef, model, wants_moments=False)
        rows.load(t, model, coef.shape[-1])
        rows.evaluate(rows.numbers(coef), out)
        return values
    if model.affine_map is not None:
        to_window(t, model.affine_map, t := np.empty_like(out))
    horner(t, columns(coef.numpy(force=True)), out)
    return values


@quiet
def _evaluate_shared(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    values = x.new_empty(coef.shape[0], x.shape[0])
    for _, rows in pieces(x, coef, model):
        rows.load(rows.view(x), model, coef.shape[1])
        rows.evaluate(rows.numbers(coef), rows.view(values))
    return values


@autocast_is_off
@quiet
def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad in the shape of p(x), to x and to coef, in their dtype."""
    if not are_rows(x, coef, model.basis):
        grad_x, grad_coef = many.evaluate_backward(grad, x, coef, model, wants)
        return grad_x, None if grad_coef is None else grad_coef.to(coef.dtype)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if wants.x else None
    slope = derivative(coef, model) if wants.x else None
    sums: Any = None
    for piece, rows in pieces(x, coef, model):
        samples, upstream = (rows.view(part if piece is None else part[piece]) for part in (x, grad))
        rows.load(samples, model, coef.shape[-1])
        if grad_x is not None and slope is not None:
            out = rows.view(grad_x if piece is None else grad_x[piece])
            rows.evaluate(rows.numbers(slope if piece is None or slope.dim() == 1 else slope[piece]), out)
            out *= upstream
        if wants.coef:
            rows.p[...] = upstream
            sums = added(sums, rows.moments_of_p())
    return grad_x, torch.from_numpy(sums.astype(DTYPES[coef.dtype])) if wants.coef else None
