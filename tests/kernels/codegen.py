"""Compile kernels ahead of time, as launched on a device that is not here, and read the machine code.

A launcher is run with its kernel replaced by a recorder, so that what is compiled has exactly the arguments,
specialisations, tile and warps of a real launch. Needs triton with the tools it bundles; no GPU.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from packaging.version import Version
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

import polyfit_kernels.activation
import polyfit_kernels.descent
import polyfit_kernels.evaluate
import polyfit_kernels.kan
import polyfit_kernels.moments
import polyfit_kernels.objective
import polyfit_kernels.resident
import polyfit_kernels.sums
from polyfit import bases, losses, optimizers
from polyfit_kernels import launch, rules


@dataclass(frozen=True)
class Device:
    """A device to compile for: target of the compiler, multiprocessors, threads in a warp, shared memory of a program.

    The last as in the tables of the CUDA C++ Programming Guide, and of AMD's CDNA 3 ISA.
    """

    target: GPUTarget
    processors: int
    warp: int
    shared: int

    @property
    def capability(self) -> int:
        """The major compute capability; 0 for AMD."""
        return int(self.target.arch) // 10 if self.target.backend == "cuda" else 0


DEVICES = {
    "sm_80": Device(GPUTarget("cuda", 80, 32), 108, 32, 163 * 1024),
    "sm_90": Device(GPUTarget("cuda", 90, 32), 132, 32, 227 * 1024),
    "sm_100": Device(GPUTarget("cuda", 100, 32), 148, 32, 227 * 1024),
    "gfx942": Device(GPUTarget("hip", "gfx942", 64), 304, 64, 64 * 1024),
}


@dataclass(frozen=True)
class Loop:
    """What the machine code of a loop shows that has no other in it.

    Attributes:
        events: what happens to memory, see `Code.events`.
        wide_loads: 128-bit loads from global memory.
        instructions: of all kinds.
        float_instructions: those on float32.
        widenings: those that turn float32 into float64.
        shuffles: those that take a register of another thread.
    """

    events: str
    wide_loads: int
    instructions: int
    float_instructions: int
    widenings: int
    shuffles: int


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
        loops: the innermost ones, in the order of the code.
        matrix: instructions that multiply matrices.
        traps: instructions of Triton that end the program with an error. (ptxas adds some of its own on sm_100.)
        shared: bytes of shared memory of a program.
        most_shared: bytes that a program can have.
    """

    registers: int
    spills: int
    wide_loads: int
    wide_stores: int
    barriers: int
    atomics: tuple[str, ...]
    events: str
    loops: tuple[Loop, ...]
    matrix: int = 0
    traps: int = 0
    shared: int = 0
    most_shared: int = 0

    @property
    def loop(self) -> Loop:
        """The loop over the data: the one with the most 128-bit loads; an empty one where there is no loop."""
        return max(self.loops, key=lambda loop: loop.wide_loads, default=Loop("", 0, 0, 0, 0, 0))


# Triton 3.8 takes the sums of warps through shared memory in passes of 128 bytes, 3.7 all of them at once. Each thread
# then adds up the warps for every sum, where 3.7 has one sum a thread.
IN_PASSES = Version(triton.__version__) >= Version("3.8")


