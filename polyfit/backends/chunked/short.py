"""One series of few samples, in numpy.

A call of torch takes three times as long as one of numpy. And from some ten thousand numbers on, the products of torch
wake all threads of their library, which takes milliseconds where other processes keep the cores busy: here no thread is
woken.

The workspace of a thread holds rows of samples. For very few samples, and for bases other than powers, the values
P_k(t) are such rows: one product gives p, and another one all sums. Otherwise they would leave the cache. Then Horner's
rule gives p, and the sums follow from repeated products with t, all in place.

A row holds blocks of equal length, the last one filled up with zeros. Sums are taken in the dtype that computes within
a block and in float64 over blocks.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked import pointwise
from polyfit.backends.chunked.matrix import Steps, steps_of
from polyfit.backends.chunked.pointwise import Array, Row
from polyfit.bases import BASES, AffineMap, derivative_matrix
from polyfit.formula import Model
from polyfit.losses import Loss

DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_PLAIN_STEP = (1.0, 0.0, 0.0)  # P_{k+1} = t P_k
# Numbers between the rows of a workspace: rows a power of two apart share the sets of a cache, and are 3 times slower.
APART = 64
# Numbers of a matrix up to which a product with it takes one thread: OpenBLAS takes more from some 4e5 on, and older
# versions from 2**13 on.
PRODUCT = 1 << 17
# Samples of a series, of several, below which numpy takes longer to go from row to row than to compute.
_FEWEST_OF_A_ROW = 16
quiet = np.errstate(all="ignore")  # as torch: a result that overflows is infinite, without a warning


def is_plain(x: Tensor, coef: Tensor) -> bool:
    """Whether samples x (N,) and coefficients (degree + 1,) are of one series, in a dtype of numpy, and on a CPU."""
    return x.dim() == coef.dim() == 1 and x.shape[0] > 0 and x.dtype in DTYPES and x.is_cpu


def is_few(x: Tensor, coef: Tensor, basis: str) -> bool:
    """Whether plain samples are few: of one series, or x (S, N) with coefficients (S, degree + 1)."""
    lengths = sizes.current()
    if coef.dim() == 1:
        return x.shape[0] <= (lengths.short if basis == "power" else lengths.short // 2)
    return (
        x.dim() == 2
        and basis == "power"
        and x.numel() <= lengths.short // 2
        and _FEWEST_OF_A_ROW <= x.shape[1] <= lengths.longest_block
        and x.dtype in DTYPES
    )


class Workspace:
    """Rows for the samples of one series: see `plain_rows.PlainRows`.

    Args:
        n_coef: degree + 1.
        n: samples.
        dtype: of the rows.
        lengths: of blocks.
        is_held: whether rows hold the functions; otherwise one row holds t.
    """

    xp: Any = np

    def __init__(self, n_coef: int, n: int, dtype: np.dtype[Any], lengths: sizes.Sizes, *, is_held: bool) -> None:
        n_blocks = -(-n // lengths.longest_block)
        width = -(-n // n_blocks) * n_blocks
        n_rows = n_coef + 2 if is_held else 4
        everything = np.zeros((n_rows, width + APART), dtype)[:, :width]
        samples = everything[:, :n]
        self._functions = samples[:n_coef]
        self._n_coef, self.is_held = n_coef, is_held
        self._set_rows(everything.reshape(n_rows, n_blocks, -1), samples)
        self._rows[0].fill(1.0)

    def _set_rows(self, blocks: Array, samples: Array) -> None:
        self._blocks, self._rows = blocks, list(samples)
        self._set_pair(samples[-2:])

    def _set_pair(self, pair: Array) -> None:
        """Take the arrays of predictions, and of residuals or losses: the same memory for both libraries."""
        self._p, self._other = (Row(part, torch.from_numpy(part)) for part in pair)
        self.p, self.other = self._p.array, self._other.array

    def load(self, x: Array, model: Model, n_coef: int) -> None:
        """Take the samples."""
        if self.is_held and n_coef > 1:
            to_window(x, model.affine_map, self._rows[1])
            _fill(self._rows, steps_of(model.basis, n_coef - 1))
        elif not self.is_held:
            to_window(x, model.affine_map, self._rows[0])

    @staticmethod
    def view(tensor: Tensor) -> Array:
        """The numbers in numpy: the same memory, or a copy of a view that torch negates lazily."""
        return tensor.numpy(force=True)

    @staticmethod
    def numbers(coef: Tensor) -> Array:
        """Coefficients as `evaluate` takes them."""
        return coef.numpy(force=True)

    def evaluate(self, coef: Array, out: Array) -> None:
        """Write the values of at most as many coefficients to `out`."""
        if not self.is_held:
            horner(self._rows[0], coef, out)
            return
        functions = self._functions[: len(coef)]
        step = PRODUCT // len(coef)
        for first in range(0, out.shape[0], step):
            np.dot(coef, functions[:, first : first + step], out=out[first : first + step])

    def slopes(self, loss: Loss, y: Array, *, are_wanted: bool) -> pointwise.Terms | None:
        """Write s over the predictions, and to `other` residuals or losses: see `pointwise.fill`."""
        return pointwise.fill(loss, self._p, y, self._other, with_slopes=are_wanted)

    def moments_of_p(self) -> Array:
        """Sums of P_k times the row p, (degree + 1,) float64."""
        if self.is_held:
            return _over_blocks(np.vecdot(self._blocks[: self._n_coef], self._blocks[-2]))
        return _over_blocks(self._moments())

    def _moments(self) -> Array:
        """Sums of t**k times the row p within the blocks, (degree + 1, blocks)."""
        t, power, after = self._blocks[0], self._blocks[-2], self._blocks[1]
        found = np.empty((self._n_coef, t.shape[0]), t.dtype)
        power.sum(1, out=found[0])
        for k in range(1, self._n_coef):
            np.vecdot(power, t, out=found[k])
            if k + 1 < self._n_coef:
                power = np.multiply(power, t, out=after)
        return found

    def squares(self) -> Any:
        """The sum of the squares of the row p."""
        return float(np.vecdot(self._blocks[-2], self._blocks[-2]).sum(dtype=np.float64))

    def products(self) -> Any:
        """The sum of the products of the rows p and other."""
        return float(np.vecdot(self._blocks[-2], self._blocks[-1]).sum(dtype=np.float64))

    def total_of_other(self) -> Any:
        """The sum of `other`. In a block numpy adds up in pairs: the error grows with the logarithm of its length."""
        return float(self._blocks[-1].sum(1).sum(dtype=np.float64))


class SeriesWorkspace(Workspace):
    """The same for S series with as many samples each, in powers: a series is a block.

    Args:
        n_coef: degree + 1.
        shape: S and N.
        dtype: of the rows.
    """

    def __init__(self, n_coef: int, shape: torch.Size, dtype: np.dtype[Any]) -> None:
        self._n_coef, self.is_held = n_coef, False
        blocks = np.zeros((4, *shape), dtype)
        self._set_rows(blocks, blocks)

    @staticmethod
    def numbers(coef: Tensor) -> Array:
        """Coefficients (S, K) as `evaluate` takes them, (K, S, 1)."""
        return columns(coef.numpy(force=True))

    def moments_of_p(self) -> Array:
        """Sums of P_k times the row p, (S, degree + 1) float64."""
        return self._moments().T.astype(np.float64)

    def squares(self) -> Any:
        """The sums of the squares of p, (S,)."""
        return np.vecdot(self.p, self.p)

    def products(self) -> Any:
        """The sums of the products of p and other, (S,)."""
        return np.vecdot(self.p, self.other)

    def total_of_other(self) -> Any:
        """The sums of `other`, (S,)."""
        return self.other.sum(1)


def columns(coef: Array) -> Array:
    """Coefficients (K,), or (S, K) as (K, S, 1)."""
    return coef if coef.ndim == 1 else coef.T[..., None]


def _over_blocks(sums: Array) -> Array:
    """Sums (K, blocks) added up in float64."""
    return sums[:, 0].astype(np.float64) if sums.shape[1] == 1 else sums.sum(1, dtype=np.float64)


class _Last(threading.local):
    """The workspaces of a thread's last calls, with their keys: for moments, and for values alone."""

    def __init__(self) -> None:
        self.of: dict[bool, tuple[Any, Workspace]] = {}


