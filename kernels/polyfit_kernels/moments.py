"""Moments of the data, from which a least-squares fit is solved, in one pass.

With t_n the image of x in the window, v_n = y_n - offset and Chebyshev's polynomials T_k::

    squares  = sum_n w_n v_n^2
    with_y_k = sum_n w_n v_n T_k(t_n),    k = 0 .. d
    of_x_k   = sum_n w_n T_k(t_n),        k = 0 .. 2 d

for each series. A sample of weight zero is left out, whatever it holds. By T_i T_j = (T_{i+j} + T_{|i-j|}) / 2
(Abramowitz and Stegun 22.7.24), of_x gives every entry of the Gram matrix. By the same rule the pass itself needs no
T_k beyond k = d::

    of_x_{2k}   = 2 sum_n w_n T_k(t_n)^2           - of_x_0
    of_x_{2k+1} = 2 sum_n w_n T_k(t_n) T_{k+1}(t_n) - of_x_1

This saves d of 5 d instructions a sample without weights. It also halves the recurrence, along which roundings grow.

Terms are computed in float32 (float64 for float64), sums are float64. The conversion is slow: a multiprocessor of an
NVIDIA H100 converts 16 numbers a clock, but multiplies and adds 128. So a thread first adds up, for each sum, the terms
of all samples that it holds, and then converts the result once (`launch.choose_moments` says how many it holds).

Two numbers: in float32 the pass reads 8 bytes a sample (12 with weights) and takes 4 d + 3 float32 instructions
(5 d + 5), and 2 more with a domain.
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import bases, launch, partials, sums, tiles
from polyfit_kernels.operands import compute_capability, compute_dtypes, parts, processors_and_warp, rows, strides


@triton.jit
def _joined(tiles):
    """Tiles [ROWS, COLUMNS] as one, [ROWS, all columns]: a row stays in its thread; the order of columns is not kept.

    (One tile of three dimensions, permuted and reshaped, gives the same code in Triton 3.7. In 3.6 its sums go across
    threads.)
    """
    for _ in tl.static_range(3):  # at most 8
        if len(tiles) > 1:
            pairs = ()
            for i in tl.static_range(len(tiles) // 2):
                pair = tl.join(tiles[2 * i], tiles[2 * i + 1])
                pairs += (tl.reshape(pair, (pair.shape[0], 2 * pair.shape[1])),)
            tiles = pairs
    return tiles[0]


@triton.jit
def _load(
    ptr,
    start,
    offsets,
    stride,
    n_samples,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The samples of a tile from `start` on, [ROWS, GROUPS * COLUMNS]: one load for each group."""
    return _joined(tiles.load_groups(ptr, start, offsets, stride, n_samples, GROUPS, GROUP, MASKED, COMPUTE))


