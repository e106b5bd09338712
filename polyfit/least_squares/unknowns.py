"""The unknowns of a fit: the coefficients c, with or without conditions, their corrections and their uncertainty.

Under conditions ``c = start + free @ z`` (`conditions`), and with ``R.T R = free.T G free`` the normal equations are ::

    H z = free.T g - ridge slope.T (offset + slope @ z),      H = R.T R + ridge slope.T slope

A rounding of R or g changes a coefficient of the user by no more than so many of its standard errors, provided that
all else is exact, however far their basis lies from the data. So z and H are decimal numbers. That bound needs an R of
full rank. Where ridge alone determines some coefficients, R and g are decimal numbers too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import torch

from polyfit import bases
from polyfit.backends import chunked
from polyfit.bases import CHEBYSHEV, Interval
from polyfit.errorfree import two_sum
from polyfit.least_squares import algebra, decimals
from polyfit.least_squares.algebra import Array, Directions, to_array
from polyfit.least_squares.conditions import Conditions
from polyfit.least_squares.data import Data
from polyfit.least_squares.decimals import Decimals

# The largest condition at which the Gram matrix is used. Above it, squares of singular values keep less than half of
# the digits of float64: eps condition**2 is 2e-8.
_LARGEST_CONDITION = 1e4
# float64 numbers of which a coefficient may be the sum: 19 reach from 1 down to the smallest normal number.
_MOST_PARTS = 19
# Digits that a coefficient of the user keeps after all cancellation.
_KEPT_DIGITS = 24
# Samples times squared coefficients up to which a problem is solved in decimal numbers: about 20 ms.
_MOST_EXACT = 1 << 16
# Degrees of freedom below this share of the samples are rounding: half of the digits that a factorisation keeps.
_NO_FREEDOM = Decimal(10) ** -25
# Digits of the precision that roundings may have used up.
_SPARE_DIGITS = 30
# Attempts to find the precision of a factorisation. Each takes twice the digits that cancelled in the one before.
_ATTEMPTS = 8


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What the data say of the coefficients.

    Attributes:
        frame: unevaluated sums of float64 numbers, (parts, p, q): spread and undetermined directions are in terms of
            its columns. None for the unit matrix.
        spread: (q, r); the covariance for variance one is ``spread @ spread.T``.
        undetermined: orthonormal directions that the data do not determine, (q, m); None where there are none.
        freedom: the number of samples less the rank, or with a penalty less the trace of the hat matrix.
        rank: the number of free coefficients, or of combinations of them, that are determined.
        condition: of the scaled columns, see `algebra.Directions`.
    """

    frame: Array | None
    spread: Array
    undetermined: Array | None
    freedom: float
    rank: int
    condition: float


class Unknowns:
    """Coefficients without conditions, as double-doubles.

    Args:
        guess: the first coefficients, (p,).

    Attributes:
        high: (p,).
        low: their low parts, (p,).
        directions: see `determine`.
        method: how the directions were found, "moments" or "qr".
        has_digits: False where float64 numbers are too few, or too small, to hold the coefficients.
        solved: sum of squares and moments, (p,), of the residuals where `determine` found the solution itself.
    """

    directions: Directions
    method: str
    has_digits: bool = True
    solved: tuple[float, Array] | None = None

    def __init__(self, guess: Array) -> None:
        self.high, self.low = guess, np.zeros(len(guess))
        self._is_zero = not any(guess.tolist())
        self._n_samples = 0

    def determine(self, gram: Array, data: Data) -> None:
        """Find the directions, from the Gram matrix or, where that has too few digits, from a QR factor of the data.

        Args:
            gram: G, (p, p).
            data: the samples.
        """
        self._n_samples = data.n_samples
        self.method, self.directions = "moments", self._from_gram(gram)
        if self.directions.condition > _LARGEST_CONDITION or self.directions.undetermined is not None:
            self.method, self.directions = "qr", self._from_triangle(_triangle(data, len(gram) - 1))

    def _from_gram(self, gram: Array) -> Directions:
        return algebra.from_gram(gram)

    def _from_triangle(self, triangle: Array) -> Directions:
        return algebra.from_triangle(triangle, self._n_samples)

    def correct(self, moments: Array) -> Array:
        """Change the coefficients such that the moments g of the residuals, (p,), fulfil the normal equations.

        Returns:
            The change, (p,).
        """
        change = self.directions.correction(moments)
        self._add(change)
        return change

    def _add(self, change: Array) -> None:
        if self._is_zero:
            self.high, self._is_zero = change + 0.0, False  # without zeros of negative sign
            return
        total, error = two_sum(self.high, change)
        error = error + self.low
        self.high = total + error
        self.low = error + (total - self.high)

    def finish(self) -> None:
        """Take the minimum-norm solution, whatever the first polynomial was."""
        if self.directions.undetermined is not None:
            self._add(-self.directions.undetermined_part(self.high))

    def rest(self) -> Array | None:
        """Further parts of the coefficients beside high and low, (parts, p), or None."""
        return None

    def uncertainty(self) -> Uncertainty:
        """The uncertainty of the coefficients."""
        root, undetermined, condition = self.directions
        rank = root.shape[1]
        return Uncertainty(None, root, undetermined, float(self._n_samples - rank), rank, condition)


