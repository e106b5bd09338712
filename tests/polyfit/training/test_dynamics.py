"""The share of an error that descent has taken away, for many epochs at once, against 60 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from polyfit.training import dynamics

X = np.array([[0.0, 1e-18, 3e-9, 0.02, 0.4999], [0.5, 0.75, 1.0, 1.5, 2.0 - 1e-9]])
UNSTABLE = np.array([[2.001, -1e-3]])


@pytest.mark.parametrize("counts", [range(0, 80_100, 100), [*range(7, 900, 3), 1000], range(3)])
@pytest.mark.parametrize("x", [X, UNSTABLE])
def test_the_share_of_an_error_that_is_gone(counts, x):
    found = np.moveaxis(dynamics._gone(x, np.array(counts, np.float64)), -1, 0)
    with mpmath.workdps(60):
        for at, rows in zip(counts, found, strict=True):
            for value, share in zip(x.flat, rows.flat, strict=True):
                left = (1 - mpmath.mpf(value)) ** at if value else 1 - mpmath.mpf(at)
                # In units of u = 2**-53, of the exponent t log(1 - x): 2 u of the logarithm and u of the product, or
                # t u of the rounding of 1 - x; and 16 u of all other operations.
                exponent = 3 * at * abs(left) * abs(value)
                allowed = 2.0**-53 * (exponent + 16 * max(abs(1 - left), abs(left) if value >= 0.5 else 0))
                assert abs(1 - left - mpmath.mpf(share)) <= allowed + 1e-300, (value, at)
