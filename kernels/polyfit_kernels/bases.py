"""Basis functions inside a kernel: values and derivatives of a series at a tile of mapped samples t.

    p(t)  = c_0 + t (c_1 + t (c_2 + ...))          Horner's rule, d fused multiply-adds
    p'(t)   by carrying the derivative of each step along: p' <- p' t + p, p <- p t + c_k

Coefficients come as a tuple of scalars, lowest degree first; the degree is known at compile time and every loop
unrolls.
"""

import triton
import triton.language as tl


@triton.jit
def load_coefficients(coef_ptr, stride, DEGREE: tl.constexpr, COMPUTE: tl.constexpr):
    """The degree + 1 coefficients of one series as scalars of the dtype that computes."""
    coef = ()
    for k in tl.static_range(DEGREE + 1):
        coef += (tl.load(coef_ptr + k * stride).to(COMPUTE),)
    return coef


@triton.jit
def scalars(values, COMPUTE: tl.constexpr):
    """Float arguments in the dtype that computes; by `full`, since the interpreter hands a kernel Python floats."""
    out = ()
    for i in tl.static_range(len(values)):
        out += (tl.full((), values[i], COMPUTE),)
    return out


@triton.jit
def to_window(x, center, scale, shift, HAS_DOMAIN: tl.constexpr):
    """Domain to window, t = (x - center) * scale + shift."""
    if HAS_DOMAIN:
        return (x - center) * scale + shift
    return x


@triton.jit
def series(t, coef, DEGREE: tl.constexpr):
    """p(t)."""
    value = tl.zeros_like(t) + coef[DEGREE]
    for k in tl.static_range(DEGREE):
        value = value * t + coef[DEGREE - 1 - k]
    return value


@triton.jit
def series_and_slope(t, coef, DEGREE: tl.constexpr):
    """p(t) and dp/dt."""
    value = tl.zeros_like(t) + coef[DEGREE]
    slope = tl.zeros_like(t)
    for k in tl.static_range(DEGREE):
        slope = slope * t + value
        value = value * t + coef[DEGREE - 1 - k]
    return value, slope
