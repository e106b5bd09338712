"""The KAN layer of few rows in numpy, whose calls cost a third of torch's and wake no thread.

The functions P_1 .. P_degree of a row stand side by side, (rows, degree, in): one product with the coefficients gives
the values, one with the incoming gradient the gradient to the coefficients, and one more that to the functions.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.results import Wants
from polyfit.bases import BASES
from polyfit.formula import largest_squared

Array = np.ndarray[Any, Any]


def is_short(x: Tensor, coef: Tensor) -> bool:
    """Whether the products are small, and of a kind that numpy has."""
    return (
        max(x.shape[0], 4) * coef.numel() <= sizes.current().short_kan
        and 0 < x.shape[0] * coef.shape[0] * coef.shape[1] <= sizes.current().short_activation
        and x.dtype == coef.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.is_cpu
    )


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None) -> Tensor:
    """See `kan.kan`."""
    degree, n_in, n_out = coef.shape
    with np.errstate(all="ignore"):
        functions = _functions(_squashed(x.numpy(force=True), squash), basis, degree)
        values = functions.reshape(-1, degree * n_in) @ coef.numpy(force=True).reshape(-1, n_out)
        values += bias.numpy(force=True)
    return torch.from_numpy(values)


def kan_backward(
    grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """See `kan.kan_backward`."""
    degree, n_in, n_out = coef.shape
    samples, upstream = x.numpy(force=True), grad.numpy(force=True)
    grad_x = grad_coef = None
    with np.errstate(all="ignore"):
        t = _squashed(samples, squash)
        functions = _functions(t, basis, degree)
        if wants.coef:
            sums = functions.reshape(-1, degree * n_in).T @ upstream
            grad_coef = torch.from_numpy(sums.reshape(coef.shape))
        if wants.x:
            to_functions = (upstream @ coef.numpy(force=True).reshape(-1, n_out).T).reshape(functions.shape)
            to_functions *= _slopes(functions, basis, degree)
            grad_x = torch.from_numpy(_to_x(to_functions.sum(1), samples, t, squash))
    return grad_x, grad_coef


# A cache of its own: the properties of a basis are rational numbers, which take long to round.
@functools.lru_cache(maxsize=256)
def _steps(basis: str, degree: int) -> tuple[tuple[float, float, float], ...]:
    """The steps of the recurrence, see `polyfit.bases.Basis`."""
    return BASES[basis].steps(degree)


@functools.lru_cache(maxsize=256)
def _slope_steps(basis: str, degree: int) -> tuple[tuple[float, float, float], ...]:
    """P_{k+1}' = value P_k + slope P_k' + before P_{k-1}', for k = 1 .. degree - 1."""
    value_of = BASES[basis].slope
    return tuple(tuple(map(float, value_of(k))) for k in range(1, degree))  # pyright: ignore[reportReturnType]


def _functions(t: Array, basis: str, degree: int) -> Array:
    """P_1 .. P_degree of t (B, in): (B, degree, in)."""
    found = np.empty((len(t), degree, t.shape[1]), t.dtype)
    known, before, current = (1.0, 0.0), None, None
    line = t  # a t + b of the last step
    for k, (a, b, c) in enumerate(_steps(basis, degree)):
        if (a, b) != known:
            known, line = (a, b), t if a == 1.0 else t * a
            line = line + b if b else line
        out = found[:, k]
        if current is None:
            out[...] = line
        else:
            np.multiply(line, current, out=out)
            if c:
                out -= c if before is None else before if c == 1.0 else c * before
        before, current = current, out
    return found


def _slopes(functions: Array, basis: str, degree: int) -> Array:
    """P_1' .. P_degree', like the functions."""
    slopes = np.empty_like(functions)
    slopes[:, 0] = _steps(basis, degree)[0][0]
    for k, (value, slope, before) in enumerate(_slope_steps(basis, degree), start=1):
        out = slopes[:, k]
        np.multiply(functions[:, k - 1], value, out=out)
        if slope:
            out += slopes[:, k - 1] if slope == 1.0 else slope * slopes[:, k - 1]
        if before and k > 1:
            out += before * slopes[:, k - 2]
    return slopes


def _squashed(x: Array, squash: str | None) -> Array:
    if squash == "tanh":
        return np.tanh(x)
    if squash == "clamp":
        return np.minimum(np.maximum(x, -1.0), 1.0)
    if squash == "algebraic":
        x = _bounded(x)
        return x * _root(x)
    return x


def _bounded(x: Array) -> Array:
    """The samples where their square does not overflow, and the bound beyond."""
    limit = largest_squared(torch.float64 if x.dtype == np.float64 else torch.float32)
    return np.minimum(np.maximum(x, -limit), limit)


def _root(x: Array) -> Array:
    """1 / sqrt(1 + x**2), for a bounded x."""
    return 1.0 / np.sqrt(x * x + 1.0)


def _to_x(to_t: Array, x: Array, t: Array, squash: str | None) -> Array:
    """The gradient to t times dt/dx, in place."""
    if squash == "tanh":
        to_t -= to_t * t * t
    elif squash == "algebraic":
        root = _root(_bounded(x))
        to_t *= root * root
        to_t *= root
    elif squash == "clamp":
        to_t[~(np.abs(x) <= 1.0)] = 0.0
    return to_t
