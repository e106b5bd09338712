"""The layer of polynomials on all edges between inputs and outputs (KAN), as products of matrices.

With t = squash(x), for rows b of a batch, inputs i and outputs o::

    y[b, o]          = bias[o] + sum_k sum_i P_k(t[b, i]) coef[k - 1, i, o],          k = 1 .. degree
    grad_x[b, i]     = squash'(x[b, i]) sum_k P_k'(t[b, i]) sum_o grad[b, o] coef[k - 1, i, o]
    grad_coef[k - 1] = P_k(t)^T grad

Each is `degree` products of matrices whose one operand is made in registers, from x, by the recurrence of the basis in
float32. Nothing of size batch x in x degree is ever in memory. A program makes one tile of the result:

- y: it reads a tile of x once for all degrees, and adds the product of P_k(t) with the tile of coef[k - 1], degree by
  degree;
- grad_x: one product of grad with coef[k - 1]^T after the other, as long as there are outputs, each then multiplied by
  P_k'(t) and added;
- grad_coef: a sum for each degree, over a part of the batch. The sums of the parts go to memory and are added up in a
  fixed order afterwards.

Operands of half types are multiplied in their own type, of float32 as TF32 (10 bits of the 23); sums are float32. No
atomic: a result is the same bits every time.

Two numbers, for B rows: each of the three takes 2 degree B in out floating-point operations on matrix units, and about
4 degree + 20 others for each element of x and each tile of columns. It reads x (out / columns) times and coef
(B / rows) times, mostly from the L2 cache.
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import bases, kan_launch, launch
from polyfit_kernels.operands import compute_capability, processors_and_warp, shared_memory


@triton.jit
def _tanh(x):
    """tanh(x) and its slope, to 3 eps of each value for all x; NaN stays NaN.

    With e = exp(-2 |x|), tanh |x| = (1 - e) / (1 + e) and its slope is 4 e / (1 + e)^2. The difference 1 - e loses
    digits near 0. There the Taylor series is taken (Abramowitz and Stegun 4.5.64): at |x| = 0.3 the first term that is
    left out is 2e-9 of the value.
    """
    size = tl.abs(x)
    e = tl.exp(-2.0 * size)
    inverse = 1.0 / (1.0 + e)
    far = (1.0 - e) * inverse
    is_near = size < 0.3
    x_near = tl.where(is_near, x, 0.0)
    z = x_near * x_near
    series = -17.0 / 315.0 + z * (62.0 / 2835.0 - z * (1382.0 / 155925.0))
    near = x_near + x_near * z * (-1.0 / 3.0 + z * (2.0 / 15.0 + z * series))
    t = tl.where(is_near, near, tl.where(x < 0.0, -far, far))
    return t, 4.0 * e * inverse * inverse


@triton.jit
def _algebraic(x):
    """The value x / sqrt(1 + x^2) and its slope (1 + x^2)^(-3/2). Beyond 1 as 1 / sqrt(1 + 1 / x^2)."""
    is_large = tl.abs(x) > 1.0
    scaled = tl.where(is_large, tl.where(x < 0.0, -1.0, 1.0), x)
    unit = 1.0 / tl.where(is_large, tl.abs(x), 1.0)
    inverse = tl.rsqrt(unit * unit + scaled * scaled)
    of_slope = unit * inverse
    return scaled * inverse, of_slope * of_slope * of_slope


@triton.jit
def _assert_is_squash(SQUASH: tl.constexpr):
    """Fail to compile for an unknown name, which the branches below would take for none."""
    tl.static_assert(
        SQUASH == "tanh" or SQUASH == "algebraic" or SQUASH == "clamp" or SQUASH == "none",
        "SQUASH is not the name of a squash",
    )


@triton.jit
def _squashed(x, SQUASH: tl.constexpr):
    """The squashed x and its slope dt/dx, float32. NaN stays NaN; at its ends "clamp" has slope 1, as torch.clamp."""
    _assert_is_squash(SQUASH)
    if SQUASH == "tanh":
        return _tanh(x)
    elif SQUASH == "algebraic":
        return _algebraic(x)
    elif SQUASH == "clamp":
        is_out = tl.abs(x) > 1.0
        return tl.where(is_out, tl.where(x < 0.0, -1.0, 1.0), x), tl.where(is_out, 0.0, 1.0)
    else:
        return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def _place(n_tiles, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows and the columns of this program's tile, int64. Programs of the same rows are neighbours."""
    pid = tl.program_id(0).to(tl.int64)
    return (pid // n_tiles) * ROWS + tl.arange(0, ROWS), (pid % n_tiles) * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _zeros(COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A sum for each degree, float32 [ROWS, COLUMNS]."""
    totals = ()
    for _ in tl.static_range(COUNT):
        totals += (tl.zeros((ROWS, COLUMNS), tl.float32),)
    return totals


@triton.jit(do_not_specialize=["n_rows"])
def _kan_kernel(
    x_ptr,  # (B, in)
    coef_ptr,  # (DEGREE, in, out)
    bias_ptr,  # (out,)
    out_ptr,  # out (B, out), contiguous
    n_rows,  # B
    n_in,
    n_out,
    stride_xb,
    stride_xi,
    stride_ck,
    stride_ci,
    stride_co,
    stride_bias,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    SQUASH: tl.constexpr,
    OPERAND: tl.constexpr,  # dtype of the operands of products
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,  # inputs of a product
):
    row, column = _place(tl.cdiv(n_out, COLUMNS), ROWS, COLUMNS)
    inner = tl.arange(0, DEPTH).to(tl.int64)
    has_row, has_column = (row < n_rows)[:, None], (column < n_out)[None, :]
    x_ptr += row[:, None] * stride_xb + inner[None, :] * stride_xi
    coef_ptr += inner[:, None] * stride_ci + column[None, :] * stride_co
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_in, DEPTH):
        is_in = inner < n_in - first
        start = tl.full((), first, tl.int64)
        x = tl.load(x_ptr + start * stride_xi, mask=has_row & is_in[None, :], other=0.0)
        t, _slope = _squashed(x.to(tl.float32), SQUASH)
        term, before = tl.full(t.shape, 1.0, tl.float32), t
        at = coef_ptr + start * stride_ci
        for k in tl.static_range(DEGREE):
            after = bases.next_term(t, term, before, k, BASIS)
            before, term = term, after
            coef = tl.load(at, mask=is_in[:, None] & has_column, other=0.0)
            total = tl.dot(term.to(OPERAND), coef.to(OPERAND), total, input_precision="tf32")
            at += stride_ck
    bias = tl.load(bias_ptr + column * stride_bias, mask=column < n_out, other=0.0)
    total += bias[None, :].to(tl.float32)
    at_out = out_ptr + row[:, None] * n_out + column[None, :]
    tl.store(at_out, total.to(out_ptr.dtype.element_ty), mask=has_row & has_column)


