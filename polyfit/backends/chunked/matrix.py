"""The basis functions of some samples as the rows of a matrix, and the products with it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.samples import APART, PLAIN_STEP, Rows, Steps, map_
from polyfit.bases import BASES, AffineMap
from polyfit.formula import compute_dtype


def internal_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products: float64 where users allow float32 products to use fewer digits."""
    try:
        is_exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by the newer interface, one setting a backend
        backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
        is_exact = backend.matmul.fp32_precision in {"none", "ieee"}  # pyright: ignore[reportAttributeAccessIssue]
    return compute_dtype(dtype) if is_exact else torch.float64


@functools.lru_cache(maxsize=256)
def steps_of(basis: str, degree: int) -> Steps:
    """The steps of the recurrence up to P_degree."""
    return BASES[basis].steps(degree)


def lay_out(rows: Sequence[Tensor], samples: Tensor, steps: Steps, mapping: AffineMap | None) -> None:
    """Fill rows[1:] by the recurrence of the basis; `samples` is a view of rows[1] that holds x."""
    if mapping is not None:
        map_(samples, mapping)
    t = rows[1]
    if steps[0] != PLAIN_STEP:
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
    """Fill rows[1:] by Chebyshev polynomials S_k = s_k T_k times `signs`: a step is then one operation instead of two.

    With signs +, +, -, -, +, ... the recurrence is S_{k+1} = S_{k-1} -+ 2 t S_k.
    """
    if mapping is not None:
        map_(samples, mapping)
    for k in range(1, len(rows) - 2):
        torch.addcmul(rows[k - 1], rows[k], rows[1], value=-2.0 if k % 2 else 2.0, out=rows[k + 1])


def signs(like: Tensor, size: int) -> Tensor:
    """The signs +, +, -, -, +, ... of `_lay_out_signed`, (size,) float64."""
    return like.new_tensor([1.0 if k % 4 < 2 else -1.0 for k in range(size)], dtype=torch.float64)


