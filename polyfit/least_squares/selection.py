r"""`select_degree`: the degree that a criterion prefers, from one pass over the data.

Let c be a polynomial of the largest degree near the solution, r its residuals, G the Gram matrix and g the moments of
r, ``g_k = sum(w r T_k)``. They give the fit of every smaller degree d. With e its coefficients less c ::

    rss_d = sum(w r**2) - 2 e.g + e.G e

in which nothing cancels. For cross-validation G, g and the sum of squares are kept for each fold. A fit without the
fold uses the total less those of the fold; its error on the fold uses those of the fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from polyfit import _checks
from polyfit.backends import operators, select
from polyfit.least_squares import algebra
from polyfit.least_squares import fit as fitting
from polyfit.least_squares.data import NAN_POLICIES, Data, prepare
from polyfit.least_squares.refinement import first_guess, keeps_digits
from polyfit.least_squares.result import Fit, Selection
from polyfit.least_squares.warn import warn

CRITERIA = ("aic", "aicc", "bic", "cv")
# The smallest squared distance of a scaled column of the design matrix from those before it that the Gram matrix
# resolves. Roundings of the Gram matrix change the distance by up to 8 p eps: 2 % of 1e-12 for p = 10. How many digits
# of rss are left there is to be measured.
_RESOLVED = 1e-12


class _NormalEquations(NamedTuple):
    """The normal equations of each of k folds, about one polynomial of p coefficients.

    Attributes:
        gram: the Gram matrices, (k, p, p).
        moments: those of the residuals about the polynomial, (k, p).
        squares: the weighted sums of squared residuals, (k,).
    """

    gram: Tensor
    moments: Tensor
    squares: Tensor

    def about(self, change: Tensor) -> _NormalEquations:
        """The same about a polynomial whose coefficients differ by change (p,)."""
        by_change = self.gram @ change
        squares = self.squares + (change * (by_change - 2.0 * self.moments)).sum(-1)
        return _NormalEquations(self.gram, self.moments - by_change, squares.clamp(min=0.0))

    def total(self) -> _NormalEquations:
        """Those of all folds together, as one fold."""
        return _NormalEquations(*(part.sum(0, keepdim=True) for part in self))


def select_degree(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    max_degree: int,
    *,
    criterion: str = "bic",
    folds: int = 5,
    weight: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | None = None,
    absolute_sigma: bool = False,
    basis: str = "chebyshev",
    domain: Sequence[float] | str | None = "auto",
    nan_policy: str = "raise",
    precision: str = "auto",
    impl: str = "auto",
) -> Fit:
    r"""Choose the degree of a polynomial by a criterion, and fit it.

    .. math:: \text{AIC} = n \ln(\text{rss}/n) + 2k, \qquad \text{AICc} = \text{AIC} + \frac{2k(k+1)}{n-k-1}, \qquad
              \text{BIC} = n \ln(\text{rss}/n) + k \ln n

    with n samples and k = d + 2 parameters: the coefficients and the variance. With absolute_sigma the variance is
    known. Then rss replaces n ln(rss/n), and k = d + 1.

    "cv" is cross-validation: each fold is predicted by the fit to the other folds, and the criterion is the weighted
    mean of the squared errors. Sample i belongs to fold i mod folds, so that each fold covers the range of sorted data.
    Samples that are left out (of weight zero, or omitted) are not counted. Shuffle data whose order has a period.

    Args:
        x: sample locations, (N,), as for `polyfit.fit`.
        y: sample values, (N,), likewise.
        max_degree: the largest degree to compare, at least 0.
        criterion: "aic", "aicc", "bic" or "cv"; the degree with its smallest value is chosen.
        folds: the number of folds of cross-validation, at least 2. Other criteria ignore it.
        weight: as for `polyfit.fit`.
        sigma: as for `polyfit.fit`.
        absolute_sigma: as for `polyfit.fit`.
        basis: as for `polyfit.fit`.
        domain: as for `polyfit.fit`.
        nan_policy: as for `polyfit.fit`.
        precision: as for `polyfit.fit`.
        impl: as for `polyfit.fit`.

    Returns:
        The result of `polyfit.fit` for the chosen degree. Its `selection` holds the criterion of all degrees.

    Raises:
        TypeError: as for `polyfit.fit`.
        ValueError: as for `polyfit.fit`; an unknown criterion; folds that are not accepted; fewer samples, or for "cv"
            fewer samples outside a fold, than coefficients of max_degree.

    Warns:
        FitWarning: the data do not determine the largest degrees; these are not compared.

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
        raise ValueError(f"folds={folds} leaves no samples to fit or none to test; pass at least 2")
    _checks.check_choice("precision", precision, fitting.PRECISIONS)
    _checks.check_choice("nan_policy", nan_policy, NAN_POLICIES)
    fitting.check_absolute(absolute_sigma, weight, sigma)
    bounds = fitting.checked_domain(domain, basis)
    data = prepare(x, y, weight, sigma, nan_policy, impl)
    if data is None:  # not finite, and to be propagated
        options = {"weight": weight, "sigma": sigma, "basis": basis, "domain": domain, "nan_policy": nan_policy}
        return fitting.fit(x, y, max_degree, **options)
    n_training = data.n_samples - -(-data.n_samples // folds) if folds else data.n_samples
    if n_training <= max_degree:
        raise ValueError(
            f"{n_training} samples{' outside a fold' if folds else ''} do not determine {max_degree + 1} coefficients;"
            f" pass max_degree={max(0, n_training - 1)} or less, or more samples"
        )
    if folds > data.n_samples:
        raise ValueError(f"folds={folds} is more than the {data.n_samples} samples; pass at most {data.n_samples}")
    with torch.no_grad(), select.without_autocast(data.x.device):
        coef, equations = _normal_equations(data, max_degree, max(1, folds))
    n_degrees = _resolved(equations, max_degree)
    if n_degrees <= max_degree:
        warn(
            f"the data do not determine degrees from {n_degrees} on: these are not compared. Pass"
            f" max_degree={n_degrees - 1}, or samples at more different x"
        )
    total = equations.total()
    degrees = range(n_degrees)
    rss = _errors(coef, total, total, n_degrees)[0].tolist()
    if folds:
        total_weight = float(total.gram[0, 0, 0])
        training = _NormalEquations(*(whole - fold for whole, fold in zip(total, equations, strict=True)))
        values = (_errors(coef, training, equations, n_degrees).sum(0) / total_weight).tolist()
    else:
        values = [
            _information(criterion, rss[degree], degree, data.n_samples, is_variance_known=absolute_sigma)
            for degree in degrees
        ]
    best = min(degrees, key=values.__getitem__)
    fit = fitting.fit_samples(
        data,
        best,
        absolute_sigma=absolute_sigma,
        basis=basis,
        bounds=bounds,
        ridge=0.0,
        fixed={},
        precision=precision,
    )
    return replace(fit, selection=Selection(criterion, tuple(degrees), tuple(values), tuple(rss), best, folds))


def _normal_equations(data: Data, degree: int, folds: int) -> tuple[Tensor, _NormalEquations]:
    """A polynomial near the solution of the largest degree, (p,) on the CPU; the equations of each fold about it."""
    coef = torch.from_numpy(first_guess(data, degree))
    equations = _pass(data, degree, folds, coef)
    for _ in range(2):
        total = equations.total()
        change = algebra.from_gram(total.gram[0].numpy()).correction(total.moments[0].numpy())
        change = torch.from_numpy(change)
        about = equations.about(change)
        coef = coef + change
        if keeps_digits(float(total.squares), float(about.total().squares)):
            return coef, about
        equations = _pass(data, degree, folds, coef)
    return coef, equations


def _pass(data: Data, degree: int, folds: int, coef: Tensor) -> _NormalEquations:
    """One pass over the data about a polynomial coef (p,). Fold i mod folds of sample i is a series of a batch."""
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
    return _NormalEquations(torch.from_numpy(algebra.gram(of_x.numpy(), degree)), moments, squares)


def _resolved(equations: _NormalEquations, max_degree: int) -> int:
    """How many degrees, from 0 on, the Gram matrix resolves; for several folds each Gram matrix without a fold."""
    total = equations.total().gram
    grams = total if equations.gram.shape[0] == 1 else total - equations.gram
    # The reciprocal of the bound's square root is finite, also for a column of zeros.
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


def _errors(coef: Tensor, training: _NormalEquations, test: _NormalEquations, n_degrees: int) -> Tensor:
    """Sums of squared errors (k, n_degrees) on each of `test`, of the polynomials fitted to each of `training`.

    The Cholesky factor L of the Gram matrix of the largest degree holds those of all smaller degrees d as its leading
    blocks L_d. The fit of degree d less coef is ``L_d^-T (L_d^-1 g + L_tail.T c_tail)`` up to degree d, and -c above
    it. One triangular system with a column for each degree gives all of them.
    """
    gram = training.gram[:, :n_degrees, :n_degrees]
    moments = training.moments[:, :n_degrees] + training.gram[:, :n_degrees, n_degrees:] @ coef[n_degrees:]
    scale = gram.diagonal(dim1=-2, dim2=-1).rsqrt().unsqueeze(-1)
    factor = torch.linalg.cholesky(gram * scale * scale.mT)
    solved = torch.linalg.solve_triangular(factor, moments.unsqueeze(-1) * scale, upper=False)  # (k, n_degrees, 1)
    is_above = torch.tril(coef.new_ones(n_degrees, n_degrees), -1)  # [j, d]: 1 where j > d
    tail = coef[:n_degrees, None] * is_above
    right = (solved + factor.mT @ (tail / scale)) * (1.0 - is_above)
    change = torch.linalg.solve_triangular(factor.mT, right, upper=True) * scale - tail
    above = -coef[n_degrees:, None].expand(len(gram), -1, n_degrees)
    change = torch.cat((change, above), 1)  # (k, p, n_degrees)
    by_change = test.gram @ change - 2.0 * test.moments.unsqueeze(-1)
    return (test.squares.unsqueeze(-1) + (change * by_change).sum(1)).clamp(min=0.0)


def _information(criterion: str, rss: float, degree: int, n: int, *, is_variance_known: bool) -> float:
    """An information criterion, see `select_degree`."""
    parameters = degree + 1 + (not is_variance_known)
    deviance = rss
    if not is_variance_known:
        deviance = n * math.log(rss / n) if rss > 0.0 else -math.inf
    if criterion == "bic":
        return deviance + parameters * math.log(n)
    value = deviance + 2.0 * parameters
    if criterion == "aicc":
        left = n - parameters - 1
        value += 2.0 * parameters * (parameters + 1) / left if left > 0 else math.inf
    return value
