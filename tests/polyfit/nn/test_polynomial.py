"""The activation: values and gradients against the plain layer and numpy, layouts, dtypes, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from plain_layers import F64, PlainPolynomial
from torch import Tensor, nn

import polyfit
from polyfit import bases
from polyfit.nn import Polynomial

DOMAIN = (-2.5, 1.5)


def drawn(layer: Any, scale: float = 0.3) -> Any:
    """The layer with coefficients that differ from group to group."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            step = scale * torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter.add_(step.to(parameter.dtype))
    return layer


def plain(layer: Polynomial) -> PlainPolynomial:
    return PlainPolynomial(
        layer.coef, channel_dim=layer.channel_dim, basis=layer.basis, domain=layer.domain, outside=layer.outside
    )


def samples(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    """Inside and outside of the domain, and its two ends."""
    x = 2.5 * torch.randn(shape, dtype=F64)
    x.view(-1)[: 2 if x.numel() > 2 else 0] = torch.tensor(DOMAIN, dtype=F64)[: 2 if x.numel() > 2 else 0]
    return x.to(dtype)


def compare(layer: Polynomial, x: Tensor, grad: Tensor | None = None, rtol: float = 1e-12) -> None:
    """Values and all gradients against the plain layer in float64."""
    reference = plain(layer)
    x, wide = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    y, expected = layer(x), reference(wide)
    grad = torch.randn_like(y) if grad is None else grad
    found = torch.autograd.grad(y, (x, layer.coef), grad)
    right = torch.autograd.grad(expected, (wide, reference.coef), grad.double())
    assert y.dtype == x.dtype == found[0].dtype
    assert y.shape == x.shape
    for mine, theirs in zip((y.detach(), *found), (expected.detach(), *right), strict=True):
        scale = float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(mine.double(), theirs, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("outside", ["linear", "clamp", "extend"])
@pytest.mark.parametrize("basis", list(bases.BASES))
def test_values_against_numpy(basis, outside):
    layer = drawn(Polynomial(4, basis=basis, domain=DOMAIN, outside=outside, dtype=F64))
    kind = oracle.NUMPY_CLASSES[basis]
    series = kind(layer.coef.tolist(), domain=list(DOMAIN), window=kind.window)
    x = samples(300)
    inside = x.numpy().clip(*DOMAIN)
    expected = {
        "extend": series(x.numpy()),
        "clamp": series(inside),
        "linear": series(inside) + series.deriv()(inside) * (x.numpy() - inside),
    }[outside]
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("outside", ["linear", "clamp", "extend"])
@pytest.mark.parametrize("basis", list(bases.BASES))
@pytest.mark.parametrize(("channels", "groups"), [(1, None), (6, None), (6, 3), (6, 1)])
def test_gradients_against_the_plain_layer(basis, outside, channels, groups):
    layer = Polynomial(5, channels, num_groups=groups, basis=basis, domain=DOMAIN, outside=outside, dtype=F64)
    compare(drawn(layer), samples(3, 6, 5))


@pytest.mark.parametrize("degree", [0, 1, 2, 9])
def test_degrees(degree):
    layer = drawn(Polynomial(degree, 4, domain=DOMAIN, init="relu", dtype=F64))
    compare(layer, samples(7, 4))


def strided(name: str) -> Tensor:
    """Inputs (4, 6, 5, 3), in different layouts."""
    x = samples(4, 6, 5, 3)
    return {
        "contiguous": lambda: x,
        "channels_last": lambda: x.to(memory_format=torch.channels_last),
        "transposed": lambda: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "expanded": lambda: x[:1].expand(4, 6, 5, 3),
        "every other": lambda: samples(4, 12, 5, 6)[:, ::2, :, ::2],
        "misaligned": lambda: samples(361)[1:].view(4, 6, 5, 3),
        "negative": lambda: torch.complex(x, -x).conj().imag,
    }[name]()


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    "layout", ["contiguous", "channels_last", "transposed", "expanded", "every other", "misaligned", "negative"]
)
def test_layouts_of_the_input_and_of_the_gradient(layout, groups):
    layer = drawn(Polynomial(3, 6, num_groups=groups, domain=DOMAIN, dtype=F64))
    x = strided(layout)
    compare(layer, x)
    compare(layer, x, torch.ones((), dtype=F64).expand(x.shape))
    for other in ("transposed", "misaligned", "every other", "negative"):
        compare(layer, x, strided(other))


@pytest.mark.parametrize("groups", [1, 6])
def test_the_output_has_the_memory_format_of_the_input(groups):
    layer = Polynomial(3, 6, num_groups=groups)
    for x in (torch.randn(2, 6, 4, 5), torch.randn(2, 6, 4, 5).to(memory_format=torch.channels_last)):
        assert layer(x).stride() == x.stride()


@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((6,), 0), ((6,), -1), ((4, 6), 1), ((4, 5, 6), -1), ((6, 4, 2, 2), 0), ((2, 3, 6, 2, 2), 2)],
)
def test_channel_dims(shape, channel_dim):
    layer = drawn(Polynomial(4, 6, num_groups=2, channel_dim=channel_dim, domain=DOMAIN, dtype=F64))
    compare(layer, samples(*shape))


