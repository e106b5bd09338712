"""How a launch is cut: tiles, warps and programs, by pure functions of sizes and of a `Policy`.

There is no tensor and no call of a device here. A launcher passes the policy in force, `current()`, to the function
that cuts its launch. `using` sets another policy for a block of code: for tests, and to sweep policies on a GPU::

    with launch.using(dataclasses.replace(launch.current(), programs_per_processor=4)):
        objective(...)

The policy is a context variable. A thread that autograd starts for a backward pass on a GPU sees the defaults.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from polyfit_kernels import kan_launch

LOAD_BYTES = 16  # one thread loads so many at once: a 128-bit load
NVIDIA_WARP = 32
REGISTERS = 65536  # of a multiprocessor on NVIDIA GPUs
REGISTERS_PER_THREAD = 255  # at most, on NVIDIA GPUs
# Sums of other programs that a thread of columns reads at once, in each of 4 loads.
COLUMN_SUMS_OF_A_THREAD = 8
# Center, scale and shift for a kernel without a domain. The kernel does not use them.
IDENTITY = (0.0, 1.0, 0.0)

# The largest degree of `descent`. The Hessian of a lane lies in its registers, 2 for each of (d + 1)(d + 2) / 2
# numbers. At degree 6 the rule with three memory vectors takes 254 of 255 registers; at 7 it spills 60.
LARGEST_DESCENT_DEGREE = 6
# The largest degrees of `resident` in float32 and float64. Above them the sums, the coefficients and the memory of a
# rule fill the registers. `make codegen-full` compiles both.
LARGEST_RESIDENT_DEGREE, LARGEST_WIDE_RESIDENT_DEGREE = 20, 15


@dataclass(frozen=True)
class Policy:
    """The numbers that decide how launches are cut. They change no result beyond its rounding.

    Registers and spills are those of compiled code with Triton 3.7.1. Times are of one H100 with Triton 3.6.0, 2^28
    samples of float32 (kernels/README.md).

    Attributes:
        rows: the most rows of a tile, one per thread. 512 take as long up to degree 5, 128 take 3 % longer up to degree
            10. At degree 20, 128 and 512 have 0.89 and 0.91 of the bytes a second of a copy, 256 have 0.98.
        widening_rows: the same for moments and where float64 is computed from narrower operands. A number takes 2
            registers there, and small programs waste fewer: they fill a multiprocessor to within 4 warps. With 256 rows
            ptxas spills 2 registers of the objective at degree 5 on sm_80, to fit one more program.
        programs_per_processor: programs of a long series for each multiprocessor. 8 programs of 256 threads are the
            2048 threads of a multiprocessor, which fit where a thread takes 32 registers. 4 and 16 take as long,
            within 1 %.
        longest_run: the most tiles that one program adds up in float32. The sum of a thread is then at most 64 sums of
            4 samples, for any number of samples; all sums above it are float64. The error is at most 28 half ulps
            (tests/kernels/test_digits.py). 256 take as long at degree 5; 512 take 2 % less at degree 20.
        largest_grid: programs of one launch. HIP counts threads in 32 bits, which 2^24 programs of 256 threads exceed.
            CUDA would take 2^31 - 1 programs.
        shared_buffer: the most values of the per-sample gradient of an operand that all series share. The buffer holds
            the gradients of some series at a time, which are then summed over the series. 2^26 values of float32 are
            256 MiB. With 2^24 values a launch of 64 series of 2^20 samples takes 15 % longer, with 2^28 as long.
        low_degree: the degree up to which the first of `loads` and of `power_block` is taken.
        loads: loads of a thread for each operand of objective, up to `low_degree` and above. All are done before the
            first is used. With 2, objective has 0.92 of the copy at degree 20, with 1 it has 0.79; at degree 5 both
            have 1.02.
        power_block: powers of t that objective keeps for the gradient to coef, up to `low_degree` and above. 1 keeps
            none. With 2 loads at degree 20, 4 powers give 0.98 of the copy, 2 give 0.95 and 8 give 0.97.
        moments_samples: samples that a thread holds in moments, without weights and with them. All are loaded before
            the first is used, and each sum over them is converted to float64 once. With weights, 8 and 16 take as long
            at degree 5.
        moments_samples_above: the same above `moments_degrees`.
        moments_degrees: the largest degrees with `moments_samples`: without weights on NVIDIA GPUs of compute
            capability 8 and 9, without weights on others, and with weights. Above them registers spill: with 16 samples
            on sm_100 and gfx942 at degree 15, on sm_90 at degree 24. At degree 20, 16 samples have 0.53 of the copy, 8
            have 0.45, and 4 have 0.32.
        moments_programs: programs of moments for each multiprocessor, up to degree 7, up to 10, and above. So many fit
            with Triton 3.7.1. At degree 10, 3 programs have 0.92 of the copy and 4 have 0.66. At degree 8, 3 have 0.97
            and 4 have 1.00 (with Triton 3.6.0).
        series_samples: about as many samples of a short series lie in one thread, if the series of a launch fill the
            device. A program then has several series. With 0 each series has a program of its own. A million series of
            64 samples at degree 3 have 0.89 of the copy with 8 and 0.88 with 16 (objective), 0.95 and 0.94 (evaluate),
            0.85 and 0.84 (moments); with a program for each series 0.28, 0.28 and 0.26.
        series_loads: loads of a thread for each operand of such a series, at most. All are done before the first is
            used. With 1, moments have 0.82 of the copy instead of 0.85.
        plane_bytes: runs of so many bytes of one channel get programs of `planes`, shorter ones those of `columns`. To
            be measured, as all numbers of the activation.
        plane_rows: the most rows of a tile of planes. With 256 rows ptxas spills 2 registers at degree 8 in bfloat16
            on sm_80, to fit a third program.
        plane_samples: samples of float32 that a thread of planes loads at once; half as many of float64.
        plane_programs: programs of planes for each multiprocessor. 8 of 128 threads fit with 64 registers.
        columns: the most columns of a tile of `columns`. 64 of float32 are 256 contiguous bytes.
        column_elements: pairs of a degree and the columns of a thread up to it; 1 above. Half of them in float64. Each
            has its own coefficients and sums: with 8, a thread takes 255 registers at degree 8.
        column_loads: loads of a thread of columns for each operand. All are done before the first is used.
        column_programs: programs of columns for each multiprocessor, up to degree 5, up to 10, and above. A thread of a
            backward pass is given the registers with which so many fit: 128, 170 and 255. Left to itself, ptxas spilled
            2 at degree 5 on sm_100 to get to 96.
        column_part: programs of columns whose sums one program adds up, where there are more than twice as many. Those
            of 64 channels at degree 5 are 4 KiB.
        resident_columns: the numbers of samples that a thread of resident may hold. There is a kernel for each, so that
            few columns are masked.
        resident_warps: pairs of the warps of a resident program and the most samples that its threads hold. The first
            pair that fits is taken. One warp needs no barrier. 4 warps are one for each scheduler of a multiprocessor:
            more would only add shuffles to the reduction of an epoch. With 64 and 250 samples one warp takes 0.8 of the
            time of 4; with 2000, 8 warps take as long as 4.
        kan: tiles of the products of kan.
    """

    rows: int = 256
    widening_rows: int = 128
    programs_per_processor: int = 8
    longest_run: int = 64
    largest_grid: int = 1 << 23
    shared_buffer: int = 1 << 26
    low_degree: int = 10
    loads: tuple[int, int] = (1, 2)
    power_block: tuple[int, int] = (1, 4)
    moments_samples: tuple[int, int] = (16, 8)
    moments_samples_above: int = 4
    moments_degrees: tuple[int, int, int] = (20, 12, 10)
    moments_programs: tuple[int, int, int] = (4, 3, 2)
    series_samples: int = 8
    series_loads: int = 4
    plane_bytes: int = 128
    plane_rows: int = 128
    plane_samples: int = 8
    plane_programs: int = 8
    columns: int = 64
    column_elements: tuple[tuple[int, int], ...] = ((12, 4), (24, 2))
    column_loads: int = 2
    column_programs: tuple[int, int, int] = (4, 3, 2)
    column_part: int = 32
    resident_columns: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    resident_warps: tuple[tuple[int, int], ...] = ((1, 8), (4, 16), (8, 16), (16, 16))
    kan: kan_launch.KanPolicy = kan_launch.DEFAULT


DEFAULT = Policy()
_policy: ContextVar[Policy] = ContextVar("polyfit_launch_policy", default=DEFAULT)


def current() -> Policy:
    """The policy in force."""
    return _policy.get()


@contextlib.contextmanager
def using(policy: Policy) -> Iterator[None]:
    """Cut launches by another policy."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


