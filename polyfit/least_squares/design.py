"""The design matrix of a few samples: Chebyshev polynomials of all samples, held at once, in numpy.

At a hundred samples the time goes into calls, and numpy's take half as long as torch's. Sums are products of the matrix
with single rows: for a product of two matrices BLAS may wake all its threads, whatever the size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyfit.bases import CHEBYSHEV, Interval, affine_map
from polyfit.least_squares.algebra import Array, moments_of_products, to_array


class DesignMatrix:
    """The basis functions of one series, and the sums over its samples that least squares needs; all in float64.

    Args:
        functions: T_0 .. T_degree of the samples, (degree + 1, N).
        y: targets, (N,).
        weight: (N,), or None for ones.
    """

    def __init__(self, functions: Array, y: Array, weight: Array | None) -> None:
        self._functions, self._y, self._weight = functions, y, weight

    @classmethod
    def of_samples(cls, x: Tensor, y: Tensor, weight: Tensor | None, degree: int, domain: Interval) -> DesignMatrix:
        """The matrix for x, y and weight (N,) of any floating-point dtype, on any device."""
        functions = np.empty((degree + 1, x.shape[0]))
        rows = list(functions)
        rows[0].fill(1.0)
        t = to_array(x)
        if degree:
            mapping = affine_map(domain, CHEBYSHEV, torch.float64)
            assert mapping is not None
            t = np.subtract(t, mapping.center, out=rows[1])
            t *= mapping.scale
            if mapping.shift:
                t += mapping.shift
        twice = t + t
        for k in range(1, degree):  # T_{k+1} = 2 t T_k - T_{k-1}
            after = np.multiply(twice, rows[k], out=rows[k + 1])
            after -= rows[k - 1]
        return cls(functions, to_array(y), None if weight is None else to_array(weight))

    def moments(self) -> tuple[Array, Array]:
        """The sums of w T_k, k = 0 .. 2 degree, and of w y T_k, k = 0 .. degree."""
        functions, weight = self._functions, self._weight
        left = functions[0], functions[-1], self._y
        if weight is not None:
            left = weight, left[1] * weight, left[2] * weight
        return moments_of_products(functions @ left[0], functions @ left[1]), functions @ left[2]

    def residuals(self, coef: Array) -> tuple[Array, float]:
        """The sums of w r T_k, (degree + 1,), and of w r**2, of the residuals r = y - p(x)."""
        residual = np.dot(coef, self._functions)
        np.subtract(self._y, residual, out=residual)
        weighted = residual if self._weight is None else residual * self._weight
        return self._functions @ weighted, float(weighted @ residual)

    def rows(self, coef: Array) -> Array:
        """The rows sqrt(w) (T_0, ..., T_degree, r) with the residuals r = y - p(x), (N, degree + 2)."""
        rows = np.concatenate((self._functions, (self._y - coef @ self._functions)[None])).T
        return rows if self._weight is None else rows * np.sqrt(self._weight)[:, None]