@pytest.mark.parametrize("shape", [(), (7,), (0,), (0, 6), (3, 0), (1, 1, 1)])
def test_one_polynomial_takes_any_shape(shape):
    compare(drawn(Polynomial(3, domain=DOMAIN, dtype=F64)), samples(*shape))


def test_an_empty_batch_of_channels():
    layer = Polynomial(3, 6)
    x = torch.empty(0, 6, 2, requires_grad=True)
    layer(x).sum().backward()
    assert layer.coef.grad is not None
    assert not bool(layer.coef.grad.any())


# Roundings of the result to its dtype, and sums of a few hundred terms that are computed in float32.
@pytest.mark.parametrize(
    ("dtype", "coef_dtype", "rtol"),
    [
        (torch.float16, torch.float32, 2e-3),
        (torch.float16, torch.float16, 2e-3),
        (torch.bfloat16, torch.float32, 1e-2),
        (torch.bfloat16, torch.bfloat16, 1e-2),
        (torch.float32, torch.float32, 2e-5),
        (torch.float64, torch.float64, 1e-12),
    ],
)
def test_dtypes(dtype, coef_dtype, rtol):
    layer = drawn(Polynomial(5, 6, domain=DOMAIN, dtype=coef_dtype))
    compare(layer, samples(8, 6, 5, dtype=dtype), rtol=rtol)


