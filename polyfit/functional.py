"""The two differentiable operations, `polyval` and `polynomial_loss`: what a user calls.

They check and shape what is passed (`polyfit._checks`, `polyfit._problem`); the mathematics is in polyfit.autograd and
below.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polyfit import autograd, bases, formula, losses
from polyfit._channels import memory_order
from polyfit._checks import DTYPES
from polyfit._problem import batch_shape, broadcast, canonical_problem, check_operands, flat, is_flat
from polyfit.backends import resolve_impl


def _promoted(*tensors: Any) -> Sequence[Any]:
    """Under autocast, operands of several dtypes in the widest of these; otherwise the operands as they are."""
    dtypes = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}
    if len(dtypes) < 2 or not dtypes.issubset(DTYPES):  # the check says more
        return tensors
    device = next(tensor.device.type for tensor in tensors if isinstance(tensor, Tensor))
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    widest = functools.reduce(torch.promote_types, dtypes)
    return [tensor.to(widest) if isinstance(tensor, Tensor) else tensor for tensor in tensors]


# What the short way takes, see `_is_plain`; everything else is checked, and refused or taken, by the general way.
_PLAIN_TYPES = {Tensor, torch.nn.Parameter}
_PLAIN_IMPLS, _PLAIN_REDUCTIONS = ("auto", "torch"), ("mean", "sum")


def _is_plain(coef: Tensor, x: Tensor, *others: Tensor) -> bool:
    """Whether the operands are plain tensors of one short series, or of series with samples of their own.

    They have nothing that could be wrong. Only names and numbers are left to check, once for each set of them.
    """
    if type(coef) not in _PLAIN_TYPES or type(x) not in _PLAIN_TYPES:
        return False
    dtype = x.dtype
    if coef.dtype != dtype or not autograd.is_short(x, coef, "torch") or coef.shape[-1] == 0:
        return False
    is_shared = x.dim() < coef.dim()
    if len(others) > 1 and is_shared:  # samples of weight zero differ from series to series
        return False
    shape = (coef.shape[0], x.shape[0]) if is_shared else x.shape
    for other in others:
        if type(other) not in _PLAIN_TYPES or other.dtype != dtype or other.shape != shape:
            return False
    return all(tensor.is_cpu and tensor.layout is torch.strided for tensor in (coef, x, *others))


def _is_plain_domain(domain: Sequence[float] | None) -> bool:
    """Whether it cannot change: the key of a cache."""
    return domain is None or (type(domain) is tuple and all(type(bound) in {float, int} for bound in domain))


@functools.lru_cache(maxsize=256)
def _plain_model(
    basis: str, domain: tuple[float, float] | None, dtype: torch.dtype, loss: str | losses.Loss | None = None
) -> formula.Model:
    """The model of arguments that are checked."""
    mapping = bases.affine_map(domain, bases.resolve(basis), dtype)
    return formula.Model(basis, mapping, None if loss is None else losses.resolve(loss))


@functools.lru_cache(maxsize=256)
def _plain_terms(
    loss: str | losses.Loss,
    reduction: str,
    basis: str,
    domain: tuple[float, float] | None,
    dtype: torch.dtype,
    n_losses: int | None,
) -> autograd.Reduced:
    return autograd.Reduced(_plain_model(basis, domain, dtype, loss), reduction, n_losses, "torch")


def polyval(
    x: Tensor,
    coef: Tensor,
    *,
    basis: str = "power",
    domain: Sequence[float] | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Evaluate polynomials, differentiably.

    .. math:: p(x) = \sum_{k=0}^{d} c_k \, P_k(t), \qquad t = \text{the image of } x \text{ on the basis's window}

    with P_k the polynomials of the basis (t**k for "power"), and t = x where no domain is given.

    Args:
        x: where to evaluate. Shape ``(*batch, N)``, samples on the last axis; any shape with a 1-D `coef`.
        coef: coefficients, lowest degree first on the last axis. Shape ``(*batch, degree + 1)``. The axes before the
            last one broadcast: x of shape ``(N,)`` is shared by all series.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre", as in numpy.polynomial.
        domain: ``(lo, hi)``, mapped affinely onto the window of the basis, which is [-1, 1], and [0, 1] for laguerre;
            None for no mapping.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton", "torch" or "compile", see
            `polynomial_loss`.

    Returns:
        Values in the dtype of x: in the shape of x for a 1-D `coef`, ``(*batch, N)`` otherwise. Differentiable in x and
        coef, to any order and in forward mode. The first derivative takes one pass over x and the incoming gradient.

    dtypes: float16, bfloat16 and float32 compute in float32, float64 in float64. x and coef must agree. (Under autocast
    both are converted to the wider dtype.)

    Raises:
        TypeError: not a floating-point tensor, or dtypes that differ.
        ValueError: shapes that do not fit, devices that differ, an unknown basis or impl, a domain with lo >= hi.

    >>> import torch, polyfit
    >>> polyfit.polyval(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0]))  # 1 + 3 x**2
    tensor([ 1.,  4., 13.])

    References:
        numpy.polynomial for names, normalisations and conventions; Clenshaw, Math. Comp. 9 (1955), for the kernel.
    """
    if impl in _PLAIN_IMPLS and _is_plain(coef, x) and type(basis) is str and _is_plain_domain(domain):
        return autograd.short_polyval(x, coef, _plain_model(basis, domain, x.dtype))  # pyright: ignore[reportArgumentType]
    x, coef = _promoted(x, coef)
    check_operands({"x": x, "coef": coef})
    x, coef = autograd.tied(x, coef)
    mapping = bases.affine_map(domain, bases.resolve(basis), formula.compute_dtype(x.dtype))
    model = formula.Model(basis, mapping)
    impl = resolve_impl(impl, x.device, coef.shape[-1] - 1)
    if is_flat(coef, (x,)):
        if x.dim() == 1:
            return autograd.polyval(x, coef, model, impl)
        order = memory_order([x])
        if order is None:
            return autograd.polyval(flat(x), coef, model, impl).view(x.shape)
        in_memory = x.permute(order)  # as other elementwise operations, in the layout of x
        values = autograd.polyval(flat(in_memory), coef, model, impl).view(in_memory.shape)
        return values.permute([order.index(axis) for axis in range(x.dim())])
    batch = batch_shape(coef, {"x": x})
    coef, (rows,) = broadcast(coef, (x,), batch)
    assert rows is not None
    return autograd.polyval(rows, coef, model, impl).view(*batch, x.shape[-1])


