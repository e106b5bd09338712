"""Values of a polynomial, and the gradients of sum(grad * p(x)).

    out_n       = p(t_n)
    grad_coef_k = sum_n grad_n P_k(t_n)
    grad_x_n    = grad_n dp/dt(t_n) dt/dx

Two numbers, float32: forward reads 4 and writes 4 bytes a sample for d instructions; backward reads 8 bytes, and writes
4 more when the gradient to x is wanted, for 2 d + 2 instructions (4 d + 2 with the gradient to x).
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import bases, launch, sums
from polyfit_kernels.operands import PerSample, compute_dtypes, parts, processors_and_warp, rows, strides


@triton.jit
def _evaluate_kernel(
    x_ptr,  # (S or 1, N)
    coef_ptr,  # (S, DEGREE + 1)
    out_ptr,  # out (S, N) contiguous
    n_samples,  # N
    programs,  # per series
    stride_xs,
    stride_xn,
    stride_cs,
    stride_ck,
    stride_os,  # of the output; 0 for one series, of which the compiler then knows the alignment
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    row = pid // programs
    program = pid % programs
    TILE: tl.constexpr = ROWS * COLUMNS
    x_ptr += row * stride_xs
    out_ptr += row * stride_os
    coef = bases.load_coefficients(coef_ptr + row * stride_cs, stride_ck, DEGREE, COMPUTE)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    offsets = (tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
    full = tl.full((), n_samples // TILE, tl.int64)
    for tile in range(program, full, programs):
        start = tile * TILE
        x = tl.load(x_ptr + start * stride_xn + offsets * stride_xn).to(COMPUTE)
        p = bases.series(bases.to_window(x, c, s, h, HAS_DOMAIN), coef, DEGREE, BASIS)
        tl.store(out_ptr + start + offsets, p.to(out_ptr.dtype.element_ty))
    rest = tl.where(program == full % programs, tl.cdiv(n_samples, TILE), full)
    for tile in range(full, rest):
        start = tile * TILE
        mask = start + offsets < n_samples
        x = tl.load(x_ptr + start * stride_xn + offsets * stride_xn, mask=mask, other=0.0).to(COMPUTE)
        p = bases.series(bases.to_window(x, c, s, h, HAS_DOMAIN), coef, DEGREE, BASIS)
        tl.store(out_ptr + start + offsets, p.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _pull_back_tile(
    accumulators,
    grad_ptr,  # first sample of the series
    x_ptr,
    grad_x_ptr,
    start,  # int64, first sample of the tile
    offsets,  # int64 [ROWS, COLUMNS], samples of a tile
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
    MASKED: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """One tile's part in grad_coef; writes its part of grad_x."""
    index = start + offsets
    if MASKED:
        mask = index < n_samples
        grad = tl.load(grad_ptr + start * stride_gn + offsets * stride_gn, mask=mask, other=0.0).to(COMPUTE)
        x = tl.load(x_ptr + start * stride_xn + offsets * stride_xn, mask=mask, other=0.0).to(COMPUTE)
    else:
        mask = None
        grad = tl.load(grad_ptr + start * stride_gn + offsets * stride_gn).to(COMPUTE)
        x = tl.load(x_ptr + start * stride_xn + offsets * stride_xn).to(COMPUTE)
    t = bases.to_window(x, center, scale, shift, HAS_DOMAIN)
    if WANT_X:
        _, slope = bases.series_and_slope(t, coef, DEGREE, BASIS)
        grad_x = grad * slope
        if HAS_DOMAIN:
            grad_x = grad_x * scale
        tl.store(grad_x_ptr + index, grad_x, mask=mask)
    if WANT_COEF:
        return sums.add_moments(accumulators, 0, grad, t, DEGREE, BASIS)
    return accumulators


