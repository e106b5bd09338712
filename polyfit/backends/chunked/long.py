"""One series of many samples, in torch, a chunk at a time: the workspace that `short` has in numpy.

An operation takes all threads of torch here, and its rows stay in their caches.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import steps_of
from polyfit.backends.chunked.pointwise import Terms
from polyfit.backends.chunked.samples import BUFFER, SECOND, VALUES, Samples, aligned, even
from polyfit.backends.chunked.workspace import borrow, in_parts
from polyfit.formula import Model
from polyfit.losses import MSE, Loss


class RowsInTorch(abc.ABC):
    """What rows of torch have in common: they have properties or attributes p and other, and can swap these."""

    xp: Any = torch
    p: Any
    other: Any

    @abc.abstractmethod
    def swap(self) -> None:
        """Let p and other change their places."""

    @staticmethod
    def view(tensor: Tensor) -> Tensor:
        """The operand as it is taken here."""
        return tensor

    def slopes(self, loss: Loss, y: Tensor, *, are_wanted: bool) -> Terms | None:
        """Write s over the predictions, and to `other` residuals or losses: see `pointwise.fill`."""
        if isinstance(loss, MSE):
            self.p.sub_(y)
            return Terms(2.0, None)
        if not are_wanted:
            loss.loss_(self.p, y)
            self.swap()
            return None
        loss.slope_and_loss_(self.p, y, self.other)
        self.swap()
        return Terms(1.0, 0.0) if loss.is_product else None


class LongWorkspace(Samples, RowsInTorch):
    """Rows for a chunk of samples: see `plain_rows.PlainRows`."""

    _of_p, _of_other = VALUES, SECOND

    @property
    def p(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The row of predictions, later of slopes."""
        return self._rows[self._of_p]

    @property
    def other(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A row for residuals or losses."""
        return self._rows[self._of_other]

    def load(self, x: Tensor, model: Model, n_coef: int) -> None:
        """Take the samples."""
        self.take(x, steps_of(model.basis, n_coef - 1), model.affine_map)

    @staticmethod
    def numbers(coef: Tensor) -> Sequence[Tensor]:
        """Coefficients as `evaluate` takes them."""
        return coef.unbind()

    def swap(self) -> None:
        """Let p and other change their places."""
        self._of_p, self._of_other = self._of_other, self._of_p

    def moments_of_p(self) -> NDArray[np.float64]:
        """Sums of P_k times the row p, (degree + 1,)."""
        return torch.stack(self._by_block(self._all[self._of_p])).sum(1, dtype=torch.float64).numpy()

    def squares(self) -> float:
        """The sum of the squares of the row p."""
        return self._product(self._of_p, self._of_p)

    def products(self) -> float:
        """The sum of the products of the rows p and other."""
        return self._product(self._of_p, self._of_other)

    def _product(self, i: int, j: int) -> float:
        torch.mul(self._rows[i], self._rows[j], out=self._rows[BUFFER])
        return float(self._blocks[BUFFER].sum(1).sum(dtype=torch.float64))

    def total_of_other(self) -> float:
        """The sum of `other`."""
        return float(self._blocks[self._of_other].sum(1).sum(dtype=torch.float64))


def pieces(x: Tensor, *, may_be_alone: bool) -> Iterator[tuple[slice | None, LongWorkspace]]:
    """The chunks of samples x (N,) in order, None for all, each with a workspace until the next one is asked for."""
    n, lengths = x.shape[0], sizes.current()
    of_chunk = even(n, lengths.chunk_of_one(x.device, n, may_be_alone=may_be_alone))
    block = aligned(of_chunk, lengths.longest_block)
    lent = borrow(LongWorkspace.size(of_chunk, block), x, x.dtype)
    yield from in_parts(n, of_chunk, lent, (block, "long"), lambda memory, size: LongWorkspace(memory, size, block))
