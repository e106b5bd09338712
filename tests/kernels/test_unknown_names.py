"""A kernel refuses the name of a basis, a loss or an update rule that it does not know: compiled and interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompilationError

from polyfit_kernels import bases, kan, losses, rules


@triton.jit
def _value_kernel(out_ptr, name: tl.constexpr):
    tl.store(out_ptr, bases.series(tl.load(out_ptr), (1.0, 2.0, 3.0), 2, name))


@triton.jit
def _slope_kernel(out_ptr, name: tl.constexpr):
    tl.store(out_ptr, bases.series_and_slope(tl.load(out_ptr), (1.0, 2.0, 3.0), 2, name)[1])


@triton.jit
def _next_term_kernel(out_ptr, name: tl.constexpr):
    t = tl.load(out_ptr)
    tl.store(out_ptr, bases.next_term(t, t, t, 1, name))


@triton.jit
def _squash_kernel(out_ptr, name: tl.constexpr):
    x = tl.load(out_ptr + tl.arange(0, 16))
    t, slope = kan._squashed(x, name)  # pyright: ignore[reportGeneralTypeIssues]
    tl.store(out_ptr + tl.arange(0, 16), t + slope)


@triton.jit
def _loss_kernel(out_ptr, name: tl.constexpr):
    p = tl.load(out_ptr)
    tl.store(out_ptr, losses.pointwise(p, p, p, name)[0])


@triton.jit
def _update_kernel(out_ptr, name: tl.constexpr):
    g = tl.load(out_ptr)
    constants = rules.constants(0.1, 0.2, 0.3, 0.4, tl.float32)
    new, _state = rules.update((g,), (g,), (g, g, g), g, g, g, constants, name, True)
    tl.store(out_ptr, new[0])


KERNELS: dict[str, tuple[Any, str, str]] = {
    "value": (_value_kernel, "hermite_e", "BASIS is not the name of a basis"),
    "slope": (_slope_kernel, "laguerre", "BASIS is not the name of a basis"),
    "next term": (_next_term_kernel, "power", "BASIS is not the name of a basis"),
    "squash": (_squash_kernel, "algebraic", "SQUASH is not the name of a squash"),
    "loss": (_loss_kernel, "poisson_nll_full", "LOSS is not the name of a loss"),
    "rule": (_update_kernel, "rmsprop_centered_momentum", "RULE is not the name of an update rule"),
}


def compile_for_a_gpu(kernel: Any, name: str) -> None:
    source = ASTSource(kernel, {"out_ptr": "*fp32", kernel.arg_names[1]: "constexpr"}, {(1,): name})
    triton.compile(source, target=GPUTarget("cuda", 90, 32))


@pytest.mark.codegen
@pytest.mark.parametrize("case", KERNELS)
def test_an_unknown_name_does_not_compile(case):
    kernel, known, message = KERNELS[case]
    compile_for_a_gpu(kernel, known)
    for unknown in (known.upper(), known + "s", ""):
        with pytest.raises(CompilationError) as caught:
            compile_for_a_gpu(kernel, unknown)
        error: BaseException = caught.value
        while error.__cause__ is not None:  # one for each function that calls another
            error = error.__cause__
        assert message in str(error)


@pytest.mark.interpreter
@pytest.mark.parametrize("case", KERNELS)
def test_an_unknown_name_is_not_interpreted(case):
    kernel, known, message = KERNELS[case]
    kernel[(1,)](torch.ones(16), known)
    for unknown in (known.upper(), known + "s", ""):
        with pytest.raises(triton.TritonError, match=message):
            kernel[(1,)](torch.ones(16), unknown)
