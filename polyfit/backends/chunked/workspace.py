"""Memory that a thread lends to its passes over data, one after the other.

Memory of some hundred kilobytes comes from the operating system, which gives and clears it page by page: for one chunk
that takes longer than to compute with it.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from polyfit.backends import sizes

_kept = threading.local()


def borrow(size: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of at least so many elements on the device of a tensor, with no values. Give it back to `give_back`.

    A pass that begins inside of another one gets memory of its own.
    """
    memory = _kept_here().pop(_kind(dtype), None) if like.device.type == "cpu" else None
    return like.new_empty(size, dtype=dtype) if memory is None or memory.shape[0] < size else memory


def give_back(memory: Tensor) -> None:
    """Keep what `borrow` gave, for the next pass."""
    if memory.device.type == "cpu" and memory.nbytes <= sizes.current().workspace:
        _kept_here()[_kind(memory.dtype)] = memory


def _kind(dtype: torch.dtype) -> tuple[torch.dtype, bool]:
    return dtype, torch.is_inference_mode_enabled()  # whose tensors cannot be written outside of it


def _kept_here() -> dict[tuple[torch.dtype, bool], Tensor]:
    """The memory that this thread keeps."""
    if not hasattr(_kept, "memory"):
        _kept.memory = {}
    return _kept.memory
