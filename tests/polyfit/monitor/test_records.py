"""The samples that pictures of a run show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monitor_runs import F64, a_view
from numpy.polynomial.polynomial import polyval

from polyfit.monitor import records

DRAWN = {
    "one series": ((40,), (40,), (3,)),
    "of a batch the first": ((4, 40), (4, 40), (4, 3)),
    "of a batch of two axes": ((40,), (2, 4, 40), (2, 4, 3)),
    "x and y shared": ((40,), (40,), (4, 3)),
    "one polynomial of all": ((4, 40), (4, 40), (3,)),
    "long": ((12_001,), (12_001,), (3,)),
    "of one sample": ((1,), (1,), (3,)),
}


@pytest.mark.parametrize("case", DRAWN)
def test_samples_to_draw_are_sorted_and_belong_to_one_series(case: str):
    x_shape, y_shape, coef_shape = DRAWN[case]
    x, y, coef = torch.randn(x_shape), torch.randn(y_shape), torch.randn(coef_shape)
    shown = records.data_and_fit(a_view(x, y), coef)
    x_row, y_row = np.broadcast_arrays(x.numpy(), y.numpy())
    if len(coef_shape) > 1:
        x_row, y_row = x_row.reshape(-1, x.shape[-1])[0], y_row.reshape(-1, y.shape[-1])[0]
    x_row, y_row = x_row.ravel(), y_row.ravel()
    if case == "long":
        x_row, y_row = x_row[::3], y_row[::3]
    order = np.argsort(x_row)
    fitted = polyval(x_row[order].astype(float), coef.reshape(-1, 3)[0].double().numpy())
    np.testing.assert_array_equal(shown[0], x_row[order])
    np.testing.assert_array_equal(shown[1], y_row[order])
    # degree 2 in float32: a few roundings of terms of this size
    scale = polyval(np.abs(x_row[order]).astype(float), coef.reshape(-1, 3)[0].double().abs().numpy())
    np.testing.assert_array_less(np.abs(shown[2].numpy() - fitted), 4 * 2.0**-23 * scale)
    assert all(values.dtype == F64 and len(values) <= 5000 for values in shown)