def test_under_autocast_the_output_has_the_dtype_of_its_input():
    layer = drawn(Polynomial(5, 8, domain=(-4, 4)))
    net = nn.Sequential(nn.Linear(4, 8), layer)
    x = torch.randn(10, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = net[0](x)
        assert net(x).dtype == hidden.dtype == torch.bfloat16
        assert layer(x.new_ones(2, 8)).dtype == torch.float32
        inside = layer(hidden)
    assert torch.equal(inside, layer(hidden))
    net(x).sum().backward()
    assert layer.coef.grad is not None
    assert layer.coef.grad.dtype == torch.float32


@pytest.mark.parametrize("outside", ["linear", "clamp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("init", ["identity", "silu", "gelu", "tanh", "relu", "hermite"])
def test_gradients_are_finite_for_huge_inputs_in_half_precision(init, dtype, outside):
    layer = Polynomial(5, 4, domain=(-4, 4), outside=outside, init=init)
    x = torch.tensor([-1e4, -4.0, 0.0, 1e4], dtype=dtype).expand(3, 4).clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    y.backward(torch.ones_like(y))
    assert layer.coef.grad is not None
    assert x.grad is not None
    assert bool(x.grad.isfinite().all() and layer.coef.grad.isfinite().all())
    if init != "hermite":  # its slope of 17 takes 1e4 beyond float16
        assert bool(y.isfinite().all())


def test_nan_stays_nan():
    layer = Polynomial(3, domain=DOMAIN)
    y = layer(torch.tensor([math.nan, 0.0]))
    assert y.isnan().tolist() == [True, False]


def test_gradcheck():
    layer = drawn(Polynomial(3, 2, domain=DOMAIN, dtype=F64))
    x = torch.randn(3, 2, 2, dtype=F64, requires_grad=True)

    def function(x: Tensor, coef: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"coef": coef}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.coef))
    assert torch.autograd.gradgradcheck(function, (x, layer.coef))


def test_the_slope_continues_and_an_end_counts_as_inside():
    layer = drawn(Polynomial(5, domain=DOMAIN, dtype=F64))
    for end in DOMAIN:
        x = torch.tensor([end - 1e-9, end, end + 1e-9], dtype=F64, requires_grad=True)
        (slopes,) = torch.autograd.grad(layer(x).sum(), x)
        torch.testing.assert_close(slopes, slopes[1].expand(3), rtol=1e-7, atol=1e-7)
    clamp = drawn(Polynomial(5, domain=DOMAIN, outside="clamp", dtype=F64))
    x = torch.tensor(DOMAIN, dtype=F64, requires_grad=True)
    (slopes,) = torch.autograd.grad(clamp(x).sum(), x)
    assert bool((slopes != 0).all())


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"degree": -1}, ValueError, "degree=-1 is too small; pass at least 1"),
        ({"degree": -1, "init": "silu"}, ValueError, "degree=-1 is too small; pass at least 0"),
        ({"degree": 2.0}, TypeError, r"degree=2\.0 is float; pass an int"),
        ({"degree": True}, TypeError, "degree=True is bool"),
        ({"num_channels": 0}, ValueError, "num_channels=0 is too small"),
        ({"num_channels": 6, "num_groups": 4}, ValueError, "num_groups=4 does not divide num_channels=6"),
        ({"num_groups": 2}, ValueError, "num_groups=2 does not divide num_channels=1"),
        ({"channel_dim": 1.0}, TypeError, r"channel_dim=1\.0 is float; pass an int"),
        ({"basis": "fourier"}, ValueError, "basis='fourier' is unknown; pass one of 'power'"),
        ({"domain": (1, 1)}, ValueError, r"domain=\(1\.0, 1\.0\) is not an interval"),
        ({"domain": 3}, TypeError, "domain=3 is not a pair of numbers"),
        ({"domain": (-1, math.inf)}, ValueError, "is not an interval; pass finite bounds"),
        ({"outside": "wrap"}, ValueError, "outside='wrap' is unknown; pass one of 'linear', 'clamp', 'extend'"),
        ({"domain": None}, ValueError, r"domain=None is no interval, and outside='linear' needs one; pass domain="),
        ({"impl": "cuda"}, ValueError, "impl='cuda' is unknown"),
        ({"init": "silo"}, ValueError, "init='silo' is unknown; pass 'identity', 'hermite', the name of"),
        ({"init": 3}, ValueError, "init=3 is unknown"),
        ({"init": "linear"}, ValueError, "init='linear' could not be called with one tensor"),
        ({"init": "softmax"}, ValueError, "init='softmax' gave other values for a part of the same x"),
        ({"init": "dropout"}, ValueError, "init='dropout' gave other values for a part of the same x"),
        ({"init": torch.log}, ValueError, "init=log is not finite everywhere on the domain"),
        ({"init": torch.sum}, ValueError, r"init=sum returned shape \(\) for a tensor of shape"),
        ({"init": nn.SiLU}, ValueError, "init=SiLU"),
        ({"init": "hermite"}, ValueError, r"domain=\(-1\.0, 1\.0\) does not cover \(-4, 4\); pass domain=\(-4, 4\)"),
        ({"init": "silu", "domain": None, "outside": "extend"}, ValueError, "init='silu' is fitted on the domain"),
        ({"init_slope": True}, ValueError, "init_slope=True is for functions that are fitted"),
        ({"degree": 0}, ValueError, "init='identity' needs degree 1 or more"),
    ],
)
def test_arguments_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        Polynomial(**{"degree": 3, **arguments})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 5), ValueError, r"x has shape \(2, 5\), with 5 channels on axis 1, and the layer is for 6"),
        (torch.zeros(6), ValueError, r"x has shape \(6,\), without an axis 1, which is to hold the 6 channels"),
        (torch.zeros(2, 6, dtype=torch.int64), TypeError, r"x is torch\.int64; .* pass x\.to\(torch\.float32\)"),
        (torch.zeros(2, 6, dtype=torch.complex64), TypeError, r"x is torch\.complex64"),
        (
            torch.zeros(2, 6, dtype=F64),
            TypeError,
            r"parameters of the layer are torch\.float32; .*layer\.to\(torch\.float64",
        ),
        ([[0.0] * 6], TypeError, r"x is list; pass a torch\.Tensor"),
        (
            torch.zeros(2, 6, device="meta"),
            ValueError,
            r"x is on meta and the parameters .* are on cpu; pass x\.to\('cpu'",
        ),
        (torch.zeros(2, 6).to_sparse(), TypeError, "x has the layout"),
    ],
)
def test_inputs_that_are_refused(x, error, message):
    with pytest.raises(error, match=message) as raised:
        Polynomial(3, 6)(x)
    assert "\n" not in str(raised.value)


def test_a_wide_parameter_does_not_go_with_a_narrow_input():
    with pytest.raises(
        TypeError, match=r"pass x\.to\(torch\.float64\), or convert the layer: layer\.to\(torch\.float32"
    ):
        Polynomial(3, dtype=F64)(torch.zeros(3))
    with pytest.raises(
        TypeError, match=r"layer\.to\(torch\.float32\) \(torch\.float32 parameters take torch\.float16 in"
    ):
        Polynomial(3, dtype=F64)(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(TypeError, match=r"x is torch\.float32 and the parameters of the layer are torch\.float16"):
        Polynomial(3, dtype=torch.float16)(torch.zeros(3))


def test_text():
    assert repr(Polynomial(3)) == "Polynomial(degree=3)"
    layer = Polynomial(
        7, 8, num_groups=4, channel_dim=-1, basis="legendre", domain=(-4, 4), outside="clamp", init="gelu", impl="torch"
    )
    text = repr(layer)
    assert text == (
        "Polynomial(degree=7, num_channels=8, num_groups=4, channel_dim=-1, basis='legendre', domain=(-4.0, 4.0),"
        f" outside='clamp', init='gelu', impl='torch', approximation_error={layer.approximation_error:.3g})"
    )
    assert "init=" in repr(Polynomial(3, init=torch.tanh))
    again = eval(repr(Polynomial(3, 2, outside="extend", domain=None)), {"Polynomial": polyfit.nn.Polynomial})
    assert repr(again) == "Polynomial(degree=3, num_channels=2, domain=None, outside='extend')"
