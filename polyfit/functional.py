"""The two differentiable operations, `polyval` and `polynomial_loss`: validation and shapes.

Everything here is about what a user may pass; the mathematics lies in polyfit.autograd and below, which sees canonical
operands only: x, y, weight (N,) or (S, N), coef (degree + 1,) or (S, degree + 1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polyfit import autograd, bases, formula, losses
from polyfit._checks import DTYPES, check_choice, check_coef, check_tensors
from polyfit.backends import operators

_REDUCTIONS = ("mean", "sum", "none")


def _promoted(*tensors: Any) -> Sequence[Any]:
    """Under autocast, which leaves a model with tensors of several dtypes, all in the widest; else as they are."""
    dtypes = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}
    if len(dtypes) < 2 or not dtypes.issubset(DTYPES):  # the check says more
        return tensors
    device = next(tensor.device.type for tensor in tensors if isinstance(tensor, Tensor))
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    widest = functools.reduce(torch.promote_types, dtypes)
    return [tensor.to(widest) if isinstance(tensor, Tensor) else tensor for tensor in tensors]


def _batch_shape(coef: Tensor, samples: dict[str, Tensor]) -> torch.Size:
    """What stands before the last axis, broadcast; the last axes of the samples must agree."""
    reference = next(iter(samples))
    n_samples = samples[reference].shape[-1:]
    for name, tensor in samples.items():
        if tensor.shape[-1:] != n_samples:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and {reference} {tuple(samples[reference].shape)};"
                " the last axis is samples and must agree"
            )
        if tensor.dim() == 0 and coef.dim() > 1:
            raise ValueError(
                f"{name} has no axis of samples, which coef of shape {tuple(coef.shape)} asks for;"
                f" pass {name}.reshape(1)"
            )
    if coef.dim() == 1 and all(tensor.dim() <= 1 for tensor in samples.values()):
        return torch.Size(())
    try:
        return torch.broadcast_shapes(coef.shape[:-1], *(tensor.shape[:-1] for tensor in samples.values()))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in samples.items())
        raise ValueError(
            f"batches do not fit: coef {tuple(coef.shape)} is (*batch, degree + 1) and {shapes} are (*batch, samples);"
            " what stands before the last axis must broadcast"
        ) from None


def _flat(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 1 else tensor.reshape(-1)


def _is_flat(coef: Tensor, samples: Sequence[Tensor]) -> bool:
    """Whether all samples are of one series and can be seen as one axis without a copy."""
    shape = samples[0].shape
    return coef.dim() == 1 and all(
        tensor.shape == shape and (tensor.dim() <= 1 or tensor.is_contiguous()) for tensor in samples
    )


def _as_rows(tensor: Tensor, batch: torch.Size, n_series: int) -> Tensor:
    """(S, K) for a tensor (*batch, K), or (K,) where one row serves all series."""
    width = tensor.shape[-1]
    if all(size == 1 for size in tensor.shape[:-1]):
        return _flat(tensor)
    return tensor.expand(*batch, width).reshape(n_series, width)


def _broadcast(coef: Tensor, samples: Sequence[Tensor | None], batch: torch.Size) -> tuple[Tensor, list[Tensor | None]]:
    """Canonical operands for a batch: coef (S, degree + 1), each of the samples (N,) or (S, N)."""
    n_series = math.prod(batch)
    rows = [None if tensor is None else _as_rows(tensor, batch, n_series) for tensor in samples]
    return coef.expand(*batch, coef.shape[-1]).reshape(n_series, coef.shape[-1]), rows


class Problem(NamedTuple):
    """Checked operands of a loss, in canonical shape.

    Attributes:
        x: (N,), shared by all series, or (S, N).
        y: likewise.
        coef: (degree + 1,) or (S, degree + 1).
        weight: like x, or None.
        mapping: from domain to window, or None.
        basis: its name.
        loss: the pointwise loss: an object of polyfit.losses, or a function of the user's.
        impl: "triton" or "torch".
        batch: what the series stand for, S elements.
        domain: what is mapped onto the window of the basis, or None.
    """

    x: Tensor
    y: Tensor
    coef: Tensor
    weight: Tensor | None
    mapping: bases.AffineMap | None
    basis: str
    loss: losses.Loss | formula.Pointwise
    impl: str
    batch: torch.Size
    domain: bases.Interval | None


def canonical_problem(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    *,
    loss: str | losses.Loss | formula.Pointwise,
    weight: Tensor | None,
    reduction: str,
    per_series: bool,
    basis: str,
    domain: Sequence[float] | None,
    impl: str,
) -> Problem:
    """Check the arguments of `polynomial_loss` and bring its operands into canonical shape, as views where possible."""
    check_tensors({"x": x, "y": y, "coef": coef, "weight": weight})
    check_coef(coef)
    x, y, coef, weight = autograd.tied(x, y, coef, weight)
    if callable(loss) and not isinstance(loss, losses.Loss):
        pointwise: losses.Loss | formula.Pointwise = loss  # the user's own
    else:
        pointwise = losses.resolve(loss)
    check_choice("reduction", reduction, _REDUCTIONS)
    bounds = None if domain is None else bases.interval(domain)
    mapping = bases.affine_map(bounds, bases.resolve(basis), formula.compute_dtype(x.dtype))
    impl = operators.resolve_impl(impl, x.device, coef.shape[-1] - 1)
    samples = {"x": x, "y": y} if weight is None else {"x": x, "y": y, "weight": weight}
    batch = _batch_shape(coef, samples)
    if reduction == "mean" and (0 in x.shape[-1:] or (0 in batch and not per_series)):
        raise ValueError(
            "reduction='mean' over no samples is not defined; pass at least one sample, or reduction='sum'"
        )
    if not batch or (not per_series and _is_flat(coef, list(samples.values()))):
        flat_weight = None if weight is None else _flat(weight)
        return Problem(_flat(x), _flat(y), coef, flat_weight, mapping, basis, pointwise, impl, torch.Size(()), bounds)
    coef, (x_rows, y_rows, weight_rows) = _broadcast(coef, (x, y, weight), batch)
    assert x_rows is not None
    assert y_rows is not None
    return Problem(x_rows, y_rows, coef, weight_rows, mapping, basis, pointwise, impl, batch, bounds)


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
        coef: coefficients, lowest degree first on the last axis. Shape ``(*batch, degree + 1)``. What stands before the
            last axes broadcasts: x of shape ``(N,)`` is shared by all series.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre", as in numpy.polynomial.
        domain: ``(lo, hi)``, mapped affinely onto the window of the basis, which is [-1, 1], and [0, 1] for laguerre;
            None for no mapping.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton", "torch" or "compile", see
            `polynomial_loss`.

    Returns:
        Values in the dtype of x, of the shape of x for a 1-D `coef` and ``(*batch, N)`` otherwise. Differentiable in x
        and coef, to any order and in forward mode; one pass over x and the incoming gradient for the first.

    dtypes: float16, bfloat16 and float32 compute in float32, float64 in float64; x and coef must agree (under autocast
    they are brought to the wider of the two).

    Raises:
        TypeError: not a floating-point tensor, or dtypes that differ.
        ValueError: shapes that do not fit, devices that differ, an unknown basis or impl, a domain with lo >= hi.

    >>> import torch, polyfit
    >>> polyfit.polyval(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0]))  # 1 + 3 x**2
    tensor([ 1.,  4., 13.])

    References:
        numpy.polynomial for names, normalisations and conventions; Clenshaw, Math. Comp. 9 (1955), for the kernel.
    """
    x, coef = _promoted(x, coef)
    check_tensors({"x": x, "coef": coef})
    check_coef(coef)
    x, coef = autograd.tied(x, coef)
    mapping = bases.affine_map(domain, bases.resolve(basis), formula.compute_dtype(x.dtype))
    impl = operators.resolve_impl(impl, x.device, coef.shape[-1] - 1)
    if _is_flat(coef, (x,)):
        values = autograd.polyval(_flat(x), coef, mapping, basis, impl)
        return values if x.dim() == 1 else values.view(x.shape)
    batch = _batch_shape(coef, {"x": x})
    coef, (rows,) = _broadcast(coef, (x,), batch)
    assert rows is not None
    return autograd.polyval(rows, coef, mapping, basis, impl).view(*batch, x.shape[-1])


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
        y: targets; its last axis is that of x, what stands before broadcasts.
        coef: coefficients, lowest degree first, ``(*batch, degree + 1)``.
        loss: "mse", "l1", "huber", "smooth_l1", "log_cosh", "quantile", "bce_with_logits", "poisson_nll" or "cauchy"
            with their defaults, an object from polyfit.losses with others, or a function of your own that takes
            predictions and targets of one shape to losses of that shape. Your function must be differentiable PyTorch;
            it runs on the differentiable formula, not in the one pass, whatever `impl` is.
        weight: multiplies the loss of a sample (1/sigma**2), shape as y; None for one.
        reduction: "mean" (the weighted mean), "sum", or "none" for the weighted loss of every sample.
        per_series: keep one loss per series, shape ``batch``, instead of reducing over all of them.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre", as in numpy.polynomial.
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for no mapping.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton", "torch", or "compile": a loop that
            torch.compile makes, for large data on a CPU. It takes degrees up to 10, needs a C++ compiler, and its first
            call for each kind of problem compiles for some seconds.

    Returns:
        The loss in the dtype of the operands: a scalar, ``batch`` with per_series, ``(*batch, N)`` for "none".
        Differentiable in x, y, coef and weight, to any order and in forward mode, under every transform of torch.func
        and torch.compile. For "mean" and "sum" the pass that gives the value gives the gradients that are asked for,
        and backward only scales them. (An operand that series share takes one more pass in backward when per_series
        gives each series a gradient of its own.) Second derivatives and forward mode go through the differentiable
        formula.

    dtypes: float16, bfloat16 and float32 compute in float32 and add up in float64 beyond short runs, so that the
    relative error does not grow with N; float64 in float64. All operands must agree; under autocast they are brought to
    the widest of theirs.

    Raises:
        TypeError: not a floating-point tensor, or dtypes that differ.
        ValueError: shapes that do not fit, devices that differ, a mean over no samples, an unknown name, a domain with
            lo >= hi.

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
    if per_series and reduction == "none":
        raise ValueError("per_series=True reduces over samples, reduction='none' does not; pass one of the two")
    x, y, coef, weight = _promoted(x, y, coef, weight)
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
    )
    if reduction == "none":
        return _loss_of_each(x, y, coef, weight, problem.loss, basis, domain, problem.impl)
    n_losses = (
        math.prod(problem.batch) if per_series and problem.batch else None
    )  # one series without a batch: a scalar
    if isinstance(problem.loss, losses.Loss):
        result = autograd.polynomial_loss(*problem[:6], problem.loss, reduction, n_losses, problem.impl)
    else:
        result = formula.polynomial_loss(*problem[:6], problem.loss, reduction, n_losses)
    return result if n_losses is None else result.view(problem.batch)


def _loss_of_each(
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    weight: Tensor | None,
    loss: losses.Loss | formula.Pointwise,
    basis: str,
    domain: Sequence[float] | None,
    impl: str,
) -> Tensor:
    """The weighted loss of every sample: nothing to reduce, so values first, then the loss, both differentiable."""
    wide = formula.compute_dtype(x.dtype)
    p = polyval(x.to(wide), coef.to(wide), basis=basis, domain=domain, impl=impl)
    pointwise = loss.value if isinstance(loss, losses.Loss) else loss
    wide_weight = None if weight is None else weight.to(wide)
    return formula.elementwise_loss(p, y.to(wide), wide_weight, pointwise).to(x.dtype)
