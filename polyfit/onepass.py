"""The one pass in plain PyTorch: value and gradients together, a chunk of the data at a time.

A chunk is cut into blocks; for each block the values ``P_k(t)`` of all basis functions are laid out as the rows of a
small matrix, and a sample's part in everything that is wanted is then two matrix products::

    p     = coef @ P                   (m, degree + 1) x (degree + 1, B)
    sums  = delta @ P.T                (m, B) x (B, degree + 1),   delta = dL/dp

with ``m`` the number of series that share this x (one, when each series has its own). No autograd inside, and nothing
of size n x degree: the matrix is as large as a chunk, whatever n is.

Digits: a block's sums run over at most `_LONGEST_BLOCK` samples in the dtype that computes, everything above in
float64, so that the relative error of a float32 sum does not grow with n.

All operands here are canonical: x, y, weight (S or 1, N), where one row is shared by all series, and coef (S, d + 1).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polyfit.bases import BASES, AffineMap, derivative_matrix
from polyfit.formula import apply_map, compute_dtype
from polyfit.losses import MSE, Loss

# Samples in a block: the length of a sum in float32. On random data 1024 gave 1e-8 relative error of the sums at n =
# 1e7, 4096 gave 6e-8; where all terms are alike and roundings add up, 1e-6 and 4e-6. Longer blocks brought no speed
# (two x86 cores, torch 2.13).
_BLOCK = 1024
_LONGEST_BLOCK = 2 * _BLOCK - 1
# Elements (series x samples) in a chunk. On a CPU 2**18 keeps its matrix in the third level of cache and makes what
# Python adds to a chunk small (2**16: 1.5 times the time, 2**19: 1.2 times); a GPU wants enough work for a launch.
_CHUNK = {"cpu": 1 << 18}
_CHUNK_ELSEWHERE = 1 << 22


def _internal_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the matrix products: where users have allowed less than float32 in float32 products, float64."""
    return compute_dtype(dtype) if torch.get_float32_matmul_precision() == "highest" else torch.float64


@dataclass(slots=True)
class _Chunk:
    """Some samples of some series, laid out for the two matrix products.

    ``g`` counts the products, ``m`` the series that share one: nb blocks of a shared x make g = nb, m = s; series with
    an x of their own make g = s * nb, m = 1.
    """

    series: slice
    samples: slice
    basis: Tensor  # (g, degree + 1, B)
    basis_t: Tensor  # (g, B, degree + 1), the same transposed
    n_series: int  # s
    n_blocks: int  # nb
    shared_x: bool
    is_whole: bool  # one block holds all samples of all series, which share x
    all_series: bool

    def operand(self, rows: Tensor) -> Tensor:
        """Rows (S or 1, N) of y, weight or an upstream gradient as (g, m or 1, B)."""
        if self.is_whole:
            return rows.unsqueeze(0).to(self.basis.dtype)
        part = (rows[self.series] if rows.shape[0] > 1 else rows)[:, self.samples]
        part = part.unflatten(1, (self.n_blocks, -1)).to(self.basis.dtype)  # (s or 1, nb, B)
        if self.shared_x:
            return part.transpose(0, 1)  # (nb, m or 1, B)
        return part.expand(self.n_series, -1, -1).flatten(0, 1).unsqueeze(1)  # (s * nb, 1, B)

    def coefficients(self, coef: Tensor) -> Tensor:
        """Rows (S, K) of coefficients as (g, m, K)."""
        if self.is_whole:
            return coef.unsqueeze(0)
        part = coef[self.series]
        if self.shared_x:
            return part.expand(self.n_blocks, -1, -1)
        return part.unsqueeze(1).expand(-1, self.n_blocks, -1).flatten(0, 1).unsqueeze(1)

    def add_up(self, blocks: Tensor, total: Tensor | None, n_series: int) -> Tensor:
        """Add block sums (g, m, K) into total (S, K), in float64."""
        if self.is_whole:
            return blocks.squeeze(0).double()
        if not self.shared_x:
            blocks = blocks.unflatten(0, (self.n_series, self.n_blocks)).squeeze(2).transpose(0, 1)
        part = blocks.sum(0, dtype=torch.float64)
        if self.all_series:
            return part if total is None else total.add_(part)
        if total is None:
            total = part.new_zeros(n_series, part.shape[1])
        total[self.series] += part
        return total

    def deposit(self, values: Tensor, out: Tensor, upstream: Tensor | None = None) -> None:
        """Put per-sample values (g, m, B) into their place in out (S or 1, N), times a factor (S,) of their series.

        Where one row of `out` stands for all series, the values are added up over the series.
        """
        rows = values.transpose(0, 1) if self.shared_x else values.unflatten(0, (self.n_series, -1)).squeeze(2)
        if upstream is not None:  # rows: (s, nb, B)
            rows = rows * upstream[self.series, None, None].to(rows.dtype)
        place = (out if out.shape[0] == 1 else out[self.series])[:, self.samples].unflatten(1, (self.n_blocks, -1))
        if out.shape[0] == 1 and not (self.all_series and self.n_series == 1):
            place += rows.sum(0)
        else:
            place.copy_(rows)


