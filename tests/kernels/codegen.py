"""Compile kernels ahead of time, as launched on a device that is not here, and read the machine code.

A launcher is run with its kernel replaced by a recorder, so that what is compiled has exactly the arguments,
specialisations, tile and warps of a real launch. Needs triton with the tools it bundles; no GPU.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import polyfit_kernels.evaluate
import polyfit_kernels.moments
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
        atomics: names of the atomic instructions on memory.
        events: what happens to memory, a letter each, in the order of the code: a load or a store of global memory (L,
            S), a barrier (B), a fence that releases (R), an atomic (A), the invalidation of caches that acquires (I).
        loop_events: the same in the loop over the data.
        loop_wide_loads: 128-bit loads in the loop over the data.
        loop_instructions: instructions in it.
        loop_float_instructions: those on float32.
        loop_widenings: those that turn float32 into float64.
    """

    registers: int
    spills: int
    wide_loads: int
    wide_stores: int
    barriers: int
    atomics: tuple[str, ...]
    events: str
    loop_events: str
    loop_wide_loads: int
    loop_instructions: int
    loop_float_instructions: int
    loop_widenings: int


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
    "moments": (polyfit_kernels.moments, "_moments_kernel", "moments"),
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


_POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
}


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


@dataclass(frozen=True)
class _Language:
    """How to read an assembly language: patterns of instructions, labels and jumps."""

    instruction: str
    label: str
    jump: str
    events: dict[str, str]
    wide_load: str
    wide_store: str
    float32: str
    widening: str


_SASS = _Language(
    instruction=r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)",
    label=r"^(\.L_x_\d+):",
    jump=r"\bBRA\S* .*`\((\.L_x_\d+)\)",
    events={
        "L": r"LDG\b",
        "S": r"STG\b",
        "B": r"BAR\.SYNC",
        "R": r"MEMBAR\S*GPU",
        "A": r"(?:ATOM|RED)G?\b",
        "I": r"CCTL\.IVALL",
    },
    wide_load=r"LDG\.E\.128\b",
    wide_store=r"STG\.E\.128\b",
    float32=r"F(?:FMA|ADD|MUL)2?\b",
    widening=r"F2F\.F64\.F32\b",
)
_AMDGCN = _Language(
    instruction=r"^\t([a-z]\w+)",
    label=r"^(\.LBB\d+_\d+):",
    jump=r"\ts_c?branch\w* (\.LBB\d+_\d+)",
    events={
        "L": r"(?:global|buffer|flat)_load",
        "S": r"(?:global|buffer|flat)_store",
        "B": r"s_barrier\b",
        "R": r"buffer_wbl2\b",
        "A": r"(?:global|buffer|flat)_atomic",
        "I": r"buffer_inv\b",
    },
    wide_load=r"(?:global|buffer)_load_dwordx4",
    wide_store=r"(?:global|buffer)_store_dwordx4",
    float32=r"v_(?:pk_)?(?:fma|fmac|add|sub|subrev|mul)_f32",
    widening=r"v_cvt_f64_f32",
)


def _loop_over_data(lines: list[str], language: _Language) -> list[str]:
    """The lines of the innermost loop with the most 128-bit loads; none where there is no loop."""
    positions, loops = {}, []
    for end, line in enumerate(lines):
        if label := re.match(language.label, line):
            positions[label[1]] = end
        elif (jump := re.search(language.jump, line)) and jump[1] in positions:
            loops.append((positions[jump[1]], end))
    innermost = [
        (start, end)
        for start, end in loops
        if not any(start <= a and b <= end and (a, b) != (start, end) for a, b in loops)
    ]
    bodies = [lines[start : end + 1] for start, end in innermost]
    return max(bodies, key=lambda body: _count(language.wide_load, _names(body, language)), default=[])


def _names(lines: list[str], language: _Language) -> list[str]:
    return [match[1] for match in (re.match(language.instruction, line) for line in lines) if match]


def _count(pattern: str, names: list[str]) -> int:
    return sum(re.match(pattern, name) is not None for name in names)


def _events(names: list[str], language: _Language) -> str:
    return "".join(letter for name in names for letter, pattern in language.events.items() if re.match(pattern, name))


def _read(assembly: str, language: _Language, registers: int, spills: int) -> Code:
    lines = assembly.splitlines()
    names, loop = _names(lines, language), _names(_loop_over_data(lines, language), language)
    events = _events(names, language)
    return Code(
        registers,
        spills,
        _count(language.wide_load, names),
        _count(language.wide_store, names),
        events.count("B"),
        tuple(name for name in names if re.match(language.events["A"], name)),
        events,
        _events(loop, language),
        _count(language.wide_load, loop),
        len(loop),
        _count(language.float32, loop),
        _count(language.widening, loop),
    )


