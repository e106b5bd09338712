"""Data cut into parts, each with the matrix of its basis functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import BasisMatrix, internal_dtype, steps_of
from polyfit.backends.chunked.samples import Samples, aligned, even
from polyfit.backends.chunked.workspace import Workspace, borrow, give_back
from polyfit.bases import AffineMap
from polyfit.formula import compute_dtype


class Part(NamedTuple):
    """Some samples of some series, and the matrix of their basis functions, or what gives their values alone."""

    series: slice
    samples: slice
    matrix: BasisMatrix | Samples
    dtype: torch.dtype  # of the matrix
    n_series: int  # of all parts
    is_all: bool  # whether this is the only part

    @property
    def functions(self) -> BasisMatrix:
        """The matrix itself, where it was asked for."""
        assert isinstance(self.matrix, BasisMatrix)
        return self.matrix

    def operand(self, rows: Tensor) -> Tensor:
        """Rows (S or 1, N) of y, weight or an upstream gradient: (s or 1, n), in the dtype of the matrix."""
        rows = self.rows(rows)
        return rows if rows.dtype == self.dtype else rows.to(self.dtype)

    def rows(self, rows: Tensor) -> Tensor:
        """Rows (S or 1, N): (s or 1, n)."""
        if self.is_all:
            return rows
        return (rows[self.series] if rows.shape[0] > 1 else rows)[:, self.samples]

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
        """Write per-sample values (s, n), times a factor (S,) of their series, to their place in out (S or 1, N).

        Where one row of `out` serves all series, the values are added up over the series.
        """
        if upstream is not None:
            values = values * upstream[self.series].unsqueeze(1).to(values.dtype)
        if out.shape[0] < self.n_series:
            place = out[:, self.samples]
            place += values.sum(0, keepdim=True)
        else:
            out[self.series, self.samples] = values


class Parts:
    """The parts of the data, one after the other. Parts of one shape share one matrix.

    Args:
        x: samples (S or 1, N).
        n_series: S.
        degree: of the polynomial.
        mapping: from domain to window, or None.
        basis: its name.
        dtype: of the matrices; by default what `internal_dtype` says.
        at_once: elements (series x samples) up to which there is one part, if that is more than a chunk.
        is_signed: whether the functions are multiplied by `signs`.
        is_out: samples whose x is replaced by a harmless one, one row for each row of x or one for all; or None.
        has_functions: whether sums with the basis functions are wanted, and not only values.
        has_matrix: whether a matrix of the functions is wanted. Otherwise values and sums of one series on a CPU do
            without it, where the data are more than `at_once`.
        may_be_alone: see `Sizes.chunk_of_one`.

    Attributes:
        dtype: of the matrices.
        is_one: whether there is one part.
        is_shared: whether all series share x, and with it a matrix.
    """

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
        is_out: Tensor | None = None,
        has_functions: bool = True,
        has_matrix: bool = True,
        may_be_alone: bool = True,
    ) -> None:
        self._is_signed, self._is_out = is_signed, is_out
        self._x, self._n_series, self._n_samples = x, n_series, x.shape[1]
        self._degree, self._mapping, self._steps = degree, mapping, steps_of(basis, degree)
        self.is_shared = x.shape[0] == 1
        is_one = n_series == 1 and (not has_functions or x.device.type == "cpu")
        self._has_matrix = not is_one or (has_functions and (has_matrix or x.shape[1] <= at_once))
        if dtype is None:
            dtype = internal_dtype(x.dtype, x.device) if self._has_matrix else compute_dtype(x.dtype)
        self.dtype, self._is_kept = dtype, at_once > 0
        lengths = sizes.current()
        n, longest = self._n_samples, lengths.longest_block
        size = lengths.chunk(x.device)
        if n_series == 1:
            size = lengths.chunk_of_one(x.device, n, has_matrix=self._has_matrix, may_be_alone=may_be_alone)
        self.is_one = n_series * n <= max(size, at_once)
        self._series_step, self._sample_step = max(1, n_series), max(1, n)
        if self.is_one:  # in blocks of one length
            self._block = even(n, longest) if self._has_matrix else aligned(n, longest)
        elif n_series == 1:  # in chunks of one length, too
            of_chunk = even(n, size)
            self._block = aligned(of_chunk, longest)
            self._sample_step = -(-of_chunk // self._block) * self._block
        else:
            self._block = lengths.block if n > longest else n
            n_blocks = max(1, min(size, n) // self._block)  # as many as there are, or as fit
            self._series_step = min(n_series, max(1, size // (self._block * n_blocks)))
            if self.is_shared:  # more series in a product, fewer products
                self._series_step = min(n_series, max(1, size // self._block))
                n_blocks = max(1, min(n_blocks, size // (self._block * self._series_step)))
            self._sample_step = self._block * n_blocks

    def __iter__(self) -> Iterator[Part]:
        """The parts in order; each is good until the next is asked for, if the data are not kept at once."""
        if not self._n_samples or not self._n_series:
            return
        if self._is_kept:
            yield from self._parts(Workspace(self._x.new_empty(self._size(), dtype=self.dtype)))
            return
        workspace = borrow(self._size(), self._x, self.dtype)
        try:
            yield from self._parts(workspace)
        finally:
            give_back(workspace)

    def _size(self) -> int:
        """Elements of the memory that a part needs."""
        n, n_series = min(self._sample_step, self._n_samples), min(self._series_step, self._n_series)
        if not self._has_matrix:
            return Samples.size(n, self._block)
        return BasisMatrix.size(1 if self.is_shared else n_series, n, self._block, self._degree)

    def _parts(self, workspace: Workspace) -> Iterator[Part]:
        everything = slice(None)
        for samples in _slices(self._n_samples, self._sample_step):
            is_laid_out = False
            for series in _slices(self._n_series, self._series_step):
                shape = (1 if self.is_shared else series.stop - series.start, samples.stop - samples.start)
                matrix = self._matrix(workspace, *shape)
                if not (self.is_shared and is_laid_out):
                    self._fill(matrix, series, samples)
                    is_laid_out = True
                places = (everything, everything) if self.is_one else (series, samples)
                yield Part(*places, matrix, self.dtype, self._n_series, self.is_one)

    def _fill(self, matrix: BasisMatrix | Samples, series: slice, samples: slice) -> None:
        """Lay the basis functions of these samples out."""

        def part_of(rows: Tensor) -> Tensor:
            return rows if self.is_one else (rows[series] if rows.shape[0] > 1 else rows)[:, samples]

        x = part_of(self._x)
        if self._is_out is not None:
            x = torch.where(part_of(self._is_out), 0.0 if self._mapping is None else self._mapping.center, x)
        matrix.lay_out(x, self._steps, self._mapping, is_signed=self._is_signed)

    def _matrix(self, workspace: Workspace, n_matrices: int, n: int) -> BasisMatrix | Samples:
        block = self._block
        if not self._has_matrix:
            return workspace.get((n, block), lambda memory: Samples(memory, n, block))
        kind = (n_matrices, n, block, self._degree, self.is_shared, sizes.current().few_blocks)
        return workspace.get(
            kind,
            lambda memory: BasisMatrix(memory, n_matrices, n, block, self._degree, is_shared=self.is_shared),
        )


def _slices(size: int, step: int) -> Iterator[slice]:
    for first in range(0, size, step):
        yield slice(first, min(first + step, size))
