"""The layer of `kan` in float64 by numpy.polynomial, and how far from it a kernel may be."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from oracle import NUMPY_CLASSES, TO_POWER
from rehearsal import is_rehearsal
from torch import Tensor

EPS = 2.0**-24  # half an ulp of float32
# The largest relative error of rounding an operand, or a result, to the dtype. Triton's interpreter cuts the digits
# beyond bfloat16 where a GPU rounds, and multiplies float32 as it is. A GPU cuts the digits beyond TF32.
ROUNDING = {
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-7 if is_rehearsal() else 2.0**-8,
    torch.float32: EPS,
    torch.float64: 2.0**-53,
}
OF_TF32 = EPS if is_rehearsal() else 2.0**-10


class Layer(NamedTuple):
    """Operands of the layer."""

    x: Tensor
    coef: Tensor
    bias: Tensor
    grad: Tensor
    basis: str
    squash: str | None


class Expected(NamedTuple):
    """A result in float64, and the largest error of each of its numbers."""

    value: np.ndarray
    allowed: np.ndarray


def make_layer(
    n_rows: int,
    n_in: int,
    n_out: int,
    degree: int,
    *,
    basis: str = "chebyshev",
    squash: str | None = "tanh",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Layer:
    """Random operands, and inputs far outside of [-1, 1] where they are squashed."""
    generator = torch.Generator().manual_seed(n_rows + 7 * n_in + 31 * n_out + degree)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(n_rows, n_in) * (1.5 if squash else 0.3)
    if squash and x.numel() >= 6:
        x.view(-1)[: 6 * (x.numel() // 6) : x.numel() // 6] = torch.tensor([1e4, -300.0, 0.0, 1.0, -1e-3, 2.0])
    parts = (x, normal(degree, n_in, n_out) / max(n_in, 1) ** 0.5, normal(n_out), normal(n_rows, n_out))
    x, coef, bias, grad = (part.to(device=device, dtype=dtype) for part in parts)
    return Layer(x, coef, bias, grad, basis, squash)


def squashed(x: np.ndarray, squash: str | None) -> tuple[np.ndarray, np.ndarray]:
    """squash(x) and its slope."""
    if squash == "tanh":
        e = np.exp(-2.0 * np.abs(x))
        return np.tanh(x), 4.0 * e / (1.0 + e) ** 2
    if squash == "algebraic":
        return x / np.hypot(1.0, x), np.hypot(1.0, x) ** -3
    if squash == "clamp":
        return np.clip(x, -1.0, 1.0), (np.abs(x) <= 1.0).astype(np.float64)
    return x, np.ones_like(x)


def _functions(t: np.ndarray, basis: str, degree: int) -> dict[str, list[np.ndarray]]:
    """P_k and P_k' at t, and of both the sum of the sizes of their terms in powers of t, and that of the next slope.

    A step of the recurrence in float32 is off by a few roundings of such sizes.
    """
    kinds: dict[str, list[np.ndarray]] = {name: [] for name in ("value", "slope", "size", "size'", "size''")}
    for k in range(1, degree + 1):
        term = NUMPY_CLASSES[basis].basis(k)
        powers = np.polynomial.Polynomial(np.abs(TO_POWER[basis](np.eye(k + 1)[k])))
        kinds["value"].append(term(t))
        kinds["slope"].append(term.deriv()(t))
        kinds["size"].append(powers(np.abs(t)))
        kinds["size'"].append(powers.deriv()(np.abs(t)))
        kinds["size''"].append(powers.deriv(2)(np.abs(t)))
    return kinds


def true_layer(layer: Layer) -> dict[str, Expected]:
    """y, and the gradients of sum(grad * y) to x and coef.

    Errors, to first order: each operand that is made in the kernel is rounded once more, and with TF32 all are; t is
    off by 8 roundings of float32, a step of a recurrence adds 6, and a sum of n terms adds n.
    """
    x, coef, bias, grad = (part.detach().double().cpu().numpy() for part in layer[:4])
    dtype = layer.x.dtype
    made = {torch.float32: 2.0 * OF_TF32}.get(dtype, ROUNDING[dtype])
    both = made if dtype == torch.float32 else 0.0
    (n_rows, n_in), (degree, _, n_out) = x.shape, coef.shape
    t, dt_dx = squashed(x, layer.squash)
    kinds = _functions(t, layer.basis, degree)
    y, off = np.broadcast_to(bias, (n_rows, n_out)).copy(), np.zeros((n_rows, n_out))
    total, off_x = np.zeros_like(x), np.zeros_like(x)
    to_coef, off_coef = [], []
    sizes = np.abs(grad)
    for k in range(degree):
        value, slope, size, size1, size2 = (kind[k] for kind in kinds.values())
        of_steps, of_slope = 6 * (k + 1) * EPS * size + 8 * EPS * size1, 6 * (k + 1) * EPS * size1 + 8 * EPS * size2
        y += value @ coef[k]
        off += ((made + degree * n_in * EPS) * np.abs(value) + of_steps) @ np.abs(coef[k])
        product, of_product = grad @ coef[k].T, sizes @ np.abs(coef[k]).T
        total += product * slope
        off_x += ((both + (n_out + 8) * EPS) * np.abs(slope) + of_slope) * of_product
        to_coef.append(value.T @ grad)
        off_coef.append(((made + n_rows * EPS) * np.abs(value) + of_steps).T @ sizes)
    return {
        "y": Expected(y, off + (ROUNDING[dtype] + 2 * EPS) * np.abs(y)),
        "grad_x": Expected(
            total * dt_dx, (off_x + 8 * degree * EPS * np.abs(total)) * dt_dx + ROUNDING[dtype] * np.abs(total * dt_dx)
        ),
        "grad_coef": Expected(np.array(to_coef).reshape(coef.shape), np.array(off_coef).reshape(coef.shape)),
    }


def assert_within(found: Any, expected: Expected, what: str) -> None:
    """No number is farther from the truth than it may be."""
    assert isinstance(found, Tensor)
    value = found.detach().double().cpu().numpy()
    assert value.shape == expected.value.shape, what
    smallest = 2.0**-24 if found.dtype == torch.float16 else 2.0**-126
    error = np.abs(value - expected.value)
    assert np.isfinite(value).all(), what
    worst = (error / (expected.allowed + smallest)).max(initial=0.0)
    assert worst <= 1.0, f"{what}: {worst:.3g} of what is allowed"
