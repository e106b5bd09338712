"""The loss of plain series and its gradients, as they are returned, by the way that suits their number.

Plain are one series x (N,) with coef (degree + 1,), and several with coef (S, degree + 1), each with samples of its
own, x (S, N), or all with the same few samples, x (N,); all in the dtype that computes. Few samples are rows of numpy,
whose calls are short and wake no thread (`short`, `shared`); the chunks of a long series are rows of torch, which has
threads (`long`). These have the same methods, see `plain_rows`. Many series are gone through element by element
(`many`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.backends.chunked import many
from polyfit.backends.chunked.plain_rows import PlainRows, Row, added, are_rows, finish, pieces
from polyfit.backends.chunked.pointwise import Terms
from polyfit.backends.chunked.short import DTYPES, derivative, quiet
from polyfit.backends.results import Gradients, Wants
from polyfit.backends.select import autocast_is_off
from polyfit.formula import HARMLESS_PREDICTION, HARMLESS_TARGET, Model
from polyfit.losses import MSE, Loss


@autocast_is_off
@quiet
def loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    model: Model,
    reduction: str,
    wants: Wants,
    *,
    per_series: bool = False,
) -> tuple[Tensor, Gradients]:
    """The reduced loss as a scalar, and its gradients.

    With per_series, the losses (S,) of several series without weights, and the gradients of their sum.
    """
    assert isinstance(model.loss, Loss)
    scale = _scale(y, weight, reduction, per_series=per_series)
    if not are_rows(x, coef, model.basis):
        return _loss_of_many(x, y, coef, weight, model, reduction, wants, scale, per_series=per_series)
    total = _Pass(x, y, coef, weight, model, wants, scale, is_mean=reduction == "mean", per_series=per_series)
    # exp, log1p and tanh of torch wake threads from 2048 elements on: alone, a thread would wait for each chunk.
    may_be_alone = isinstance(model.loss, MSE) or model.loss.is_product
    for piece, rows in pieces(x, coef, model, wants_moments=wants.coef, may_be_alone=may_be_alone):
        total.add(piece, rows)
    return total.results()


class _Pass:
    """One pass over the samples: what it adds up, and the gradients that it writes sample by sample."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        coef: Tensor,
        weight: Tensor | None,
        model: Model,
        wants: Wants,
        scale: float,
        *,
        is_mean: bool,
        per_series: bool,
    ) -> None:
        self._operands: Sequence[Any] = (x, y, weight)
        self._coef, self._model, self._wants = coef, model, wants
        self._is_mean, self._per_series, self._scale = is_mean, per_series, scale
        self._gradients: Sequence[Any] = (None, None, None)
        if wants.x or wants.y or wants.weight:
            self._gradients = tuple(
                torch.empty_like(like, memory_format=torch.contiguous_format) if is_wanted else None
                for like, is_wanted in ((x, wants.x), (y, wants.y), (y, wants.weight))
            )
        self._total: Any = None if per_series else 0.0  # of the weighted losses, (S,) with per_series
        self._sums: Any = None  # of P_k times the slopes
        self._factor = self._scale  # of these sums

    def add(self, piece: slice | None, rows: PlainRows) -> None:
        """Take the samples of a piece, None for all."""
        model, coef, wants = self._model, self._coef, self._wants
        operands, gradients = self._operands, self._gradients
        if piece is not None:
            coef = coef if coef.dim() == 1 else coef[piece]
            operands, gradients = _cut(operands, piece), _cut(gradients, piece)
        (x, y, weight), (to_x, to_y, to_weight) = operands, gradients
        view, loss, factors = rows.view, model.loss, rows.numbers(coef)
        assert isinstance(loss, Loss)
        x, y, weight = view(x), view(y), None if weight is None else view(weight)
        is_out = None if weight is None else _left_out(rows, x, y, factors, weight, model, wants)
        if is_out is not None:
            x = rows.xp.where(is_out, model.harmless_x, x)
            y = rows.xp.where(is_out, HARMLESS_TARGET, y)
        rows.load(x, model, coef.shape[-1])
        rows.evaluate(factors, rows.p)
        if is_out is not None:
            rows.p[is_out] = HARMLESS_PREDICTION
        of_targets = None if to_y is None or loss.is_of_residual else _slopes_to_y(rows, loss, y)
        terms = rows.slopes(loss, y, are_wanted=wants.x or wants.y or wants.coef)
        if weight is None:
            total = _total(rows, terms)
        else:
            losses = None if to_weight is None else view(to_weight)
            total = _weighted_total(rows, terms, weight, losses, is_out)
        if self._per_series:
            part = np.asarray(total, np.float64)
            self._total = part if self._total is None else np.concatenate((self._total, part))
        else:
            self._total += total if isinstance(total, float) else float(total.sum(dtype=rows.xp.float64))
        self._factor = factor = self._scale if terms is None else terms.factor * self._scale
        if wants.coef:
            self._sums = added(self._sums, rows.moments_of_p())
        if to_y is not None:
            _write_slopes_to_y(view(to_y), rows.p, of_targets, weight, self._scale, factor)
        if to_x is not None:
            slopes = view(to_x)
            rows.evaluate(rows.numbers(derivative(coef, model)), slopes)
            slopes *= rows.p
            slopes *= factor

    def results(self) -> tuple[Tensor, Gradients]:
        """The reduced loss, and its gradients."""
        dtype = DTYPES[self._coef.dtype]
        value = np.asarray(self._total * self._scale, dtype)
        to_coef = torch.from_numpy((self._sums * self._factor).astype(dtype)) if self._wants.coef else None
        to_x, to_y, to_weight = self._gradients
        if to_weight is not None and self._is_mean:  # the slope of the denominator
            to_weight.sub_(self._total * self._scale).mul_(self._scale)
        return torch.from_numpy(value), Gradients(to_x, to_y, to_coef, to_weight)