@triton.jit
def _evaluate_backward_kernel(
    grad_ptr,  # (S, N)
    x_ptr,  # (S or 1, N)
    coef_ptr,  # (S, DEGREE + 1)
    partial_ptr,  # out (S, programs, DEGREE + 1) float64, with WANT_COEF
    grad_x_ptr,  # out (S, N) contiguous, with WANT_X
    n_samples,  # N
    programs,  # per series
    stride_gs,
    stride_gn,
    stride_xs,
    stride_xn,
    stride_cs,
    stride_ck,
    stride_os,  # of the output; 0 for one series, of which the compiler then knows the alignment
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    HAS_DOMAIN: tl.constexpr,
    WANT_COEF: tl.constexpr,
    WANT_X: tl.constexpr,
    LEVELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    pid = tl.program_id(0).to(tl.int64)
    row = pid // programs
    program = pid % programs
    TILE: tl.constexpr = ROWS * COLUMNS
    grad_ptr += row * stride_gs
    x_ptr += row * stride_xs
    if WANT_X:
        grad_x_ptr += row * stride_os
    coef = bases.load_coefficients(coef_ptr + row * stride_cs, stride_ck, DEGREE, COMPUTE)
    c, s, h = bases.scalars((center, scale, shift), COMPUTE)
    offsets = (tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]).to(tl.int64)
    # One idle accumulator where no sum is wanted: a loop cannot carry an empty tuple.
    COUNT: tl.constexpr = DEGREE + 1 if WANT_COEF else 1
    total = sums.zeros(COUNT, ROWS, COMPUTE)
    full = tl.full((), n_samples // TILE, tl.int64)
    for tile in range(program, full, programs):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, tile * TILE, offsets, n_samples, stride_gn, stride_xn, coef, c, s, h,
            DEGREE, BASIS, HAS_DOMAIN, WANT_COEF, WANT_X, False, COMPUTE,
        )  # fmt: skip
    rest = tl.where(program == full % programs, tl.cdiv(n_samples, TILE), full)
    for tile in range(full, rest):
        total = _pull_back_tile(
            total, grad_ptr, x_ptr, grad_x_ptr, tile * TILE, offsets, n_samples, stride_gn, stride_xn, coef,
            c, s, h, DEGREE, BASIS, HAS_DOMAIN, WANT_COEF, WANT_X, True, COMPUTE,
        )  # fmt: skip
    if WANT_COEF:
        sums.store_sums(partial_ptr + pid * COUNT, total, COUNT, LEVELS, ROWS)


def evaluate(
    x: torch.Tensor, coef: torch.Tensor, mapping: tuple[float, float, float] | None, basis: str
) -> torch.Tensor:
    """p(x) for x (S or 1, N) and coef (S, degree + 1): (S, N) in the dtype of x. `mapping` as in `objective`."""
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    out = torch.empty(n_series, n_samples, dtype=x.dtype, device=x.device)
    if n_series == 0:
        return out
    config = launch.choose(n_samples, n_series, x.element_size(), *processors_and_warp(x.device))
    _evaluate_kernel[n_series * config.programs,](
        x, coef, out,
        n_samples, config.programs, *strides(x), *coef.stride(), n_samples if n_series > 1 else 0,
        *(mapping or launch.IDENTITY),
        DEGREE=n_coef - 1,
        BASIS=basis,
        HAS_DOMAIN=mapping is not None,
        ROWS=config.rows,
        COLUMNS=config.columns,
        COMPUTE=compute_dtypes(x.dtype)[1],
        num_warps=config.num_warps,
    )  # fmt: skip
    return out


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
        (S, degree + 1) in float64; None for what is not wanted.
    """
    n_series, n_samples = coef.shape[0], x.shape[1]
    grad_coef = torch.empty(coef.shape, dtype=torch.float64, device=x.device) if want_coef else None
    grad_x = PerSample(x, n_series, compute_dtypes(x.dtype)[0], want_x)
    for part in parts(n_series, n_samples, grad_x):
        to_x = grad_x.target(part, part.stop - part.start)
        sums_of_part = _launch_backward(rows(grad, part), rows(x, part), coef[part], mapping, basis, want_coef, to_x)
        if grad_coef is not None:
            grad_coef[part] = sums_of_part
        grad_x.collect()
    return grad_x.result, grad_coef


def _launch_backward(grad, x, coef, mapping, basis, want_coef, grad_x) -> torch.Tensor | None:
    """The sums (S, degree + 1) of these series where wanted; the gradient to x is written to grad_x where given."""
    (n_series, n_coef), n_samples = coef.shape, x.shape[1]
    config = launch.choose(n_samples, n_series, x.element_size(), *processors_and_warp(x.device))
    shape = (n_series, config.programs, n_coef)
    partial = torch.empty(shape, dtype=torch.float64, device=x.device) if want_coef else None
    _evaluate_backward_kernel[n_series * config.programs,](
        grad, x, coef, partial, grad_x,
        n_samples, config.programs, *strides(grad), *strides(x), *coef.stride(), n_samples if n_series > 1 else 0,
        *(mapping or launch.IDENTITY),
        DEGREE=n_coef - 1,
        BASIS=basis,
        HAS_DOMAIN=mapping is not None,
        WANT_COEF=want_coef,
        WANT_X=grad_x is not None,
        LEVELS=sums.levels(n_coef),
        ROWS=config.rows,
        COLUMNS=config.columns,
        COMPUTE=compute_dtypes(x.dtype)[1],
        num_warps=config.num_warps,
    )  # fmt: skip
    return None if partial is None else partial.sum(1)
