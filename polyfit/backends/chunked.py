"""The one pass in plain PyTorch: value and gradients together, a chunk of the data at a time.

The values ``P_k(t)`` of a chunk are laid out as the rows of a matrix; a sample's part in everything that is wanted is
then two products with it::

    p    = coef @ P                   (m, degree + 1) x (degree + 1, C)
    sums = delta @ P.T                (m, B) x (B, degree + 1),   delta = w dl/dp

with ``m`` the number of series that share this x (one, when each series has its own). No autograd inside, and nothing
of size n x degree: the matrix is as large as a chunk, whatever n is.

Digits: the second product is taken a block of B samples at a time, everything above in float64, so that the relative
error of a float32 sum does not grow with n.

All operands here are canonical: x, y, weight (S or 1, N), where one row is shared by all series, and coef (S, d + 1).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.bases import BASES, AffineMap, derivative_matrix
from polyfit.formula import compute_dtype
from polyfit.losses import MSE, Loss

# Longest block: the length of a sum in float32. On random data 1024 gave 1e-8 relative error of the sums at n = 1e7,
# 4096 gave 6e-8; where all terms are alike and roundings add up, 1e-6 and 4e-6. Longer blocks brought no speed.
_LONGEST_BLOCK = 2048
_BLOCK = 1024
# Up to so many a product each: a product in batches wakes all threads, which takes longer than that, and milliseconds
# where other processes keep the cores busy.
_FEW_BLOCKS = 4
# Samples of one series up to which there is a shorter way.
_SHORT = 4 * _LONGEST_BLOCK
# Elements (series x samples) in a chunk for each thread of a CPU: PyTorch gives a thread at least so many, and with
# more the matrix leaves the second level of cache (two x86 cores, n = 1e7, float32, 2**15, 2**16 and 2**17 elements a
# thread: 17, 19 and 22 ms for degree 5, 30, 36 and 38 ms for degree 10). A GPU wants enough work for a launch.
_CHUNK_OF_A_THREAD = 1 << 15
_CHUNK_ELSEWHERE = 1 << 22
# Elements between the rows of a matrix: some lines of a cache.
_APART = 64
# Elements up to which a bound objective keeps what it has laid out.
_KEPT = 1 << 18


def _internal_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products: where users have allowed less than float32 in float32 products, float64."""
    try:
        is_exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # said by the newer interface, for each backend
        backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
        is_exact = backend.matmul.fp32_precision in {"none", "ieee"}  # pyright: ignore[reportAttributeAccessIssue]
    return compute_dtype(dtype) if is_exact else torch.float64


def _chunk_elements(device: torch.device) -> int:
    """Elements (series x samples) in a chunk."""
    return _CHUNK_OF_A_THREAD * torch.get_num_threads() if device.type == "cpu" else _CHUNK_ELSEWHERE


Steps = tuple[tuple[float, float, float], ...]
_PLAIN_STEP = (1.0, 0.0, 0.0)  # P_{k+1} = t P_k


@functools.lru_cache(maxsize=256)
def _steps(basis: str, degree: int) -> Steps:
    return BASES[basis].steps(degree)


def _lay_out(rows: Sequence[Tensor], samples: Tensor, steps: Steps, mapping: AffineMap | None) -> None:
    """Fill rows[1:] by the basis's recurrence; `samples` is what is looked at of rows[1], and holds x."""
    if mapping is not None:
        samples.sub_(mapping.center).mul_(mapping.scale)
        if mapping.shift:
            samples.add_(mapping.shift)
    t = rows[1]
    if steps[0] != _PLAIN_STEP:
        t = t.clone()
        samples.mul_(steps[0][0]).add_(steps[0][1])
    for k, (a, b, c) in enumerate(steps[1:], start=1):
        if c == 0.0 and a == 1.0:
            torch.mul(rows[k], t, out=rows[k + 1])
            continue
        after = torch.mul(rows[k - 1], -c, out=rows[k + 1]).addcmul_(rows[k], t, value=a)
        if b != 0.0:
            after.add_(rows[k], alpha=b)


def _lay_out_signed(rows: Sequence[Tensor], samples: Tensor, mapping: AffineMap | None) -> None:
    """Fill rows[1:] by Chebyshev's polynomials times `_signs`: then a step is one operation, not two.

    For signs +, +, -, -, +, ... it is S_{k+1} = S_{k-1} -+ 2 t S_k.
    """
    if mapping is not None:
        samples.sub_(mapping.center).mul_(mapping.scale)
        if mapping.shift:
            samples.add_(mapping.shift)
    for k in range(1, len(rows) - 2):
        torch.addcmul(rows[k - 1], rows[k], rows[1], value=-2.0 if k % 2 else 2.0, out=rows[k + 1])


