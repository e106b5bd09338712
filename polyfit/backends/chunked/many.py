"""Many series, each with samples of its own: element by element, by Horner's rule.

A matrix of basis functions for each series is then a product for each series, of a few numbers: the calls take longer
than the products. Here a step of a recurrence takes all series of a chunk at once::

    p     = p t + c_k               powers, k = degree - 1 .. 0 (Horner)
    b_k   = c_k + (a_k t + b_k) b_{k+1} - c_{k+1} b_{k+2}       other bases (Clenshaw)
    sums  = sum over samples of delta P_k                       the functions delta P_k by the basis's own recurrence

A chunk lies as (s, n), a series after the other. Where series have few samples, it lies as (n, s): the coefficients of
all series are then a long row, which vector instructions can take.

A chunk is small enough for a cache. The steps of its recurrences are operations of torch, on all threads where it has
more than 2**15 elements: half as many as Horner's rule written out takes. The sums over the samples of a series are
products with ones, which numpy takes at the speed of memory. They have at most `Sizes.longest_block` terms in the dtype
that computes; sums of these sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked import left_out
from polyfit.backends.chunked.matrix import steps_of
from polyfit.backends.results import LossSums, Wants
from polyfit.bases import BASES, derivative_matrix
from polyfit.formula import HARMLESS_PREDICTION, HARMLESS_TARGET, Model, compute_dtype
from polyfit.losses import MSE, Loss

Array = NDArray[Any]
_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_FEW = 64  # samples of a row that one product with ones adds up for all series
_quiet = np.errstate(all="ignore")  # as torch: an overflow is infinite, without a warning


def is_many(x: Tensor, coef: Tensor) -> bool:
    """Whether samples x and coefficients, each (S, N) or (N,), are those of several series, each with its own x."""
    return coef.dim() == x.dim() == 2 and x.shape[0] > 1 and x.numel() > 0 and x.device.type == "cpu"


def is_plain(x: Tensor, coef: Tensor) -> bool:
    """Whether these are such series in the dtype that computes, as many of one as of the other."""
    return is_many(x, coef) and x.dtype in _DTYPES and x.shape[0] == coef.shape[0]


class _Chunk(NamedTuple):
    """Some samples of some series, as (s, n) or (n, s).

    Attributes:
        series: which series.
        samples: which of their samples.
        is_all: whether these are all samples of all series.
        is_turned: whether the layout is (n, s).
        dtype: that computes.
    """

    series: slice
    samples: slice
    is_all: bool
    is_turned: bool
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]:
        n_series, n_samples = self.series.stop - self.series.start, self.samples.stop - self.samples.start
        return (n_samples, n_series) if self.is_turned else (n_series, n_samples)

    def new(self) -> Array:
        return np.empty(self.shape, _DTYPES[self.dtype])

    def place(self, rows: Tensor) -> Tensor:
        """The part of rows (S or 1, N)."""
        if self.is_all:
            return rows
        return (rows[self.series] if rows.shape[0] > 1 else rows)[:, self.samples]

    def operand(self, rows: Tensor) -> Array:
        """The part of rows (S or 1, N) as the chunk lies, in the dtype that computes; a view where possible."""
        return self._turned(self.place(rows), rows.shape[0] > 1)

    def columns(self, coef: Tensor) -> list[Array]:
        """Coefficients (S, K), an array for each k that broadcasts against the chunk."""
        part = self._turned(coef if self.is_all else coef[self.series], True)
        return list(part) if self.is_turned else [part[:, k : k + 1] for k in range(coef.shape[1])]

    def of_series(self, values: Tensor) -> Array:
        """Numbers (S,) in the shape that broadcasts against the chunk."""
        part = values[self.series].to(self.dtype).numpy(force=True)
        return part if self.is_turned else part[:, None]

    def _turned(self, part: Tensor, is_copied: bool) -> Array:
        array = (part if part.dtype == self.dtype else part.to(self.dtype)).numpy(force=True)
        if not self.is_turned:
            return array
        return np.ascontiguousarray(array.T) if is_copied else array.T

    def sums(self, values: Array, ones: Array) -> Array:
        """Sums over the samples of each series: (s,)."""
        if self.is_turned:
            return np.dot(ones, values)
        # The product of a matrix and a long vector adds up in order: 4e-6 for 2048 equal terms, a dot product 1e-7.
        return np.dot(values, ones) if len(ones) <= _FEW else np.vecdot(values, ones)

    def dots(self, left: Array, right: Array) -> Array:
        """Sums over the samples of each series of the products of two arrays: (s,)."""
        if self.is_turned:
            return np.einsum("ns,ns->s", left, right)
        return np.einsum("sn,sn->s", left, right) if left.shape[1] <= _FEW else np.vecdot(left, right)

    def ones(self) -> Array:
        return np.ones(self.samples.stop - self.samples.start, _DTYPES[self.dtype])

    def deposit(self, values: Array, out: Tensor) -> None:
        """Write values of the samples to their place in out (S or 1, N); add them up where all series share a row."""
        place = self.place(out)
        if out.shape[0] == 1:
            place += torch.from_numpy(values.sum(1 if self.is_turned else 0))
        elif out.dtype != self.dtype:  # float16, or bfloat16, which numpy lacks
            place.copy_(torch.from_numpy(values.T if self.is_turned else values))
        elif self.is_turned:
            target = place.numpy()
            for k, row in enumerate(values):  # a row at a time: otherwise numpy goes along the short axis
                target[:, k] = row
        else:
            np.copyto(place.numpy(), values)


def _chunks(n_series: int, n_samples: int, dtype: torch.dtype, longest: int) -> Iterator[_Chunk]:
    """The chunks in order, with at most so many samples of a series."""
    lengths = sizes.current()
    n = min(n_samples, longest, lengths.many_chunk)
    s = min(n_series, max(1, lengths.many_chunk // n))
    is_turned = n_samples < lengths.many_turned and n_series > n_samples
    if n == n_samples and s == n_series:
        yield _Chunk(slice(0, s), slice(0, n), True, is_turned, dtype)
        return
    for first in range(0, n_series, s):
        series = slice(first, min(first + s, n_series))
        for start in range(0, n_samples, n):
            yield _Chunk(series, slice(start, min(start + n, n_samples)), False, is_turned, dtype)


def _to_window(chunk: _Chunk, x: Tensor, model: Model) -> Array:
    """Samples in the window of the basis: x itself without a mapping."""
    t = chunk.operand(x)
    mapping = model.affine_map
    if mapping is None:
        return t
    t = t - mapping.center
    t *= mapping.scale
    if mapping.shift:
        t += mapping.shift
    return t


def _values(t: Array, columns: list[Array], basis: str, out: Array) -> None:
    """Write the sum of columns[k] P_k(t) to `out`."""
    degree = len(columns) - 1
    if degree == 0:
        np.copyto(out, columns[0])
    elif basis != "power":
        _clenshaw(torch.from_numpy(t), [torch.from_numpy(column) for column in columns], basis, torch.from_numpy(out))
    elif out.size <= sizes.current().many_in_numpy:
        np.multiply(t, columns[degree], out=out)
        for column in columns[degree - 1 : 0 : -1]:
            out += column
            out *= t
        out += columns[0]
    else:
        horner(torch.from_numpy(t), [torch.from_numpy(column) for column in columns], torch.from_numpy(out))


def horner(t: Tensor, columns: Sequence[Tensor], out: Tensor) -> None:
    """Write the sum of columns[k] t**k, of at least two columns (s, 1), to `out`."""
    torch.mul(t, columns[-1], out=out).add_(columns[-2])  # an addcmul with two columns takes twice as long
    for column in columns[-3::-1]:
        torch.addcmul(column, out, t, out=out)


def _clenshaw(t: Tensor, columns: list[Tensor], basis: str, out: Tensor) -> None:
    steps = steps_of(basis, len(columns) - 1)
    a, b, _ = steps[-1]
    older, newer = out, torch.empty_like(out)  # b_{k+2}, b_{k+1}
    older.copy_(columns[-1])
    torch.addcmul(columns[-2], t, older, value=a, out=newer)
    if b:
        newer.add_(older, alpha=b)
    for k in range(len(columns) - 3, -1, -1):
        a, b, _ = steps[k]
        torch.add(columns[k], older, alpha=-steps[k + 1][2], out=older).addcmul_(t, newer, value=a)
        if b:
            older.add_(newer, alpha=b)
        older, newer = newer, older
    if newer is not out:
        out.copy_(newer)


class _Slope:
    """The derivative dp/dx of the samples of a chunk. Its coefficients are made for the series of the chunk only."""

    def __init__(self, coef: Tensor, model: Model) -> None:
        self._coef, self._basis = coef, model.basis
        matrix = derivative_matrix(BASES[model.basis], coef.shape[1] - 1).T
        self._matrix = (matrix if model.affine_map is None else matrix * model.affine_map.scale).numpy()

    def __call__(self, chunk: _Chunk, t: Array) -> Array:
        out = chunk.new()
        degree = self._coef.shape[1] - 1
        if degree == 0:
            out.fill(0.0)
            return out
        part = self._coef[chunk.series].double().numpy(force=True) @ self._matrix  # (s, degree)
        part = (part.T if chunk.is_turned else part).astype(out.dtype, order="C")
        _values(t, list(part) if chunk.is_turned else [part[:, k : k + 1] for k in range(degree)], self._basis, out)
        return out


def _moments(chunk: _Chunk, t: Array, delta: Array, basis: str, ones: Array, sums: Array) -> None:
    """Add sums of delta P_k(t) to sums (S, degree + 1); delta is overwritten."""
    found = np.empty((sums.shape[1], chunk.series.stop - chunk.series.start), delta.dtype)
    found[0] = chunk.sums(delta, ones)
    if basis == "power":
        for k in range(1, len(found)):
            delta *= t
            found[k] = chunk.sums(delta, ones)
    elif len(found) > 1:
        steps = steps_of(basis, len(found) - 1)
        a, b, _ = steps[0]
        older, newer = delta, delta * t
        if a != 1.0:
            newer *= a
        samples, pair = torch.from_numpy(t), (torch.from_numpy(older), torch.from_numpy(newer))
        if b:
            pair[1].add_(pair[0], alpha=b)
        found[1] = chunk.sums(newer, ones)
        for k, (a, b, c) in enumerate(steps[1:], start=2):
            pair[0].mul_(-c).addcmul_(samples, pair[1], value=a)
            if b:
                pair[0].add_(pair[1], alpha=b)
            pair, older, newer = pair[::-1], newer, older
            found[k] = chunk.sums(newer, ones)
    sums[chunk.series] += found.T


@_quiet
def evaluate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p(x) for x (S, N) and coef (S, degree + 1): (S, N), in the dtype of x."""
    dtype, n_coef = compute_dtype(x.dtype), coef.shape[1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    is_plain = model.basis == "power" and model.affine_map is None and x.dtype == dtype and n_coef > 1
    if is_plain and x.numel() <= sizes.current().many_in_numpy:
        factors = coef.numpy(force=True)
        _values(x.numpy(force=True), [factors[:, k : k + 1] for k in range(n_coef)], "power", out.numpy())
        return out
    if is_plain and x.shape[1] >= sizes.current().many_turned and x.numel() <= sizes.current().many_chunk:
        horner(x, coef.unsqueeze(2).unbind(1), out)
        return out
    for chunk in _chunks(x.shape[0], x.shape[1], dtype, x.shape[1]):
        t, columns = _to_window(chunk, x, model), chunk.columns(coef)
        if chunk.is_turned or out.dtype != dtype:
            values = chunk.new()
            _values(t, columns, model.basis, values)
            chunk.deposit(values, out)
        else:
            _values(t, columns, model.basis, chunk.place(out).numpy())
    return out


@_quiet
def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad (S, N), see `values.evaluate_backward`."""
    dtype = compute_dtype(x.dtype)
    grad_x = torch.empty(x.shape, dtype=dtype, device="cpu") if wants.x else None
    sums = np.zeros(coef.shape) if wants.coef else None
    slope = _Slope(coef, model) if wants.x else None
    for chunk in _chunks(x.shape[0], x.shape[1], dtype, sizes.current().longest_block):
        t, upstream = _to_window(chunk, x, model), chunk.operand(grad)
        if slope is not None and grad_x is not None:
            found = slope(chunk, t)
            found *= upstream
            chunk.deposit(found, grad_x)
        if sums is not None:
            _moments(chunk, t, np.array(upstream, order="C"), model.basis, chunk.ones(), sums)
    return grad_x, None if sums is None else torch.from_numpy(sums)


class _Operands:
    """What a loss takes of a chunk: t, y, weight (None for 1) and the samples that are left out (None for none)."""

    def __init__(
        self, chunk: _Chunk, x: Tensor, y: Tensor, weight: Tensor | None, is_out: Tensor | None, model: Model
    ) -> None:
        self.chunk = chunk
        self.t, self.y = _to_window(chunk, x, model), chunk.operand(y)
        self.weight = None if weight is None else chunk.operand(weight)
        self.is_out = None
        if is_out is not None:
            part = chunk.place(is_out).numpy()
            self.is_out = part.T if chunk.is_turned else part
            harmless_t = 0.0 if model.affine_map is None else model.affine_map.shift
            self.t = np.where(self.is_out, self.t.dtype.type(harmless_t), self.t)
            self.y = np.where(self.is_out, self.y.dtype.type(HARMLESS_TARGET), self.y)

    def predict(self, coef: Tensor, basis: str) -> Array:
        """The values p(x), harmless ones of samples that are left out."""
        p = self.chunk.new()
        _values(self.t, self.chunk.columns(coef), basis, p)
        self.put(p, HARMLESS_PREDICTION)
        return p

    def put(self, values: Array, number: float) -> None:
        """Write a number over the values of the samples that are left out."""
        if self.is_out is not None:
            np.copyto(values, number, where=self.is_out)


class _Terms(NamedTuple):
    """What the samples of a chunk give, each as the chunk lies."""

    delta: Array  # w dl/dp; half of it for the squared error
    residual: Array  # p - y for the squared error; without meaning for others
    losses: Array | None  # l; None for the squared error, where they are the squares of the residuals
    to_y: Array | None  # w dl/dy; None for that of the squared error, and where it is not wanted

    def of_samples(self) -> Array:
        """The loss of each sample."""
        return np.square(self.residual) if self.losses is None else self.losses


def _terms(operands: _Operands, coef: Tensor, model: Model, wants: Wants) -> _Terms:
    """The loss of each sample and its slopes."""
    loss, weights = model.loss, operands.weight
    losses = to_y = None
    delta = operands.predict(coef, model.basis)
    if isinstance(loss, MSE):
        delta -= operands.y
        operands.put(delta, 0.0)
    else:
        assert isinstance(loss, Loss)
        p, targets = torch.from_numpy(delta), torch.from_numpy(operands.y).expand(delta.shape)
        if wants.y:
            to_y = loss.slopes(p, targets)[1].numpy()
            to_y = to_y if weights is None else to_y * weights
        losses, delta = delta, operands.chunk.new()
        loss.slope_and_loss_(p, targets, torch.from_numpy(delta))
        if loss.is_product:
            losses *= delta
    residual = delta
    if weights is not None and losses is None:
        delta = delta * weights
    elif weights is not None:
        delta *= weights
    return _Terms(delta, residual, losses, to_y)


class _LossPass:
    """The results of a pass for a loss, to which each chunk adds its own.

    Args:
        x, y, coef, weight, upstream, model, wants: see `objective`.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        coef: Tensor,
        weight: Tensor | None,
        upstream: Tensor | None,
        model: Model,
        wants: Wants,
    ) -> None:
        dtype = compute_dtype(x.dtype)

        def gradient(like: Tensor | None, is_wanted: bool) -> Tensor | None:
            if like is None or not is_wanted:
                return None
            return (torch.zeros if like.shape[0] == 1 else torch.empty)(like.shape, dtype=dtype, device="cpu")

        self._basis, self._upstream = model.basis, upstream
        self._slope_factor = 2.0 if isinstance(model.loss, MSE) else 1.0  # that delta lacks, see _Terms
        self._wants_slopes = wants.x or wants.y  # delta then gets all its factors
        self.value = np.zeros(x.shape[0])
        self.total_weight = None if weight is None else np.zeros(x.shape[0])
        self.sums = np.zeros(coef.shape) if wants.coef else None
        self.grad_x, self.grad_y = gradient(x, wants.x), gradient(y, wants.y)
        self.grad_weight = gradient(weight, wants.weight)
        self._slope = _Slope(coef, model) if wants.x else None

    def add(self, operands: _Operands, terms: _Terms) -> None:
        """Add a chunk; its terms are overwritten."""
        chunk, (delta, residual, losses, to_y), weights = operands.chunk, terms, operands.weight
        ones, upstream = chunk.ones(), self._upstream
        if self.grad_weight is not None:
            found = terms.of_samples()
            found = found if upstream is None else found * chunk.of_series(upstream)
            if operands.is_out is not None:
                found = np.where(operands.is_out, found.dtype.type(0.0), found)
            chunk.deposit(found, self.grad_weight)
        if weights is not None and self.total_weight is not None:
            self.total_weight[chunk.series] += chunk.sums(weights, ones)
            if losses is not None:
                losses *= weights
        self.value[chunk.series] += chunk.dots(delta, residual) if losses is None else chunk.sums(losses, ones)
        if self._wants_slopes:
            self._add_slopes(operands, delta, to_y)
        if self.sums is not None:
            _moments(chunk, operands.t, delta, self._basis, ones, self.sums)

    def _add_slopes(self, operands: _Operands, delta: Array, to_y: Array | None) -> None:
        """Write the gradients to x and y. Delta gets its factors."""
        chunk, upstream = operands.chunk, self._upstream
        if upstream is not None:
            delta *= chunk.of_series(upstream * self._slope_factor)
            to_y = to_y if to_y is None else to_y * chunk.of_series(upstream)
        elif self._slope_factor != 1.0:
            delta *= self._slope_factor
        if self.grad_y is not None:
            chunk.deposit(-delta if to_y is None else to_y, self.grad_y)
        if self._slope is not None and self.grad_x is not None:
            found = self._slope(chunk, operands.t)
            found *= delta
            chunk.deposit(found, self.grad_x)

    def results(self, scale: float) -> LossSums:
        """The results, the value and the gradient to coef times a factor."""
        grad_coef = None
        if self.sums is not None:
            self.sums *= scale if self._wants_slopes else scale * self._slope_factor
            grad_coef = torch.from_numpy(self.sums)
            if self._upstream is not None and not self._wants_slopes:
                grad_coef *= self._upstream.unsqueeze(1)
        self.value *= scale
        total_weight = None if self.total_weight is None else torch.from_numpy(self.total_weight)
        value = torch.from_numpy(self.value)
        return LossSums(value, total_weight, grad_coef, self.grad_x, self.grad_y, self.grad_weight)


