"""Compile kernels ahead of time, as launched on a device that is not here, and read the machine code.

A launcher is run with its kernel replaced by a recorder, so that what is compiled has exactly the arguments,
specialisations, tile and warps of a real launch. Needs triton with the tools it bundles; no GPU.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import polyfit_kernels.evaluate
import polyfit_kernels.objective
from polyfit import losses


@dataclass(frozen=True)
class Device:
    """A device to compile for: target of the compiler, multiprocessors, threads in a warp."""

    target: GPUTarget
    processors: int
    warp: int


DEVICES = {
    "sm_80": Device(GPUTarget("cuda", 80, 32), 108, 32),
    "sm_90": Device(GPUTarget("cuda", 90, 32), 132, 32),
    "sm_100": Device(GPUTarget("cuda", 100, 32), 148, 32),
    "gfx942": Device(GPUTarget("hip", "gfx942", 64), 304, 64),
}


@dataclass(frozen=True)
class Code:
    """What the machine code of a kernel shows.

    Attributes:
        registers: of a thread.
        spills: loads and stores of registers to local memory.
        wide_loads: 128-bit loads from global memory in the code.
        wide_stores: 128-bit stores likewise.
        barriers: in the code.
    """

    registers: int
    spills: int
    wide_loads: int
    wide_stores: int
    barriers: int


class _Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.arguments = kernel, {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(0 < size < 2**31 for size in grid)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        options = {"num_warps": kwargs.pop("num_warps")}
        self.arguments = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
        self.options = options


_LAUNCHERS = {
    "objective": (polyfit_kernels.objective, "_objective_kernel", "objective"),
    "evaluate": (polyfit_kernels.evaluate, "_evaluate_kernel", "evaluate"),
    "evaluate_backward": (polyfit_kernels.evaluate, "_evaluate_backward_kernel", "evaluate_backward"),
}


def record(launcher: str, device: Device, *args: Any, **kwargs: Any) -> _Recorder:
    """What `launcher` launches its kernel with on that device."""
    module, kernel_name, name = _LAUNCHERS[launcher]
    recorder = _Recorder(getattr(module, kernel_name))
    with (
        mock.patch.object(module, kernel_name, recorder),
        mock.patch.object(module, "processors_and_warp", return_value=(device.processors, device.warp)),
    ):
        getattr(module, name)(*args, **kwargs)
    return recorder


_POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


def compile_recorded(recorder: _Recorder, device: Device) -> Any:
    """Compile as Triton's launcher would: ones and None become constants, multiples of 16 are known as such."""
    names = recorder.kernel.arg_names
    params = {param.name: param for param in recorder.kernel.params}
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(names):
        value = recorder.arguments[name]
        if params[name].is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(position,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name], divisible = _POINTERS[value.dtype], value.data_ptr() % 16 == 0
        elif isinstance(value, int):
            signature[name], divisible = "i32" if abs(value) < 2**31 else "i64", value % 16 == 0
        else:
            signature[name], divisible = "fp64", False
        if divisible:
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(recorder.kernel, signature, constants, attributes)
    return triton.compile(source, target=device.target, options=recorder.options)


