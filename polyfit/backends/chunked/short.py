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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.matrix import Steps, steps_of
from polyfit.backends.chunked.pointwise import Array, Row
from polyfit.backends.results import Wants
from polyfit.bases import BASES, AffineMap, derivative_matrix
from polyfit.formula import Model

_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_PLAIN_STEP = (1.0, 0.0, 0.0)  # P_{k+1} = t P_k
# Numbers between the rows of a workspace: rows a power of two apart share the sets of a cache, and are 3 times slower.
_APART = 64
# Numbers of a matrix up to which a product with it takes one thread: OpenBLAS takes more from some 4e5 on, and older
# versions from 2**13 on.
_PRODUCT = 1 << 17
# Samples of a series, of several, below which numpy takes longer to go from row to row than to compute.
_FEWEST_OF_A_ROW = 16
quiet = np.errstate(all="ignore")  # as torch: a result that overflows is infinite, without a warning


def is_short(x: Tensor, coef: Tensor) -> bool:
    """Whether samples x (N,) and coefficients (degree + 1,) can be taken here."""
    return is_plain(x, coef) and 0 < x.shape[0] <= sizes.current().short


def are_short(x: Tensor, coef: Tensor, basis: str) -> bool:
    """Whether samples x (S, N) and coefficients (S, degree + 1) can be taken here."""
    return (
        x.dim() == coef.dim() == 2
        and basis == "power"
        and 0 < x.numel() <= sizes.current().short
        and _FEWEST_OF_A_ROW <= x.shape[1] <= sizes.current().longest_block
        and x.shape[0] == coef.shape[0]
        and x.dtype in _DTYPES
        and x.is_cpu
    )


def is_plain(x: Tensor, coef: Tensor) -> bool:
    """Whether these are of one series, in a dtype of numpy, and on a CPU."""
    return x.dim() == coef.dim() == 1 and x.shape[0] > 0 and x.dtype in _DTYPES and x.is_cpu


