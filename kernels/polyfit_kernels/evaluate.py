"""Values of a polynomial, and the gradients of sum(grad * p(x)).

    out_n       = p(t_n)
    grad_coef_k = sum_n grad_n P_k(t_n)
    grad_x_n    = grad_n dp/dt(t_n) dt/dx

Two numbers in float32, for each sample: evaluate reads 4 bytes and writes 4, for d instructions. Its backward pass
reads 8 bytes, for about 2 d instructions. With the gradient to x it writes 4 bytes more, for about 4 d instructions.
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import bases, launch, partials, sums, tiles
from polyfit_kernels.operands import PerSample, compute_dtypes, parts, processors_and_warp, rows, strides


@triton.jit
def _evaluate_tile(
    x_ptr,  # first sample of the series
    out_ptr,
    start,  # int64, first sample of the tile
    offsets,  # int64 [ROWS, COLUMNS], samples of a group
    n_samples,
    stride_xn,
    coef,  # tuple of scalars
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Write the values at one tile: all its loads, then one group of samples after the other."""
    x = tiles.load_groups(x_ptr, start, offsets, stride_xn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    for group in tl.static_range(GROUPS):
        first = start + group * GROUP
        mask = first + offsets < n_samples if MASKED else None
        p = bases.series(bases.to_window(x[group], center, scale, shift, HAS_DOMAIN), coef, DEGREE, BASIS)
        tl.store(out_ptr + first + offsets, p.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n_series"])
def _evaluate_kernel(
    x_ptr,  # (S or 1, N)
    coef_ptr,  # (S, DEGREE + 1)
    out_ptr,  # out (S, N) contiguous
    n_samples,  # N
    programs,  # per series
    n_series,  # S with several SERIES, else None
    stride_xs,
    stride_xn,
    stride_cs,
    stride_ck,
    stride_os,  # of the output; 0 for one series: the compiler then knows that the row is aligned
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    SERIES: tl.constexpr,  # of a program; if several, each has one program
    COMPUTE: tl.constexpr,
):
    row, program = tiles.place(programs, n_series, SERIES, ROWS)
    GROUP: tl.constexpr = ROWS * COLUMNS // SERIES
    TILE: tl.constexpr = GROUPS * GROUP
    x_ptr += row * stride_xs
    out_ptr += row * stride_os
    coef = bases.load_coefficients(coef_ptr + row * stride_cs, stride_ck, DEGREE, COMPUTE)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    offsets = tiles.offsets(ROWS, COLUMNS, SERIES)
    full = tiles.full_tiles(n_samples, TILE)
    if tiles.has_rest(n_samples, full, program, programs, TILE):
        _evaluate_tile(
            x_ptr, out_ptr, full * TILE, offsets, n_samples, stride_xn, coef, c, s, h,
            DEGREE, BASIS, HAS_DOMAIN, GROUPS, GROUP, True, COMPUTE,
        )  # fmt: skip
    for tile in range(program, full, programs):
        _evaluate_tile(
            x_ptr, out_ptr, tile * TILE, offsets, n_samples, stride_xn, coef, c, s, h,
            DEGREE, BASIS, HAS_DOMAIN, GROUPS, GROUP, False, COMPUTE,
        )  # fmt: skip


@triton.jit
def _pull_back_tile(
    accumulators,
    grad_ptr,  # first sample of the series
    x_ptr,
    grad_x_ptr,
    start,  # int64, first sample of the tile
    offsets,  # int64 [ROWS, COLUMNS], samples of a group
    n_samples,
    stride_gn,
    stride_xn,
    coef,  # tuple of scalars
    center,
    scale,
    shift,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    WANT_COEF: tl.constexpr,
    WANT_X: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Add one tile to the sums of grad_coef, and write its grad_x."""
    grads = tiles.load_groups(grad_ptr, start, offsets, stride_gn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    xs = tiles.load_groups(x_ptr, start, offsets, stride_xn, n_samples, GROUPS, GROUP, MASKED, COMPUTE)
    for group in tl.static_range(GROUPS):
        grad, t = grads[group], bases.to_window(xs[group], center, scale, shift, HAS_DOMAIN)
        if WANT_X:
            index = start + group * GROUP + offsets
            mask = index < n_samples if MASKED else None
            _, slope = bases.series_and_slope(t, coef, DEGREE, BASIS)
            grad_x = grad * slope
            if HAS_DOMAIN:
                grad_x = grad_x * scale
            tl.store(grad_x_ptr + index, grad_x, mask=mask)
        if WANT_COEF:
            accumulators = sums.add_moments(accumulators, 0, grad, t, DEGREE, BASIS)
    return accumulators


@triton.jit(do_not_specialize=["n_series"])
def _evaluate_backward_kernel(
    grad_ptr,  # (S, N)
    x_ptr,  # (S or 1, N)
    coef_ptr,  # (S, DEGREE + 1)
    out_ptr,  # out (S, DEGREE + 1) float64, with WANT_COEF
    partial_ptr,  # (S, programs, DEGREE + 1 padded) float64 for the programs' sums, or None with ONE_PROGRAM
    ticket_ptr,  # (S,) int32, zeros; or None with ONE_PROGRAM
    grad_x_ptr,  # out (S, N) contiguous, with WANT_X
    n_samples,  # N
    programs,  # per series
    n_series,  # S with several SERIES, else None
    stride_gs,
    stride_gn,
    stride_xs,
    stride_xn,
    stride_cs,
    stride_ck,
    stride_os,  # of the output; 0 for one series: the compiler then knows that the row is aligned
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    WANT_COEF: tl.constexpr,
    WANT_X: tl.constexpr,
    ONE_PROGRAM: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    SERIES: tl.constexpr,  # of a program; if several, each has one program
    COMPUTE: tl.constexpr,
):
    row, program = tiles.place(programs, n_series, SERIES, ROWS)
    GROUP: tl.constexpr = ROWS * COLUMNS // SERIES
    TILE: tl.constexpr = GROUPS * GROUP
    grad_ptr += row * stride_gs
    x_ptr += row * stride_xs
    if WANT_X:
        grad_x_ptr += row * stride_os
    coef = bases.load_coefficients(coef_ptr + row * stride_cs, stride_ck, DEGREE, COMPUTE)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    offsets = tiles.offsets(ROWS, COLUMNS, SERIES)
    # One unused accumulator where no sum is wanted: a loop cannot carry an empty tuple.
    COUNT: tl.constexpr = DEGREE + 1 if WANT_COEF else 1
    total = sums.zeros(COUNT, ROWS, COMPUTE)
    full = tiles.full_tiles(n_samples, TILE)
    if tiles.has_rest(n_samples, full, program, programs, TILE):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, full * TILE, offsets, n_samples, stride_gn, stride_xn, coef, c, s, h,
            DEGREE, BASIS, HAS_DOMAIN, WANT_COEF, WANT_X, GROUPS, GROUP, True, COMPUTE,
        )  # fmt: skip
    for tile in range(program, full, programs):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, tile * TILE, offsets, n_samples, stride_gn, stride_xn, coef, c, s, h,
            DEGREE, BASIS, HAS_DOMAIN, WANT_COEF, WANT_X, GROUPS, GROUP, False, COMPUTE,
        )  # fmt: skip
    if WANT_COEF:
        sums.store(
            out_ptr, partial_ptr, ticket_ptr, total, row, program, programs, n_series,
            COUNT, LEVELS, ROWS, SERIES, ONE_PROGRAM,
        )  # fmt: skip


def evaluate(
    x: torch.Tensor, coef: torch.Tensor, mapping: tuple[float, float, float] | None, basis: str
) -> torch.Tensor:
    """p(x) for x (S or 1, N) and coef (S, degree + 1): (S, N) in the dtype of x. `mapping` as in `objective`."""
    n_series, n_samples = coef.shape[0], x.shape[1]
    out = torch.empty(n_series, n_samples, dtype=x.dtype, device=x.device)
    for part in parts(n_series, n_samples, x.element_size()):
        _launch_evaluate(rows(x, part), rows(coef, part), mapping, basis, rows(out, part))
    return out


def _launch_evaluate(x, coef, mapping, basis, out) -> None:
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    device = processors_and_warp(x.device)
    config = launch.choose(n_samples, n_series, x.element_size(), *device, policy=launch.current())
    _evaluate_kernel[config.grid(n_series),](
        x, coef, out,
        n_samples, config.programs, n_series if config.series > 1 else None,
        *strides(x), *coef.stride(), n_samples if n_series > 1 else 0,
        *(mapping or launch.IDENTITY),
        DEGREE=n_coef - 1,
        BASIS=basis,
        HAS_DOMAIN=mapping is not None,
        ROWS=config.rows,
        COLUMNS=config.columns,
        GROUPS=config.groups,
        SERIES=config.series,
        COMPUTE=compute_dtypes(x.dtype)[1],
        num_warps=config.num_warps,
    )  # fmt: skip


def evaluate_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    coef: torch.Tensor,
    mapping: tuple[float, float, float] | None,
    basis: str,
    *,
    want_x: bool,
    want_coef: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad (S, N), x (S or 1, N), coef (S, degree + 1).

    Returns:
        grad_x in the shape of x (summed over series that share it) in the dtype that computes, and grad_coef
        (S, degree + 1) in float64. None for a gradient that is not wanted.
    """
    n_series, n_samples = coef.shape[0], x.shape[1]
    grad_coef = torch.empty(coef.shape, dtype=torch.float64, device=x.device) if want_coef else None
    grad_x = PerSample(x, n_series, compute_dtypes(x.dtype)[0], want_x)
    for part in parts(n_series, n_samples, x.element_size(), grad_x):
        to_x = grad_x.target(part, part.stop - part.start)
        operands = (rows(grad, part), rows(x, part), rows(coef, part))
        _launch_backward(*operands, mapping, basis, rows(grad_coef, part), to_x)
        grad_x.collect()
    return grad_x.result, grad_coef


def _launch_backward(grad, x, coef, mapping, basis, grad_coef, grad_x) -> None:
    """Write the gradient to coef to grad_coef (S, degree + 1) and that to x to grad_x (S, N); either may be None."""
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    n_sums = 1 if grad_coef is None else n_coef
    device = processors_and_warp(x.device)
    config = launch.choose(n_samples, n_series, x.element_size(), *device, n_sums, policy=launch.current())
    programs = config.programs
    partial, tickets = (None, None) if grad_coef is None else partials.allocate(x.device, n_series, programs, n_coef)
    _evaluate_backward_kernel[config.grid(n_series),](
        grad, x, coef, grad_coef, partial, tickets, grad_x,
        n_samples, programs, n_series if config.series > 1 else None,
        *strides(grad), *strides(x), *coef.stride(), n_samples if n_series > 1 else 0,
        *(mapping or launch.IDENTITY),
        DEGREE=n_coef - 1,
        BASIS=basis,
        HAS_DOMAIN=mapping is not None,
        WANT_COEF=grad_coef is not None,
        WANT_X=grad_x is not None,
        ONE_PROGRAM=programs == 1,
        LEVELS=sums.levels(n_coef),
        ROWS=config.rows,
        COLUMNS=config.columns,
        GROUPS=config.groups,
        SERIES=config.series,
        COMPUTE=compute_dtypes(x.dtype)[1],
        num_warps=config.num_warps,
    )  # fmt: skip
