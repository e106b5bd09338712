"""Descent on the squared loss in one launch, without the data: the loss is a quadratic of the coefficients.

    e = c - reference,    gradient = H e + gradient at the reference,    c = rule(c, gradient)

A lane trains one series, in float64. Lanes share nothing, so there is no barrier and no shuffle. The loss of a recorded
epoch is computed in the internal basis: Chebyshev polynomials on the range of the data, where H is well conditioned.

Two numbers: an epoch reads at most one row of the rule's table, and nothing if one row stands for all epochs. It takes
(d + 1)(d + 2) instructions on float64, 42 at d = 5, and those of the rule.
"""

import torch
import triton
import triton.language as tl

from polyfit_kernels import launch, rules
from polyfit_kernels.operands import processors_and_warp


@triton.jit
def _load_lanes(ptr, lane, mask, COUNT: tl.constexpr):
    """COUNT contiguous numbers of each lane, as a tuple of tensors."""
    out = ()
    for i in tl.static_range(COUNT):
        out += (tl.load(ptr + lane * COUNT + i, mask=mask, other=0.0),)
    return out


@triton.jit
def _store_lanes(ptr, lane, mask, values, COUNT: tl.constexpr):
    """Store a tuple of tensors as COUNT contiguous numbers of each lane."""
    for i in tl.static_range(COUNT):
        tl.store(ptr + lane * COUNT + i, values[i], mask=mask)


@triton.jit
def _chosen(mask, new, old):
    """A tuple of tensors: `new` where the mask is set, `old` elsewhere."""
    out = ()
    for i in tl.static_range(len(old)):
        out += (tl.where(mask, new[i], old[i]),)
    return out


@triton.jit
def _load_triangle(ptr, lane, mask, P: tl.constexpr):
    """The upper triangle of a symmetric matrix (P, P) of each lane, row by row, as a tuple of tensors."""
    out = ()
    for j in tl.static_range(P):
        for k in tl.static_range(j, P):
            out += (tl.load(ptr + lane * (P * P) + (j * P + k), mask=mask, other=0.0),)
    return out