class Workspace:
    """Rows for the samples of one series.

    Args:
        n_coef: degree + 1.
        n: samples.
        dtype: of the rows.
        lengths: of blocks.
        is_held: whether rows hold the functions; otherwise one row holds t.

    Attributes:
        p: the row of predictions, later of slopes.
        other: a row for residuals or losses.
        is_held: see above.
    """

    def __init__(self, n_coef: int, n: int, dtype: np.dtype[Any], lengths: sizes.Sizes, *, is_held: bool) -> None:
        n_blocks = -(-n // lengths.longest_block)
        width = -(-n // n_blocks) * n_blocks
        n_rows = n_coef + 2 if is_held else 4
        everything = np.zeros((n_rows, width + _APART), dtype)[:, :width]
        self._blocks = everything.reshape(n_rows, n_blocks, -1)
        samples = everything[:, :n]
        self._rows, tensors = list(samples), torch.from_numpy(samples).unbind(0)  # the same memory
        self.p, self.other = (Row(self._rows[i], tensors[i]) for i in (-2, -1))
        self._functions = samples[:n_coef]
        self._rows[0].fill(1.0)
        self._n_coef, self.is_held = n_coef, is_held

    def load(self, x: Array, model: Model) -> None:
        """Take the samples."""
        if self.is_held and self._n_coef > 1:
            _to_window(x, model.affine_map, self._rows[1])
            _fill(self._rows, steps_of(model.basis, self._n_coef - 1))
        elif not self.is_held:
            _to_window(x, model.affine_map, self._rows[0])

    def evaluate(self, coef: Array, out: Array) -> None:
        """Write the values of at most as many coefficients to `out`."""
        if not self.is_held:
            horner(self._rows[0], coef, out)
            return
        functions = self._functions[: len(coef)]
        step = _PRODUCT // len(coef)
        for first in range(0, out.shape[0], step):
            np.dot(coef, functions[:, first : first + step], out=out[first : first + step])

    def moments(self) -> Array:
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

    def product(self, i: int, j: int) -> float:
        """The dot product of two of the rows p (0) and other (1)."""
        return float(np.vecdot(self._blocks[i - 2], self._blocks[j - 2]).sum(dtype=np.float64))

    def total(self) -> float:
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
        self._blocks = np.zeros((4, *shape), dtype)
        self._rows, tensors = list(self._blocks), torch.from_numpy(self._blocks).unbind(0)
        self.p, self.other = (Row(self._rows[i], tensors[i]) for i in (-2, -1))
        self._n_coef, self.is_held = n_coef, False

    def evaluate(self, coef: Array, out: Array) -> None:
        """Write the values of coefficients (S, K) to `out`."""
        horner(self._rows[0], columns(coef), out)

    def moments(self) -> Array:
        """Sums of P_k times the row p, (S, degree + 1) float64."""
        return self._moments().T.astype(np.float64)


def columns(coef: Array) -> Array:
    """Coefficients (K,), or (S, K) as (K, S, 1)."""
    return coef if coef.ndim == 1 else coef.T[..., None]


def _over_blocks(sums: Array) -> Array:
    """Sums (K, blocks) added up in float64."""
    return sums[:, 0].astype(np.float64) if sums.shape[1] == 1 else sums.sum(1, dtype=np.float64)


_last = threading.local()


def workspace_for(x: Tensor, coef: Tensor, model: Model) -> Workspace:
    """The workspace of the thread's last call, if it fits: to get memory from the system takes a part of the call."""
    if coef.dim() == 2:
        key = (coef.shape[1], x.shape, x.dtype, torch.is_inference_mode_enabled())
        if getattr(_last, "key", None) != key:
            _last.key, _last.workspace = key, SeriesWorkspace(*key[:2], _DTYPES[x.dtype])
        return _last.workspace
    n, lengths = x.shape[0], sizes.current()
    is_held = model.basis != "power" or n <= lengths.held
    key = (coef.shape[0], n, x.dtype, lengths.longest_block, is_held, torch.is_inference_mode_enabled())
    if getattr(_last, "key", None) != key:
        _last.key = key
        _last.workspace = Workspace(coef.shape[0], n, _DTYPES[x.dtype], lengths, is_held=is_held)
    return _last.workspace


def _to_window(x: Array, mapping: AffineMap | None, out: Array) -> None:
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


@functools.lru_cache(maxsize=256)
def _derivative(basis: str, degree: int, slope: float) -> Array:
    """The matrix (degree, degree + 1) that takes coefficients to those of dp/dx, in float64."""
    return derivative_matrix(BASES[basis], degree).numpy() * slope


def derivative(coef: Array, model: Model) -> Array:
    """Coefficients of dp/dx, at least one."""
    degree = coef.shape[-1] - 1
    if degree == 0:
        return np.zeros_like(coef)
    matrix = _derivative(model.basis, degree, 1.0 if model.affine_map is None else model.affine_map.scale)
    return (coef.astype(np.float64) @ matrix.T).astype(coef.dtype)


def array(tensor: Tensor) -> Array:
    """The numbers in numpy: the same memory, or a copy of a view that torch negates lazily."""
    return tensor.numpy(force=True)


@quiet
def evaluate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """p(x) for x (N,) and coef (degree + 1,), or x (S, N) and coef (S, degree + 1)."""
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    out, t = values.numpy(), array(x)
    if model.basis != "power":
        workspace = workspace_for(x, coef, model)
        workspace.load(t, model)
        workspace.evaluate(array(coef), out)
        return values
    if model.affine_map is not None:
        t = np.empty_like(out)
        _to_window(array(x), model.affine_map, t)
    horner(t, columns(array(coef)), out)
    return values


@quiet
def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of sum(grad * p(x)) for grad in the shape of x, to x and to coef, in their dtype."""
    workspace, factors, upstream = workspace_for(x, coef, model), array(coef), array(grad)
    workspace.load(array(x), model)
    grad_x = grad_coef = None
    if wants.x:
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        out = grad_x.numpy()
        workspace.evaluate(derivative(factors, model), out)
        out *= upstream
    if wants.coef:
        workspace.p.array[...] = upstream
        grad_coef = torch.from_numpy(workspace.moments().astype(factors.dtype))
    return grad_x, grad_coef
