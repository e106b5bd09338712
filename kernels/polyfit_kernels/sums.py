"""Sums over samples: accumulators in a thread's registers, and one joint reduction of all of them at the end.

A tile is [ROWS, COLUMNS], the columns being what one thread loads at once. Adding a tile to an accumulator [ROWS] sums
over the columns inside the thread: no shuffle and no barrier in the loop over the data.

At the end the accumulators are joined into one tensor, so that a single reduction over the rows serves them all: 4
barriers for any number of sums, where a reduction each would take 3 per sum. That reduction and all that follows runs
in float64.
"""

import triton
import triton.language as tl

from polyfit_kernels import bases


def levels(count: int) -> int:
    """Levels of pairwise joins that bring `count` accumulators into one tensor: LEVELS of `store_sums`."""
    return (count - 1).bit_length()


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
def store_sums(out_ptr, sums, COUNT: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr):
    """Reduce COUNT accumulators over their rows and store them in out_ptr[0 .. COUNT - 1], float64."""
    if LEVELS == 0:
        tl.store(out_ptr, tl.sum(sums[0].to(tl.float64), axis=0))
    else:
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
        totals = tl.reshape(tl.sum(padded[0], axis=0), (1 << LEVELS,))
        index = tl.arange(0, 1 << LEVELS)
        tl.store(out_ptr + index, totals, mask=index < COUNT)
