"""Random data of hostile kinds: where x lies, what y is, weights, dtypes, containers and layouts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Rng = np.random.Generator
T = TypeVar("T")
BASES = ("power", "chebyshev", "legendre", "hermite", "hermite_e", "laguerre")


def one_of(rng: Rng, values: Sequence[T]) -> T:
    """One of the values."""
    return values[int(rng.integers(len(values)))]


def chance(rng: Rng, probability: float) -> bool:
    """True with a probability."""
    return bool(rng.random() < probability)


def power_of_ten(rng: Rng, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return 10.0 ** float(rng.uniform(low, high))


# --- x ---

PLACES = {
    "near zero": lambda rng: (0.0, 1.0),
    "shifted": lambda rng: (float(rng.integers(-20, 20)), power_of_ten(rng, -1, 1)),
    "far": lambda rng: (100.5, 0.5),
    "years": lambda rng: (2005.0, 15.0),
    "Unix seconds": lambda rng: (1.7e9, power_of_ten(rng, 2, 7)),
    "nanoseconds": lambda rng: (1.7e18, power_of_ten(rng, 9, 16)),
    "around 1e-30": lambda rng: (0.0, 1e-30),
    "around 1e200": lambda rng: (0.0, 1e200),
}


def _clusters(rng: Rng, n: int, degree: int) -> Array:
    centres = rng.uniform(-1, 1, max(1, degree + 1 - int(rng.integers(3))))
    width = power_of_ten(rng, -9, -0.5)
    return np.clip(rng.choice(centres, n) + width * rng.uniform(-1, 1, n), -1, 1)


def _few_distinct(rng: Rng, n: int, degree: int) -> Array:
    values = rng.uniform(-1, 1, max(1, degree + int(rng.integers(0, 4))))
    return values[np.arange(n) % len(values)]


def _outlier(rng: Rng, n: int, degree: int) -> Array:
    values = rng.uniform(-1, 1, n) * power_of_ten(rng, -3, -0.5)
    values[int(rng.integers(n))] = 1.0
    return values


# N numbers in [-1, 1], for a polynomial of some degree.
SHAPES: dict[str, Callable[[Rng, int, int], Array]] = {
    "even": lambda rng, n, degree: np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1),
    "uniform": lambda rng, n, degree: rng.uniform(-1, 1, n),
    "nodes": lambda rng, n, degree: np.cos((np.arange(n) + 0.5) * math.pi / n),
    "clusters": _clusters,
    "few distinct": _few_distinct,
    "logarithmic": lambda rng, n, degree: 10.0 ** -np.linspace(0.0, float(rng.uniform(1, 8)), n),
    "outlier": _outlier,
}


def sizes(rng: Rng, n_free: int) -> int:
    """A number of samples from that of the coefficients on."""
    n_free = max(n_free, 1)
    return one_of(rng, (n_free, n_free + 1, n_free + 2, 2 * n_free + 1, 20 + n_free, 40 + n_free))


def targets(rng: Rng, t: Array, kind: str) -> Array:
    """Y of a kind, for x on [-1, 1]."""
    n = len(t)
    if kind == "curve":
        return np.sin(3.0 * t) + 0.1 * rng.standard_normal(n)
    if kind == "nearly exact":
        return 1.0 + t - 2.0 * t**2 + 1e-9 * rng.standard_normal(n)
    if kind == "large offset":
        return 10.0 ** rng.integers(3, 13) + rng.standard_normal(n)
    if kind == "integers":
        return rng.integers(-9, 10, n).astype(float)
    if kind == "constant":
        return np.full(n, 0.1)
    return rng.standard_normal(n) * power_of_ten(rng, -3, 3)


TARGETS = ("curve", "curve", "nearly exact", "large offset", "integers", "constant", "noise")

# --- weights ---


def weights(rng: Rng, n: int, kind: str) -> Array:
    """Weights, or standard deviations."""
    if kind == "over 20 orders":
        return 10.0 ** rng.uniform(-10, 10, n)
    if kind == "around 1e200":
        return 1e200 * rng.uniform(0.5, 2.0, n)
    if kind == "around 1e-200":
        return 1e-200 * rng.uniform(0.5, 2.0, n)
    if kind == "integers":
        return rng.integers(1, 6, n).astype(float)
    return rng.uniform(0.2, 2.0, n)


# --- tensors and other containers ---


def _stepped(rng: Rng, tensor: Tensor) -> Tensor:
    step = int(rng.integers(2, 4))
    wide = tensor.new_full((*tensor.shape[:-1], step * tensor.shape[-1]), math.nan)
    wide[..., ::step] = tensor
    return wide[..., ::step]


def _with_offset(rng: Rng, tensor: Tensor) -> Tensor:
    wide = tensor.new_full((tensor.numel() + 3,), math.nan)
    wide[3:] = tensor.reshape(-1)
    return wide[3:].view(tensor.shape)


def _transposed(rng: Rng, tensor: Tensor) -> Tensor:
    order = rng.permutation(tensor.dim()).tolist()
    return tensor.permute(order).contiguous().permute(np.argsort(order).tolist())


def _negated(rng: Rng, tensor: Tensor) -> Tensor:
    """A view that torch negates when it is read."""
    if tensor.dtype not in {torch.float32, torch.float64}:
        return tensor
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def _expanded(rng: Rng, tensor: Tensor) -> Tensor:
    """Stride 0 along an axis of equal numbers, where there is one."""
    for axis in range(tensor.dim()):
        first = tensor.narrow(axis, 0, min(1, tensor.shape[axis]))
        if tensor.shape[axis] > 1 and bool((tensor == first).all()):
            return first.expand(tensor.shape)
    return tensor


_LAYOUTS = (lambda rng, tensor: tensor, _stepped, _with_offset, _transposed, _negated, _expanded)


def laid_out(rng: Rng, tensor: Tensor) -> Tensor:
    """The same numbers in another layout in memory: strides, offsets, the negative bit."""
    layout = one_of(rng, _LAYOUTS)
    return layout(rng, tensor) if tensor.dim() and tensor.is_floating_point() else tensor


def contained(rng: Rng, values: Tensor, kind: str) -> Any:
    """The numbers of a CPU tensor (N,) as people have them."""
    if kind == "tensor":
        return laid_out(rng, values)
    if kind == "list":
        return values.tolist()
    if values.dtype == torch.bfloat16:
        return values
    array = values.numpy()
    if kind == "numpy, reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    return array.copy()


@contextlib.contextmanager
def other_defaults(dtype: torch.dtype, device: str | None) -> Iterator[None]:
    """A block under another default dtype, and another default device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device) if device else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)