def barriers_of_passes(n_sums: int, itemsize: int, warps: int) -> int:
    """Barriers of a joint reduction with Triton 3.8, at most: 2 a pass, and 1 after them."""
    return 2 * -(-itemsize * polyfit_kernels.sums.width(n_sums) * warps // 128) + 1


class Recorder:
    """Stands for a kernel and keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.arguments, self.options = kernel, {}, {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(0 < size < 2**31 for size in grid)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        arguments = dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs
        self.arguments = {name: arguments.pop(name) for name in self.kernel.arg_names}
        self.options = arguments  # as Triton does: num_warps, maxnreg


LAUNCHERS = {
    "objective": (polyfit_kernels.objective, "_objective_kernel", "objective"),
    "evaluate": (polyfit_kernels.evaluate, "_evaluate_kernel", "evaluate"),
    "evaluate_backward": (polyfit_kernels.evaluate, "_evaluate_backward_kernel", "evaluate_backward"),
    **{
        f"{launcher} {layout}": (polyfit_kernels.activation, f"{launcher}_{layout}_kernel", launcher)
        for launcher in ("activate", "activate_backward")
        for layout in ("planes", "columns")
    },
    "moments": (polyfit_kernels.moments, "_moments_kernel", "moments"),
    "kan": (polyfit_kernels.kan, "_kan_kernel", "kan"),
    "kan to x": (polyfit_kernels.kan, "_kan_to_x_kernel", "kan_backward"),
    "kan to coef": (polyfit_kernels.kan, "_kan_to_coef_kernel", "kan_backward"),
    "resident": (polyfit_kernels.resident, "_resident_kernel", "resident"),
    "descent": (polyfit_kernels.descent, "_descent_kernel", "descent"),
}


@contextlib.contextmanager
def on_device(module: Any, device: Device) -> Iterator[None]:
    """The launchers of a module take CPU tensors for tensors on that device."""
    with contextlib.ExitStack() as stack:
        values = {
            "processors_and_warp": (device.processors, device.warp),
            "compute_capability": device.capability,
            "shared_memory": device.shared,
        }
        for name in values.keys() & vars(module).keys():
            stack.enter_context(mock.patch.object(module, name, return_value=values[name]))
        yield


def record(launcher: str, device: Device, *args: Any, **kwargs: Any) -> Recorder:
    """What `launcher` launches its kernel with on that device."""
    module, kernel_name, name = LAUNCHERS[launcher]
    recorder = Recorder(getattr(module, kernel_name))
    with (
        mock.patch.object(module, kernel_name, recorder),
        on_device(module, device),
    ):
        getattr(module, name)(*args, **kwargs)
    return recorder


_POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def source_of(recorder: Recorder) -> ASTSource:
    """What Triton's launcher would compile: ones and None become constants, multiples of 16 are known as such.

    Of an integer that the kernel does not specialise nothing is known but its width.
    """
    signature, constants, attributes = {}, {}, {}
    for position, param in enumerate(recorder.kernel.params):
        name, value = param.name, recorder.arguments[param.name]
        is_one = isinstance(value, int) and value == 1 and not param.do_not_specialize
        if param.is_constexpr or value is None or is_one:
            signature[name], constants[(position,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name], divisible = _POINTERS[value.dtype], value.data_ptr() % 16 == 0
        elif isinstance(value, int):
            signature[name], divisible = "i32" if abs(value) < 2**31 else "i64", value % 16 == 0
        else:
            signature[name], divisible = "fp64", False
        if divisible and not param.do_not_specialize:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(recorder.kernel, signature, constants, attributes)


def compile_recorded(recorder: Recorder, device: Device) -> Any:
    """Compile what the launcher would launch."""
    return triton.compile(source_of(recorder), target=device.target, options=recorder.options)


def ttir_of(recorder: Recorder, device: Device) -> str:
    """The first of the languages that `compile_recorded` goes through: all arithmetic of addresses, and no layouts."""
    source = source_of(recorder)
    backend: Any = make_backend(device.target)  # whose types are those of one backend
    options = backend.parse_options(recorder.options | source.parse_options())
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Callable[[Any, dict[str, Any]], Any]] = {}
    backend.add_stages(stages, options, source.language)
    helpers = backend.get_codegen_implementation(options), backend.get_module_map()
    return str(stages["ttir"](source.make_ir(device.target, options, *helpers, context), {}))


@functools.cache
def _tools() -> Path:
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _run(tool: str, *arguments: str) -> str:
    result = subprocess.run([_tools() / tool, *arguments], capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


@dataclass(frozen=True)
class _Language:
    """How to read an assembly language: patterns of instructions, labels, jumps, and ends that nothing goes beyond."""

    instruction: str
    label: str
    jump: str
    end: str
    events: dict[str, str]
    wide_load: str
    wide_store: str
    float32: str
    widening: str
    shuffle: str
    matrix: str


_SASS = _Language(
    instruction=r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)",
    label=r"^(\.L_x_\d+):",
    jump=r"\bBRA\S* .*`\((\.L_x_\d+)\)",
    end=r"\*/\s+(?:BRA(?:\.U)? `|EXIT\b|RET\b)",
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
    shuffle=r"SHFL\b",
    matrix=r"(?:HMMA|HGMMA|UTC\w*MMA)\b",
)
_AMDGCN = _Language(
    instruction=r"^\t([a-z]\w+)",
    label=r"^(\.LBB\d+_\d+):",
    jump=r"\ts_c?branch\w* (\.LBB\d+_\d+)",
    end=r"\ts_(?:branch|endpgm|setpc_b64)\b",
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
    shuffle=r"v_\w+_dpp\b|v_readlane_b32\b|v_permlane|ds_(?:swizzle|b?permute)",
    matrix=r"v_mfma_",
)


def _innermost_loops(lines: list[str], language: _Language) -> list[list[str]]:
    """The lines of each loop that has no other in it, in the order of the code.

    A loop is what leads to a jump back; there is no way into it but by the target of that jump. Where blocks lie in the
    code says little: on gfx942 the exits of a loop, and what is none, stand between its parts.
    """
    labels = {match[1]: at for at, line in enumerate(lines) if (match := re.match(language.label, line))}
    jumps = {at: labels[match[1]] for at, line in enumerate(lines) if (match := re.search(language.jump, line))}
    ends = {at for at, line in enumerate(lines) if re.search(language.end, line)}
    starts = sorted({0, *labels.values(), *(at + 1 for at in jumps.keys() | ends)} - {len(lines)})
    blocks = dict(zip(starts, [*starts[1:], len(lines)], strict=True))
    after = {
        start: {target for at, target in jumps.items() if start <= at < stop}
        | ({stop} if stop - 1 not in ends and stop < len(lines) else set())
        for start, stop in blocks.items()
    }
    before: dict[int, set[int]] = {}
    reached, left = {0}, [0]
    while left:
        block = left.pop()
        for target in after[block]:
            before.setdefault(target, set()).add(block)
            if target not in reached:
                reached.add(target)
                left.append(target)
    # Blocks that every way to a block passes, itself included.
    passed = {block: {0} if block == 0 else reached for block in reached}
    is_settled = False
    while not is_settled:
        is_settled = True
        for block in sorted(reached - {0}):
            new = set.intersection(*(passed[source] for source in before[block])) | {block}
            if new != passed[block]:
                passed[block], is_settled = new, False
    loops: dict[int, set[int]] = {}
    for block in reached:
        for head in after[block] & passed[block]:
            body = loops.setdefault(head, {head})
            left = [block]
            while left:
                if (new_block := left.pop()) not in body:
                    body.add(new_block)
                    left += before[new_block]
    return [
        [line for start in sorted(body) for line in lines[start : blocks[start]]]
        for head, body in sorted(loops.items())
        if not body & loops.keys() - {head}
    ]


def _names(lines: list[str], language: _Language) -> list[str]:
    return [match[1] for match in (re.match(language.instruction, line) for line in lines) if match]


def _count(pattern: str, names: list[str]) -> int:
    return sum(re.match(pattern, name) is not None for name in names)


def _events(names: list[str], language: _Language) -> str:
    return "".join(letter for name in names for letter, pattern in language.events.items() if re.match(pattern, name))


def _read_loop(lines: list[str], language: _Language) -> Loop:
    names = _names(lines, language)
    patterns = (language.float32, language.widening, language.shuffle)
    counts = (_count(pattern, names) for pattern in patterns)
    return Loop(_events(names, language), _count(language.wide_load, names), len(names), *counts)


def _read(assembly: str, language: _Language, registers: int, spills: int) -> Code:
    lines = assembly.splitlines()
    names = _names(lines, language)
    events = _events(names, language)
    return Code(
        registers,
        spills,
        _count(language.wide_load, names),
        _count(language.wide_store, names),
        events.count("B"),
        tuple(name for name in names if re.match(language.events["A"], name)),
        events,
        tuple(_read_loop(loop, language) for loop in _innermost_loops(lines, language)),
        _count(language.matrix, names),
    )


def inspect(compiled: Any, device: Device) -> Code:
    """What the machine code of a compiled kernel shows."""
    assembly = compiled.asm["ptx" if device.target.backend == "cuda" else "amdgcn"]
    traps = len(re.findall(r"^\s*(?:@\S+\s+)?(?:s_)?trap\b", assembly, re.MULTILINE))
    shared = {"shared": compiled.metadata.shared, "most_shared": device.shared}
    return dataclasses.replace(_inspect_code(compiled, device), traps=traps, **shared)


def _inspect_code(compiled: Any, device: Device) -> Code:
    if device.target.backend == "hip":
        assembly = compiled.asm["amdgcn"]
        found = {key: re.search(rf"\.{key}:\s*(\d+)", assembly) for key in ("vgpr_count", "vgpr_spill_count")}
        registers, spills = (int(match[1]) for match in found.values() if match is not None)
        return _read(assembly, _AMDGCN, registers, spills)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, sass = _run("cuobjdump", "-res-usage", str(cubin)), _run("nvdisasm", "-c", "-ndf", str(cubin))
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
        3 to add up the sums of all of them, 4 with Triton 3.8.
        """
        if self.launcher == "evaluate":
            return 0
        if not IN_PASSES:
            return 9 if self.atomics else 4
        return barriers_of_passes(self._sums, 8, self._warps) + (6 if self.atomics else 0)

    @property
    def _sums(self) -> int:
        """Sums of a program."""
        if self.launcher == "moments":
            return 3 * self.degree + 2 + self.weight
        return self.degree + 1 + (self.launcher == "objective") + self.weight

    @property
    def _warps(self) -> int:
        """Warps of a program on NVIDIA's; on AMD's there are fewer."""
        is_small = self.launcher == "moments" or self.compute == torch.float64 or self.n_samples == 64
        return 4 if is_small else 8

    def record(self, device: Device) -> Recorder:
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
            f"{code.loop.events} in the loop over the data": not re.fullmatch("[LS]+", code.loop.events)
            or code.loop.wide_loads < max(self.reads, code.loop.events.count("L")),
            f"atomics {code.atomics}": len(code.atomics) != self.atomics
            or any(re.search(r"[Ff](?:16|32|64)", name) for name in code.atomics),
            # Sums stored, barrier, release, ticket drawn, acquire, barrier, the sums of all loaded.
            f"{code.events} around the ticket": self.atomics > 0
            and not re.search("S[^SA]*B[^SA]*RAI[^LS]*B[^LS]*L", code.events),
        }
        return [fault for fault, is_found in found.items() if is_found]