@triton.jit
def _gradient(coef, reference, slope, hessian, P: tl.constexpr):
    """The gradient at coef, and e = coef - reference."""
    e = ()
    for k in tl.static_range(P):
        e += (coef[k] - reference[k],)
    gradient = ()
    for j in tl.static_range(P):
        g = slope[j]
        for k in tl.static_range(P):
            if k >= j:
                g += hessian[j * P - (j * (j - 1)) // 2 + k - j] * e[k]
            else:
                g += hessian[k * P - (k * (k - 1)) // 2 + j - k] * e[k]
        gradient += (g,)
    return gradient, e


@triton.jit
def _loss(
    e,
    loss,  # at the center
    to_internal_ptr,
    internal_hessian_ptr,
    offset_ptr,
    internal_slope_ptr,
    lane,
    mask,
    P: tl.constexpr,
    OWN_BASIS: tl.constexpr,
):
    """The loss at the reference + e."""
    internal = ()  # the distance from the center, in the internal basis
    for j in tl.static_range(P):
        part = tl.load(offset_ptr + lane * P + j, mask=mask, other=0.0)
        for k in tl.static_range(P):
            if OWN_BASIS:
                factor = tl.load(to_internal_ptr + lane * (P * P) + (j * P + k), mask=mask, other=0.0)
            else:
                factor = tl.load(to_internal_ptr + (j * P + k))
            part += factor * e[k]
        internal += (part,)
    for j in tl.static_range(P):
        part = tl.zeros_like(loss)
        for k in tl.static_range(P):
            part += tl.load(internal_hessian_ptr + lane * (P * P) + (j * P + k), mask=mask, other=0.0) * internal[k]
        loss += internal[j] * (tl.load(internal_slope_ptr + lane * P + j, mask=mask, other=0.0) + 0.5 * part)
    return loss


# Norms stand behind the losses in memory: after an odd number of them they are not aligned to 16 bytes.
@triton.jit(do_not_specialize=["first", "record_every", "losses_ptr", "norms_ptr"])
def _descent_kernel(
    hessian_ptr,  # (S, P, P)
    reference_ptr,  # (S, P)
    slope_ptr,  # (S, P)
    center_loss_ptr,  # (S,)
    to_internal_ptr,  # (1, P, P), or (S, P, P) with OWN_BASIS
    internal_hessian_ptr,  # (S, P, P)
    offset_ptr,  # (S, P)
    internal_slope_ptr,  # (S, P)
    coef_ptr,  # in and out (S, P)
    state_ptr,  # in and out (S, MEMORY)
    table_ptr,  # (epochs, 3), or (3,) with IS_ONE_ROW
    lr_scale_ptr,  # (S,), or None without HAS_LR_SCALE
    last_ptr,  # (S,) int64
    losses_ptr,  # out (R, S)
    norms_ptr,  # out (R, S)
    path_ptr,  # out (R, S, P), or None without WANT_PATH
    n_series,  # S
    first,  # epochs before this launch
    record_every,
    decay: "fp64",  # noqa: F821 - Triton reads the annotation
    constant_1: "fp64",  # noqa: F821
    constant_2: "fp64",  # noqa: F821
    constant_3: "fp64",  # noqa: F821
    P: tl.constexpr,
    RULE: tl.constexpr,
    MEMORY: tl.constexpr,  # length of the rule's memory
    HAS_LR_SCALE: tl.constexpr,
    WANT_PATH: tl.constexpr,
    OWN_BASIS: tl.constexpr,
    IS_ONE_ROW: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = lane < n_series
    rule = rules.constants(decay, constant_1, constant_2, constant_3, tl.float64)
    reference = _load_lanes(reference_ptr, lane, mask, P)
    slope = _load_lanes(slope_ptr, lane, mask, P)
    coef = _load_lanes(coef_ptr, lane, mask, P)
    state = _load_lanes(state_ptr, lane, mask, MEMORY)
    hessian = _load_triangle(hessian_ptr, lane, mask, P)
    lr_scale = tl.full((BLOCK,), 1.0, tl.float64)
    if HAS_LR_SCALE:
        lr_scale = tl.load(lr_scale_ptr + lane, mask=mask, other=1.0)
    last = tl.load(last_ptr + lane, mask=mask, other=0)

    begin = tl.full((), first, tl.int64)
    every = tl.full((), record_every, tl.int64)
    end = tl.max(last, axis=0)
    if IS_ONE_ROW:
        lr, a, b = rules.load_row(table_ptr, lr_scale)
    first_record = (begin + every - 1) // every
    for record in range(first_record, tl.maximum((end + every - 1) // every, first_record) + 1):
        stop = tl.minimum(record * every, end)
        # From the record before, computed anew: Triton 3.6 and 3.7 forget a number that the outer loop carries through
        # two inner ones, and would begin at `begin` each time.
        for epoch in range(tl.maximum(begin, (record - 1) * every + 1), stop):
            gradient, _ = _gradient(coef, reference, slope, hessian, P)
            if not IS_ONE_ROW:
                lr, a, b = rules.load_row(table_ptr + 3 * (epoch - begin), lr_scale)
            new, new_state = rules.update(coef, gradient, state, lr, a, b, rule, RULE, HAS_DECAY)
            if BLOCK > 1:
                new = _chosen(epoch < last, new, coef)
                new_state = _chosen(epoch < last, new_state, state)
            coef, state = new, new_state  # of a single lane, too: it ends where the loop does
        # At most one round: the recorded epoch, unless the run ends before it.
        for epoch in range(record * every, tl.minimum(record * every + 1, end)):
            gradient, e = _gradient(coef, reference, slope, hessian, P)
            is_recorded = epoch < last
            loss = tl.load(center_loss_ptr + lane, mask=mask, other=0.0)
            loss = _loss(
                e, loss, to_internal_ptr, internal_hessian_ptr, offset_ptr, internal_slope_ptr, lane, mask, P, OWN_BASIS
            )  # fmt: skip
            square = tl.zeros_like(loss)
            for k in tl.static_range(P):
                square += gradient[k] * gradient[k]
            cell = (record - first_record) * n_series + lane
            tl.store(losses_ptr + cell, loss, mask=is_recorded)
            tl.store(norms_ptr + cell, tl.sqrt(square), mask=is_recorded)
            if WANT_PATH:
                _store_lanes(path_ptr, cell, is_recorded, coef, P)
            if not IS_ONE_ROW:
                lr, a, b = rules.load_row(table_ptr + 3 * (epoch - begin), lr_scale)
            new, new_state = rules.update(coef, gradient, state, lr, a, b, rule, RULE, HAS_DECAY)
            coef = _chosen(is_recorded, new, coef)
            state = _chosen(is_recorded, new_state, state)
    _store_lanes(coef_ptr, lane, mask, coef, P)
    _store_lanes(state_ptr, lane, mask, state, MEMORY)


def descent(
    hessian: torch.Tensor,
    reference: torch.Tensor,
    gradient: torch.Tensor,
    center_loss: torch.Tensor,
    to_internal: torch.Tensor,
    internal_hessian: torch.Tensor,
    offset: torch.Tensor,
    internal_gradient: torch.Tensor,
    coef: torch.Tensor,
    state: torch.Tensor,
    rule: str,
    constants: tuple[float, float, float, float],
    table: torch.Tensor,
    lr_scale: torch.Tensor | None,
    first: int,
    last: torch.Tensor,
    record_every: int,
    losses: torch.Tensor,
    norms: torch.Tensor,
    path: torch.Tensor | None,
) -> None:
    """Launch epochs of descent on S quadratics with P = degree + 1 coefficients; all float64 and contiguous.

    Args:
        hessian: (S, P, P), symmetric. P - 1 is at most `launch.LARGEST_DESCENT_DEGREE`.
        reference: coefficients (S, P) from which distances are measured.
        gradient: the gradient at the reference, (S, P).
        center_loss: the loss at the center, a place near the minimum, (S,).
        to_internal: the matrix that takes coefficients to the internal basis, (S, P, P), or (1, P, P) for all series.
        internal_hessian: the Hessian in the internal basis, (S, P, P).
        offset: internal coefficients of the reference less those of the center, (S, P).
        internal_gradient: the gradient at the center in the internal basis, (S, P).
        coef: (S, P); changed.
        state: memory of the rule, (S, k, P); changed.
        rule: the name of the update rule, see `polyfit_kernels.rules`.
        constants: the four constants of the rule.
        table: rate and factors (epochs, 3) of the updates from number `first` on, counted from 0; or (3,) where they
            are the same for all updates.
        lr_scale: factors of the rate (S,), or None.
        first: epochs before this launch.
        last: the number of the epoch before which each series ends, (S,) int64. A series that has ended stays as it is.
        record_every: epochs at its multiples are recorded, from `first` on and before `last`, ahead of their update.
        losses: out (R, S), the recorded losses.
        norms: out (R, S), the Euclidean norms of their gradients.
        path: out (R, S, P), the coefficients; or None.
    """
    n_series, n_coef = coef.shape
    config = launch.choose_descent(n_series, processors_and_warp(coef.device)[1])
    _descent_kernel[triton.cdiv(n_series, config.block),](
        hessian, reference, gradient, center_loss, to_internal, internal_hessian, offset, internal_gradient, coef,
        state, table, lr_scale, last, losses, norms, path, n_series, first, record_every, *constants,
        P=n_coef,
        RULE=rule,
        MEMORY=rules.STATES[rule] * n_coef,
        HAS_LR_SCALE=lr_scale is not None,
        WANT_PATH=path is not None,
        OWN_BASIS=len(to_internal) > 1,
        IS_ONE_ROW=table.dim() == 1,
        # With a table an epoch waits for its row, and a product with 0 costs nothing: 134.1 and 133.9 ns (H100).
        HAS_DECAY=table.dim() > 1 or constants[0] != 0.0,
        BLOCK=config.block,
        num_warps=config.num_warps,
    )  # fmt: skip
