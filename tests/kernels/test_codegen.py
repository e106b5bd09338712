"""The codegen gate: what every kernel compiles to on the devices that we build for. No GPU is needed."""

import json

import pytest

pytest.importorskip("triton")
from codegen import CEILINGS, DEVICES, VARIANTS, code_of, triton_series

pytestmark = pytest.mark.codegen

# Of a Triton version or a variant that none are recorded for: the most that was seen, rounded up.
_ANY_VERSION = {1: 64, 5: 72, 10: 104, 20: 256}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VARIANTS)
def test_code(name, device):
    variant = VARIANTS[name]
    code = code_of(variant, DEVICES[device])
    assert code.spills == 0
    assert code.wide_loads >= variant.reads
    assert code.wide_stores >= variant.writes
    assert code.barriers <= variant.barriers
    recorded = json.loads(CEILINGS.read_text()).get(triton_series(), {}).get(name, {})
    assert code.registers <= recorded.get(device, _ANY_VERSION[variant.degree])


@pytest.mark.parametrize("device", DEVICES)
def test_the_promise_for_degree_5(device):
    # Whatever is recorded.
    code = code_of(VARIANTS["objective d=5"], DEVICES[device])
    assert code.spills == 0
    assert code.registers <= 64
    assert code.wide_loads >= 2