@functools.cache
def _tools() -> Path:
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _run(tool: str, *arguments: str) -> str:
    result = subprocess.run([_tools() / tool, *arguments], capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


def inspect(compiled: Any, device: Device) -> Code:
    """Registers, spills, loads, stores and barriers of a compiled kernel."""
    if device.target.backend == "hip":
        assembly = compiled.asm["amdgcn"]
        found = {key: re.search(rf"\.{key}:\s*(\d+)", assembly) for key in ("vgpr_count", "vgpr_spill_count")}
        registers, spills = (int(match[1]) for match in found.values() if match is not None)
        return Code(
            registers,
            spills,
            len(re.findall(r"(?:global|buffer)_load_dwordx4", assembly)),
            len(re.findall(r"(?:global|buffer)_store_dwordx4", assembly)),
            len(re.findall(r"\bs_barrier\b", assembly)),
        )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, sass = _run("cuobjdump", "-res-usage", str(cubin)), _run("nvdisasm", "-c", str(cubin))
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None, usage
    return Code(
        int(registers[1]),
        len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        len(re.findall(r"\bLDG\.E\.128\b", sass)),
        len(re.findall(r"\bSTG\.E\.128\b", sass)),
        len(re.findall(r"\bBAR\.SYNC", sass)),
    )


# --- the grid ---


@dataclass(frozen=True)
class Variant:
    """One launch to compile, and what its code must show.

    Attributes:
        launcher: which one.
        degree: of the polynomial.
        reads: operands of which 128 bits are loaded at once.
        writes: per-sample outputs of which 128 bits are stored at once.
        options: of `launch`.
    """

    launcher: str
    degree: int
    reads: int
    writes: int = 0
    dtype: torch.dtype = torch.float32
    n_series: int = 1
    weight: bool = False
    domain: bool = False
    basis: str = "power"
    loss: losses.Loss = losses.MSE()  # noqa: RUF009 - frozen
    want_coef: bool = True
    want_x: bool = False
    want_y: bool = False

    @property
    def barriers(self) -> int:
        """At most so many: those of the one joint reduction, or none where there is nothing to reduce."""
        return 0 if self.launcher == "evaluate" else 4

    def record(self, device: Device) -> _Recorder:
        """What the launcher launches on the device. N is no multiple of anything; in a batch it is, as rows must be."""
        n_samples = (1 << 20) + 3 if self.n_series == 1 else 1 << 12
        x, y, weight = (torch.empty(self.n_series, n_samples, dtype=self.dtype) for _ in range(3))
        coef = torch.empty(self.n_series, self.degree + 1, dtype=self.dtype)
        mapping = (0.5, 2.0, 0.25) if self.domain else None
        if self.launcher == "evaluate":
            return record("evaluate", device, x, coef, mapping, self.basis)
        if self.launcher == "evaluate_backward":
            wants = {"want_x": self.want_x, "want_coef": self.want_coef}
            return record("evaluate_backward", device, y, x, coef, mapping, self.basis, **wants)
        wants = {"want_coef": self.want_coef, "want_x": self.want_x, "want_y": self.want_y}
        return record(
            "objective",
            device,
            x,
            y,
            coef,
            weight if self.weight else None,
            None,
            mapping,
            self.basis,
            *self.loss.kernel,
            **wants,
        )


VARIANTS = {
    "objective d=1": Variant("objective", 1, 2),
    "objective d=5": Variant("objective", 5, 2),
    "objective d=10": Variant("objective", 10, 2),
    "objective d=20": Variant("objective", 20, 2),
    "objective d=5, value only": Variant("objective", 5, 2, want_coef=False),
    "objective d=5, weight": Variant("objective", 5, 3, weight=True),
    "objective d=5, domain": Variant("objective", 5, 2, domain=True),
    "objective d=5, gradients to x and y": Variant("objective", 5, 2, 2, want_x=True, want_y=True),
    "objective d=5, batch": Variant("objective", 5, 2, n_series=8),
    "objective d=5, float16": Variant("objective", 5, 2, dtype=torch.float16),
    "objective d=5, bfloat16": Variant("objective", 5, 2, dtype=torch.bfloat16),
    "objective d=5, float64": Variant("objective", 5, 2, dtype=torch.float64),
    **{
        f"objective d={degree}, {basis}": Variant("objective", degree, 2, basis=basis)
        for basis in ("chebyshev", "legendre", "hermite", "hermite_e", "laguerre")
        for degree in (1, 5, 10, 20)
    },
    **{
        f"objective d={degree}, {' '.join(filter(None, loss.kernel[0].split('_')))}": Variant(
            "objective", degree, 2, loss=loss
        )
        for loss in (
            losses.L1(),
            losses.Huber(),
            losses.SmoothL1(),
            losses.LogCosh(),
            losses.Quantile(),
            losses.BCEWithLogits(),
            losses.PoissonNLL(),
            losses.PoissonNLL(False, True),
            losses.Cauchy(),
        )
        for degree in (1, 5, 10, 20)
    },
    "evaluate d=5": Variant("evaluate", 5, 1, 1),
    "evaluate d=20": Variant("evaluate", 20, 1, 1),
    "evaluate_backward d=5": Variant("evaluate_backward", 5, 2),
    "evaluate_backward d=5, gradient to x": Variant("evaluate_backward", 5, 2, 1, want_x=True),
}
CEILINGS = Path(__file__).with_name("register_ceilings.json")


def triton_series() -> str:
    """Major and minor version of Triton, which register counts depend on."""
    return ".".join(triton.__version__.split(".")[:2])


def code_of(variant: Variant, device: Device) -> Code:
    """Compile a variant for a device and read its code."""
    return inspect(compile_recorded(variant.record(device), device), device)


def main() -> None:
    """Record the registers of all variants with the installed Triton as its ceilings."""
    ceilings = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    ceilings[triton_series()] = {
        name: {device: code_of(variant, DEVICES[device]).registers for device in DEVICES}
        for name, variant in VARIANTS.items()
    }
    CEILINGS.write_text(json.dumps(ceilings, indent=1) + "\n")
    print(f"wrote the ceilings of Triton {triton_series()} to {CEILINGS}")


if __name__ == "__main__":
    main()
