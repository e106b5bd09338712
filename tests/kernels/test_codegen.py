"""The codegen gate: what every kernel compiles to on the devices that we build for. No GPU is needed."""

import dataclasses
import json
import re

import pytest
import torch

pytest.importorskip("triton")
from codegen import (
    CEILINGS,
    DEGREES,
    DEVICES,
    GATE,
    IN_PASSES,
    LOOPS,
    Code,
    Resident,
    Variant,
    code_of,
    compile_recorded,
    record,
    source_of,
    triton_series,
    ttir_of,
)

pytestmark = pytest.mark.codegen

NVIDIA = [device for device in DEVICES if device.startswith("sm_")]
# Of a Triton version or a variant that none are recorded for: the most that was seen, rounded up.
_ANY_VERSION = {1: 64, 3: 96, 5: 72, 10: 104, 20: 256}
# The same where sums of narrower samples are float64, 2 registers each. (A thread has 255 on NVIDIA's, 512 on AMD's.)
_ANY_VERSION_WIDE = {1: 96, 3: 176, 5: 176, 8: 256, 10: 272, 12: 272, 20: 304}
# Loops over epochs hold as much in registers as a thread has.
_ANY_VERSION_LOOPS = 512


def code(name: str, device: str) -> Code:
    """The code of a variant of the gate on a device."""
    return code_of(GATE[name], DEVICES[device])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", GATE)
def test_code(name, device):
    variant, found = GATE[name], code(name, device)
    assert variant.faults(found) == []
    recorded = json.loads(CEILINGS.read_text()).get(triton_series(), {}).get(name, {})
    any_version = _ANY_VERSION_LOOPS
    if isinstance(variant, Variant):
        is_wide = (
            variant.launcher.split("_")[0] in {"moments", "activate planes", "activate columns", "activate"}
            or variant.compute == torch.float64
        )
        any_version = (_ANY_VERSION_WIDE if is_wide else _ANY_VERSION)[variant.degree]
    assert found.registers <= recorded.get(device, any_version)


@pytest.mark.parametrize("device", DEVICES)
def test_the_promise_for_degree_5(device):
    # Whatever is recorded: 6 programs of 256 threads on a multiprocessor of NVIDIA's. On AMD's 64 registers are enough
    # for all 8 waves that a SIMD holds; 40 are what Triton 3.7 takes.
    most = 64 if (triton_series(), device) == ("3.8", "gfx942") else 40
    found = code("objective d=5", device)
    assert found.spills == 0
    assert found.registers <= most
    assert found.wide_loads >= 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degree", DEGREES)
def test_the_power_basis_pays_nothing_for_the_others(degree, device):
    # On the 4 samples of a thread: 4 d for Horner's rule, 4 for residuals, 4 for losses and their sum, 7 for slopes and
    # their sum, 7 for each moment and its sum but 4 for the last, which needs no powers after it, and d + 2 to add the
    # sums to accumulators: 12 d + 14, or 3 d + 3.5 a sample. Besides: 2 loads, addresses and the loop itself.
    loop = code(f"objective d={degree}", device).loop
    # Triton 3.8 adds up the losses in pairs: 1 more.
    tiles = loop.wide_loads // 2
    assert loop.float_instructions <= tiles * (12 * degree + 14 + IN_PASSES)
    assert loop.instructions <= tiles * (12 * degree + 14 + IN_PASSES + 20)


@pytest.mark.parametrize("degree", [1, 5, 8, 10])
def test_what_moments_spend_on_a_sample(degree):
    # Of a sample: 2 for t, 1 for 2 t, 1 for v, 1 for its square; d - 1 steps of the recurrence; d + 1 terms of with_y
    # and 2 d of of_x. Of the 16 of a thread: each of 3 d + 2 sums is widened and added once. Besides: 8 loads,
    # addresses and the loop itself. Half an instruction a sample is left to the compiler.
    loop = code(f"moments d={degree}", "sm_90").loop
    assert loop.float_instructions <= 16 * (4 * degree + 5.5)
    assert loop.widenings == 3 * degree + 2
    assert loop.instructions <= loop.float_instructions + 2 * loop.widenings + 40


