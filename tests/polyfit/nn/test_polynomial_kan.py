"""The KAN layer: values and gradients against the plain sum, coefficients of other programs, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from plain_layers import F64, SQUASHES, plain_kan
from torch import Tensor

from polyfit import bases
from polyfit.nn import PolynomialKAN

IN, OUT, DEGREE = 5, 4, 3


def full_coefficients(dtype: torch.dtype = F64) -> Tensor:
    """(in, out, degree + 1)."""
    return torch.randn(IN, OUT, DEGREE + 1, dtype=F64).to(dtype)


@pytest.mark.parametrize("squash", list(SQUASHES))
@pytest.mark.parametrize("basis", list(bases.BASES))
def test_values_and_gradients(basis, squash):
    layer = PolynomialKAN(IN, OUT, DEGREE, basis, squash, dtype=F64)
    full = full_coefficients().requires_grad_()
    layer.load_coefficients(full, layout="in out degree")
    x = torch.randn(7, IN, dtype=F64, requires_grad=True)
    y, expected = layer(x), plain_kan(x, full, basis, squash)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(y)
    to_x, to_coef, to_bias = torch.autograd.grad(y, (x, layer.coef, layer.bias), grad)
    right_x, right = torch.autograd.grad(expected, (x, full), grad)
    torch.testing.assert_close(to_x, right_x, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(to_coef.permute(1, 2, 0), right[..., 1:], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(to_bias.expand(IN, OUT), right[..., 0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(IN,), (0, IN), (2, 0, IN), (2, 3, IN)])
def test_shapes(shape):
    layer = PolynomialKAN(IN, OUT, DEGREE, dtype=F64)
    layer.load_coefficients(full_coefficients(), layout="in out degree")
    x = torch.randn(shape, dtype=F64)
    y = layer(x)
    assert y.shape == (*shape[:-1], OUT)
    expected = plain_kan(x.reshape(-1, IN), layer.coefficients(), "chebyshev", "tanh")
    torch.testing.assert_close(y.reshape(-1, OUT), expected, rtol=1e-12, atol=1e-12)


def test_layouts_of_the_input():
    layer = PolynomialKAN(IN, OUT, DEGREE, dtype=F64)
    for x in (torch.randn(IN, 6, dtype=F64).T, torch.randn(1, IN, dtype=F64).expand(6, IN)):
        expected = plain_kan(x, layer.coefficients(), "chebyshev", "tanh")
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_at_the_start_it_is_a_linear_layer_of_the_squashed_input():
    layer = PolynomialKAN(400, 300, 3, dtype=F64)
    assert not bool(layer.bias.any())
    assert not bool(layer.coef[1:].any())
    # The deviation of 120000 draws is known to 0.2 %.
    assert float(layer.coef[0].detach().std()) == pytest.approx(1 / 20, rel=0.01)
    x = torch.randn(8, 400, dtype=F64)
    torch.testing.assert_close(layer(x), x.tanh() @ layer.coef[0])


LAYOUTS = {
    "in out degree": lambda full: full,
    "out in degree": lambda full: full.permute(1, 0, 2),
    "degree in out": lambda full: full.permute(2, 0, 1),
    "out (in degree)": lambda full: torch.stack([full[:, o].reshape(-1) for o in range(OUT)]),
    "out (degree in)": lambda full: torch.stack([full[:, o].T.reshape(-1) for o in range(OUT)]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coefficients_of_other_programs(layout):
    full, x = full_coefficients(), torch.randn(6, IN, dtype=F64)
    layer = PolynomialKAN(IN, OUT, DEGREE, dtype=F64)
    layer.load_coefficients(LAYOUTS[layout](full), layout=layout)
    torch.testing.assert_close(layer(x), plain_kan(x, full, "chebyshev", "tanh"), rtol=1e-12, atol=1e-12)


def test_constant_terms_are_added_up_in_float64():
    big, layer = 2.0**24, PolynomialKAN(3, 1, 1)
    full = torch.zeros(3, 1, 2)
    full[:, 0, 0] = torch.tensor([big, 1.0, 1.0])  # in float32, big + 1 is big
    layer.load_coefficients(full, layout="in out degree")
    assert layer.bias.item() == big + 2


def test_coefficients_come_back_bit_by_bit():
    layer = PolynomialKAN(IN, OUT, DEGREE)
    layer.load_coefficients(full_coefficients(torch.float32), layout="in out degree")
    other = PolynomialKAN(IN, OUT, DEGREE)
    other.load_coefficients(layer.coefficients(), layout="in out degree")
    for mine, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_under_autocast_the_result_has_its_dtype():
    layer = PolynomialKAN(IN, OUT, DEGREE)
    layer.load_coefficients(full_coefficients(torch.float32), layout="in out degree")
    x = torch.randn(6, IN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert y.dtype == torch.bfloat16
    expected = plain_kan(x.double(), layer.coefficients().double(), "chebyshev", "tanh")
    size = float(layer.coefficients().abs().sum((0, 2)).max())  # each of its terms is rounded to bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=size * 2**-7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 3, 2), ValueError, "in_features=0 is too small"),
        ((3, 2.0, 2), TypeError, r"out_features=2\.0 is float; pass an int"),
        ((3, 2, 0), ValueError, "degree=0 is too small; pass at least 1"),
        ((3, 2, 2, "fourier"), ValueError, "basis='fourier' is unknown"),
        (
            (3, 2, 2, "power", "sin"),
            ValueError,
            "squash='sin' is unknown; pass one of 'tanh', 'algebraic', 'clamp', None",
        ),
    ],
)
def test_arguments_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        PolynomialKAN(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            ValueError,
            r"x has shape \(2, 3\) and the layer takes \(\.\.\., 5\); features are on the last",
        ),
        (torch.zeros(()), ValueError, r"x has shape \(\) and the layer takes"),
        (torch.zeros(2, 5, dtype=torch.int32), TypeError, r"x is torch\.int32; .* pass x\.to\(torch\.float32\)"),
        (
            torch.zeros(2, 5, dtype=F64),
            TypeError,
            r"x is torch\.float64 and the parameters of the layer are torch\.float32",
        ),
        (torch.zeros(2, 5, dtype=torch.half), TypeError, r"x is torch\.float16 and the parameters"),
        (torch.zeros(2, 5, device="meta"), ValueError, r"x is on meta and the parameters of the layer are on cpu"),
    ],
)
def test_inputs_that_are_refused(x, error, message):
    with pytest.raises(error, match=message) as raised:
        PolynomialKAN(IN, OUT, DEGREE)(x)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("full", "layout", "error", "message"),
    [
        (
            torch.zeros(5, 4, 5),
            "in out degree",
            ValueError,
            r"C has shape \(5, 4, 5\), and layout='in out degree' has \(5, 4, 4\)",
        ),
        (torch.zeros(4, 15), "out (in degree)", ValueError, r"has \(4, 20\) for 5 inputs, 4 outputs and degree 3"),
        (
            torch.zeros(4, 20),
            "out in*degree",
            ValueError,
            r"layout='out in\*degree' is unknown; pass one of 'in out degree'",
        ),
        ([0.0], "in out degree", TypeError, "C is list"),
        (torch.zeros(5, 4, 4, dtype=torch.int64), "in out degree", TypeError, r"C is torch\.int64"),
        (
            torch.full((5, 4, 4), math.nan),
            "in out degree",
            ValueError,
            r"C has 80 values that are not finite, the first is C\[0, 0, 0\] = nan: pass finite coefficients",
        ),
    ],
)
def test_coefficients_that_are_refused(full, layout, error, message):
    with pytest.raises(error, match=message) as raised:
        PolynomialKAN(IN, OUT, DEGREE).load_coefficients(full, layout=layout)
    assert "\n" not in str(raised.value)


def test_a_layout_must_be_named():
    with pytest.raises(TypeError, match="layout"):
        PolynomialKAN(IN, OUT, DEGREE).load_coefficients(full_coefficients())  # pyright: ignore[reportCallIssue]


def test_text():
    assert repr(PolynomialKAN(2, 3, 4, impl="torch", squash=None)) == (
        "PolynomialKAN(in_features=2, out_features=3, degree=4, squash=None, impl='torch')"
    )
