"""The codegen gate: what every kernel compiles to on the devices that we build for. No GPU is needed."""

import json
import re

import pytest
import torch

pytest.importorskip("triton")
from codegen import CEILINGS, DEGREES, DEVICES, VARIANTS, code_of, compile_recorded, record, triton_series

pytestmark = pytest.mark.codegen

# Of a Triton version or a variant that none are recorded for: the most that was seen, rounded up.
_ANY_VERSION = {1: 64, 5: 72, 10: 104, 20: 256}
# The same where sums of narrower samples are float64, 2 registers each. (A thread has 255 on NVIDIA's, 512 on AMD's.)
_ANY_VERSION_WIDE = {1: 96, 5: 176, 8: 256, 10: 272, 20: 288}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VARIANTS)
def test_code(name, device):
    variant = VARIANTS[name]
    code = code_of(variant, DEVICES[device])
    assert variant.faults(code) == []
    recorded = json.loads(CEILINGS.read_text()).get(triton_series(), {}).get(name, {})
    is_wide = variant.launcher == "moments" or variant.compute == torch.float64
    any_version = (_ANY_VERSION_WIDE if is_wide else _ANY_VERSION)[variant.degree]
    assert code.registers <= recorded.get(device, any_version)


@pytest.mark.parametrize("device", DEVICES)
def test_the_promise_for_degree_5(device):
    # Whatever is recorded: 6 programs of 256 threads on a multiprocessor of NVIDIA's.
    code = code_of(VARIANTS["objective d=5"], DEVICES[device])
    assert code.spills == 0
    assert code.registers <= 40
    assert code.wide_loads >= 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degree", DEGREES)
def test_the_power_basis_pays_nothing_for_the_others(degree, device):
    # On the 4 samples of a thread: 4 d for Horner's rule, 4 for residuals, 4 for losses and their sum, 7 for slopes and
    # their sum, 7 for each moment and its sum but 4 for the last, which needs no powers after it, and d + 2 to add the
    # sums to accumulators: 12 d + 14, or 3 d + 3.5 a sample. Besides: 2 loads, addresses and the loop itself.
    code = code_of(VARIANTS[f"objective d={degree}"], DEVICES[device])
    tiles = code.loop.wide_loads // 2
    assert code.loop.float_instructions <= tiles * (12 * degree + 14)
    assert code.loop.instructions <= tiles * (12 * degree + 14 + 20)


@pytest.mark.parametrize("degree", [1, 5, 8, 10])
def test_what_moments_spend_on_a_sample(degree):
    # Of a sample: 2 for t, 1 for 2 t, 1 for v, 1 for its square; d - 1 steps of the recurrence; d + 1 terms of with_y
    # and 2 d of of_x. Of the 16 of a thread: each of 3 d + 2 sums is widened and added once. Besides: 8 loads,
    # addresses and the loop itself. Half an instruction a sample is left to the compiler.
    code = code_of(VARIANTS[f"moments d={degree}"], DEVICES["sm_90"])
    assert code.loop.float_instructions <= 16 * (4 * degree + 5.5)
    assert code.loop.widenings == 3 * degree + 2
    assert code.loop.instructions <= code.loop.float_instructions + 2 * code.loop.widenings + 40


_LAYOUTS = {
    "more samples than int32 counts": ((1, 2**31 + 3), 1),
    "the last number of samples that it does": ((1, 2**31 - 1), 1),
    "fewer, strided": ((1, 2**30 + 1), 3),
    "long series": ((3, 2**30 + 1), 1),
    "many short series": ((2**22, 1000), 1),
    "many short series, strided": ((2**22, 1000), 7),
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
    ir = compile_recorded(record(launcher, DEVICES[device], *operands, **wants), DEVICES[device]).asm["ttir"]
    offsets = re.findall(r"tt\.addptr .* : (?:tensor<[\dx]*)?!tt\.ptr<f32>>?, (?:tensor<[\dx]*)?(i\d+)", ir)
    assert len(offsets) >= 8
    assert set(offsets) == {"i64"}
    # An int64 may still be what overflowed as int32 before. The one product of int32 scalars counts sums of programs.
    products = re.findall(r"arith\.muli .* : i32$", ir, re.MULTILINE)
    assert len(products) <= ir.count("tt.atomic_rmw")
    assert not re.search(r"arith\.addi %(?:arg\d+|n_samples).* : i32$", ir, re.MULTILINE)
