"""R^2 against rational numbers."""

from __future__ import annotations

import exact
import pytest
import torch
from fit_cases import F64, PRECISIONS, PROBLEMS, curve, line, quiet
from fit_closeness import assert_r_squared

import polyfit


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_r_squared_of_hard_data(name, precision):
    x, y, weight, degree = PROBLEMS[name]()
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision)
    assert_r_squared(fit, exact.fit(x, y, degree, weight=weight), x, y, weight)


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("outlier", [1e6, 1e12])
def test_r_squared_where_the_condition_is_huge(outlier, degree):
    x, y = torch.cat((line(49), torch.tensor([outlier], dtype=F64))), curve(50)
    fit = quiet(x, y, degree)
    if fit.status == "ok":
        assert_r_squared(fit, exact.fit(x, y, degree), x, y)
    # Whatever was determined, rss is about what its polynomial leaves, and R^2 belongs to rss.
    total = (y - y.mean()).square().sum()
    assert fit.r_squared == pytest.approx(1.0 - fit.rss / float(total), abs=1e-13)