def _epochs(found):
    """The loop over epochs that are not recorded."""
    return next(loop for loop in found.loops if loop.instructions and "S" not in loop.events)


@pytest.mark.parametrize("device", NVIDIA)
def test_what_an_epoch_spends_on_samples_in_registers(device):
    # Of a sample: d for Horner's rule, 1 for the residual, 1 for its slope; of the d + 1 sums the first takes 1, those
    # between take 2, the last takes 1: 3 d + 2. Of a sum: 5 additions behind shuffles in a warp and 3 of the update. Of
    # all sums together 2 for the warps (of each sum with Triton 3.8), and half an instruction a sum is left to the
    # compiler. Besides: shared memory,
    # barriers, what is no sample, and the loop itself.
    degree, columns = 5, 16
    loop = _epochs(code("resident d=5", device))
    of_warps = 2 * (degree + 1) if IN_PASSES else 2
    assert loop.float_instructions <= columns * (3 * degree + 2) + 8.5 * (degree + 1) + of_warps
    assert loop.instructions <= loop.float_instructions + loop.shuffles + 60


@pytest.mark.parametrize("device", NVIDIA)
@pytest.mark.parametrize("name", [name for name, run in LOOPS.items() if isinstance(run, Resident)])
def test_one_reduction_for_all_sums(name, device):
    # 5 shuffles a sum within a warp. What the warps leave is one number a thread, for all sums together. (With Triton
    # 3.8 a thread has them all.)
    run = LOOPS[name]
    assert isinstance(run, Resident)
    words = 2 if run.dtype == torch.float64 else 1
    across_warps = (run.warps - 1).bit_length()
    n_sums = run.degree + 1
    most = words * (5 * n_sums + across_warps * (n_sums if IN_PASSES else 1))
    assert _epochs(code(name, device)).shuffles <= most


@pytest.mark.parametrize("device", NVIDIA)
def test_what_an_epoch_of_descent_spends(device):
    # On float64 (d + 1)(d + 2) for the gradient and 2 (d + 1) for the update, or d + 1 with one row for all updates and
    # without weight decay. Besides: the loop itself, and the load of the rate, which one row saves.
    # Each of several series keeps what it had after its last epoch: a choice of 2 words for each coefficient.
    degree = 5
    of_one = (degree + 1) * (degree + 4)
    of_decay, of_choice = degree + 1, 2 * (degree + 1)
    assert _epochs(code("descent d=5, one series, one row", device)).instructions <= of_one - of_decay + 8
    assert _epochs(code("descent d=5, one series, one row, decay", device)).instructions <= of_one + 8
    assert _epochs(code("descent d=5, one series", device)).instructions <= of_one + 12
    assert _epochs(code("descent d=5, one row", device)).instructions <= of_one - of_decay + of_choice + 16
    assert _epochs(code("descent d=5, sgd", device)).instructions <= of_one + of_choice + 20


@pytest.mark.parametrize("name", ["resident d=5", "descent d=5, one series"])
def test_where_a_run_is_cut_compiles_nothing_anew(name):
    # Triton would compile once more for a 1, and for multiples of 16.
    run = LOOPS[name]
    cuts = [(0, 1), (1, 7), (16, 16), (5, 100)]
    runs = [dataclasses.replace(run, first=first, record_every=every) for first, every in cuts]
    assert len({source_of(run.record(DEVICES["sm_90"])).hash() for run in runs}) == 1


