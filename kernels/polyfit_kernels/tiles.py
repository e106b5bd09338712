"""How the programs of a series share its samples: what every kernel with one pass over the data begins with.

The samples of a series are cut into tiles, and program p takes the tiles p, p + programs, ... The full tiles are loaded
without a mask, which keeps 128-bit loads for any number of samples. The rest of the samples is one masked tile. The
program whose turn it would be takes it first, in a branch before its loop.

The branch stands before the loop for two reasons. A second loop behind the first costs registers: 106 instead of 80 at
degree 20 on sm_90 (objective). A branch behind the loop breaks a pass of Triton 3.7, which asserts that the result of a
loop is used once.

The loop itself stands in each kernel. Its body takes up to 31 operands, and a helper would get them as one tuple
without names.
"""

import triton
import triton.language as tl


@triton.jit
def place(programs):
    """The series of this program and its number among the programs of the series, int64."""
    pid = tl.program_id(0).to(tl.int64)
    return pid // programs, pid % programs


@triton.jit
def offsets(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The samples of a tile relative to its first one, int64 [ROWS, COLUMNS]: the columns of a row are contiguous."""
    return (tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)


@triton.jit
def full_tiles(n_samples, TILE: tl.constexpr):
    """The number of full tiles, int64."""
    return tl.full((), n_samples // TILE, tl.int64)


@triton.jit
def has_rest(n_samples, full, program, programs, TILE: tl.constexpr):
    """Whether there are samples behind the full tiles and this program takes them."""
    return (program == full % programs) & (full * TILE < n_samples)


@triton.jit
def load(ptr, start, offsets, stride, mask, MASKED: tl.constexpr, COMPUTE: tl.constexpr):
    """The samples of a tile from `start` on, in the dtype that computes; 0 where the mask is not set."""
    if MASKED:
        return tl.load(ptr + start * stride + offsets * stride, mask=mask, other=0.0).to(COMPUTE)
    else:
        return tl.load(ptr + start * stride + offsets * stride).to(COMPUTE)
