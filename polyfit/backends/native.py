"""Descent on the quadratic of the squared loss in C++, for impl="compile": 40 ns an epoch of Adam, 5 us in numpy.

`descent.cpp` is compiled when a number of coefficients and a rule are first met, which takes half a second.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("descent.cpp")
# The fewest series that a thread takes: to be measured.
_FEW_SERIES = 64


@functools.lru_cache(maxsize=64)
def _compiled(n_coef: int, rule: str) -> Callable[..., None]:
    from torch._inductor.cpp_builder import get_cpp_compiler

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder) / "descent.so"
        options = ["-O3", "-std=c++17", "-march=native", "-fPIC", "-shared", f"-DP={n_coef}", f"-DRULE={rule}"]
        done = subprocess.run(
            [get_cpp_compiler(), *options, str(_SOURCE), "-o", str(library)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the C++ compiler failed; pass impl='torch'. It says:\n{done.stderr}")
        function = ctypes.CDLL(str(library)).descend
    function.restype = None
    return function


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a contiguous tensor."""
    if tensor is None:
        return ctypes.c_void_p(None)
    if not tensor.is_contiguous():
        raise ValueError(f"strides {tensor.stride()} of shape {tuple(tensor.shape)}; the loop reads contiguous tensors")
    return ctypes.c_void_p(tensor.data_ptr())


def descent_loop(
    quadratic: tuple[Tensor, ...], rule: str, constants: tuple[float, ...], lr_scale: Tensor | None
) -> Callable[..., None]:
    """Descent on the quadratic of the squared loss, many epochs in a call, on the CPU in float64.

    Args:
        quadratic: the tensors of `polyfit.training.quadratic.Quadratic.tensors`; contiguous.
        rule: the variant of the update rule.
        constants: of the rule.
        lr_scale: factors of the rate (S,), contiguous, or None.

    Returns:
        A loop for `polyfit.training.engines.Launching`.
    """
    n_series, n_coef = quadratic[1].shape
    function = _compiled(n_coef, rule)
    held = (*quadratic, torch.tensor(constants, dtype=torch.float64, device="cpu"))
    stride_internal = 0 if len(quadratic[4]) == 1 else n_coef * n_coef

    def run(
        coef: Tensor,
        memory: Tensor,
        table: Tensor,
        first: int,
        last: Tensor,
        every: int,
        losses: Tensor,
        norms: Tensor,
        path: Tensor | None,
    ) -> None:
        fixed = [_pointer(part) for part in held]
        fixed += [ctypes.c_int64(stride_internal), _pointer(table), _pointer(lr_scale)]
        out = [_pointer(part) for part in (coef, memory, losses, norms, path)]

        def descend(start: int, stop: int) -> None:
            function(
                *(ctypes.c_int64(value) for value in (start, stop, n_series)), *fixed,
                ctypes.c_int64(first), _pointer(last), ctypes.c_int64(every), *out,
            )  # fmt: skip

        n_threads = min(torch.get_num_threads(), max(1, n_series // _FEW_SERIES))
        if n_threads == 1:
            descend(0, n_series)
            return
        cuts = [n_series * i // n_threads for i in range(n_threads + 1)]
        with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(descend, cuts[:-1], cuts[1:]))

    return run
