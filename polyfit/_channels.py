"""How the elements of a tensor lie in memory, and in which group of channels each is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def memory_order(samples: Sequence[Tensor]) -> list[int] | None:
    """The order of axes in which all samples, of one shape, lie in memory without gaps; None for the order they have.

    In this order a view gives them on one axis. Samples that have no such order in common are copied in theirs.
    """
    first = samples[0]
    if first.dim() < 2 or all(tensor.is_contiguous() for tensor in samples):
        return None
    order: list[int] = []
    for axis in range(first.dim()):  # a sort: torch.compile can compare symbolic strides, but not sort by them
        place = len(order)
        while place > 0 and first.stride(order[place - 1]) < first.stride(axis):
            place -= 1
        order.insert(place, axis)
    return order if all(tensor.permute(order).is_contiguous() for tensor in samples) else None


class Channels(NamedTuple):
    """How the elements of a tensor lie in memory by group of channels: a group after the other, again and again.

    Attributes:
        shape: (outer, groups, inner). Element ``[i, g, j]`` belongs to group g.
        order: the axes in the order in which they lie in memory, or None where that is their own order.
    """

    shape: tuple[int, int, int]
    order: list[int] | None

    def flatten(self, x: Tensor) -> Tensor:
        """(outer, groups, inner), a view where x has no gaps."""
        return (x if self.order is None else x.permute(self.order)).reshape(self.shape)

    def restore(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Values (outer, groups, inner) in the shape and in the memory format of x."""
        if self.order is None:
            return values.view(shape)
        order = self.order
        return values.view([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(len(order))])


def channels_of(x: Tensor, channel_dim: int, n_groups: int) -> Channels:
    """The layout of x for n_groups groups of as many neighbouring channels each; for one group any channel_dim."""
    order = None if x.is_contiguous() else memory_order([x])
    if n_groups == 1:
        return Channels((1, 1, x.numel()), order)
    shape, place = x.shape, channel_dim % x.dim()
    if order is not None:
        shape, place = [shape[axis] for axis in order], order.index(place)
    group = shape[place] // n_groups
    return Channels((math.prod(shape[:place]), n_groups, group * math.prod(shape[place + 1 :])), order)