def polynomial_loss(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    *,
    loss: str | losses.Loss | formula.Pointwise = "mse",
    weight: Tensor | None = None,
    reduction: str = "mean",
    per_series: bool = False,
    basis: str = "power",
    domain: Sequence[float] | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Loss of a polynomial on data, with its gradients from the same pass over the data.

    .. math:: L = \frac{\sum_n w_n \, l(p(x_n), y_n)}{\sum_n w_n} \;\text{("mean")}, \qquad
              L = \sum_n w_n \, l(p(x_n), y_n) \;\text{("sum")}

    where p is `polyval` of x and coef, and l the pointwise loss, (p - y)**2 for "mse".

    Args:
        x: samples, ``(*batch, N)``; any shape with a 1-D `coef`.
        y: targets. The last axis is that of x, the axes before it broadcast.
        coef: coefficients, lowest degree first, ``(*batch, degree + 1)``.
        loss: "mse", "l1", "huber", "smooth_l1", "log_cosh", "quantile", "bce_with_logits", "poisson_nll" or "cauchy"
            with their defaults; an object from polyfit.losses with other parameters; or a function of your own, which
            takes predictions and targets of one shape and returns losses of that shape, as torch's own losses do with
            reduction="none". Your function must be differentiable PyTorch. The values and their gradients take
            one pass each, your function runs on the values by autograd.
        weight: multiplies the loss of a sample (1/sigma**2), shape as y; None for 1. A sample of weight zero is left
            out, whatever else it holds: NaN or infinity there reach neither the loss nor the gradients to x, y and
            coef. In the gradient to its weight, its loss counts as 0 if it is not finite.
        reduction: "mean" (the weighted mean), "sum", or "none" for the weighted loss of every sample.
        per_series: keep one loss for each series, shape ``batch``, instead of one over all series.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre", as in numpy.polynomial.
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for no mapping.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton", "torch", or "compile": a loop that
            torch.compile makes, for large data on a CPU. It takes degrees up to 10 and needs a C++ compiler. The first
            call for each kind of problem compiles for some seconds.

    Returns:
        The loss in the dtype of the operands: a scalar, ``batch`` with per_series, ``(*batch, N)`` for "none".
        Differentiable in x, y, coef and weight, to any order and in forward mode, under every transform of torch.func
        and torch.compile. For "mean" and "sum" the pass that gives the value also gives the gradients that are needed,
        and backward only scales them. (With per_series, an operand that series share takes one more pass in backward,
        since each series has its own upstream gradient.) Second derivatives take further passes; forward mode, and few
        samples under a transform of torch.func, take operations on whole tensors.

    dtypes: float16, bfloat16 and float32 compute in float32, float64 in float64. A float32 sum has a bounded number of
    terms, and sums of these sums are float64: the relative error does not grow with N. All operands must agree. (Under
    autocast they are converted to the widest dtype.)

    Raises:
        TypeError: not a floating-point tensor, or dtypes that differ; a class as loss, or a loss that does not return a
            tensor.
        ValueError: shapes that do not fit, devices that differ, a mean over no samples, an unknown name, a domain with
            lo >= hi; a loss of your own that returns another shape than that of the predictions.

    >>> import torch, polyfit
    >>> x = torch.linspace(-1, 1, 5)
    >>> coef = torch.zeros(3, requires_grad=True)
    >>> loss = polyfit.polynomial_loss(x, x**2, coef)
    >>> loss.backward()
    >>> loss.detach(), coef.grad
    (tensor(0.4250), tensor([-1.0000,  0.0000, -0.8500]))

    References:
        torch.nn.functional for the losses and their reductions; see polyfit.losses.
    """
    is_named = type(loss) is str or isinstance(loss, losses.Loss)
    is_one = reduction in _PLAIN_REDUCTIONS
    if (
        impl in _PLAIN_IMPLS
        and (is_named or _is_function(loss))
        and (is_one or (reduction == "none" and not per_series))
    ):
        samples = (x, y) if weight is None else (x, y, weight)
        n_losses = coef.shape[0] if per_series and isinstance(coef, Tensor) and coef.dim() == 2 else None
        is_plain = _is_plain(coef, *samples) and (n_losses is None or (is_named and weight is None))
        if is_plain and type(basis) is str and _is_plain_domain(domain):
            if is_named and is_one:
                terms = _plain_terms(loss, reduction, basis, domain, x.dtype, n_losses)  # pyright: ignore[reportArgumentType]
                return autograd.short_loss(x, y, coef, weight, terms)
            model = _plain_model(basis, domain, x.dtype, loss if is_named else None)  # pyright: ignore[reportArgumentType]
            return _composed(x, y, coef, weight, model if is_named else model._replace(loss=loss), reduction)
    if per_series and reduction == "none":
        raise ValueError("per_series=True reduces over samples, reduction='none' does not; pass one of the two")
    x, y, coef, weight = _promoted(x, y, coef, weight)
    x, y, coef, weight = autograd.tied(x, y, coef, weight)
    problem = canonical_problem(
        x,
        y,
        coef,
        loss=loss,
        weight=weight,
        reduction=reduction,
        per_series=per_series,
        basis=basis,
        domain=domain,
        impl=impl,
        in_any_order=True,
    )
    if reduction == "none":
        return _loss_of_each(x, y, coef, weight, problem.model, problem.domain, problem.impl)
    n_losses = (
        math.prod(problem.batch) if per_series and problem.batch else None
    )  # one series without a batch: a scalar
    operands, model = (problem.x, problem.y, problem.coef, problem.weight), problem.model
    if isinstance(model.loss, losses.Loss):
        result = autograd.polynomial_loss(*operands, autograd.Reduced(model, reduction, n_losses, problem.impl))
    else:

        def values(x: Tensor, coef: Tensor) -> Tensor:
            return autograd.polyval(x, coef, model, problem.impl)

        result = autograd.composed_loss(*operands, model, reduction, n_losses, values)
    return result if n_losses is None else result.view(problem.batch)


def _is_function(loss: object) -> bool:
    """Whether a loss is a function of the user's own."""
    return callable(loss) and not isinstance(loss, (type, losses.Loss))


def _composed(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, model: formula.Model, reduction: str
) -> Tensor:
    """A loss of the user's own, or the loss of each sample, for plain operands of one short series."""

    def values(x: Tensor, coef: Tensor) -> Tensor:
        return autograd.short_polyval(x, coef, model)

    if reduction == "none":
        return autograd.loss_of_each(x, y, coef, weight, model, values)
    return autograd.composed_loss(x, y, coef, weight, model, reduction, None, values)


def _loss_of_each(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    model: formula.Model,
    domain: Sequence[float] | None,
    impl: str,
) -> Tensor:
    """The weighted loss of every sample: first the values, then the loss, both differentiable; nothing is reduced."""

    def values(x: Tensor, coef: Tensor) -> Tensor:
        return polyval(x, coef, basis=model.basis, domain=domain, impl=impl)

    return autograd.loss_of_each(x, y, coef, weight, model, values).to(x.dtype)
