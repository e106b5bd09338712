"""A stand-in for columns of pandas and polars, which the tests do not need."""

from __future__ import annotations

from typing import Any

import numpy as np


class Column:
    """A column of another library, as numpy sees it: it has labels, and none of them is a place."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._values if dtype is None else self._values.astype(dtype)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: object) -> float:
        raise KeyError(key)