def _signs(like: Tensor, size: int) -> Tensor:
    """The signs +, +, -, -, +, ... of `_lay_out_signed`, (size,) float64."""
    return like.new_tensor([1.0 if k % 4 < 2 else -1.0 for k in range(size)], dtype=torch.float64)


class _Matrix:
    """The matrix P of n samples that all series share, or of n samples of each of s series.

    It is laid out in whole blocks of B samples. What the last block has beyond the n samples is zero: it adds nothing
    to a product, whatever finite number stands against it. Values and their like are rows (s, width) here, a series
    each, of which the first n columns are samples.

    Below the rows of the functions there is room for one more, where the residuals of the only series of a matrix go:
    the product that gives the moments of the residuals gives their squares with it.
    """

    def __init__(
        self, like: Tensor, n_matrices: int, n: int, block: int, degree: int, dtype: torch.dtype, is_shared: bool
    ) -> None:
        self.n, self._block, self._is_shared, self._n_matrices = n, block, is_shared, n_matrices
        self._n_blocks = max(1, -(-n // block))
        self.width = self._n_blocks * block
        self.is_filled = self.width > n
        # Rows a power of two apart would meet in the same sets of a cache: up to 3 times slower from 12 rows on.
        apart = self.width + (_APART if n_matrices == 1 else 0)
        self._all = like.new_empty((degree + 2, n_matrices, apart), dtype=dtype)[..., : self.width]
        self._rows = self._all.unbind(0)  # P_k, and the residuals: (g, width)
        self._rows[0].fill_(1.0)
        if self.is_filled:
            self._all[:2, :, n:] = 0.0  # P_0 and P_1, from which all others follow
        # All rows, and those of the functions: (K, width), or (s, K, width) where each series has its own.
        self._whole = self._all.squeeze(1) if is_shared else self._all.transpose(0, 1)
        self._functions = self._whole.narrow(0 if is_shared else 1, 0, degree + 1)
        self._values: Tensor | None = None
        self._left: Tensor | None = None

    def lay_out(self, x: Tensor, steps: Steps, mapping: AffineMap | None, *, is_signed: bool = False) -> None:
        """Fill it for x (g, n)."""
        if steps and is_signed:
            _lay_out_signed(self._rows, self.samples(self._rows[1]).copy_(x), mapping)
        elif steps:
            _lay_out(self._rows, self.samples(self._rows[1]).copy_(x), steps, mapping)

    def samples(self, padded: Tensor) -> Tensor:
        """Of (..., width) the n columns that are samples."""
        return padded[..., : self.n] if self.is_filled else padded

    def pad(self, values: Tensor) -> Tensor:
        """Rows (s, n) as (s, width), contiguous."""
        if self.is_filled:
            return torch.nn.functional.pad(values, (0, self.width - self.n))
        return values.contiguous()

    def functions(self) -> Tensor:
        """P_k of the samples, (s or 1, degree + 1, n)."""
        functions = self._functions.unsqueeze(0) if self._is_shared else self._functions
        return self.samples(functions)

    def series(self, coef: Tensor) -> Tensor:
        """Values for coef (s, K <= degree + 1): (s, width)."""
        n_coef = coef.shape[1]
        if self._is_shared:
            return torch.mm(coef, self._whole[:n_coef])
        return torch.bmm(coef.unsqueeze(1), self._whole[:, :n_coef]).squeeze(1)

    def _buffer(self, n_series: int) -> Tensor | None:
        """Where values of so many series go that the next call writes again; None: the product is to make it."""
        if n_series == self._n_matrices:
            self._values = self._rows[-1]
        elif self._values is not None and self._values.shape[0] != n_series:
            self._values = None
        return self._values

    def values(self, coef: Tensor) -> Tensor:
        """`series` of coef (s, degree + 1) in a buffer that the next call of this or of `residuals` writes again."""
        held = self._buffer(coef.shape[0])
        if self._is_shared:
            self._values = torch.mm(coef, self._functions, out=held)
        else:
            assert held is not None
            torch.bmm(coef.unsqueeze(1), self._functions, out=held.unsqueeze(1))
        assert self._values is not None
        return self._values

    def residuals(self, coef: Tensor, y: Tensor) -> Tensor:
        """Values minus y (s or 1, n) for coef (s, degree + 1): (s, width), in the buffer of `values`.

        In the filling they are zero.
        """
        if self._is_shared and not self.is_filled:
            self._values = torch.addmm(y, coef, self._functions, beta=-1, out=self._buffer(coef.shape[0]))
            return self._values
        values = self.values(coef)
        self.samples(values).sub_(y)
        return values

    def clear_filling(self, padded: Tensor) -> None:
        """Of (s, width) what is no sample is made zero."""
        if self.is_filled:
            padded[..., self.n :].zero_()

    def moments(self, delta: Tensor, residuals: Tensor | None) -> Tensor:
        """Sums of delta P_k, and of delta times residuals where they are given: (s, degree + 1 or 2).

        Args:
            delta: (s, width).
            residuals: what `residuals` gave last.

        Over blocks it goes on in float64.
        """
        if residuals is not None and residuals is not self._rows[-1]:
            return torch.cat((self.moments(delta, None), self.dots(delta, residuals)), 1)
        rows = self._functions if residuals is None else self._whole
        if self._is_shared and self._n_blocks == 1:
            return torch.mm(delta, rows.t()).double()
        if self._is_shared and self._n_blocks <= _FEW_BLOCKS:
            cut = zip(delta.split(self._block, 1), rows.split(self._block, 1), strict=True)
            first, *others = [torch.mm(part, functions.t()).double() for part, functions in cut]
            return sum(others, first)
        # (g * n_blocks, B, K)
        blocks = (
            self._all[: len(self._rows) - (residuals is None)].unflatten(2, (self._n_blocks, self._block)).flatten(1, 2)
        )
        blocks = blocks.permute(1, 2, 0)
        if self._is_shared:
            by_block = delta.view(-1, self._n_blocks, self._block).transpose(0, 1)
            return torch.bmm(by_block, blocks).sum(0, dtype=torch.float64)
        sums = torch.bmm(delta.view(-1, 1, self._block), blocks)
        return sums.view(delta.shape[0], self._n_blocks, -1).sum(1, dtype=torch.float64)

    def row(self, k: int) -> Tensor:
        """P_k of the samples, and zero in the filling: (g, width)."""
        return self._rows[k]

    def normal(self, residuals: Tensor, weight: Tensor | None) -> Tensor:
        """Sums of w P_k, of w P_d P_k and of w r P_k, k = 0 .. d, and of w r**2: (s, 3 d + 4).

        Args:
            residuals: what `residuals` gave last, (s, width).
            weight: (s or 1, n), or None.
        """
        padded = None if weight is None else self.pad(weight)
        n_series, last = residuals.shape[0], self._rows[-2]
        if self._is_shared and n_series == 1:
            # In a buffer that stays: from the system, a megabyte for each chunk would take as long as its sums.
            if self._left is None:
                self._left = self._all.new_empty(3, self.width + _APART)[:, : self.width]
            for row, values in zip(self._left, (self._rows[0], last, residuals), strict=True):
                if padded is None:
                    row.copy_(values[0])
                else:
                    torch.mul(values[0], padded[0], out=row)
            sums = self.moments(self._left, residuals)
            return torch.cat((sums[:, :-1].flatten(), sums[2, -1:])).unsqueeze(0)
        left = [self._rows[0], last, residuals]
        if padded is not None:
            left = [values * padded for values in left]
        if self._is_shared:
            sums = self.moments(torch.cat(left), None).split([len(values) for values in left])
            parts = [rows.expand(n_series, -1) for rows in sums]
        else:
            parts = [self.moments(values.expand(n_series, -1).contiguous(), None) for values in left]
        return torch.cat((*parts, self.dots(left[2], residuals)), 1)

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """Dot products of matching rows (s, width): (s, 1), over blocks in float64."""
        if self._n_blocks == 1:
            return torch.linalg.vecdot(left, right).double().unsqueeze(1)
        shape = (-1, self._n_blocks, self._block)
        return torch.linalg.vecdot(left.view(shape), right.view(shape)).sum(1, keepdim=True, dtype=torch.float64)


class _Part(NamedTuple):
    """Some samples of some series, and the matrix that is laid out for them."""

    series: slice
    samples: slice
    matrix: _Matrix
    dtype: torch.dtype  # of the matrix
    n_series: int  # of all parts
    is_all: bool  # whether this is the only part

    def operand(self, rows: Tensor) -> Tensor:
        """Rows (S or 1, N) of y, weight or an upstream gradient: (s or 1, n), in the dtype of the matrix."""
        if not self.is_all:
            rows = (rows[self.series] if rows.shape[0] > 1 else rows)[:, self.samples]
        return rows if rows.dtype == self.dtype else rows.to(self.dtype)

    def coefficients(self, coef: Tensor) -> Tensor:
        """Rows (S, K) of coefficients: (s, K)."""
        return coef if self.is_all else coef[self.series]

    def add(self, sums: Tensor, total: Tensor | None) -> Tensor:
        """Add sums (s, K) in float64 to the total (S, K)."""
        if sums.shape[0] == self.n_series:
            return sums if total is None else total + sums
        if total is None:
            total = sums.new_zeros(self.n_series, sums.shape[1])
        total[self.series] += sums
        return total

    def deposit(self, values: Tensor, out: Tensor, upstream: Tensor | None = None) -> None:
        """Put per-sample values (s, n) into their place in out (S or 1, N), times a factor (S,) of their series.

        Where one row of `out` stands for all series, the values are added up over the series.
        """
        if upstream is not None:
            values = values * upstream[self.series].unsqueeze(1).to(values.dtype)
        if out.shape[0] < self.n_series:
            place = out[:, self.samples]
            place += values.sum(0, keepdim=True)
        else:
            out[self.series, self.samples] = values


class _Parts:
    """Cuts the data and lays out the basis functions of each part, in one buffer for all parts of a shape."""

    def __init__(
        self,
        x: Tensor,
        n_series: int,
        degree: int,
        mapping: AffineMap | None,
        basis: str,
        *,
        dtype: torch.dtype | None = None,
        at_once: int = 0,
        is_signed: bool = False,
    ) -> None:
        self._is_signed = is_signed
        self._x, self._n_series, self._n_samples = x, n_series, x.shape[1]
        self._degree, self._mapping, self._steps = degree, mapping, _steps(basis, degree)
        self._is_shared = x.shape[0] == 1
        self.dtype = _internal_dtype(x.dtype, x.device) if dtype is None else dtype
        n, size = self._n_samples, _chunk_elements(x.device)
        self.is_one = n_series * n <= max(size, at_once)
        if self.is_one:  # in blocks of one length
            self._block = -(-n // -(-n // _LONGEST_BLOCK)) if n else 1
            self._series_step, self._sample_step = max(1, n_series), max(1, n)
            return
        self._block = _BLOCK if n > _LONGEST_BLOCK else n
        n_blocks = max(1, min(size, n) // self._block)  # as many as there are, or as fit
        self._series_step = min(n_series, max(1, size // (self._block * n_blocks)))
        if self._is_shared:  # more series to a product, fewer products
            self._series_step = min(n_series, max(1, size // self._block))
            n_blocks = max(1, min(n_blocks, size // (self._block * self._series_step)))
        self._sample_step = self._block * n_blocks

    def __iter__(self) -> Iterator[_Part]:
        """The parts in order; each is good until the next is asked for."""
        if self.is_one:
            if self._n_samples and self._n_series:
                matrix = self._matrix(self._n_series, self._n_samples)
                matrix.lay_out(self._x, self._steps, self._mapping, is_signed=self._is_signed)
                everything = slice(None)
                yield _Part(everything, everything, matrix, self.dtype, self._n_series, True)
            return
        made: dict[tuple[int, int], _Matrix] = {}
        for samples in _slices(self._n_samples, self._sample_step):
            is_laid_out = False
            for series in _slices(self._n_series, self._series_step):
                shape = (series.stop - series.start, samples.stop - samples.start)
                if self._is_shared:
                    shape = (1, shape[1])
                if shape not in made:
                    made[shape] = self._matrix(*shape)
                matrix = made[shape]
                if not (self._is_shared and is_laid_out):
                    x = self._x if self._is_shared else self._x[series]
                    matrix.lay_out(x[:, samples], self._steps, self._mapping, is_signed=self._is_signed)
                    is_laid_out = True
                yield _Part(series, samples, matrix, self.dtype, self._n_series, False)

    def _matrix(self, n_series: int, n_samples: int) -> _Matrix:
        n_matrices = 1 if self._is_shared else n_series
        return _Matrix(self._x, n_matrices, n_samples, self._block, self._degree, self.dtype, is_shared=self._is_shared)


def _slices(size: int, step: int) -> Iterator[slice]:
    for first in range(0, size, step):
        yield slice(first, min(first + step, size))


def _derivative(coef: Tensor, mapping: AffineMap | None, basis: str) -> Tensor:
    """Coefficients (S, degree) of dp/dx in the basis of p, the slope of the domain's map included."""
    matrix = derivative_matrix(BASES[basis], coef.shape[1] - 1).to(coef.device)
    slope = (coef.double().unsqueeze(1) * matrix).sum(-1)  # elementwise: a product of matrices could lose digits
    return (slope if mapping is None else slope * mapping.scale).to(coef.dtype)


def _slopes(part: _Part, slope: Tensor) -> Tensor:
    """dp/dx of the part's samples, (s, n), from the coefficients of the derivative."""
    return part.matrix.samples(part.matrix.series(part.coefficients(slope)))


def evaluate(x: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str) -> Tensor:
    """p(x) for all series, (S, N), in the dtype of x."""
    parts = _Parts(x, coef.shape[0], coef.shape[1] - 1, mapping, basis)
    wide = coef.to(parts.dtype)
    out = x.new_zeros(coef.shape[0], x.shape[1])
    for part in parts:
        values = part.matrix.samples(part.matrix.series(part.coefficients(wide)))
        if part.is_all and values.dtype == x.dtype:
            return values.contiguous()
        out[part.series, part.samples] = values
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
    parts = _Parts(x, n_series, coef.shape[1] - 1, mapping, basis)
    slope = _derivative(coef.to(parts.dtype), mapping, basis) if want_x else None
    grad_x = x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) if want_x else None
    grad_coef = None
    for part in parts:
        delta = part.operand(grad)
        if grad_x is not None and slope is not None:
            part.deposit(_slopes(part, slope).mul_(delta), grad_x)
        if want_coef:
            grad_coef = part.add(part.matrix.moments(part.matrix.pad(delta), None), grad_coef)
    if want_coef and grad_coef is None:  # no samples
        grad_coef = coef.new_zeros(coef.shape, dtype=torch.float64)
    return grad_x, grad_coef


class Sums(NamedTuple):
    """What one pass over the data gives; None for what was not wanted.

    Attributes:
        value: sum(w l) of each series, (S,) float64.
        weight: sum(w) of each series, (S,) float64; None without weights.
        grad_coef: gradient of the value to coef, (S, degree + 1) float64.
        grad_x: gradient to x, in the shape of x and the dtype that computes.
        grad_y: to y, likewise.
        grad_weight: to the weight, likewise.
    """

    value: Tensor | None
    weight: Tensor | None
    grad_coef: Tensor | None
    grad_x: Tensor | None
    grad_y: Tensor | None
    grad_weight: Tensor | None


def is_short(x: Tensor, y: Tensor, coef: Tensor) -> bool:
    """Whether `short` can take these."""
    return (
        coef.dim() == x.dim() == y.dim() == 1
        and 0 < x.shape[0] <= _SHORT
        and coef.shape[0] > 1
        and x.device.type == "cpu"
        and _internal_dtype(x.dtype, x.device) == x.dtype
    )


_last = threading.local()


def _workspace(n_rows: int, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A matrix (n_rows, N) and its rows, the first of which holds ones: that of the thread's last call, if it fits.

    To get some 100 kB from the system anew takes up to a fifth of a short call.
    """
    key = (n_rows, x.shape[0], x.dtype, torch.is_inference_mode_enabled())
    if getattr(_last, "key", None) != key:
        matrix = torch.empty(key[:2], dtype=x.dtype, device="cpu")
        rows = matrix.unbind(0)
        rows[0].fill_(1.0)
        _last.key, _last.workspace = key, (matrix, rows)
    return _last.workspace


def short(x: Tensor, y: Tensor, coef: Tensor, mapping: AffineMap | None, basis: str, scale: float) -> Sums:
    """The sum of squared errors and its gradient to coef, both times scale, for few samples (N,) of one series.

    What `Objective` does, without all that it takes to cut long data and many series: half the time at n = 1000.
    """
    n_coef = coef.shape[0]
    matrix, rows = _workspace(n_coef + 1, x)
    _lay_out(rows, rows[1].copy_(x), _steps(basis, n_coef - 1), mapping)
    torch.addmv(y, matrix.narrow(0, 0, n_coef).t(), coef, beta=-1.0, out=rows[-1])
    if x.shape[0] <= _LONGEST_BLOCK:
        sums = torch.mv(matrix, rows[-1]).double()
    else:
        blocks = zip(matrix.split(_LONGEST_BLOCK, 1), rows[-1].split(_LONGEST_BLOCK), strict=True)
        first, *others = [torch.mv(block, residual).double() for block, residual in blocks]
        sums = sum(others, first)
    sums = (sums * scale).unsqueeze(0)
    return Sums(sums.select(1, -1), None, sums.narrow(1, 0, n_coef) * 2.0, None, None, None)


class _Terms(NamedTuple):
    """What the samples of a part give.

    Of the squared error delta lacks its factor 2, which costs less where it has been added up; its losses and slopes
    to y are left to be made from the residual where they are wanted.
    """

    delta: Tensor  # (s, width): w dl/dp
    residual: Tensor  # (s, width): p - y for the squared error, of no meaning for others
    sums: Tensor | None  # (s, K) in float64: of delta P_k and of w l, where wanted
    to_y: Tensor | None = None  # (s, n): w dl/dy
    losses: Tensor | None = None  # (s, n): l


class _Wanted(NamedTuple):
    """What is wanted of the samples of a part: sums for the gradient to coef and for the value, losses, slopes to y."""

    coef: bool
    value: bool
    losses: bool
    to_y: bool


def _squared_error(part: _Part, coef: Tensor, y: Tensor, weight: Tensor | None, wanted: _Wanted) -> _Terms:
    matrix = part.matrix
    delta = residual = matrix.residuals(coef, y)
    if weight is not None and (wanted.value or wanted.losses):
        delta = matrix.pad(matrix.samples(residual) * weight)
    elif weight is not None:
        matrix.samples(residual).mul_(weight)
    sums = None
    if wanted.coef:
        sums = matrix.moments(delta, residual if wanted.value else None)
    elif wanted.value:
        sums = matrix.dots(delta, residual)
    return _Terms(delta, residual, sums)


def _other_loss(loss: Loss, part: _Part, coef: Tensor, y: Tensor, weight: Tensor | None, wanted: _Wanted) -> _Terms:
    matrix = part.matrix
    values = matrix.values(coef)
    p = matrix.samples(values)
    losses = loss.value(p, y.expand_as(p)) if wanted.value or wanted.losses else None
    to_y = None
    if wanted.to_y:
        slope, to_y = loss.slopes(p, y.expand_as(p))
        p.copy_(slope)
    else:
        loss.slope_(p, y.expand_as(p))
    if weight is not None:
        p.mul_(weight)
        to_y = to_y if to_y is None else to_y * weight
    matrix.clear_filling(values)
    sums = [matrix.moments(values, None)] if wanted.coef else []
    if wanted.value and losses is not None:
        weighted = losses if weight is None else losses * weight
        sums.append(weighted.sum(1, keepdim=True, dtype=torch.float64))
    return _Terms(values, values, torch.cat(sums, 1) if sums else None, to_y, losses)


class Objective:
    """The loss of a polynomial on data that stays: bind the data once, call with coefficients many times.

    Args:
        x: samples (S or 1, N).
        y: targets (S or 1, N).
        weight: (S or 1, N) or None.
        n_series: S.
        degree: of the polynomial.
        mapping: from domain to window, or None.
        basis: its name.
        loss: the pointwise loss.
        keep: lay out the basis functions once, where the data are small enough; larger data are read in each call.
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
        *,
        keep: bool = False,
        scale: float = 1.0,
    ) -> None:
        self._x, self._y, self._weight, self._mapping, self._basis = x, y, weight, mapping, basis
        self._loss, self._scale, self._n_series = loss, scale, n_series
        self._parts = _Parts(x, n_series, degree, mapping, basis, at_once=_KEPT if keep else 0)
        self._kept = [self._load(part) for part in self._parts] if keep and self._parts.is_one else None

    @property
    def is_small(self) -> bool:
        """Whether `Gradient` serves it: the data lie on a CPU, are kept, and all series share x."""
        return self._x.device.type == "cpu" and bool(self._kept) and self._x.shape[0] == 1

    def _load(self, part: _Part) -> tuple[_Part, Tensor, Tensor | None]:
        weight = self._weight
        return part, part.operand(self._y), None if weight is None else part.operand(weight)

    def __call__(
        self,
        coef: Tensor,
        upstream: Tensor | None = None,
        *,
        want_value: bool = True,
        want_coef: bool = True,
        want_x: bool = False,
        want_y: bool = False,
        want_weight: bool = False,
    ) -> Sums:
        """One pass over the data.

        Args:
            coef: (S, degree + 1).
            upstream: a factor (S,) for the gradients of each series, None for one.
            want_value: whether the loss is wanted, and the sum of the weights with it.
            want_coef: whether its gradient to coef is.
            want_x: to x.
            want_y: to y.
            want_weight: to the weight.
        """
        n_series, out_dtype = self._n_series, compute_dtype(self._x.dtype)

        def zeros(like: Tensor | None, is_wanted: bool) -> Tensor | None:
            return None if like is None or not is_wanted else like.new_zeros(like.shape, dtype=out_dtype)

        wide = coef.to(self._parts.dtype)
        slope = _derivative(wide, self._mapping, self._basis) if want_x else None
        grad_x, grad_y, grad_weight = zeros(self._x, want_x), zeros(self._y, want_y), zeros(self._weight, want_weight)
        factor = 2.0 if isinstance(self._loss, MSE) else 1.0  # of delta, see _Terms
        wanted = _Wanted(want_coef, want_value, losses=want_weight, to_y=want_y)
        sums = total_weight = None
        for part, y, weight in self._kept if self._kept is not None else map(self._load, self._parts):
            terms = self._terms(part, part.coefficients(wide), y, weight, wanted)
            if terms.sums is not None:
                sums = part.add(terms.sums, sums)
            if want_value and weight is not None:
                weights = weight.sum(1, keepdim=True, dtype=torch.float64).expand(terms.delta.shape[0], 1)
                total_weight = part.add(weights, total_weight)
            if grad_x is not None and slope is not None:
                delta = part.matrix.samples(terms.delta)
                part.deposit(_slopes(part, slope).mul_(delta).mul_(factor), grad_x, upstream)
            if grad_y is not None:
                to_y = part.matrix.samples(terms.delta) * -factor if terms.to_y is None else terms.to_y
                part.deposit(to_y, grad_y, upstream)
            if grad_weight is not None:
                losses = part.matrix.samples(terms.residual).square() if terms.losses is None else terms.losses
                part.deposit(losses, grad_weight, upstream)
        if sums is None:  # no samples, or no sums wanted
            sums = coef.new_zeros((n_series, coef.shape[1] + want_value), dtype=torch.float64)
            total_weight = None if self._weight is None else sums[:, :1]
        value = sums.select(1, -1) if want_value else None
        return Sums(
            value if value is None or self._scale == 1.0 else value * self._scale,
            total_weight.squeeze(1) if want_value and total_weight is not None else None,
            _times(sums, factor * self._scale, upstream).narrow(1, 0, coef.shape[1]) if want_coef else None,
            grad_x,
            grad_y,
            grad_weight,
        )

    def _terms(self, part: _Part, coef: Tensor, y: Tensor, weight: Tensor | None, wanted: _Wanted) -> _Terms:
        if isinstance(self._loss, MSE):
            return _squared_error(part, coef, y, weight, wanted)
        return _other_loss(self._loss, part, coef, y, weight, wanted)


class Gradient:
    """The gradient to coef of an objective that was bound, in numpy: a loop over few data is made of little but calls.

    Each of numpy's costs a third of one of torch's, and its products of these shapes take no longer.

    Args:
        objective: with data that it keeps, and x shared by all series; see `Objective.is_small`.
    """

    def __init__(self, objective: Objective) -> None:
        assert objective._kept is not None
        ((part, y, weight),) = objective._kept
        matrix, n_series = part.matrix, part.n_series
        functions = matrix._functions.numpy()  # (K, width)
        self._functions, self._loss = functions, objective._loss
        self._values = np.empty((n_series, matrix.width), functions.dtype)
        samples = self._values[:, : matrix.n]
        self._filling = self._values[:, matrix.n :] if matrix.is_filled else None
        self._samples, self._p, self._y = samples, torch.from_numpy(samples), y.expand(n_series, -1)
        self._y_array, self._weight = y.numpy(), None if weight is None else weight.numpy()
        # (n_blocks, S, B) and (n_blocks, B, K): over blocks it goes on in float64
        blocks = (matrix._n_blocks, matrix._block)
        self._delta = self._values.reshape(n_series, *blocks).swapaxes(0, 1)
        self._by_block = functions.reshape(-1, *blocks).transpose(1, 2, 0) if blocks[0] > 1 else functions.T[None]
        self._factor = objective._scale * (2.0 if isinstance(self._loss, MSE) else 1.0)

    def __call__(self, coef: NDArray[Any]) -> NDArray[np.float64]:
        """For coefficients (S, degree + 1): the same shape, in float64."""
        np.matmul(coef.astype(self._values.dtype, copy=False), self._functions, out=self._values)
        if isinstance(self._loss, MSE):
            np.subtract(self._samples, self._y_array, out=self._samples)
        else:
            self._loss.slope_(self._p, self._y)
        if self._weight is not None:
            np.multiply(self._samples, self._weight, out=self._samples)
        if self._filling is not None:
            self._filling.fill(0.0)
        sums = np.matmul(self._delta, self._by_block)
        return self._factor * (sums[0].astype(np.float64) if len(sums) == 1 else sums.sum(0, dtype=np.float64))


def _times(sums: Tensor, factor: float, upstream: Tensor | None) -> Tensor:
    if factor != 1.0:
        sums = sums * factor
    return sums if upstream is None else sums * upstream.unsqueeze(1)


# --- least squares ---


class Normal(NamedTuple):
    """What normal equations are made of: moments of the samples, and of the residuals r = y - p(x).

    Attributes:
        of_x: sum(w T_k), k = 0 .. 2 degree, (S, 2 degree + 1) float64; the first is the sum of the weights.
        of_residuals: sum(w r T_k), k = 0 .. degree, (S, degree + 1) float64.
        squares: sum(w r**2), (S,) float64.
    """

    of_x: Tensor
    of_residuals: Tensor
    squares: Tensor


def normal(
    x: Tensor, y: Tensor, weight: Tensor | None, degree: int, mapping: AffineMap | None, coef: Tensor | None
) -> Normal:
    """Chebyshev moments about the polynomials coef (S or 1, degree + 1), or about zero for None; all in float64.

    ``T_d T_j = (T_{d+j} + T_{d-j}) / 2`` gives the moments beyond the degree: a row more on the left of the product
    with the matrix of the functions, instead of as many functions again.
    """
    n_series = max(rows.shape[0] for rows in (x, y, weight) if rows is not None)
    parts = _Parts(x, n_series, degree, mapping, "chebyshev", dtype=torch.float64, is_signed=True)
    size = degree + 1
    signs = _signs(x, size)
    coef = x.new_zeros((1, size), dtype=torch.float64) if coef is None else coef.double() * signs
    total = None
    for part in parts:
        residuals = part.matrix.residuals(part.coefficients(coef.expand(n_series, size)), part.operand(y))
        total = part.add(part.matrix.normal(residuals, None if weight is None else part.operand(weight)), total)
    if total is None:  # no samples
        total = x.new_zeros((n_series, 3 * size + 1), dtype=torch.float64)
    low, high, of_residuals, squares = total.split((size, size, size, 1), 1)
    low, high, of_residuals = low * signs, high * (signs[-1] * signs), of_residuals * signs
    of_x = torch.cat((low, 2.0 * high[:, 1:] - low.flip(1)[:, 1:]), 1)
    return Normal(of_x, -of_residuals, squares.squeeze(1))


def triangle(x: Tensor, weight: Tensor | None, degree: int, mapping: AffineMap | None) -> Tensor:
    """The factor R, (degree + 1, degree + 1), of a QR decomposition of the rows sqrt(w_n) T_k(t_n); for x (1, N).

    ``R.T @ R`` is the Gram matrix, and R has all digits of singular values that the Gram matrix has squared away. A
    chunk at a time: the factor so far and the rows of the next chunk have the same R as all rows together (Golub & Van
    Loan, Matrix Computations, 4th ed., 5.1: any orthogonal triangularisation; "tall skinny QR" in later work).
    """
    factor = x.new_zeros((degree + 1, degree + 1), dtype=torch.float64)
    for part in _Parts(x, 1, degree, mapping, "chebyshev", dtype=torch.float64):
        rows = part.matrix.functions()[0].T
        if weight is not None:
            rows = rows * part.operand(weight)[0].sqrt().unsqueeze(1)
        factor = torch.linalg.qr(torch.cat((factor, rows)), mode="r").R
    return factor


def gram(x: Tensor, weight: Tensor | None, degree: int, mapping: AffineMap | None, basis: str) -> Tensor:
    """The Gram matrix sum_n w_n P_j(t_n) P_k(t_n) of each series, (S, degree + 1, degree + 1), in float64."""
    n_series = x.shape[0] if weight is None else max(x.shape[0], weight.shape[0])
    total = x.new_zeros((n_series, (degree + 1) ** 2), dtype=torch.float64)
    for part in _Parts(x, n_series, degree, mapping, basis, dtype=torch.float64):
        rows = part.matrix.functions()
        left = rows if weight is None else rows * part.operand(weight).unsqueeze(1)
        total = part.add((left @ rows.transpose(1, 2)).flatten(1), total)
    return total.unflatten(1, (degree + 1, degree + 1))
