"""Launch policy: what must hold for any sizes."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")
from polyfit_kernels import evaluate, launch, moments, objective, resident


@given(
    n_samples=st.one_of(st.integers(0, 5000), st.integers(0, 2**40)),
    n_series=st.integers(1, 10**6),
    itemsize=st.sampled_from([2, 4, 8]),
    processors=st.integers(1, 304),
    warp=st.sampled_from([32, 64]),
    widens=st.booleans(),
    loads=st.sampled_from([1, 2, 4]),
)
def test_every_sample_has_a_place_and_no_sum_is_long(n_samples, n_series, itemsize, processors, warp, widens, loads):
    config = launch.choose(n_samples, n_series, itemsize, processors, warp, widens=widens, loads=loads)
    tiles = -(-n_samples // config.tile)
    assert 1 <= config.programs <= max(tiles, 1)
    # A tile of several loads is as many additions to a sum.
    assert config.groups * -(-tiles // config.programs) <= launch.DEFAULT.longest_run
    assert config.columns * itemsize == launch.LOAD_BYTES
    assert config.rows & (config.rows - 1) == 0
    assert config.rows <= launch.DEFAULT.rows
    assert config.num_warps >= 1
    # One row a thread where a warp has 32 lanes: adding up the columns then stays inside the thread.
    assert config.rows == config.num_warps * warp or (config.num_warps == 1 and config.rows <= warp)


@given(
    n_samples=st.one_of(st.integers(0, 5000), st.integers(0, 2**36)),
    n_series=st.one_of(st.integers(1, 5000), st.integers(1, 2**33)),
    itemsize=st.sampled_from([2, 4, 8]),
    processors=st.integers(1, 304),
    shared=st.booleans(),
    widens=st.booleans(),
    degree=st.integers(0, 40),
)
def test_no_launch_has_more_programs_than_a_grid(n_samples, n_series, itemsize, processors, shared, widens, degree):
    series = launch.series_per_launch(n_series, n_samples, itemsize, shared=shared)
    assert 1 <= series <= n_series
    for config in (
        launch.choose(n_samples, series, itemsize, processors, widens=widens),
        launch.choose_moments(n_samples, series, itemsize, processors, 32, degree, weighted=widens),
    ):
        programs = series * config.programs
        assert programs < 3 * launch.DEFAULT.largest_grid  # programs that widen are smaller, and up to twice as many
        # HIP's limit, and a fortiori CUDA's.
        assert programs * config.rows < 2**32
    if shared:
        assert series == 1 or series * n_samples <= launch.DEFAULT.shared_buffer


@given(
    n_samples=st.one_of(st.integers(0, 10_000), st.integers(0, 2**40)),
    n_series=st.integers(1, 10**6),
    itemsize=st.sampled_from([2, 4, 8]),
    processors=st.integers(1, 304),
    warp=st.sampled_from([32, 64]),
    degree=st.integers(0, 40),
    weighted=st.booleans(),
)
def test_moments_have_a_place_for_every_sample(n_samples, n_series, itemsize, processors, warp, degree, weighted):
    config = launch.choose_moments(n_samples, n_series, itemsize, processors, warp, degree, weighted=weighted)
    tiles = -(-n_samples // config.tile)
    assert 1 <= config.programs <= max(tiles, 1)
    # Short series compute few samples that are not there.
    assert config.groups == 1 or n_samples >= config.tile
    assert config.columns * itemsize <= launch.LOAD_BYTES
    assert config.rows == config.num_warps * warp
    assert config.rows & (config.rows - 1) == 0
    # What is added up in the dtype that computes, before it is widened.
    assert config.groups * config.columns <= 16
    assert config.programs == 1 or warp == 32 or 3 * degree + 3 <= 64


def test_what_a_thread_holds_of_moments():
    for degree, weighted, itemsize, capability, held in (
        (10, False, 4, 9, 16),
        (10, True, 4, 9, 8),
        (12, False, 4, 10, 16),
        (11, True, 4, 9, 4),
        (13, False, 4, 8, 16),
        (20, False, 4, 9, 16),
        (13, False, 4, 10, 4),
        (13, False, 4, 0, 4),
        (21, False, 4, 9, 4),
        (10, False, 2, 9, 16),
        (11, True, 2, 9, 4),
        (10, False, 8, 9, 4),
        (10, True, 8, 9, 2),
        (13, False, 8, 10, 2),
    ):
        config = launch.choose_moments(2**20, 1, itemsize, 132, 32, degree, weighted=weighted, capability=capability)
        assert config.groups * config.columns == held


def test_programs_of_moments():
    for degree, programs in ((1, 4), (7, 4), (8, 3), (10, 3), (11, 2), (20, 2)):
        config = launch.choose_moments(2**28, 1, 4, 132, 32, degree, weighted=False, capability=9)
        assert config.programs == 132 * programs


def test_ten_million_short_series_take_two_launches():
    assert launch.series_per_launch(10**7, 30, 4, shared=False) == launch.DEFAULT.largest_grid > 10**7 / 2


def test_a_large_series_fills_whole_waves():
    config = launch.choose(2**28, 1, 4, 132)
    assert config.programs % (132 * launch.DEFAULT.programs_per_processor) == 0


def test_few_short_series_get_a_tile_of_their_size():
    assert launch.choose(64, 1000, 4, 132).tile == 128
    assert launch.choose(2000, 1, 4, 132).programs == 2


@given(
    n_samples=st.integers(0, 3000),
    n_series=st.integers(1, 10**7),
    itemsize=st.sampled_from([2, 4, 8]),
    warp=st.sampled_from([32, 64]),
    samples=st.sampled_from([4, 8, 16, 32]),
    loads=st.sampled_from([1, 2, 4]),
)
def test_short_series_share_a_program_where_enough_are_left(n_samples, n_series, itemsize, warp, samples, loads):
    policy = dataclasses.replace(launch.DEFAULT, series_samples=samples, series_loads=loads)
    for config in (
        launch.choose(n_samples, n_series, itemsize, 132, warp, policy=policy),
        launch.choose_moments(n_samples, n_series, itemsize, 132, warp, 3, weighted=False, policy=policy),
    ):
        assert config.grid(n_series) * config.series >= n_series * config.programs
        if config.series == 1:
            continue
        assert config.programs == 1
        assert config.grid(n_series) >= 2 * 132
        assert config.rows == config.num_warps * warp
        assert config.rows % config.series == 0
        # A thread without samples is one of four at most, or its series has fewer than there are places at a load.
        assert config.rows // config.series <= max(4, 2 * n_samples // min(samples, config.columns) + 2)


def test_short_series_share_programs_if_they_fill_the_device_twice():
    enough = 2 * 132 * 16
    assert launch.choose(64, enough, 4, 132) == launch.LaunchConfig(128, 4, 4, 1, groups=2, series=16)
    assert launch.choose(64, enough - 1, 4, 132) == launch.LaunchConfig(32, 4, 1, 1)
    assert launch.choose(64, enough, 4, 132, policy=dataclasses.replace(launch.DEFAULT, series_samples=0)).series == 1
    assert launch.choose(513, 10**6, 4, 132).series == 1


def test_only_long_series_are_loaded_twice():
    assert launch.choose(2047, 1, 4, 132, loads=2).groups == 1
    assert launch.choose(2048, 1, 4, 132, loads=2).groups == 2


def test_more_sums_than_a_wave_of_amds_stores_stay_in_one_program():
    assert launch.choose(10**6, 1, 4, 304, 64, n_sums=64).programs > 1
    assert launch.choose(10**6, 1, 4, 304, 64, n_sums=65).programs == 1
    assert launch.choose(10**6, 1, 4, 132, 32, n_sums=65).programs > 1


# --- policies ---


@pytest.fixture
def recorded(monkeypatch):
    """`recorded(module, kernel)`: a list with the grid and the constants of each launch, which does not happen."""

    def replace(module, kernel):
        launches = []

        class Recorder:
            def __getitem__(self, grid):
                return lambda *_, **constants: launches.append((*grid, constants))

        monkeypatch.setattr(module, kernel, Recorder())
        return launches

    return replace


def test_every_launcher_is_cut_by_the_policy_in_force(recorded, set_policy):
    x, coef = torch.zeros(2, 3000), torch.zeros(2, 3)
    kernels = {
        "_evaluate_kernel": (evaluate, lambda: evaluate.evaluate(x, coef, None, "power")),
        "_evaluate_backward_kernel": (
            evaluate,
            lambda: evaluate.evaluate_backward(x, x, coef, None, "power", want_x=True, want_coef=True),
        ),
        "_objective_kernel": (
            objective,
            lambda: objective.objective(x, x, coef, None, None, None, "power", "mse", 0.0),
        ),
        "_moments_kernel": (moments, lambda: moments.moments(x, x, None, 2, None)),
        "_resident_kernel": (resident, lambda: train(x, coef)),
    }
    launches = {name: (recorded(module, name), call) for name, (module, call) in kernels.items()}
    for _, call in launches.values():
        call()
    assert {name: len(made) for name, (made, _) in launches.items()} == dict.fromkeys(launches, 1)
    set_policy(rows=32, widening_rows=32, largest_grid=1, resident_warps=((32, 16),))
    for made, call in launches.values():
        made.clear()
        call()
        assert len(made) == 2  # a launch for each series
        assert all(constants["ROWS"] == (1024 if "RULE" in constants else 32) for _, constants in made)


def train(x: torch.Tensor, coef: torch.Tensor) -> None:
    last, table, records = torch.ones(2, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1, 2)
    resident.resident(
        x, x, None, coef, coef[:, None, :0], None, "power", "mse", 0.0, "sgd", (0.0, 0.0, 0.0, 0.0), table, None, 1.0,
        0, last, 1, records, records, None,
    )  # fmt: skip


def test_a_policy_is_in_force_inside_its_block_only():
    other = launch.Policy(rows=64)
    with launch.using(other):
        assert launch.current() is other
        with launch.using(launch.DEFAULT):
            assert launch.current() is launch.DEFAULT
        assert launch.current() is other
    assert launch.current() is launch.DEFAULT
    with pytest.raises(ZeroDivisionError), launch.using(other):
        _ = 1 / 0
    assert launch.current() is launch.DEFAULT


# --- loops over epochs ---

RESIDENT_DEGREES = st.integers(0, launch.LARGEST_RESIDENT_DEGREE)


@given(n_samples=st.integers(0, 8192), warp=st.sampled_from([32, 64]))
def test_a_resident_program_has_a_place_for_every_sample(n_samples, warp):
    config = launch.choose_resident(n_samples, warp)
    assert config.num_warps & (config.num_warps - 1) == 0
    assert config.rows == config.num_warps * warp <= 1024
    assert config.rows * config.columns >= n_samples
    assert 0 <= config.full_columns <= config.columns
    assert config.full_columns * config.rows <= n_samples
    # A column more is at most a third more, and only short series leave more than two of them empty.
    assert config.columns - config.full_columns <= 4
    assert config.rows * config.columns <= max(config.rows, (n_samples + config.rows) * 4 / 3)
    if config.registers is not None:
        assert 64 <= config.registers <= 255
        assert config.registers * config.rows <= launch.REGISTERS
    # Above 128 registers for 512 threads the compiler is bound, or a program would not start.
    assert config.registers is not None or config.num_warps == 1 or warp == 64


@given(
    degree=RESIDENT_DEGREES,
    itemsize=st.sampled_from([2, 4, 8]),
    weighted=st.booleans(),
    warp=st.sampled_from([32, 64]),
)
def test_a_resident_program_takes_the_longest_series_and_its_data_leave_half_of_the_registers(
    degree, itemsize, weighted, warp
):
    n_samples = launch.largest_resident(degree, itemsize, weighted=weighted)
    for size in (1, n_samples // 3, n_samples - 1, n_samples) if n_samples else ():
        config = launch.choose_resident(size, warp)
        held = config.columns * (3 if weighted else 2) * (2 if itemsize == 8 else 1)
        assert 2 * held <= (config.registers or 255)


@given(degree=RESIDENT_DEGREES, itemsize=st.sampled_from([2, 4, 8]), weighted=st.booleans())
def test_what_takes_more_registers_is_held_less(degree, itemsize, weighted):
    held = launch.largest_resident(degree, itemsize, weighted=weighted)
    assert launch.largest_resident(degree, 8, weighted=weighted) <= held
    assert launch.largest_resident(degree, itemsize, weighted=False) == held * (2 if weighted else 1)
    assert launch.largest_resident(degree + 1, itemsize, weighted=weighted) <= held


@pytest.mark.parametrize("weighted", [False, True])
def test_limits_of_a_resident_program(weighted):
    for itemsize, limits in (
        (2, {0: 8192, 10: 8192, 11: 4096, 20: 4096, 21: 0, 40: 0}),
        (4, {0: 8192, 10: 8192, 11: 4096, 20: 4096, 21: 0, 40: 0}),
        (8, {0: 4096, 10: 4096, 11: 1024, 15: 1024, 16: 0, 40: 0}),
    ):
        for degree, most in limits.items():
            assert launch.largest_resident(degree, itemsize, weighted=weighted) == most // (2 if weighted else 1)


@pytest.mark.parametrize(("warp", "most"), [(32, 8192), (64, 16384)])
def test_no_resident_program_is_cut_for_more_than_it_holds(warp, most):
    assert launch.choose_resident(most, warp).rows * launch.choose_resident(most, warp).columns == most
    with pytest.raises(ValueError, match=f"holds at most {most} samples and got {most + 1}"):
        launch.choose_resident(most + 1, warp)


def test_the_shortest_series_take_one_warp():
    assert launch.choose_resident(256) == launch.ResidentConfig(32, 8, 6, 1, None)
    assert launch.choose_resident(257).num_warps == 4
    assert launch.choose_resident(0) == launch.ResidentConfig(32, 1, 0, 1, None)
    assert launch.choose_resident(8192) == launch.ResidentConfig(512, 16, 12, 16, 128)


def test_a_handful_of_resident_kernels_serves_all_lengths():
    for warp, most in ((32, 8192), (64, 16384)):
        configs = {launch.choose_resident(n_samples, warp) for n_samples in range(most + 1)}
        assert len({(config.rows, config.columns) for config in configs}) == len(configs) <= 20


@given(n_series=st.one_of(st.integers(0, 200), st.integers(0, 2**40)), warp=st.sampled_from([32, 64]))
def test_descent_has_a_lane_for_every_series_of_one_warp(n_series, warp):
    config = launch.choose_descent(n_series, warp)
    assert config.num_warps == 1
    assert 1 <= config.block <= warp
    assert config.block & (config.block - 1) == 0
    assert config.block == warp or n_series <= config.block < 2 * max(n_series, 1)
