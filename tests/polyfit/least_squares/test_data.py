"""Which samples a fit counts: dtypes, layouts, weights, sigma, values that are not finite."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import exact
import numpy as np
import pytest
import torch
from fit_cases import EPS, F64, PRECISIONS, curve, line, uniform
from fit_closeness import assert_exact

import polyfit
from polyfit import Fit
from polyfit.backends import sizes


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e160, 1e200, 1e300])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_y_whose_squares_float64_does_not_hold(precision, scale):
    x, y = line(50), scale * curve(50)
    fit = polyfit.fit(x, y, 2, precision=precision)
    truth = exact.fit(x, y, 2, basis="chebyshev", domain=fit.domain)
    # Some roundings of the largest coefficient, which is of the size of y.
    np.testing.assert_allclose(
        fit.coef.numpy() / scale, [float(value / Fraction(scale)) for value in truth.coef], atol=1e-15
    )
    # Standard errors are of the size of y, and known; the sum of squares may be beyond float64.
    errors = [float(error) for error in truth.std_err()]
    np.testing.assert_allclose(fit.std_err.numpy() / scale, np.array(errors) / scale, rtol=1e-12)
    assert fit.r_squared == pytest.approx(float(truth.r_squared or 0), rel=1e-12)


# --- dtypes and layouts ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_narrow_data_are_fitted_as_the_numbers_they_are(is_weighted, dtype, precision):
    x, y = (3.0 + line(60)).to(dtype), (100.0 * curve(60)).to(dtype)
    weight = uniform(60).to(dtype) if is_weighted else None
    fit = polyfit.fit(x, y, 4, weight=weight, precision=precision)
    assert fit.coef.dtype == fit.std_err.dtype == fit.covariance.dtype == F64
    assert_exact(fit, exact.fit(x, y, 4, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sigma_of_narrow_dtypes_keeps_its_digits(dtype):
    x, y, sigma = line(40).to(dtype), curve(40).to(dtype), (1e-4 * (1.0 + uniform(40))).to(dtype)
    fit = polyfit.fit(x, y, 2, sigma=sigma)
    weight = sigma.double() ** -2
    assert_exact(fit, exact.fit(x, y, 2, weight=weight, basis="chebyshev", domain=fit.domain), x, y, weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layouts(precision):
    x, y, weight = line(60), curve(60), uniform(60)
    expected = polyfit.fit(x, y, 3, weight=weight, precision=precision)
    columns = torch.stack((x, y, weight), 1)
    flipped = torch.stack((weight, y, x)).flip(0)
    for parts in (columns.unbind(1), flipped.unbind(0), torch.stack((x, x, y, y, weight, weight), 1)[:, ::2].unbind(1)):
        fit = polyfit.fit(parts[0], parts[1], 3, weight=parts[2], precision=precision)
        torch.testing.assert_close(fit.coef, expected.coef, rtol=8 * EPS, atol=8 * EPS)
        assert fit.rss == pytest.approx(expected.rss, rel=60 * EPS)
    one = torch.ones((), dtype=F64)
    fit = polyfit.fit(x, one.expand(60), 1, weight=one.expand(60), precision=precision)  # stride 0
    torch.testing.assert_close(fit.coef, torch.tensor([1.0, 0.0], dtype=F64), rtol=0, atol=8 * EPS)


def test_data_are_not_written():
    tensors = x, y, weight = line(60), curve(60), uniform(60)
    copies = [tensor.clone() for tensor in tensors]
    for precision, size in itertools.product(PRECISIONS, (8, 8192)):
        with sizes.using(sizes.Sizes(few_samples=size)):
            polyfit.fit(x, y, 3, weight=weight, precision=precision)
    assert all(map(torch.equal, tensors, copies))


# --- weights and sigma ---


def test_sigma_is_a_weight():
    x, y, sigma = line(40), curve(40), 0.1 + uniform(40)
    fit, same = polyfit.fit(x, y, 3, sigma=sigma), polyfit.fit(x, y, 3, weight=sigma**-2)
    assert torch.equal(fit.coef, same.coef)
    assert torch.equal(fit.covariance, same.covariance)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_samples_of_weight_zero_may_hold_anything(precision, bad):
    x, y, weight = line(30), curve(30), uniform(30)
    expected = polyfit.fit(x[2:], y[2:], 3, weight=weight[2:], precision=precision)
    x[0], y[1], weight[:2] = bad, bad, 0.0
    fit = polyfit.fit(x, y, 3, weight=weight, precision=precision)
    assert fit.n_samples == 28
    assert torch.equal(fit.coef, expected.coef)
    assert torch.equal(fit.std_err, expected.std_err)
    x[0], y[1] = 7.0, 7.0
    assert polyfit.fit(x, y, 3, weight=weight, precision=precision).domain == expected.domain


# --- what is not finite ---


@pytest.mark.parametrize("few", [8, 8192])
def test_raise_names_how_many_and_where(few, set_sizes):
    set_sizes(few_samples=few)
    x, y, weight = line(30), curve(30), uniform(30)
    y[[4, 17]] = torch.tensor([math.nan, math.inf], dtype=F64)
    with pytest.raises(ValueError, match=r"y has 2 values that are not finite, the first is y\[4\] = nan.*'omit'"):
        polyfit.fit(x, y, 2)
    x[29] = -math.inf
    with pytest.raises(ValueError, match=r"x has 1 value that is not finite, the first is x\[29\] = -inf; y has 2"):
        polyfit.fit(x, y, 2)
    for bad in (math.nan, math.inf):
        weight[3] = bad
        with pytest.raises(ValueError, match=rf"weight has 1 value.*weight\[3\] = {bad}"):
            polyfit.fit(line(30), curve(30), 2, weight=weight)
    sigma = uniform(30)
    sigma[5] = math.nan
    with pytest.raises(ValueError, match=r"sigma has 1 value.*sigma\[5\] = nan"):
        polyfit.fit(line(30), curve(30), 2, sigma=sigma)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_omit_leaves_out_what_is_not_finite(precision):
    x, y, weight = line(30), curve(30), uniform(30)
    kept = torch.ones(30, dtype=torch.bool)
    kept[[0, 7, 8, 29]] = False
    expected = polyfit.fit(x[kept], y[kept], 3, weight=weight[kept], precision=precision)
    x[0], y[7], weight[8], y[29] = math.nan, math.inf, math.nan, -math.inf
    fit = polyfit.fit(x, y, 3, weight=weight, nan_policy="omit", precision=precision)
    assert fit.n_samples == 26
    assert torch.equal(fit.coef, expected.coef)
    assert torch.equal(fit.covariance, expected.covariance)
    sigma = weight**-0.5
    with_sigma = polyfit.fit(x, y, 3, sigma=sigma, nan_policy="omit", precision=precision)
    torch.testing.assert_close(with_sigma.coef, expected.coef, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["x", "y", "weight", "sigma"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_propagate_gives_a_fit_of_nan(bad, name, tmp_path):
    data: dict[str, Any] = {"x": line(30), "y": curve(30)}
    if name in {"weight", "sigma"}:
        data[name] = uniform(30)
    data[name][11] = bad
    if name == "sigma" and bad == math.inf:  # a weight of zero
        assert polyfit.fit(**data, degree=2, nan_policy="propagate").n_samples == 29
        return
    fit = polyfit.fit(**data, degree=2, nan_policy="propagate")
    assert fit.status == "not_finite"
    for values in (fit.coef, fit.std_err, fit.covariance, fit(data["x"]), *fit.interval(data["y"])):
        assert values.isnan().all()
    assert fit.coef.shape == (3,)
    assert math.isnan(fit.rss)
    assert math.isnan(fit.r_squared)
    assert fit.in_basis("power").coef.isnan().all()
    assert "nan" in str(fit)
    fit.save(tmp_path / "fit.json")
    assert Fit.load(tmp_path / "fit.json").coef.isnan().all()


def test_propagate_leaves_finite_data_alone():
    x, y = line(30), curve(30)
    y[:2] = 1.7e308  # finite, but not their sum
    for policy in ("propagate", "omit", "raise"):
        fit = polyfit.fit(x, y, 2, nan_policy=policy)
        truth = exact.fit(x, y, 2, basis="chebyshev", domain=fit.domain)
        for ours, theirs in zip(fit.coef.tolist(), truth.coef, strict=True):
            assert exact.digits(ours, theirs) >= 14.0
