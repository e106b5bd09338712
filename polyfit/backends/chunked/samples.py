"""A chunk of samples of one polynomial, where its values are wanted, and no sums of its basis functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyfit.bases import AffineMap

Steps = tuple[tuple[float, float, float], ...]
PLAIN_STEP = (1.0, 0.0, 0.0)  # P_{k+1} = t P_k

_N_ROWS = 5  # of the memory of `Samples`


class Rows:
    """Rows (s, width) of n samples in whole blocks of B; the columns behind the samples, the filling, are zero.

    Args:
        n: samples.
        block: B, samples of a block.
    """

    def __init__(self, n: int, block: int) -> None:
        self.n, self.block = n, block
        self.n_blocks = max(1, -(-n // block))
        self.width = self.n_blocks * block
        self.is_filled = self.width > n

    def samples(self, padded: Tensor) -> Tensor:
        """The n columns of (..., width) that are samples."""
        return padded[..., : self.n] if self.is_filled else padded

    def clear_filling(self, padded: Tensor) -> None:
        """Set the filling of (s, width) to zero."""
        if self.is_filled:
            padded[..., self.n :].zero_()

    def total(self, rows: Tensor) -> Tensor:
        """Sums of rows (s, width): (s, 1), in float64 over blocks."""
        return rows.view(-1, self.n_blocks, self.block).sum(2).sum(1, keepdim=True, dtype=torch.float64)

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """Dot products of matching rows (s, width): (s, 1), in float64 over blocks."""
        return self.total(left * right)


def map_(samples: Tensor, mapping: AffineMap) -> Tensor:
    """Domain to window, written over x."""
    samples.sub_(mapping.center).mul_(mapping.scale)
    return samples.add_(mapping.shift) if mapping.shift else samples


def is_powers(steps: Steps) -> bool:
    """Whether the functions are powers of t."""
    return all(step == PLAIN_STEP for step in steps)


def clenshaw(t: Tensor, coef: Sequence[Tensor], steps: Steps, out: Tensor, other: Tensor | None = None) -> Tensor:
    """The sum of coef[k] P_k(t), written to `out`: Horner's rule for powers, Clenshaw's recurrence for other bases.

    ``B_k = coef_k + (a_k t + b_k) B_{k+1} - c_{k+1} B_{k+2}``, in place: one operation an element for powers.

    Args:
        t: samples.
        coef: numbers.
        steps: of the recurrence of the basis, as many as there are coefficients, less one.
        out: like t.
        other: a buffer like t; None for powers, which need none.

    References:
        Clenshaw, Math. Comp. 9 (1955).
    """
    degree = len(coef) - 1
    if degree < 1:
        return out.copy_(coef[0]) if coef else out.zero_()
    # The first operation has one tensor: an addcmul with two numbers is not vectorized.
    if is_powers(steps):
        torch.mul(t, coef[-1], out=out).add_(coef[-2])
        for number in coef[-3::-1]:
            torch.addcmul(number, out, t, out=out)
        return out
    assert other is not None
    (a, b, _), before = steps[-1], coef[-1]  # B_{k+2}, a number at first
    now = torch.mul(t, a * before, out=out if degree % 2 else other).add_(coef[-2] + b * before)  # B_{k+1}
    for k in range(degree - 2, -1, -1):
        (a, b, _), c = steps[k], steps[k + 1][2]
        start, target = coef[k], other if k % 2 else out  # where B_{k+2} is, if it is not a number
        if c != 0.0:
            start = start - c * before if before is coef[-1] else torch.sub(start, before, alpha=c, out=target)
        after = torch.addcmul(start, now, t, value=a, out=target)
        if b != 0.0:
            after.add_(now, alpha=b)
        now, before = after, now
    return out


class Samples(Rows):
    """Samples of one series, for its values. It has what `BasisMatrix` has for these.

    Args:
        memory: at least as many elements as `size` says, in the dtype that computes.
        n: samples.
        block: B, samples of a block.
    """

    def __init__(self, memory: Tensor, n: int, block: int) -> None:
        super().__init__(n, block)
        self._memory = memory
        self._t, self._steps = memory, ()

    def prepare(self) -> None:
        """Nothing: no row is expected to hold anything."""

    def release(self) -> None:
        """Let go of x."""
        self._t = self._memory

    @staticmethod
    def size(n: int, block: int) -> int:
        """Elements of the memory that n samples need."""
        return _N_ROWS * Rows(n, block).width

    def _row(self, place: int) -> Tensor:
        """A row (width,) of the memory: t, two of Clenshaw's recurrence, the second buffer, and that of `series`."""
        return self._memory.narrow(0, place * self.width, self.width)

    def lay_out(self, x: Tensor, steps: Steps, mapping: AffineMap | None, *, is_signed: bool = False) -> None:
        """Take samples x (1, n)."""
        assert not is_signed
        self._steps = steps
        self._t = x.squeeze(0)
        if mapping is not None or x.dtype != self._memory.dtype or not x.is_contiguous():
            self._t = self._row(0).narrow(0, 0, self.n).copy_(self._t)
        if mapping is not None:
            map_(self._t, mapping)

    def write(self, coef: Sequence[Tensor], out: Tensor) -> None:
        """Write values for the numbers coef, at most degree + 1, to `out`, (1, n) in the dtype that computes."""
        clenshaw(self._t, coef, self._steps[: max(0, len(coef) - 1)], out.squeeze(0), self._row(1).narrow(0, 0, self.n))

    def series(self, coef: Tensor) -> Tensor:
        """Values of the samples alone, (1, n), in a buffer of their own, which the next call overwrites."""
        values = self.samples(self._row(4).unsqueeze(0))
        self.write(coef.squeeze(0).unbind(), values)
        return values

    def values(self, coef: Tensor) -> Tensor:
        """Values in a buffer (1, width) that the next call of this or of `residuals` overwrites; not in the filling."""
        values = self._row(2).unsqueeze(0)
        self.write(coef.squeeze(0).unbind(), self.samples(values))
        return values

    def residuals(self, coef: Tensor, y: Tensor) -> Tensor:
        """Values minus y (1, n) in the same buffer, zero in the filling."""
        residuals = self.values(coef)
        self.samples(residuals).sub_(y)
        self.clear_filling(residuals)
        return residuals

    def second(self, n_series: int) -> Tensor:
        """A second buffer (1, width)."""
        assert n_series == 1
        return self._row(3).unsqueeze(0)
