"""The loss of a polynomial and its gradients, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked import left_out
from polyfit.backends.chunked.parts import Part, Parts
from polyfit.backends.chunked.values import Derivative
from polyfit.backends.results import LossSums, Wants
from polyfit.formula import HARMLESS_PREDICTION, HARMLESS_TARGET, Model, compute_dtype
from polyfit.losses import MSE, Loss


class _Terms(NamedTuple):
    """What the samples of a part give.

    For the squared error, delta lacks its factor 2: it is cheaper to multiply the sums. Its losses and its slopes to y
    are None: they follow from the residual where they are wanted.
    """

    delta: Tensor  # (s, width): w dl/dp
    residual: Tensor  # (s, width): p - y for the squared error, without meaning for others
    sums: Tensor | None  # (s, K) in float64: of delta P_k and of w l, where wanted
    to_y: Tensor | None = None  # (s, n): w dl/dy
    losses: Tensor | None = None  # (s, n): l


class _Data(NamedTuple):
    """A part with its operands: y, weight (None for 1) and the samples that are left out (None for none)."""

    part: Part
    y: Tensor  # (s or 1, n), as the others
    weight: Tensor | None
    is_out: Tensor | None


class _Wanted(NamedTuple):
    """What is wanted of the samples of a part: sums for the gradient to coef and for the value, losses, slopes to y."""

    coef: bool
    value: bool
    losses: bool
    to_y: bool


def _squared_error(data: _Data, coef: Tensor, wanted: _Wanted) -> _Terms:
    matrix, weight = data.part.matrix, data.weight
    delta = residual = matrix.residuals(coef, data.y)
    if data.is_out is not None:
        matrix.samples(residual).masked_fill_(data.is_out, 0.0)
    if weight is not None and (wanted.value or wanted.losses):
        delta = matrix.pad(matrix.samples(residual) * weight)
    elif weight is not None:
        matrix.samples(residual).mul_(weight)
    sums = None
    if wanted.coef:
        sums = matrix.moments_and_dots(delta, residual) if wanted.value else matrix.moments(delta)
    elif wanted.value:
        sums = matrix.dots(delta, residual)
    return _Terms(delta, residual, sums)


def _other_loss(loss: Loss, data: _Data, coef: Tensor, wanted: _Wanted) -> _Terms:
    matrix, weight = data.part.matrix, data.weight
    values = matrix.values(coef)
    p = matrix.samples(values)
    y = data.y.expand_as(p)
    if data.is_out is not None:
        p.masked_fill_(data.is_out, HARMLESS_PREDICTION)
        y = y.masked_fill(data.is_out, HARMLESS_TARGET)
    losses = loss.value(p, y) if wanted.value or wanted.losses else None
    to_y = None
    if wanted.to_y:
        slope, to_y = loss.slopes(p, y)
        p.copy_(slope)
    else:
        loss.slope_(p, y)
    if weight is not None:
        p.mul_(weight)
        to_y = to_y if to_y is None else to_y * weight
    matrix.clear_filling(values)
    sums = [matrix.moments(values)] if wanted.coef else []
    if wanted.value and losses is not None:
        weighted = losses if weight is None else losses * weight
        sums.append(weighted.sum(1, keepdim=True, dtype=torch.float64))
    return _Terms(values, values, torch.cat(sums, 1) if sums else None, to_y, losses)


class Objective:
    """The loss of a polynomial on fixed data: bind the data once, call with coefficients many times.

    Args:
        x: samples (S or 1, N).
        y: targets (S or 1, N).
        weight: (S or 1, N) or None.
        n_series: S.
        degree: of the polynomial.
        model: basis, mapping and loss.
        keep: compute the basis functions once, where the data are small enough; larger data are read in each call.
        scale: a factor for the value and the gradient to coef.

    Attributes:
        loss: the pointwise loss.
        factor: of the sums that give the gradient to coef.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        n_series: int,
        degree: int,
        model: Model,
        *,
        keep: bool = False,
        scale: float = 1.0,
    ) -> None:
        assert isinstance(model.loss, Loss)
        self._x, self._y, self._weight, self._model = x, y, weight, model
        self._scale, self._n_series, self.loss = scale, n_series, model.loss
        self._is_squared = isinstance(model.loss, MSE)
        self._slope_factor = 2.0 if self._is_squared else 1.0  # of delta, see _Terms
        self.factor = self._slope_factor * scale
        self._degree, self._at_once = degree, sizes.current().kept if keep else 0
        self._is_out = left_out.zeros(weight)
        self._parts = self._cut(self._is_out)
        self._kept = None
        if keep and self._parts.is_one:
            self._kept = [self._load(part, self._is_out) for part in self._parts]

    @property
    def kept(self) -> _Data | None:
        """The only part with its operands, where its data lie on a CPU, are kept, and all series share the matrix."""
        is_on_cpu = self._x.device.type == "cpu"
        return self._kept[0] if is_on_cpu and self._kept and self._parts.is_shared else None

    def _cut(self, is_out: Tensor | None) -> Parts:
        """The data in parts, without the samples that are left out."""
        model = self._model
        x, is_out = left_out.apart(self._x, is_out, self._degree, model)
        return Parts(
            x, self._n_series, self._degree, model.affine_map, model.basis, at_once=self._at_once, is_out=is_out
        )

    def _load(self, part: Part, is_out: Tensor | None) -> _Data:
        weight = None if self._weight is None else part.operand(self._weight)
        return _Data(part, part.operand(self._y), weight, None if is_out is None else part.rows(is_out))

    def _not_finite(self, coef: Tensor) -> Tensor | None:
        """Samples (S, N) of weight zero whose loss is not finite; None if there are none."""
        if self._is_out is None:
            return None
        losses = self._x.new_zeros((self._n_series, self._x.shape[1]), dtype=self._parts.dtype)
        for part in self._cut(None):
            p = part.matrix.samples(part.matrix.values(part.coefficients(coef)))
            losses[part.series, part.samples] = self.loss.value(p, part.operand(self._y).expand_as(p))
        return left_out.not_finite(self._is_out, losses)

    def _data(self, coef: Tensor, wants: Wants) -> Iterator[_Data]:
        """The parts with their operands."""
        if self._kept is not None and not wants.weight:
            return iter(self._kept)
        is_out, parts = self._is_out, self._parts
        if wants.weight:  # the loss of a sample of weight zero is its gradient to the weight
            is_out = self._not_finite(coef)
            parts = self._cut(is_out)
        return (self._load(part, is_out) for part in parts)

    def __call__(
        self,
        coef: Tensor,
        upstream: Tensor | None = None,
        wants: Wants = Wants(coef=True),  # noqa: B008 - immutable
        *,
        want_value: bool = True,
    ) -> LossSums:
        """One pass over the data.

        Args:
            coef: (S, degree + 1).
            upstream: a factor (S,) for the gradients of each series, or None for 1.
            wants: which gradients are wanted.
            want_value: whether the loss is wanted, and with it the sum of the weights.
        """
        n_series, out_dtype = self._n_series, compute_dtype(self._x.dtype)

        def zeros(like: Tensor | None, is_wanted: bool) -> Tensor | None:
            return None if like is None or not is_wanted else like.new_zeros(like.shape, dtype=out_dtype)

        wide = coef.to(self._parts.dtype)
        derivative = Derivative(wide, self._model) if wants.x else None
        grad_x, grad_y = zeros(self._x, wants.x), zeros(self._y, wants.y)
        grad_weight = zeros(self._weight, wants.weight)
        wanted = _Wanted(wants.coef, want_value, losses=wants.weight, to_y=wants.y)
        sums = total_weight = None
        for data in self._data(wide, wants):
            part, weight = data.part, data.weight
            terms = self._terms(data, part.coefficients(wide), wanted)
            if terms.sums is not None:
                sums = part.add(terms.sums, sums)
            if want_value and weight is not None:
                weights = weight.sum(1, keepdim=True, dtype=torch.float64).expand(terms.delta.shape[0], 1)
                total_weight = part.add(weights, total_weight)
            if grad_x is not None and derivative is not None:
                delta = part.matrix.samples(terms.delta)
                part.deposit(derivative(part).mul_(delta).mul_(self._slope_factor), grad_x, upstream)
            if grad_y is not None:
                to_y = part.matrix.samples(terms.delta) * -self._slope_factor if terms.to_y is None else terms.to_y
                part.deposit(to_y, grad_y, upstream)
            if grad_weight is not None:
                losses = part.matrix.samples(terms.residual).square() if terms.losses is None else terms.losses
                losses = losses if data.is_out is None else losses.masked_fill(data.is_out, 0.0)
                part.deposit(losses, grad_weight, upstream)
        if sums is None:  # no samples, or no sums wanted
            sums = coef.new_zeros((n_series, coef.shape[1] + want_value), dtype=torch.float64)
            total_weight = None if self._weight is None else sums[:, :1]
        value = sums.select(1, -1) if want_value else None
        return LossSums(
            value if value is None or self._scale == 1.0 else value * self._scale,
            total_weight.squeeze(1) if want_value and total_weight is not None else None,
            _times(sums, self.factor, upstream).narrow(1, 0, coef.shape[1]) if wants.coef else None,
            grad_x,
            grad_y,
            grad_weight,
        )

    def _terms(self, data: _Data, coef: Tensor, wanted: _Wanted) -> _Terms:
        if self._is_squared:
            return _squared_error(data, coef, wanted)
        return _other_loss(self.loss, data, coef, wanted)


def _times(sums: Tensor, factor: float, upstream: Tensor | None) -> Tensor:
    if factor != 1.0:
        sums = sums * factor
    return sums if upstream is None else sums * upstream.unsqueeze(1)
