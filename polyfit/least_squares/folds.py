r"""Sums of squares of all smaller degrees, for parts of the data (folds), from one pass over the data.

Let c be a polynomial of the largest degree near the solution, V the basis functions and r the residuals of c. For other
coefficients c + e the weighted sum of squares is ::

    |sqrt(W) (r - V e)|**2 = |R e - z|**2 + rest

with a triangular R of size p x p. R, z and rest come from the normal equations of the residuals (the Gram matrix is
``R.T R``), or, where these have too few digits, from a QR factorisation of the data. Leading blocks of R are those of
smaller degrees. So with q = z + R c, the coefficients of degree d solve a leading block of ``R c_d = q``, and ::

    rss_d = rest + sum of q_j**2 over j > d

in which nothing cancels. A fit without a fold uses the R of all other folds; its error on the fold uses that of the
fold.

References:
    Golub & Van Loan, Matrix Computations (2013), 5.2 and 5.3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import operators, select
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.data import Data
from polyfit.least_squares.design import DesignMatrix
from polyfit.least_squares.refinement import first_guess, keeps_digits

# The largest condition at which normal equations are used, as for a single fit: rss is then good to 2e-8 of itself.
_LARGEST_CONDITION = 1e4
# The smallest share of a sum over all data that is left without a fold. Less would lose seven bits in the difference.
_SMALLEST_SHARE = 2.0**-7
# Samples of which rows are held at once: some MB.
_CHUNK = 1 << 13
# Sizes that differ by less than this factor have roundings that count as equal: two bits.
_NEARLY = 4.0
_EPS = float(np.finfo(np.float64).eps)


class NormalEquations(NamedTuple):
    """The normal equations of each of k folds, about one polynomial of p coefficients.

    Attributes:
        gram: the Gram matrices, (k, p, p).
        moments: those of the residuals about the polynomial, (k, p).
        squares: the weighted sums of squared residuals, (k,).
    """

    gram: Tensor
    moments: Tensor
    squares: Tensor

    def about(self, change: Tensor) -> NormalEquations:
        """The same about a polynomial whose coefficients differ by change (p,)."""
        by_change = self.gram @ change
        squares = self.squares + (change * (by_change - 2.0 * self.moments)).sum(-1)
        return NormalEquations(self.gram, self.moments - by_change, squares.clamp(min=0.0))

    def total(self) -> NormalEquations:
        """Those of all folds together, as one fold."""
        return NormalEquations(*(part.sum(0, keepdim=True) for part in self))

    def without_each(self) -> NormalEquations:
        """Those of all other folds, for each fold."""
        return NormalEquations(*(whole - fold for whole, fold in zip(self.total(), self, strict=True)))

    def squares_after(self, change: Tensor) -> Tensor:
        """The sums of squares (k, m) after changes of the coefficients, (k, p, m)."""
        by_change = self.gram @ change - 2.0 * self.moments.unsqueeze(-1)
        return (self.squares.unsqueeze(-1) + (change * by_change).sum(1)).clamp(min=0.0)

    def reduced(self) -> Reduced:
        """R, z and rest, by Cholesky factors of the scaled Gram matrices."""
        scale = self.gram.diagonal(dim1=-2, dim2=-1).rsqrt().unsqueeze(-1)
        factor = torch.linalg.cholesky(self.gram * scale * scale.mT)
        z = torch.linalg.solve_triangular(factor, self.moments.unsqueeze(-1) * scale, upper=False).squeeze(-1)
        return Reduced((factor / scale).mT, z, (self.squares - (z * z).sum(-1)).clamp(min=0.0))


class Reduced(NamedTuple):
    """k sets of samples, see the module.

    Attributes:
        triangle: R, (k, p, p).
        moments: z, (k, p).
        rest: (k,).
    """

    triangle: Tensor
    moments: Tensor
    rest: Tensor

    def squares_after(self, change: Tensor) -> Tensor:
        """The sums of squares (k, m) after changes of the coefficients, (k, p, m)."""
        return (self.triangle @ change - self.moments.unsqueeze(-1)).square().sum(1) + self.rest.unsqueeze(-1)

    def sums_of_squares(self, coef: Tensor) -> Tensor:
        """The smallest sum of squares of each degree, (k, p)."""
        q = self.moments + self.triangle @ coef
        above = q.square().flip(-1).cumsum(-1).flip(-1)
        return torch.cat((above[:, 1:], torch.zeros_like(above[:, :1])), 1) + self.rest.unsqueeze(-1)

    def changes(self, coef: Tensor, n_degrees: int) -> Tensor:
        """The coefficients of degrees 0 to n_degrees - 1 less coef (p,), a column for each degree, (k, p, n_degrees).

        One triangular system with a column for each degree gives all of them.
        """
        triangle, below = self.triangle[:, :n_degrees, :n_degrees], coef[n_degrees:]
        right = self.moments[:, :n_degrees] + self.triangle[:, :n_degrees, n_degrees:] @ below
        is_above = torch.tril(coef.new_ones(n_degrees, n_degrees), -1)  # [j, d]: 1 where j > d
        tail = coef[:n_degrees, None] * is_above
        right = (right.unsqueeze(-1) + triangle @ tail) * (1.0 - is_above)
        change = torch.linalg.solve_triangular(triangle, right, upper=True) - tail
        return torch.cat((change, -below[:, None].expand(len(triangle), -1, n_degrees)), 1)


class Folds(NamedTuple):
    """What degrees are compared by.

    Attributes:
        coef: c, (p,).
        total: all samples.
        training: without each fold, or the total for a single fold.
        test: each fold.
        floor: the sum of squares that the roundings of y and of the residuals have.
        n_degrees: how many degrees, from 0 on, the samples in each set of training determine.
    """

    coef: Tensor
    total: Reduced
    training: Reduced
    test: NormalEquations | Reduced
    floor: float
    n_degrees: int

    def sums_of_squares(self) -> list[float]:
        """The smallest sum of squares of each degree, over all samples."""
        return self.total.sums_of_squares(self.coef)[0, : self.n_degrees].tolist()

    def prediction_errors(self) -> list[float]:
        """The sum of squared errors on each fold, of the fits of each degree without the fold."""
        return self.test.squares_after(self.training.changes(self.coef, self.n_degrees)).sum(0).tolist()


def collect(data: Data, degree: int, folds: int) -> Folds:
    """One pass over the data, or several where the problem is ill-conditioned. Sample i belongs to fold i mod folds."""
    coef, equations = _normal_equations(data, degree, folds)
    total = equations.total()
    training = equations.without_each() if folds > 1 else total
    if _have_digits(training, total):
        return Folds(coef, total.reduced(), training.reduced(), equations, _floor(data, coef), degree + 1)
    return _by_qr(data, coef, folds)


def _have_digits(training: NormalEquations, total: NormalEquations) -> bool:
    """Whether normal equations have enough digits."""
    of_training, of_total = (part.gram.diagonal(dim1=-2, dim2=-1) for part in (training, total))
    if not bool((of_training > _SMALLEST_SHARE * of_total).all()):
        return False
    scale = of_training.rsqrt()
    values = torch.linalg.eigvalsh(training.gram * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    return bool((values[:, 0] * _LARGEST_CONDITION**2 > values[:, -1]).all())


def _floor(data: Data, coef: Tensor) -> float:
    """The sum of squares of roundings: each residual has some from y, and from each term of the polynomial."""
    sum_of_weights = float(data.n_samples if data.weight is None else data.weight.sum(dtype=torch.float64))
    size = float(data.y.abs().max()) + float(coef.abs().sum())
    return sum_of_weights * (_EPS * len(coef) * size) ** 2


# --- by normal equations ---


def _normal_equations(data: Data, degree: int, folds: int) -> tuple[Tensor, NormalEquations]:
    """A polynomial near the solution of the largest degree, (p,) on the CPU; the equations of each fold about it."""
    coef = torch.from_numpy(first_guess(data, degree))
    equations = _pass(data, degree, folds, coef)
    for _ in range(2):
        total = equations.total()
        change = torch.from_numpy(algebra.from_gram(total.gram[0].numpy()).correction(total.moments[0].numpy()))
        about = equations.about(change)
        coef = coef + change
        if keeps_digits(float(total.squares), float(about.total().squares)):
            return coef, about
        equations = _pass(data, degree, folds, coef)
    return coef, equations


def _pass(data: Data, degree: int, folds: int, coef: Tensor) -> NormalEquations:
    """One pass over the data about a polynomial coef (p,). Each fold is a series of a batch."""
    impl = select.resolve_fit_impl(data.impl, data.x.device)
    whole = data.n_samples - data.n_samples % folds
    total = [
        torch.zeros(folds, *shape, dtype=torch.float64, device="cpu")
        for shape in ((2 * degree + 1,), (degree + 1,), ())
    ]
    coef = coef.to(data.x.device)
    for part, n_series in ((slice(0, whole), folds), (slice(whole, None), data.n_samples - whole)):
        if not n_series:
            continue
        rows = [
            None if tensor is None else tensor[part].reshape(-1, n_series).t()
            for tensor in (data.x, data.y, data.weight)
        ]
        if impl == "triton":  # its loads are wide where a row is contiguous
            rows = [None if row is None else row.contiguous() for row in rows]
        x, y, weight = rows
        assert x is not None
        assert y is not None
        sums = operators.moments(x, y, weight, degree, data.domain, coef, impl)
        for place, added in zip(total, sums, strict=True):
            assert added is not None
            place[:n_series] += added.cpu()
    of_x, moments, squares = total
    return NormalEquations(torch.from_numpy(algebra.gram(of_x.numpy(), degree)), moments, squares)


# --- by QR ---


def _by_qr(data: Data, coef: Tensor, folds: int) -> Folds:
    """The same from triangular factors of the rows sqrt(w) (T_0, ..., T_degree, r) of the data."""
    center: Array = coef.numpy()
    triangles = _triangles(data, center, folds)
    for _ in range(2):
        better = _better_center(_joined(triangles), center, data.n_samples)
        if better is None:
            break
        center = better
        triangles = _triangles(data, center, folds)
    total = _joined(triangles)
    training = _without_each(triangles) if folds > 1 else total[None]
    n_degrees = min(_determined(triangle[:-1, :-1], data.n_samples) for triangle in training)
    coef = torch.from_numpy(center)
    return Folds(coef, _reduced(total[None]), _reduced(training), _reduced(triangles), _floor(data, coef), n_degrees)


def _better_center(whole: Array, center: Array, n_samples: int) -> Array | None:
    """A polynomial about which the sums of squares have smaller roundings, (p,); None where the center is good enough.

    Roundings are eps times the length of the residuals and of the terms c_k T_k of the polynomial. The solution of the
    largest degree has the smallest residuals, and in an ill-conditioned problem terms that cancel. So it is the
    solution of the largest degree whose lengths are nearly the smallest.

    Args:
        whole: the triangular factor of all samples, with a column for the residuals, (p + 1, p + 1).
        center: the polynomial of these residuals, (p,).
        n_samples: the number of samples.
    """
    triangle, moments = whole[:-1, :-1], whole[:-1, -1]
    lengths = np.linalg.norm(triangle, axis=0)

    def size(coef: Array) -> float:
        residual = np.append(moments - triangle @ (coef - center), whole[-1, -1])
        return float(np.linalg.norm(residual) + np.abs(coef) @ lengths)

    candidates = []
    for k in range(1, len(center) + 1):
        change, above = -center, moments + triangle[:, k:] @ center[k:]
        change[:k] = np.linalg.lstsq(triangle[:, :k], above, rcond=_EPS * n_samples)[0]
        candidates.append(center + change)
    sizes = [size(coef) for coef in candidates]
    best = max(k for k, value in enumerate(sizes) if value <= _NEARLY * min(sizes))
    return candidates[best] if size(center) > _NEARLY * sizes[best] else None


def _triangles(data: Data, coef: Array, folds: int) -> Array:
    """The triangular factor of each fold, (folds, p + 1, p + 1); the last column is that of the residuals."""
    size = len(coef) + 1
    triangles = np.zeros((folds, size, size))
    length = folds * max(1, _CHUNK // folds)
    for start in range(0, data.n_samples, length):
        part = slice(start, start + length)
        weight = None if data.weight is None else data.weight[part]
        matrix = DesignMatrix.of_samples(data.x[part], data.y[part], weight, size - 2, data.domain)
        rows = matrix.rows(coef)
        for k in range(min(folds, len(rows))):
            triangles[k] = _joined((triangles[k], rows[k::folds]))
    return triangles


def _joined(blocks: Array | tuple[Array, ...]) -> Array:
    """The triangular factor of blocks of rows (., m) one below the other, (m, m)."""
    rows = np.concatenate(tuple(blocks))
    if len(rows) < rows.shape[1]:
        rows = np.concatenate((rows, np.zeros((rows.shape[1] - len(rows), rows.shape[1]))))
    return np.asarray(np.linalg.qr(rows, mode="r"))


def _without_each(triangles: Array) -> Array:
    """The triangular factor of all other folds, for each fold: of those before it and those after it."""
    before, after = [np.zeros_like(triangles[0])], [np.zeros_like(triangles[0])]
    for k in range(len(triangles) - 1):
        before.append(_joined((before[-1], triangles[k])))
        after.append(_joined((after[-1], triangles[-1 - k])))
    return np.stack([_joined(pair) for pair in zip(before, reversed(after), strict=True)])


def _determined(triangle: Array, n_samples: int) -> int:
    """How many degrees, from 0 on, a triangular factor determines, by the rank of a fit."""
    sizes = range(len(triangle), 1, -1)
    determined = (
        size for size in sizes if algebra.from_triangle(triangle[:size, :size], n_samples).undetermined is None
    )
    return next(determined, 1)


def _reduced(triangles: Array) -> Reduced:
    """Of triangular factors with a column for the residuals, (k, p + 1, p + 1)."""
    whole = torch.from_numpy(triangles)
    return Reduced(whole[:, :-1, :-1], whole[:, :-1, -1], whole[:, -1, -1].square())