@triton.jit(do_not_specialize=["n_rows"])
def _kan_to_x_kernel(
    grad_ptr,  # (B, out)
    x_ptr,  # (B, in)
    coef_ptr,  # (DEGREE, in, out)
    out_ptr,  # out (B, in), contiguous
    n_rows,  # B
    n_in,
    n_out,
    stride_gb,
    stride_go,
    stride_xb,
    stride_xi,
    stride_ck,
    stride_ci,
    stride_co,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    SQUASH: tl.constexpr,
    OPERAND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,  # outputs of a product
):
    row, column = _place(tl.cdiv(n_in, COLUMNS), ROWS, COLUMNS)
    inner = tl.arange(0, DEPTH).to(tl.int64)
    has_row, has_column = (row < n_rows)[:, None], (column < n_in)[None, :]
    grad_ptr += row[:, None] * stride_gb + inner[None, :] * stride_go
    coef_ptr += column[:, None] * stride_ci + inner[None, :] * stride_co
    products = _zeros(DEGREE, ROWS, COLUMNS)
    for first in range(0, n_out, DEPTH):
        is_in = (inner < n_out - first)[None, :]
        start = tl.full((), first, tl.int64)
        grad = tl.load(grad_ptr + start * stride_go, mask=has_row & is_in, other=0.0).to(OPERAND)
        at = coef_ptr + start * stride_co
        new = ()
        for k in tl.static_range(DEGREE):
            coef = tl.load(at, mask=(column < n_in)[:, None] & is_in, other=0.0).to(OPERAND)
            new += (tl.dot(grad, tl.trans(coef), products[k], input_precision="tf32"),)
            at += stride_ck
        products = new
    at_x = x_ptr + row[:, None] * stride_xb + column[None, :] * stride_xi
    x = tl.load(at_x, mask=has_row & has_column, other=0.0)
    # The choice changes no number that is stored. It makes the compiler convert x to the layout of the products, once,
    # instead of each P_k'(t).
    x = tl.where(has_row & has_column, x.to(tl.float32), products[0])
    t, dt_dx = _squashed(x, SQUASH)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    term, before = tl.full(t.shape, 1.0, tl.float32), t
    slope, slope_before = total, total
    for k in tl.static_range(DEGREE):
        after, slope_after = bases.next_term_and_slope(t, term, before, slope, slope_before, k, BASIS)
        before, slope_before = term, slope
        term, slope = after, slope_after
        total += products[k] * slope
    at_out = out_ptr + row[:, None] * n_in + column[None, :]
    tl.store(at_out, (total * dt_dx).to(out_ptr.dtype.element_ty), mask=has_row & has_column)