@pytest.mark.parametrize("name", ["resident d=5", "descent d=5, one series"])
def test_an_odd_number_of_records_compiles_nothing_anew(name):
    recorder = LOOPS[name].record(DEVICES["sm_90"])
    of_any = source_of(recorder).hash()
    recorder.arguments["losses_ptr"], recorder.arguments["norms_ptr"] = torch.empty((2, 3, 1), dtype=torch.float64)
    assert recorder.arguments["norms_ptr"].data_ptr() % 16 == 8
    assert source_of(recorder).hash() == of_any


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    [
        "resident d=5, short series",
        "descent d=1, sgd",
        "resident d=5, one row",
        "descent d=5, one series, one row",
        "descent d=5, one series, adam",
    ],
)
def test_the_epochs_between_records_are_made_once(name, device):
    # On a GPU every record repeated all epochs before it: Triton 3.6 and 3.7 took a number that the loop over records
    # carries through its two inner loops for the one that it begins with. No inner loop may begin at such a number.
    ir = compile_recorded(LOOPS[name].record(DEVICES[device]), DEVICES[device]).asm["ttgir"].splitlines()
    loops = [(number, re.search(r"scf\.for %\w+ = (%[\w#]+) to", line)) for number, line in enumerate(ir)]
    outer, *inner = [(number, found[1]) for number, found in loops if found]
    assert len(inner) == 2
    for number, bound in inner:
        assert any(re.match(rf"\s*{bound} = ", line) for line in ir[outer[0] : number]), ir[number]


@pytest.mark.parametrize("device", ["sm_90", "gfx942"])
@pytest.mark.parametrize("name", ["resident d=5, batch", "descent d=1, adam"])
def test_addresses_of_series_are_64_bits(name, device):
    run = dataclasses.replace(LOOPS[name], path=True, n_series=2**20 + 1)
    ir = ttir_of(run.record(DEVICES[device]), DEVICES[device])
    offsets = re.findall(r"tt\.addptr .*, (%\w+) : .*, (?:tensor<[\dx]*)?(i\d+)", ir)
    assert len(offsets) >= 8
    # But for what is known to the compiler: from one coefficient to the next, or number to number of the table.
    assert {width for offset, width in offsets if not re.match(r"%c(?:st)?[_\d]", offset)} == {"i64"}
    assert not re.search(r"arith\.muli .* : (?:tensor<[\dx]*)?i32>?$", ir, re.MULTILINE)


_LAYOUTS = {
    "more samples than int32 counts": ((1, 2**31 + 3), 1),
    "the last number of samples that it does": ((1, 2**31 - 1), 1),
    "fewer, strided": ((1, 2**30 + 1), 3),
    "long series": ((3, 2**30 + 1), 1),
    "many short series": ((2**22, 1000), 1),
    "many short series, strided": ((2**22, 1000), 7),
    "several series a program": ((2**26, 64), 1),
    "several series a program, strided": ((2**26, 64), 7),
}


@pytest.mark.parametrize("device", ["sm_90", "gfx942"])
@pytest.mark.parametrize("launcher", ["objective", "evaluate", "evaluate_backward", "moments"])
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_addresses_are_64_bits(layout, launcher, device):
    (n_series, n_samples), step = _LAYOUTS[layout]

    def operand() -> torch.Tensor:  # on the meta device, which has no memory
        return torch.empty(n_series, n_samples * step, device="meta")[:, ::step]

    # float64 for the coefficients: float32 pointers are then those of samples, inputs and outputs.
    coef = torch.empty(n_series, 6, dtype=torch.float64, device="meta")
    if launcher == "objective":
        operands = (operand(), operand(), coef, operand(), None, None, "power", "mse", 0.0)
        wants = {"want_x": True, "want_y": True, "want_weight": True}
    elif launcher == "evaluate":
        operands, wants = (operand(), coef, None, "power"), {}
    elif launcher == "moments":
        operands, wants = (operand(), operand(), operand(), 2, None), {}
    else:
        operands, wants = (operand(), operand(), coef, None, "power"), {"want_x": True, "want_coef": True}
    ir = ttir_of(record(launcher, DEVICES[device], *operands, **wants), DEVICES[device])
    offsets = re.findall(r"tt\.addptr .* : (?:tensor<[\dx]*)?!tt\.ptr<f32>>?, (?:tensor<[\dx]*)?(i\d+)", ir)
    assert len(offsets) >= 8
    assert set(offsets) == {"i64"}
    # An int64 may still be what overflowed as int32 before. The one product of int32 scalars counts sums of programs.
    products = re.findall(r"arith\.muli .* : i32$", ir, re.MULTILINE)
    assert len(products) <= ir.count("tt.atomic_rmw")
    assert not re.search(r"arith\.addi %(?:arg\d+|n_samples).* : i32$", ir, re.MULTILINE)


