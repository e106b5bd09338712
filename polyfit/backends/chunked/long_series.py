"""Many series of powers, each with samples of its own, in torch, some series at a time: the rows of `long` for these.

All operations are of torch, on the same threads: what one of numpy reads in between would be in the caches of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.long import RowsInTorch
from polyfit.backends.chunked.many import horner
from polyfit.backends.chunked.samples import map_
from polyfit.backends.chunked.workspace import borrow, in_parts
from polyfit.formula import Model

_N_ROWS = 4  # t, where it is not x itself; the predictions; residuals or losses; powers or products
_FEW = 64  # samples of a series up to which a product with ones adds them up faster


class LongSeries(RowsInTorch):
    """Rows (s, n) for s series of n samples: see `plain_rows.PlainRows`.

    Args:
        memory: at least `_N_ROWS * s * n` elements, in the dtype that computes.
        n_series: s.
        n: samples of a series.
    """

    def __init__(self, memory: Tensor, n_series: int, n: int) -> None:
        rows = memory.narrow(0, 0, _N_ROWS * n_series * n).view(_N_ROWS, n_series, n)
        self._of_t, self.p, self.other, self._buffer = rows.unbind(0)
        self._t, self._n_coef = self._of_t, 1
        self._ones = memory.new_ones(n) if n <= _FEW else None

    def prepare(self) -> None:
        """Nothing: no row is expected to hold anything."""

    def release(self) -> None:
        """Let go of x."""
        self._t = self._of_t

    def load(self, x: Tensor, model: Model, n_coef: int) -> None:
        """Take the samples."""
        self._t, self._n_coef = x, n_coef
        if model.affine_map is not None:
            self._t = map_(self._of_t.copy_(x), model.affine_map)

    @staticmethod
    def numbers(coef: Tensor) -> Sequence[Tensor]:
        """Coefficients (s, K) as `evaluate` takes them, K columns (s, 1)."""
        return coef.unsqueeze(2).unbind(1)

    def evaluate(self, coef: Sequence[Tensor], out: Tensor) -> None:
        """Write the values of at most as many coefficients to `out`."""
        if len(coef) == 1:
            out.copy_(coef[0])
        else:
            horner(self._t, coef, out)

    def swap(self) -> None:
        """Let p and other change their places."""
        self.p, self.other = self.other, self.p

    def _sums(self, rows: Tensor) -> Tensor:
        """Sums over the samples of each series, (s,)."""
        return rows.sum(1) if self._ones is None else torch.mv(rows, self._ones)

    def moments_of_p(self) -> NDArray[np.float64]:
        """Sums of P_k times the row p, (s, degree + 1)."""
        found, power = [self._sums(self.p)], self.p
        for _ in range(1, self._n_coef):
            power = torch.mul(power, self._t, out=self._buffer)
            found.append(self._sums(power))
        return torch.stack(found, 1).double().numpy()

    def squares(self) -> Tensor:
        """The sums of the squares of the row p, (s,)."""
        return self._sums(torch.mul(self.p, self.p, out=self._buffer))

    def products(self) -> Tensor:
        """The sums of the products of the rows p and other, (s,)."""
        return self._sums(torch.mul(self.p, self.other, out=self._buffer))

    def total_of_other(self) -> Tensor:
        """The sums of `other`, (s,)."""
        return self._sums(self.other)


def are_long(x: Tensor, basis: str) -> bool:
    """Whether samples (S, N) of many series are taken here."""
    lengths = sizes.current()
    return basis == "power" and lengths.many_turned <= x.shape[1] <= lengths.longest_block


def pieces(x: Tensor) -> Iterator[tuple[slice | None, LongSeries]]:
    """The series in order, None for all, each part with rows until the next one is asked for."""
    n_series, n = x.shape
    step = min(n_series, max(1, sizes.current().chunk_of_one(x.device, x.numel()) // n))
    lent = borrow(_N_ROWS * step * n, x, x.dtype)
    yield from in_parts(n_series, step, lent, (n, "series"), lambda memory, size: LongSeries(memory, size, n))
