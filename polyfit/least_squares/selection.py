r"""`select_degree`: which degree the data ask for, from one pass over them.

With residuals r about a polynomial c of the largest degree D, the sums over the data that every smaller degree d needs
are those of the Gram matrix and of the residuals: what leaves c behind is a difference e of coefficients, and ::

    rss_d = sum(w r**2) - 2 e.g + e.G e,    g_k = sum(w r T_k)

in which nothing cancels. For cross-validation each fold has its G, g and sum of squares; total minus fold is what the
others give to train on, and the fold's own are what its error is made of.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from polyfit import _checks
from polyfit.backends import operators, select
from polyfit.least_squares import algebra
from polyfit.least_squares import fit as fitting
from polyfit.least_squares.data import Data, prepare
from polyfit.least_squares.refinement import first_guess
from polyfit.least_squares.result import Fit, FitWarning, Selection

CRITERIA = ("aic", "aicc", "bic", "cv")
# Squared distance of a scaled column from those before it, below which moments do not tell it from them.
_RESOLVED = 1e-12
# A sum of squares is not taken from one that is so many times larger.
_SHRINKS = 4.0


class _Sums(NamedTuple):
    """Of each fold: Gram matrix (k, p, p), moments (k, p) and squares (k,) of the residuals about one polynomial."""

    gram: Tensor
    moments: Tensor
    squares: Tensor

    def moved(self, change: Tensor) -> _Sums:
        """The same about a polynomial whose coefficients differ by change (p,)."""
        by_change = self.gram @ change
        squares = self.squares + (change * (by_change - 2.0 * self.moments)).sum(-1)
        return _Sums(self.gram, self.moments - by_change, squares.clamp(min=0.0))

    def total(self) -> _Sums:
        """All folds together, as one."""
        return _Sums(*(part.sum(0, keepdim=True) for part in self))


def select_degree(
    x: Tensor,
    y: Tensor,
    max_degree: int,
    *,
    criterion: str = "bic",
    folds: int = 5,
    weight: Tensor | None = None,
    sigma: Tensor | None = None,
    absolute_sigma: bool = False,
    basis: str = "chebyshev",
    domain: Sequence[float] | None = None,
    nan_policy: str = "raise",
    precision: str = "auto",
    impl: str = "auto",
) -> Fit:
    r"""Fit the polynomial of the degree that a criterion prefers.

    .. math:: \text{AIC} = n \ln(\text{rss}/n) + 2k, \qquad \text{AICc} = \text{AIC} + \frac{2k(k+1)}{n-k-1}, \qquad
              \text{BIC} = n \ln(\text{rss}/n) + k \ln n

    with n samples and k = d + 2 parameters, the variance among them. With absolute_sigma the variance is known: rss
    stands in place of n ln(rss/n), and k = d + 1. "cv" is the weighted mean of squared errors of samples that were
    left out, in k-fold cross-validation: sample i belongs to fold i mod folds, so that folds are spread over data that
    are in order. (Where their order has a period, shuffle them.)

    Args:
        x: where, (N,).
        y: the data, (N,).
        max_degree: the largest degree to try, from 0 on.
        criterion: "aic", "aicc", "bic" or "cv".
        folds: of cross-validation, at least 2.
        weight: as for `polyfit.fit`; the other arguments too.
        sigma: as for `polyfit.fit`.
        absolute_sigma: as for `polyfit.fit`.
        basis: as for `polyfit.fit`.
        domain: as for `polyfit.fit`.
        nan_policy: as for `polyfit.fit`.
        precision: as for `polyfit.fit`.
        impl: as for `polyfit.fit`.

    Returns:
        What `polyfit.fit` gives for that degree, with `Fit.selection` holding the criterion of all degrees.

    Raises:
        TypeError: as for `polyfit.fit`.
        ValueError: as for `polyfit.fit`; an unknown criterion; fewer samples, or for "cv" fewer of them to train on,
            than coefficients of max_degree.

    Warns:
        FitWarning: the data do not determine the largest degrees, which were left out.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)
    >>> noise = 0.1 * torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> fit = polyfit.select_degree(x, x**3 - x + noise, max_degree=10)
    >>> fit.degree, fit.selection.criterion
    (3, 'bic')

    References:
        Akaike (1974); Hurvich & Tsai (1989) for AICc; Schwarz (1978) for BIC; Stone (1974) for cross-validation.
    """
    _checks.check_choice("criterion", criterion, CRITERIA)
    max_degree = _checks.checked_degree(max_degree, "max_degree")
    folds = _checks.checked_degree(folds, "folds") if criterion == "cv" else 0
    if folds == 1 or (criterion == "cv" and folds < 1):
        raise ValueError(f"folds={folds} leaves nothing to train on or to test; pass at least 2")
    options = {
        "weight": weight,
        "sigma": sigma,
        "absolute_sigma": absolute_sigma,
        "basis": basis,
        "domain": domain,
        "nan_policy": nan_policy,
        "precision": precision,
        "impl": impl,
    }
    data = prepare(x, y, weight, sigma, nan_policy, impl)
    if data is None:  # not finite, and to be propagated
        return fitting.fit(x, y, max_degree, **options)
    n_training = data.n_samples - -(-data.n_samples // folds) if folds else data.n_samples
    if n_training <= max_degree:
        raise ValueError(
            f"{n_training} samples{' to train on' if folds else ''} do not determine {max_degree + 1} coefficients;"
            f" pass max_degree={max(0, n_training - 1)} or less, or more samples"
        )
    if folds > data.n_samples:
        raise ValueError(f"folds={folds} is more than the {data.n_samples} samples; pass at most as many")
    with torch.no_grad(), select.without_autocast(x.device):
        coef, sums = _sums(data, max_degree, max(1, folds))
    n_degrees = _resolved(sums, max_degree)
    if n_degrees <= max_degree:
        warnings.warn(
            f"the data do not tell degrees from {n_degrees} on apart: these were left out. Pass max_degree="
            f"{n_degrees - 1}, or samples at more different x",
            FitWarning,
            stacklevel=2,
        )
    total = sums.total()
    degrees = range(n_degrees)
    rss = _errors(coef, total, total, n_degrees)[0].tolist()
    if folds:
        total_weight = float(total.gram[0, 0, 0])
        training = _Sums(*(whole - fold for whole, fold in zip(total, sums, strict=True)))
        values = (_errors(coef, training, sums, n_degrees).sum(0) / total_weight).tolist()
    else:
        values = [
            _information(criterion, rss[degree], degree, data.n_samples, has_variance=not absolute_sigma)
            for degree in degrees
        ]
    best = min(degrees, key=values.__getitem__)
    fit = fitting.fit(x, y, best, **options)
    return replace(fit, selection=Selection(criterion, tuple(degrees), tuple(values), tuple(rss), best, folds))


def _sums(data: Data, degree: int, folds: int) -> tuple[Tensor, _Sums]:
    """A polynomial of the largest degree near the best one, (p,) on the CPU, and the sums of each fold about it."""
    coef = torch.from_numpy(first_guess(data, degree))
    sums = _pass(data, degree, folds, coef)
    for _ in range(2):
        total = sums.total()
        change = algebra.from_gram(total.gram[0].numpy()).correction(total.moments[0].numpy())
        change = torch.from_numpy(change)
        moved = sums.moved(change)
        coef = coef + change
        if float(total.squares) <= _SHRINKS * float(moved.total().squares):
            return coef, moved
        sums = _pass(data, degree, folds, coef)
    return coef, sums


def _pass(data: Data, degree: int, folds: int, coef: Tensor) -> _Sums:
    """One pass over the data: the samples i of fold i mod folds as a series each."""
    impl = select.resolve_fit_impl(data.impl, data.x.device)
    whole = data.n_samples - data.n_samples % folds
    total = [torch.zeros(folds, *shape, dtype=torch.float64) for shape in ((2 * degree + 1,), (degree + 1,), ())]
    coef = coef.to(data.x.device)
    for part, n_series in ((slice(0, whole), folds), (slice(whole, None), data.n_samples - whole)):
        if not n_series:
            continue
        rows = [
            None if tensor is None else tensor[part].reshape(-1, n_series).t()
            for tensor in (data.x, data.y, data.weight)
        ]
        if impl == "triton":  # which reads rows that lie together at once
            rows = [None if row is None else row.contiguous() for row in rows]
        x, y, weight = rows
        assert x is not None
        assert y is not None
        sums = operators.moments(x, y, weight, degree, data.domain, coef, impl)
        for place, added in zip(total, sums, strict=True):
            assert added is not None
            place[:n_series] += added.cpu()
    of_x, moments, squares = total
    return _Sums(torch.from_numpy(algebra.gram(of_x.numpy(), degree)), moments, squares)


def _resolved(sums: _Sums, max_degree: int) -> int:
    """How many degrees, from 0 on, all sets to train on determine to some digits."""
    total = sums.total().gram
    grams = total if sums.gram.shape[0] == 1 else total - sums.gram
    scale = grams.diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).rsqrt()
    scaled = grams * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    factors, failed = torch.linalg.cholesky_ex(scaled)
    if not bool(failed.any()) and float(factors.diagonal(dim1=-2, dim2=-1).min()) ** 2 >= _RESOLVED:
        return max_degree + 1
    for degree in range(1, max_degree + 1):
        factors, failed = torch.linalg.cholesky_ex(scaled[:, : degree + 1, : degree + 1])
        if bool(failed.any()) or float(factors[:, -1, -1].min()) ** 2 < _RESOLVED:
            return degree
    return max_degree + 1


def _errors(coef: Tensor, training: _Sums, test: _Sums, n_degrees: int) -> Tensor:
    """Sums of squared errors (k, n_degrees) on each of `test`, of the polynomials fitted to each of `training`.

    With the Cholesky factor L of the Gram matrix of all degrees that is wanted, that of degree d is its leading block.
    A polynomial of degree d differs from coef: up to d by ``L_d^-T (L_d^-1 g + L_tail.T c_tail)``, and above by -c. One
    triangular system with a column for each degree gives all of them.
    """
    gram = training.gram[:, :n_degrees, :n_degrees]
    wanted = training.moments[:, :n_degrees] + training.gram[:, :n_degrees, n_degrees:] @ coef[n_degrees:]
    scale = gram.diagonal(dim1=-2, dim2=-1).rsqrt().unsqueeze(-1)
    factor = torch.linalg.cholesky(gram * scale * scale.mT)
    own = torch.linalg.solve_triangular(factor, wanted.unsqueeze(-1) * scale, upper=False)  # (k, n_degrees, 1)
    above = torch.tril(coef.new_ones(n_degrees, n_degrees), -1)  # [j, d]: whether j is above d
    tail = coef[:n_degrees, None] * above
    right = (own + factor.mT @ (tail / scale)) * (1.0 - above)
    change = torch.linalg.solve_triangular(factor.mT, right, upper=True) * scale - tail
    rest = -coef[n_degrees:, None].expand(len(gram), -1, n_degrees)
    change = torch.cat((change, rest), 1)  # (k, p, n_degrees)
    by_change = test.gram @ change - 2.0 * test.moments.unsqueeze(-1)
    return (test.squares.unsqueeze(-1) + (change * by_change).sum(1)).clamp(min=0.0)


def _information(criterion: str, rss: float, degree: int, n: int, *, has_variance: bool) -> float:
    """An information criterion of a degree."""
    parameters = degree + 1 + has_variance
    deviance = rss
    if has_variance:
        deviance = n * math.log(rss / n) if rss > 0.0 else -math.inf
    if criterion == "bic":
        return deviance + parameters * math.log(n)
    value = deviance + 2.0 * parameters
    if criterion == "aicc":
        left = n - parameters - 1
        value += 2.0 * parameters * (parameters + 1) / left if left > 0 else math.inf
    return value