@triton.jit
def _inside(start, offsets, n_samples, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """Whether each element that `_load` gives is a sample of the series."""
    masks = ()
    for group in tl.static_range(GROUPS):
        masks += (start + group * GROUP + offsets < n_samples,)
    return _joined(masks)


@triton.jit
def _sum(terms):
    """The sum over each row, widened to float64."""
    return sums.over_columns(terms).to(tl.float64)


@triton.jit
def _add_tile(
    accumulators,  # of squares, with_y (DEGREE + 1) and, for of_x, the products (2 DEGREE + 1); float64 [ROWS] each
    x_ptr,  # first sample of the series
    y_ptr,
    weight_ptr,
    start,  # int64, first sample of the tile
    offsets,  # int64 [ROWS, COLUMNS], samples of a group
    n_samples,
    stride_xn,
    stride_yn,
    stride_wn,
    center,
    scale,
    shift,
    offset,
    DEGREE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Add one tile to all sums. Without weights, the sum of the weights (of_x_0) is not changed."""
    # A masked element gets weight zero. A program takes one masked tile at most, so the product costs little.
    IS_WEIGHTED: tl.constexpr = HAS_WEIGHT or MASKED
    x = _load(x_ptr, start, offsets, stride_xn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    y = _load(y_ptr, start, offsets, stride_yn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    t, v = bases.to_window(x, center, scale, shift, HAS_DOMAIN), y - offset
    if HAS_WEIGHT:
        weight = _load(weight_ptr, start, offsets, stride_wn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
        # Weight zero, also where a tile is masked: the sample is left out, even if it is NaN or infinite.
        is_out = weight == 0.0
        t, v = tl.where(is_out, 0.0, t), tl.where(is_out, 0.0, v)
    elif MASKED:
        inside = _inside(start, offsets, n_samples, GROUPS, GROUP)
        # Far outside the window T_k may overflow, and zero times infinity is NaN.
        t = tl.where(inside, t, 0.0)
        weight = inside.to(COMPUTE)
    weighted_v = v
    if IS_WEIGHTED:
        weighted_v = v * weight
    FIRST: tl.constexpr = DEGREE + 2  # index of of_x_0
    squares = accumulators[0] + _sum(weighted_v * v)
    with_y = (accumulators[1] + _sum(weighted_v),)
    of_x = (accumulators[FIRST],)
    if HAS_WEIGHT:
        of_x = (accumulators[FIRST] + _sum(weight),)
    if DEGREE > 0:
        if IS_WEIGHTED:
            of_x += (accumulators[FIRST + 1] + _sum(weight * t),)
        else:
            of_x += (accumulators[FIRST + 1] + _sum(t),)
    term, before = t, tl.full((), 1.0, COMPUTE)
    for k in tl.static_range(1, DEGREE + 1):
        with_y += (accumulators[1 + k] + _sum(weighted_v * term),)
        weighted_term = term
        if IS_WEIGHTED:
            weighted_term = term * weight
        of_x += (accumulators[FIRST + 2 * k] + _sum(weighted_term * term),)
        if k < DEGREE:
            after = bases.next_term(t, term, before, k, "chebyshev")
            of_x += (accumulators[FIRST + 2 * k + 1] + _sum(weighted_term * after),)
            before = term
            term = after
    return (squares,) + with_y + of_x  # noqa: RUF005 - Triton knows no unpacking


@triton.jit
def _from_products(accumulators, n_samples, is_counting, DEGREE: tl.constexpr, HAS_WEIGHT: tl.constexpr):
    """Turn the sums of products into sums of T_k, by 2 T_i T_j = T_{i+j} + T_{|i-j|}.

    Without weights, of_x_0 is the number of samples: the one thread of a series that is counting, [ROWS], adds it.
    """
    FIRST: tl.constexpr = DEGREE + 2
    out = ()
    for i in tl.static_range(FIRST):
        out += (accumulators[i],)
    total = accumulators[FIRST]
    if not HAS_WEIGHT:
        total = tl.where(is_counting, tl.full((), n_samples, tl.float64), 0.0)
    out += (total,)
    if DEGREE > 0:
        out += (accumulators[FIRST + 1],)
    for k in tl.static_range(2, 2 * DEGREE + 1):
        if k % 2 == 0:
            out += (2.0 * accumulators[FIRST + k] - total,)
        else:
            out += (2.0 * accumulators[FIRST + k] - accumulators[FIRST + 1],)
    return out


@triton.jit(do_not_specialize=["n_series"])
def _moments_kernel(
    x_ptr,  # (S or 1, N)
    y_ptr,  # (S or 1, N)
    weight_ptr,  # (S or 1, N), or None without HAS_WEIGHT
    out_ptr,  # out (S, 3 DEGREE + 3) float64: squares, with_y, of_x
    partial_ptr,  # (S, programs, 3 DEGREE + 3 padded) float64 for the programs' sums, or None with ONE_PROGRAM
    ticket_ptr,  # (S,) int32, zeros; or None with ONE_PROGRAM
    n_samples,  # N
    programs,  # per series
    n_series,  # S with several SERIES, else None: with weights it would cost 32 registers on sm_100
    stride_xs,
    stride_xn,
    stride_ys,
    stride_yn,
    stride_ws,
    stride_wn,
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    offset: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
    LEVELS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SERIES: tl.constexpr,  # of a program; if several, each has one program
    COMPUTE: tl.constexpr,
):
    row, program = tiles.place(programs, n_series, SERIES, ROWS)
    COUNT: tl.constexpr = 3 * DEGREE + 3
    GROUP: tl.constexpr = ROWS * COLUMNS // SERIES
    TILE: tl.constexpr = GROUPS * GROUP
    x_ptr += row * stride_xs
    y_ptr += row * stride_ys
    if HAS_WEIGHT:
        weight_ptr += row * stride_ws
    c, s, h, o = bases.scalars((center, scale, shift, offset), COMPUTE)
    offsets = tiles.offsets(ROWS, COLUMNS, SERIES)
    total = sums.zeros(COUNT, ROWS, tl.float64)
    full = tiles.full_tiles(n_samples, TILE)
    if tiles.has_rest(n_samples, full, program, programs, TILE):
        total = _add_tile(
            total, x_ptr, y_ptr, weight_ptr, full * TILE, offsets, n_samples, stride_xn, stride_yn, stride_wn,
            c, s, h, o, DEGREE, HAS_DOMAIN, HAS_WEIGHT, GROUPS, GROUP, True, COMPUTE,
        )  # fmt: skip
    for tile in range(program, full, programs):
        total = _add_tile(
            total, x_ptr, y_ptr, weight_ptr, tile * TILE, offsets, n_samples, stride_xn, stride_yn, stride_wn,
            c, s, h, o, DEGREE, HAS_DOMAIN, HAS_WEIGHT, GROUPS, GROUP, False, COMPUTE,
        )  # fmt: skip
    is_counting = (program == 0) & (tl.arange(0, ROWS) % (ROWS // SERIES) == 0)
    total = _from_products(total, n_samples, is_counting, DEGREE, HAS_WEIGHT)
    sums.store(
        out_ptr, partial_ptr, ticket_ptr, total, row, program, programs, n_series,
        COUNT, LEVELS, ROWS, SERIES, ONE_PROGRAM,
    )  # fmt: skip


def moments(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor | None,
    degree: int,
    mapping: tuple[float, float, float] | None,
    offset: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Launch the moments on canonical operands, any strides.

    Args:
        x: (S or 1, N); one row is shared by all series.
        y: (S or 1, N).
        weight: (S or 1, N) or None.
        degree: degree d of the fit.
        mapping: center, scale and shift of t = (x - center) * scale + shift, or None for t = x.
        offset: the number that is subtracted from y. It is rounded to the dtype that computes, and v = y - offset is
            computed in that dtype. polyfit passes none (kernels/README.md says why the argument stands).

    Returns:
        squares (S,), with_y (S, d + 1) and of_x (S, 2 d + 1), all in float64. S is the largest number of rows
        of an operand. Without weights, of_x[:, 0] is the number of samples.
    """
    counts = {operand.shape[0] for operand in (x, y, weight) if operand is not None}
    n_series = 0 if 0 in counts else max(counts)
    totals = torch.empty(n_series, 3 * degree + 3, dtype=torch.float64, device=x.device)
    for part in parts(n_series, x.shape[1], x.element_size()):
        _launch(rows(x, part), rows(y, part), rows(weight, part), degree, mapping, offset, rows(totals, part))
    return totals[:, 0], totals[:, 1 : degree + 2], totals[:, degree + 2 :]


def _launch(x, y, weight, degree, mapping, offset, totals) -> None:
    """Write the sums of these series to totals (S, 3 degree + 3)."""
    (n_series, count), n_samples = totals.shape, x.shape[1]
    config = launch.choose_moments(
        n_samples,
        n_series,
        x.element_size(),
        *processors_and_warp(x.device),
        degree,
        weighted=weight is not None,
        capability=compute_capability(x.device),
        policy=launch.current(),
    )
    partial, tickets = partials.allocate(x.device, n_series, config.programs, count)
    _moments_kernel[config.grid(n_series),](
        x, y, weight, totals, partial, tickets,
        n_samples, config.programs, n_series if config.series > 1 else None,
        *strides(x), *strides(y), *strides(weight),
        *(mapping or launch.IDENTITY), offset,
        DEGREE=degree,
        HAS_DOMAIN=mapping is not None,
        HAS_WEIGHT=weight is not None,
        ONE_PROGRAM=config.programs == 1,
        LEVELS=sums.levels(count),
        GROUPS=config.groups,
        ROWS=config.rows,
        COLUMNS=config.columns,
        SERIES=config.series,
        COMPUTE=compute_dtypes(x.dtype)[1],
        num_warps=config.num_warps,
    )  # fmt: skip
