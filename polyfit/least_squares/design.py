"""Least squares on a few samples: their functions laid out once, in numpy.

At a hundred samples an operation costs its call and nothing else, and numpy's are half those of torch. Sums are
products of the matrix with single rows: for a product of matrices BLAS may wake all threads, whatever its size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polyfit.bases import CHEBYSHEV, Interval, affine_map
from polyfit.least_squares.residuals import Array, to_array


class FewSamples:
    """The functions of some samples of one series, and what least squares need of them; all in float64.

    Args:
        functions: T_0 .. T_degree of the samples, (degree + 1, N).
        y: targets, (N,).
        weight: (N,), or None.
    """

    def __init__(self, functions: Array, y: Array, weight: Array | None) -> None:
        self._functions, self._y, self._weight = functions, y, weight

    @classmethod
    def lay_out(cls, x: Tensor, y: Tensor, weight: Tensor | None, degree: int, domain: Interval) -> FewSamples:
        """For x, y and weight (N,) of any floating-point dtype, on any device."""
        functions = np.empty((degree + 1, x.shape[0]))
        functions[0] = 1.0
        t = to_array(x)
        if degree:
            mapping = affine_map(domain, CHEBYSHEV, torch.float64)
            assert mapping is not None
            t = np.subtract(t, mapping.center, out=functions[1])
            t *= mapping.scale
            if mapping.shift:
                t += mapping.shift
        twice = t + t
        for k in range(1, degree):
            after = functions[k + 1]
            np.multiply(twice, functions[k], out=after)
            after -= functions[k - 1]
        return cls(functions, to_array(y), None if weight is None else to_array(weight))

    def normal(self) -> tuple[Array, Array]:
        """sum(w T_k), k = 0 .. 2 degree, and sum(w y T_k), k = 0 .. degree; see `polyfit.backends.chunked.normal`."""
        functions, weight = self._functions, self._weight
        left = functions[0], functions[-1], self._y
        if weight is not None:
            left = weight, left[1] * weight, left[2] * weight
        low, high, of_y = (functions @ row for row in left)
        return np.concatenate((low, 2.0 * high[1:] - low[-2::-1])), of_y

    def residuals(self, coef: Array) -> tuple[Array, float]:
        """sum(w r T_k), (degree + 1,), and sum(w r**2), of the residuals r = y - p(x)."""
        residual = self._y - coef @ self._functions
        weighted = residual if self._weight is None else residual * self._weight
        return self._functions @ weighted, float(weighted @ residual)
