"""The properties of tensors and of their device that launchers use.

Operands are canonical: (S, N), or (1, N) where all S series share one row. Any strides.
"""

import functools
from collections.abc import Iterator

import torch
import triton.language as tl

from polyfit_kernels import launch


@functools.cache
def processors_and_warp(device: torch.device) -> tuple[int, int]:
    """Multiprocessors of the device and threads of a warp; (2, 32) for CPU tensors (the interpreter)."""
    if device.type == "cpu":
        return 2, 32
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, getattr(properties, "warp_size", 32)


@functools.cache
def compute_capability(device: torch.device) -> int:
    """The major compute capability of an NVIDIA GPU; 0 of other devices."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return torch.cuda.get_device_capability(device)[0] if is_nvidia else 0


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program can have on the device; 227 KiB for CPU tensors (the interpreter)."""
    if device.type == "cpu":
        return 227 * 1024
    properties = torch.cuda.get_device_properties(device)
    names = ("shared_memory_per_block_optin", "shared_memory_per_block")
    return max(getattr(properties, name, 48 * 1024) for name in names)


def compute_dtypes(dtype: torch.dtype) -> tuple[torch.dtype, tl.dtype]:
    """The dtype that tensors of `dtype` are computed in, for torch and for Triton."""
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def rows(operand: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    """The rows of some series, or the one row that all series share.

    A view that torch negates lazily (``z.conj().imag``) is copied: a kernel reads memory, which is not negated yet.
    """
    if operand is None:
        return None
    if operand.shape[0] not in {1, part.stop - part.start}:
        operand = operand[part]
    return operand.resolve_neg()


def strides(operand: torch.Tensor | None) -> tuple[int, int]:
    """Strides over series and samples: 0 over series that share one row; 0 and 0 for no operand."""
    if operand is None:
        return 0, 0
    return 0 if operand.shape[0] == 1 else operand.stride(0), operand.stride(1)


class PerSample:
    """The per-sample gradient of one operand.

    Kernels write one row for each series. If the series share the operand, the rows of some series at a time go to a
    buffer, and their sum is added to the result, which is zero without series. Otherwise the rows go to the result.

    Args:
        operand: (S or 1, N), or None.
        n_series: S.
        dtype: dtype of the gradient.
        wanted: whether the gradient is wanted.
    """

    def __init__(self, operand: torch.Tensor | None, n_series: int, dtype: torch.dtype, wanted: bool) -> None:
        self.is_shared = False
        self.result: torch.Tensor | None = None
        if operand is not None and wanted:
            self.is_shared = operand.shape[0] != n_series
            new = torch.zeros if self.is_shared else torch.empty
            self.result = new(operand.shape, dtype=dtype, device=operand.device)
        self._buffer: torch.Tensor | None = None

    def target(self, part: slice, n_series: int) -> torch.Tensor | None:
        """The tensor that the kernel writes for the n_series of `part`; None if the gradient is not wanted."""
        if self.is_shared and self.result is not None:
            self._buffer = self.result.new_empty(n_series, self.result.shape[1])
            return self._buffer
        return rows(self.result, part)

    def collect(self) -> None:
        """Add the sum of the buffer to the result, for a shared operand."""
        if self._buffer is not None and self.result is not None:
            self.result += self._buffer.sum(0, keepdim=True)
            self._buffer = None


def parts(n_series: int, n_samples: int, itemsize: int, *gradients: PerSample) -> Iterator[slice]:
    """The series of each launch: as many as the grid and the buffer for shared gradients hold."""
    is_shared = any(gradient.is_shared for gradient in gradients)
    step = launch.series_per_launch(n_series, n_samples, itemsize, shared=is_shared, policy=launch.current())
    for first in range(0, n_series, step):
        yield slice(first, min(first + step, n_series))
