"""An elementwise polynomial of each group of channels, continued outside of its window, and its gradients.

    out[o, g, i]      = p_g(t(x[o, g, i]))
    grad_x[o, g, i]   = grad[o, g, i] dp_g/dx
    grad_coef[g, k]   = sum over o and i of grad[o, g, i] times the derivative of p_g to its coefficient k

`polyfit_kernels.continuation` has the formulas outside of the window. Results per element are in the dtype of x; half
types compute in float32. Channels with long runs of samples in memory go to `polyfit_kernels.planes`, others to
`polyfit_kernels.columns`.

Two numbers in float32, for each element: the values read 4 bytes and write 4, for about 2 d instructions. Their
backward pass reads 8 bytes and writes 4, for about 3 d: a step of the recurrence, and one for each gradient.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

from polyfit_kernels import continuation, launch, partials, sums
from polyfit_kernels.columns import activate_backward_columns_kernel, activate_columns_kernel
from polyfit_kernels.operands import compute_dtypes, processors_and_warp
from polyfit_kernels.planes import activate_backward_planes_kernel, activate_planes_kernel

Mapping = tuple[float, float, float] | None


def activate(x: torch.Tensor, coef: torch.Tensor, mapping: Mapping, basis: str, outside: str) -> torch.Tensor:
    """The values, like x and in its dtype.

    Args:
        x: the samples, (outer, groups, inner) contiguous.
        coef: (groups, degree + 1) in any strides, in the dtype of x or in a wider one.
        mapping: center, scale and shift of the map from domain to window, or None for t = x.
        basis: its name.
        outside: "linear", "clamp" or "extend".
    """
    x, coef = x.resolve_neg(), coef.resolve_neg()  # whole: a copy of some channels would lie closer together
    out = x.new_empty(x.shape)
    for part in _parts(x):
        launcher = _values_of_planes if _are_planes(x) else _values_of_columns
        launcher(
            x[:, part], coef[part], out[:, part], _model(x, coef, mapping, basis, outside), mapping or launch.IDENTITY
        )
    return out


def activate_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    coef: torch.Tensor,
    mapping: Mapping,
    basis: str,
    outside: str,
    *,
    want_x: bool,
    want_coef: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of sum(grad * activate(x)), for grad like x; other arguments as in `activate`.

    Returns:
        grad_x, like x and in its dtype, and grad_coef (groups, degree + 1) float64. None for a gradient that is not
        wanted.
    """
    grad, x, coef = grad.resolve_neg(), x.resolve_neg(), coef.resolve_neg()
    grad_x = x.new_empty(x.shape) if want_x else None
    new = torch.empty if x.numel() else torch.zeros  # without samples nothing is launched
    grad_coef = new(coef.shape, dtype=torch.float64, device=x.device) if want_coef else None
    for part in _parts(x) if want_x or want_coef else ():
        launcher = _backward_of_planes if _are_planes(x) else _backward_of_columns
        launcher(
            grad[:, part],
            x[:, part],
            coef[part],
            None if grad_x is None else grad_x[:, part],
            None if grad_coef is None else grad_coef[part],
            _model(x, coef, mapping, basis, outside),
            mapping or launch.IDENTITY,
        )
    return grad_x, grad_coef


