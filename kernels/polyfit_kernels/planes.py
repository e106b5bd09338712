"""The activation on large planes: a program takes a part of the samples of one channel, whose coefficients are scalars.

x is (outer, groups, inner). The samples of a channel are `outer` runs of `inner` contiguous ones. They are counted in
vectors, of as many samples as a thread loads at once, and cut into tiles as in `polyfit_kernels.tiles`. A tile may
begin inside of one run and end inside of another: a thread keeps the place of its vector within its run, and adds a
constant to it from tile to tile. With outer = 1 all vectors of a channel are contiguous.
"""

import triton
import triton.language as tl

from polyfit_kernels import bases, continuation, sums, tiles


@triton.jit
def _locate(
    first,  # int64, the first vector of a tile
    vectors,  # int64 [ROWS, 1], of a group of the tile
    inner,  # vectors of a run
    stride,  # vectors from one run to the next
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    CONTIGUOUS: tl.constexpr,
):
    """For each group of a tile the place of its vectors in their runs and in memory: two tuples of int64 [ROWS, 1]."""
    within, places = (), ()
    for group in tl.static_range(GROUPS):
        vector = first + group * GROUP + vectors
        if CONTIGUOUS:
            within += (vector,)
            places += (vector,)
        else:
            run = vector // inner
            within += (vector - run * inner,)
            places += (vector + run * (stride - inner),)
    return within, places


@triton.jit
def _advance(
    within, places, step, step_within, step_place, inner, stride, GROUPS: tl.constexpr, CONTIGUOUS: tl.constexpr
):
    """The places of the next tile, `step` vectors behind."""
    new_within, new_places = (), ()
    for group in tl.static_range(GROUPS):
        if CONTIGUOUS:
            new_within += (within[group] + step,)
            new_places += (places[group] + step,)
        else:
            after, place = within[group] + step_within, places[group] + step_place
            is_beyond = after >= inner
            new_within += (tl.where(is_beyond, after - inner, after),)
            new_places += (tl.where(is_beyond, place + (stride - inner), place),)
    return new_within, new_places


@triton.jit
def _load(ptr, places, masks, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, MASKED: tl.constexpr, COMPUTE: tl.constexpr):
    """The groups of a tile, a tuple of [ROWS, COLUMNS]: one load for each, none of which waits for another."""
    loads = ()
    column = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    for group in tl.static_range(GROUPS):
        at = ptr + places[group] * COLUMNS + column
        if MASKED:
            loads += (tl.load(at, mask=masks[group], other=0.0).to(COMPUTE),)
        else:
            loads += (tl.load(at).to(COMPUTE),)
    return loads