def _cut(parts: Sequence[Any], piece: slice) -> Sequence[Any]:
    return [None if part is None else part[piece] for part in parts]


def _scale(y: Tensor, weight: Tensor | None, reduction: str, *, per_series: bool) -> float:
    """The factor of the sum of the weighted losses."""
    if reduction != "mean":
        return 1.0
    if per_series:
        return 1.0 / y.shape[1]
    count = y.numel() if weight is None else float(weight.sum(dtype=torch.float64))
    return 1.0 / count if count else math.inf


def _left_out(rows: PlainRows, x: Row, y: Row, factors: Any, weight: Row, model: Model, wants: Wants) -> Row | None:
    """The samples that are left out; None if there are none.

    They have weight zero. If the gradient to the weight is wanted, their loss is that gradient: only those whose loss
    is not finite are left out.
    """
    if (weight.numpy(force=True) if isinstance(weight, Tensor) else weight).all():  # torch's takes twice as long
        return None
    is_out = weight == 0.0
    if wants.weight:
        assert isinstance(model.loss, Loss)
        rows.load(x, model, len(factors))
        rows.evaluate(factors, rows.p)
        finish(rows.slopes(model.loss, y, are_wanted=False), rows)
        is_out &= ~rows.xp.isfinite(rows.other)
    return is_out


def _total(rows: PlainRows, terms: Terms | None) -> Any:
    """The sum of the losses: a float, or (s,)."""
    if terms is None:
        return rows.total_of_other()
    if terms.share is None:
        return rows.squares()
    total = rows.products()
    return total - terms.share * rows.squares() if terms.share else total


def _weighted_total(
    rows: PlainRows,
    terms: Terms | None,
    weight: Row,
    losses: Row | None,
    is_out: Row | None,
) -> Any:
    """The sum of the weighted losses. The slopes get their weights, and `losses`, if it is wanted, the losses."""
    finish(terms, rows)
    other, p = rows.other, rows.p
    if losses is not None:
        losses[...] = other
        if is_out is not None:
            losses[is_out] = 0.0
    other *= weight
    p *= weight
    return rows.total_of_other()


def _slopes_to_y(rows: PlainRows, loss: Loss, targets: Row) -> Row:
    """The slopes dl/dy, of a loss that is no function of the residual."""
    # Not as_tensor, which asks for the default device.
    p, y = (row if isinstance(row, Tensor) else torch.from_numpy(row) for row in (rows.p, targets))
    return rows.view(loss.slopes(p, y)[1])


def _write_slopes_to_y(
    out: Row, of_predictions: Row, of_targets: Row | None, weight: Row | None, scale: float, factor: float
) -> None:
    """Write the gradient to y: that to the predictions with another sign, or slopes that still lack the weight."""
    if of_targets is None:
        out[...] = of_predictions
        out *= -factor
        return
    out[...] = of_targets
    out *= scale
    if weight is not None:
        out *= weight


def _loss_of_many(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    model: Model,
    reduction: str,
    wants: Wants,
    scale: float,
    *,
    per_series: bool,
) -> tuple[Tensor, Gradients]:
    """The same for x, y and weight (S, N) and coef (S, degree + 1)."""
    sums = many.objective(x, y, coef, weight, None, model, wants, 1.0)
    assert sums.value is not None
    total: Any = sums.value.numpy() if per_series else float(sums.value.sum())
    to_coef, to_weight = sums.grad_coef, sums.grad_weight
    if to_coef is not None:
        to_coef = to_coef.mul_(scale).to(coef.dtype)
    if to_weight is not None and reduction == "mean":
        to_weight.sub_(total * scale).mul_(scale)
    to_x, to_y = (part if part is None or scale == 1.0 else part.mul_(scale) for part in (sums.grad_x, sums.grad_y))
    return torch.from_numpy(np.asarray(total * scale, DTYPES[coef.dtype])), Gradients(to_x, to_y, to_coef, to_weight)