_last = _Last()


def kept(key: tuple[Any, ...], make: Callable[[], Workspace], *, wants_moments: bool = True) -> Workspace:
    """The workspace of the thread's last call, if it fits: to get memory from the system takes a part of the call.

    Training and validation call in turn: a workspace for values alone is kept beside the other one.
    """
    key = (*key, torch.is_inference_mode_enabled())
    last = _last.of.get(wants_moments)
    if last is None or last[0] != key:
        last = _last.of[wants_moments] = key, make()
    return last[1]


def workspace_for(x: Tensor, coef: Tensor, model: Model, *, wants_moments: bool) -> Workspace:
    """Rows for x (N,) and coef (degree + 1,), or x (S, N) and coef (S, degree + 1)."""
    n_coef, shape, dtype = coef.shape[-1], x.shape, x.dtype
    if coef.dim() == 2:
        return kept(("series", n_coef, shape, dtype), lambda: SeriesWorkspace(n_coef, shape, DTYPES[dtype]))
    lengths = sizes.current()
    is_held = model.basis != "power" or (wants_moments and shape[0] <= lengths.held)
    return kept(
        ("one", n_coef, shape, dtype, lengths.longest_block, is_held),
        lambda: Workspace(n_coef, shape[0], DTYPES[dtype], lengths, is_held=is_held),
        wants_moments=is_held or wants_moments,
    )


