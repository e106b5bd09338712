"""R^2 against rational numbers."""

from __future__ import annotations

import math

import exact
import pytest
import torch
from fit_cases import F64, PRECISIONS, PROBLEMS, curve, line, noise, quiet, uniform
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


@pytest.mark.parametrize("few", [8, 8192])
@pytest.mark.parametrize("constant", [5.0, 0.0, -1e6])
def test_r_squared_with_a_fixed_constant_is_about_it(constant, few, set_sizes):
    set_sizes(few_samples=few)
    x, weight = line(50), 0.5 + uniform(50)
    y = constant + noise(50)
    fit = polyfit.fit(x, y, 2, weight=weight, basis="power", fixed={0: constant})
    truth = exact.fit(x, y, 2, weight=weight, fixed={0: constant})
    assert truth.r_squared is not None
    assert truth.r_squared < 0.2
    assert fit.r_squared == pytest.approx(float(truth.r_squared), abs=1e-13 * max(1.0, abs(constant)))


def test_r_squared_of_data_that_are_the_fixed_constant_is_undefined():
    assert math.isnan(polyfit.fit(line(9), torch.full((9,), 5.0, dtype=F64), 1, fixed={0: 5.0}).r_squared)
