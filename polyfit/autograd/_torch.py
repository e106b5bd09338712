"""What the autograd Functions need of PyTorch that is not public: one place to look when PyTorch changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import (
    get_unwrapped,
    is_functorch_wrapped_tensor,
    is_legacy_batchedtensor,
    maybe_get_bdim,
)
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from polyfit.backends import sizes


def in_forward_mode() -> bool:
    return forward_ad._current_level >= 0


def is_transformed() -> bool:
    """Whether a transform of torch.func is active."""
    return torch._C._are_functorch_transforms_active()


def is_eager() -> bool:
    """Whether a call is an ordinary one: no tracer, no transform, no forward mode and no export sees it."""
    return not (
        torch.compiler.is_compiling()  # first: the compiler does not know the others
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
        or torch.compiler._is_exporting_flag
    )


@contextlib.contextmanager
def without_transforms(x: Tensor, axis: int) -> Iterator[Tensor]:
    """The numbers of all examples of x, for a block of code that runs as if no transform of torch.func were active.

    The axes of examples stand where `axis`, from the front or from the back, keeps its place.
    """
    if not is_transformed():
        yield x
        return
    with temporarily_clear_interpreter_stack():
        places = []  # of the axes of examples, the innermost transform first
        while is_functorch_wrapped_tensor(x):
            places.append(maybe_get_bdim(x))  # -1 for another transform than vmap
            x = get_unwrapped(x)
        for i, place in enumerate(reversed([place for place in places if place >= 0])):
            x = x.movedim(place + i, 0) if axis < 0 else x.movedim(place, -1)
        yield x


def is_in_batches(grad: Tensor | None) -> bool:
    """Whether a gradient is one of a batch (`is_grads_batched=True`, `torch.autograd.functional`, `vectorize=True`).

    These come from an older vmap, which does not use the vmap rules of Functions.
    """
    return grad is not None and not torch.compiler.is_compiling() and is_legacy_batchedtensor(grad)


def pulls_back_formula(grad: Tensor) -> bool:
    """Whether a backward must be plain PyTorch: in forward mode, and for gradients in batches."""
    return not torch.compiler.is_compiling() and (in_forward_mode() or is_legacy_batchedtensor(grad))


def is_exporting() -> bool:
    """Whether torch.export sees the call.

    The flag that `torch.compiler.is_exporting` returns. The compiler of torch 2.11 takes that function for
    true in every compiled call.
    """
    return torch.compiler._is_exporting_flag


def runs_formula() -> bool:
    """Whether the call must be plain PyTorch: in forward mode, in an export, under a transform that is compiled."""
    return in_forward_mode() or is_exporting() or (torch.compiler.is_compiling() and is_transformed())


def _count_of_all(x: Tensor) -> int:
    """The numbers of x in all examples of vmap."""
    while is_functorch_wrapped_tensor(x):
        x = get_unwrapped(x)
    return x.numel()


def is_few_under_transforms(x: Tensor, coef: Tensor) -> bool:
    """Whether a transform of torch.func sees so few samples that plain PyTorch is faster than a Function.

    A Function takes some 0.5 ms for each transform, whatever it computes: PyTorch makes a class for each call.
    """
    if not is_transformed() or x.device.type != "cpu":
        return False
    n_series = _count_of_all(coef) // coef.shape[-1]
    return max(_count_of_all(x), x.shape[-1] * n_series) <= sizes.current().transformed


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """The same as ``function.apply(*args)``, in half the time for an eager call.

    For Functions with a `setup_context`, PyTorch binds the arguments to the signature of `forward` at each call, to
    fill in defaults. That takes 30 us, and ours have no defaults.
    """
    if torch.compiler.is_compiling() or is_transformed():
        return function.apply(*args)
    args = unwrap_dead_wrappers(args)
    return super(torch.autograd.Function, function).apply(*args)  # pyright: ignore[reportAttributeAccessIssue]