def inspect(compiled: Any, device: Device) -> Code:
    """Registers, spills, loads, stores, barriers and the loop over the data of a compiled kernel."""
    if device.target.backend == "hip":
        assembly = compiled.asm["amdgcn"]
        found = {key: re.search(rf"\.{key}:\s*(\d+)", assembly) for key in ("vgpr_count", "vgpr_spill_count")}
        registers, spills = (int(match[1]) for match in found.values() if match is not None)
        return _read(assembly, _AMDGCN, registers, spills)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, sass = _run("cuobjdump", "-res-usage", str(cubin)), _run("nvdisasm", "-c", str(cubin))
    registers = re.search(r"REG:(\d+)", usage)
    assert registers is not None, usage
    return _read(sass, _SASS, int(registers[1]), len(re.findall(r"\b(?:LDL|STL)\b", sass)))


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
    n_samples: int = (1 << 20) + 3  # no multiple of anything; in a batch it must be, or rows begin unaligned
    weight: bool = False
    domain: bool = False
    basis: str = "power"
    loss: losses.Loss = losses.MSE()  # noqa: RUF009 - frozen
    want_coef: bool = True
    want_x: bool = False
    want_y: bool = False
    want_weight: bool = False
    compute: torch.dtype | None = None

    @property
    def atomics(self) -> int:
        """One ticket a program; none where a series has one program, or nothing is summed."""
        return int(self.launcher != "evaluate" and self.n_samples > 1024)

    @property
    def barriers(self) -> int:
        """At most so many, all behind the loop over the data.

        Joint reduction of a program's sums: 4. With several programs, before the draw of a ticket 1, behind it 1, and
        3 to add up the sums of all of them.
        """
        if self.launcher == "evaluate":
            return 0
        return 9 if self.atomics else 4

    def record(self, device: Device) -> _Recorder:
        """What the launcher launches on the device."""
        x, y, weight = (torch.empty(self.n_series, self.n_samples, dtype=self.dtype) for _ in range(3))
        coef = torch.empty(self.n_series, self.degree + 1, dtype=self.dtype)
        mapping = (0.5, 2.0, 0.25) if self.domain else None
        if self.launcher == "evaluate":
            return record("evaluate", device, x, coef, mapping, self.basis)
        if self.launcher == "moments":
            return record("moments", device, x, y, weight if self.weight else None, self.degree, mapping, 0.25)
        wants = {"want_coef": self.want_coef, "want_x": self.want_x}
        if self.launcher == "evaluate_backward":
            return record("evaluate_backward", device, y, x, coef, mapping, self.basis, **wants)
        wants |= {"want_y": self.want_y, "want_weight": self.want_weight, "compute": self.compute}
        operands = (x, y, coef, weight if self.weight else None, None, mapping, self.basis, *self.loss.kernel)
        return record("objective", device, *operands, **wants)

    def faults(self, code: Code) -> list[str]:
        """What the code shows that it must not, registers aside."""
        found = {
            f"{code.spills} spills": code.spills > 0,
            f"{code.wide_loads} wide loads": code.wide_loads < self.reads,
            f"{code.wide_stores} wide stores": code.wide_stores < self.writes,
            f"{code.barriers} barriers": code.barriers > self.barriers,
            f"{code.loop_events} in the loop over the data": not re.fullmatch("[LS]+", code.loop_events)
            or code.loop_wide_loads < max(self.reads, code.loop_events.count("L")),
            f"atomics {code.atomics}": len(code.atomics) != self.atomics
            or any(re.search(r"[Ff](?:16|32|64)", name) for name in code.atomics),
            # Sums stored, barrier, release, ticket drawn, acquire, barrier, the sums of all loaded.
            f"{code.events} around the ticket": self.atomics > 0
            and not re.search("S[^SA]*B[^SA]*RAI[^LS]*B[^LS]*L", code.events),
        }
        return [fault for fault, is_found in found.items() if is_found]


DEGREES = (1, 5, 10, 20)
BASES = ("power", "chebyshev", "legendre", "hermite", "hermite_e", "laguerre")
ALL_LOSSES = (
    losses.MSE(),
    losses.L1(),
    losses.Huber(),
    losses.SmoothL1(),
    losses.LogCosh(),
    losses.Quantile(),
    losses.BCEWithLogits(),
    losses.PoissonNLL(),
    losses.PoissonNLL(False, False),
    losses.PoissonNLL(True, True),
    losses.PoissonNLL(False, True),
    losses.Cauchy(),
)
# Two of the four of Poisson's, of which the others are parts.
GATE_LOSSES = [loss for loss in ALL_LOSSES[1:] if loss.kernel[0] not in {"poisson_nll", "poisson_nll_log_full"}]


def _name(degree: int, basis: str, loss: losses.Loss) -> str:
    parts = [] if basis == "power" else [basis]
    parts += [] if loss == losses.MSE() else [" ".join(filter(None, loss.kernel[0].split("_")))]
    return ", ".join([f"objective d={degree}", *parts])


def _grid(bases: Iterable[str], of_losses: Iterable[losses.Loss]) -> dict[str, Variant]:
    return {
        _name(degree, basis, loss): Variant("objective", degree, 2, basis=basis, loss=loss)
        for basis, loss, degree in itertools.product(bases, list(of_losses), DEGREES)
    }


