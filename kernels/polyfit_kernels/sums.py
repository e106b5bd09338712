"""Sums over samples: accumulators in the registers of a thread, and one joint reduction of all of them at the end.

A tile is [ROWS, COLUMNS]. One thread loads the columns of a row at once. Adding a tile to an accumulator [ROWS] sums
over the columns inside the thread: there is no shuffle and no barrier in the loop over the data.

At the end the accumulators are joined into one tensor, and one reduction over the rows serves all of them. It takes 4
barriers for any number of sums; a reduction for each sum would take 3 a sum. This reduction and all later sums are
float64. If a series has several programs, the last one to finish adds up the sums of all, so one launch gives the
totals (`polyfit_kernels.partials` is the part of this on the host).
"""

import triton
import triton.language as tl

from polyfit_kernels import bases


def levels(count: int) -> int:
    """Levels of pairwise joins that make one tensor of `count` accumulators: LEVELS of `store_totals`."""
    return (count - 1).bit_length()


def width(count: int) -> int:
    """Size of that tensor: `count` padded to a power of 2."""
    return 1 << levels(count)


# Triton 3.8 adds up the values of a thread in pairs, 3.7 one after the other. Many pairs of many sums are then held at
# once: moments of degree 5 took 168, 136, 167 registers on sm_80, sm_90, sm_100 instead of 96, 96, 109, and sm_100
# spilled at degree 10, as it did for objective at degree 20.
_IN_PAIRS = tl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 8))


