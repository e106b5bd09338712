"""Launches of the Triton kernels: the only place that imports polyfit_kernels.

Operands are rows: x, y, weight (S or 1, N), coef (S, degree + 1). This module imports no triton: what a kernel can hold
is known without it, and a launcher is imported when it is first used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polyfit.backends.results import LossSums, MomentSums, Wants
from polyfit.bases import CHEBYSHEV, affine_map
from polyfit.formula import Model, compute_dtype
from polyfit.losses import MSE, within
from polyfit_kernels import kan_launch, launch

# The largest degree of a layer that the kernels of kan are compiled for.
LARGEST_KAN_DEGREE = kan_launch.LARGEST_DEGREE
# The largest degree whose descent on the quadratic runs in a kernel.
LARGEST_DESCENT_DEGREE = launch.LARGEST_DESCENT_DEGREE
# The most samples of a series that the kernel `resident` can hold.
largest_resident = launch.largest_resident


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make the device of the tensors the current one: Triton launches there."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _kernel_loss(model: Model, dtype: torch.dtype) -> tuple[str, float]:
    """The variant of the loss and its parameter, as a normal number of the dtype that computes."""
    variant, parameter = model.kernel_loss
    return variant, within(parameter, compute_dtype(dtype)) if parameter > 0.0 else parameter


def objective(
    x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None, upstream: Tensor | None, model: Model, wants: Wants
) -> LossSums:
    """Loss sums and their gradients, see `polyfit.backends.operators.objective`."""
    from polyfit_kernels.objective import objective as launch_objective

    with _on(x.device):
        return LossSums(
            *launch_objective(
                x, y, coef, weight, upstream, model.affine_map, model.basis, *_kernel_loss(model, x.dtype),
                want_coef=wants.coef, want_x=wants.x, want_y=wants.y, want_weight=wants.weight,
            )
        )  # fmt: skip


def evaluate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """Values (S, N)."""
    from polyfit_kernels.evaluate import evaluate as launch_evaluate

    with _on(x.device):
        return launch_evaluate(x, coef, model.affine_map, model.basis)


def evaluate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to x and coef of sum(grad * p(x))."""
    from polyfit_kernels.evaluate import evaluate_backward as launch_backward

    with _on(x.device):
        return launch_backward(grad, x, coef, model.affine_map, model.basis, want_x=wants.x, want_coef=wants.coef)


def activate(x: Tensor, coef: Tensor, model: Model) -> Tensor:
    """Values for x (outer, groups, inner) contiguous and coef (groups, degree + 1), like x."""
    from polyfit_kernels.activation import activate as launch_activate

    with _on(x.device):
        return launch_activate(x, coef, model.affine_map, model.basis, model.outside)


def activate_backward(
    grad: Tensor, x: Tensor, coef: Tensor, model: Model, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to x (like x) and to coef (float64) of sum(grad * activate(x)), for grad like x and contiguous."""
    from polyfit_kernels.activation import activate_backward as launch_backward

    with _on(x.device):
        return launch_backward(
            grad, x, coef, model.affine_map, model.basis, model.outside, want_x=wants.x, want_coef=wants.coef
        )


def kan(x: Tensor, coef: Tensor, bias: Tensor, basis: str, squash: str | None) -> Tensor:
    """The layer of polynomials on edges, see `polyfit.backends.operators.kan`. float32 is multiplied as TF32."""
    from polyfit_kernels.kan import kan as launch_kan

    with _on(x.device):
        return launch_kan(x, coef, bias, basis, squash)


def kan_backward(
    grad: Tensor, x: Tensor, coef: Tensor, basis: str, squash: str | None, wants: Wants
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients to x, in its dtype, and to coef, in float32, of sum(grad * y)."""
    from polyfit_kernels.kan import kan_backward as launch_backward

    with _on(x.device):
        return launch_backward(grad, x, coef, basis, squash, want_x=wants.x, want_coef=wants.coef)


def moments(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    degree: int,
    domain: tuple[float, float] | None,
    coef: Tensor | None,
    *,
    want_gram: bool,
) -> MomentSums:
    """Moments of x and of the residuals, see `polyfit.backends.operators.moments`.

    One launch gives the moments of x, with terms in the dtype of x. Where there is a polynomial, another one gives
    those of the residuals, computed in float64.
    """
    from polyfit_kernels.moments import moments as launch_moments
    from polyfit_kernels.objective import objective as launch_objective

    of_x = None
    with _on(x.device):
        if want_gram or coef is None:
            mapping = affine_map(domain, CHEBYSHEV, compute_dtype(x.dtype))
            squares, of_y, of_x = launch_moments(x, y, weight, degree, mapping)
            if coef is None:
                return MomentSums(of_x if want_gram else None, of_y, squares)
        n_series = max(part.shape[0] for part in (x, y, weight) if part is not None)
        wide = affine_map(domain, CHEBYSHEV, torch.float64)
        squares, _, gradient, *_ = launch_objective(
            x, y, coef.expand(n_series, degree + 1), weight, None, wide, "chebyshev", *MSE().kernel,
            compute=torch.float64,
        )  # fmt: skip
    assert gradient is not None
    return MomentSums(of_x, -0.5 * gradient, squares)


# --- loops over epochs ---


def descent_loop(
    quadratic: tuple[Tensor, ...], rule: str, constants: tuple[float, ...], lr_scale: Tensor | None
) -> Callable[..., None]:
    """Descent on the quadratic of the squared loss, many epochs in a launch.

    Args:
        quadratic: the tensors of `polyfit.training.quadratic.Quadratic.tensors`, on the GPU.
        rule: the variant of the update rule.
        constants: of the rule.
        lr_scale: factors of the rate (S,), or None.

    Returns:
        A loop for `polyfit.training.engines.Launching`.
    """
    from polyfit_kernels.descent import descent

    launch_descent: Callable[..., None] = descent
    device = quadratic[0].device

    def loop(coef: Tensor, memory: Tensor, table: Tensor, *rest: Any) -> None:
        with _on(device):
            launch_descent(*quadratic, coef, memory, rule, constants, table, lr_scale, *rest)

    return loop


def resident_loop(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    model: Model,
    scale: float,
    rule: str,
    constants: tuple[float, ...],
    lr_scale: Tensor | None,
) -> Callable[..., None]:
    """Descent on any loss with the data in registers, many epochs in a launch.

    Args:
        x: (S or 1, N).
        y: (S or 1, N).
        weight: (S or 1, N), or None.
        model: basis, mapping and loss.
        scale: a factor for the sums over samples.
        rule: the variant of the update rule.
        constants: of the rule.
        lr_scale: factors of the rate (S,), or None.

    Returns:
        A loop for `polyfit.training.engines.Launching`.
    """
    from polyfit_kernels.resident import resident

    launch_resident: Callable[..., None] = resident

    def loop(coef: Tensor, memory: Tensor, table: Tensor, *rest: Any) -> None:
        with _on(coef.device):
            launch_resident(
                x, y, weight, coef, memory, model.affine_map, model.basis, *_kernel_loss(model, x.dtype), rule,
                constants, table, lr_scale, scale, *rest,
            )  # fmt: skip

    return loop
