"""What a pass over plain series asks of its workspace, in numpy (`short`) or in torch (`long`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked import long, long_series
from polyfit.backends.chunked.pointwise import Terms
from polyfit.backends.chunked.shared import SharedWorkspace
from polyfit.backends.chunked.short import DTYPES, is_few, kept, workspace_for
from polyfit.formula import Model
from polyfit.losses import Loss

Row = Any  # of numpy or of torch: what they have in common is enough


class Pair(Protocol):
    """Two rows, of numpy or of torch."""

    @property
    def xp(self) -> Any:
        """The library."""

    @property
    def p(self) -> Row:
        """The row of predictions, later of slopes."""

    @property
    def other(self) -> Row:
        """A row for residuals or losses."""


class PlainRows(Pair, Protocol):
    """Rows for samples of one series, or of several."""

    def load(self, x: Row, model: Model, n_coef: int) -> None:
        """Take the samples."""

    def view(self, tensor: Tensor) -> Row:
        """An operand as it is taken here."""

    def numbers(self, coef: Tensor) -> Any:
        """Coefficients as `evaluate` takes them."""

    def evaluate(self, coef: Any, out: Row) -> None:
        """Write the values of at most as many coefficients to `out`."""

    def slopes(self, loss: Loss, y: Row, *, are_wanted: bool) -> Terms | None:
        """Write s over the predictions, and to `other` residuals or losses: see `pointwise.fill`.

        Where slopes are not wanted, the predictions may hold anything if `other` holds the losses.
        """

    def moments_of_p(self) -> NDArray[np.float64]:
        """Sums of P_k times the row p, (degree + 1,), or (S, degree + 1) of several series."""
        ...

    def squares(self) -> Any:
        """The sum of the squares of the row p: a float, or of several series sums (s,) as the library has them."""

    def products(self) -> Any:
        """The sum of the products of the rows p and other, likewise."""

    def total_of_other(self) -> Any:
        """The sum of `other`, likewise."""


def are_rows(x: Tensor, coef: Tensor, basis: str) -> bool:
    """Whether there are rows for plain samples and coefficients; otherwise they are many series."""
    return coef.dim() == 1 or x.dim() == 1 or is_few(x, coef, basis) or long_series.are_long(x, basis)


def pieces(
    x: Tensor, coef: Tensor, model: Model, *, wants_moments: bool = True, may_be_alone: bool = True
) -> Iterable[tuple[slice | None, PlainRows]]:
    """The pieces of x in order, None for all of it, each with rows that are good until the next one is asked for.

    Samples of one series, or series. `wants_moments`: whether moments are asked for. `may_be_alone`: see `Sizes`.
    """
    if x.dim() < coef.dim():
        key = (coef.shape[1], coef.shape[0], x.shape[0])
        kind = ("shared", *key, x.dtype, sizes.current().longest_block)
        return ((None, kept(kind, lambda: SharedWorkspace(*key, DTYPES[x.dtype]))),)
    if is_few(x, coef, model.basis):
        return ((None, workspace_for(x, coef, model, wants_moments=wants_moments)),)
    if x.dim() == 2:
        return long_series.pieces(x)
    return long.pieces(x, may_be_alone=may_be_alone)


def added(sums: Any, of_piece: NDArray[np.float64]) -> Any:
    """The sums so far, None at first, and those of a piece: of the same series (K,), or of the next ones (s, K)."""
    if sums is None:
        return of_piece
    return sums + of_piece if of_piece.ndim == 1 else np.concatenate((sums, of_piece))


def finish(terms: Terms | None, rows: Pair) -> None:
    """Write the losses to `other`, see `Terms`."""
    if terms is None:
        return
    s, other = rows.p, rows.other
    if terms.share is None:
        rows.xp.multiply(s, s, out=other)
        return
    if terms.share:
        other -= terms.share * s
    other *= s