@dataclass(frozen=True)
class Activation(Variant):
    """One launch of the activation to compile; `reads` and `writes` are those of the loop over the data.

    Attributes:
        shape: of x, (outer, groups, inner).
        outside: its continuation.
        tickets: kinds of tickets that a program may draw: of its part, and of all parts.
    """

    shape: tuple[int, int, int] = (4096, 1024, 1)
    basis: str = "chebyshev"
    outside: str = "linear"
    domain: bool = True
    want_x: bool = True
    tickets: int = 1

    @property
    def atomics(self) -> int:
        """One for each kind of ticket."""
        return self.tickets if self.launcher.startswith("activate_backward") and self.want_coef else 0

    @property
    def barriers(self) -> int:
        """At most so many, all behind the loop over the data.

        Of planes as in other kernels. Sums of columns cross shared memory in at most 4 parts, with 2 barriers each, and
        2 more where they become rows of the results; runs of a channel are added up by a second reduction. Around each
        ticket 2, and 3 to add up what it waited for.
        """
        if not self.atomics:
            return 0 if "backward" not in self.launcher or not self.want_coef else 9
        if "planes" in self.launcher:
            return super().barriers
        if IN_PASSES:
            return 1000  # behind the loop; not derived
        return 10 + 5 * self.tickets + (8 if self.shape[2] > 1 else 0)

    @property
    def _sums(self) -> int:
        return self.degree + 1

    @property
    def _warps(self) -> int:
        return 4

    def record(self, device: Device) -> Recorder:
        """What the launcher launches on the device."""
        x, grad = (torch.empty(self.shape, dtype=self.dtype) for _ in range(2))
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        coef = torch.empty(self.degree + 1, self.shape[1], dtype=wide).t()  # as parameters of a layer lie
        model = (coef, (0.5, 2.0, 0.25) if self.domain else None, self.basis, self.outside)
        if "backward" not in self.launcher:
            return record(self.launcher, device, x, *model)
        wants = {"want_coef": self.want_coef, "want_x": self.want_x}
        return record(self.launcher, device, grad, x, *model, **wants)

    def faults(self, code: Code) -> list[str]:
        """What the code shows that it must not, registers aside."""
        loop = self.data_loop(code)
        n_reads = loop.events.count("L")
        found = {
            f"{code.spills} spills": code.spills > 0,
            f"{loop.wide_loads} wide loads in the loop over the data": loop.wide_loads < self.reads,
            f"{code.wide_stores} wide stores": code.wide_stores < self.writes,
            f"{code.barriers} barriers": code.barriers > self.barriers,
            f"{loop.events} in the loop over the data": not re.fullmatch("L+S*", loop.events)
            or (self.reads > 0 and n_reads != loop.wide_loads),
            f"{loop.shuffles} shuffles in the loop over the data": loop.shuffles > 0,
            f"atomics {code.atomics}": not self._tickets_are_right(code)
            or any(re.search(r"[Ff](?:16|32|64)", name) for name in code.atomics),
        }
        return [fault for fault, is_found in found.items() if is_found]

    def _tickets_are_right(self, code: Code) -> bool:
        """Whether each draw has what it needs around it, as in other kernels; a program of one wave has no barriers.

        gfx942 has more processors: parts of programs begin with fewer rows.
        """
        if self.atomics == 0:
            return not code.atomics
        barrier = "B" if code.barriers else "B?"
        draws = re.findall(f"S[^SA]*{barrier}[^SA]*RAI[^LS]*{barrier}[^LS]*L", code.events)
        return self.atomics <= len(code.atomics) <= 2 and len(draws) == len(code.atomics)

    def data_loop(self, code: Code) -> Loop:
        """The loop over the data: the first that loads and, if a number is stored for each element, stores."""
        stores = self.want_x or "backward" not in self.launcher
        found = (loop for loop in code.loops if "L" in loop.events and (not stores or "S" in loop.events))
        return next(found, Loop("", 0, 0, 0, 0, 0))


