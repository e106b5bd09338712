"""The activation on small planes: a program takes some neighbouring channels and a part of the rows.

x is (outer, groups, inner): `outer` rows of groups * inner columns. The columns of a tile are those of some channels,
each padded to INNER, a power of 2. A column belongs to one channel in all rows: a thread keeps the coefficients and the
sums of its columns in registers, and adds up nothing before the end.

At the end one reduction over the rows of a tile serves all sums of all columns. The programs of a block of channels
pass their sums to the last of them, see `sums.store_totals`. If there are many, the last program of each PART of them
adds up the sums of the part, and the last of all parts adds up the parts: what one program reads stays short.
"""

import triton
import triton.language as tl

from polyfit_kernels import bases, continuation, sums, tiles


@triton.jit
def _columns(
    block,  # int64, of channels
    n_groups,  # channels, in vectors with INNER = 1
    inner,  # vectors of a run of a channel; not used with INNER = 1
    INNER: tl.constexpr,  # samples of a run, padded to a power of 2
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,  # samples that lie together and aligned
):
    """Of each column of a tile its channel and its place in a row, int64, and whether there is one: [1, COLUMNS].

    Numbers that come from memory count vectors. So the compiler knows that a load of a vector is aligned.
    """
    column = tl.arange(0, COLUMNS)[None, :]
    if INNER == 1:
        channel = block * COLUMNS + column
        return channel, channel, block * (COLUMNS // VECTOR) + column // VECTOR < n_groups
    else:
        channel = block * (COLUMNS // INNER) + column // INNER
        within = column % INNER
        is_there = (channel < n_groups) & (within // VECTOR < inner)
        return channel, channel * inner * VECTOR + within, is_there


@triton.jit
def _load_coefficients(coef_ptr, channel, is_there, stride_cg, stride_ck, DEGREE: tl.constexpr, COMPUTE: tl.constexpr):
    """The coefficients of each column: a tuple of [1, COLUMNS]."""
    coef = ()
    coef_ptr += channel * stride_cg
    for _ in tl.static_range(DEGREE + 1):
        coef += (tl.load(coef_ptr, mask=is_there, other=0.0).to(COMPUTE),)
        coef_ptr += stride_ck
    return coef


@triton.jit
def _rows(tile, ROWS: tl.constexpr, GROUPS: tl.constexpr, group: tl.constexpr):
    """The rows of a group of a tile, int64 [ROWS, 1]."""
    return tile * (GROUPS * ROWS) + group * ROWS + tl.arange(0, ROWS)[:, None]


@triton.jit
def _load(
    ptr,
    tile,  # int64, its number
    place,  # of columns in a row, int64 [1, COLUMNS]
    is_there,  # whether there is such a column, or None
    n_rows,
    stride,  # vectors from one row to the next
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    VECTOR: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The groups of a tile, a tuple of [ROWS, COLUMNS]: one load for each, none of which waits for another."""
    loads = ()
    for group in tl.static_range(GROUPS):
        row = _rows(tile, ROWS, GROUPS, group)
        mask = _mask(row, n_rows, is_there, MASKED)
        at = ptr + row * stride * VECTOR + place
        if mask is None:
            loads += (tl.load(at).to(COMPUTE),)
        else:
            loads += (tl.load(at, mask=mask, other=0.0).to(COMPUTE),)
    return loads


@triton.jit
def _mask(row, n_rows, is_there, MASKED: tl.constexpr):
    """Which numbers of a group there are, or None for all."""
    mask = is_there
    if MASKED:
        mask = row < n_rows if is_there is None else (row < n_rows) & is_there
    return mask


@triton.jit
def _activate_tile(
    x_ptr,
    out_ptr,
    tile,
    place,
    is_there,
    n_rows,
    stride,
    coef,
    ends,
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    VECTOR: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Write the values at one tile."""
    xs = _load(x_ptr, tile, place, is_there, n_rows, stride, ROWS, GROUPS, VECTOR, MASKED, COMPUTE)
    for group in tl.static_range(GROUPS):
        row = _rows(tile, ROWS, GROUPS, group)
        t = bases.to_window(xs[group], center, scale, shift, HAS_DOMAIN)
        p = continuation.value(t, coef, ends, DEGREE, BASIS, OUTSIDE).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + row * stride * VECTOR + place, p, mask=_mask(row, n_rows, is_there, MASKED))


@triton.jit(do_not_specialize=["programs"])
def activate_columns_kernel(
    x_ptr,  # (outer, groups, inner)
    coef_ptr,  # (groups, DEGREE + 1)
    out_ptr,  # out, like x
    n_rows,  # outer
    n_groups,  # channels, in vectors with INNER = 1
    inner,  # vectors of a run of a channel; not used with INNER = 1
    stride,  # vectors from one row to the next
    programs,  # per block of channels
    stride_cg,
    stride_ck,
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    INNER: tl.constexpr,  # samples of a run of a channel, padded to a power of 2
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    VECTOR: tl.constexpr,
    FULL: tl.constexpr,  # whether all columns of all blocks are there
    COMPUTE: tl.constexpr,
):
    """Write the values of a part of the samples of a block of channels."""
    block, program = tiles.place(programs, None, 1, ROWS)
    TILE: tl.constexpr = GROUPS * ROWS
    channel, place, is_there = _columns(block, n_groups, inner, INNER, COLUMNS, VECTOR)
    coef = _load_coefficients(coef_ptr, channel, is_there, stride_cg, stride_ck, DEGREE, COMPUTE)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    ends = (c, c)
    if OUTSIDE == "linear" and DEGREE > 0:
        ends = continuation.slopes_at_ends(coef, DEGREE, BASIS, COMPUTE)
    there = None if FULL else is_there
    full = tiles.full_tiles(n_rows, TILE)
    if tiles.has_rest(n_rows, full, program, programs, TILE):
        _activate_tile(
            x_ptr, out_ptr, full, place, there, n_rows, stride, coef, ends, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, ROWS, GROUPS, VECTOR, True, COMPUTE,
        )  # fmt: skip
    for tile in range(program, full, programs):
        _activate_tile(
            x_ptr, out_ptr, tile, place, there, n_rows, stride, coef, ends, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, ROWS, GROUPS, VECTOR, False, COMPUTE,
        )  # fmt: skip


@triton.jit
def _pull_back_tile(
    accumulators,
    grad_ptr,
    x_ptr,
    grad_x_ptr,
    tile,
    place,
    is_there,
    n_rows,
    stride,
    slopes,  # of dp/dx
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_COEF: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    VECTOR: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Add one tile to the sums, and write its grad_x."""
    grads = _load(grad_ptr, tile, place, is_there, n_rows, stride, ROWS, GROUPS, VECTOR, MASKED, COMPUTE)
    xs = _load(x_ptr, tile, place, is_there, n_rows, stride, ROWS, GROUPS, VECTOR, MASKED, COMPUTE)
    for group in tl.static_range(GROUPS):
        t = bases.to_window(xs[group], center, scale, shift, HAS_DOMAIN)
        accumulators, grad_x = continuation.pull_back(
            accumulators, grads[group], t, slopes, DEGREE, BASIS, OUTSIDE, WANT_X, WANT_COEF, False
        )
        if WANT_X:
            row = _rows(tile, ROWS, GROUPS, group)
            at = grad_x_ptr + row * stride * VECTOR + place
            tl.store(at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=_mask(row, n_rows, is_there, MASKED))
    return accumulators


@triton.jit
def _store_totals(
    out_ptr,  # (groups, COUNT) float64
    partial_ptr,  # (programs, SIZE) float64 of this block, then (parts, SIZE) of its parts; None with ONE_PROGRAM
    ticket_ptr,  # int32 of this block, then of its parts, all zero before and after a launch; None with ONE_PROGRAM
    totals,  # [CHANNELS, WIDTH] float64, the sums of this program
    block,
    channels,  # of x
    program,
    programs,
    parts,  # of the programs
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
    CHUNK: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
    PART: tl.constexpr,  # programs of a part; 0 for no parts
):
    """Store the sums of a program; the last program of a block adds up those of all, see `sums.store_totals`."""
    SIZE: tl.constexpr = CHANNELS * WIDTH
    index = tl.arange(0, SIZE)
    channel, k = block * CHANNELS + index // WIDTH, index % WIDTH
    out_ptr += channel * COUNT + k
    is_out = (channel < channels) & (k < COUNT)
    if ONE_PROGRAM:
        tl.store(out_ptr, tl.reshape(totals, (SIZE,)), mask=is_out)
    else:
        at = tl.arange(0, CHANNELS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        tl.store(partial_ptr + program * SIZE + at, totals)
        tl.debug_barrier()
        if PART == 0:
            if tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu") == programs - 1:
                tl.store(out_ptr, sums.over_programs(partial_ptr, programs, SIZE, CHUNK), mask=is_out)
                tl.store(ticket_ptr, 0)
        else:
            part = program // PART
            size = tl.minimum(programs - part * PART, PART).to(tl.int32)
            if tl.atomic_add(ticket_ptr + 1 + part, 1, sem="acq_rel", scope="gpu") == size - 1:
                of_parts_ptr = partial_ptr + programs.to(tl.int64) * SIZE
                of_part = sums.over_programs(partial_ptr + part * (PART * SIZE), size, SIZE, CHUNK)
                tl.store(of_parts_ptr + part * SIZE + index, of_part)
                tl.store(ticket_ptr + 1 + part, 0)
                tl.debug_barrier()
                if tl.atomic_add(ticket_ptr, 1, sem="acq_rel", scope="gpu") == parts - 1:
                    tl.store(out_ptr, sums.over_programs(of_parts_ptr, parts, SIZE, CHUNK), mask=is_out)
                    tl.store(ticket_ptr, 0)


@triton.jit(do_not_specialize=["programs", "parts"])
def activate_backward_columns_kernel(
    grad_ptr,  # (outer, groups, inner)
    x_ptr,  # likewise
    coef_ptr,  # (groups, DEGREE + 1)
    out_ptr,  # out (groups, DEGREE + 1) float64, with WANT_COEF
    partial_ptr,  # (blocks, programs + parts, channels of a block, DEGREE + 1 padded) float64, or None with ONE_PROGRAM
    ticket_ptr,  # (blocks, 1 + parts) int32, zeros; or None with ONE_PROGRAM
    grad_x_ptr,  # out, like x, with WANT_X
    n_rows,  # outer
    n_groups,  # channels, in vectors with INNER = 1
    inner,  # vectors of a run of a channel; not used with INNER = 1
    stride,  # vectors from one row to the next
    programs,  # per block of channels
    parts,  # of the programs of a block; 0 for none
    stride_cg,
    stride_ck,
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_COEF: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
    N_SUMS: tl.constexpr,
    LEVELS: tl.constexpr,
    INNER: tl.constexpr,  # samples of a run of a channel, padded to a power of 2
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    VECTOR: tl.constexpr,
    FULL: tl.constexpr,  # whether all columns of all blocks are there
    PART: tl.constexpr,  # programs of a part; 0 for no parts
    CHUNK: tl.constexpr,  # sums that a program reads at once
    COMPUTE: tl.constexpr,
):
    """Write grad_x of a part of the samples of a block of channels, and add up their grad_coef."""
    block, program = tiles.place(programs, None, 1, ROWS)
    TILE: tl.constexpr = GROUPS * ROWS
    channel, place, is_there = _columns(block, n_groups, inner, INNER, COLUMNS, VECTOR)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    slopes = ()
    if WANT_X and DEGREE > 0:
        coef = _load_coefficients(coef_ptr, channel, is_there, stride_cg, stride_ck, DEGREE, COMPUTE)
        slopes = continuation.slope_coefficients(coef, s, DEGREE, BASIS, HAS_DOMAIN)
    there = None if FULL else is_there
    total = ()
    for _ in tl.static_range(N_SUMS):
        total += (tl.zeros((ROWS, COLUMNS), COMPUTE),)
    full = tiles.full_tiles(n_rows, TILE)
    if tiles.has_rest(n_rows, full, program, programs, TILE):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, full, place, there, n_rows, stride, slopes, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, WANT_X, WANT_COEF, ROWS, GROUPS, VECTOR, True, COMPUTE,
        )  # fmt: skip
    for tile in range(program, full, programs):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, tile, place, there, n_rows, stride, slopes, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, WANT_X, WANT_COEF, ROWS, GROUPS, VECTOR, False, COMPUTE,
        )  # fmt: skip
    if WANT_COEF:
        CHANNELS: tl.constexpr = COLUMNS // INNER
        WIDTH: tl.constexpr = 1 << LEVELS
        joined = sums.joined(continuation.gradient_sums(total, DEGREE, BASIS, OUTSIDE), DEGREE + 1, LEVELS)
        totals = tl.sum(tl.reshape(joined, (ROWS, COLUMNS, WIDTH)), axis=0)
        if INNER > 1:
            totals = tl.sum(tl.reshape(totals, (CHANNELS, INNER, WIDTH)), axis=1)
        if not ONE_PROGRAM:
            partial_ptr += block * (programs + parts) * (CHANNELS * WIDTH)
            ticket_ptr += block * (1 + parts)
        channels = n_groups * VECTOR if INNER == 1 else n_groups
        _store_totals(
            out_ptr, partial_ptr, ticket_ptr, totals, block, channels, program, programs, parts,
            CHANNELS, WIDTH, DEGREE + 1, CHUNK, ONE_PROGRAM, PART,
        )  # fmt: skip
