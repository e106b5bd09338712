"""Launch policy: what must hold for any sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")
from polyfit_kernels import launch


@given(
    n_samples=st.one_of(st.integers(0, 5000), st.integers(0, 2**40)),
    n_series=st.integers(1, 10**6),
    itemsize=st.sampled_from([2, 4, 8]),
    processors=st.integers(1, 304),
    warp=st.sampled_from([32, 64]),
)
def test_every_sample_has_a_place_and_no_sum_is_long(n_samples, n_series, itemsize, processors, warp):
    config = launch.choose(n_samples, n_series, itemsize, processors, warp)
    tiles = -(-n_samples // config.tile)
    assert 1 <= config.programs <= max(tiles, 1)
    assert -(-tiles // config.programs) <= launch.LONGEST_RUN
    assert config.columns * itemsize == launch.LOAD_BYTES
    assert config.rows & (config.rows - 1) == 0
    assert config.rows <= launch.LARGEST_ROWS
    assert config.num_warps >= 1
    # One row a thread where a warp has 32 lanes: adding up the columns then stays inside the thread.
    assert config.rows == config.num_warps * warp or (config.num_warps == 1 and config.rows <= warp)


@given(
    n_samples=st.one_of(st.integers(0, 5000), st.integers(0, 2**36)),
    n_series=st.one_of(st.integers(1, 5000), st.integers(1, 2**33)),
    itemsize=st.sampled_from([2, 4, 8]),
    processors=st.integers(1, 304),
    shared=st.booleans(),
)
def test_no_launch_has_more_programs_than_a_grid(n_samples, n_series, itemsize, processors, shared):
    series = launch.series_per_launch(n_series, n_samples, itemsize, shared=shared)
    assert 1 <= series <= n_series
    programs = series * launch.choose(n_samples, series, itemsize, processors).programs
    assert programs < 2 * launch.LARGEST_GRID
    # HIP's limit, and a fortiori CUDA's.
    assert programs * launch.LARGEST_ROWS < 2**32
    if shared:
        assert series == 1 or series * n_samples <= launch.SHARED_BUFFER


def test_ten_million_short_series_take_two_launches():
    assert launch.series_per_launch(10**7, 30, 4, shared=False) == launch.LARGEST_GRID > 10**7 / 2


def test_a_large_series_fills_whole_waves():
    config = launch.choose(2**28, 1, 4, 132)
    assert config.programs % (132 * launch.PROGRAMS_PER_PROCESSOR) == 0


def test_short_series_get_a_tile_of_their_size():
    assert launch.choose(64, 1000, 4, 132).tile == 128
    assert launch.choose(2000, 1, 4, 132).programs == 2


def test_more_sums_than_a_wave_of_amds_stores_stay_in_one_program():
    assert launch.choose(10**6, 1, 4, 304, 64, n_sums=64).programs > 1
    assert launch.choose(10**6, 1, 4, 304, 64, n_sums=65).programs == 1
    assert launch.choose(10**6, 1, 4, 132, 32, n_sums=65).programs > 1