@dataclass(frozen=True)
class Epochs:
    """One launch of a loop over epochs to compile, and what its code must show. It is given 3 records.

    Attributes:
        degree: of the polynomial.
        rule: of the update.
        path: whether the coefficients are recorded.
        lr_scale: whether each series has a rate of its own.
        first: epochs made before.
        record_every: epochs from one that is recorded to the next.
        one_row: whether the table is one row for all updates.
        decay: of the weights.
        spills: at most so many.
    """

    degree: int
    rule: str = "sgd"
    n_series: int = 1
    path: bool = False
    lr_scale: bool = False
    first: int = 0
    record_every: int = 100
    one_row: bool = False
    decay: float = 0.0
    spills: int = 0

    @property
    def barriers(self) -> int:
        """At most so many in an epoch."""
        return 0

    @property
    def factors(self) -> int:
        """Numbers of a row of the table that the rule looks at: the rate, and the factors of some."""
        if self.one_row:
            return 0
        return 3 if self.rule in {"momentum", "nesterov", "adam", "adamw"} else 1

    @property
    def loads_of_a_record(self) -> int:
        """Numbers read for the record of an epoch, at most."""
        return 0

    def state(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients and what the rule remembers."""
        shape = (self.n_series, rules.STATES[self.rule], self.degree + 1)
        return torch.empty(self.n_series, self.degree + 1, dtype=dtype), torch.empty(shape, dtype=dtype)

    def table(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rule's table, and the factors of the rate."""
        lr_scale = torch.empty(self.n_series, dtype=torch.float64) if self.lr_scale else None
        return torch.empty((3,) if self.one_row else (300, 3), dtype=torch.float64), lr_scale

    @property
    def constants(self) -> tuple[float, float, float, float]:
        """Of the rule."""
        return self.decay, 0.9, 0.999, 1e-8

    def records(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """From where to where, how often, and to which outputs."""
        last = torch.empty(self.n_series, dtype=torch.int64)
        losses_, norms = (torch.empty(3, self.n_series, dtype=torch.float64) for _ in range(2))
        path = torch.empty(3, self.n_series, self.degree + 1, dtype=dtype) if self.path else None
        return self.first, last, self.record_every, losses_, norms, path

    def faults(self, code: Code) -> list[str]:
        """What the code shows that it must not, registers aside."""
        loops = [loop.events for loop in code.loops if loop.events or self.one_row]
        plain = [events for events in loops if "S" not in events]
        recorded = [events for events in loops if "S" in events]
        most_loads = self.factors * (1 if self.barriers else 4)  # one warp may have its loop unrolled, 4 times at most
        most_stores = 2 + (self.degree + 1) * self.path
        found = {
            f"{code.spills} spills": code.spills > self.spills,
            f"{len(plain)} loops over epochs, {len(recorded)} over those recorded": not plain or len(recorded) != 1,
            f"{loops} in the loops over epochs": any(events.count("B") > self.barriers for events in loops)
            or any(not re.fullmatch("[LSB]*", events) for events in loops)
            or any(events.count("L") > most_loads for events in plain)
            or any(events.count("L") > self.factors + self.loads_of_a_record for events in recorded)
            or any(events.count("S") > most_stores for events in recorded),
            f"{code.barriers} barriers": code.barriers > 2 * self.barriers,
            f"atomics {code.atomics}": len(code.atomics) > 0,
        }
        return [fault for fault, is_found in found.items() if is_found]


@dataclass(frozen=True)
class Resident(Epochs):
    """Epochs on data in registers; `n_samples` None are as many as may be."""

    n_samples: int | None = 2000
    dtype: torch.dtype = torch.float32
    weight: bool = False
    domain: bool = False
    basis: str = "power"
    loss: losses.Loss = losses.MSE()  # noqa: RUF009 - frozen

    @property
    def warps(self) -> int:
        """Warps of a program on NVIDIA's."""
        return launch.choose_resident(self._samples()).num_warps

    @property
    def barriers(self) -> int:
        """Those of the one reduction; none where a warp reduces alone."""
        if self.warps == 1:
            return 0
        # With the loss of a recorded epoch.
        return barriers_of_passes(self.degree + 2, max(4, self.dtype.itemsize), self.warps) if IN_PASSES else 3

    def _samples(self) -> int:
        largest = launch.largest_resident(self.degree, self.dtype.itemsize, weighted=self.weight)
        n_samples = largest if self.n_samples is None else self.n_samples
        assert 0 < n_samples <= largest
        return n_samples

    def record(self, device: Device) -> Recorder:
        """What the launcher launches on the device."""
        x, y, weight = (torch.empty(self.n_series, self._samples(), dtype=self.dtype) for _ in range(3))
        compute = torch.promote_types(self.dtype, torch.float32)
        coef, state = self.state(compute)
        mapping = (0.5, 2.0, 0.25) if self.domain else None
        operands = (x, y, weight if self.weight else None, coef, state, mapping, self.basis, *self.loss.kernel)
        rule = (self.rule, self.constants, *self.table())
        return record("resident", device, *operands, *rule, 1.0, *self.records(compute))


@dataclass(frozen=True)
class Descent(Epochs):
    """Epochs on quadratics."""

    n_series: int = 1000

    @property
    def loads_of_a_record(self) -> int:
        """Two matrices, two vectors and the loss at the center."""
        return 2 * (self.degree + 1) ** 2 + 2 * (self.degree + 1) + 1

    def record(self, device: Device) -> Recorder:
        """What the launcher launches on the device."""
        n_series, n_coef = self.n_series, self.degree + 1
        vector, matrix = (n_series, n_coef), (n_series, n_coef, n_coef)
        shapes = [matrix, vector, vector, (n_series,), (1, n_coef, n_coef), matrix, vector, vector]
        quadratics = [torch.empty(shape, dtype=torch.float64) for shape in shapes]
        rule = (self.rule, self.constants, *self.table())
        return record("descent", device, *quadratics, *self.state(torch.float64), *rule, *self.records(torch.float64))


@dataclass(frozen=True)
class Product:
    """One launch of `kan` to compile, and what its code must show.

    Attributes:
        launcher: which of the three.
        degree: of the polynomials.
        shape: rows of the batch, inputs and outputs.
        dtype: of all operands.
        basis: of the polynomials.
        squash: of the inputs.
    """

    launcher: str
    degree: int
    shape: tuple[int, int, int] = (4096, 1024, 1024)
    dtype: torch.dtype = torch.bfloat16
    basis: str = "chebyshev"
    squash: str | None = "tanh"

    def record(self, device: Device) -> Recorder:
        """What the launcher launches on the device."""
        n_rows, n_in, n_out = self.shape
        x, grad, bias = (torch.empty(size, dtype=self.dtype) for size in ((n_rows, n_in), (n_rows, n_out), n_out))
        coef = torch.empty(self.degree, n_in, n_out, dtype=self.dtype)
        if self.launcher == "kan":
            return record("kan", device, x, coef, bias, self.basis, self.squash)
        wants = {"want_x": self.launcher == "kan to x", "want_coef": self.launcher == "kan to coef"}
        return record(self.launcher, device, grad, x, coef, self.basis, self.squash, **wants)

    def faults(self, code: Code) -> list[str]:
        """What the code shows that it must not, registers aside."""
        found = {
            f"{code.spills} spills": code.spills > 0,
            f"{code.matrix} products of matrices": code.matrix < self.degree,
            f"{code.traps} traps": code.traps > 0,
            f"{code.shared} bytes of shared memory, of {code.most_shared}": code.shared > code.most_shared,
            f"atomics {code.atomics}": len(code.atomics) > 0,
        }
        return [fault for fault, is_found in found.items() if is_found]


DEGREES = (1, 5, 10, 20)
# What the kernels must compile is what the registries hold: nothing that is added there escapes the gate.
BASES = tuple(bases.BASES)
ALL_LOSSES = tuple(losses.kernel_variants().values())
RULES = tuple(optimizers.kernel_variants())
# Two of the four of Poisson's, of which the others are parts.
GATE_LOSSES = [loss for loss in ALL_LOSSES[1:] if loss.kernel[0] not in {"poisson_nll", "poisson_nll_log_full"}]


def _name(degree: int, basis: str, loss: losses.Loss) -> str:
    parts = [] if basis == "power" else [basis]
    parts += [] if loss == losses.MSE() else [" ".join(filter(None, loss.kernel[0].split("_")))]
    return ", ".join([f"objective d={degree}", *parts])


def _objective_reads(degree: int) -> int:
    """128-bit loads of a thread at a time in objective: of two operands, and twice above degree 10."""
    return 4 if degree > 10 else 2


def _grid(of_bases: Iterable[str], of_losses: Iterable[losses.Loss]) -> dict[str, Variant]:
    return {
        _name(degree, basis, loss): Variant("objective", degree, _objective_reads(degree), basis=basis, loss=loss)
        for basis, loss, degree in itertools.product(of_bases, list(of_losses), DEGREES)
    }


def _short(launcher: str, degree: int, reads: int, writes: int = 0, **options: Any) -> Variant:
    """Series of 64 samples, enough of them that a program takes several."""
    return Variant(launcher, degree, reads, writes, n_series=1 << 14, n_samples=64, **options)


VARIANTS = {
    **_grid(BASES, [losses.MSE()]),
    **_grid(["power"], GATE_LOSSES),
    "objective d=5, value only": Variant("objective", 5, 2, want_coef=False),
    "objective d=5, weight": Variant("objective", 5, 3, weight=True),
    "objective d=5, domain": Variant("objective", 5, 2, domain=True),
    "objective d=5, gradients to x and y": Variant("objective", 5, 2, 2, want_x=True, want_y=True),
    "objective d=5, gradient to weight": Variant("objective", 5, 3, 1, weight=True, want_weight=True),
    "objective d=5, batch": Variant("objective", 5, 2, n_series=8, n_samples=1 << 12),
    "objective d=5, few short series": Variant("objective", 5, 2, n_series=64, n_samples=512),
    **{f"objective d={d}, short series": _short("objective", d, 4) for d in (3, 20)},
    "objective d=3, short series, gradients to x and y": _short("objective", 3, 4, 4, want_x=True, want_y=True),
    "objective d=3, short series, float16": _short("objective", 3, 2, dtype=torch.float16),
    "objective d=20, weight": Variant("objective", 20, 6, weight=True),
    "objective d=20, float64": Variant("objective", 20, 4, dtype=torch.float64),
    "objective d=5, float16": Variant("objective", 5, 2, dtype=torch.float16),
    "objective d=5, bfloat16": Variant("objective", 5, 2, dtype=torch.bfloat16),
    "objective d=5, float64": Variant("objective", 5, 2, dtype=torch.float64),
    "objective d=5, chebyshev, float32 computed in float64": Variant(
        "objective", 5, 2, basis="chebyshev", domain=True, compute=torch.float64
    ),
    "evaluate d=5": Variant("evaluate", 5, 1, 1),
    "evaluate d=20": Variant("evaluate", 20, 1, 1),
    "evaluate d=3, short series": _short("evaluate", 3, 2, 2),
    "evaluate_backward d=3, short series, gradient to x": _short("evaluate_backward", 3, 4, 2, want_x=True),
    "evaluate_backward d=5": Variant("evaluate_backward", 5, 2),
    "evaluate_backward d=5, gradient to x": Variant("evaluate_backward", 5, 2, 1, want_x=True),
    # A thread loads 16 samples of each operand at a time, 8 with weights, and 4 at degree 20 on sm_100 and gfx942.
    **{f"moments d={d}": Variant("moments", d, 8 if d <= 12 else 2, domain=True) for d in (1, 5, 8, 10, 12, 20)},
    **{f"moments d={d}, weight": Variant("moments", d, 6, weight=True, domain=True) for d in (5, 8)},
    "moments d=5, float64": Variant("moments", 5, 4, dtype=torch.float64, domain=True),
    "moments d=5, batch": Variant("moments", 5, 8, n_series=8, n_samples=1 << 12, domain=True),
    "moments d=3, short series": _short("moments", 3, 4, domain=True),
}


def _activations() -> dict[str, Variant]:
    """Layouts with degrees and dtypes; each basis and continuation with both kernels; what is rare, once."""
    shapes = {"columns": (4096, 1024, 1), "planes": (32, 64, 3136), "flat": (1, 1, (1 << 20) + 3)}
    launchers = {"columns": "columns", "planes": "planes", "flat": "planes"}
    found: dict[str, Variant] = {}

    def add(layout: str, degree: int, note: str = "", reads: int = 4, writes: int = 2, **options: Any) -> None:
        options = {"shape": shapes[layout]} | options
        launcher = f"activate_backward {launchers[layout]}"
        name = ", ".join(filter(None, [f"activate_backward d={degree}", layout, note]))
        found[name] = Activation(launcher, degree, reads, writes, **options)

    for layout, degree in itertools.product(shapes, (5, 8)):
        add(layout, degree)
        # 4 columns of a half type are 64 bits.
        of_halves = (0, 0) if layout == "columns" else (2, 1)
        add(layout, degree, "bfloat16", *of_halves, dtype=torch.bfloat16)
    for layout, degree in itertools.product(("columns", "planes"), (1, 20)):
        add(layout, degree, reads=0 if (layout, degree) == ("columns", 20) else 4, writes=0)
    for layout in ("columns", "planes"):
        add(layout, 5, "float64", dtype=torch.float64)
        add(layout, 5, "gradient to x alone", want_coef=False)
        add(layout, 5, "gradient to coef alone", writes=0, want_x=False)
        for basis, outside in (("legendre", "clamp"), ("hermite", "linear"), ("laguerre", "linear")):
            add(layout, 8, f"{basis}, {outside}", basis=basis, outside=outside)
        add(layout, 5, "power, extend", basis="power", outside="extend", domain=False)
        add(layout, 5, "hermite_e, clamp", basis="hermite_e", outside="clamp")
    add("columns", 5, "1000 channels", shape=(4096, 1000, 1))
    for degree in (5, 8):
        add("columns", degree, "many rows", shape=(1 << 20, 64, 1), tickets=2)
    add("columns", 5, "runs of 4", shape=(4096, 256, 4))
    add("planes", 5, "14 x 14", shape=(64, 256, 196))
    add("planes", 5, "7 x 7", 0, 0, shape=(1024, 64, 49))
    for layout, shape in shapes.items():
        found[f"activate d=5, {layout}"] = Activation(f"activate {launchers[layout]}", 5, 2, 2, shape=shape)
    return found


VARIANTS |= _activations()
_MANY_STATES = "rmsprop_centered_momentum"  # the rule that remembers most


def _spoken(name: str) -> str:
    return name.replace("_", " ")


LOOPS: dict[str, Resident | Descent] = {
    "resident d=5": Resident(5),
    **{f"resident d=5, {_spoken(r)}": Resident(5, r) for r in ("momentum", "adam", _MANY_STATES)},
    "resident d=5, huber": Resident(5, loss=losses.Huber()),
    "resident d=5, adam, log cosh": Resident(5, "adam", loss=losses.LogCosh()),
    "resident d=5, chebyshev": Resident(5, basis="chebyshev", domain=True),
    "resident d=5, weight": Resident(5, weight=True),
    "resident d=5, float64": Resident(5, dtype=torch.float64),
    "resident d=5, one row": Resident(5, one_row=True),
    "resident d=5, batch": Resident(5, n_series=1000, path=True, lr_scale=True),
    "resident d=5, short series": Resident(5, n_series=10**6, n_samples=64),
    "resident d=10, longest series, adam": Resident(10, "adam", n_samples=None),
    "resident d=20, longest series, adam": Resident(20, "adam", n_samples=None),
    "descent d=5, one series": Descent(5, n_series=1),
    "descent d=5, one series, one row": Descent(5, n_series=1, one_row=True),
    "descent d=5, one series, adam": Descent(5, "adam", n_series=1),
    "descent d=5, one series, one row, decay": Descent(5, n_series=1, one_row=True, decay=0.1),
    "descent d=5, one row": Descent(5, one_row=True),
    f"descent d=6, one row, {_spoken(_MANY_STATES)}": Descent(6, _MANY_STATES, one_row=True),
    **{f"descent d={d}, {_spoken(_MANY_STATES)}": Descent(d, _MANY_STATES) for d in range(1, 7)},
    **{f"descent d={d}, {r}": Descent(d, r) for d, r in itertools.product((1, 6), ("sgd", "adam"))},
    **{f"descent d=5, {_spoken(r)}": Descent(5, r) for r in RULES},
}


def _products(
    degrees: Iterable[int],
    dtypes: Iterable[torch.dtype] = (torch.bfloat16, torch.float32),
    note: str = "",
    launchers: Iterable[str] = ("kan", "kan to x", "kan to coef"),
    **options: Any,
) -> dict[str, Product]:
    words = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
    return {
        f"{launcher} d={degree}, {words[dtype]}{note}": Product(launcher, degree, dtype=dtype, **options)
        for launcher, degree, dtype in itertools.product(launchers, degrees, dtypes)
    }


_FLOAT32 = (torch.float32,)
PRODUCTS = {
    **_products((4, 5, 8, 10)),
    **_products((5,), (torch.float16,), launchers=("kan",)),
    # Laguerre's recurrence takes the most instructions.
    **_products((10,), note=", laguerre", basis="laguerre"),
    **_products((10,), _FLOAT32, ", hermite", ("kan to x",), basis="hermite"),
    **_products((5,), _FLOAT32, ", algebraic", ("kan", "kan to x"), squash="algebraic"),
    **_products((4, 8), note=", odd", shape=(5001, 1255, 1077)),
    **_products((4,), note=", few rows", shape=(100, 1024, 1024)),
}
GATE: dict[str, Variant | Resident | Descent | Product] = {**VARIANTS, **LOOPS, **PRODUCTS}


# Loads and stores of local memory with Triton 3.7.1, on the worst of the devices, where sums, coefficients and state
# take more than the 128 registers of one of 512 threads, or in float64 than 255: right, and slower.
_KNOWN_SPILLS = {
    "resident d=5, adam, bce with logits": 4,
    "resident d=5, adam, poisson nll": 8,
    "resident d=5, adam, poisson nll full": 7,
    "resident d=5, adam, poisson nll log": 2,
    "resident d=5, adam, poisson nll log full": 2,
    "resident d=10, adam, legendre": 13,
    "resident d=10, adam, hermite": 10,
    "resident d=10, adam, hermite_e": 4,
    "resident d=10, adam, laguerre": 19,
    "resident d=10, adam, log cosh": 3,
    "resident d=10, adam, bce with logits": 4,
    "resident d=10, adam, poisson nll": 8,
    "resident d=10, adam, poisson nll full": 14,
    "resident d=10, adam, poisson nll log": 2,
    "resident d=10, adam, poisson nll log full": 2,
    "resident d=10, rmsprop centered momentum, float64": 6,
    "resident d=10, rmsprop centered momentum, weight, float64": 8,
    "resident d=5, adam, log cosh, float64": 251,
    "resident d=5, adam, bce with logits, float64": 134,
    "resident d=5, adam, poisson nll, float64": 2,
    "resident d=5, adam, poisson nll full, float64": 61,
    "resident d=5, adam, poisson nll log full, float64": 4,
    "resident d=5, adam, cauchy, float64": 73,
}


def _longest(
    degree: int,
    rule: str,
    basis: str = "power",
    loss: losses.Loss = losses.MSE(),  # noqa: B008 - frozen
    dtype: torch.dtype = torch.float32,
    weight: bool = False,
) -> dict[str, Resident]:
    """A series as long as may be, with its name."""
    parts = [f"resident d={degree}", _spoken(rule), *([] if basis == "power" else [basis])]
    parts += [] if loss == losses.MSE() else [_spoken(loss.kernel[0])]
    parts += ["weight"] * weight + ["float64"] * (dtype == torch.float64)
    name = ", ".join(parts)
    spills = _KNOWN_SPILLS.get(name, 0)
    run = Resident(degree, rule, spills=spills, n_samples=None, basis=basis, loss=loss, dtype=dtype, weight=weight)
    return {name: run}


FULL_GRID: dict[str, Variant | Resident | Descent | Product] = {
    **_grid(BASES, ALL_LOSSES),
    **{f"descent d={d}, {_spoken(r)}": Descent(d, r) for d, r in itertools.product(range(1, 7), RULES)},
}
for _basis in BASES:
    FULL_GRID |= _products((1, 2, 3, 4, 5, 6, 8, 10), note=f", {_basis}", basis=_basis)
for _squash in ("algebraic", "clamp", None):
    FULL_GRID |= _products((5, 10), note=f", {_squash}", squash=_squash)
for _degree, _rule in itertools.product((5, 10, 20), RULES):
    FULL_GRID |= _longest(_degree, _rule)
for _rule in ("sgd", "adam", _MANY_STATES):
    for _degree in (5, 10, 20):
        FULL_GRID |= _longest(_degree, _rule, weight=True)
    for _degree in (5, 10, 15):
        FULL_GRID |= _longest(_degree, _rule, dtype=torch.float64)
        FULL_GRID |= _longest(_degree, _rule, dtype=torch.float64, weight=True)
for _basis in BASES[1:]:
    FULL_GRID |= _longest(10, "adam", basis=_basis)
for _loss in ALL_LOSSES[1:]:
    FULL_GRID |= _longest(5, "adam", loss=_loss) | _longest(10, "adam", loss=_loss)
    FULL_GRID |= _longest(5, "adam", loss=_loss, dtype=torch.float64)
CEILINGS = Path(__file__).with_name("register_ceilings.json")


def triton_series() -> str:
    """Major and minor version of Triton, which register counts depend on."""
    return ".".join(triton.__version__.split(".")[:2])


@functools.cache
def code_of(variant: Variant | Resident | Descent | Product, device: Device) -> Code:
    """Compile a variant for a device and read its code."""
    return inspect(compile_recorded(variant.record(device), device), device)


# --- from the command line ---


def _code_of(work: tuple[Variant | Resident | Descent | Product, str]) -> Code | str:
    variant, device = work
    try:
        return code_of(variant, DEVICES[device])
    except Exception as error:  # whatever it is, the rest of the grid is still of interest
        return f"does not compile: {error!r}"


def _compile_all(variants: dict[str, Variant | Resident | Descent | Product]) -> dict[tuple[str, str], Code | str]:
    """The code of every variant for every device, or why there is none."""
    work = list(itertools.product(variants, DEVICES))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        codes = pool.map(_code_of, [(variants[name], device) for name, device in work])
        return dict(zip(work, codes, strict=True))


def record_ceilings() -> None:
    """Record the registers of all variants of the gate with the installed Triton as its ceilings."""
    ceilings = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    recorded: dict[str, dict[str, int]] = {}
    for (name, device), code in _compile_all(GATE).items():
        if isinstance(code, str):
            raise SystemExit(f"{name} on {device}: {code}")
        recorded.setdefault(name, {})[device] = code.registers
    ceilings[triton_series()] = recorded
    CEILINGS.write_text(json.dumps(ceilings, indent=1) + "\n")
    print(f"wrote the ceilings of Triton {triton_series()} to {CEILINGS}")


def check_full_grid() -> None:
    """Compile every basis with every loss, and every rule, and say what was seen; faults end with an error."""
    worst: dict[tuple[str, str, int], tuple[int, str]] = {}
    faults = []
    for (name, device), code in _compile_all(FULL_GRID).items():
        variant = FULL_GRID[name]
        found = [code] if isinstance(code, str) else variant.faults(code)
        faults += [f"{name} on {device}: {fault}" for fault in found]
        if isinstance(code, Code):
            key = (name.split()[0], device, variant.degree)
            worst[key] = max(worst.get(key, (0, "")), (code.registers, name))
    print(f"{len(FULL_GRID)} variants for each of {len(DEVICES)} devices, Triton {triton.__version__}; most registers:")
    for (_, device, degree), (registers, name) in sorted(worst.items()):
        print(f"  {device:7} d={degree:<3} {registers:4}  {name}")
    print(*faults, sep="\n")
    if faults:
        raise SystemExit(f"{len(faults)} faults")


if __name__ == "__main__":
    check_full_grid() if sys.argv[1:] == ["full"] else record_ceilings()
