"""Pointwise losses inside a kernel: value and derivative with respect to the prediction p."""

import triton
import triton.language as tl  # noqa: F401 - the interpreter asks that it be visible


@triton.jit
def squared_error(p, y):
    """Squared error (p - y)^2 and its derivative to p, 2 (p - y)."""
    residual = p - y
    return residual * residual, 2.0 * residual
