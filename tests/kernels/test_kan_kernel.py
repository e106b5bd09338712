"""The products of `kan` by Triton's interpreter, against float64 by numpy.polynomial."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from kan_oracle import EPS, Layer, assert_within, make_layer, squashed, true_layer
from oracle import NUMPY_CLASSES

pytest.importorskip("triton")
import triton
import triton.language as tl

import polyfit
from polyfit_kernels import kan as kernels
from polyfit_kernels import kan_launch
from polyfit_kernels.kan import kan, kan_backward

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("poison")]

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
SQUASHES = ["tanh", "algebraic", "clamp", None]
# Small tiles in all tables: odd sizes then have several, and the interpreter has less to do.
SMALL_TILES = {units: ((10, kan_launch.Tile(16, 32, 16, 4, 2)),) for units in ("wgmma", "tcgen05", "mma", "mfma")}
SMALL = dataclasses.replace(
    kan_launch.DEFAULT, forward=SMALL_TILES, to_x=SMALL_TILES, to_coef=SMALL_TILES, smallest=16, rows_of_part=16
)


@pytest.fixture
def small_tiles(set_policy: Any) -> None:
    set_policy(kan=SMALL)


def run(layer: Layer, *, want_x: bool = True, want_coef: bool = True) -> dict[str, Any]:
    x, coef, bias, grad, basis, squash = layer
    to_x, to_coef = kan_backward(grad, x, coef, basis, squash, want_x=want_x, want_coef=want_coef)
    return {"y": kan(x, coef, bias, basis, squash), "grad_x": to_x, "grad_coef": to_coef}


def check(layer: Layer, what: str = "") -> None:
    found = run(layer)
    for name, truth in true_layer(layer).items():
        assert_within(found[name], truth, f"{what} {name}")
    assert found["y"].dtype == found["grad_x"].dtype == layer.x.dtype
    assert found["grad_coef"].dtype == torch.float32


@pytest.mark.parametrize("degree", [1, 2, 5, 10])
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_bases_and_degrees(basis, degree):
    check(make_layer(67, 35, 33, degree, basis=basis))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("squash", SQUASHES)
def test_squashes_and_dtypes(squash, dtype):
    check(make_layer(67, 35, 33, 4, squash=squash, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("basis", ["hermite", "laguerre"])
def test_half_types_of_large_terms(basis, dtype):
    check(make_layer(33, 17, 20, 8, basis=basis, dtype=dtype))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("n_rows", [1, 15, 16, 17, 100])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (1, 70), (15, 31), (16, 32), (17, 33), (50, 1)])
def test_sizes_around_tiles(n_in, n_out, n_rows):
    check(make_layer(n_rows, n_in, n_out, 3))


def test_no_rows():
    layer = make_layer(0, 5, 7, 3)
    found = run(layer)
    assert found["y"].shape == (0, 7)
    assert found["grad_x"].shape == (0, 5)
    assert torch.equal(found["grad_coef"], torch.zeros(3, 5, 7))


def test_what_is_not_wanted_is_not_made():
    layer = make_layer(33, 17, 20, 3)
    both = run(layer)
    for wanted in ("x", "coef", None):
        found = run(layer, want_x=wanted == "x", want_coef=wanted == "coef")
        for name in ("x", "coef"):
            part = found[f"grad_{name}"]
            assert part is None if name != wanted else torch.equal(part, both[f"grad_{name}"])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_strides(dtype):
    layer = make_layer(40, 18, 21, 3, dtype=dtype)
    x, coef, bias, grad = layer[:4]
    plain = run(layer)
    strided = layer._replace(
        x=torch.stack([x, x], 2).flatten(1)[:, ::2],
        coef=coef.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        bias=torch.stack([bias, bias], 1)[:, 1],
        grad=grad.t().contiguous().t(),
    )
    for name, found in run(strided).items():
        assert torch.equal(found, plain[name]), name
    ones = layer._replace(grad=torch.ones((), dtype=dtype).expand(grad.shape))
    for name, truth in true_layer(ones).items():
        assert_within(run(ones)[name], truth, name)


def test_a_view_that_is_negated_lazily():
    layer = make_layer(20, 6, 5, 2)
    negated = torch.complex(torch.zeros_like(layer.x), -layer.x).conj().imag
    assert negated.is_neg()
    assert torch.equal(run(layer._replace(x=negated))["y"], run(layer)["y"])


@pytest.mark.usefixtures("small_tiles")
def test_the_same_bits_again_and_for_any_number_of_launches(set_policy):
    layer = make_layer(200, 40, 50, 4, dtype=torch.bfloat16)
    first = run(layer)
    for name, again in run(layer).items():
        assert torch.equal(again, first[name]), name
    set_policy(largest_grid=3, kan=SMALL)
    for name, again in run(layer).items():
        assert torch.equal(again, first[name]), name


def test_parts_of_the_batch_add_up(set_policy):
    layer = make_layer(300, 20, 30, 3)
    truth = true_layer(layer)["grad_coef"]
    for rows, programs in ((16, 64), (128, 2), (1 << 20, 2)):
        set_policy(kan=dataclasses.replace(SMALL, rows_of_part=rows, programs=programs))
        assert_within(run(layer)["grad_coef"], truth, f"{rows} rows a part")


def test_a_nan_stays_in_its_row():
    layer = make_layer(20, 6, 5, 3)
    layer.x[7, 2] = float("nan")
    for squash in SQUASHES:
        found = run(layer._replace(squash=squash))
        assert found["y"][7].isnan().all()
        assert not found["y"][torch.arange(20) != 7].isnan().any()
        assert found["grad_x"].isnan().nonzero().tolist() == [[7, 2]]


def test_infinite_inputs_are_at_the_ends():
    layer = make_layer(6, 2, 3, 4)
    layer.x[:, 0] = torch.tensor([float("inf"), float("-inf"), 1e38, -1e38, 1e20, -1e20])
    for squash in ("tanh", "algebraic", "clamp"):
        at_ends = layer.x.clone()
        at_ends[:, 0] = layer.x[:, 0].sign() * 1e4
        found, truth = (run(layer._replace(x=x, squash=squash)) for x in (layer.x, at_ends))
        torch.testing.assert_close(found["y"], truth["y"], rtol=1e-6, atol=1e-6)
        assert (found["grad_x"][:, 0].abs() < 1e-10).all()


@triton.jit
def _squash_kernel(x_ptr, t_ptr, slope_ptr, size: tl.constexpr, squash: tl.constexpr):
    at = tl.arange(0, size)
    t, slope = kernels._squashed(tl.load(x_ptr + at), squash)  # pyright: ignore[reportGeneralTypeIssues]
    tl.store(t_ptr + at, t)
    tl.store(slope_ptr + at, slope)


@pytest.mark.parametrize("squash", SQUASHES)
def test_squashes_to_the_last_digits(squash):
    sizes = np.concatenate([np.geomspace(1e-30, 40.0, 4000), np.linspace(0.25, 0.35, 96)])
    x = torch.tensor(np.concatenate([-sizes, sizes])[:8192], dtype=torch.float32)
    t, slope = torch.empty_like(x), torch.empty_like(x)
    kernel: Any = _squash_kernel
    kernel[(1,)](x, t, slope, size=8192, squash=squash or "none")
    truth, slope_truth = squashed(x.double().numpy(), squash)
    # Of t: e = exp(-2 |x|) is off by 2 |x| + 1 roundings, at 0.3 as much as 2 of the value; then 1 - e, 1 + e and
    # their quotient, 6 in all. Of its slope: e is off by 2 |x| roundings of its argument, and 5 more.
    assert (np.abs(t.double().numpy() - truth) <= 8 * EPS * np.abs(truth) + 2.0**-149).all()
    allowed = (2 * np.abs(x.double().numpy()) + 8) * EPS if squash == "tanh" else 8 * EPS
    assert (np.abs(slope.double().numpy() - slope_truth) <= allowed * slope_truth + 2.0**-126).all()


def test_degrees_that_are_not_compiled_are_refused():
    with pytest.raises(ValueError, match="up to degree 10, and got 11"):
        run(make_layer(5, 3, 2, 11))


@pytest.mark.parametrize("degree", [4, 11])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layer_runs_them(dtype, degree, monkeypatch):
    launched = []
    launch = kernels._kan_kernel.__class__.__getitem__
    monkeypatch.setattr(
        kernels._kan_kernel.__class__, "__getitem__", lambda kernel, grid: launched.append(grid) or launch(kernel, grid)
    )
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    layer = polyfit.nn.PolynomialKAN(9, 7, degree, impl="triton").to(dtype)
    x = torch.randn(2, 11, 9).to(dtype).requires_grad_()
    y = layer(x)
    y.backward(torch.ones_like(y))
    assert len(launched) == (3 if degree <= kan_launch.LARGEST_DEGREE else 0)
    coef, bias = (part.detach() for part in (layer.coef, layer.bias))
    operands = Layer(x.detach().flatten(0, 1), coef, bias, torch.ones(22, 7, dtype=dtype), "chebyshev", "tanh")
    truth = true_layer(operands)
    assert x.grad is not None
    assert layer.coef.grad is not None
    if degree <= kan_launch.LARGEST_DEGREE:
        assert_within(y.flatten(0, 1), truth["y"], "y")
        assert_within(x.grad.flatten(0, 1), truth["grad_x"], "grad_x")
        assert layer.coef.grad.dtype == dtype
