"""A polynomial inside a kernel that is continued outside of the window [lo, hi] of its basis, and its gradients.

With c = clamp(t, lo, hi) and e = t - c, what takes the place of p(t) is::

    "extend"    p(t)
    "clamp"     p(c)
    "linear"    p(c) + p'(hi) max(e, 0) + p'(lo) min(e, 0)

For grad times it, with g_n = grad_n and a sum over samples::

    grad_x_n    = g_n p'(c_n) dt/dx; for "clamp" 0 where t is outside of the window
    grad_coef_k = sum_n g_n P_k(c_n), and for "linear" + P_k'(hi) sum_n g_n max(e_n, 0) + P_k'(lo) sum_n g_n min(e_n, 0)

So "linear" takes two sums more, for any degree. One recurrence gives both gradients: its terms are g P_k(c), and
grad_x is their sum with the coefficients of p'. A tile is of any shape; coefficients are scalars, or broadcast with it.
"""

import triton
import triton.language as tl

from polyfit_kernels import bases, sums


@triton.jit
def _ends(BASIS: tl.constexpr, COMPUTE: tl.constexpr):
    """The window of numpy.polynomial, as scalars of the dtype that computes."""
    return tl.full((), 0.0 if BASIS == "laguerre" else -1.0, COMPUTE), tl.full((), 1.0, COMPUTE)


@triton.jit
def _clamp(t, BASIS: tl.constexpr):
    """The nearest number of the window; NaN stays NaN."""
    lo, hi = _ends(BASIS, t.dtype)
    if t.dtype == tl.float64:  # no instruction takes the smaller of two
        return tl.where(t < lo, lo, tl.where(t > hi, hi, t))
    else:
        t = tl.maximum(t, lo, propagate_nan=tl.PropagateNan.ALL)
        return tl.minimum(t, hi, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _assert_is_continuation(OUTSIDE: tl.constexpr):
    """Fail to compile for an unknown name."""
    tl.static_assert(
        OUTSIDE == "linear" or OUTSIDE == "clamp" or OUTSIDE == "extend", "OUTSIDE is not the name of a continuation"
    )


@triton.jit
def slopes_at_ends(coef, DEGREE: tl.constexpr, BASIS: tl.constexpr, COMPUTE: tl.constexpr):
    """The slopes p'(lo) and p'(hi), for degree 1 upward."""
    lo, hi = _ends(BASIS, tl.float64)  # constants, which the compiler computes
    of_lo, of_hi = bases.slopes_of_terms(lo, DEGREE, BASIS), bases.slopes_of_terms(hi, DEGREE, BASIS)
    at_lo, at_hi = coef[1] * of_lo[1].to(COMPUTE), coef[1] * of_hi[1].to(COMPUTE)
    for k in tl.static_range(2, DEGREE + 1):
        at_lo += coef[k] * of_lo[k].to(COMPUTE)
        at_hi += coef[k] * of_hi[k].to(COMPUTE)
    return at_lo, at_hi


@triton.jit
def slope_coefficients(coef, scale, DEGREE: tl.constexpr, BASIS: tl.constexpr, HAS_DOMAIN: tl.constexpr):
    """The coefficients of dp/dx, a tuple of DEGREE, for degree 1 upward."""
    slopes = bases.slope_coefficients(coef, DEGREE, BASIS)
    if HAS_DOMAIN:
        scaled = ()
        for k in tl.static_range(DEGREE):
            scaled += (slopes[k] * scale,)
        slopes = scaled
    return slopes


@triton.jit
def value(t, coef, ends, DEGREE: tl.constexpr, BASIS: tl.constexpr, OUTSIDE: tl.constexpr):
    """The value at t; `ends` are the slopes at the two ends of the window, for "linear"."""
    _assert_is_continuation(OUTSIDE)
    inside = t
    if OUTSIDE != "extend":
        inside = _clamp(t, BASIS)
    p = bases.series(inside, coef, DEGREE, BASIS)
    if OUTSIDE == "linear" and DEGREE > 0:
        excess = t - inside
        p += ends[1] * tl.maximum(excess, 0.0) + ends[0] * tl.minimum(excess, 0.0)
    return p


def n_sums(degree: int, outside: str, *, want_coef: bool) -> int:
    """Accumulators of `pull_back`. One that is not used where no sum is wanted: a loop cannot carry an empty tuple."""
    if not want_coef:
        return 1
    return degree + 1 + (2 if outside == "linear" and degree > 0 else 0)


@triton.jit
def pull_back(
    accumulators,  # tuple of n_sums: shaped like the tile, or a number a row with OVER_COLUMNS
    grad,
    t,
    slopes,  # coefficients of dp/dx, a tuple of DEGREE
    DEGREE: tl.constexpr,
    BASIS: tl.constexpr,
    OUTSIDE: tl.constexpr,
    WANT_X: tl.constexpr,
    WANT_COEF: tl.constexpr,
    OVER_COLUMNS: tl.constexpr,
):
    """Add one tile to the sums; the sums and grad_x."""
    _assert_is_continuation(OUTSIDE)
    inside = t
    if OUTSIDE != "extend":
        inside = _clamp(t, BASIS)
    term, before = grad, grad
    grad_x = tl.zeros_like(grad)
    out = ()
    for k in tl.static_range(DEGREE + 1):
        if WANT_COEF:
            out += (accumulators[k] + _added(term, OVER_COLUMNS),)
        if WANT_X and k < DEGREE:
            grad_x += term * slopes[k]
        if k < DEGREE:
            after = bases.next_term(inside, term, before, k, BASIS)
            before = term
            term = after
    if WANT_X and OUTSIDE == "clamp":
        lo, hi = _ends(BASIS, t.dtype)
        grad_x = tl.where((t < lo) | (t > hi), 0.0, grad_x)
    if WANT_COEF and OUTSIDE == "linear" and DEGREE > 0:
        excess = t - inside
        out += (accumulators[DEGREE + 1] + _added(grad * tl.minimum(excess, 0.0), OVER_COLUMNS),)
        out += (accumulators[DEGREE + 2] + _added(grad * tl.maximum(excess, 0.0), OVER_COLUMNS),)
    if WANT_COEF:
        accumulators = out
    return accumulators, grad_x


@triton.jit
def _added(term, OVER_COLUMNS: tl.constexpr):
    """What a tile adds to a sum."""
    if OVER_COLUMNS:
        return sums.over_columns(term)
    else:
        return term


@triton.jit
def gradient_sums(accumulators, DEGREE: tl.constexpr, BASIS: tl.constexpr, OUTSIDE: tl.constexpr):
    """The sums of `pull_back` as DEGREE + 1 sums of grad_coef, float64: those outside of the window belong to each."""
    lo, hi = _ends(BASIS, tl.float64)
    of_lo, of_hi = bases.slopes_of_terms(lo, DEGREE, BASIS), bases.slopes_of_terms(hi, DEGREE, BASIS)
    out = ()
    for k in tl.static_range(DEGREE + 1):
        total = accumulators[k].to(tl.float64)
        if OUTSIDE == "linear" and k > 0:
            total += of_lo[k] * accumulators[DEGREE + 1].to(tl.float64)
            total += of_hi[k] * accumulators[DEGREE + 2].to(tl.float64)
        out += (total,)
    return out
