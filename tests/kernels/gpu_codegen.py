"""Compile what `python -m bench.gpu` launches on an H100, without a GPU: `make gpu-codegen`.

1. The cases of phases run on CPU tensors, as --warm runs them. Each launch of a kernel is recorded with the arguments
   that it has on an H100. Its result is computed by the chunked backend, so that a fit or a loop over epochs goes on
   with true numbers, and launches what it would launch there. The launches of `resident`, `descent` and `kan` are
   recorded and change nothing: no launch depends on their results.
2. Each variant is compiled for sm_90, without Triton's cache. A table shows registers, spills, and the processor time
   to compile it. A GPU machine with a bare cache pays this time. The status is 1 if a variant spills or does not
   compile, if it needs more shared memory than a program can have, or if a case ends with an error.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import importlib
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl
from codegen import DEVICES, LAUNCHERS, Recorder, inspect, on_device, source_of
from torch import Tensor
from triton.compiler import ASTSource

from bench.gpu import smoke
from bench.gpu.measuring import Bench
from polyfit import losses
from polyfit.backends import chunked
from polyfit.backends.results import Wants
from polyfit.bases import AffineMap
from polyfit.formula import Model

H100 = DEVICES["sm_90"]
# What a program can have on compute capability 9.0: 227 KiB (CUDA C++ Programming Guide, technical specifications).
MOST_SHARED = 227 * 1024
PHASES = ("smoke", "headline")
# Samples of a long series. The variants are those of 2^28: in both cases n and the number of programs (1024 and 4224
# on 132 multiprocessors) are multiples of 16.
LONG = 2**20
# Samples with which every kernel has as many programs as with 10,000,019: 1056 tiles of 2048 float16 are a full card.
FULL_CARD = 1056 * 2048 + 1
# Variants that may spill, by name: loads and stores of local memory at most, and why that is accepted.
_THIRD_PROGRAM = "ptxas takes 80 registers, so that 3 programs of 256 threads fit (3.7.1 spills none); smoke only"
KNOWN_SPILLS = {
    f"objective d=5, {dtype}, domain, want coef, want x, want y, chebyshev, huber, 256x8x1x1x1": (2, _THIRD_PROGRAM)
    for dtype in ("float16", "bfloat16")
}


# --- results of the kernels, by the chunked backend ---


def _model(given: dict[str, Any], basis: str) -> Model:
    mapping = AffineMap(given["center"], given["scale"], given["shift"]) if given["HAS_DOMAIN"] else None
    return Model(basis, mapping, losses.from_kernel(given["LOSS"], given["parameter"]) if "LOSS" in given else None)


def _rows_of_series(operand: Tensor | None, n_series: int) -> Tensor | None:
    """An operand with a row for each series: kernels write a per-sample gradient for each, also of a shared one."""
    return None if operand is None else operand.expand(n_series, -1)


def _store(target: Tensor | None, result: Tensor | None) -> None:
    if target is not None and result is not None:
        target.copy_(result)


def _objective(given: dict[str, Any]) -> None:
    coef, wide = given["coef_ptr"], torch.float64 if given["COMPUTE"] == tl.float64 else torch.float32
    x, y, weight = (
        None if part is None else part.to(wide)
        for part in (_rows_of_series(given[f"{name}_ptr"], len(coef)) for name in ("x", "y", "weight"))
    )
    assert x is not None
    assert y is not None
    wants = Wants(given["WANT_X"], given["WANT_Y"], given["WANT_COEF"], given["WANT_WEIGHT"])
    pass_over_data = chunked.Objective(x, y, weight, len(coef), coef.shape[1] - 1, _model(given, given["BASIS"]))
    found = pass_over_data(coef.to(wide), given["upstream_ptr"], wants)
    assert found.value is not None
    sums = (part if part is None or part.dim() == 2 else part[:, None] for part in found[:3])
    given["out_ptr"].copy_(torch.cat([part for part in sums if part is not None], 1))
    for name, result in (("x", found.grad_x), ("y", found.grad_y), ("weight", found.grad_weight)):
        _store(given[f"grad_{name}_ptr"], result)


def _evaluate(given: dict[str, Any]) -> None:
    given["out_ptr"].copy_(chunked.evaluate(given["x_ptr"], given["coef_ptr"], _model(given, given["BASIS"])))


def _evaluate_backward(given: dict[str, Any]) -> None:
    coef = given["coef_ptr"]
    x, wants = _rows_of_series(given["x_ptr"], len(coef)), Wants(x=given["WANT_X"], coef=given["WANT_COEF"])
    assert x is not None
    to_x, to_coef = chunked.evaluate_backward(given["grad_ptr"], x, coef, _model(given, given["BASIS"]), wants)
    _store(given["grad_x_ptr"], to_x)
    _store(given["out_ptr"], to_coef)


def _activation_model(given: dict[str, Any]) -> Model:
    return _model(given, given["BASIS"])._replace(outside=given["OUTSIDE"])


def _activate(given: dict[str, Any]) -> None:
    x = given["x_ptr"].contiguous()
    given["out_ptr"].copy_(chunked.activate(x, given["coef_ptr"], _activation_model(given)))


def _activate_backward(given: dict[str, Any]) -> None:
    wants = Wants(x=given["WANT_X"], coef=given["WANT_COEF"])
    grad, x = (given[f"{name}_ptr"].contiguous() for name in ("grad", "x"))
    found = chunked.activate_backward(grad, x, given["coef_ptr"], _activation_model(given), wants)
    for target, result in zip((given["grad_x_ptr"], given["out_ptr"]), found, strict=True):
        _store(target, result)


def _moments(given: dict[str, Any]) -> None:
    y, mapping = given["y_ptr"], _model(given, "chebyshev").affine_map
    shifted = y.double() - given["offset"]
    of_x, with_y, squares = chunked.moments(
        given["x_ptr"], shifted, given["weight_ptr"], given["DEGREE"], mapping, None
    )
    assert of_x is not None
    given["out_ptr"].copy_(torch.cat([squares[:, None], with_y, of_x.expand(len(squares), -1)], 1))


def _nothing(given: dict[str, Any]) -> None:
    """Coefficients stay as they are, and losses and norms 0. Results of `kan` have no numbers."""


_RESULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "objective": _objective,
    "evaluate": _evaluate,
    "evaluate_backward": _evaluate_backward,
    **{f"activate {layout}": _activate for layout in ("planes", "columns")},
    **{f"activate_backward {layout}": _activate_backward for layout in ("planes", "columns")},
    "moments": _moments,
    "kan": _nothing,
    "kan to x": _nothing,
    "kan to coef": _nothing,
    "resident": _nothing,
    "descent": _nothing,
}


# --- recorded launches ---


@dataclass
class Launched:
    """A variant of a kernel that was launched.

    Attributes:
        name: the kernel and what is special about this variant.
        source: what Triton compiles.
        options: num_warps, maxnreg.
        by: the phases that launch it, and how often each does.
    """

    name: str
    source: ASTSource
    options: dict[str, Any]
    by: Counter[str] = field(default_factory=Counter)


class _Kernel:
    """Stands for a kernel: a launch is recorded, and its result is computed on the CPU."""

    def __init__(self, launcher: str, kernel: Any, keep: Callable[[str, Recorder], None]) -> None:
        self._launcher, self._kernel, self._keep = launcher, kernel, keep

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        recorder = Recorder(self._kernel)

        def launch(*args: Any, **kwargs: Any) -> None:
            recorder[grid](*args, **kwargs)
            self._keep(self._launcher, recorder)
            with torch.no_grad():
                _RESULTS[self._launcher](recorder.arguments)

        return launch


_TYPES = {"*fp16": "float16", "*bf16": "bfloat16", "*fp32": "float32", "*fp64": "float64"}
# Constants that follow from others, or that all variants of a kernel share.
_UNTOLD = {
    "DEGREE",
    "P",
    "COUNT",
    "LEVELS",
    "LEVELS_RECORDED",
    "MEMORY",
    "HAS_UPSTREAM",
    "COMPUTE",
    "OPERAND",
    "N_SUMS",
    "CHUNK",
}


def name_of(launcher: str, recorder: Recorder, source: ASTSource) -> str:
    """Kernel, degree, dtype, what is set, and the numbers of its tile: for readers; variants may share a name."""
    given = recorder.arguments
    told = {k: v for k, v in given.items() if k.isupper() and k not in _UNTOLD and v not in (False, "power", "mse")}
    degree = given["DEGREE"] if "DEGREE" in given else given["P"] - 1
    words = [f"{launcher} d={degree}", _TYPES[source.signature.get("x_ptr", "*fp64")]]
    words += [key.lower().removeprefix("has_") for key, value in told.items() if value is True]
    words += [value for value in told.values() if isinstance(value, str)]
    if "COMPUTE" in given and words[1] == "float32" and given["COMPUTE"] == tl.float64:
        words.append("computed in float64")
    words.append("x".join(str(value) for value in told.values() if type(value) is int))
    return ", ".join(words).replace("_", " ").replace(" backward", "_backward")


class Launches:
    """The variants that are launched within `recording`, by their keys.

    Attributes:
        variants: a variant's name is unique; the second of one name has (2) behind it.
        phase: the phase that is running.
    """

    def __init__(self) -> None:
        self.variants: dict[str, Launched] = {}
        self.phase = ""

    def keep(self, launcher: str, recorder: Recorder) -> None:
        """Record a launch."""
        source = source_of(recorder)
        key = f"{source.hash()} {sorted(recorder.options.items())}"
        if key not in self.variants:
            name = name_of(launcher, recorder, source)
            same = sum(other.name.split(" (")[0] == name for other in self.variants.values())
            name = f"{name} ({same + 1})" if same else name
            self.variants[key] = Launched(name, source, recorder.options)
        self.variants[key].by[self.phase] += 1

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Launch kernels on CPU tensors: each launch is recorded as on an H100."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"})
            )  # lets "triton" take CPU tensors
            for launcher, (module, kernel_name, _) in LAUNCHERS.items():
                kernel = _Kernel(launcher, getattr(module, kernel_name), self.keep)
                stack.enter_context(mock.patch.object(module, kernel_name, kernel))
                stack.enter_context(on_device(module, H100))
            yield


def record_phases(names: Iterable[str], launches: Launches) -> list[str]:
    """Run the cases of phases of `bench.gpu` as --warm does, on CPU tensors; what went wrong."""
    bench, faults = Bench("cpu", has_gpu=False, is_warming=True), []
    sizes = [(min(n_samples, FULL_CARD), is_weighted) for n_samples, is_weighted in smoke.SIZES]
    with (
        launches.recording(),
        mock.patch.object(Bench, "n_samples", LONG),
        mock.patch.object(Bench, "peers", return_value={"peers": {}}),
        mock.patch.object(smoke, "SIZES", sizes),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # a loop whose coefficients stay as they are seems not to converge
        for launches.phase in names:
            began = time.perf_counter()
            for case in importlib.import_module(f"bench.gpu.{launches.phase}").cases(bench):
                try:
                    case.measure()
                except Exception as error:  # what the other cases launch is still of interest
                    traceback.print_exc()
                    faults.append(f"{case.name} in {launches.phase} ends with an error: {error!r}")
            print(f"{launches.phase}: recorded in {time.perf_counter() - began:.0f} s", flush=True)
    return faults


# --- compiling ---


@dataclass(frozen=True)
class Compiled:
    """What a variant compiled to, and the processor time that it took."""

    seconds: float
    registers: int = 0
    spills: int = 0
    shared: int = 0
    error: str = ""

    def faults(self, name: str) -> list[str]:
        """What is wrong with it."""
        if self.error:
            return [f"{name} does not compile: {self.error}"]
        most, _ = KNOWN_SPILLS.get(name, (0, ""))
        found = {
            f"{name}: {self.spills} spills, of which {most} are accepted": self.spills > most,
            f"{name}: {self.shared} bytes of shared memory, of {MOST_SHARED}": self.shared > MOST_SHARED,
        }
        return [fault for fault, is_found in found.items() if is_found]


def _processor_seconds() -> float:
    return sum(os.times()[:4])  # with the children, of which ptxas is one


def compile_variant(variant: Launched) -> Compiled:
    """Compile a variant for an H100."""
    began = _processor_seconds()
    try:
        compiled = triton.compile(variant.source, target=H100.target, options=variant.options)
        seconds = _processor_seconds() - began
        code = inspect(compiled, H100)
    except Exception as error:  # whatever it is, the other variants are still of interest
        return Compiled(_processor_seconds() - began, error=repr(error))
    return Compiled(seconds, code.registers, code.spills, compiled.metadata.shared)


_work: list[Launched] = []  # of processes that are forked: a source holds functions, which cannot be sent to them


def _compile_number(number: int) -> Compiled:
    return compile_variant(_work[number])


def compile_all(variants: list[Launched]) -> list[Compiled]:
    """Compile all variants, in as many processes as there are processors; nothing is taken from Triton's cache."""
    _work[:] = variants
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": cache}),
        concurrent.futures.ProcessPoolExecutor(mp_context=get_context("fork")) as pool,
    ):
        return list(pool.map(_compile_number, range(len(variants))))


