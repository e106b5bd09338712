"""The gradient of few data in numpy, for loops that only change the coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyfit.backends.chunked.objective import Objective
from polyfit.formula import HARMLESS_PREDICTION, HARMLESS_TARGET
from polyfit.losses import MSE


class Gradient:
    """The gradient to coef of a bound objective, in numpy.

    A loop over few data spends its time on calls. A call of numpy costs a third of one of torch, and its products of
    these shapes take no longer.

    Args:
        objective: one whose data are kept, see `Objective.kept`.
    """

    def __init__(self, objective: Objective) -> None:
        assert objective.kept is not None
        part, y, weight, is_out = objective.kept
        matrix, n_series, n = part.functions, part.n_series, part.matrix.n
        n_blocks, block = matrix.n_blocks, matrix.block
        self._functions = functions = matrix.rows.numpy()  # (K, width)
        self._loss = objective.loss
        self._values = np.empty((n_series, matrix.width), functions.dtype)
        self._samples = self._values[:, :n]
        self._filling = self._values[:, n:] if matrix.is_filled else None
        self._is_out = None if is_out is None else is_out.numpy()
        if is_out is not None:
            y = torch.where(is_out, HARMLESS_TARGET, y)
        self._p, self._y = torch.from_numpy(self._samples), y.expand(n_series, -1)
        self._y_array, self._weight = y.numpy(), None if weight is None else weight.numpy()
        # (n_blocks, S, B) and (n_blocks, B, K): sums over blocks are float64
        self._delta = self._values.reshape(n_series, n_blocks, block).swapaxes(0, 1)
        by_block = functions.reshape(-1, n_blocks, block).transpose(1, 2, 0)
        self._by_block = by_block if n_blocks > 1 else functions.T[None]
        self._factor = objective.factor

    def __call__(self, coef: NDArray[Any]) -> NDArray[np.float64]:
        """For coefficients (S, degree + 1): the same shape, in float64."""
        np.matmul(coef.astype(self._values.dtype, copy=False), self._functions, out=self._values)
        if self._is_out is not None:
            np.copyto(self._samples, HARMLESS_PREDICTION, where=self._is_out)
        if isinstance(self._loss, MSE):
            np.subtract(self._samples, self._y_array, out=self._samples)
        else:
            self._loss.slope_(self._p, self._y)
        if self._weight is not None:
            np.multiply(self._samples, self._weight, out=self._samples)
        if self._filling is not None:
            self._filling.fill(0.0)
        sums = np.matmul(self._delta, self._by_block)
        return self._factor * (sums[0].astype(np.float64) if len(sums) == 1 else sums.sum(0, dtype=np.float64))
