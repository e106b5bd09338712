r"""The squared loss of a polynomial as data: a quadratic function of the coefficients.

Two passes over the data give, for every series, the Hessian H, a reference c* at the minimum or near it, and loss and
gradient there. All that descent does follows from these, at a cost that does not depend on the number of samples ::

    grad L(c) = H e + grad L(c*),    L(c) = L(c*) + grad L(c*).e + e.H e / 2,    e = c - c*

e.H e is computed on the internal basis, Chebyshev polynomials on the range of the data, where H is well conditioned: no
term of L cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polyfit import bases
from polyfit._problem import Problem
from polyfit.backends import operators
from polyfit.least_squares import algebra
from polyfit.least_squares.algebra import Array
from polyfit.least_squares.residuals import to_array


@dataclass(frozen=True)
class Quadratic:
    """The loss of S series, each with its coefficients; the loss is the sum over the series.

    Attributes:
        hessian: (S, p, p).
        reference: coefficients at the minimum, or near it, (S, p).
        gradient: at the reference, (S, p).
        loss: at the reference, (S,).
        to_internal: the matrix (p, p) that takes coefficients to the internal basis.
        internal_hessian: the Hessian there, (S, p, p).
    """

    hessian: Array
    reference: Array
    gradient: Array
    loss: Array
    to_internal: Array
    internal_hessian: Array

    def gradients(self, coef: Array) -> Array:
        """The gradient (S, p) at coef (S, p)."""
        return (self.hessian @ (coef - self.reference)[..., None])[..., 0] + self.gradient

    def losses(self, coef: Array) -> Array:
        """The losses (..., S) at coef (..., S, p)."""
        left = coef - self.reference
        with np.errstate(all="ignore"):  # the losses show that a run diverges
            internal = left @ self.to_internal.T
            curved = (internal * (self.internal_hessian @ internal[..., None])[..., 0]).sum(-1)
            return self.loss + (left * self.gradient).sum(-1) + 0.5 * curved

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The attributes in their order, contiguous, as a compiled loop reads them."""
        parts = (self.hessian, self.reference, self.gradient, self.loss, self.to_internal, self.internal_hessian)
        return tuple(torch.from_numpy(np.array(part, order="C")).to(device) for part in parts)

    def eigenvalues(self) -> Array:
        """The eigenvalues of the Hessians, ascending, (S, p); not negative."""
        return np.maximum(np.linalg.eigvalsh(self.hessian), 0.0)


def make_quadratic(problem: Problem, scale: float) -> Quadratic:
    """The squared loss of a problem as a quadratic.

    Args:
        problem: canonical, with the squared loss.
        scale: a factor for the sum over all samples.
    """
    x, coef = problem.x, problem.coef
    degree, n_series = coef.shape[-1] - 1, coef.shape[0] if coef.dim() == 2 else 1
    internal = bases.widened(*(float(bound) for bound in torch.aminmax(x)))
    impl = "torch" if problem.impl == "compile" else problem.impl
    change = bases.conversion_matrix(problem.model.basis, "chebyshev", problem.domain, internal, degree)
    to_internal = np.eye(degree + 1) if change is None else change.numpy()

    sums = operators.moments(problem.x, problem.y, problem.weight, degree, internal, None, impl)
    assert sums.of_x is not None
    parts = (sums.of_x, sums.of_residuals)
    n_distinct = max(len(part) for part in parts)  # 1 where all series have the same data
    of_x, of_y = (np.broadcast_to(to_array(part), (n_distinct, part.shape[-1])) for part in parts)
    grams = algebra.gram(of_x, degree)
    internal_best = algebra.corrections(grams, of_y)
    best = bases.convert_rows(
        torch.from_numpy(internal_best), "chebyshev", problem.model.basis, internal, problem.domain
    ).numpy()
    # Residuals about the reference as it is after rounding.
    about = torch.from_numpy(best @ to_internal.T).to(x.device)
    sums = operators.moments(problem.x, problem.y, problem.weight, degree, internal, about, impl, want_gram=False)
    internal_hessian = 2.0 * scale * grams

    def of_all(values: Array) -> Array:
        return np.broadcast_to(values, (n_series, *values.shape[1:]))

    return Quadratic(
        hessian=of_all(to_internal.T @ internal_hessian @ to_internal),
        reference=of_all(best),
        gradient=of_all(-2.0 * scale * (to_array(sums.of_residuals) @ to_internal)),
        loss=of_all(scale * to_array(sums.squares)),
        to_internal=to_internal,
        internal_hessian=of_all(internal_hessian),
    )
