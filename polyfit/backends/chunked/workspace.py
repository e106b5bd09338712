"""Memory that a thread lends to its passes over data, one after the other, and the matrices made in it.

Memory of some hundred kilobytes comes from the operating system, which gives and clears it page by page: for one chunk
that takes longer than to compute with it. A training step is the same pass again: it finds its matrix as the last one
left it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from polyfit.backends import sizes

# Matrices that one memory remembers: those of a pass have at most four shapes.
_N_MADE = 8


class _Chunk(Protocol):
    def prepare(self) -> None:
        """Write what all calls expect in the memory: another matrix may have used it."""

    def release(self) -> None:
        """Let go of memory that is not the workspace's."""


Made = TypeVar("Made", bound=_Chunk)


class Workspace:
    """Memory of one dtype, with no values.

    Args:
        memory: a flat tensor.
    """

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self._made: dict[Hashable, Any] = {}
        self._prepared: object = None

    def get(self, kind: Hashable, make: Callable[[Tensor], Made]) -> Made:
        """The matrix of this kind, made in the memory; good until another one is asked for."""
        made = self._made.get(kind)
        if made is None:
            if len(self._made) == _N_MADE:
                self._made.clear()
            made = self._made[kind] = make(self.memory)
        if made is not self._prepared:
            made.prepare()
            self._prepared = made
        return made

    def release(self) -> None:
        """Let go of all memory but this one."""
        for made in self._made.values():
            made.release()


class _Kept(threading.local):
    """The workspaces that a thread keeps, by their kind."""

    def __init__(self) -> None:
        self.by_kind: dict[tuple[torch.dtype, bool], Workspace] = {}


_kept = _Kept()


def borrow(size: int, like: Tensor, dtype: torch.dtype) -> Workspace:
    """A workspace of at least so many elements on the device of a tensor. Give it back to `give_back`.

    A pass that begins inside of another one gets memory of its own.
    """
    workspace = _kept.by_kind.pop(_kind(dtype), None) if like.device.type == "cpu" else None
    if workspace is None or workspace.memory.shape[0] < size:
        workspace = Workspace(like.new_empty(size, dtype=dtype))
    return workspace


def give_back(workspace: Workspace) -> None:
    """Keep what `borrow` gave, for the next pass."""
    memory = workspace.memory
    if memory.device.type == "cpu" and memory.nbytes <= sizes.current().workspace:
        workspace.release()
        _kept.by_kind[_kind(memory.dtype)] = workspace


def in_parts(
    n: int, step: int, workspace: Workspace, kind: tuple[Hashable, ...], make: Callable[[Tensor, int], Made]
) -> Iterator[tuple[slice | None, Made]]:
    """Parts of n samples or series, `step` in each, None for all, with rows in a workspace, which is then given back.

    Args:
        n: samples or series.
        step: how many of them are in a part; the last one may have fewer.
        workspace: what `borrow` gave.
        kind: of the rows; with their number it tells them from others.
        make: makes rows for a number of samples or series in a memory.
    """
    try:
        for first in range(0, n, step):
            size = min(step, n - first)
            rows = workspace.get((size, *kind), lambda memory, size=size: make(memory, size))
            yield (None if size == n else slice(first, first + size)), rows
    finally:
        give_back(workspace)


def _kind(dtype: torch.dtype) -> tuple[torch.dtype, bool]:
    return dtype, torch.is_inference_mode_enabled()  # whose tensors cannot be written outside of it
