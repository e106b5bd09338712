"""Loss and gradients of a polynomial in one pass over the data.

With p_n = sum_k coef[k] P_k(t_n), t the image of x in the window, and the pointwise loss l::

    value       = sum_n w_n l(p_n, y_n)
    grad_coef_k = sum_n u w_n l'(p_n, y_n) P_k(t_n)
    grad_x_n    = u w_n l'(p_n, y_n) dp/dt(t_n) dt/dx
    grad_y_n    = u w_n dl/dy(p_n, y_n)
    grad_w_n    = u l(p_n, y_n)

for each series. A sample of weight zero is left out of the first four, whatever it holds; in grad_w_n its loss counts
as 0 if it is not finite. u is the upstream factor of the series, l' the derivative of l to p.

Two numbers: the pass reads x and y once, 8 bytes a sample in float32, and takes 3 d + 3.5 instructions a sample. On a
GPU with 10 or more float32 instructions a byte, memory then limits the pass up to d ~ 16.

Each program adds up its tiles (`polyfit_kernels.tiles`) in registers. The last program of a series to finish adds up
the sums of all of them, in a fixed order and in float64 (`polyfit_kernels.sums`).
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import bases, launch, losses, partials, sums, tiles
from polyfit_kernels.operands import PerSample, compute_dtypes, parts, processors_and_warp, rows, strides


@triton.jit
def _add_group(
    accumulators,
    x,  # [ROWS, COLUMNS]
    y,
    weight,  # or None without HAS_WEIGHT
    grad_x_ptr,  # first sample of the series
    grad_y_ptr,
    grad_weight_ptr,
    index,  # int64 [ROWS, COLUMNS], samples of the group
    n_samples,
    coef,  # tuple of scalars
    upstream,
    parameter,  # of the loss
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    LOSS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    WANT_COEF: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_Y: tl.constexpr,
    WANT_WEIGHT: tl.constexpr,
    MASKED: tl.constexpr,
    POWER_BLOCK: tl.constexpr,
):
    """Add one group of samples to all sums, and write its per-sample gradients."""
    mask = index < n_samples if MASKED else None
    t = bases.to_window(x, center, scale, shift, HAS_DOMAIN)
    if WANT_X:
        p, slope = bases.series_and_slope(t, coef, DEGREE, BASIS)
    else:
        p = bases.series(t, coef, DEGREE, BASIS)
    value, delta, to_y = losses.pointwise(p, y, parameter, LOSS)
    if HAS_WEIGHT:
        # Weight zero, also where a tile is masked: the sample is left out, even if it is NaN or infinite.
        is_out = weight == 0.0
        if WANT_WEIGHT:
            to_weight = tl.where(is_out & ~(tl.abs(value) < float("inf")), 0.0, value)
        t = tl.where(is_out, 0.0, t)
        value = tl.where(is_out, 0.0, value * weight)
        delta = tl.where(is_out, 0.0, delta * weight)
        if WANT_Y:
            to_y = tl.where(is_out, 0.0, to_y * weight)
        head = (accumulators[0] + tl.sum(value, axis=1), accumulators[1] + tl.sum(weight, axis=1))
    else:
        if MASKED:
            value = tl.where(mask, value, 0.0)
            delta = tl.where(mask, delta, 0.0)
        head = (accumulators[0] + tl.sum(value, axis=1),)
    delta = delta * upstream
    if WANT_X:
        grad_x = delta * slope
        if HAS_WEIGHT:
            grad_x = tl.where(is_out, 0.0, grad_x)
        if HAS_DOMAIN:
            grad_x = grad_x * scale
        tl.store(grad_x_ptr + index, grad_x, mask=mask)
    if WANT_Y:
        tl.store(grad_y_ptr + index, to_y * upstream, mask=mask)
    if WANT_WEIGHT:
        tl.store(grad_weight_ptr + index, to_weight * upstream, mask=mask)
    HEAD: tl.constexpr = 2 if HAS_WEIGHT else 1
    if WANT_COEF:
        for k in tl.static_range(DEGREE + 1):
            head += (accumulators[HEAD + k],)
        return sums.add_moments(head, HEAD, delta, t, DEGREE, BASIS, POWER_BLOCK)
    return head


@triton.jit
def _add_tile(
    accumulators,
    x_ptr,  # first sample of the series
    y_ptr,
    weight_ptr,
    grad_x_ptr,
    grad_y_ptr,
    grad_weight_ptr,
    start,  # int64, first sample of the tile
    offsets,  # int64 [ROWS, COLUMNS], samples of a group
    n_samples,
    stride_xn,
    stride_yn,
    stride_wn,
    coef,  # tuple of scalars
    upstream,
    parameter,  # of the loss
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    LOSS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    WANT_COEF: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_Y: tl.constexpr,
    WANT_WEIGHT: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
    POWER_BLOCK: tl.constexpr,
):
    """Add one tile to all sums, and write its per-sample gradients: all its loads, then one group after the other."""
    x = tiles.load_groups(x_ptr, start, offsets, stride_xn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    y = tiles.load_groups(y_ptr, start, offsets, stride_yn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    weight = x  # not used without weights
    if HAS_WEIGHT:
        weight = tiles.load_groups(weight_ptr, start, offsets, stride_wn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    for group in tl.static_range(GROUPS):
        accumulators = _add_group(
            accumulators, x[group], y[group], weight[group], grad_x_ptr, grad_y_ptr, grad_weight_ptr,
            start + group * GROUP + offsets, n_samples, coef, upstream, parameter, center, scale, shift,
            DEGREE, BASIS, LOSS, HAS_DOMAIN, HAS_WEIGHT, WANT_COEF, WANT_X, WANT_Y, WANT_WEIGHT, MASKED, POWER_BLOCK,
        )  # fmt: skip
    return accumulators


@triton.jit(do_not_specialize=["n_series"])
def _objective_kernel(
    x_ptr,  # (S or 1, N)
    y_ptr,  # (S or 1, N)
    weight_ptr,  # (S or 1, N), or None without HAS_WEIGHT
    coef_ptr,  # (S, DEGREE + 1)
    upstream_ptr,  # (S,), or None without HAS_UPSTREAM
    out_ptr,  # out (S, COUNT) float64: value, sum of the weights with HAS_WEIGHT, grad_coef with WANT_COEF
    partial_ptr,  # (S, programs, COUNT padded) float64 for the programs' sums, or None with ONE_PROGRAM
    ticket_ptr,  # (S,) int32, zeros; or None with ONE_PROGRAM
    grad_x_ptr,  # out (S, N) contiguous, with WANT_X
    grad_y_ptr,  # out (S, N) contiguous, with WANT_Y
    grad_weight_ptr,  # out (S, N) contiguous, with WANT_WEIGHT
    n_samples,  # N
    programs,  # per series
    n_series,  # S with several SERIES, else None
    stride_xs,
    stride_xn,
    stride_ys,
    stride_yn,
    stride_ws,
    stride_wn,
    stride_cs,
    stride_ck,
    stride_gs,  # of the per-sample gradients; 0 for one series: the compiler then knows that the row is aligned
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    parameter: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    LOSS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_UPSTREAM: tl.constexpr,
    WANT_COEF: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_Y: tl.constexpr,
    WANT_WEIGHT: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    SERIES: tl.constexpr,  # of a program; if several, each has one program
    COMPUTE: tl.constexpr,
    POWER_BLOCK: tl.constexpr,
):
    row, program = tiles.place(programs, n_series, SERIES, ROWS)
    GROUP: tl.constexpr = ROWS * COLUMNS // SERIES
    TILE: tl.constexpr = GROUPS * GROUP
    x_ptr += row * stride_xs
    y_ptr += row * stride_ys
    if HAS_WEIGHT:
        weight_ptr += row * stride_ws
    if WANT_X:
        grad_x_ptr += row * stride_gs
    if WANT_Y:
        grad_y_ptr += row * stride_gs
    if WANT_WEIGHT:
        grad_weight_ptr += row * stride_gs
    coef = bases.load_coefficients(coef_ptr + row * stride_cs, stride_ck, DEGREE, COMPUTE)
    upstream = 1.0
    if HAS_UPSTREAM:
        upstream = tl.load(upstream_ptr + row).to(COMPUTE)
    c, s, h, loss_parameter = bases.scalars((center, scale, shift, parameter), COMPUTE)
    offsets = tiles.offsets(ROWS, COLUMNS, SERIES)
    total = sums.zeros(COUNT, ROWS, COMPUTE)
    full = tiles.full_tiles(n_samples, TILE)
    if tiles.has_rest(n_samples, full, program, programs, TILE):
        total = _add_tile(
            total, x_ptr, y_ptr, weight_ptr, grad_x_ptr, grad_y_ptr, grad_weight_ptr, full * TILE, offsets,
            n_samples, stride_xn, stride_yn, stride_wn, coef, upstream, loss_parameter, c, s, h,
            DEGREE, BASIS, LOSS, HAS_DOMAIN, HAS_WEIGHT, WANT_COEF, WANT_X, WANT_Y, WANT_WEIGHT,
            GROUPS, GROUP, True, COMPUTE, POWER_BLOCK,
        )  # fmt: skip
    for tile in range(program, full, programs):
        total = _add_tile(
            total, x_ptr, y_ptr, weight_ptr, grad_x_ptr, grad_y_ptr, grad_weight_ptr, tile * TILE, offsets,
            n_samples, stride_xn, stride_yn, stride_wn, coef, upstream, loss_parameter, c, s, h,
            DEGREE, BASIS, LOSS, HAS_DOMAIN, HAS_WEIGHT, WANT_COEF, WANT_X, WANT_Y, WANT_WEIGHT,
            GROUPS, GROUP, False, COMPUTE, POWER_BLOCK,
        )  # fmt: skip
    sums.store(
        out_ptr, partial_ptr, ticket_ptr, total, row, program, programs, n_series,
        COUNT, LEVELS, ROWS, SERIES, ONE_PROGRAM,
    )  # fmt: skip


def objective(
    x: torch.Tensor,
    y: torch.Tensor,
    coef: torch.Tensor,
    weight: torch.Tensor | None,
    upstream: torch.Tensor | None,
    mapping: tuple[float, float, float] | None,
    basis: str,
    loss: str,
    parameter: float,
    *,
    want_coef: bool = True,
    want_x: bool = False,
    want_y: bool = False,
    want_weight: bool = False,
    compute: torch.dtype | None = None,
) -> tuple[
    torch.Tensor,
    torch.Tensor | None,
    torch.Tensor | None,
    torch.Tensor | None,
    torch.Tensor | None,
    torch.Tensor | None,
]:
    """Launch the objective on canonical operands, any strides.

    Args:
        x: (S or 1, N); one row is shared by all series.
        y: (S or 1, N).
        coef: (S, degree + 1).
        weight: (S or 1, N) or None.
        upstream: (S,), a factor for the gradients of each series, or None for one.
        mapping: center, scale and shift of t = (x - center) * scale + shift, or None for t = x.
        basis: its name.
        loss: the name of its variant, see `polyfit_kernels.losses.pointwise`.
        parameter: the parameter of the loss.
        want_coef: whether the gradient to coef is wanted.
        want_x: whether the gradient to x is wanted.
        want_y: whether the gradient to y is wanted.
        want_weight: whether the gradient to weight is wanted; weight must then be given.
        compute: the dtype that computes, float32 or float64; by default float64 for float64 and float32 for all others.
            With float64 and narrower operands, the samples are read as they are, coef may be float64, and terms, sums
            and per-sample gradients are float64.

    Returns:
        value (S,), the sum of the weights (S,) or None without weights, grad_coef (S, degree + 1), all in float64, then
        grad_x, grad_y and grad_weight in the shapes of x, y and weight, in the dtype that computes. None for a gradient
        that is not wanted. Where x (or y, or weight) is shared, its gradient is summed over the series.
    """
    n_series, n_samples = coef.shape[0], x.shape[1]
    compute = compute or compute_dtypes(x.dtype)[0]
    heads = 1 if weight is None else 2
    totals = torch.empty(n_series, heads + (coef.shape[1] if want_coef else 0), dtype=torch.float64, device=x.device)
    wanted = ((x, want_x), (y, want_y), (weight, want_weight))
    gradients = [PerSample(operand, n_series, compute, want) for operand, want in wanted]
    for part in parts(n_series, n_samples, x.element_size(), *gradients):
        _launch(
            rows(x, part),
            rows(y, part),
            rows(weight, part),
            rows(coef, part),
            rows(upstream, part),
            mapping,
            basis,
            loss,
            parameter,
            rows(totals, part),
            want_coef,
            compute,
            *(gradient.target(part, part.stop - part.start) for gradient in gradients),
        )
        for gradient in gradients:
            gradient.collect()
    return (
        totals[:, 0],
        None if weight is None else totals[:, 1],
        totals[:, heads:] if want_coef else None,
        *(gradient.result for gradient in gradients),
    )


def _launch(
    x,
    y,
    weight,
    coef,
    upstream,
    mapping,
    basis,
    loss,
    parameter,
    totals,
    want_coef,
    compute,
    grad_x,
    grad_y,
    grad_weight,
) -> None:
    """Write the sums of these series to totals (S, count), and their per-sample gradients where a tensor is given."""
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    count = totals.shape[1]
    policy = launch.current()
    is_high = n_coef - 1 > policy.low_degree
    config = launch.choose(
        n_samples,
        n_series,
        x.element_size(),
        *processors_and_warp(x.device),
        n_sums=count,
        widens=compute == torch.float64 and x.dtype != torch.float64,
        loads=policy.loads[is_high],
        policy=policy,
    )
    partial, tickets = partials.allocate(x.device, n_series, config.programs, count)
    _objective_kernel[config.grid(n_series),](
        x, y, weight, coef, upstream, totals, partial, tickets, grad_x, grad_y, grad_weight,
        n_samples, config.programs, n_series if config.series > 1 else None,
        *strides(x), *strides(y), *strides(weight), *coef.stride(),
        n_samples if n_series > 1 else 0, *(mapping or launch.IDENTITY), parameter,
        DEGREE=n_coef - 1,
        BASIS=basis,
        LOSS=loss,
        HAS_DOMAIN=mapping is not None,
        HAS_WEIGHT=weight is not None,
        HAS_UPSTREAM=upstream is not None,
        WANT_COEF=want_coef,
        WANT_X=grad_x is not None,
        WANT_Y=grad_y is not None,
        WANT_WEIGHT=grad_weight is not None,
        ONE_PROGRAM=config.programs == 1,
        COUNT=count,
        LEVELS=sums.levels(count),
        ROWS=config.rows,
        COLUMNS=config.columns,
        GROUPS=config.groups,
        SERIES=config.series,
        COMPUTE=compute_dtypes(compute)[1],
        POWER_BLOCK=policy.power_block[is_high],
        num_warps=config.num_warps,
    )  # fmt: skip
