"""Basis functions inside a kernel: one three-term recurrence for all bases, specialised at compile time.

    P_0 = 1,   P_{k+1}(t) = (a_k t + b_k) P_k(t) - c_k P_{k-1}(t)

The value of a series comes from Clenshaw's rule (Clenshaw 1955), which for the power basis is Horner's::

    u_k = coef_k + (a_k t + b_k) u_{k+1} - c_{k+1} u_{k+2},    p(t) = u_0

and its slope from the derivative of each step. Coefficients are a tuple of scalars, lowest degree first. Degree and
basis are known at compile time: every loop unrolls, and a factor of zero or one costs nothing.
"""

import triton
import triton.language as tl


@triton.jit
def load_coefficients(coef_ptr, stride, DEGREE: tl.constexpr, COMPUTE: tl.constexpr):
    """The degree + 1 coefficients of one series as scalars of the dtype that computes."""
    coef = ()
    for _ in tl.static_range(DEGREE + 1):
        coef += (tl.load(coef_ptr).to(COMPUTE),)
        coef_ptr += stride  # step by step: degree * stride may overflow int32
    return coef


@triton.jit
def scalars(values, COMPUTE: tl.constexpr):
    """Float arguments in the dtype that computes; by `full`, because under the interpreter they are Python floats."""
    out = ()
    for i in tl.static_range(len(values)):
        out += (tl.full((), values[i], COMPUTE),)
    return out


@triton.jit
def to_window(x, center, scale, shift, HAS_DOMAIN: tl.constexpr):
    """Map the domain to the window: t = (x - center) * scale + shift, or t = x without a domain."""
    if HAS_DOMAIN:
        return (x - center) * scale + shift
    return x


@triton.jit
def _assert_is_basis(BASIS: tl.constexpr):
    """Fail to compile for an unknown name, which the branches below would take for the power basis."""
    tl.static_assert(
        BASIS == "power"
        or BASIS == "chebyshev"
        or BASIS == "legendre"
        or BASIS == "hermite"
        or BASIS == "hermite_e"
        or BASIS == "laguerre",
        "BASIS is not the name of a basis",
    )


@triton.jit
def _times_linear(u, t, k: tl.constexpr, BASIS: tl.constexpr):
    """The product (a_k t + b_k) u. It multiplies u by t first, or the compiler keeps all (a_k t + b_k) in registers."""
    if BASIS == "legendre":
        return u * t * ((2.0 * k + 1.0) / (k + 1.0))
    elif BASIS == "laguerre":
        return u * ((2.0 * k + 1.0) / (k + 1.0)) - u * t * (1.0 / (k + 1.0))
    elif BASIS == "hermite" or (BASIS == "chebyshev" and k > 0):
        return u * (t + t)
    else:  # power, hermite_e, and the first step of chebyshev
        return u * t


@triton.jit
def _plus_slope_of_linear(value, u, k: tl.constexpr, BASIS: tl.constexpr):
    """The sum value + a_k u."""
    if BASIS == "legendre":
        return value + u * ((2.0 * k + 1.0) / (k + 1.0))
    elif BASIS == "laguerre":
        return value - u * (1.0 / (k + 1.0))
    elif BASIS == "hermite" or (BASIS == "chebyshev" and k > 0):
        return value + 2.0 * u
    else:
        return value + u


@triton.jit
def _minus_before(value, before, k: tl.constexpr, BASIS: tl.constexpr):
    """The difference value - c_k before."""
    if BASIS == "chebyshev":
        return value - before
    elif BASIS == "legendre" or BASIS == "laguerre":
        return value - before * (k / (k + 1.0))
    elif BASIS == "hermite":
        return value - before * (2.0 * k)
    elif BASIS == "hermite_e":
        return value - before * (1.0 * k)
    else:
        return value


@triton.jit
def next_term(t, term, before, k: tl.constexpr, BASIS: tl.constexpr):
    """A multiple of P_{k+1} from the same multiples of P_k and P_{k-1}; `before` is not used for k = 0."""
    _assert_is_basis(BASIS)
    value = _times_linear(term, t, k, BASIS)
    if k > 0:
        value = _minus_before(value, before, k, BASIS)
    return value