class _Chunks:
    """Cuts x into chunks and lays out the basis functions of each, in one buffer that all chunks share in turn."""

    def __init__(
        self,
        x: Tensor,
        n_series: int,
        degree: int,
        mapping: AffineMap | None,
        basis: str,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._x, self._n_series, self._degree, self._mapping = x, n_series, degree, mapping
        self._steps = _steps(basis, degree)
        self._shared_x = x.shape[0] == 1
        self.dtype = _internal_dtype(x.dtype) if dtype is None else dtype
        self._n_samples = n = x.shape[1]
        size = _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE)
        self.fit_in_one = n_series * n <= size
        self._block = block = _BLOCK if n > _LONGEST_BLOCK else max(n, 1)
        n_blocks = max(1, min(size, n) // block)  # as many as there are, or as fit
        self._series_step = max(1, min(n_series, size // (block * n_blocks)))
        if self._shared_x:  # more series to a product, fewer products
            self._series_step = max(1, min(n_series, size // block))
            n_blocks = max(1, min(n_blocks, size // (block * self._series_step)))
        self._sample_step = block * n_blocks

    def __iter__(self) -> Iterator[_Chunk]:
        """The chunks in order; each is good until the next is asked for."""
        buffer = self._buffer()
        for samples, block in self._sample_slices():
            basis = None
            for series in self._series_slices():
                if basis is None or not self._shared_x:
                    basis = self._lay_out(buffer, series, samples, block)
                yield self._chunk(series, samples, basis)

    def kept(self) -> list[_Chunk]:
        """All chunks at once, each with a buffer of its own."""
        return [
            self._chunk(series, samples, self._lay_out(self._buffer(), series, samples, block))
            for samples, block in self._sample_slices()
            for series in self._series_slices()
        ]

    def _chunk(self, series: slice, samples: slice, basis: Tensor) -> _Chunk:
        n_series = series.stop - series.start
        all_series = n_series == self._n_series
        n_blocks = (samples.stop - samples.start) // basis.shape[2]
        is_whole = all_series and self._shared_x and basis.shape[2] == self._n_samples
        basis_t = basis.transpose(1, 2)
        return _Chunk(series, samples, basis, basis_t, n_series, n_blocks, self._shared_x, is_whole, all_series)

    def _buffer(self) -> Tensor:
        rows = 1 if self._shared_x else self._series_step
        return self._x.new_empty(rows * (self._degree + 1) * self._sample_step, dtype=self.dtype)

    def _series_slices(self) -> Iterator[slice]:
        for first in range(0, self._n_series, self._series_step):
            yield slice(first, min(first + self._series_step, self._n_series))

    def _sample_slices(self) -> Iterator[tuple[slice, int]]:
        """Slices made of whole blocks, then what is left over as one shorter block."""
        whole = self._n_samples - self._n_samples % self._block
        for first in range(0, whole, self._sample_step):
            yield slice(first, min(first + self._sample_step, whole)), self._block
        if whole < self._n_samples:
            yield slice(whole, self._n_samples), self._n_samples - whole

    def _lay_out(self, buffer: Tensor, series: slice, samples: slice, block: int) -> Tensor:
        """P_k(t) of these samples by the basis's recurrence, (g, degree + 1, B)."""
        part = self._x if self._shared_x else self._x[series]
        if block != self._n_samples:
            part = part[:, samples]
        n_series, n_blocks = part.shape[0], part.shape[1] // block
        part = part.unsqueeze(1) if n_blocks == 1 else part.unflatten(1, (n_blocks, block))  # (s, nb, B)
        size = n_series * n_blocks * block * (self._degree + 1)
        buffer = buffer if buffer.shape[0] == size else buffer[:size]
        rows = buffer.view(n_series, n_blocks, self._degree + 1, block).unbind(2)  # of P_k: (s, nb, B)
        rows[0].fill_(1.0)
        if self._degree > 0:
            first = rows[1].copy_(part)
            if self._mapping is not None:
                first.copy_(apply_map(first, self._mapping))
            t = first if self._steps[0] == _PLAIN_STEP else first.clone()
            if t is not first:
                first.mul_(self._steps[0][0]).add_(self._steps[0][1])
            for k, (a, b, c) in enumerate(self._steps[1:], start=1):
                if c == 0.0 and a == 1.0:
                    torch.mul(rows[k], t, out=rows[k + 1])
                    continue
                after = torch.mul(rows[k - 1], -c, out=rows[k + 1]).addcmul_(rows[k], t, value=a)
                if b != 0.0:
                    after.add_(rows[k], alpha=b)
        return buffer.view(n_series * n_blocks, self._degree + 1, block)


_PLAIN_STEP = (1.0, 0.0, 0.0)  # P_{k+1} = t P_k


@functools.lru_cache(maxsize=256)
def _steps(basis: str, degree: int) -> tuple[tuple[float, float, float], ...]:
    return BASES[basis].steps(degree)


def _derivative(coef: Tensor, mapping: AffineMap | None, basis: str) -> Tensor:
    """Coefficients (S, degree) of dp/dx in the basis of p, the slope of the domain's map included."""
    matrix = derivative_matrix(BASES[basis], coef.shape[1] - 1).to(coef.device)
    slope = (coef.double().unsqueeze(1) * matrix).sum(-1)  # elementwise: a product of matrices could lose digits
    return (slope if mapping is None else slope * mapping.scale).to(coef.dtype)


def _slope_values(chunk: _Chunk, slope: Tensor) -> Tensor:
    """dp/dx of the chunk's samples, (g, m, B), from the coefficients of the derivative."""
    return torch.bmm(chunk.coefficients(slope), chunk.basis[:, : slope.shape[1]])


def _row_dots(left: Tensor, right: Tensor) -> Tensor:
    """Dot products of matching rows of (g, m, B), as (g, m, 1)."""
    if left.shape[1] == 1:  # as a product of matrices: a quarter of the time of vecdot
        return torch.bmm(left, right.transpose(1, 2))
    return torch.linalg.vecdot(left, right).unsqueeze(-1)


def _terms(
    loss: Loss, p: Tensor, y: Tensor, weight: Tensor | None, want_value: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Sums of w l over the rows (g, m, 1) where wanted, w dl/dp and w dl/dy (g, m, B); p is overwritten.

    For the squared error the slopes come without their factor 2, which costs less where they have been added up, and
    that to y as None: it is minus the one to p.
    """
    if isinstance(loss, MSE):
        residual = p.sub_(y)
        delta = residual if weight is None else residual * weight
        return _row_dots(delta, residual) if want_value else None, delta, None
    y = y.expand_as(p)
    delta, to_y = loss.slopes(p, y)
    sums = None
    if want_value:
        values = loss.value(p, y)
        sums = values.sum(-1, keepdim=True) if weight is None else _row_dots(values, weight.expand_as(p))
    return (sums, delta, to_y) if weight is None else (sums, delta * weight, to_y * weight)


def evaluate(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str) -> Tensor:
    """p(x) for all series, (S, N), in the dtype of x."""
    chunks = _Chunks(x, coef.shape[0], coef.shape[1] - 1, mapping, basis)
    wide = coef.to(chunks.dtype)
    out = x.new_zeros(coef.shape[0], x.shape[1])
    for chunk in chunks:
        chunk.deposit(torch.bmm(chunk.coefficients(wide), chunk.basis), out)
    return out


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, *, want_x: bool, want_coef: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad (S, N).

    Returns:
        The gradient to x (S or 1, N) in the dtype that computes and to coef (S, degree + 1) in float64; None for what
        was not wanted.
    """
    n_series = coef.shape[0]
    chunks = _Chunks(x, n_series, coef.shape[1] - 1, mapping, basis)
    slope = _derivative(coef.to(chunks.dtype), mapping, basis) if want_x else None
    grad_x = x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) if want_x else None
    grad_coef = None
    for chunk in chunks:
        delta = chunk.operand(grad)
        if grad_x is not None and slope is not None:
            chunk.deposit(_slope_values(chunk, slope).mul_(delta), grad_x)
        if want_coef:
            grad_coef = chunk.add_up(torch.bmm(delta, chunk.basis_t), grad_coef, n_series)
    if want_coef and grad_coef is None:  # no samples
        grad_coef = coef.new_zeros(coef.shape, dtype=torch.float64)
    return grad_x, grad_coef


class Objective:
    """The loss of a polynomial on data that stays: bind the data once, call with coefficients many times.

    Where all of it fits into one chunk the basis functions are laid out once and kept, and a call costs a handful of
    small operations; larger data are read anew in each call.

    Args:
        x: samples (S or 1, N).
        y: targets (S or 1, N).
        weight: (S or 1, N) or None.
        n_series: S.
        degree: of the polynomial.
        mapping: from domain to window, or None.
        basis: its name.
        loss: the pointwise loss.
        scale: what the value and the gradient to coef are multiplied with.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        n_series: int,
        degree: int,
        mapping: AffineMap | None,
        basis: str,
        loss: Loss,
        scale: float = 1.0,
    ) -> None:
        self._x, self._y, self._weight, self._mapping, self._basis = x, y, weight, mapping, basis
        self._loss, self._scale = loss, scale
        self._n_series = n_series
        self._chunks = _Chunks(x, n_series, degree, mapping, basis)
        self._kept = [self._load(chunk) for chunk in self._chunks.kept()] if self._chunks.fit_in_one else None

    def _load(self, chunk: _Chunk) -> tuple[_Chunk, Tensor, Tensor | None]:
        weight = self._weight
        return chunk, chunk.operand(self._y), None if weight is None else chunk.operand(weight)

    def __call__(
        self,
        coef: Tensor,
        upstream: Tensor | None = None,
        *,
        want_value: bool = True,
        want_coef: bool = True,
        want_x: bool = False,
        want_y: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """One pass over the data.

        Args:
            coef: (S, degree + 1).
            upstream: a factor (S,) for the per-sample gradients of each series, None for one.
            want_value: whether the loss is wanted, and the sum of the weights with it.
            want_coef: whether its gradient to coef is.
            want_x: to x.
            want_y: to y.

        Returns:
            scale * sum(w l) (S,), sum(w) (S,) where there are weights, and the gradient to coef (S, degree + 1), all in
            float64; then the gradients to x and y in the shapes they have here and the dtype that computes. None for
            what was not wanted.
        """
        x, n_series = self._x, self._n_series
        wide = coef.to(self._chunks.dtype)
        slope = _derivative(wide, self._mapping, self._basis) if want_x else None
        out_dtype = compute_dtype(x.dtype)
        grad_x = x.new_zeros(x.shape, dtype=out_dtype) if want_x else None
        grad_y = self._y.new_zeros(self._y.shape, dtype=out_dtype) if want_y else None
        value = total_weight = grad_coef = None
        factor = 2.0 if isinstance(self._loss, MSE) else 1.0
        for chunk, y, weight in self._kept if self._kept is not None else map(self._load, self._chunks):
            p = torch.bmm(chunk.coefficients(wide), chunk.basis)  # (g, m, B)
            sums, delta, to_y = _terms(self._loss, p, y, weight, want_value)
            if sums is not None:
                value = chunk.add_up(sums, value, n_series)
                if weight is not None:
                    weights = weight.sum(-1, keepdim=True).expand(*p.shape[:2], 1)
                    total_weight = chunk.add_up(weights, total_weight, n_series)
            if want_coef:
                grad_coef = chunk.add_up(torch.bmm(delta, chunk.basis_t), grad_coef, n_series)
            if grad_x is not None and slope is not None:
                chunk.deposit(_slope_values(chunk, slope).mul_(delta).mul_(factor), grad_x, upstream)
            if grad_y is not None:
                chunk.deposit(delta * -factor if to_y is None else to_y, grad_y, upstream)
        if value is None and want_value:  # no samples
            value = x.new_zeros((n_series, 1), dtype=torch.float64)
            total_weight = None if self._weight is None else torch.zeros_like(value)
        if grad_coef is None and want_coef:
            grad_coef = x.new_zeros(coef.shape, dtype=torch.float64)
        return (
            None if value is None else value.squeeze(1) * self._scale,
            None if total_weight is None else total_weight.squeeze(1),
            None if grad_coef is None else grad_coef * (factor * self._scale),
            grad_x,
            grad_y,
        )


def gram(x: Tensor, weight: Tensor | None, degree: int, mapping: AffineMap | None, basis: str) -> Tensor:
    """The Gram matrix sum_n w_n P_j(t_n) P_k(t_n) of each series, (S, degree + 1, degree + 1), in float64."""
    n_series = x.shape[0] if weight is None else max(x.shape[0], weight.shape[0])
    total, size = None, degree + 1
    for chunk in _Chunks(x, n_series, degree, mapping, basis, torch.float64):
        # (g, m, d + 1, B) @ (g, 1, B, d + 1), m = 1 where the series do not share x.
        rows = chunk.basis.unsqueeze(1)
        left = rows if weight is None else rows * chunk.operand(weight).unsqueeze(2)
        total = chunk.add_up((left @ rows.transpose(2, 3)).flatten(2), total, n_series)
    return (
        x.new_zeros((n_series, size, size), dtype=torch.float64) if total is None else total.unflatten(1, (size, size))
    )
