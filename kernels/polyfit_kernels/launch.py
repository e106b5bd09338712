"""Launch policy as data: tile, warps and programs by pure functions of sizes; no tensor, no device call."""

from dataclasses import dataclass

LOAD_BYTES = 16  # what one thread loads at once: a 128-bit load
LARGEST_ROWS = 256
# Tiles that one program may add up in float32. A thread's sum is then at most 64 partial sums of 4 samples long,
# whatever n is; everything above is float64.
LONGEST_RUN = 64
# 8 programs of 256 threads fill a multiprocessor (2048 threads) when a thread takes 32 registers.
PROGRAMS_PER_PROCESSOR = 8
# Values of the per-sample gradient of an operand that all series share, held at a time while they are summed over
# series.
SHARED_BUFFER = 1 << 26
# Programs of one launch. HIP counts threads in 32 bits, which 2^24 programs of 256 exceed; CUDA would take 2^31 - 1.
LARGEST_GRID = 1 << 23
NVIDIA_WARP = 32
# Rows where float64 is made of narrower loads, at 2 registers a number: smaller programs fit a multiprocessor to within
# 4 warps. (With 256, ptxas spills 2 registers to fit one more program of the objective at degree 5 on sm_80.)
WIDENING_ROWS = 128
# Up to this degree of moments a thread holds 16 samples (8 with weights) at a time; 4 above it, or sm_100 spills from
# degree 13 on.
LARGEST_LOW_DEGREE = 10
# Center, scale and shift that a kernel is given where there is no domain; it does not look at them.
IDENTITY = (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class LaunchConfig:
    """How a kernel is cut.

    Attributes:
        rows: rows of a tile, one per thread.
        columns: contiguous samples that a thread loads at once.
        num_warps: of a program.
        programs: per series; program p takes tiles p, p + programs, ...
        groups: how many times a thread loads for one tile.
    """

    rows: int
    columns: int
    num_warps: int
    programs: int
    groups: int = 1

    @property
    def tile(self) -> int:
        """Samples in a tile."""
        return self.groups * self.rows * self.columns


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def choose(
    n_samples: int,
    n_series: int,
    itemsize: int,
    n_processors: int,
    warp_size: int = 32,
    n_sums: int = 1,
    *,
    widens: bool = False,
) -> LaunchConfig:
    """The cut for n_samples of each of n_series, of elements of itemsize bytes.

    `widens` is whether float64 is computed from narrower elements.

    Short series get a tile of their size. Long ones get whole waves of programs, as many as keep `LONGEST_RUN`; one
    program where there are more sums than `sums.store_totals` can hand over.
    """
    columns = LOAD_BYTES // itemsize
    largest = WIDENING_ROWS if widens else LARGEST_ROWS
    rows = min(largest, max(32, _next_power_of_2(_ceil_div(max(n_samples, 1), columns))))
    # gfx942 loses its wide loads with a wave for each 32 rows; with one for each 64 it keeps them.
    num_warps = max(1, rows // warp_size)
    tiles = _ceil_div(n_samples, rows * columns)
    wave = max(1, n_processors * PROGRAMS_PER_PROCESSOR // max(n_series, 1))
    waves = max(1, _ceil_div(_ceil_div(tiles, LONGEST_RUN), wave))
    programs = 1 if warp_size > NVIDIA_WARP and n_sums > warp_size else max(1, min(tiles, waves * wave))
    return LaunchConfig(rows, columns, num_warps, programs)


def choose_moments(
    n_samples: int,
    n_series: int,
    itemsize: int,
    n_processors: int,
    warp_size: int,
    degree: int,
    *,
    weighted: bool,
) -> LaunchConfig:
    """The cut of moments. Their sums are float64, so that a program may take any number of tiles.

    A thread holds 16 samples at a time, all loaded before it computes: the more, the fewer sums are converted to
    float64. With weights it holds 8, since they leave half as much time more, and a third load takes registers.
    float64 is not converted, and a number takes 2 registers: a quarter.

    There are as many programs as a multiprocessor holds at once, or whole waves of them: 4 of at most 128 registers a
    thread (degree 7 on sm_90), 3 of at most 168 (degree 10) or 2. No more, as the last program reads the sums of all.
    """
    held = 4 if degree > LARGEST_LOW_DEGREE else 8 if weighted else 16
    held = max(2, held // 4) if itemsize == 8 else held
    columns = min(held, LOAD_BYTES // itemsize)
    rows = min(WIDENING_ROWS, max(warp_size, _next_power_of_2(_ceil_div(max(n_samples, 1), columns))))
    groups = held // columns if n_samples >= held * rows else 1
    tiles = _ceil_div(n_samples, groups * rows * columns)
    per_processor = 4 if degree <= 7 else 6
    wave = max(1, n_processors * per_processor // max(n_series, 1))
    programs = 1 if warp_size > NVIDIA_WARP and 3 * degree + 3 > warp_size else max(1, min(tiles, wave))
    return LaunchConfig(rows, columns, rows // warp_size, programs, groups)


def series_per_launch(n_series: int, n_samples: int, itemsize: int, *, shared: bool) -> int:
    """Series that one launch takes: what the grid can count and, with `shared`, what the buffer holds.

    `shared` is whether a per-sample gradient of an operand that series share is wanted.
    """
    # `choose` gives a series at most as many programs, and besides not more than fill the device once.
    programs = max(1, _ceil_div(n_samples, LONGEST_RUN * LARGEST_ROWS * (LOAD_BYTES // itemsize)))
    most = LARGEST_GRID // programs
    if shared:
        most = min(most, SHARED_BUFFER // max(n_samples, 1))
    return max(1, min(n_series, most))


# --- loops over epochs ---

REGISTERS = 65536  # of a multiprocessor of NVIDIA's

# Samples of a thread: a kernel for each of these, so that few columns have to be masked.
_COLUMNS = (1, 2, 3, 4, 6, 8, 12, 16)
# Of 4 warps each multiprocessor scheduler has one: more would only add shuffles, which a multiprocessor makes for one
# warp at a time, to the reduction of an epoch.
_MOST_COLUMNS = {1: 8, 4: 16, 8: 16, 16: 16}  # by warps


@dataclass(frozen=True)
class ResidentConfig:
    """How a program that keeps its data in registers is cut.

    Attributes:
        rows: threads.
        columns: samples that each of them holds.
        full_columns: of these columns, so many are samples all over.
        num_warps: of the program.
        registers: that a thread may take, or None for the compiler's choice. (Left to itself ptxas spilled 8 registers
            of a loss with logarithms to get from 168 to 128, where one program is all that a multiprocessor has.)
    """

    rows: int
    columns: int
    full_columns: int
    num_warps: int
    registers: int | None


def choose_resident(n_samples: int, warp_size: int = 32) -> ResidentConfig:
    """The cut of a program for n_samples: one warp, which needs no barrier, for the shortest series."""
    num_warps = next(warps for warps, most in _MOST_COLUMNS.items() if n_samples <= most * warps * warp_size)
    rows = num_warps * warp_size
    needed = _ceil_div(max(n_samples, 1), rows)
    place = next(i for i, columns in enumerate(_COLUMNS) if columns >= needed)
    full = _COLUMNS[place - 1] if place else 0
    is_several = num_warps > 1 and warp_size == NVIDIA_WARP
    registers = min(255, REGISTERS // rows) if is_several else None
    return ResidentConfig(rows, _COLUMNS[place], full, num_warps, registers)


def largest_resident(degree: int, itemsize: int, *, weighted: bool) -> int:
    """The most samples of a series that a program holds in its registers; 0 where it can hold none.

    Beside its samples a thread holds a sum and a coefficient for each degree, and what a rule remembers of it: of 512
    threads each has 128 registers, of 256 or fewer 255. In float64 each of them takes two.
    """
    is_wide = itemsize == 8
    if degree > (LARGEST_WIDE_RESIDENT_DEGREE if is_wide else LARGEST_RESIDENT_DEGREE):
        return 0
    up_to_10, above = (4096, 1024) if is_wide else (8192, 4096)
    most = up_to_10 if degree <= 10 else above
    return most // 2 if weighted else most


# Above it, sums, coefficients and the state of a rule fill the registers; the second is that of float64.
LARGEST_RESIDENT_DEGREE, LARGEST_WIDE_RESIDENT_DEGREE = 20, 15


@dataclass(frozen=True)
class DescentConfig:
    """How descent on quadratics is cut: a lane a series.

    Attributes:
        block: series of a program.
        num_warps: of it.
    """

    block: int
    num_warps: int


def choose_descent(n_series: int, warp_size: int = 32) -> DescentConfig:
    """One warp a program: lanes need nothing of one another, and few series spread over many multiprocessors."""
    return DescentConfig(min(warp_size, _next_power_of_2(max(n_series, 1))), 1)


# The Hessian of a lane lies in its registers, 2 for each of (d + 1)(d + 2) / 2 numbers. At degree 6 a rule that
# remembers three vectors takes 254 of 255; from 7 on it would spill.
LARGEST_DESCENT_DEGREE = 6