# --- one pass over the data ---


@dataclass(frozen=True)
class LaunchConfig:
    """How a kernel with one pass over the data is cut.

    Attributes:
        rows: rows of a tile, one per thread.
        columns: contiguous samples that a thread loads at once.
        num_warps: warps of a program.
        programs: programs of a series. Program p takes the tiles p, p + programs, ...
        groups: loads of a thread for one tile.
        series: series of a program. Several share the rows of a tile, and each has one program.
    """

    rows: int
    columns: int
    num_warps: int
    programs: int
    groups: int = 1
    series: int = 1

    @property
    def tile(self) -> int:
        """Samples of a series in a tile."""
        return self.groups * self.rows * self.columns // self.series

    def grid(self, n_series: int) -> int:
        """Programs of the launch."""
        return _ceil_div(n_series, self.series) * self.programs


def _choose_short(
    n_samples: int, n_series: int, columns: int, n_processors: int, warp_size: int, policy: Policy
) -> LaunchConfig | None:
    """The cut of short series, several to a program; None if they are not short, or too few to fill the device.

    Few threads for a series leave little to add up across them. 4 threads are enough to read 64 contiguous bytes.
    """
    if policy.series_samples == 0:
        return None
    samples = max(n_samples, 1)
    threads = min(
        _next_power_of_2(_ceil_div(samples, columns)),
        max(4, _next_power_of_2(_ceil_div(samples, policy.series_samples))),
    )
    series = policy.widening_rows // threads
    if series < 2 or n_series < 2 * n_processors * series:
        return None
    groups = min(policy.series_loads, _next_power_of_2(_ceil_div(samples, threads * columns)))
    return LaunchConfig(policy.widening_rows, columns, policy.widening_rows // warp_size, 1, groups, series)


@functools.lru_cache
def choose(
    n_samples: int,
    n_series: int,
    itemsize: int,
    n_processors: int,
    warp_size: int = NVIDIA_WARP,
    n_sums: int = 1,
    *,
    widens: bool = False,
    loads: int = 1,
    policy: Policy = DEFAULT,
) -> LaunchConfig:
    """The cut of objective, evaluate and its backward pass.

    A short series gets one tile of its size. A long one gets whole waves of programs, as many as keep
    `Policy.longest_run`. A series with more sums than `sums.store_totals` can pass between programs gets one program.

    Args:
        n_samples: samples of a series.
        n_series: series of the launch.
        itemsize: bytes of an element.
        n_processors: multiprocessors of the device.
        warp_size: threads of a warp.
        n_sums: sums over samples that a series has.
        widens: whether float64 is computed from narrower elements.
        loads: loads of a thread for each operand, if the series is long.
        policy: the numbers to cut by.
    """
    columns = LOAD_BYTES // itemsize
    if short := _choose_short(n_samples, n_series, columns, n_processors, warp_size, policy):
        return short
    largest = policy.widening_rows if widens else policy.rows
    rows = min(largest, max(32, _next_power_of_2(_ceil_div(max(n_samples, 1), columns))))
    # A warp for each 64 rows on gfx942: with one for each 32, the loads are narrower than 128 bits.
    num_warps = max(1, rows // warp_size)
    groups = loads if n_samples >= loads * rows * columns else 1
    tiles = _ceil_div(n_samples, groups * rows * columns)
    wave = max(1, n_processors * policy.programs_per_processor // max(n_series, 1))
    waves = max(1, _ceil_div(_ceil_div(tiles * groups, policy.longest_run), wave))
    programs = 1 if warp_size > NVIDIA_WARP and n_sums > warp_size else max(1, min(tiles, waves * wave))
    return LaunchConfig(rows, columns, num_warps, programs, groups)


@functools.lru_cache
def choose_moments(
    n_samples: int,
    n_series: int,
    itemsize: int,
    n_processors: int,
    warp_size: int,
    degree: int,
    *,
    weighted: bool,
    capability: int = 0,
    policy: Policy = DEFAULT,
) -> LaunchConfig:
    """The cut of moments, whose sums are float64: a program may take any number of tiles.

    A thread holds `Policy.moments_samples`. A quarter of them if they are float64: these are not converted, and each
    takes 2 registers. There are `Policy.moments_programs` for each multiprocessor. `capability` is the major compute
    capability of an NVIDIA GPU, 0 for others.
    """
    largest = policy.moments_degrees[2 if weighted else 0 if capability in {8, 9} else 1]
    held = policy.moments_samples[weighted] if degree <= largest else policy.moments_samples_above
    held = max(2, held // 4) if itemsize == 8 else held
    columns = min(held, LOAD_BYTES // itemsize)
    if short := _choose_short(n_samples, n_series, columns, n_processors, warp_size, policy):
        return dataclasses.replace(short, groups=min(short.groups, held // columns))
    rows = min(policy.widening_rows, max(warp_size, _next_power_of_2(_ceil_div(max(n_samples, 1), columns))))
    groups = held // columns if n_samples >= held * rows else 1
    tiles = _ceil_div(n_samples, groups * rows * columns)
    wave = max(1, n_processors * policy.moments_programs[(degree > 7) + (degree > 10)] // max(n_series, 1))
    programs = 1 if warp_size > NVIDIA_WARP and 3 * degree + 3 > warp_size else max(1, min(tiles, wave))
    return LaunchConfig(rows, columns, rows // warp_size, programs, groups)


# --- the activation ---


@functools.lru_cache
def choose_planes(
    n_samples: int,
    n_groups: int,
    vector: int,
    itemsize: int,
    n_processors: int,
    warp_size: int,
    n_sums: int,
    *,
    policy: Policy = DEFAULT,
) -> LaunchConfig:
    """The cut of the activation on large planes: programs take a part of the samples of one channel each.

    Args:
        n_samples: samples of a channel.
        n_groups: channels of the launch.
        vector: samples that a thread loads at once.
        itemsize: bytes of an element.
        n_processors: multiprocessors of the device.
        warp_size: threads of a warp.
        n_sums: sums over samples that a channel has.
        policy: the numbers to cut by.
    """
    vectors = max(1, _ceil_div(n_samples, vector))
    held = max(1, policy.plane_samples // (2 if itemsize == 8 else 1) // vector)
    rows = min(policy.plane_rows, max(warp_size, _next_power_of_2(_ceil_div(vectors, held))))
    groups = min(held, _next_power_of_2(_ceil_div(vectors, rows)))
    tiles = _ceil_div(vectors, groups * rows)
    wave = max(1, n_processors * policy.plane_programs // max(n_groups, 1))
    waves = max(1, _ceil_div(_ceil_div(tiles * groups, policy.longest_run), wave))
    programs = 1 if warp_size > NVIDIA_WARP and n_sums > warp_size else max(1, min(tiles, waves * wave))
    return LaunchConfig(rows, vector, rows // warp_size, programs, groups)


def registers_of_planes(itemsize: int, n_sums: int, warp_size: int) -> int | None:
    """The most registers of a thread in the backward pass of planes, or None for the choice of the compiler.

    Left to itself, ptxas spilled 3 of float64 at degree 5 on sm_80 to get to 80.
    """
    if itemsize < 8 or warp_size > NVIDIA_WARP:
        return None
    return 128 if n_sums <= 9 else REGISTERS_PER_THREAD


@dataclass(frozen=True)
class ColumnsConfig:
    """How the activation on small planes is cut.

    Attributes:
        rows: rows of a group of a tile.
        columns: columns of a tile.
        elements: columns of a thread, which are neighbours.
        inner: samples of a run of a channel, padded to a power of 2.
        num_warps: warps of a program.
        groups: loads of a thread for one tile.
        programs: programs of a block of channels. Program p takes the tiles p, p + programs, ... of its rows.
        part: programs whose sums one of them adds up; 0 if the last program adds up all.
        registers: the most registers of a thread of the backward pass, or None for the choice of the compiler.
    """

    rows: int
    columns: int
    elements: int
    inner: int
    num_warps: int
    groups: int
    programs: int
    part: int
    registers: int | None

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.columns // self.inner

    @property
    def parts(self) -> int:
        """Parts of the programs of a block; 0 for none."""
        return _ceil_div(self.programs, self.part) if self.part else 0


@functools.lru_cache
def choose_columns(
    n_rows: int,
    n_groups: int,
    inner: int,
    itemsize: int,
    n_processors: int,
    warp_size: int,
    degree: int,
    *,
    policy: Policy = DEFAULT,
) -> ColumnsConfig:
    """The cut of the activation on small planes: programs take some neighbouring channels and a part of the rows.

    A column of a thread has one sum for `Policy.longest_run` tiles of 4 rows at most, in float32. A program whose sums
    are stored by several waves of 64 threads could not pass them on (`sums.store_totals`): there it has one.

    Args:
        n_rows: of x, which is (outer, groups, inner).
        n_groups: channels of the launch.
        inner: samples of a run of a channel.
        itemsize: bytes of an element.
        n_processors: multiprocessors of the device.
        warp_size: threads of a warp.
        degree: of the polynomial.
        policy: the numbers to cut by.
    """
    held = next((elements for most, elements in policy.column_elements if degree <= most), 1)
    held = max(1, held // 2) if itemsize == 8 else held
    padded = _next_power_of_2(inner)
    columns = max(padded, min(policy.columns, _next_power_of_2(n_groups * padded)))
    threads = 4 * NVIDIA_WARP if warp_size == NVIDIA_WARP else warp_size
    rows = min(max(1, threads * held // columns), _next_power_of_2(max(n_rows, 1)))
    num_warps = max(1, min(threads, rows * columns // held) // warp_size)
    groups = policy.column_loads if n_rows >= policy.column_loads * rows else 1
    tiles = max(1, _ceil_div(n_rows, groups * rows))
    blocks = max(1, _ceil_div(n_groups * padded, columns))
    resident = policy.column_programs[(degree > 5) + (degree > 10)]
    wave = max(1, n_processors * resident // blocks)
    waves = max(1, _ceil_div(_ceil_div(tiles * groups, 4 * policy.longest_run), wave))
    programs = min(tiles, waves * wave)
    part = policy.column_part if programs > 2 * policy.column_part else 0
    registers = min(REGISTERS_PER_THREAD, REGISTERS // (resident * threads)) if warp_size == NVIDIA_WARP else None
    return ColumnsConfig(rows, columns, held, padded, num_warps, groups, programs, part, registers)


def series_per_launch(n_series: int, n_samples: int, itemsize: int, *, shared: bool, policy: Policy = DEFAULT) -> int:
    """Series of one launch: as many as the grid takes and, with `shared`, as the buffer holds.

    `shared` is whether a per-sample gradient of an operand that series share is wanted.
    """
    # `choose` gives a series at most so many programs, unless all programs together fill the device only once.
    programs = max(1, _ceil_div(n_samples, policy.longest_run * policy.rows * (LOAD_BYTES // itemsize)))
    most = policy.largest_grid // programs
    if shared:
        most = min(most, policy.shared_buffer // max(n_samples, 1))
    return max(1, min(n_series, most))


# --- loops over epochs ---


@dataclass(frozen=True)
class ResidentConfig:
    """How a program that keeps its data in registers is cut.

    Attributes:
        rows: threads of the program.
        columns: samples that each thread holds.
        full_columns: the first columns, which hold a sample in every row.
        num_warps: warps of the program.
        registers: the most registers of a thread, or None for the choice of the compiler. Left to itself, ptxas spilled
            8 registers of a loss with logarithms to get from 168 to 128, although a multiprocessor has one program
            only.
    """

    rows: int
    columns: int
    full_columns: int
    num_warps: int
    registers: int | None


def choose_resident(n_samples: int, warp_size: int = NVIDIA_WARP, *, policy: Policy = DEFAULT) -> ResidentConfig:
    """The cut of a resident program for n_samples.

    Raises:
        ValueError: no program holds so many samples; `largest_resident` tells how many one holds.
    """
    fitting = [warps for warps, most in policy.resident_warps if n_samples <= most * warps * warp_size]
    if not fitting:
        most = max(most * warps * warp_size for warps, most in policy.resident_warps)
        raise ValueError(f"a resident program holds at most {most} samples and got {n_samples}")
    num_warps = fitting[0]
    rows = num_warps * warp_size
    needed = _ceil_div(max(n_samples, 1), rows)
    columns = min(size for size in policy.resident_columns if size >= needed)
    full = max((size for size in policy.resident_columns if size < needed), default=0)
    is_limited = num_warps > 1 and warp_size == NVIDIA_WARP
    registers = min(REGISTERS_PER_THREAD, REGISTERS // rows) if is_limited else None
    return ResidentConfig(rows, columns, full, num_warps, registers)


def largest_resident(degree: int, itemsize: int, *, weighted: bool) -> int:
    """The most samples of a series that a resident program holds in its registers; 0 above the largest degree.

    Beside its samples a thread holds a sum, a coefficient and the memory of a rule for each degree. Each of 512 threads
    has 128 registers, each of 256 threads or fewer has 255. In float64 a number takes two. `make codegen-full` compiles
    the longest series and checks what they spill.
    """
    is_wide = itemsize == 8
    if degree > (LARGEST_WIDE_RESIDENT_DEGREE if is_wide else LARGEST_RESIDENT_DEGREE):
        return 0
    up_to_10, above = (4096, 1024) if is_wide else (8192, 4096)
    most = up_to_10 if degree <= 10 else above
    return most // 2 if weighted else most


@dataclass(frozen=True)
class DescentConfig:
    """How descent on quadratics is cut: a lane for each series.

    Attributes:
        block: series of a program.
        num_warps: warps of a program.
    """

    block: int
    num_warps: int


def choose_descent(n_series: int, warp_size: int = NVIDIA_WARP) -> DescentConfig:
    """One warp for each program: lanes share nothing, and few series spread over many multiprocessors."""
    return DescentConfig(min(warp_size, _next_power_of_2(max(n_series, 1))), 1)
