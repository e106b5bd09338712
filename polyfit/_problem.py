"""Canonical operands: what a user passes, checked and brought into the shapes that the backends take.

Canonical operands: x, y, weight (N,) or (S, N), coef (degree + 1,) or (S, degree + 1). They are views where possible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit import bases, formula, losses
from polyfit._channels import memory_order
from polyfit._checks import check_choice, check_coef, check_tensor, check_tensors
from polyfit.backends import resolve_impl

_REDUCTIONS = ("mean", "sum", "none")


def check_operands(required: dict[str, Tensor], weight: Tensor | None = None) -> None:
    """Refuse operands that are not floating-point tensors of one dtype on one device, coef among them."""
    for name, operand in required.items():
        if operand is None:
            check_tensor(name, operand)
    if weight is None:
        check_tensors({**required})
    elif isinstance(weight, Tensor):
        check_tensors({**required, "weight": weight})
    else:
        raise TypeError(
            f"weight is {type(weight).__name__}; pass a tensor of the shape of y, for example"
            " torch.as_tensor(weight).to(y), or torch.full_like(y, weight) for one number"
        )
    check_coef(required["coef"])


def batch_shape(coef: Tensor, samples: dict[str, Tensor]) -> torch.Size:
    """The broadcast batch axes, those before the last one. The last axes of the samples must agree."""
    reference = next(iter(samples))
    n_samples = samples[reference].shape[-1:]
    for name, tensor in samples.items():
        if tensor.shape[-1:] != n_samples:
            if tensor.dim() == 0 or not n_samples:
                scalar, other = (name, reference) if tensor.dim() == 0 else (reference, name)
                raise ValueError(
                    f"{scalar} is a single number and {other} has shape {tuple(samples[other].shape)}; all have the"
                    f" same samples: pass {scalar}.expand_as({other})"
                )
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and {reference} {tuple(samples[reference].shape)};"
                " the last axis is samples and must agree"
            )
        if tensor.dim() == 0 and coef.dim() > 1:
            raise ValueError(
                f"{name} has no axis of samples, which coef of shape {tuple(coef.shape)} asks for;"
                f" pass {name}.reshape(1)"
            )
    if coef.dim() == 1 and all(tensor.dim() <= 1 for tensor in samples.values()):
        return torch.Size(())
    batch = coef.shape[:-1]
    if all(tensor.shape[:-1] == batch for tensor in samples.values()):  # torch.broadcast_shapes takes 10 us
        return batch
    try:
        return torch.broadcast_shapes(coef.shape[:-1], *(tensor.shape[:-1] for tensor in samples.values()))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in samples.items())
        raise ValueError(
            f"batches do not fit: coef {tuple(coef.shape)} is (*batch, degree + 1) and {shapes} are (*batch, samples);"
            " the axes before the last one must broadcast"
        ) from None


def flat(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 1 else tensor.reshape(-1)


def is_flat(coef: Tensor, samples: Sequence[Tensor]) -> bool:
    """Whether all samples belong to one series and have one shape: they are then put on one axis."""
    return coef.dim() == 1 and all(tensor.shape == samples[0].shape for tensor in samples)


def _as_rows(tensor: Tensor, batch: torch.Size, n_series: int) -> Tensor:
    """A tensor (*batch, K) as rows (S, K), or (K,) where one row serves all series."""
    width = tensor.shape[-1]
    if tensor.dim() == 2 and tensor.shape[0] == n_series > 1:
        return tensor
    if all(size == 1 for size in tensor.shape[:-1]):
        return flat(tensor)
    return tensor.expand(*batch, width).reshape(n_series, width)


def broadcast(coef: Tensor, samples: Sequence[Tensor | None], batch: torch.Size) -> tuple[Tensor, list[Tensor | None]]:
    """Canonical operands for a batch: coef (S, degree + 1), each of the samples (N,) or (S, N)."""
    n_series = math.prod(batch)
    rows = [None if tensor is None else _as_rows(tensor, batch, n_series) for tensor in samples]
    if coef.dim() != 2 or coef.shape[0] != n_series:
        coef = coef.expand(*batch, coef.shape[-1]).reshape(n_series, coef.shape[-1])
    return coef, rows


class Problem(NamedTuple):
    """Checked operands of a loss, in canonical shape.

    Attributes:
        x: (N,), shared by all series, or (S, N).
        y: likewise.
        coef: (degree + 1,) or (S, degree + 1).
        weight: like x, or None.
        model: basis, mapping and loss.
        impl: "triton", "torch" or "compile".
        batch: the batch axes that the series stand for, S elements.
        domain: the interval that is mapped onto the window of the basis, or None.
    """

    x: Tensor
    y: Tensor
    coef: Tensor
    weight: Tensor | None
    model: formula.Model
    impl: str
    batch: torch.Size
    domain: bases.Interval | None


def canonical_problem(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    *,
    loss: str | losses.Loss | formula.Pointwise,
    weight: Tensor | None,
    reduction: str,
    per_series: bool,
    basis: str,
    domain: Sequence[float] | None,
    impl: str,
    in_any_order: bool = False,
) -> Problem:
    """Check the arguments of `polynomial_loss` and give its operands canonical shapes, as views where possible.

    With in_any_order, samples of one series may come in the order in which they lie in memory.
    """
    check_operands({"x": x, "y": y, "coef": coef}, weight)
    losses.check_object(loss)
    if callable(loss) and not isinstance(loss, losses.Loss):
        pointwise: losses.Loss | formula.Pointwise = loss  # the user's own
    else:
        pointwise = losses.resolve(loss)
    check_choice("reduction", reduction, _REDUCTIONS)
    bounds = None if domain is None else bases.interval(domain)
    mapping = bases.affine_map(bounds, bases.resolve(basis), formula.compute_dtype(x.dtype))
    model = formula.Model(basis, mapping, pointwise)
    impl = resolve_impl(impl, x.device, coef.shape[-1] - 1)
    samples = {"x": x, "y": y} if weight is None else {"x": x, "y": y, "weight": weight}
    batch = batch_shape(coef, samples)
    if reduction == "mean" and (0 in x.shape[-1:] or (0 in batch and not per_series)):
        raise ValueError(
            "reduction='mean' over no samples is not defined; pass at least one sample, or reduction='sum'"
        )
    if not batch or (not per_series and is_flat(coef, list(samples.values()))):
        order = memory_order(list(samples.values())) if in_any_order else None
        if order is not None:
            x, y = x.permute(order), y.permute(order)
            weight = None if weight is None else weight.permute(order)
        flat_weight = None if weight is None else flat(weight)
        return Problem(flat(x), flat(y), coef, flat_weight, model, impl, torch.Size(()), bounds)
    coef, (x_rows, y_rows, weight_rows) = broadcast(coef, (x, y, weight), batch)
    assert x_rows is not None
    assert y_rows is not None
    return Problem(x_rows, y_rows, coef, weight_rows, model, impl, batch, bounds)