def _parts(x: torch.Tensor) -> Iterator[slice]:
    """The channels of each launch, as many as a grid holds."""
    if x.numel() == 0:
        return
    (outer, n_groups, inner), policy = x.shape, launch.current()
    # A channel has at most so many programs, unless all programs together fill the device only once.
    programs = max(1, outer * inner // (policy.longest_run * launch.NVIDIA_WARP))
    step = max(1, policy.largest_grid // programs)
    for first in range(0, n_groups, step):
        yield slice(first, min(first + step, n_groups))


def _are_planes(x: torch.Tensor) -> bool:
    """Whether a program takes one channel: there is no other, or its runs of samples in memory are long."""
    return x.shape[1] == 1 or x.shape[2] * x.element_size() >= launch.current().plane_bytes


def _model(x, coef, mapping, basis, outside) -> dict[str, Any]:
    """The constants that all kernels share."""
    return {
        "DEGREE": coef.shape[1] - 1,
        "BASIS": basis,
        "OUTSIDE": outside,
        "HAS_DOMAIN": mapping is not None,
        "COMPUTE": compute_dtypes(x.dtype)[1],
    }


def _sums(grad_x, grad_coef, model, programs) -> dict[str, Any]:
    """The constants that backward kernels share."""
    want_coef = grad_coef is not None
    return {
        "WANT_X": grad_x is not None,
        "WANT_COEF": want_coef,
        "ONE_PROGRAM": programs == 1,
        "N_SUMS": continuation.n_sums(model["DEGREE"], model["OUTSIDE"], want_coef=want_coef),
        "LEVELS": sums.levels(model["DEGREE"] + 1),
    }


# --- planes ---


def _cut_planes(x, n_sums) -> tuple[launch.LaunchConfig, tuple[int, ...], dict[str, Any]]:
    """The cut of a launch, its numbers and its constants."""
    (outer, n_groups, inner), stride = x.shape, x.stride(0)
    is_contiguous = outer == 1 or stride == inner
    is_whole = n_groups > 1 or not is_contiguous
    vector = launch.LOAD_BYTES // x.element_size()
    if is_whole:  # else the last vector of the one channel is masked where it ends
        vector = math.gcd(vector, inner, 0 if is_contiguous else stride)
    config = launch.choose_planes(
        outer * inner, n_groups, vector, x.element_size(), *processors_and_warp(x.device), n_sums,
        policy=launch.current(),
    )  # fmt: skip
    of_runs = (1, 0) if is_contiguous else (inner // vector, stride // vector)
    numbers = (outer * inner, *of_runs, inner // vector if is_whole else 0, config.programs)
    constants = {
        "ROWS": config.rows,
        "COLUMNS": vector,
        "GROUPS": config.groups,
        "CONTIGUOUS": is_contiguous,
        "WHOLE": is_whole,
        "num_warps": config.num_warps,
    }
    return config, numbers, constants


def _values_of_planes(x, coef, out, model, mapping) -> None:
    config, numbers, constants = _cut_planes(x, 0)
    activate_planes_kernel[(config.grid(x.shape[1]),)](
        x, coef, out, *numbers, *coef.stride(), *mapping, **model, **constants
    )


def _backward_of_planes(grad, x, coef, grad_x, grad_coef, model, mapping) -> None:
    n_groups, n_coef = coef.shape
    config, numbers, constants = _cut_planes(x, 0 if grad_coef is None else n_coef)
    partial, tickets = None, None
    if grad_coef is not None:
        partial, tickets = partials.allocate(x.device, n_groups, config.programs, n_coef)
    registers = launch.registers_of_planes(x.element_size(), n_coef, processors_and_warp(x.device)[1])
    options = {} if registers is None else {"maxnreg": registers}
    activate_backward_planes_kernel[(config.grid(n_groups),)](
        grad, x, coef, grad_coef, partial, tickets, grad_x, *numbers, *coef.stride(), *mapping,
        **model, **_sums(grad_x, grad_coef, model, config.programs), **constants, **options,
    )  # fmt: skip


# --- columns ---


def _cut_columns(x, degree) -> tuple[launch.ColumnsConfig, int, tuple[int, ...], dict[str, Any]]:
    """The cut of a launch, its blocks of channels, its numbers and its constants."""
    (outer, n_groups, inner), stride = x.shape, x.stride(0)
    device = processors_and_warp(x.device)
    config = launch.choose_columns(outer, n_groups, inner, x.element_size(), *device, degree, policy=launch.current())
    vector = math.gcd(config.elements, inner if inner > 1 else n_groups, stride)
    numbers = (outer, n_groups if inner > 1 else n_groups // vector, inner // vector, stride // vector)
    constants = {
        "INNER": config.inner,
        "ROWS": config.rows,
        "COLUMNS": config.columns,
        "GROUPS": config.groups,
        "VECTOR": vector,
        "FULL": inner == config.inner and n_groups % config.channels == 0,
        "num_warps": config.num_warps,
    }
    return config, -(-n_groups // config.channels), numbers, constants


def _values_of_columns(x, coef, out, model, mapping) -> None:
    config, blocks, numbers, constants = _cut_columns(x, model["DEGREE"])
    activate_columns_kernel[(blocks * config.programs,)](
        x, coef, out, *numbers, config.programs, *coef.stride(), *mapping, **model, **constants
    )


def _backward_of_columns(grad, x, coef, grad_x, grad_coef, model, mapping) -> None:
    config, blocks, numbers, constants = _cut_columns(x, model["DEGREE"])
    partial, tickets = None, None
    if grad_coef is not None and config.programs > 1:
        size = config.channels * sums.width(coef.shape[1])
        shape = (blocks, config.programs + config.parts, size)
        partial = torch.empty(shape, dtype=torch.float64, device=x.device)
        tickets = partials.tickets(x.device, blocks * (1 + config.parts))
    activate_backward_columns_kernel[(blocks * config.programs,)](
        grad, x, coef, grad_coef, partial, tickets, grad_x,
        *numbers, config.programs, config.parts, *coef.stride(), *mapping,
        **({} if config.registers is None else {"maxnreg": config.registers}),
        PART=config.part,
        CHUNK=launch.COLUMN_SUMS_OF_A_THREAD * config.num_warps * processors_and_warp(x.device)[1],
        **model, **_sums(grad_x, grad_coef, model, config.programs), **constants,
    )  # fmt: skip