def print_table(variants: list[Launched], results: list[Compiled]) -> None:
    """A row for each variant, the longest to compile first."""
    width = max(len(variant.name) for variant in variants)
    print(f"\n{'variant':{width}} registers spills seconds  launches")
    for variant, result in sorted(zip(variants, results, strict=True), key=lambda pair: -pair[1].seconds):
        by = ", ".join(f"{name} {count}" for name, count in variant.by.items())
        print(f"{variant.name:{width}} {result.registers:9} {result.spills:6} {result.seconds:7.1f}  {by}")


def main() -> int:
    """Record, compile, and show a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", help=f"of bench.gpu; by default {' '.join(PHASES)}")
    phases, launches = parser.parse_args().phases or PHASES, Launches()
    faults = record_phases(phases, launches)
    variants, began = list(launches.variants.values()), time.perf_counter()
    print(f"compiling {len(variants)} variants", flush=True)
    results = compile_all(variants)
    print_table(variants, results)
    faults += [
        fault for variant, result in zip(variants, results, strict=True) for fault in result.faults(variant.name)
    ]
    if phases == PHASES:
        unknown = KNOWN_SPILLS.keys() - {variant.name for variant in variants}
        faults += [f"{name} is in KNOWN_SPILLS, and nothing launches it" for name in sorted(unknown)]
    wall, processor = time.perf_counter() - began, sum(result.seconds for result in results)
    print(
        f"\nTriton {triton.__version__}, torch {torch.__version__}: {len(variants)} variants for sm_90 compiled in"
        f" {wall:.0f} s, {processor:.0f} s of processor time; {len(faults)} faults",
        *faults,
        sep="\n",
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