@triton.jit
def _masks(
    first, vectors, n_samples, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr
):
    """Which samples of each group of a tile there are; a mask of WHOLE vectors leaves a load as wide as it is."""
    masks = ()
    for group in tl.static_range(GROUPS):
        vector = first + group * GROUP + vectors
        if WHOLE:
            masks += (vector < n_samples // COLUMNS,)
        else:
            masks += (vector * COLUMNS + tl.arange(0, COLUMNS)[None, :] < n_samples,)
    return masks


@triton.jit
def _activate_tile(
    x_ptr,  # the channel
    out_ptr,
    places,
    masks,
    coef,
    ends,
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Write the values at one tile."""
    xs = _load(x_ptr, places, masks, COLUMNS, GROUPS, MASKED, COMPUTE)
    column = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    for group in tl.static_range(GROUPS):
        t = bases.to_window(xs[group], center, scale, shift, HAS_DOMAIN)
        p = continuation.value(t, coef, ends, DEGREE, BASIS, OUTSIDE).to(out_ptr.dtype.element_ty)
        at = out_ptr + places[group] * COLUMNS + column
        if MASKED:
            tl.store(at, p, mask=masks[group])
        else:
            tl.store(at, p)


@triton.jit
def activate_planes_kernel(
    x_ptr,  # (outer, groups, inner)
    coef_ptr,  # (groups, DEGREE + 1)
    out_ptr,  # out, like x
    n_samples,  # of a channel
    inner,  # vectors of a run
    stride,  # vectors from one run of a channel to the next
    stride_channel,  # vectors from one channel to the next
    programs,  # per channel
    stride_cg,
    stride_ck,
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # of a vector
    GROUPS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,  # whether outer = 1
    WHOLE: tl.constexpr,  # whether a channel ends with a vector
    COMPUTE: tl.constexpr,
):
    """Write the values of a part of the samples of one channel."""
    channel, program = tiles.place(programs, None, 1, ROWS)
    TILE: tl.constexpr = GROUPS * ROWS  # vectors
    x_ptr += channel * stride_channel * COLUMNS
    out_ptr += channel * stride_channel * COLUMNS
    coef = bases.load_coefficients(coef_ptr + channel * stride_cg, stride_ck, DEGREE, COMPUTE)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    ends = (c, c)
    if OUTSIDE == "linear" and DEGREE > 0:
        ends = continuation.slopes_at_ends(coef, DEGREE, BASIS, COMPUTE)
    vectors = tl.arange(0, ROWS)[:, None].to(tl.int64)
    full = tiles.full_tiles(n_samples, TILE * COLUMNS)
    if tiles.has_rest(n_samples, full, program, programs, TILE * COLUMNS):
        _, places = _locate(full * TILE, vectors, inner, stride, GROUPS, ROWS, CONTIGUOUS)
        masks = _masks(full * TILE, vectors, n_samples, COLUMNS, GROUPS, ROWS, WHOLE)
        _activate_tile(
            x_ptr, out_ptr, places, masks, coef, ends, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, COLUMNS, GROUPS, True, COMPUTE,
        )  # fmt: skip
    step = tl.full((), programs, tl.int64) * TILE
    step_within, step_place = step % inner, step // inner * stride + step % inner
    within, places = _locate(program * TILE, vectors, inner, stride, GROUPS, ROWS, CONTIGUOUS)
    for _ in range(program, full, programs):
        _activate_tile(
            x_ptr, out_ptr, places, None, coef, ends, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, COLUMNS, GROUPS, False, COMPUTE,
        )  # fmt: skip
        within, places = _advance(within, places, step, step_within, step_place, inner, stride, GROUPS, CONTIGUOUS)


@triton.jit
def _pull_back_tile(
    accumulators,
    grad_ptr,  # the channel
    x_ptr,
    grad_x_ptr,
    places,
    masks,
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
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Add one tile to the sums, and write its grad_x."""
    grads = _load(grad_ptr, places, masks, COLUMNS, GROUPS, MASKED, COMPUTE)
    xs = _load(x_ptr, places, masks, COLUMNS, GROUPS, MASKED, COMPUTE)
    column = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    for group in tl.static_range(GROUPS):
        t = bases.to_window(xs[group], center, scale, shift, HAS_DOMAIN)
        accumulators, grad_x = continuation.pull_back(
            accumulators, grads[group], t, slopes, DEGREE, BASIS, OUTSIDE, WANT_X, WANT_COEF, True
        )
        if WANT_X:
            at = grad_x_ptr + places[group] * COLUMNS + column
            if MASKED:
                tl.store(at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=masks[group])
            else:
                tl.store(at, grad_x.to(grad_x_ptr.dtype.element_ty))
    return accumulators


@triton.jit
def activate_backward_planes_kernel(
    grad_ptr,  # (outer, groups, inner)
    x_ptr,  # likewise
    coef_ptr,  # (groups, DEGREE + 1)
    out_ptr,  # out (groups, DEGREE + 1) float64, with WANT_COEF
    partial_ptr,  # (groups, programs, DEGREE + 1 padded) float64 for the programs' sums, or None with ONE_PROGRAM
    ticket_ptr,  # (groups,) int32, zeros; or None with ONE_PROGRAM
    grad_x_ptr,  # out, like x, with WANT_X
    n_samples,  # of a channel
    inner,  # vectors of a run
    stride,  # vectors from one run of a channel to the next
    stride_channel,  # vectors from one channel to the next
    programs,  # per channel
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # of a vector
    GROUPS: tl.constexpr,
    CONTIGUOUS: tl.constexpr,  # whether outer = 1
    WHOLE: tl.constexpr,  # whether a channel ends with a vector
    COMPUTE: tl.constexpr,
):
    """Write grad_x of a part of the samples of one channel, and add up their grad_coef."""
    channel, program = tiles.place(programs, None, 1, ROWS)
    TILE: tl.constexpr = GROUPS * ROWS  # vectors
    grad_ptr += channel * stride_channel * COLUMNS
    x_ptr += channel * stride_channel * COLUMNS
    if WANT_X:
        grad_x_ptr += channel * stride_channel * COLUMNS
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    slopes = ()
    if WANT_X and DEGREE > 0:
        coef = bases.load_coefficients(coef_ptr + channel * stride_cg, stride_ck, DEGREE, COMPUTE)
        slopes = continuation.slope_coefficients(coef, s, DEGREE, BASIS, HAS_DOMAIN)
    vectors = tl.arange(0, ROWS)[:, None].to(tl.int64)
    total = sums.zeros(N_SUMS, ROWS, COMPUTE)
    full = tiles.full_tiles(n_samples, TILE * COLUMNS)
    if tiles.has_rest(n_samples, full, program, programs, TILE * COLUMNS):
        _, places = _locate(full * TILE, vectors, inner, stride, GROUPS, ROWS, CONTIGUOUS)
        masks = _masks(full * TILE, vectors, n_samples, COLUMNS, GROUPS, ROWS, WHOLE)
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, places, masks, slopes, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, WANT_X, WANT_COEF, COLUMNS, GROUPS, True, COMPUTE,
        )  # fmt: skip
    step = tl.full((), programs, tl.int64) * TILE
    step_within, step_place = step % inner, step // inner * stride + step % inner
    within, places = _locate(program * TILE, vectors, inner, stride, GROUPS, ROWS, CONTIGUOUS)
    for _ in range(program, full, programs):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, places, None, slopes, c, s, h,
            DEGREE, BASIS, OUTSIDE, HAS_DOMAIN, WANT_X, WANT_COEF, COLUMNS, GROUPS, False, COMPUTE,
        )  # fmt: skip
        within, places = _advance(within, places, step, step_within, step_place, inner, stride, GROUPS, CONTIGUOUS)
    if WANT_COEF:
        total = continuation.gradient_sums(total, DEGREE, BASIS, OUTSIDE)
        sums.store(
            out_ptr, partial_ptr, ticket_ptr, total, channel, program, programs, None,
            DEGREE + 1, LEVELS, ROWS, 1, ONE_PROGRAM,
        )  # fmt: skip
