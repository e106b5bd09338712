"""How data are cut on a CPU: one record of lengths, and the way to compute with another one.

The lengths change no result beyond its rounding. `current` gives the record in force; `using` sets another one for a
block of code, which is how tests reach the borders of chunks with a few samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch

# Vector lanes of float32, by what torch calls the capability of the CPU.
_LANES = {"AVX512": 16, "AVX2": 8}


@dataclass(frozen=True)
class Sizes:
    """Lengths that the CPU's passes use.

    Attributes:
        longest_block: the most samples that are added up in float32; between blocks sums are float64. Relative errors
            of the sums at n = 1e7: on random data 1e-8 with 1024 and 6e-8 with 4096; where all terms are alike, so that
            roundings add up, 1e-6 and 4e-6. Longer blocks were not faster.
        short: samples of one series of powers up to which a pass is made in numpy; half as many in other bases, which
            take a row for each function, and in all of many series. PyTorch takes more than one thread from 2**15
            samples on, and waits for it (two x86 cores, n = 40000, degree 5, squared error and gradient, numpy on one
            thread / torch on two: 102 / 119 us; n = 32768 beside busy processes: torch 50 ms).
        held: samples of one series up to which such a pass holds the powers of all samples.
        shared: elements (series x samples) of series that share x up to which a pass is made in numpy.
        block: samples of a block where there are many.
        few_blocks: up to so many blocks take a product each. A batched product wakes all threads, which costs more than
            that, and milliseconds where other processes keep the cores busy.
        chunk_of_a_thread: elements (series x samples) in a chunk for each thread of a CPU. PyTorch gives a thread at
            least so many, and with more the matrix leaves the second level of cache (two x86 cores, n = 1e7, float32,
            2**15, 2**16 and 2**17 elements a thread: 17, 19 and 22 ms for degree 5, 30, 36 and 38 ms for degree 10).
        samples_of_a_thread: samples of one series in a chunk for each thread of a CPU, where there is no matrix but up
            to five rows (two x86 cores, n = 1e6, float32, squared error and gradient to coef, from 2**14 to 2**20
            samples in a chunk: two threads 6.8, 4.6, 4.1, 3.0, 2.6, 2.5 and 3.2 ms, one thread 6.9, 4.7, 3.7, 3.4, 4.3,
            6.0 and 5.7 ms).
        with_two_threads: samples of one series up to which two threads share each operation, and above which one
            computes alone, which wakes no threads. An operation with threads waits for them, for milliseconds where
            other processes keep the cores busy (two x86 cores, such processes, n = 1e6, loss and gradient: one thread
            0.035 s, two 0.8 s, eager PyTorch 0.6 s in one run; 8, 8 and 22 ms in another; quiet, n = 1e7: 36, 22 and
            215 ms). More than two always share.
        long_chunk: times a `chunk_of_a_thread` is a chunk of one series that has a matrix, for each of threads that
            share it: the shorter, the more often they wait.
        workspace: bytes that a thread keeps from one pass to the next at the most, see `chunked.workspace`.
        activation_of_a_thread: elements in a chunk for each thread of a CPU, where an elementwise polynomial of several
            groups is gone through. It keeps three rows of them, not a matrix (two x86 cores, (4096, 1024) float32, one
            thread, values and gradients with 2**14, 2**15 and 2**16: 64, 49 and 41 ms).
        short_activation: elements, times the number of coefficients, up to which an elementwise polynomial is gone
            through in numpy (two busy x86 cores, degree 5, float32, values and gradients in numpy / in
            torch, 2**12, 2**14 and 2**15 elements: 0.46 / 1.07, 0.43 / 0.83 and 0.7 / 2.8 ms).
        chunk_elsewhere: elements in a chunk on other devices, which want enough work for a launch. To be measured.
        kept: elements up to which an objective that is bound to its data keeps its basis functions.
        compiled_lane: samples that a vector lane adds up, one after the other, in a loop that Inductor makes. For equal
            samples that is a relative error of 1e-6.
        kan_chunk_of_a_thread: elements (rows x features) in a chunk of a KAN layer for each thread of a CPU. Longer
            chunks are little faster (x86-64, degree 4, float32, from 2**16 to 2**20 elements a thread: within 2 % with
            one thread, 10 % with two). Up to six buffers are as large, of 4 bytes an element.
        kan_fewest_rows: of a chunk of a KAN layer, however many features.
        kan_enough_rows: of such a chunk where inputs and outputs are many: the coefficients, and the gradient to them,
            pass through the cache once a chunk (2000 -> 2000, one thread: 64, 128, 256 rows take 1.4, 1.1 and 1).
            Where one of them is few, more rows only take more memory, and time (20000 -> 10: 1, 1.5 and 2).
        short_kan: multiplications (rows, at least 4, x in x out x degree) up to which a KAN layer is computed in numpy:
            above that OpenBLAS uses several threads.
        many_chunk: elements (series x samples) in a chunk of many series with samples of their own (two x86 cores,
            squared error and gradient to coef, 15000 series of 64 samples, degree 10, float32, 2**15, 2**16 and 2**18
            elements: 0.80, 0.61 and 0.52 of the time of Horner's rule written out).
        many_in_numpy: elements up to which Horner's rule of many series takes numpy instead of torch: two operations a
            step instead of one, each in a third of the time of a call.
        many_turned: series of fewer samples lie as (n, s). A column of coefficients is slow to broadcast along a short
            row (32768 elements, one thread: 38, 11 and 6 us for rows of 4, 16 and 64), and the transpose takes 12 us.
        transformed: elements (samples x series x examples) up to which a loss, or values, under a transform of
            torch.func are operations on whole tensors (two x86 cores, degree 5, float32, squared error, gradients of
            100 examples of 64 and of 2000 samples, and of 20000: such operations 0.6, 2.2 and 23 ms, autograd Functions
            2.3, 3.4 and 12 ms).
        few_samples: samples up to which a least-squares fit keeps the basis functions of all of them in numpy.
    """

    longest_block: int = 2048
    short: int = (1 << 16) - 1
    held: int = 1 << 12
    shared: int = 1 << 18
    block: int = 1024
    few_blocks: int = 4
    chunk_of_a_thread: int = 1 << 15
    samples_of_a_thread: int = 1 << 17
    with_two_threads: int = 1 << 24
    long_chunk: int = 4
    workspace: int = 1 << 24
    activation_of_a_thread: int = 1 << 16
    short_activation: int = 3 << 16
    chunk_elsewhere: int = 1 << 22
    kept: int = 1 << 18
    compiled_lane: int = 256
    kan_chunk_of_a_thread: int = 1 << 17
    kan_fewest_rows: int = 64
    kan_enough_rows: int = 256
    short_kan: int = 1 << 18
    transformed: int = 1 << 18
    few_samples: int = 1 << 13
    many_chunk: int = 1 << 18
    many_in_numpy: int = 1 << 11
    many_turned: int = 16

    @property
    def compiled_row(self) -> int:
        """Samples of a row in a loop that Inductor makes: those of all vector lanes.

        The cost of a row is 1 % of the time without vector instructions, and nothing with them.
        """
        return self.compiled_lane * _LANES.get(torch.backends.cpu.get_cpu_capability(), 1)

    def chunk(self, device: torch.device) -> int:
        """Elements (series x samples) in a chunk on a device."""
        return self.chunk_of_a_thread * torch.get_num_threads() if device.type == "cpu" else self.chunk_elsewhere

    def chunk_of_one(self, device: torch.device, n: int, *, has_matrix: bool = False, may_be_alone: bool = True) -> int:
        """Samples in a chunk of n samples of one series, on a device.

        Args:
            device: of the samples.
            n: samples.
            has_matrix: whether a chunk has a matrix of basis functions.
            may_be_alone: whether one of two threads may compute alone.
        """
        if device.type != "cpu":
            return self.chunk_elsewhere
        n_threads = torch.get_num_threads()
        if n_threads == 2 and may_be_alone and n > self.with_two_threads:
            n_threads = 1
        if not has_matrix:
            return n_threads * self.samples_of_a_thread
        return self.chunk_of_a_thread * (1 if n_threads == 1 else n_threads * self.long_chunk)

    def kan_rows(self, device: torch.device, n_in: int, n_out: int) -> int:
        """Rows in a chunk of a KAN layer."""
        is_cpu = device.type == "cpu"
        size = self.kan_chunk_of_a_thread * torch.get_num_threads() if is_cpu else self.chunk_elsewhere
        fewest = max(self.kan_fewest_rows, min(n_in, n_out, self.kan_enough_rows))
        return max(fewest, size // max(n_in, n_out, 1))

    def activation_chunk(self, device: torch.device) -> int:
        """Elements in a chunk of an elementwise polynomial of several groups, on a device."""
        return self.activation_of_a_thread * torch.get_num_threads() if device.type == "cpu" else self.chunk_elsewhere


_sizes: ContextVar[Sizes] = ContextVar("polyfit_sizes", default=Sizes())  # noqa: B039 - frozen


def current() -> Sizes:
    """The record in force."""
    return _sizes.get()


@contextlib.contextmanager
def using(sizes: Sizes) -> Iterator[None]:
    """Compute with other lengths."""
    token = _sizes.set(sizes)
    try:
        yield
    finally:
        _sizes.reset(token)
