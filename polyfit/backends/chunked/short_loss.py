"""The loss of a polynomial on few samples of one series, and its gradients, in numpy: see `short`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyfit.backends.chunked import pointwise
from polyfit.backends.chunked.pointwise import Array
from polyfit.backends.chunked.short import Workspace, array, derivative, quiet, workspace_for
from polyfit.backends.results import Wants
from polyfit.formula import HARMLESS_PREDICTION, HARMLESS_TARGET, Model
from polyfit.losses import Loss


class Gradients(NamedTuple):
    """Gradients of a loss, each in the shape and the dtype of its operand; None where none was wanted."""

    x: Tensor | None
    y: Tensor | None
    coef: Tensor | None
    weight: Tensor | None


def _left_out(
    workspace: Workspace, x: Array, y: Array, coef: Array, weight: Array | None, model: Model, wants: Wants
) -> Array | None:
    """The samples that are left out; None if there are none.

    They have weight zero. If the gradient to the weight is wanted, their loss is that gradient: only those whose loss
    is not finite are left out.
    """
    if weight is None or weight.all():
        return None
    is_out = weight == 0.0
    if wants.weight:
        assert isinstance(model.loss, Loss)
        workspace.load(x, model)
        workspace.evaluate(coef, workspace.p.array)
        terms = pointwise.fill(model.loss, workspace.p, y, workspace.other)
        pointwise.finish(terms, workspace.p.array, workspace.other.array)
        is_out &= ~np.isfinite(workspace.other.array)
    return is_out


def _total(workspace: Workspace, terms: pointwise.Terms | None) -> float:
    """The sum of the losses."""
    if terms is None:
        return workspace.total()
    if terms.share is None:
        return workspace.product(0, 0)
    total = workspace.product(0, 1)
    return total - terms.share * workspace.product(0, 0) if terms.share else total


@quiet
def loss(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, model: Model, reduction: str, wants: Wants
) -> tuple[Tensor, Gradients]:
    """The reduced loss as a scalar, and its gradients, for x, y and weight (N,) and coef (degree + 1,)."""
    assert isinstance(model.loss, Loss)
    workspace = workspace_for(x, coef, model)
    samples, targets, factors = array(x), array(y), array(coef)
    weights = None if weight is None else array(weight)
    is_out = _left_out(workspace, samples, targets, factors, weights, model, wants)
    if is_out is not None:
        samples = np.where(is_out, model.harmless_x, samples)
        targets = np.where(is_out, HARMLESS_TARGET, targets)
    workspace.load(samples, model)
    p, other = workspace.p, workspace.other
    delta = p.array
    workspace.evaluate(factors, delta)
    if is_out is not None:
        delta[is_out] = HARMLESS_PREDICTION
    to_y = model.loss.slopes(p.tensor, torch.from_numpy(targets))[1].numpy() if wants.y else None

    terms = pointwise.fill(model.loss, p, targets, other)
    of_weight = None
    if weights is None:
        total = _total(workspace, terms)
    else:
        pointwise.finish(terms, delta, other.array)
        of_weight = other.array.copy() if wants.weight else None
        np.multiply(other.array, weights, out=other.array)
        delta *= weights
        total = workspace.total()
    scale = 1.0
    if reduction == "mean":
        scale = 1.0 / (len(samples) if weights is None else weights.sum(dtype=np.float64))
    value = torch.from_numpy(np.array(total * scale, factors.dtype))

    factor = scale if terms is None else terms.factor * scale
    grad_x = grad_coef = None
    if wants.coef:
        grad_coef = (workspace.moments() * factor).astype(factors.dtype)
    if wants.x:
        grad_x = np.empty_like(delta)
        workspace.evaluate(derivative(factors, model), grad_x)
        grad_x *= delta
        grad_x *= factor
    if to_y is not None:
        to_y *= scale if weights is None else weights * scale
    if of_weight is not None:
        if is_out is not None:
            of_weight[is_out] = 0.0
        if reduction == "mean":  # the slope of the denominator
            of_weight -= total * scale
            of_weight *= scale
    found = (grad_x, to_y, grad_coef, of_weight)
    return value, Gradients(*(None if part is None else torch.from_numpy(part) for part in found))
