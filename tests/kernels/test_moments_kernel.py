"""Moments by Triton's interpreter on CPU tensors: float64 truth, eager in the dtype that computes, kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from moments_oracle import assert_no_worse_than_eager, eager_moments, make_data, true_moments
from problems import SHORT_SERIES

pytest.importorskip("triton")
from polyfit_kernels import launch, partials
from polyfit_kernels.moments import moments

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("poison")]

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TILE = launch.choose_moments(10_000, 1, 4, 2, 32, 3, weighted=False).tile
SIZES = [0, 1, 127, 128, 129, 513, TILE - 1, TILE, TILE + 1, 3 * TILE + 7]
MAPPING = (0.75, 0.3125, 0.0625)  # exact in float32; from the data's [-2.25, 3.75] to [-0.875, 1]
# Rows of x, y and weight.
ROWS = {
    "one series": (1, 1, None),
    "weight": (1, 1, 1),
    "own x": (3, 3, 3),
    "shared x": (1, 3, 1),
    "shared x, own weight": (1, 3, 3),
    "own x, shared y": (3, 1, None),
    "own weight": (1, 1, 3),
}


def check(x, y, weight, degree, mapping, offset=0.0) -> None:
    truth = true_moments(x, y, weight, degree, mapping, offset)
    eager = eager_moments(x, y, weight, degree, mapping, offset)
    assert_no_worse_than_eager(moments(x, y, weight, degree, mapping, offset), eager, truth, degree)


@pytest.mark.parametrize("variant", ROWS)
@pytest.mark.parametrize("n_samples", SIZES)
def test_edges_of_a_tile(n_samples, variant):
    data = make_data(n_samples, *ROWS[variant])
    check(*data, 2, MAPPING, 0.5 if n_samples % 2 else 0.0)


@pytest.mark.parametrize("variant", ["one series", "shared x"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 8, 20])
def test_all_degrees_and_dtypes(degree, dtype, variant):
    check(*make_data(133, *ROWS[variant], dtype=dtype), degree, MAPPING, 0.25)


@pytest.mark.parametrize("degree", [1, 2, 11])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_without_a_mapping(dtype, degree):
    x, y, weight = make_data(513, 1, 1, 1, dtype=dtype)
    check(x / 4, y, weight, degree, None)
    check(x / 4, y, None, degree, None)


@pytest.mark.parametrize("n_samples", [1, 129, TILE + 1])
def test_any_strides(n_samples):
    def every_other(tensor):
        return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1).flatten(-2)[..., ::2]

    def transposed(tensor):
        return tensor.mT.contiguous().mT

    def expanded(tensor):
        return tensor[:, :1].expand_as(tensor)

    x, y, weight = make_data(n_samples, 3, 3, 3)
    for first, second in ((every_other, expanded), (transposed, every_other), (expanded, transposed)):
        check(first(x), second(y), first(weight), 4, MAPPING)


def test_numbers_of_samples_and_of_the_constant_are_exact():
    x, y, _ = make_data(TILE + 5, 1, 3, None)
    squares, with_y, of_x = moments(x, torch.ones_like(y), None, 5, MAPPING)
    assert of_x[:, 0].tolist() == squares.tolist() == [TILE + 5] * 3
    torch.testing.assert_close(with_y, of_x[:, :6], rtol=0, atol=1e-7 * TILE)


def check_short_series(data, degree: int) -> None:
    x, y, weight = data
    n_series = max(operand.shape[0] for operand in data if operand is not None)
    config = launch.choose_moments(
        x.shape[1], n_series, x.element_size(), 2, 32, degree, weighted=weight is not None, policy=launch.current()
    )
    assert config.series > 1
    check(x, y, weight, degree, MAPPING, 0.25)


@pytest.mark.usefixtures("small_programs")
@pytest.mark.parametrize("variant", [name for name in ROWS if 3 in ROWS[name]])
@pytest.mark.parametrize(("n_samples", "n_series"), SHORT_SERIES)
def test_a_program_takes_several_short_series(n_samples, n_series, variant):
    rows = (n_series if count == 3 else count for count in ROWS[variant])
    check_short_series(make_data(n_samples, *rows), 2)


@pytest.mark.usefixtures("small_programs")
@pytest.mark.parametrize("degree", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_series_of_all_dtypes(dtype, degree):
    for weighted in (None, 17):
        check_short_series(make_data(64, 17, 17, weighted, dtype=dtype), degree)


def test_more_short_series_than_a_launch_takes(set_policy):
    # The launches have 16, 16 and 8 series. The last one is too small to fill the device: a program for each series.
    set_policy(widening_rows=32, largest_grid=16)
    check_short_series(make_data(64, 40, 40, None), 2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("degree", [7, 10, 12, 13])
def test_degrees_around_the_limits_of_the_policy(degree, weighted):
    check(*make_data(TILE + 5, 1, 1, 1 if weighted else None), degree, MAPPING)


def test_an_offset_costs_no_digits():
    # float32 has multiples of 1/16 at a million: what is left of y is exact.
    x, _, weight = make_data(TILE + 5, 1, 1, 1)
    rest = torch.randint(-40, 40, (2, TILE + 5)) / 16.0
    for offset in (1e6, -1e6):
        with_offset = moments(x, rest + offset, weight, 4, MAPPING, offset)
        for ours, expected in zip(with_offset, moments(x, rest, weight, 4, MAPPING), strict=True):
            assert torch.equal(ours, expected)


def test_an_offset_keeps_the_digits_of_float64():
    x, y, _ = make_data(100, 1, 1, None, dtype=torch.float64)
    check(x, y + 0.1, None, 2, MAPPING, 0.1)


def test_sums_are_float64(set_policy):
    # All terms alike: in float32, 100 additions to one sum would lose up to 40 half ulps of it.
    set_policy(widening_rows=32, moments_samples=(8, 8), moments_programs=(1, 1, 1))
    n_samples = 200 * 256  # 100 tiles for each of 2 programs
    config = launch.choose_moments(n_samples, 1, 4, 2, 32, 1, weighted=False, policy=launch.current())
    assert (config.tile, config.programs) == (256, 2)
    x, y = torch.full((1, 1), 0.3).expand(1, n_samples), torch.full((1, 1), 0.7).expand(1, n_samples)
    squares, with_y, of_x = moments(x, y, None, 1, None)
    t, v = float(x[0, 0]), float(y[0, 0])
    # A term, 7 additions in float32, and twice both where a product is doubled.
    allowed = 16 * 2.0**-24
    assert squares[0].item() == pytest.approx(n_samples * v**2, rel=allowed)
    assert with_y[0].tolist() == pytest.approx([n_samples * v, n_samples * v * t], rel=allowed)
    expected = np.array([1, t, 2 * t * t - 1]) * n_samples
    assert np.abs(of_x[0].numpy() - expected).max() <= allowed * n_samples


def test_samples_that_are_masked_lie_outside_of_a_far_domain():
    # At x = 0, which the mask leaves, t is -1e5 and T_8 overflows.
    t = torch.rand(1, 130) * 2 - 1
    x = 1e5 + torch.round(t * 64) / 64
    check(x, t, None, 8, (1e5, 1.0, 0.0))
    check(x, t, t + 1.5, 8, (1e5, 1.0, 0.0))


def test_the_last_program_of_each_series_adds_up_and_puts_the_tickets_back():
    data = make_data(4 * TILE + 5, *ROWS["own x, shared y"])
    assert launch.choose_moments(4 * TILE + 5, 3, 4, 2, 32, 1, weighted=False).programs == 2  # of several tiles
    check(*data, 1, MAPPING)
    first, second = moments(*data, 1, MAPPING), moments(*data, 1, MAPPING)
    assert all(not tickets.any() for tickets in partials._tickets.values())
    for again, before in zip(second, first, strict=True):
        assert torch.equal(again, before)


@pytest.mark.parametrize("n_series", [0, 5])
def test_series_that_no_single_grid_holds(set_policy, n_series):
    set_policy(largest_grid=2)
    check(*make_data(130, 1, n_series, n_series), 3, MAPPING)


@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("place", [7, TILE])
def test_a_nan_among_the_data_is_not_lost(place, operand):
    data = make_data(TILE + 1, 1, 1, 1)
    data[operand][0, place] = float("nan")
    squares, with_y, of_x = moments(*data, 2, MAPPING)
    assert with_y[0, 1:].isnan().all()
    assert squares.isnan().all() == (operand > 0)
    assert of_x[0, 1:].isnan().all() == (operand != 1)


@pytest.mark.usefixtures("small_programs")
def test_samples_of_weight_zero_are_left_out_of_short_series():
    data: Any = make_data(37, 17, 17, 17)
    x, y, weight = data
    weight[::2, 3] = weight[1::2, 36] = 0.0
    launch_moments: Any = moments
    expected = launch_moments(*data, 3, MAPPING)
    x[::2, 3], y[1::2, 36] = float("nan"), float("inf")
    for ours, clean in zip(launch_moments(*data, 3, MAPPING), expected, strict=True):
        assert clean.isfinite().all()
        assert torch.equal(ours, clean)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of numpy, in which the interpreter computes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_samples_of_weight_zero_are_left_out(value):
    data: Any = make_data(TILE + 9, 1, 1, 1)
    x, y, weight = data
    is_out = torch.zeros(TILE + 9, dtype=torch.bool)
    is_out[[3, 4, TILE, TILE + 8]] = True
    weight[0, is_out] = 0.0  # pyright: ignore[reportOptionalSubscript]
    x[0, [3, TILE]] = y[0, [4, TILE + 8]] = value
    found = moments(x, y, weight, 4, MAPPING)
    clean: Any = [operand[:, ~is_out] for operand in (x, y, weight)]
    arguments: Any = (*clean, 4, MAPPING, 0.0)
    assert_no_worse_than_eager(found, eager_moments(*arguments), true_moments(*arguments), 4)


def test_views_that_are_negated_lazily():
    data: Any = make_data(40, 3, 3, 3)
    negated: Any = [torch.complex(operand, -operand).conj().imag for operand in data]
    assert all(operand.is_neg() for operand in negated)
    launch_moments: Any = moments
    for ours, expected in zip(launch_moments(*negated, 3, MAPPING), launch_moments(*data, 3, MAPPING), strict=True):
        assert torch.equal(ours, expected)
