"""Which implementation carries an operation out, and the settings that it runs under."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from polyfit._checks import check_choice

IMPLS = ("auto", "triton", "torch", "compile")

P = ParamSpec("P")
R = TypeVar("R")


# Looked up once, at import: no compiler of torch can trace the look-up.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def resolve_impl(impl: str, device: torch.device, degree: int = 0) -> str:
    """The implementation that `impl` stands for on a device: "triton", "torch" or "compile".

    "auto" is "triton" on a GPU where Triton is installed and "torch" everywhere else. "compile" is a loop that
    torch.compile makes, for CPUs.

    Args:
        impl: "auto", "triton", "torch" or "compile".
        device: of the tensors.
        degree: of the polynomial.

    Raises:
        ValueError: ``impl`` is unknown, or cannot run on this device or for this degree.

    >>> resolve_impl("auto", torch.device("cpu"))
    'torch'
    """
    if impl == "torch":
        return impl
    if impl == "auto":
        return "triton" if device.type == "cuda" and _HAS_TRITON else "torch"
    if impl == "compile":
        _check_compile(device, degree)
        return impl
    check_choice("impl", impl, IMPLS)
    if not _HAS_TRITON:
        raise ValueError(
            "impl='triton' needs Triton, which is not installed. Builds of torch for GPUs bring it; beside others,"
            " install it with: pip install 'fused-polyfit[triton]'. Or pass impl='auto' or 'torch'"
        )
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"impl='triton' needs tensors on a GPU and got {device}; move them, or pass impl='auto'")
    return impl


def resolve_fit_impl(impl: str, device: torch.device) -> str:
    """The implementation that `impl` stands for where moments are wanted: "triton" or "torch"."""
    if impl == "compile":
        raise ValueError("impl='compile' is for losses; pass impl='auto', 'torch' or 'triton' to fit")
    return resolve_impl(impl, device)


def _check_compile(device: torch.device, degree: int) -> None:
    from polyfit.backends import inductor

    if device.type != "cpu":
        raise ValueError(f"impl='compile' is for tensors on a CPU and got {device}; pass impl='auto'")
    if degree > inductor.LARGEST_DEGREE:
        raise ValueError(
            f"impl='compile' takes degrees up to {inductor.LARGEST_DEGREE} and got {degree}, which would compile for"
            " minutes; pass impl='torch'"
        )
    if not torch.compiler.is_compiling() and not inductor.has_compiler():
        raise ValueError("impl='compile' needs a C++ compiler and found none; install g++, or pass impl='torch'")


def is_traced() -> bool:
    """Whether torch.compile, make_fx or FakeTensorMode sees the call."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def is_fused_by_compiler(x: Tensor) -> bool:
    """Whether a compiler makes the loop itself, as Inductor does on a CPU. An operator would be opaque to it."""
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A block of code that runs as if autocast were off. To enter torch.autocast takes 5 us: only where it is on."""
    is_on = torch._C._is_any_autocast_enabled() and torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if is_on else contextlib.nullcontext()


def autocast_is_off(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs as if autocast were off, which would reach into the matrix products of a pass."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        with without_autocast(next(arg.device for arg in args if isinstance(arg, Tensor))):
            return function(*args, **kwargs)

    return wrapper