@_quiet
def objective(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    model: Model,
    wants: Wants,
    scale: float,
) -> LossSums:
    """`Objective` bound and called, for x (S, N), y and weight (S or 1, N) and coef (S, degree + 1)."""
    is_out = left_out.zeros(weight)
    if is_out is not None and wants.weight:  # the loss of a sample of weight zero is its gradient to the weight
        is_out = _not_finite(x, y, coef, is_out, model)
    total = _LossPass(x, y, coef, weight, upstream, model, wants)
    for chunk in _chunks(x.shape[0], x.shape[1], compute_dtype(x.dtype), sizes.current().longest_block):
        operands = _Operands(chunk, x, y, weight, is_out, model)
        total.add(operands, _terms(operands, coef, model, wants))
    return total.results(scale)


def _not_finite(x: Tensor, y: Tensor, coef: Tensor, is_out: Tensor, model: Model) -> Tensor | None:
    """Samples (S, N) of weight zero whose loss is not finite; None if there are none."""
    losses = torch.empty(x.shape, dtype=compute_dtype(x.dtype), device="cpu")
    for chunk in _chunks(x.shape[0], x.shape[1], losses.dtype, x.shape[1]):
        terms = _terms(_Operands(chunk, x, y, None, None, model), coef, model, Wants())
        chunk.deposit(terms.of_samples(), losses)
    return left_out.not_finite(is_out, losses)