def _triangle(data: Data, degree: int) -> Array:
    """The triangular factor of the design matrix, (p, p)."""
    weight = None if data.weight is None else data.weight[None]
    mapping = bases.affine_map(data.domain, CHEBYSHEV, torch.float64)
    return to_array(chunked.triangle(data.x[None], weight, degree, mapping))


class _Penalised(NamedTuple):
    """The inverse of H, (q, q); ``free @ inverse @ R.T``, (p, r); the degrees of freedom."""

    inverse: Decimals
    spread: Decimals
    freedom: float


class ConstrainedUnknowns(Unknowns):
    """Coefficients under conditions, as decimal numbers.

    Args:
        conditions: ridge and fixed coefficients.
        guess: the first coefficients, (p,). The nearest ones that satisfy the conditions are taken.
    """

    _penalised: _Penalised | None = None

    def __init__(self, conditions: Conditions, guess: Array) -> None:
        self._conditions, self._precision = conditions, conditions.precision
        with decimals.digits(self._precision):
            self._z = conditions.reduce(decimals.from_floats(guess))
            self._round()

    def _round(self) -> None:
        self.high, self.low = decimals.to_parts(self._coefficients(), 2)

    def _coefficients(self) -> Decimals:
        return self._conditions.start + self._conditions.expand(self._z)

    # --- directions ---

    def determine(self, gram: Array, data: Data) -> None:
        """See `Unknowns.determine`."""
        self._n_samples = data.n_samples
        if not self._is_penalised or gram.size * data.n_samples > _MOST_EXACT:
            return super().determine(gram, data)
        if self._n_samples < self._conditions.n_free or self._reduced(gram).undetermined is not None:
            self.method = "qr"
            return self._solve_exactly(data)
        return super().determine(gram, data)

    @property
    def _is_penalised(self) -> bool:
        return bool(self._conditions.ridge) and self._conditions.n_free > 0

    def _reduced(self, gram: Array) -> Directions:
        """The directions of z without the penalty."""
        free = self._free_columns()
        return algebra.from_gram(gram if free is None else free.T @ gram @ free)

    def _free_columns(self) -> Array | None:
        return None if self._conditions.free is None else decimals.to_floats(self._conditions.free)

    def _from_gram(self, gram: Array) -> Directions:
        return self._penalise(algebra.root_of_gram(gram)) if self._is_penalised else self._reduced(gram)

    def _from_triangle(self, triangle: Array) -> Directions:
        if self._is_penalised:
            return self._penalise(triangle)
        free = self._free_columns()
        return algebra.from_triangle(triangle if free is None else triangle @ free, self._n_samples)

    def _penalise(self, root: Array) -> Directions:
        """The directions for ``root.T @ root`` = G, root (r, p), and the penalty."""
        return self._with_digits(lambda: decimals.from_floats(root))

    def _with_digits(self, root: Callable[[], Decimals]) -> Directions:
        """The directions under the penalty, in as many digits as they need; root returns rows (r, p)."""
        conditions = self._conditions
        slope, ridge = conditions.slope, conditions.ridge
        self._precision = conditions.precision
        for _ in range(_ATTEMPTS):
            with decimals.digits(self._precision):
                rows = conditions.reduce(root().T).T
                matrix = decimals.product(rows.T, rows) + ridge * decimals.product(slope.T, slope)
                factor, lost = decimals.cholesky(matrix)
                if self._precision < conditions.precision + lost:
                    self._precision = conditions.precision + 2 * lost
                    continue
                inverse_factor = decimals.inverse_of_lower(factor)
                inverse = decimals.product(inverse_factor.T, inverse_factor)
                spread = conditions.expand(decimals.product(inverse, rows.T))
                shrunk = decimals.product(inverse_factor, slope.T)
                # q less the trace of the hat matrix, a sum without cancellation.
                more = ridge * (shrunk * shrunk).sum() if shrunk.size else decimals.ZERO
                freedom = self._n_samples - self._conditions.n_free + more
                freedom = float(freedom) if freedom > _NO_FREEDOM * self._n_samples else 0.0
                self._penalised = _Penalised(inverse, spread, freedom)
                condition = _condition(rows, matrix, inverse_factor)
                return Directions(decimals.to_floats(inverse_factor.T), None, condition)
        raise ArithmeticError(f"the normal equations with ridge={ridge} have no solution in {self._precision} digits")

    def _solve_exactly(self, data: Data) -> None:
        """Directions and solution from the samples in decimal numbers."""
        x, y = (decimals.from_floats(to_array(values)) for values in (data.x, data.y))
        weight = decimals.from_floats(np.ones(data.n_samples) if data.weight is None else to_array(data.weight))
        degree = len(self.high) - 1

        def rows() -> Decimals:
            roots = np.array([value.sqrt() for value in weight], dtype=object)
            return _functions(x, degree, data.domain) * roots[:, None]

        self.directions = self._with_digits(rows)
        with decimals.digits(self._precision):
            functions = _functions(x, degree, data.domain)
            self._change(functions.T @ (weight * (y - functions @ self._coefficients())))
            residual = y - functions @ self._coefficients()
            weighted = weight * residual
            self.solved = float(weighted @ residual), decimals.to_floats(functions.T @ weighted)

    # --- corrections ---

    def correct(self, moments: Array) -> Array:
        """See `Unknowns.correct`."""
        with decimals.digits(self._precision):
            return decimals.to_floats(self._change(decimals.from_floats(moments)))

    def _change(self, moments: Decimals) -> Decimals:
        """`correct` in decimal numbers."""
        conditions = self._conditions
        gradient = conditions.reduce(moments)
        if self._penalised is None:
            change = decimals.from_floats(self.directions.correction(decimals.to_floats(gradient)))
        else:
            values = conditions.offset + decimals.product(conditions.slope, self._z)
            gradient = gradient - conditions.ridge * decimals.product(conditions.slope.T, values)
            change = decimals.product(self._penalised.inverse, gradient)
        self._z = self._z + change
        self._round()
        return conditions.expand(change)

    def finish(self) -> None:
        """See `Unknowns.finish`."""
        if self.directions.undetermined is None:
            return
        with decimals.digits(self._precision):
            part = self.directions.undetermined_part(decimals.to_floats(self._z))
            self._z = self._z - decimals.from_floats(part)
            self._round()

    # --- the result ---

    def rest(self) -> Array | None:
        """See `Unknowns.rest`."""
        with decimals.digits(self._precision):
            return self._parts(self._coefficients()[:, None])[2:, :, 0]

    def uncertainty(self) -> Uncertainty:
        """See `Unknowns.uncertainty`."""
        with decimals.digits(self._precision):
            root, undetermined, condition = self.directions
            if self._penalised is not None:
                columns, rank, freedom = self._penalised.spread, self._conditions.n_free, self._penalised.freedom
                root = np.eye(columns.shape[1])
            else:
                columns, rank, freedom = self._conditions.free, root.shape[1], float(self._n_samples - root.shape[1])
                assert columns is not None
            frame = self._parts(columns)
        return Uncertainty(frame, root, undetermined, freedom, rank, condition)

    def _parts(self, columns: Decimals) -> Array:
        """Columns (p, k) as so many float64 numbers, (parts, p, k), that ``M @ columns`` keeps its digits."""
        to_user = self._conditions.to_user
        size = max(decimals.norms(columns.T), default=decimals.ZERO)
        largest = decimals.norms(to_user) * size
        results = decimals.norms(decimals.product(to_user, columns))
        # A fixed coefficient has the result zero, and a rounding of that here.
        rounding = decimals.ZERO + Decimal(10) ** (_SPARE_DIGITS - self._precision)
        is_zero = [result <= rounding * bound for result, bound in zip(results, largest, strict=True)]
        digits = max(
            (decimals.orders(b / a) for a, b, zero in zip(results, largest, is_zero, strict=True) if not zero),
            default=0,
        )
        count = 1 - -(max(digits, 0) + _KEPT_DIGITS) // decimals.DIGITS_OF_FLOAT
        parts = decimals.to_parts(columns, min(max(2, count), _MOST_PARTS))
        lost = decimals.norms(decimals.product(to_user, columns - decimals.from_parts(parts)))
        allowed = Decimal(10) ** -decimals.DIGITS_OF_FLOAT
        if any(off > allowed * a and not zero for off, a, zero in zip(lost, results, is_zero, strict=True)):
            self.has_digits = False
        return parts


def _functions(x: Decimals, degree: int, domain: Interval) -> Decimals:
    """Chebyshev polynomials on the domain, (n, degree + 1)."""
    lo, hi = map(Decimal, domain)
    t = ((x - lo) - (hi - x)) / (hi - lo)
    columns = [t * 0 + 1, t]
    for k in range(1, degree):
        columns.append(2 * t * columns[k] - columns[k - 1])
    return np.stack(columns[: degree + 1], 1)


def _condition(rows: Decimals, matrix: Decimals, inverse_factor: Decimals) -> float:
    """The condition of the scaled columns of R, (r, q), under the penalty: the norm of R times that of 1/sqrt(H).

    Without a penalty it is that of `algebra.Directions`.
    """
    lengths = decimals.norms(rows.T)
    tiny = max(lengths) * decimals.EPS
    scale = np.array([a if a > tiny else matrix[k, k].sqrt() for k, a in enumerate(lengths)], dtype=object)
    columns, root = decimals.to_floats(rows / scale), decimals.to_floats(inverse_factor * scale)
    return max(1.0, float(np.linalg.norm(columns, 2) * np.linalg.norm(root, 2)))
