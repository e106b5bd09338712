"""What the vmap rules share: the axis of vmap becomes an axis of series."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Tensors = tuple[Tensor | None, ...]


def count_axes(operand: Tensor | None, dim: int | None) -> int:
    """Axes of an operand within an example."""
    return 0 if operand is None else operand.dim() - (dim is not None)


def batch_operand(operand: Tensor, dim: int | None, axes: int) -> Tensor:
    """An operand of one or two axes as (B or 1, S or 1, K)."""
    operand = operand.unsqueeze(0) if dim is None else operand.movedim(dim, 0)
    return operand.unsqueeze(1) if axes == 1 else operand


def flatten_examples(operand: Tensor, batch: int, n_series: int) -> Tensor:
    """(B * S, K) for (B or 1, S or 1, K): a view, unless the S > 1 series of an example share a row."""
    return operand.expand(batch, n_series, -1).reshape(batch * n_series, -1)


def merge_examples(
    operands: Sequence[Tensor | None],
    dims: Sequence[int | None],
    axes: Sequence[int],
    apart: Sequence[bool],
    batch: int,
) -> tuple[list[Tensor | None], int]:
    """Operands of B * S series from those of B examples, and S. The coefficients are among them, with all S series.

    A row that all examples share stays shared, unless it is kept `apart`: then each example gets its own gradient.
    """
    batched = [
        None if operand is None else batch_operand(operand, dim, n_axes)
        for operand, dim, n_axes in zip(operands, dims, axes, strict=True)
    ]
    n_series = max(operand.shape[1] for operand in batched if operand is not None)
    merged: list[Tensor | None] = []
    for operand, is_apart in zip(batched, apart, strict=True):
        if operand is None or (not is_apart and operand.shape[:2] == (1, 1)):
            merged.append(None if operand is None else operand[0, 0])
        else:
            merged.append(flatten_examples(operand, batch, n_series))
    return merged, n_series


def merge_sums(part: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """(B * S, ...) of sums (S, ...), or (B,) of a scalar."""
    if part is None:
        return None
    part = part.unsqueeze(0) if dim is None else part.movedim(dim, 0)
    part = part.expand(batch, *part.shape[1:])
    return part if part.dim() == 1 else part.flatten(0, 1)


def split_examples(rows: Tensor | None, batch: int, axes: int) -> Tensor | None:
    """Rows (B * S, K) as (B, S, K). For an operand of one axis, which the series shared, their sum (B, K)."""
    if rows is None:
        return None
    rows = rows.unflatten(0, (batch, -1))
    if axes == 2:
        return rows
    return rows.squeeze(1) if rows.shape[1] == 1 else rows.sum(1)


def vmap_results(*results: Tensor | None) -> tuple[Tensors, tuple[int | None, ...]]:
    """The return value of a vmap rule: results, each with the new axis in front, or None."""
    return results, tuple(None if result is None else 0 for result in results)