_ELEMENTS = {
    "one polynomial": (1, 1, 2**31 + 3),
    "columns": (2**22, 1000, 1),
    "columns in short runs": (2**22, 200, 5),
    "planes": (2**12, 2**10, 2**10),
    "two long rows": (1, 2, 2**30 + 1),
}


@pytest.mark.parametrize("device", ["sm_90", "gfx942"])
@pytest.mark.parametrize("layout", _ELEMENTS)
def test_addresses_of_the_activation_are_64_bits(layout, device):
    x = torch.empty(_ELEMENTS[layout], device="meta")
    coef = torch.empty(x.shape[1], 6, dtype=torch.float64, device="meta")
    launcher = f"activate_backward {'columns' if 'columns' in layout else 'planes'}"
    recorder = record(
        launcher, DEVICES[device], x, x, coef, None, "power", "linear", want_x=True, want_coef=True
    )  # fmt: skip
    ir = ttir_of(recorder, DEVICES[device])
    offsets = re.findall(r"tt\.addptr .* : (?:tensor<[\dx]*)?!tt\.ptr<f32>>?, (?:tensor<[\dx]*)?(i\d+)", ir)
    assert len(offsets) >= 6
    assert set(offsets) == {"i64"}
    # The products of int32 scalars count sums of programs.
    products = re.findall(r"arith\.muli .* : i32$", ir, re.MULTILINE)
    assert len(products) <= ir.count("tt.atomic_rmw")
    assert not re.search(r"arith\.addi %(?:arg\d+|n_samples|n_rows).* : i32$", ir, re.MULTILINE)


@pytest.mark.parametrize("device", ["sm_90", "gfx942"])
@pytest.mark.parametrize("launcher", ["kan", "kan to x", "kan to coef"])
def test_addresses_of_products_are_64_bits(launcher, device):
    n_rows, n_in, n_out = 2**20 + 1, 2**13, 2**16 + 16  # each operand and result has more than 2^32 bytes
    x, grad = (torch.empty(n_rows, width, device="meta") for width in (n_in, n_out))
    coef, bias = torch.empty(4, n_in, n_out, device="meta"), torch.empty(n_out, device="meta")
    if launcher == "kan":
        recorder = record("kan", DEVICES[device], x, coef, bias, "chebyshev", "tanh")
    else:
        wants = {"want_x": launcher == "kan to x", "want_coef": launcher == "kan to coef"}
        recorder = record(launcher, DEVICES[device], grad, x, coef, "chebyshev", "tanh", **wants)
    ir = ttir_of(recorder, DEVICES[device])
    offsets = re.findall(r"tt\.addptr .* : (?:tensor<[\dx]*)?!tt\.ptr<f32>>?, (?:tensor<[\dx]*)?(i\d+)", ir)
    assert len(offsets) >= 6
    # The stride from one degree to the next is added as it is: it is an int64 where int32 cannot hold it.
    assert set(offsets) == ({"i64"} if launcher == "kan to coef" else {"i32", "i64"})
    assert not re.search(r"arith\.muli .* : (?:tensor<[\dx]*)?i32>?$", ir, re.MULTILINE)
