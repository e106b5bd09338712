"""Pointwise losses inside a kernel: value and derivatives to the prediction p and the target y.

Specialised at compile time by the name of the loss. The parameter of the loss is a scalar of the dtype that computes.
Exponentials are computed of negative numbers only, so that large residuals and logits do not overflow. (The exponential
rate of Poisson's loss is the exception.) log(1 + u) is computed by Kahan's formula, which keeps the digits of a small u
(W. Kahan; see Higham, Accuracy and Stability of Numerical Algorithms, 1.14.1).
"""

import triton
import triton.language as tl


@triton.jit
def _log1p(u):
    """The logarithm of 1 + u for u >= 0."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def _one_minus_exp(x):
    """The difference 1 - exp(-x) for x >= 0, with the digits of a small x (Kahan's formula again), and exp(-x)."""
    e = tl.exp(-x)
    is_small = (x < 1.0) & (e < 1.0)
    small = (1.0 - e) * (x / -tl.where(is_small, tl.log(tl.where(is_small, e, 0.5)), -1.0))
    return tl.where(is_small, small, tl.where(x < 1.0, x, 1.0 - e)), e


@triton.jit
def _sign(r):
    """The sign of r: zero at zero, NaN where r is NaN."""
    return tl.where(r > 0.0, 1.0, tl.where(r < 0.0, -1.0, r))


@triton.jit
def pointwise(p, y, parameter, LOSS: tl.constexpr):
    """The loss l(p, y), dl/dp and dl/dy."""
    r = p - y
    if LOSS == "mse":
        value, slope = r * r, 2.0 * r
        to_y = -slope
    elif LOSS == "l1":
        value, slope = tl.abs(r), _sign(r)
        to_y = -slope
    elif LOSS == "huber":
        size = tl.abs(r)
        is_near = size <= parameter
        value = tl.where(is_near, 0.5 * r * r, parameter * (size - 0.5 * parameter))
        slope = tl.where(is_near, r, parameter * _sign(r))
        to_y = -slope
    elif LOSS == "smooth_l1":
        size = tl.abs(r)
        is_near = size < parameter
        inverse = 1.0 / parameter
        value = tl.where(is_near, 0.5 * r * r * inverse, size - 0.5 * parameter)
        slope = tl.where(is_near, r * inverse, _sign(r))
        to_y = -slope
    elif LOSS == "log_cosh":
        size = tl.abs(r)
        half, e = _one_minus_exp(2.0 * size)
        # log(cosh r) = log1p(sinh(r)^2) / 2 near zero, where the other form cancels; 4 sinh^2 = (1 - e)^2 / e.
        near = 0.5 * _log1p(tl.where(size < 0.5, 0.25 * half * half / tl.where(size < 0.5, e, 1.0), 0.0))
        value = tl.where(size < 0.5, near, size + _log1p(e) - 0.6931471805599453)
        # `half` passes a NaN on. If `sign` passed it on too, that would cost registers.
        sign = tl.where(r > 0.0, 1.0, tl.where(r < 0.0, -1.0, 0.0)).to(r.dtype)
        slope = sign * half * (1.0 / (1.0 + e))
        to_y = -slope
    elif LOSS == "quantile":
        value = tl.maximum(-parameter * r, (1.0 - parameter) * r)
        slope = 0.5 * _sign(r) + (0.5 - parameter)
        to_y = -slope
    elif LOSS == "bce_with_logits":
        e = tl.exp(-tl.abs(p))
        log = _log1p(e)
        positive, negative = tl.maximum(p, 0.0) + log, tl.maximum(-p, 0.0) + log  # softplus of p and of -p
        value = (1.0 - y) * positive + parameter * y * negative
        near = 1.0 / (1.0 + e)
        far = e * near  # the smaller of sigmoid(p) and sigmoid(-p), without cancellation
        is_positive = p >= 0.0
        slope = (1.0 - y) * tl.where(is_positive, near, far) - parameter * y * tl.where(is_positive, far, near)
        to_y = (parameter - 1.0) * negative - p
    elif LOSS == "cauchy":
        inverse = 1.0 / parameter
        ratio = r * inverse
        is_far = tl.abs(ratio) > 1e8  # 1 is then below half an ulp of its square
        square = tl.where(is_far, 0.0, ratio * ratio)
        # r**2 / 2 times log(1 + u) / u, by Kahan's formula; the square of the parameter could overflow.
        w = 1.0 + square
        log = tl.log(tl.where(is_far, tl.abs(r), w))
        near = 0.5 * r * (r * tl.where(w == 1.0, 1.0, log * (1.0 / tl.where(w == 1.0, 1.0, w - 1.0))))
        value = tl.where(is_far, parameter * (parameter * (log - tl.log(parameter))), near)
        slope = tl.where(is_far, parameter * (1.0 / tl.where(is_far, ratio, 1.0)), r * (1.0 / (1.0 + square)))
        to_y = -slope
    else:  # poisson_nll in its four variants
        tl.static_assert(
            LOSS == "poisson_nll"
            or LOSS == "poisson_nll_log"
            or LOSS == "poisson_nll_full"
            or LOSS == "poisson_nll_log_full",
            "LOSS is not the name of a loss",
        )
        if LOSS == "poisson_nll_log" or LOSS == "poisson_nll_log_full":
            rate = tl.exp(p)
            value, slope, to_y = rate - y * p, rate - y, -p
        else:
            rate = p + parameter
            log = tl.log(rate)
            value, slope, to_y = p - y * log, 1.0 - y * (1.0 / rate), -log
        if LOSS == "poisson_nll_full" or LOSS == "poisson_nll_log_full":
            large = tl.where(y > 1.0, y, 1.0)
            log = tl.log(large)
            # Stirling: y log y - y + log(2 pi y) / 2
            value += tl.where(y > 1.0, large * log - large + 0.5 * (log + 1.8378770664093453), 0.0)
            to_y += tl.where(y > 1.0, log + 0.5 / large, 0.0)
    return value, slope, to_y