class BasisMatrix(Rows):
    """The matrix P of n samples that all series share, or of n samples of each of s series.

    It holds whole blocks of B samples. The columns behind the n samples, the filling, are zero: they add nothing to a
    product. Values and residuals are rows (s, width), one a series; their first n columns are samples.

    One more row lies below the rows of the functions. The residuals go there when a matrix has one series. The product
    that gives the moments of some rows then gives their dot products with these, too.

    Args:
        memory: at least as many elements as `size` says, in the dtype of the matrix.
        n_matrices: 1 where all series share the samples, s otherwise.
        n: samples.
        block: B, samples of a block.
        degree: of the polynomial.
        is_shared: whether all series share the samples.
    """

    def __init__(self, memory: Tensor, n_matrices: int, n: int, block: int, degree: int, *, is_shared: bool) -> None:
        super().__init__(n, block)
        self._is_shared, self._n_matrices = is_shared, n_matrices
        self._few_blocks = sizes.current().few_blocks
        shape, size = self._shape(n_matrices, self.width, degree), self.size(n_matrices, n, block, degree)
        self._all = memory[:size].view(shape)[..., : self.width]
        self._rows = self._all.unbind(0)  # P_k, and the residuals: (g, width)
        # All rows, and those of the functions: (K, width), or (s, K, width) where each series has its own.
        self._whole = self._all.squeeze(1) if is_shared else self._all.transpose(0, 1)
        self._functions = self._whole.narrow(0 if is_shared else 1, 0, degree + 1)
        self._values: Tensor | None = None
        self._second: Tensor | None = None
        self._weighted: Tensor | None = None
        # (K + 1, width) in numpy, whose products of such sizes wake no threads; those of torch do.
        is_small = is_shared and self.width <= sizes.current().chunk_of_a_thread and memory.device.type == "cpu"
        self._array = self._whole.numpy() if is_small else None

    def prepare(self) -> None:
        """Write P_0, and the filling of P_0 and P_1. The filling of all others follows from these."""
        self._rows[0].fill_(1.0)
        if self.is_filled:
            self._all[:2, :, self.n :] = 0.0

    def release(self) -> None:
        """Let go of buffers that lie outside of the memory, but for one row."""
        self._values = self._weighted = None
        if self._second is not None and self._second.shape[0] > 1:
            self._second = None

    @staticmethod
    def _shape(n_matrices: int, width: int, degree: int) -> tuple[int, int, int]:
        # Rows a power of two apart would share the same sets of a cache: up to 3 times slower from 12 rows on.
        return degree + 2, n_matrices, width + (APART if n_matrices == 1 else 0)

    @classmethod
    def size(cls, n_matrices: int, n: int, block: int, degree: int) -> int:
        """Elements of the memory of such a matrix."""
        return math.prod(cls._shape(n_matrices, Rows(n, block).width, degree))

    def lay_out(self, x: Tensor, steps: Steps, mapping: AffineMap | None, *, is_signed: bool = False) -> None:
        """Fill it for x (g, n)."""
        if steps and is_signed:
            _lay_out_signed(self._rows, self.samples(self._rows[1]).copy_(x), mapping)
        elif steps:
            lay_out(self._rows, self.samples(self._rows[1]).copy_(x), steps, mapping)

    def pad(self, values: Tensor) -> Tensor:
        """Rows (s, n) as (s, width), contiguous."""
        if self.is_filled:
            return torch.nn.functional.pad(values, (0, self.width - self.n))
        return values.contiguous()

    def functions(self) -> Tensor:
        """P_k of the samples, (s or 1, degree + 1, n)."""
        functions = self._functions.unsqueeze(0) if self._is_shared else self._functions
        return self.samples(functions)

    @property
    def rows(self) -> Tensor:
        """P_k of the samples, and zero in the filling, (degree + 1, width); of a matrix that all series share."""
        assert self._is_shared
        return self._functions

    def series(self, coef: Tensor) -> Tensor:
        """Values for coef (s, K <= degree + 1): (s, width)."""
        n_coef = coef.shape[1]
        if self._array is not None and coef.shape[0] == 1:
            with np.errstate(all="ignore"):
                return torch.from_numpy(np.matmul(coef.numpy(), self._array[:n_coef]))
        if self._is_shared:
            return torch.mm(coef, self._whole[:n_coef])
        return torch.bmm(coef.unsqueeze(1), self._whole[:, :n_coef]).squeeze(1)

    def _buffer(self, n_series: int) -> Tensor | None:
        """A buffer for the values of so many series, written again by the next call; None where there is none yet."""
        if n_series == self._n_matrices:
            self._values = self._rows[-1]
        elif self._values is not None and self._values.shape[0] != n_series:
            self._values = None
        return self._values

    def values(self, coef: Tensor) -> Tensor:
        """`series` for coef (s, degree + 1), in a buffer that the next call of this or of `residuals` overwrites."""
        held = self._buffer(coef.shape[0])
        if self._array is not None and coef.shape[0] == 1:
            with np.errstate(all="ignore"):
                np.matmul(coef.numpy(), self._array[:-1], out=self._array[-1:])
        elif self._is_shared:
            self._values = torch.mm(coef, self._functions, out=held)
        else:
            assert held is not None
            torch.bmm(coef.unsqueeze(1), self._functions, out=held.unsqueeze(1))
        assert self._values is not None
        return self._values

    def residuals(self, coef: Tensor, y: Tensor) -> Tensor:
        """Values minus y (s or 1, n) for coef (s, degree + 1): (s, width), zero in the filling, in the same buffer."""
        values = self.values(coef)
        self.samples(values).sub_(y)
        return values

    def second(self, n_series: int) -> Tensor:
        """A second buffer (s, width)."""
        if self._second is None or self._second.shape[0] != n_series:
            self._second = self._all.new_empty(n_series, self.width)
        return self._second

    def moments(self, delta: Tensor) -> Tensor:
        """Sums of delta P_k for delta (s, width): (s, degree + 1) float64."""
        return self._products(delta, self._functions)

    def moments_and_dots(self, delta: Tensor, residuals: Tensor) -> Tensor:
        """Sums of delta P_k, and behind them of delta times residuals: (s, degree + 2) float64.

        Args:
            delta: (s, width).
            residuals: the last result of `residuals`, (s, width).
        """
        if residuals.shape[0] == self._n_matrices:  # they lie below the functions
            return self._products(delta, self._whole)
        return torch.cat((self.moments(delta), self.dots(delta, residuals)), 1)

    def _products(self, delta: Tensor, rows: Tensor) -> Tensor:
        """Products of delta (s, width) with rows of the matrix: in its dtype within a block, in float64 over blocks."""
        if self._array is not None and delta.shape[0] == 1:
            shape = (self.n_blocks, self.block)
            left, right = delta.numpy().reshape(shape), self._array[: len(rows)].reshape(-1, *shape)
            with np.errstate(all="ignore"):
                return torch.from_numpy(np.vecdot(left, right).sum(1, dtype=np.float64)).unsqueeze(0)
        if self._is_shared and self.n_blocks == 1:
            return torch.mm(delta, rows.t()).double()
        if self._is_shared and self.n_blocks <= self._few_blocks:
            cut = zip(delta.split(self.block, 1), rows.split(self.block, 1), strict=True)
            first, *others = [torch.mm(part, functions.t()).double() for part, functions in cut]
            return sum(others, first)
        n_rows = rows.shape[0 if self._is_shared else 1]
        blocks = self._all[:n_rows].unflatten(2, (self.n_blocks, self.block)).flatten(1, 2)
        blocks = blocks.permute(1, 2, 0)  # (g * n_blocks, B, K)
        if self._is_shared:
            by_block = delta.view(-1, self.n_blocks, self.block).transpose(0, 1)
            return torch.bmm(by_block, blocks).sum(0, dtype=torch.float64)
        sums = torch.bmm(delta.view(-1, 1, self.block), blocks)
        return sums.view(delta.shape[0], self.n_blocks, -1).sum(1, dtype=torch.float64)

    def normal(self, residuals: Tensor, weight: Tensor | None, *, want_gram: bool) -> Tensor:
        """Sums of w P_k and of w P_d P_k with want_gram, of w r P_k, k = 0 .. d, and of w r**2: (s, 3 d + 4 or d + 2).

        Args:
            residuals: the last result of `residuals`, (s, width).
            weight: (s or 1, n), or None.
            want_gram: whether the sums without r are wanted.
        """
        padded = None if weight is None else self.pad(weight)
        n_series = residuals.shape[0]
        left = [self._rows[0], self._rows[-2], residuals] if want_gram else [residuals]
        if self._is_shared and n_series == 1:
            # A buffer that stays: to get a megabyte from the system for each chunk would take as long as its sums.
            if self._weighted is None:
                self._weighted = self._all.new_empty(len(left), self.width + APART)[:, : self.width]
            for row, values in zip(self._weighted, left, strict=True):
                if padded is None:
                    row.copy_(values[0])
                else:
                    torch.mul(values[0], padded[0], out=row)
            sums = self._products(self._weighted, self._whole)
            return torch.cat((sums[:, :-1].flatten(), sums[-1, -1:])).unsqueeze(0)
        if padded is not None:
            left = [values * padded for values in left]
        if self._is_shared:
            sums = self.moments(torch.cat(left)).split([len(values) for values in left])
            parts = [rows.expand(n_series, -1) for rows in sums]
        else:
            parts = [self.moments(values.expand(n_series, -1).contiguous()) for values in left]
        return torch.cat((*parts, self.dots(left[-1], residuals)), 1)
