"""Data for moments, their truth in float64 by NumPy, and the same by eager code in the dtype that computes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

Mapping = tuple[float, float, float] | None
Moments = tuple[Tensor, Tensor, Tensor]


def make_data(
    n_samples: int,
    x_rows: int,
    y_rows: int,
    weight_rows: int | None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Random x in [-2.25, 3.75), y about sin(x), weight in [0.5, 1.5) or None; rows each as asked for."""
    x = torch.rand(x_rows, n_samples) * 6 - 2.25
    y = x[:1].sin() + 0.1 * torch.randn(y_rows, n_samples)
    weight = None if weight_rows is None else torch.rand(weight_rows, n_samples) + 0.5
    return x.to(device, dtype), y.to(device, dtype), None if weight is None else weight.to(device, dtype)


def true_moments(x: Tensor, y: Tensor, weight: Tensor | None, degree: int, mapping: Mapping, offset: float) -> Moments:
    """Squares, with_y and of_x of the exact operands in float64, on the device of x."""
    center, scale, shift = mapping or (0.0, 1.0, 0.0)
    t = (x.double().cpu().numpy() - center) * scale + shift
    v = y.double().cpu().numpy() - offset
    w = np.ones((1, 1)) if weight is None else weight.double().cpu().numpy()
    terms = chebyshev.chebvander(t, 2 * degree)
    squares = np.sum(w * v * v + 0 * t, axis=1)
    with_y = np.sum((w * v)[..., None] * terms[..., : degree + 1], axis=1)
    of_x = np.sum(w[..., None] * terms + 0 * v[..., None], axis=1)
    results = (torch.from_numpy(np.ascontiguousarray(sums)).to(x.device) for sums in (squares, with_y, of_x))
    squares, with_y, of_x = results
    return squares, with_y, of_x


def eager_moments(x: Tensor, y: Tensor, weight: Tensor | None, degree: int, mapping: Mapping, offset: float) -> Moments:
    """The same by the recurrence up to 2 degree, in float64 for float64 and in float32 for all others."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    center, scale, shift = mapping or (0.0, 1.0, 0.0)
    t, v = (x.to(wide) - center) * scale + shift, y.to(wide) - offset
    w = torch.ones_like(v) if weight is None else weight.to(wide)
    terms = [torch.ones_like(t), t]
    for _ in range(2, 2 * degree + 1):
        terms.append(2 * t * terms[-1] - terms[-2])
    ones = torch.ones_like(t + v + w)
    with_y = torch.stack([(w * v * term).sum(1) for term in terms[: degree + 1]], 1)
    of_x = torch.stack([(w * term * ones).sum(1) for term in terms[: 2 * degree + 1]], 1)
    return (w * v * v * ones).sum(1), with_y, of_x


def assert_no_worse_than_eager(actual: Moments, eager: Moments, truth: Moments, degree: int) -> None:
    """As near to the truth as eager code, give or take the roundings of the recurrence: 4 a step.

    These are relative to what a sum would be without cancellation: of_x_0 for all of of_x, as |T_k| <= 1; for all of
    with_y at most the root of squares times of_x_0 (Cauchy and Schwarz).
    """
    squares, _, of_x = truth
    sizes = (squares, torch.sqrt(squares * of_x[:, 0]), of_x[:, 0])
    wide = eager[0].dtype
    for name, ours, plain, expected, size in zip(
        ("squares", "with_y", "of_x"), actual, eager, truth, sizes, strict=True
    ):
        assert ours.dtype == torch.float64, name
        assert ours.shape == expected.shape, name
        assert ours.isfinite().all(), f"{name}: {ours}"
        if not ours.numel():
            continue
        error, of_eager = (float((found.double() - expected).abs().max()) for found in (ours, plain))
        allowed = 2 * of_eager + 4 * (degree + 2) * torch.finfo(wide).eps * float(size.max())
        assert error <= allowed, f"{name}: off by {error:.3e}, allowed {allowed:.3e}"