@triton.jit
def next_term_and_slope(t, term, before, slope, slope_before, k: tl.constexpr, BASIS: tl.constexpr):
    """P_{k+1} and P_{k+1}' from those of P_k and P_{k-1}; what is of k - 1 is not used for k = 0."""
    value = _plus_slope_of_linear(_times_linear(slope, t, k, BASIS), term, k, BASIS)
    if k > 0:
        value = _minus_before(value, slope_before, k, BASIS)
    return next_term(t, term, before, k, BASIS), value


@triton.jit
def series(t, coef, DEGREE: tl.constexpr, BASIS: tl.constexpr):
    """The value p(t)."""
    _assert_is_basis(BASIS)
    value = tl.zeros_like(t) + coef[DEGREE]
    before = value
    for k in tl.static_range(DEGREE - 1, -1, -1):
        step = _times_linear(value, t, k, BASIS) + coef[k]
        if k + 1 < DEGREE:
            step = _minus_before(step, before, k + 1, BASIS)
        before = value
        value = step
    return value


@triton.jit
def series_and_slope(t, coef, DEGREE: tl.constexpr, BASIS: tl.constexpr):
    """The value p(t) and dp/dt."""
    _assert_is_basis(BASIS)
    value = tl.zeros_like(t) + coef[DEGREE]
    slope = tl.zeros_like(t)
    before, slope_before = value, slope
    for k in tl.static_range(DEGREE - 1, -1, -1):
        step = _times_linear(value, t, k, BASIS) + coef[k]
        slope_step = _plus_slope_of_linear(_times_linear(slope, t, k, BASIS), value, k, BASIS)
        if k + 1 < DEGREE:
            step = _minus_before(step, before, k + 1, BASIS)
            slope_step = _minus_before(slope_step, slope_before, k + 1, BASIS)
        before, slope_before = value, slope
        value, slope = step, slope_step
    return value, slope


@triton.jit
def slope_coefficients(coef, DEGREE: tl.constexpr, BASIS: tl.constexpr):
    """The coefficients of dp/dt in the same basis, a tuple of DEGREE, for degree 1 upward.

    Those of the power basis and Hermite's follow from P_k' = 2k P_{k-1} or k P_{k-1}. Chebyshev's: T_{k+1}' / (k + 1) -
    T_{k-1}' / (k - 1) = 2 T_k; Legendre's: P_{k+1}' - P_{k-1}' = (2k + 1) P_k; Laguerre's: L_{k+1}' - L_k' = -L_k
    (DLMF 18.9).
    """
    _assert_is_basis(BASIS)
    zero = tl.zeros_like(coef[DEGREE])
    after, second = zero, zero  # of P_{k+1} and P_{k+2}
    slopes = ()
    for k in tl.static_range(DEGREE - 1, -1, -1):
        slope = coef[k + 1]
        if BASIS == "chebyshev":
            slope = second + slope * (2.0 * k + 2.0)
        elif BASIS == "legendre":
            slope = second + slope
        elif BASIS == "laguerre":
            slope = after - slope
        elif BASIS == "hermite":
            slope = slope * (2.0 * k + 2.0)
        else:
            slope = slope * (1.0 * k + 1.0)
        second = after
        after = slope
        if BASIS == "legendre":
            slope = slope * (2.0 * k + 1.0)
        elif BASIS == "chebyshev" and k == 0:
            slope = slope * 0.5
        slopes = (slope,) + slopes  # noqa: RUF005 - Triton unpacks no tuple here
    return slopes


@triton.jit
def slopes_of_terms(t, DEGREE: tl.constexpr, BASIS: tl.constexpr):
    """The slopes P_0'(t) .. P_DEGREE'(t)."""
    _assert_is_basis(BASIS)
    term, slope = tl.zeros_like(t) + 1.0, tl.zeros_like(t)
    before, slope_before = tl.zeros_like(t), tl.zeros_like(t)
    slopes = (slope,)
    for k in tl.static_range(DEGREE):
        after, slope_after = next_term_and_slope(t, term, before, slope, slope_before, k, BASIS)
        before, slope_before = term, slope
        term, slope = after, slope_after
        slopes += (slope,)
    return slopes