VARIANTS = {
    **_grid(BASES, [losses.MSE()]),
    **_grid(["power"], GATE_LOSSES),
    "objective d=5, value only": Variant("objective", 5, 2, want_coef=False),
    "objective d=5, weight": Variant("objective", 5, 3, weight=True),
    "objective d=5, domain": Variant("objective", 5, 2, domain=True),
    "objective d=5, gradients to x and y": Variant("objective", 5, 2, 2, want_x=True, want_y=True),
    "objective d=5, gradient to weight": Variant("objective", 5, 3, 1, weight=True, want_weight=True),
    "objective d=5, batch": Variant("objective", 5, 2, n_series=8, n_samples=1 << 12),
    "objective d=5, short series": Variant("objective", 5, 2, n_series=4096, n_samples=512),
    "objective d=5, float16": Variant("objective", 5, 2, dtype=torch.float16),
    "objective d=5, bfloat16": Variant("objective", 5, 2, dtype=torch.bfloat16),
    "objective d=5, float64": Variant("objective", 5, 2, dtype=torch.float64),
    "objective d=5, chebyshev, float32 computed in float64": Variant(
        "objective", 5, 2, basis="chebyshev", domain=True, compute=torch.float64
    ),
    "evaluate d=5": Variant("evaluate", 5, 1, 1),
    "evaluate d=20": Variant("evaluate", 20, 1, 1),
    "evaluate_backward d=5": Variant("evaluate_backward", 5, 2),
    "evaluate_backward d=5, gradient to x": Variant("evaluate_backward", 5, 2, 1, want_x=True),
    # A thread loads 16 samples of each operand at a time, 8 with weights, and 4 above degree 10.
    **{f"moments d={d}": Variant("moments", d, 8 if d <= 10 else 2, domain=True) for d in (1, 5, 8, 10, 20)},
    **{f"moments d={d}, weight": Variant("moments", d, 6, weight=True, domain=True) for d in (5, 8)},
    "moments d=5, float64": Variant("moments", 5, 4, dtype=torch.float64, domain=True),
    "moments d=5, batch": Variant("moments", 5, 8, n_series=8, n_samples=1 << 12, domain=True),
}
FULL_GRID = _grid(BASES, ALL_LOSSES)
CEILINGS = Path(__file__).with_name("register_ceilings.json")


def triton_series() -> str:
    """Major and minor version of Triton, which register counts depend on."""
    return ".".join(triton.__version__.split(".")[:2])


@functools.cache
def code_of(variant: Variant, device: Device) -> Code:
    """Compile a variant for a device and read its code."""
    return inspect(compile_recorded(variant.record(device), device), device)


# --- from the command line ---


def _code_of(work: tuple[Variant, str]) -> Code | str:
    variant, device = work
    try:
        return code_of(variant, DEVICES[device])
    except Exception as error:  # whatever it is, the rest of the grid is still of interest
        return f"does not compile: {error!r}"


def _compile_all(variants: dict[str, Variant]) -> dict[tuple[str, str], Code | str]:
    """The code of every variant for every device, or why there is none."""
    work = list(itertools.product(variants, DEVICES))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        codes = pool.map(_code_of, [(variants[name], device) for name, device in work], chunksize=8)
        return dict(zip(work, codes, strict=True))


def record_ceilings() -> None:
    """Record the registers of all variants of the gate with the installed Triton as its ceilings."""
    ceilings = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    recorded: dict[str, dict[str, int]] = {}
    for (name, device), code in _compile_all(VARIANTS).items():
        if isinstance(code, str):
            raise SystemExit(f"{name} on {device}: {code}")
        recorded.setdefault(name, {})[device] = code.registers
    ceilings[triton_series()] = recorded
    CEILINGS.write_text(json.dumps(ceilings, indent=1) + "\n")
    print(f"wrote the ceilings of Triton {triton_series()} to {CEILINGS}")


def check_full_grid() -> None:
    """Compile every basis with every loss and say what was seen; faults end with an error."""
    worst: dict[tuple[str, int], tuple[int, str]] = {}
    faults = []
    for (name, device), code in _compile_all(FULL_GRID).items():
        variant = FULL_GRID[name]
        found = [code] if isinstance(code, str) else variant.faults(code)
        faults += [f"{name} on {device}: {fault}" for fault in found]
        if isinstance(code, Code):
            key = (device, variant.degree)
            worst[key] = max(worst.get(key, (0, "")), (code.registers, name))
    print(f"{len(FULL_GRID)} variants for each of {len(DEVICES)} devices, Triton {triton.__version__}; most registers:")
    for (device, degree), (registers, name) in sorted(worst.items()):
        print(f"  {device:7} d={degree:<3} {registers:4}  {name}")
    print(*faults, sep="\n")
    if faults:
        raise SystemExit(f"{len(faults)} faults")


if __name__ == "__main__":
    check_full_grid() if sys.argv[1:] == ["full"] else record_ceilings()
