"""The elementwise polynomial of a few elements: the pass of `activation` in numpy, whose calls cost a third of torch's.

All terms stand side by side, so that one call adds them all up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfit.backends import sizes
from polyfit.backends.chunked.activation_plan import LARGEST_HORNER, Plan
from polyfit.backends.results import Wants

Array = np.ndarray[Any, Any]


def is_short(x: Tensor, coef: Tensor) -> bool:
    """Whether these are few, and of a kind that numpy has."""
    return (
        x.numel() * coef.shape[1] <= sizes.current().short_activation
        and x.dtype in (torch.float32, torch.float64)
        and x.device.type == "cpu"
    )


def activate(plan: Plan, x: Tensor, coef: Tensor) -> Tensor:
    """p_g(x) for x (outer, groups, inner) and coef (groups, degree + 1)."""
    samples = x.detach().numpy()
    with np.errstate(all="ignore"):
        columns = _columns(coef, plan.to_values, samples)
        factors, at_lo, at_hi = columns[:-2], columns[-2], columns[-1]
        u, v = _in_window(plan, samples)
        if len(factors) == 1:
            values = np.broadcast_to(factors[0], v.shape).copy()
        elif len(factors) - 1 <= LARGEST_HORNER:
            values = v * factors[-1]
            values += factors[-2]
            for factor in factors[-3::-1]:
                values *= v
                values += factor
        else:
            terms = np.empty((len(factors), *v.shape), v.dtype)
            terms[0] = 1.0
            _fill(plan, terms, v)
            terms *= factors[:, None]
            values = terms.sum(0)
        if plan.continues:
            e = u - v
            values += np.maximum(e, 0.0) * at_hi
            values += np.minimum(e, 0.0) * at_lo
    return torch.from_numpy(values)


def activate_backward(
    plan: Plan, grad: Tensor, x: Tensor, coef: Tensor, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """See `activation.activate_backward`."""
    samples, degree = x.detach().numpy(), len(plan.steps)
    terms = np.empty((degree + 1 + 2 * plan.continues, *samples.shape), samples.dtype)
    terms[0] = g = grad.detach().numpy()
    grad_x = grad_coef = None
    with np.errstate(all="ignore"):
        u, v = _in_window(plan, samples)
        _fill(plan, terms[: degree + 1], v)
        if wants.x:
            slopes = (terms[:degree] * _columns(coef, plan.to_slopes, samples)[:, None]).sum(0)
            if plan.is_clamped and plan.window is not None:
                slopes[(u < plan.window[0]) | (u > plan.window[1])] = 0.0
            grad_x = torch.from_numpy(slopes)
        if wants.coef:
            if plan.continues:
                e = u - v
                np.multiply(e, g, out=terms[-2])
                np.multiply(np.abs(e, out=e), g, out=terms[-1])
            sums = terms.sum((1, 3), dtype=np.float64)
            found = sums[: degree + 1] * plan.factors.numpy()[:, None]
            if plan.continues:  # see `activation.activate_backward`
                of_e = plan.of_e.numpy()
                found += np.where(of_e == 0.0, 0.0, of_e * sums[-2:]).sum(1)
            grad_coef = torch.from_numpy(np.ascontiguousarray(found.T))
    return grad_x, grad_coef


def _columns(coef: Tensor, matrix: Tensor, like: Array) -> Array:
    """Coefficients (G, K) times a matrix, (columns, G, 1)."""
    wide = coef.detach().double().numpy()
    return (wide @ matrix.numpy()).T.astype(like.dtype)[..., None]


def _in_window(plan: Plan, x: Array) -> tuple[Array, Array]:
    """The samples in the units of v, and v, which is these in the window."""
    u = x
    if plan.center or plan.factor != 1.0 or plan.shift:
        u = (x - plan.center) * plan.factor + plan.shift
    if plan.window is None:
        return u, u
    return u, np.minimum(np.maximum(u, plan.window[0]), plan.window[1])


def _fill(plan: Plan, terms: Array, v: Array) -> None:
    """Fill terms[1:] by the recurrence from terms[0]."""
    for k, step in enumerate(plan.steps):
        after = np.multiply(terms[k], v, out=terms[k + 1])
        if step.adds:
            after *= step.a
            after += terms[k - 1]
        if step.b:
            after += step.b * terms[k]