@triton.jit
def over_columns(tile):
    """The sum over each row of a tile [ROWS, COLUMNS] whose rows lie in a thread each."""
    if not _IN_PAIRS:
        return tl.sum(tile, axis=1)
    # One column after the other. Splitting moves no data; it gives the columns of tiles that were joined tile by tile.
    columns = (tile,)
    for _ in tl.static_range(5):  # at most 32
        if columns[0].shape[1] > 1:
            parts = ()
            for i in tl.static_range(len(columns)):
                column = columns[i]
                left, right = tl.split(tl.reshape(column, (column.shape[0], column.shape[1] // 2, 2)))
                parts += (left, right)
            columns = parts
    total = columns[0]
    for i in tl.static_range(1, len(columns)):
        total += columns[i]
    return tl.sum(total, axis=1)  # of one column


@triton.jit
def zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr):
    """A tuple of COUNT accumulators [ROWS]."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums += (tl.zeros((ROWS,), COMPUTE),)
    return sums


@triton.jit
def add_moments(
    sums, first: tl.constexpr, delta, t, DEGREE: tl.constexpr, BASIS: tl.constexpr, BLOCK: tl.constexpr = 1
):
    """Add delta * P_k(t), k = 0 .. DEGREE, to the accumulators from `first` on; those before `first` stay.

    With a BLOCK of powers, a term is delta t^(BLOCK j) times t^m, m < BLOCK: the product is part of the addition (FMA).
    """
    out = ()
    for i in tl.static_range(first):
        out += (sums[i],)
    if BASIS == "power" and BLOCK > 1:
        powers = (t,)
        for m in tl.static_range(1, BLOCK):
            powers += (powers[m - 1] * t,)
        factor = delta
        for k in tl.static_range(DEGREE + 1):
            if k > 0 and k % BLOCK == 0:
                factor = factor * powers[BLOCK - 1]
            term = factor
            if k % BLOCK > 0:
                term = factor * powers[k % BLOCK - 1]
            out += (sums[first + k] + over_columns(term),)
    else:
        term, before = delta, delta
        for k in tl.static_range(DEGREE + 1):
            out += (sums[first + k] + over_columns(term),)
            if k < DEGREE:
                after = bases.next_term(t, term, before, k, BASIS)
                before = term
                term = after
    return out


@triton.jit
def joined(sums, COUNT: tl.constexpr, LEVELS: tl.constexpr):
    """COUNT accumulators as one float64 tensor with LEVELS more axes of size 2, padded with zeros to `width(COUNT)`."""
    padded = ()
    for i in tl.static_range(1 << LEVELS):
        if i < COUNT:
            padded += (sums[i].to(tl.float64),)
        else:
            padded += (tl.zeros(sums[0].shape, tl.float64),)
    # Joining i with i + half at each level keeps the order of the accumulators when the new axes are flattened.
    for level in tl.static_range(LEVELS):
        pairs = ()
        for i in tl.static_range(1 << (LEVELS - 1 - level)):
            pairs += (tl.join(padded[i], padded[i + (1 << (LEVELS - 1 - level))]),)
        padded = pairs
    return padded[0]


@triton.jit
def _over_rows(sums, COUNT: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr, SERIES: tl.constexpr = 1):
    """COUNT accumulators, each summed over its rows: one float64 tensor of `width(COUNT)`, padded with zeros.

    With several SERIES, [SERIES, width(COUNT)]: the sums over the rows of each.
    """
    if SERIES == 1:
        return tl.sum(tl.reshape(joined(sums, COUNT, LEVELS), (ROWS, 1 << LEVELS)), axis=0)
    else:
        return tl.sum(tl.reshape(joined(sums, COUNT, LEVELS), (SERIES, ROWS // SERIES, 1 << LEVELS)), axis=1)


@triton.jit
def over_programs(partial_ptr, programs, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Add up the sums (programs, WIDTH) of one series, in an order that depends on the number of programs only.

    The sums are read as one flat array in chunks of whole rows: a thread stays in its column and needs one accumulator.
    The cost is latency, so the loads of a round do not wait for one another. (ptxas unrolls up to 4 rounds into one. If
    8 or 16 loads are written out, other parts of the kernel lose registers.)
    """
    LOADS: tl.constexpr = 4
    CHUNK: tl.constexpr = ROWS if ROWS > WIDTH else WIDTH
    index = tl.arange(0, CHUNK)
    size = programs * WIDTH
    total = tl.zeros((CHUNK,), tl.float64)
    for start in range(0, size, LOADS * CHUNK):
        for i in tl.static_range(LOADS):
            place = start + i * CHUNK + index
            total += tl.load(partial_ptr + place, mask=place < size, other=0.0)
    return tl.sum(tl.reshape(total, (CHUNK // WIDTH, WIDTH)), axis=0)


@triton.jit
def store_totals_of_series(
    out_ptr,  # (S, COUNT) float64
    sums,  # tuple of COUNT accumulators [ROWS]
    n_series,
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    SERIES: tl.constexpr,
):
    """Store the totals of the SERIES of a program that has several."""
    series = tl.program_id(0).to(tl.int64) * SERIES + tl.arange(0, SERIES)[:, None]
    index = tl.arange(0, 1 << LEVELS)[None, :]
    totals = _over_rows(sums, COUNT, LEVELS, ROWS, SERIES)
    tl.store(out_ptr + series * COUNT + index, totals, mask=(series < n_series) & (index < COUNT))


@triton.jit
def store_totals(
    out_ptr,  # (COUNT,) float64, the totals of this series
    partial_ptr,  # (programs, WIDTH) float64 of this series, or None with ONE_PROGRAM
    ticket_ptr,  # int32, zero before and after a launch; or None with ONE_PROGRAM
    sums,  # tuple of COUNT accumulators [ROWS]
    program,  # number of this program in its series
    programs,
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
):
    """Store the sums of a program. The last program of a series adds up the sums of all and stores the totals.

    The last program sees the stores of the others for these reasons. The threads of a program store before the barrier,
    and one of them draws the ticket after it. The atomic releases, at the scope of the GPU, everything before it,
    including the stores before the barrier. Each draw also acquires what earlier draws released, so the last draw comes
    after all of them. A second barrier passes its result to the other threads of the program, which load only then.
    (Causality order of the memory model of PTX, section 8 of its manual. On gfx942 of AMD the barrier does not wait for
    stores. Up to 64 sums, one wave stores them, waits for its stores and draws the ticket. For more than 64 sums
    `launch.choose` takes one program there.)
    """
    WIDTH: tl.constexpr = 1 << LEVELS
    index = tl.arange(0, WIDTH)
    totals = _over_rows(sums, COUNT, LEVELS, ROWS)
    if ONE_PROGRAM:
        tl.store(out_ptr + index, totals, mask=index < COUNT)
    else:
        tl.store(partial_ptr + program * WIDTH + index, totals)
        tl.debug_barrier()
        if tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu") == programs - 1:
            totals = over_programs(partial_ptr, programs, WIDTH, ROWS)
            tl.store(out_ptr + index, totals, mask=index < COUNT)
            tl.store(ticket_ptr, 0)  # for the next launch on this stream, which starts when this one has ended


@triton.jit
def store(
    out_ptr,  # (S, COUNT) float64
    partial_ptr,  # (S, programs, WIDTH) float64, or None with ONE_PROGRAM
    ticket_ptr,  # (S,) int32, or None with ONE_PROGRAM
    sums,  # tuple of COUNT accumulators [ROWS]
    row,  # the series of this program; not used with several SERIES
    program,  # number of this program in its series
    programs,
    n_series,  # S with several SERIES, else None
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    SERIES: tl.constexpr,  # of a program
    ONE_PROGRAM: tl.constexpr,
):
    """Store the totals of the series of a program: what every kernel that sums ends with."""
    if SERIES > 1:
        store_totals_of_series(out_ptr, sums, n_series, COUNT, LEVELS, ROWS, SERIES)
    else:
        if not ONE_PROGRAM:
            partial_ptr += row * programs * (1 << LEVELS)
            ticket_ptr += row
        store_totals(
            out_ptr + row * COUNT, partial_ptr, ticket_ptr, sums, program, programs, COUNT, LEVELS, ROWS, ONE_PROGRAM
        )
