"""Descent on any loss in one launch: the data of a series stay in the registers of its program for all epochs.

    c_{t+1} = rule(c_t, gradient of  scale sum_n w_n l(p(x_n), y_n)  at c_t)

A program trains one series. A thread holds `COLUMNS` samples of it. An epoch is one evaluation of all samples, one
joint reduction of all sums, and the update, which every thread computes for itself.

Two numbers: an epoch reads only three numbers of the rule's table, and takes 3 d + 2 instructions a sample. It also
waits for its reduction: shuffles within a warp, and 3 barriers if there are several warps.

The arithmetic of an epoch depends on whether the epoch is recorded (its number is a multiple of `record_every`). It
does not depend on how a run is cut into launches.
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import bases, launch, losses, rules
from polyfit_kernels.operands import compute_dtypes, processors_and_warp, rows, strides


@triton.jit
def _totals(parts, LEVELS: tl.constexpr):
    """The sums of 2**LEVELS tensors [ROWS], each in every thread: one reduction.

    The tensors are joined into one, [ROWS, 2, 2, ...]. Its last axes lie in the registers of a thread, before and after
    the sum over the rows, so splitting the result moves no data. (At each level first all left parts, then all right
    parts: this restores the order of the sums.)
    """
    for level in tl.static_range(LEVELS):
        joined = ()
        for i in tl.static_range(1 << (LEVELS - 1 - level)):
            joined += (tl.join(parts[i], parts[i + (1 << (LEVELS - 1 - level))]),)
        parts = joined
    totals = (tl.sum(parts[0], axis=0),)
    for level in tl.static_range(LEVELS):
        lefts = ()
        rights = ()
        for i in tl.static_range(1 << level):
            left, right = tl.split(totals[i])
            lefts += (left,)
            rights += (right,)
        totals = lefts + rights
    return totals


@triton.jit
def _pass(
    t,  # tuple of COLUMNS tensors [ROWS]
    y,
    weight,  # like y, or empty without HAS_WEIGHT
    coef,  # tuple of scalars
    index,  # [ROWS], of the first column
    n_samples,
    parameter,  # of the loss
    scale,
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    LOSS: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    WANT_VALUE: tl.constexpr,
    COLUMNS: tl.constexpr,
    FULL: tl.constexpr,  # columns that hold a sample in every row
    LEVELS: tl.constexpr,
):
    """The gradient as a tuple of scalars, and with WANT_VALUE the loss as its last entry."""
    sums = ()
    for _ in tl.static_range(1 << LEVELS):
        sums += (tl.zeros_like(t[0]),)
    for i in tl.static_range(COLUMNS):
        p = bases.series(t[i], coef, DEGREE, BASIS)
        value, delta, _to_y = losses.pointwise(p, y[i], parameter, LOSS)
        if HAS_WEIGHT:
            # Weight zero, also of what is no sample: left out, even where the loss is NaN or infinite.
            is_out = weight[i] == 0.0
            delta = tl.where(is_out, 0.0, delta * weight[i])
            value = tl.where(is_out, 0.0, value * weight[i])
        elif i >= FULL:
            is_sample = index + i * index.shape[0] < n_samples
            delta = tl.where(is_sample, delta, 0.0)
            value = tl.where(is_sample, value, 0.0)
        new = ()
        term, before = delta, delta
        for k in tl.static_range(1 << LEVELS):
            if k <= DEGREE:
                new += (sums[k] + term,)
                if k < DEGREE:
                    after = bases.next_term(t[i], term, before, k, BASIS)
                    before = term
                    term = after
            elif k == DEGREE + 1 and WANT_VALUE:
                new += (sums[k] + value,)
            else:
                new += (sums[k],)
        sums = new
    totals = _totals(sums, LEVELS)
    out = ()
    for k in tl.static_range(DEGREE + 2 if WANT_VALUE else DEGREE + 1):
        out += (totals[k] * scale,)
    return out


# Norms stand behind the losses in memory: after an odd number of them they are not aligned to 16 bytes.
@triton.jit(do_not_specialize=["first", "record_every", "losses_ptr", "norms_ptr"])
def _resident_kernel(
    x_ptr,  # (S or 1, N)
    y_ptr,  # (S or 1, N)
    weight_ptr,  # (S or 1, N), or None without HAS_WEIGHT
    coef_ptr,  # in and out (S, DEGREE + 1)
    state_ptr,  # in and out (S, STATES, DEGREE + 1)
    table_ptr,  # (epochs, 3), or (3,) with IS_ONE_ROW
    lr_scale_ptr,  # (S,), or None without HAS_LR_SCALE
    last_ptr,  # (S,) int64
    losses_ptr,  # out (R, S) float64
    norms_ptr,  # out (R, S) float64
    path_ptr,  # out (R, S, DEGREE + 1), or None without WANT_PATH
    n_samples,  # N
    n_series,  # S, the row stride of losses, norms and path
    first,  # epochs before this launch
    record_every,
    stride_xs,
    stride_xn,
    stride_ys,
    stride_yn,
    stride_ws,
    stride_wn,
    center: "fp64",  # noqa: F821 - Triton reads the annotation
    scale_x: "fp64",  # noqa: F821
    shift: "fp64",  # noqa: F821
    parameter: "fp64",  # noqa: F821
    scale: "fp64",  # noqa: F821
    decay: "fp64",  # noqa: F821
    constant_1: "fp64",  # noqa: F821
    constant_2: "fp64",  # noqa: F821
    constant_3: "fp64",  # noqa: F821
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    LOSS: tl.constexpr,
    RULE: tl.constexpr,
    MEMORY: tl.constexpr,  # length of the rule's memory
    HAS_DOMAIN: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_LR_SCALE: tl.constexpr,
    WANT_PATH: tl.constexpr,
    IS_ONE_ROW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FULL: tl.constexpr,
    LEVELS: tl.constexpr,  # of the sums without the loss
    LEVELS_RECORDED: tl.constexpr,  # of the sums with the loss
    COMPUTE: tl.constexpr,
):
    series = tl.program_id(0).to(tl.int64)
    x_ptr += series * stride_xs
    y_ptr += series * stride_ys
    if HAS_WEIGHT:
        weight_ptr += series * stride_ws
    coef_ptr += series * (DEGREE + 1)
    state_ptr += series * MEMORY
    c, s, h, loss_parameter, loss_scale = bases.scalars((center, scale_x, shift, parameter, scale), COMPUTE)
    rule = rules.constants(decay, constant_1, constant_2, constant_3, COMPUTE)
    lr_scale = tl.full((), 1.0, COMPUTE)
    if HAS_LR_SCALE:
        lr_scale = tl.load(lr_scale_ptr + series)
    index = tl.arange(0, ROWS)
    t = ()
    y = ()
    weight = ()
    for i in tl.static_range(COLUMNS):
        place = (index + i * ROWS).to(tl.int64)
        mask = place < n_samples
        x = tl.load(x_ptr + place * stride_xn, mask=mask, other=0.0).to(COMPUTE)
        is_used = mask
        if HAS_WEIGHT:
            weight += (tl.load(weight_ptr + place * stride_wn, mask=mask, other=0.0).to(COMPUTE),)
            is_used = weight[i] != 0.0
        # An element that is not used is 0 in the window: P_k there is finite, and its product with a delta of 0 is 0.
        t += (tl.where(is_used, bases.to_window(x, c, s, h, HAS_DOMAIN), 0.0),)
        y += (tl.load(y_ptr + place * stride_yn, mask=mask, other=0.0).to(COMPUTE),)
    coef = rules.load(coef_ptr, DEGREE + 1)
    state = rules.load(state_ptr, MEMORY)

    begin = tl.full((), first, tl.int64)
    every = tl.full((), record_every, tl.int64)
    last = tl.load(last_ptr + series)
    if IS_ONE_ROW:
        lr, a, b = rules.load_row(table_ptr, lr_scale)
    first_record = (begin + every - 1) // every
    for record in range(first_record, tl.maximum((last + every - 1) // every, first_record) + 1):
        stop = tl.minimum(record * every, last)
        # From the record before, computed anew: Triton 3.6 and 3.7 forget a number that the outer loop carries through
        # two inner ones, and would begin at `begin` each time.
        for epoch in range(tl.maximum(begin, (record - 1) * every + 1), stop):
            if not IS_ONE_ROW:  # read before the pass, which hides the latency
                lr, a, b = rules.load_row(table_ptr + 3 * (epoch - begin), lr_scale)
            gradient = _pass(
                t, y, weight, coef, index, n_samples, loss_parameter, loss_scale,
                DEGREE, BASIS, LOSS, HAS_WEIGHT, False, COLUMNS, FULL, LEVELS,
            )  # fmt: skip
            coef, state = rules.update(coef, gradient, state, lr, a, b, rule, RULE, True)
        # At most one round: the recorded epoch, unless the run ends before it.
        for epoch in range(record * every, tl.minimum(record * every + 1, last)):
            if not IS_ONE_ROW:
                lr, a, b = rules.load_row(table_ptr + 3 * (epoch - begin), lr_scale)
            sums = _pass(
                t, y, weight, coef, index, n_samples, loss_parameter, loss_scale,
                DEGREE, BASIS, LOSS, HAS_WEIGHT, True, COLUMNS, FULL, LEVELS_RECORDED,
            )  # fmt: skip
            gradient = ()
            square = tl.full((), 0.0, COMPUTE)
            for k in tl.static_range(DEGREE + 1):
                gradient += (sums[k],)
                square += sums[k] * sums[k]
            cell = (record - first_record) * n_series + series
            tl.store(losses_ptr + cell, sums[DEGREE + 1].to(tl.float64))
            tl.store(norms_ptr + cell, tl.sqrt(square.to(tl.float64)))
            if WANT_PATH:
                rules.store(path_ptr + cell * (DEGREE + 1), coef, DEGREE + 1)
            coef, state = rules.update(coef, gradient, state, lr, a, b, rule, RULE, True)
    rules.store(coef_ptr, coef, DEGREE + 1)
    rules.store(state_ptr, state, MEMORY)


def resident(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor | None,
    coef: torch.Tensor,
    state: torch.Tensor,
    mapping: tuple[float, float, float] | None,
    basis: str,
    loss: str,
    parameter: float,
    rule: str,
    constants: tuple[float, float, float, float],
    table: torch.Tensor,
    lr_scale: torch.Tensor | None,
    scale: float,
    first: int,
    last: torch.Tensor,
    record_every: int,
    losses: torch.Tensor,
    norms: torch.Tensor,
    path: torch.Tensor | None,
) -> None:
    """Launch epochs of descent on canonical operands, any strides of x, y and weight.

    Args:
        x: (S or 1, N); one row is shared by all series. N is at most `launch.largest_resident`.
        y: (S or 1, N).
        weight: (S or 1, N) or None.
        coef: (S, degree + 1), contiguous, in the dtype that computes; changed.
        state: memory of the rule, (S, k, degree + 1), contiguous, in the dtype that computes; changed.
        mapping: center, scale and shift of t = (x - center) * scale + shift, or None for t = x.
        basis: its name.
        loss: the name of its variant, see `polyfit_kernels.losses.pointwise`.
        parameter: the parameter of the loss.
        rule: the name of the update rule, see `polyfit_kernels.rules`.
        constants: the four constants of the rule.
        table: rate and factors (epochs, 3) float64 of the updates from number `first` on, counted from 0; or (3,) where
            they are the same for all updates.
        lr_scale: factors of the rate (S,) float64, or None.
        scale: the factor that turns sums over samples into the loss.
        first: epochs before this launch.
        last: the number of the epoch before which each series ends, (S,) int64. A series that has ended stays as it is.
        record_every: epochs at its multiples are recorded, from `first` on and before `last`, ahead of their update.
        losses: out (R, S) float64, the recorded losses.
        norms: out (R, S) float64, the Euclidean norms of their gradients.
        path: out (R, S, degree + 1) in the dtype that computes, the coefficients; or None.
    """
    n_series, n_coef = coef.shape
    wide, compute = compute_dtypes(x.dtype)
    table = table.to(wide).contiguous()
    lr_scale = None if lr_scale is None else lr_scale.to(wide).contiguous()
    policy = launch.current()
    config = launch.choose_resident(x.shape[1], processors_and_warp(x.device)[1], policy=policy)
    options = {} if config.registers is None else {"maxnreg": config.registers}
    for start in range(0, n_series, policy.largest_grid):
        part = slice(start, min(start + policy.largest_grid, n_series))
        count = part.stop - part.start
        x_rows, y_rows, weight_rows = rows(x, part), rows(y, part), rows(weight, part)
        _resident_kernel[count,](
            x_rows, y_rows, weight_rows, coef[part], state[part], table, None if lr_scale is None else lr_scale[part],
            last[part], losses[:, part], norms[:, part], None if path is None else path[:, part],
            x.shape[1], n_series, first, record_every, *strides(x_rows), *strides(y_rows), *strides(weight_rows),
            *(mapping or launch.IDENTITY), parameter, scale, *constants,
            DEGREE=n_coef - 1,
            BASIS=basis,
            LOSS=loss,
            RULE=rule,
            MEMORY=rules.STATES[rule] * n_coef,
            HAS_DOMAIN=mapping is not None,
            HAS_WEIGHT=weight is not None,
            HAS_LR_SCALE=lr_scale is not None,
            WANT_PATH=path is not None,
            IS_ONE_ROW=table.dim() == 1,
            ROWS=config.rows,
            COLUMNS=config.columns,
            FULL=config.full_columns,
            LEVELS=(n_coef - 1).bit_length(),
            LEVELS_RECORDED=n_coef.bit_length(),
            COMPUTE=compute,
            num_warps=config.num_warps,
            **options,
        )  # fmt: skip
