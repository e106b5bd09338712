"""Solutions of long data, of data in chunks, and from a first polynomial that is far off."""

from __future__ import annotations

import exact
import pytest
import torch
from fit_cases import F64, ILL, PRECISIONS, PROBLEMS, curve, line, long_data, uniform
from fit_closeness import assert_exact

import polyfit


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_long_data(is_weighted, dtype, precision):
    x, y, weight = long_data(dtype)
    weight = weight if is_weighted else None
    fit = polyfit.fit(x, y, 4, weight=weight, precision=precision)
    assert_exact(fit, exact.fit(x, y, 4, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


def test_auto_is_extended_for_data_of_usual_size_and_double_for_millions():
    x = uniform(100_001)
    assert polyfit.fit(x[:-1], x[:-1], 1).precision == "extended"
    assert polyfit.fit(x, x, 1).precision == "double"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("few", [8, 49])
@pytest.mark.parametrize("name", ["timestamps", "y around 1e12", "weights over 20 orders", *sorted(ILL)])
def test_chunks(name, few, precision, small_chunks, set_sizes):
    x, y, weight, degree = PROBLEMS[name]()
    set_sizes(few_samples=few)
    fit = polyfit.fit(x, y, degree, weight=weight, precision=precision)
    assert (fit.solver == "qr") == (name in ILL)
    assert_exact(fit, exact.fit(x, y, degree, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["one x", "far off", "no weight"])
def test_a_first_guess_that_is_of_no_use(kind, precision, set_sizes):
    # With FEW = 20 it comes from each fifth of 100 samples: from those that are like no others.
    set_sizes(few_samples=20)
    x, y, weight = line(100), curve(100), torch.ones(100, dtype=F64)
    if kind == "one x":
        x[::5] = 0.5
    elif kind == "far off":
        y[::5] += 1e10
    else:
        weight[::5] = 1e-200
    fit = polyfit.fit(x, y, 3, weight=weight, precision=precision)
    assert_exact(fit, exact.fit(x, y, 3, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)
