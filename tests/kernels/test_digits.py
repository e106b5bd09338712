"""How many digits a float32 mean over 2^28 samples keeps: the kernel's order of additions, replayed on the CPU.

Each of 256 rows of a program adds up its columns and then, tile after tile, these sums, in float32; everything above is
float64. So whatever n is, a term passes through at most 3 + `Policy.longest_run` - 1 roundings of float32, each
relative to a partial sum of one thread.
"""

import numpy as np

from polyfit_kernels import launch

N_SAMPLES = 2**28
CONFIG = launch.choose(N_SAMPLES, 1, 4, 132)
TILES = N_SAMPLES // CONFIG.tile
HALF_ULP = 2.0**-24  # the most that one addition in float32 loses, relative to its result
EPS = 2 * HALF_ULP


def _sum_columns(tiles: np.ndarray) -> np.ndarray:
    total = tiles[..., 0]
    for column in range(1, tiles.shape[-1]):
        total = total + tiles[..., column]
    return total


def test_the_cut_is_the_one_described_here():
    assert (CONFIG.rows, CONFIG.columns) == (256, 4)
    assert TILES * CONFIG.tile == N_SAMPLES
    assert -(-TILES // CONFIG.programs) <= launch.DEFAULT.longest_run


def test_random_terms():
    # Roundings of unlike terms have no common sign: over a million threads they average out, and what is left is far
    # below a single eps. (All of one sign, they would be 66 half ulps.)
    generator = np.random.Generator(np.random.SFC64(0))
    sums = np.zeros((CONFIG.programs, CONFIG.rows), np.float32)
    truth = 0.0
    for first in range(0, TILES, CONFIG.programs):
        count = min(CONFIG.programs, TILES - first)
        terms = generator.random((count, CONFIG.rows, CONFIG.columns), np.float32)
        terms *= terms  # as losses are
        sums[:count] += _sum_columns(terms)
        truth += float(terms.sum(dtype=np.float64))
    mean = float(sums.sum(dtype=np.float64)) / N_SAMPLES
    assert abs(mean / (truth / N_SAMPLES) - 1) < EPS


def test_terms_that_are_all_alike():
    # The worst case: between two powers of 2, all additions of one number to a partial sum are rounded the same way. An
    # addition whose result is S loses at most half an ulp of S. With terms t, S = k t for k up to K = 64: half an ulp
    # of it, relative to the whole sum K t, is at most HALF_ULP 2^floor(log2(k t)) / (K t). The sum of these over k is
    # largest, 24.8 HALF_ULP, where K t = 4 / 3 * 2^m. The columns add 3.
    bound = (25 + 3) * HALF_ULP
    terms = np.random.default_rng(0).uniform(1, 2, 100_000).astype(np.float32)  # powers of 2 change nothing
    column_sums = _sum_columns(np.repeat(terms[:, None], CONFIG.columns, 1))
    short, n_long = divmod(TILES, CONFIG.programs)  # n_long programs take a tile more than the others
    total = np.zeros_like(terms)
    for _ in range(short):
        total = total + column_sums
    n_short = CONFIG.programs - n_long
    means = total.astype(np.float64) * n_short
    means += (total + column_sums).astype(np.float64) * n_long
    means *= CONFIG.rows / N_SAMPLES
    errors = np.abs(means / terms.astype(np.float64) - 1)
    assert errors.max() <= bound
