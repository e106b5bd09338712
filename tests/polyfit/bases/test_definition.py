"""Domain to window: values of the affine map, and the digits it keeps."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.polynomial import polyutils

from polyfit import bases


@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.0, 10.0), (-3.5, 0.25), (2.0e9, 2.0e9 + 1024.0)])
def test_map_is_numpys(domain):
    x = np.linspace(domain[0], domain[1], 33)
    mapping = bases.affine_map(domain, bases.BASES["power"], torch.float64)
    assert mapping is not None
    t = (x - mapping.center) * mapping.scale + mapping.shift
    # numpy multiplies before it subtracts, and loses |lo| / (hi - lo) digits on the way.
    lost = np.finfo(float).eps * 4 * max(1.0, max(map(abs, domain)) / (domain[1] - domain[0]))
    np.testing.assert_allclose(t, polyutils.mapdomain(x, domain, (-1, 1)), atol=lost, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", [(1.7e9, 1.7e9 + 5e4), (-1e-3, 3e-3), (1e6 + 0.1, 1e6 + 0.2)])
def test_narrow_domain_far_from_zero_keeps_its_digits(domain, dtype):
    mapping = bases.affine_map(domain, bases.BASES["power"], dtype)
    assert mapping is not None
    center, scale, shift = mapping
    x = torch.linspace(0, 1, 17, dtype=torch.float64).mul(domain[1] - domain[0]).add(domain[0]).to(dtype)
    t = (x - center) * scale + shift
    lo, hi = map(Fraction, domain)
    exact = torch.tensor(
        [float((2 * Fraction(value) - lo - hi) / (hi - lo)) for value in x.double().tolist()], dtype=torch.float64
    )
    # x - center is exact up to one rounding; so the image is good to a few eps of the window, wherever the domain lies.
    assert (t.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().clamp(min=1).max()


def test_window_ends_are_met():
    mapping = bases.affine_map((2.0, 5.0), bases.BASES["power"], torch.float64)
    assert mapping is not None
    assert ((torch.tensor([2.0, 3.5, 5.0]) - mapping.center) * mapping.scale + mapping.shift).tolist() == [
        -1.0,
        0.0,
        1.0,
    ]


def test_no_domain_is_no_map():
    assert bases.affine_map(None, bases.BASES["power"], torch.float32) is None


@pytest.mark.parametrize(
    ("domain", "error", "match"),
    [
        ((1.0, 1.0), ValueError, "lo < hi"),
        ((2.0, 1.0), ValueError, "lo < hi"),
        ((0.0, float("inf")), ValueError, "finite"),
        ((float("nan"), 1.0), ValueError, "finite"),
        ((0.0, 1e-320), ValueError, "too narrow"),
        ((0.0, 1.0, 2.0), TypeError, "pair of numbers"),
        (3.0, TypeError, "pair of numbers"),
        ("ab", TypeError, "pair of numbers"),
    ],
)
def test_bad_domain_is_named(domain, error, match):
    with pytest.raises(error, match=match):
        bases.affine_map(domain, bases.BASES["power"], torch.float64)


def test_unknown_basis_lists_the_known():
    with pytest.raises(ValueError, match="'power'"):
        bases.resolve("monomial")


def test_the_center_for_float32_is_a_number_of_float32():
    generator = np.random.default_rng(0)
    for _ in range(200):
        middle = float(generator.standard_normal() * 10.0 ** generator.integers(-30, 30))
        mapping = bases.affine_map((middle - abs(middle), middle + abs(middle)), bases.BASES["power"], torch.float32)
        assert mapping is not None
        assert mapping.center == float(np.float32(middle))


@pytest.mark.parametrize("name", bases.BASES)
def test_derivatives_follow_from_those_before(name):
    basis = bases.BASES[name]
    slopes = bases.derivative_matrix(basis, 9)  # column k is P_k', in P_0 .. P_8
    for k in range(1, 9):
        value, slope, before = map(float, basis.slope(k))
        expected = slope * slopes[:, k] + before * slopes[:, k - 1]
        expected[k] += value
        torch.testing.assert_close(expected, slopes[:, k + 1], rtol=1e-15, atol=0)
