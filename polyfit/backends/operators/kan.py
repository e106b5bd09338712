"""The layer of polynomials on all edges (KAN) on canonical operands, and its gradients.

torch.compile sees the custom operators, on a CPU too: whole-tensor operations, which Inductor could fuse around the
products, were no faster (256 -> 256, degree 4, one thread: 31.4 and 30.3 ms; 784 -> 64: 76 and 104 ms) and held 3 to 6
times the memory, the P_k of all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.backends import chunked
from polyfit.backends.results import Wants
from polyfit.backends.select import autocast_is_off, is_traced
from polyfit.formula import compute_dtype


def _runs_kernel(x: Tensor, coef: Tensor, impl: str) -> bool:
    """Whether the fused kernel carries it out: for half types, and for float32 where products may round to TF32.

    All else goes to cuBLAS by chunks: on matrix units, float32 and float64 are as fast there. So do degrees that the
    kernel is not compiled for.
    """
    if impl != "triton" or x.dtype == torch.float64:
        return False
    from polyfit.backends import triton

    if coef.shape[0] > triton.LARGEST_KAN_DEGREE:
        return False
    return x.dtype != torch.float32 or allows_tf32(x.device)


def allows_tf32(device: torch.device) -> bool:
    """Whether the user allows float32 products on a device to round their operands to TF32."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # set by the newer interface, one setting a backend
        return torch.backends.cuda.matmul.fp32_precision == "tf32"  # pyright: ignore[reportAttributeAccessIssue]


@autocast_is_off
def _kan_eager(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None, impl: str) -> Tensor:
    x, coef, bias = x.resolve_neg(), coef.resolve_neg(), bias.resolve_neg()
    if _runs_kernel(x, coef, impl):
        from polyfit.backends import triton

        return triton.kan(x, coef, bias, basis, squash)
    return chunked.kan(x, coef, bias, basis, squash)


@torch.library.custom_op(
    "polyfit::kan",
    mutates_args=(),
    schema="(Tensor x, Tensor coef, Tensor bias, str basis, str? squash, str impl) -> Tensor",
)
def _kan_op(x, coef, bias, basis, squash, impl):
    return _kan_eager(x, coef, bias, basis, squash, impl)


@_kan_op.register_fake
def _kan_fake(x, coef, bias, basis, squash, impl):
    return x.new_empty(x.shape[0], coef.shape[2])


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None, impl: str) -> Tensor:
    """The layer `polyfit.formula.kan`.

    Args:
        x: (B, in).
        coef: (degree, in, out).
        bias: (out,).
        basis: its name.
        squash: a key of `polyfit.formula.SQUASHES`.
        impl: resolved. "compile" does what "torch" does: the time is that of matrix products.

    Returns:
        (B, out) in the dtype of x.
    """
    if not is_traced():
        return _kan_eager(x, coef, bias, basis, squash, impl)
    return torch.ops.polyfit.kan(x, coef, bias, basis, squash, impl)


@autocast_is_off
def _kan_backward_eager(
    grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, impl: str, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    grad, x, coef = grad.resolve_neg(), x.resolve_neg(), coef.resolve_neg()
    if _runs_kernel(x, coef, impl):
        from polyfit.backends import triton

        return triton.kan_backward(grad, x, coef, basis, squash, wants)
    return chunked.kan_backward(grad, x, coef, basis, squash, wants)


@torch.library.custom_op(
    "polyfit::kan_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor coef, str basis, str? squash, str impl, bool want_x, bool want_coef)"
    " -> (Tensor, Tensor)",
)
def _kan_backward_op(grad, x, coef, basis, squash, impl, want_x, want_coef):
    wants = Wants(x=want_x, coef=want_coef)
    grad_x, grad_coef = _kan_backward_eager(grad, x, coef, basis, squash, impl, wants)
    return x.new_empty(0) if grad_x is None else grad_x, x.new_empty(0) if grad_coef is None else grad_coef


@_kan_backward_op.register_fake
def _kan_backward_fake(grad, x, coef, basis, squash, impl, want_x, want_coef):
    grad_coef = x.new_empty(coef.shape, dtype=compute_dtype(x.dtype)) if want_coef else x.new_empty(0)
    return x.new_empty(x.shape) if want_x else x.new_empty(0), grad_coef


def kan_backward(
    grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, impl: str, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * y) for grad (B, out), of any strides.

    Returns:
        The gradient to x in its dtype and to coef in the dtype that computes; None for what was not wanted. That to
        the bias is the sum of grad over the rows.
    """
    if not is_traced():
        return _kan_backward_eager(grad, x, coef, basis, squash, impl, wants)
    grad_x, grad_coef = torch.ops.polyfit.kan_backward(grad, x, coef, basis, squash, impl, wants.x, wants.coef)
    return grad_x if wants.x else None, grad_coef if wants.coef else None
