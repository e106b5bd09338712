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

    For the squared error, delta lacks its factor 2: it is cheaper to multiply the sums. Its losses are None: they
    follow from the residual where they are wanted. Slopes to y are None where they are -delta.
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
    if weight is not None:
        delta = matrix.second(len(residual))
        torch.mul(matrix.samples(residual), weight, out=matrix.samples(delta))
        matrix.clear_filling(delta)
    return _Terms(delta, residual, _sums(data.part, delta, residual if wanted.value else None, wanted))


def _sums(part: Part, delta: Tensor, factor: Tensor | None, wanted: _Wanted) -> Tensor | None:
    """Sums of delta P_k and, for losses that are products of delta and a factor, of these losses."""
    if wanted.coef:
        matrix = part.matrix
        return matrix.moments(delta) if factor is None else matrix.moments_and_dots(delta, factor)
    return None if factor is None else part.matrix.dots(delta, factor)


def _other_loss(loss: Loss, data: _Data, coef: Tensor, wanted: _Wanted) -> _Terms:
    matrix, weight = data.part.matrix, data.weight
    values = matrix.values(coef)
    p = matrix.samples(values)
    y = data.y.expand_as(p)
    if data.is_out is not None:
        p.masked_fill_(data.is_out, HARMLESS_PREDICTION)
        y = y.masked_fill(data.is_out, HARMLESS_TARGET)
    to_y = loss.slopes(p, y)[1] if wanted.to_y and not loss.is_of_residual else None
    losses = None
    delta = matrix.second(len(values))  # without the value, too: products of other memory may round otherwise
    slope = matrix.samples(delta)
    if wanted.value or wanted.losses:
        loss.slope_and_loss_(p, y, slope)
        matrix.clear_filling(values)
        if wanted.losses:
            losses = p * slope if loss.is_product else p.clone()
    else:
        loss.slope_(slope.copy_(p), y)
    matrix.clear_filling(delta)
    if weight is not None:
        slope.mul_(weight)
        to_y = to_y if to_y is None else to_y * weight
    # Of many series a product with one more row may round otherwise. The gradient is the same without the value.
    is_joint = wanted.value and loss.is_product and len(values) == 1
    sums = _sums(data.part, delta, values if is_joint else None, wanted)
    if wanted.value and not is_joint:
        if loss.is_product:
            values.mul_(delta)
        elif weight is not None:
            p.mul_(weight)
        total = matrix.total(values)
        sums = total if sums is None else torch.cat((sums, total), 1)
    return _Terms(delta, values, sums, to_y, losses)


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

    def _cut(self, is_out: Tensor | None, *, has_functions: bool = True) -> Parts:
        """The data in parts, without the samples that are left out."""
        model = self._model
        x, is_out = left_out.apart(self._x, is_out, self._degree, model)
        return Parts(
            x,
            self._n_series,
            self._degree,
            model.affine_map,
            model.basis,
            at_once=self._at_once if has_functions else 0,
            is_out=is_out,
            has_functions=has_functions,
            has_matrix=False,
            # exp, log1p and tanh of torch wake threads from 2048 elements on: alone, a thread would wait for each chunk
            may_be_alone=self._is_squared or self.loss.is_product,
        )

    def _load(self, part: Part, is_out: Tensor | None) -> _Data:
        weight = None if self._weight is None else part.operand(self._weight)
        return _Data(part, part.operand(self._y), weight, None if is_out is None else part.rows(is_out))

    def _not_finite(self, coef: Tensor) -> Tensor | None:
        """Samples (S, N) of weight zero whose loss is not finite; None if there are none."""
        if self._is_out is None:
            return None
        losses = self._x.new_zeros((self._n_series, self._x.shape[1]), dtype=self._parts.dtype)
        parts = self._cut(None, has_functions=False)
        wide = coef.to(parts.dtype)
        for part in parts:
            p = part.matrix.samples(part.matrix.values(part.coefficients(wide)))
            losses[part.series, part.samples] = self.loss.value(p, part.operand(self._y).expand_as(p))
        return left_out.not_finite(self._is_out, losses)

    def _data(self, coef: Tensor, wants: Wants) -> tuple[torch.dtype, Iterator[_Data]]:
        """The dtype that computes, and the parts with their operands."""
        if self._kept is not None and not wants.weight:
            return self._parts.dtype, iter(self._kept)
        # The loss of a sample of weight zero is its gradient to the weight.
        is_out = self._not_finite(coef) if wants.weight else self._is_out
        parts = self._parts
        if wants.weight or not wants.coef:
            parts = self._cut(is_out, has_functions=wants.coef)
        return parts.dtype, (self._load(part, is_out) for part in parts)

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

        dtype, parts = self._data(coef, wants)
        wide = coef.to(dtype)
        derivative = Derivative(wide, self._model) if wants.x else None
        grad_x, grad_y = zeros(self._x, wants.x), zeros(self._y, wants.y)
        grad_weight = zeros(self._weight, wants.weight)
        wanted = _Wanted(wants.coef, want_value, losses=wants.weight, to_y=wants.y)
        sums = total_weight = None
        for data in parts:
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