@triton.jit(do_not_specialize=["n_rows", "rows_of_part"])
def _kan_to_coef_kernel(
    grad_ptr,  # (B, out)
    x_ptr,  # (B, in)
    out_ptr,  # out (parts, DEGREE, in, out) float32, contiguous: the sums over each part of the batch
    n_rows,  # B
    n_in,
    n_out,
    rows_of_part,
    stride_gb,
    stride_go,
    stride_xb,
    stride_xi,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    SQUASH: tl.constexpr,
    OPERAND: tl.constexpr,
    ROWS: tl.constexpr,  # inputs of a tile
    COLUMNS: tl.constexpr,  # outputs of a tile
    DEPTH: tl.constexpr,  # rows of the batch in a product
):
    part = tl.program_id(1).to(tl.int64)
    row, column = _place(tl.cdiv(n_out, COLUMNS), ROWS, COLUMNS)
    inner = tl.arange(0, DEPTH).to(tl.int64)
    has_row, has_column = (row < n_in)[:, None], (column < n_out)[None, :]
    x_ptr += row[:, None] * stride_xi + inner[None, :] * stride_xb
    grad_ptr += inner[:, None] * stride_gb + column[None, :] * stride_go
    totals = _zeros(DEGREE, ROWS, COLUMNS)
    first_row = part * rows_of_part
    last_row = tl.minimum(first_row + rows_of_part, n_rows)
    for first in range(first_row, last_row, DEPTH):
        is_in = inner < last_row - first
        x = tl.load(x_ptr + first * stride_xb, mask=has_row & is_in[None, :], other=0.0)
        grad = tl.load(grad_ptr + first * stride_gb, mask=is_in[:, None] & has_column, other=0.0).to(OPERAND)
        t, _slope = _squashed(x.to(tl.float32), SQUASH)
        term, before = tl.full(t.shape, 1.0, tl.float32), t
        new = ()
        for k in tl.static_range(DEGREE):
            after = bases.next_term(t, term, before, k, BASIS)
            before, term = term, after
            new += (tl.dot(term.to(OPERAND), grad, totals[k], input_precision="tf32"),)
        totals = new
    at_out = out_ptr + ((part * DEGREE) * n_in + row[:, None]) * n_out + column[None, :]
    for k in tl.static_range(DEGREE):
        tl.store(at_out, totals[k], mask=has_row & has_column)
        at_out += tl.full((), n_in, tl.int64) * n_out


_OPERANDS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def _common(x: torch.Tensor, degree: int, basis: str, squash: str | None) -> dict[str, object]:
    """What the three kernels are compiled for."""
    return {"DEGREE": degree, "BASIS": basis, "SQUASH": squash or "none", "OPERAND": _OPERANDS[x.dtype]}


def _is_aligned(*operands: torch.Tensor) -> bool:
    """Whether the compiler is told that rows of all operands begin at multiples of 16 elements, and end there."""
    return all(
        operand.data_ptr() % 16 == 0
        and operand.shape[-1] % 16 == 0
        and all(stride == 1 or stride % 16 == 0 for stride in operand.stride())
        for operand in operands
    )


