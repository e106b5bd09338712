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
def place(programs, n_series, SERIES: tl.constexpr, ROWS: tl.constexpr):
    """The series of this program and its number among the programs of the series, int64.

    If a program takes several SERIES, the first is [ROWS, 1]: each row of the tile belongs to one series. Rows that
    would belong to a series behind the last one compute the last one again.
    """
    pid = tl.program_id(0).to(tl.int64)
    if SERIES == 1:
        return pid // programs, pid % programs
    else:
        series = pid * SERIES + tl.arange(0, ROWS)[:, None] // (ROWS // SERIES)
        return tl.minimum(series, n_series - 1), tl.full((), 0, tl.int64)


@triton.jit
def offsets(ROWS: tl.constexpr, COLUMNS: tl.constexpr, SERIES: tl.constexpr = 1):
    """The samples of a tile relative to its first one, int64 [ROWS, COLUMNS]: the columns of a row are contiguous.

    With several SERIES, the rows of each series begin with its first sample.
    """
    row = tl.arange(0, ROWS)[:, None]
    if SERIES > 1:
        row = row % (ROWS // SERIES)
    return (row * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)


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
        at = ptr + start * stride + offsets * stride
        return tl.load(at, mask=mask, other=0.0).to(COMPUTE)
    else:
        return tl.load(ptr + start * stride + offsets * stride).to(COMPUTE)


@triton.jit
def load_groups(
    ptr,
    start,  # int64, first sample of the tile
    offsets,  # int64 [ROWS, COLUMNS], samples of a group
    stride,
    n_samples,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,  # samples of a series in a group
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The groups of a tile, a tuple of [ROWS, COLUMNS]: one load for each, none of which waits for another."""
    loads = ()
    for group in tl.static_range(GROUPS):
        first = start + group * GROUP
        mask = first + offsets < n_samples if MASKED else None
        loads += (load(ptr, first, offsets, stride, mask, MASKED, COMPUTE),)
    return loads