def to_window(x: Array, mapping: AffineMap | None, out: Array) -> None:
    """Write t(x) to `out`."""
    if mapping is None:
        out[...] = x
        return
    np.subtract(x, mapping.center, out=out)
    out *= mapping.scale
    if mapping.shift:
        out += mapping.shift


def _fill(rows: list[Array], steps: Steps) -> None:
    """Fill rows[2:] from rows[1] = t by the recurrence of the basis, and rows[1] itself where P_1 is not t."""
    t = rows[1]
    if steps[0] != _PLAIN_STEP:
        a, b, _ = steps[0]
        t = t.copy()
        rows[1] *= a
        if b:
            rows[1] += b
    for k, (a, b, c) in enumerate(steps[1:], start=1):
        after = np.multiply(rows[k], t, out=rows[k + 1])
        if a != 1.0:
            after *= a
        if b:
            after += b * rows[k]
        if c:
            after -= rows[k - 1] if c == 1.0 else c * rows[k - 1]


def horner(t: Array, coef: Array, out: Array) -> None:
    """Write the sum of coef[k] t**k to `out`."""
    degree = len(coef) - 1
    if degree < 1:
        out[...] = coef[0] if degree == 0 else 0.0
        return
    np.multiply(t, coef[degree], out=out)
    for k in range(degree - 1, 0, -1):
        out += coef[k]
        out *= t
    out += coef[0]


def derivative(coef: Tensor, model: Model) -> Tensor:
    """Coefficients of dp/dx, at least one."""
    degree = coef.shape[-1] - 1
    if degree == 0:
        return torch.zeros_like(coef)
    matrix = _derivative(model.basis, degree, 1.0 if model.affine_map is None else model.affine_map.scale)
    array = coef.numpy(force=True)
    return torch.from_numpy((array.astype(np.float64) @ matrix.T).astype(array.dtype))


@functools.lru_cache(maxsize=256)
def _derivative(basis: str, degree: int, slope: float) -> Array:
    """The matrix (degree, degree + 1) that takes coefficients to those of dp/dx, in float64."""
    return derivative_matrix(BASES[basis], degree).numpy() * slope
