"""How the products of `kan` are cut: what fits a device, and what covers a result."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("triton")
from polyfit_kernels import kan_launch
from polyfit_kernels.kan_launch import DEFAULT, Tile

# Multiprocessors, matrix units and shared memory: A100, RTX 4090, H100, B200, RTX 5090, MI300.
DEVICES: dict[str, tuple[int, kan_launch.Units, int]] = {
    "sm_80": (108, "mma", 163),
    "sm_89": (128, "mma", 99),
    "sm_90": (132, "wgmma", 227),
    "sm_100": (148, "tcgen05", 227),
    "sm_120": (170, "mma", 99),
    "gfx942": (304, "mfma", 64),
}
KERNELS: tuple[kan_launch.Kernel, ...] = ("forward", "to x", "to coef")


@pytest.mark.parametrize("device", DEVICES)
def test_a_tile_fits_in_shared_memory(device):
    processors, units, kib = DEVICES[device]
    for kernel, degree, itemsize, rows, is_aligned in itertools.product(
        KERNELS, range(1, kan_launch.LARGEST_DEGREE + 1), (2, 4), (1, 100, 4096), (False, True)
    ):
        tile = kan_launch.choose(
            kernel, degree, rows, 1024, itemsize, processors, units, 1024 * kib, DEFAULT, is_aligned=is_aligned
        )
        assert kan_launch.bytes_of_shared(kernel, tile, degree, itemsize, units) <= 1024 * kib
        # Products of matrix units have 16 rows, 8 columns and a depth of 16 at least; those of wgmma 64 rows.
        assert min(tile.rows, tile.columns, tile.depth) >= 16
        assert tile.rows % 64 == 0
        assert tile.num_warps in {4, 8}


def test_what_takes_which_units():
    found = [kan_launch.units_of(capability, 32) for capability in (7, 8, 9, 10, 12)]
    assert found == ["mma", "mma", "wgmma", "tcgen05", "mma"]
    assert kan_launch.units_of(0, 64) == "mfma"


def test_a_small_result_has_smaller_tiles():
    cut = (2, 132, "wgmma", 227 * 1024, DEFAULT)
    assert kan_launch.choose("forward", 4, 8192, 1024, *cut).columns == 128
    few = kan_launch.choose("forward", 4, 100, 1000, *cut)
    assert (few.rows, few.columns) == (64, 32)


def test_no_tile_for_a_larger_degree():
    with pytest.raises(ValueError, match="up to degree 10, and got 11"):
        kan_launch.choose("to x", 11, 100, 100, 2, 132, "wgmma", 227 * 1024, DEFAULT)


@pytest.mark.parametrize("n_rows", [1, 16, 511, 512, 513, 4096, 10**6])
@pytest.mark.parametrize(("n_coef", "n_tiles"), [(4, 1), (4 * 256 * 256, 16), (4 * 1024 * 1024, 128), (2**26, 4096)])
def test_parts_cover_the_batch(n_coef, n_tiles, n_rows):
    tile = Tile(64, 64, 32, 8, 3)
    rows = kan_launch.parts_of_batch(n_rows, n_coef, n_tiles, tile, 132, DEFAULT)
    n_parts = -(-n_rows // rows)
    assert rows % tile.depth == 0
    assert n_parts * rows >= n_rows > (n_parts - 1) * rows
    assert n_parts == 1 or n_parts * n_coef <= DEFAULT.buffer
    assert n_parts <= -(-2 * 132 // n_tiles)


@pytest.mark.parametrize("largest_grid", [1, 3, 7, 1000])
def test_launches_cover_the_rows(largest_grid):
    tile = Tile(16, 32, 16, 4, 2)
    parts = list(kan_launch.parts(1000, 70, tile, largest_grid))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(1000))
    assert all(tile.grid(part.stop - part.start, 70) <= max(largest_grid, 3) for part in parts)
