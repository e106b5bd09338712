"""A chunk of samples of one polynomial, without a matrix of its basis functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyfit.bases import AffineMap

Steps = tuple[tuple[float, float, float], ...]
PLAIN_STEP = (1.0, 0.0, 0.0)  # P_{k+1} = t P_k

_VECTOR = 16  # numbers of a line of the cache, or of two
# Numbers between rows, some lines of a cache: rows a power of two apart would share its sets.
APART = 64

# The rows of the memory of `Samples`: t, where it is not x itself; the second row of a recurrence; the values; one for
# the caller; and the third row of a recurrence, or the values of `series`.
T, BUFFER, VALUES, SECOND, OTHER = range(_N_ROWS := 5)


def even(size: int, longest: int) -> int:
    """The length of the fewest equal pieces, of at most the longest length."""
    return -(-size // -(-size // longest)) if size else 1


def aligned(size: int, longest: int) -> int:
    """The length of the fewest equal blocks, of at most the longest length, in whole vectors where that is possible.

    Rows that begin anywhere in a line of the cache take a third longer.
    """
    length = even(size, longest)
    return min(longest, -(-length // _VECTOR) * _VECTOR)


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
    """Samples of one series, for its values and for sums of its basis functions, with the methods of `BasisMatrix`.

    No function is held: Horner's rule or Clenshaw's recurrence gives the values, and the recurrence of the basis takes
    delta P_k to delta P_{k+1}. For powers each step is one operation in place. (A product with a matrix reads all its
    rows, and a batched one takes ten times as long as a step.)

    Args:
        memory: at least as many elements as `size` says, in the dtype that computes.
        n: samples.
        block: B, samples of a block.
    """

    def __init__(self, memory: Tensor, n: int, block: int) -> None:
        super().__init__(n, block)
        self._all = memory.narrow(0, 0, self.size(n, block)).view(_N_ROWS, -1).narrow(1, 0, self.width)
        self._rows = self._all.narrow(1, 0, n).unbind(0)  # without the filling
        self._blocks = self._all.view(_N_ROWS, self.n_blocks, block).unbind(0)
        self._t, self._steps = self._rows[T], ()

    def prepare(self) -> None:
        """Write the filling of all rows. Nothing else is written to it."""
        if self.is_filled:
            self._all[:, self.n :] = 0.0

    def release(self) -> None:
        """Let go of x."""
        self._t = self._rows[T]

    @staticmethod
    def size(n: int, block: int) -> int:
        """Elements of the memory that n samples need."""
        return _N_ROWS * (Rows(n, block).width + APART)

    def clear_filling(self, padded: Tensor) -> None:
        """Nothing: see `prepare`."""

    def lay_out(self, x: Tensor, steps: Steps, mapping: AffineMap | None, *, is_signed: bool = False) -> None:
        """Take samples x (1, n)."""
        assert not is_signed
        self.take(x.squeeze(0), steps, mapping)

    def take(self, x: Tensor, steps: Steps, mapping: AffineMap | None) -> None:
        """Take samples x (n,)."""
        self._steps, self._t = steps, x
        if mapping is not None or x.dtype != self._all.dtype or not x.is_contiguous():
            self._t = self._rows[T].copy_(x)
        if mapping is not None:
            map_(self._t, mapping)

    def evaluate(self, coef: Sequence[Tensor], out: Tensor) -> None:
        """Write values for the numbers coef, at most degree + 1, to `out`, (n,) in the dtype that computes."""
        clenshaw(self._t, coef, self._steps[: max(0, len(coef) - 1)], out, self._rows[BUFFER])

    def _padded(self, place: int) -> Tensor:
        """A row with its filling, (1, width)."""
        return self._all.narrow(0, place, 1)

    def series(self, coef: Tensor) -> Tensor:
        """Values of the samples alone, (1, n), in a buffer of their own, which the next call overwrites."""
        values = self._rows[OTHER]
        self.evaluate(coef.squeeze(0).unbind(), values)
        return values.unsqueeze(0)

    def values(self, coef: Tensor) -> Tensor:
        """Values in a buffer (1, width) that the next call of it or of `residuals` overwrites, zero in the filling."""
        self.evaluate(coef.squeeze(0).unbind(), self._rows[VALUES])
        return self._padded(VALUES)

    def residuals(self, coef: Tensor, y: Tensor) -> Tensor:
        """Values minus y (1, n) in the same buffer, zero in the filling."""
        residuals = self.values(coef)
        self._rows[VALUES].sub_(y.squeeze(0))
        return residuals

    def second(self, n_series: int) -> Tensor:
        """A second buffer (1, width)."""
        assert n_series == 1
        return self._padded(SECOND)

    def pad(self, values: Tensor) -> Tensor:
        """A row (1, n) as (1, width), in the buffer of `second`."""
        self._rows[SECOND].copy_(values.squeeze(0))
        return self._padded(SECOND)

    def moments(self, delta: Tensor) -> Tensor:
        """Sums of delta P_k for delta (1, width): (1, degree + 1) float64."""
        return torch.stack(self._by_block(delta.squeeze(0))).sum(1, dtype=torch.float64).unsqueeze(0)

    def moments_and_dots(self, delta: Tensor, residuals: Tensor) -> Tensor:
        """Sums of delta P_k, and behind them of delta times residuals, (1, width): (1, degree + 2) float64."""
        return torch.cat((self.moments(delta), self.dots(delta, residuals)), 1)

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """See `Rows.dots`."""
        return self.total(torch.mul(left, right, out=self._padded(BUFFER)))

    def _by_block(self, delta: Tensor) -> list[Tensor]:
        """The sums of delta P_k in each block, for delta (width,). Two rows of recurrences are overwritten."""
        found = [delta.view(self.n_blocks, self.block).sum(1)]
        t, now = self._t, delta.narrow(0, 0, self.n) if self.is_filled else delta  # delta P_k
        if is_powers(self._steps):
            power = self._rows[BUFFER]
            for _ in self._steps:
                now = torch.mul(now, t, out=power)
                found.append(self._blocks[BUFFER].sum(1))
            return found
        before, place = now, BUFFER  # delta P_{k-1}, and where the next one goes
        for a, b, c in self._steps:
            after = self._rows[place]
            if c == 0.0:
                torch.mul(now, t, out=after)
                after = after if a == 1.0 else after.mul_(a)
            else:
                torch.mul(before, -c, out=after).addcmul_(now, t, value=a)
            if b != 0.0:
                after.add_(now, alpha=b)
            found.append(self._blocks[place].sum(1))
            before, now, place = now, after, OTHER if place == BUFFER else BUFFER
        return found
