"""How the elements of (outer, groups, inner) are gone through: runs of memory, and parts of them that fit a chunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

# Loops over fewer neighbours of one group, or over fewer groups, cost more than the operation itself: the coefficients
# are then repeated for each element of a longer row. There must be so many rows that this takes no memory to speak of.
_SHORT_RUN, _LONG_ROW, _MANY_ROWS = 32, 1024, 64


class Layout(NamedTuple):
    """A run of memory as (outer, groups, inner), with groups that may stand for several elements of one group.

    Attributes:
        first: the element that it begins with.
        shape: of the run.
        copies: how often all groups are repeated.
        run: neighbours that are groups of their own here.
    """

    first: int
    shape: tuple[int, int, int]
    copies: int = 1
    run: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """The run of a tensor without gaps, or of one number that is expanded."""
        return tensor.view(-1).narrow(0, self.first, math.prod(self.shape)).view(self.shape)

    def repeated(self, coef: Tensor) -> Tensor:
        """Coefficients (G, K) of the groups here."""
        return coef.repeat_interleave(self.run, 0).repeat(self.copies, 1) if self.copies * self.run > 1 else coef

    def added_up(self, sums: Tensor) -> Tensor:
        """Sums (K, groups) over what stands for one group."""
        if self.copies * self.run == 1:
            return sums
        return sums.view(sums.shape[0], self.copies, -1, self.run).sum((1, 3))


def layouts(shape: Sequence[int]) -> list[Layout]:
    """How (outer, groups, inner) is gone through."""
    outer, groups, inner = shape
    if groups == 1:
        return [Layout(0, (1, 1, outer * inner))]
    if outer < _MANY_ROWS or inner >= _SHORT_RUN:
        return [Layout(0, (outer, groups, inner))]
    width = groups * inner
    copies = max(1, min(_LONG_ROW // width, outer // _MANY_ROWS))
    n_rows = outer // copies
    found = [Layout(0, (n_rows, copies * width, 1), copies, inner)]
    if left := outer - n_rows * copies:
        found.append(Layout(n_rows * copies * width, (left, width, 1), 1, inner))
    return found


# Where a part lies: axis, first index and size, for each axis that is cut.
Cuts = tuple[tuple[int, int, int], ...]


def places(shape: Sequence[int], chunk: int) -> Iterator[Cuts]:
    """Parts of (outer, groups, inner) of up to `chunk` elements."""
    steps = list(shape)
    for axis in range(3):  # an axis is cut where all that lies within it does not fit
        steps[axis] = min(steps[axis], max(1, chunk // math.prod(steps[axis + 1 :])))
    ranges = [
        [(axis, first, min(step, size - first)) for first in range(0, size, step)] if step < size else [None]
        for axis, (size, step) in enumerate(zip(shape, steps, strict=True))
    ]
    for found in itertools.product(*ranges):
        yield tuple(place for place in found if place is not None)


def cut(tensor: Tensor, cuts: Cuts) -> Tensor:
    """The part of a tensor (outer, groups, inner)."""
    for axis, first, size in cuts:
        tensor = tensor.narrow(axis, first, size)
    return tensor
