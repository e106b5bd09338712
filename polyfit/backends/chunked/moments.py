"""Moments for least squares, a chunk at a time; all in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from polyfit.backends.chunked import left_out
from polyfit.backends.chunked.matrix import signs
from polyfit.backends.chunked.parts import Parts
from polyfit.backends.results import MomentSums
from polyfit.bases import AffineMap
from polyfit.formula import Model


def moments(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    degree: int,
    mapping: AffineMap | None,
    coef: Tensor | None,
    *,
    want_gram: bool = True,
) -> MomentSums:
    """Chebyshev moments of x, with want_gram, and of the residuals about polynomials coef (S or 1, degree + 1).

    None for coef stands for zero. ``T_d T_j = (T_{d+j} + T_{d-j}) / 2`` gives the moments of x beyond the degree. It
    takes one more row on the left of the product with the matrix of the functions, instead of as many functions again.
    """
    n_series = max(rows.shape[0] for rows in (x, y, weight) if rows is not None)
    is_out = left_out.zeros(weight)
    x, x_out = left_out.apart(x, is_out, degree, Model("chebyshev", mapping))
    parts = Parts(x, n_series, degree, mapping, "chebyshev", dtype=torch.float64, is_signed=True, is_out=x_out)
    size = degree + 1
    signs_of_rows = signs(x, size)
    coef = x.new_zeros((1, size), dtype=torch.float64) if coef is None else coef.double() * signs_of_rows
    total = None
    for part in parts:
        residuals = part.matrix.residuals(part.coefficients(coef.expand(n_series, size)), part.operand(y))
        if is_out is not None:
            part.matrix.samples(residuals).masked_fill_(part.rows(is_out), 0.0)
        part_weight = None if weight is None else part.operand(weight)
        total = part.add(part.functions.normal(residuals, part_weight, want_gram=want_gram), total)
    if total is None:  # no samples
        total = x.new_zeros((n_series, (3 if want_gram else 1) * size + 1), dtype=torch.float64)
    of_residuals, squares = total[:, -size - 1 : -1] * signs_of_rows, total[:, -1]
    of_x = None
    if want_gram:
        low, high = total[:, :size] * signs_of_rows, total[:, size : 2 * size] * (signs_of_rows[-1] * signs_of_rows)
        of_x = torch.cat((low, 2.0 * high[:, 1:] - low.flip(1)[:, 1:]), 1)
    return MomentSums(of_x, -of_residuals, squares)


def triangle(x: Tensor, weight: Tensor | None, degree: int, mapping: AffineMap | None) -> Tensor:
    """The factor R, (degree + 1, degree + 1), of a QR decomposition of the rows sqrt(w_n) T_k(t_n); for x (1, N).

    ``R.T @ R`` is the Gram matrix, and R has all digits of singular values that the Gram matrix has squared away. A
    chunk at a time: the factor so far and the rows of the next chunk have the same R as all rows together (Golub & Van
    Loan, Matrix Computations, 4th ed., 5.1: any orthogonal triangularisation; "tall skinny QR" in later work).
    """
    factor = x.new_zeros((degree + 1, degree + 1), dtype=torch.float64)
    is_out = left_out.zeros(weight)
    for part in Parts(x, 1, degree, mapping, "chebyshev", dtype=torch.float64, is_out=is_out):
        rows = part.functions.functions()[0].T
        if weight is not None:
            rows = rows * part.operand(weight)[0].sqrt().unsqueeze(1)
        factor = torch.linalg.qr(torch.cat((factor, rows)), mode="r").R
    return factor


def gram(x: Tensor, weight: Tensor | None, degree: int, mapping: AffineMap | None, basis: str) -> Tensor:
    """The Gram matrix sum_n w_n P_j(t_n) P_k(t_n) of each series, (S, degree + 1, degree + 1), in float64."""
    n_series = x.shape[0] if weight is None else max(x.shape[0], weight.shape[0])
    total = x.new_zeros((n_series, (degree + 1) ** 2), dtype=torch.float64)
    x, is_out = left_out.apart(x, left_out.zeros(weight), degree, Model(basis, mapping))
    for part in Parts(x, n_series, degree, mapping, basis, dtype=torch.float64, is_out=is_out):
        rows = part.functions.functions()
        left = rows if weight is None else rows * part.operand(weight).unsqueeze(1)
        total = part.add((left @ rows.transpose(1, 2)).flatten(1), total)
    return total.unflatten(1, (degree + 1, degree + 1))
