"""Several series that share few samples x (N,), in numpy: the rows of `short` for coefficients (S, degree + 1).

Products with the matrix of the functions give all predictions and all sums. They are cut so that they take one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.pointwise import Array
from polyfit.backends.chunked.short import APART, DTYPES, PRODUCT, Workspace


def is_shared(x: Tensor, coef: Tensor) -> bool:
    """Whether samples x and coefficients are such series, without a gradient to the samples."""
    return (
        x.dim() == 1
        and coef.dim() == 2
        and coef.shape[0] > 1
        and 0 < x.shape[0] * coef.shape[0] <= sizes.current().shared
        and x.dtype in DTYPES
        and x.is_cpu
        and not x.requires_grad
    )


class SharedWorkspace(Workspace):
    """The functions of n samples as rows, and two arrays (S, n) for predictions and residuals or losses.

    Args:
        n_coef: degree + 1.
        n_series: S.
        n: samples.
        dtype: of the rows.
    """

    def __init__(self, n_coef: int, n_series: int, n: int, dtype: np.dtype[Any]) -> None:
        self._n_coef, self.is_held = n_coef, True
        self._functions = np.zeros((max(n_coef, 1), n + APART), dtype)[:, :n]
        self._functions[0] = 1.0
        self._rows = list(self._functions)
        self._set_pair(np.empty((2, n_series, n), dtype))
        longest = sizes.current().longest_block
        self._samples = [slice(first, first + longest) for first in range(0, n, longest)]
        step = max(1, PRODUCT // (n_coef * min(n, longest)))
        self._series = [slice(first, first + step) for first in range(0, n_series, step)]

    def evaluate(self, coef: Array, out: Array) -> None:
        """Write the values of coefficients (S, K) to `out`."""
        functions = self._functions[: coef.shape[1]]
        for series in self._series:
            for samples in self._samples:
                np.matmul(coef[series], functions[:, samples], out=out[series, samples])

    def moments_of_p(self) -> Array:
        """Sums of P_k times the row p, (S, degree + 1) float64."""
        functions = np.ascontiguousarray(self._functions.T)  # (n, K): a product with a transpose takes twice as long
        sums = np.zeros((self.p.shape[0], self._n_coef))
        for series in self._series:
            for samples in self._samples:
                sums[series] += self.p[series, samples] @ functions[samples]
        return sums

    def squares(self) -> Any:
        """The sums of the squares of p, (S,)."""
        return self._dots(self.p, self.p)

    def products(self) -> Any:
        """The sums of the products of p and other, (S,)."""
        return self._dots(self.p, self.other)

    def _dots(self, left: Array, right: Array) -> Array:
        if len(self._samples) == 1:
            return np.vecdot(left, right)
        sums = np.zeros(len(left))
        for samples in self._samples:
            sums += np.vecdot(left[:, samples], right[:, samples])
        return sums

    def total_of_other(self) -> Any:
        """The sums of `other`, (S,)."""
        return self.other.sum(1)
