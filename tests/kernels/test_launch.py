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


def test_a_large_series_fills_whole_waves():
    config = launch.choose(2**28, 1, 4, 132)
    assert config.programs % (132 * launch.PROGRAMS_PER_PROCESSOR) == 0


def test_short_series_get_a_tile_of_their_size():
    assert launch.choose(64, 1000, 4, 132).tile == 128
    assert launch.choose(2000, 1, 4, 132).programs == 2
