"""How the products of `kan` are cut into tiles: pure functions of sizes, of the device and of a `KanPolicy`.

A tile is [rows, columns] of a result. A program makes it in steps of `depth` along the dimension that is summed over,
and keeps the operands of `num_stages` steps in shared memory, so that loads run ahead of products. What fits decides:
registers the size of a tile (for the gradients a thread holds a sum for each degree), and shared memory the depth and
the stages.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Kernel = Literal["forward", "to x", "to coef"]
# Kinds of matrix units: wgmma of compute capability 9, tcgen05 of 10, mma.sync of all others, and those of AMD.
Units = Literal["wgmma", "tcgen05", "mma", "mfma"]
# The largest degree that the kernels are compiled for. A program has an unrolled product for each degree.
LARGEST_DEGREE = 10
SMALLEST_DEPTH = 16  # of a product of half types


@dataclass(frozen=True)
class Tile:
    """How a program makes a tile of a result.

    Attributes:
        rows: of the tile.
        columns: of the tile.
        depth: of one product, along the dimension that is summed over.
        num_warps: warps of the program.
        num_stages: steps whose operands are in shared memory at once.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int

    def grid(self, n_rows: int, n_columns: int) -> int:
        """Programs for a result of this size."""
        return -(-n_rows // self.rows) * -(-n_columns // self.columns)

    @property
    def words(self) -> str:
        """All numbers, for readers."""
        return f"{self.rows}x{self.columns}x{self.depth}, {self.num_warps} warps, {self.num_stages} stages"

    @property
    def options(self) -> dict[str, Any]:
        """As the kernels take it."""
        sizes = {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth}
        return {**sizes, "num_warps": self.num_warps, "num_stages": self.num_stages}


Table = dict[Units, tuple[tuple[int, Tile], ...]]


@dataclass(frozen=True, eq=False)  # compared by identity: a launch looks up its cut by it
class KanPolicy:
    """The numbers that decide how launches of `kan` are cut. They change no result beyond its rounding.

    Tiles are the largest that spill no register with Triton 3.7.1 at any degree, in any basis (kernels/README.md).
    Nothing here is measured on a GPU yet.

    Attributes:
        forward: pairs of a largest degree and the tile up to it, for each kind of matrix units. `depth` and
            `num_stages` are the most: a depth of 16 and fewer stages are taken where shared memory is too small.
            With tcgen05 each product of a step has columns of the 512 of tensor memory: beyond them the compiler
            gives a kernel that only traps.
        to_x: the same for the gradient to x.
        to_coef: the same for the gradient to the coefficients.
        smallest: where a result has fewer tiles than three quarters of the multiprocessors, columns are halved down
            to it, and then 128 rows.
        rows_of_part: rows of the batch that a program of the gradient to the coefficients adds up, at least.
        programs: programs of that gradient for each multiprocessor.
        buffer: the most values of its partial sums, unless the sums of one part are more.
        name: what a sweep of policies calls it.
    """

    forward: Table = field(
        default_factory=lambda: {
            "wgmma": ((10, Tile(128, 128, 32, 8, 3)),),
            "tcgen05": ((6, Tile(128, 64, 32, 8, 3)), (10, Tile(64, 64, 32, 8, 3))),
            "mma": ((5, Tile(128, 128, 32, 8, 3)), (10, Tile(128, 64, 32, 8, 3))),
            "mfma": ((5, Tile(128, 128, 32, 8, 2)), (10, Tile(128, 64, 32, 4, 2))),
        }
    )
    to_x: Table = field(
        default_factory=lambda: {
            "wgmma": ((3, Tile(128, 64, 32, 8, 3)), (8, Tile(64, 64, 32, 8, 3)), (10, Tile(64, 32, 32, 4, 3))),
            "tcgen05": ((10, Tile(64, 64, 32, 8, 3)),),
            "mma": ((5, Tile(64, 32, 32, 4, 3)), (10, Tile(64, 16, 32, 4, 3))),
            "mfma": ((8, Tile(64, 64, 32, 4, 2)), (10, Tile(64, 32, 32, 4, 2))),
        }
    )
    to_coef: Table = field(
        default_factory=lambda: {
            "wgmma": ((4, Tile(64, 128, 32, 8, 3)), (5, Tile(64, 64, 32, 8, 3)), (10, Tile(64, 64, 16, 8, 4))),
            "tcgen05": ((10, Tile(64, 64, 32, 8, 3)),),
            "mma": ((5, Tile(64, 32, 32, 4, 3)), (10, Tile(64, 32, 16, 4, 3))),
            "mfma": ((10, Tile(64, 64, 32, 4, 2)),),
        }
    )
    smallest: int = 32
    rows_of_part: int = 512
    programs: int = 2
    buffer: int = 1 << 24
    name: str = "default"

    def __str__(self) -> str:
        return self.name


DEFAULT = KanPolicy()


def units_of(capability: int, warp_size: int) -> Units:
    """The matrix units of a device: of its major compute capability, 0 for other than NVIDIA's, and its warps."""
    if warp_size == 64:
        return "mfma"
    return "wgmma" if capability == 9 else "tcgen05" if capability == 10 else "mma"


def bytes_of_shared(kernel: Kernel, tile: Tile, degree: int, itemsize: int, units: Units) -> int:
    """Shared memory of a program, at most: the operands of all stages; of one less where products copy them."""
    if kernel == "to coef":
        operands = tile.depth * (tile.rows + tile.columns)
    else:
        operands = tile.depth * (tile.rows + degree * tile.columns)
    held = tile.num_stages if units in {"wgmma", "tcgen05"} else max(1, tile.num_stages - 1)
    return held * operands * itemsize + 1024  # for barriers; `make codegen` compares it with what is compiled


@functools.lru_cache
def choose(
    kernel: Kernel,
    degree: int,
    n_rows: int,
    n_columns: int,
    itemsize: int,
    n_processors: int,
    units: Units,
    shared: int,
    policy: KanPolicy,
    *,
    is_aligned: bool = True,
) -> Tile:
    """The tile of a launch.

    Without wide loads each element of a tile has its own address in registers: half the columns, and the least depth,
    then fit.

    Args:
        kernel: which of the three.
        degree: of the polynomials.
        n_rows: of the result.
        n_columns: of the result.
        itemsize: bytes of an element of an operand.
        n_processors: multiprocessors of the device.
        units: its matrix units.
        shared: bytes of shared memory that a program can have.
        policy: the numbers to cut by.
        is_aligned: whether rows of all operands begin at multiples of 16 elements, which allows wide loads.

    Raises:
        ValueError: the degree is above `LARGEST_DEGREE`.
    """
    table = {"forward": policy.forward, "to x": policy.to_x, "to coef": policy.to_coef}[kernel][units]
    fitting = [tile for largest, tile in table if degree <= largest]
    if not fitting:
        raise ValueError(f"the kernels of kan are compiled up to degree {table[-1][0]}, and got {degree}")
    rows, columns, depth = fitting[0].rows, fitting[0].columns, fitting[0].depth
    warps, stages = fitting[0].num_warps, fitting[0].num_stages
    if not is_aligned:
        columns, depth = max(columns // 2, SMALLEST_DEPTH), SMALLEST_DEPTH
    if kernel != "to coef":  # which has several programs for a tile
        few = 3 * n_processors // 4
        while columns > policy.smallest and Tile(rows, columns, 0, 0, 0).grid(n_rows, n_columns) < few:
            columns //= 2
        if rows == 128 and Tile(rows, columns, 0, 0, 0).grid(n_rows, n_columns) < few:
            rows, warps = 64, 4
    depths = dict.fromkeys((depth, max(depth // 2, SMALLEST_DEPTH)))
    tiles = [Tile(rows, columns, d, warps, s) for d in depths for s in range(stages, 1, -1)]
    return next(
        (tile for tile in tiles if bytes_of_shared(kernel, tile, degree, itemsize, units) <= shared),
        Tile(rows, columns, SMALLEST_DEPTH, warps, 1),
    )


def parts_of_batch(n_rows: int, n_coef: int, n_tiles: int, tile: Tile, n_processors: int, policy: KanPolicy) -> int:
    """Rows of the batch of each part of the gradient to the coefficients: a multiple of the depth of the tile.

    Args:
        n_rows: of the batch.
        n_coef: coefficients, in all.
        n_tiles: tiles of the gradient.
        tile: of the launch.
        n_processors: multiprocessors of the device.
        policy: the numbers to cut by.
    """
    parts = min(
        -(-policy.programs * n_processors // n_tiles), -(-n_rows // policy.rows_of_part), policy.buffer // n_coef
    )
    rows = -(-n_rows // max(1, parts))
    return -(-rows // tile.depth) * tile.depth


def parts(n_rows: int, n_columns: int, tile: Tile, largest_grid: int) -> Iterator[slice]:
    """The rows of each launch: as many as a grid of so many programs takes."""
    step = max(1, largest_grid // tile.grid(1, n_columns)) * tile.rows
    for first in range(0, n_rows, step):
        yield slice(first, min(first + step, n_rows))
