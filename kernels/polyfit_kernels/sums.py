"""Sums over samples: accumulators in a thread's registers, and one joint reduction of all of them at the end.

A tile is [ROWS, COLUMNS], the columns being what one thread loads at once. Adding a tile to an accumulator [ROWS] sums
over the columns inside the thread: no shuffle and no barrier in the loop over the data.

At the end the accumulators are joined into one tensor, so that a single reduction over the rows serves them all: 4
barriers for any number of sums, where a reduction each would take 3 per sum. That reduction and all that follows runs
in float64. Where a series has several programs, the last of them to finish adds up the sums of all: one launch gives
the totals (`polyfit_kernels.partials` is the host's side of this).
"""

import triton
import triton.language as tl

from polyfit_kernels import bases


def levels(count: int) -> int:
    """Levels of pairwise joins that bring `count` accumulators into one tensor: LEVELS of `store_totals`."""
    return (count - 1).bit_length()


def width(count: int) -> int:
    """Size of that tensor: `count` and what pads it."""
    return 1 << levels(count)


@triton.jit
def zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr):
    """A tuple of COUNT accumulators [ROWS]."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums += (tl.zeros((ROWS,), COMPUTE),)
    return sums


@triton.jit
def add_moments(sums, first: tl.constexpr, delta, t, DEGREE: tl.constexpr, BASIS: tl.constexpr):
    """Add delta * P_k(t), k = 0 .. DEGREE, to the accumulators from `first` on; those before it are kept."""
    out = ()
    for i in tl.static_range(first):
        out += (sums[i],)
    term, before = delta, delta
    for k in tl.static_range(DEGREE + 1):
        out += (sums[first + k] + tl.sum(term, axis=1),)
        if k < DEGREE:
            after = bases.next_term(t, term, before, k, BASIS)
            before = term
            term = after
    return out


@triton.jit
def _over_rows(sums, COUNT: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr):
    """COUNT accumulators, each summed over its rows: one tensor of `width(COUNT)`, float64, zeros behind."""
    padded = ()
    for i in tl.static_range(1 << LEVELS):
        if i < COUNT:
            padded += (sums[i].to(tl.float64),)
        else:
            padded += (tl.zeros((ROWS,), tl.float64),)
    # Joining i with i + half at each level leaves the accumulators in their order when the new axes are flattened.
    for level in tl.static_range(LEVELS):
        joined = ()
        for i in tl.static_range(1 << (LEVELS - 1 - level)):
            joined += (tl.join(padded[i], padded[i + (1 << (LEVELS - 1 - level))]),)
        padded = joined
    return tl.sum(tl.reshape(padded[0], (ROWS, 1 << LEVELS)), axis=0)


@triton.jit
def _over_programs(partial_ptr, programs, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """The sums (programs, WIDTH) of one series, added up over the programs in an order that their number decides.

    Read as one flat array in chunks of whole rows, so that a thread stays in its column and needs one accumulator. What
    this costs is latency: a round's loads do not wait for one another. (ptxas makes one round of up to 4. Written out,
    8 or 16 loads cost other parts of the kernel registers.)
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
def store_totals(
    out_ptr,  # (COUNT,) float64, the totals of this series
    partial_ptr,  # (programs, WIDTH) float64 of this series, or None with ONE_PROGRAM
    ticket_ptr,  # int32, zero before and after a launch; or None with ONE_PROGRAM
    sums,  # tuple of COUNT accumulators [ROWS]
    program,  # which of the series' this is
    programs,
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
):
    """Add up the sums of all programs of a series and store them, in the one that comes last.

    Why the last one sees what the others stored: a program's threads store before the barrier; one of them draws the
    ticket after it. That atomic releases, at the scope of the GPU, all that happened before, stores on the other side
    of the barrier included. Each draw also acquires what the draws before it released, so the last comes after all of
    them. Its result reaches the other threads of its program through a barrier again, and only then do they load. (By
    the causality order of PTX's memory model, section 8 of its manual. On AMD's gfx942 the barrier does not wait for
    stores, but up to 64 sums it is one wave, the first, that stores them, draws the ticket and waits for its own stores
    before. For more than 64 sums `launch.choose` takes one program there.)
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
            totals = _over_programs(partial_ptr, programs, WIDTH, ROWS)
            tl.store(out_ptr + index, totals, mask=index < COUNT)
            tl.store(ticket_ptr, 0)  # for the next launch on this stream, which starts when this one has ended