def _tile(
    kernel: kan_launch.Kernel, degree: int, n_rows: int, n_columns: int, x: torch.Tensor, *others: torch.Tensor
) -> kan_launch.Tile:
    """The tile of a launch on the device of x, with these operands."""
    n_processors, warp_size = processors_and_warp(x.device)
    units = kan_launch.units_of(compute_capability(x.device), warp_size)
    size = (n_rows, n_columns, x.element_size())
    return kan_launch.choose(
        kernel, degree, *size, n_processors, units, shared_memory(x.device), launch.current().kan,
        is_aligned=_is_aligned(x, *others),
    )  # fmt: skip


def kan(x: torch.Tensor, coef: torch.Tensor, bias: torch.Tensor, basis: str, squash: str | None) -> torch.Tensor:
    """The values y (B, out) in the dtype of x, for x (B, in), coef (degree, in, out) and bias (out,), any strides.

    Args:
        x: float16, bfloat16, or float32 where products may be TF32. coef and bias may have another dtype; coef is
            rounded to that of x.
        coef: the coefficients of P_1 to P_degree, at most `kan_launch.LARGEST_DEGREE`.
        bias: those of P_0, summed over inputs.
        basis: its name.
        squash: "tanh", "algebraic", "clamp", or None.
    """
    (n_rows, n_in), (degree, _, n_out) = x.shape, coef.shape
    x, coef, bias = x.resolve_neg(), coef.resolve_neg(), bias.resolve_neg()
    out = torch.empty(n_rows, n_out, dtype=x.dtype, device=x.device)
    tile = _tile("forward", degree, n_rows, n_out, x, coef)
    for part in kan_launch.parts(n_rows, n_out, tile, launch.current().largest_grid):
        some, its_out = x[part], out[part]
        _kan_kernel[tile.grid(len(some), n_out),](
            some, coef, bias, its_out,
            len(some), n_in, n_out, *some.stride(), *coef.stride(), *bias.stride(),
            **_common(x, degree, basis, squash),
            **tile.options,
        )  # fmt: skip
    return out


def kan_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    coef: torch.Tensor,
    basis: str,
    squash: str | None,
    *,
    want_x: bool,
    want_coef: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of sum(grad * y) for grad (B, out); all else as in `kan`.

    Returns:
        grad_x (B, in) in the dtype of x, and grad_coef (degree, in, out) in float32. None for what is not wanted.
    """
    grad, x, coef = grad.resolve_neg(), x.resolve_neg(), coef.resolve_neg()
    common = _common(x, coef.shape[0], basis, squash)
    return _to_x(grad, x, coef, common) if want_x else None, _to_coef(grad, x, coef, common) if want_coef else None


def _to_x(grad: torch.Tensor, x: torch.Tensor, coef: torch.Tensor, common: dict[str, object]) -> torch.Tensor:
    (n_rows, n_in), (degree, _, n_out) = x.shape, coef.shape
    out = torch.empty(n_rows, n_in, dtype=x.dtype, device=x.device)
    tile = _tile("to x", degree, n_rows, n_in, x, grad, coef)
    for part in kan_launch.parts(n_rows, n_in, tile, launch.current().largest_grid):
        its_grad, some, its_out = grad[part], x[part], out[part]
        _kan_to_x_kernel[tile.grid(len(some), n_in),](
            its_grad, some, coef, its_out,
            len(some), n_in, n_out, *its_grad.stride(), *some.stride(), *coef.stride(),
            **common,
            **tile.options,
        )  # fmt: skip
    return out


def _to_coef(grad: torch.Tensor, x: torch.Tensor, coef: torch.Tensor, common: dict[str, object]) -> torch.Tensor:
    (n_rows, n_in), (degree, _, n_out) = x.shape, coef.shape
    if not n_rows:
        return torch.zeros(coef.shape, dtype=torch.float32, device=x.device)
    tile = _tile("to coef", degree, n_in, n_out, x, grad)
    n_tiles, n_processors = tile.grid(n_in, n_out), processors_and_warp(x.device)[0]
    rows = kan_launch.parts_of_batch(n_rows, coef.numel(), n_tiles, tile, n_processors, launch.current().kan)
    n_parts = -(-n_rows // rows)
    sums = torch.empty(n_parts, *coef.shape, dtype=torch.float32, device=x.device)
    _kan_to_coef_kernel[n_tiles, n_parts](
        grad, x, sums,
        n_rows, n_in, n_out, rows, *grad.stride(), *x.stride(),
        **common,
        **tile.options,
    )  # fmt: skip
    return sums[0] if n_parts == 1 else sums.sum(0)
