"""What is compiled before there is a GPU: launches are recorded as they are, and go on with true numbers."""

import dataclasses

import pytest
import torch

pytest.importorskip("triton")
from codegen import DEVICES, GATE, LAUNCHERS, record, source_of
from gpu_codegen import FULL_CARD, KNOWN_SPILLS, LONG, MOST_SHARED, Compiled, Launches, compile_variant
from moments_oracle import true_moments
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

import polyfit
from polyfit import formula, losses

pytestmark = pytest.mark.codegen

MAPPING = (0.5, 2.0, 0.25)
HUBER = losses.Huber(0.7)
MODEL = formula.Model("chebyshev", polyfit.bases.AffineMap(*MAPPING), HUBER)


def _data(n_series: int, n_samples: int = 4000) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    x, y, weight, coef = (
        torch.rand(rows, length, dtype=torch.float64, generator=generator)
        for rows, length in ((1, n_samples), (n_series, n_samples), (n_series, n_samples), (n_series, 4))
    )
    return x, y, weight, coef


def _operands(launcher: str, n_series: int) -> tuple[tuple, dict]:
    x, y, weight, coef = _data(n_series)
    if launcher == "objective":
        wants = {"want_x": True, "want_y": True, "want_weight": True}
        return (x, y, coef, weight, None, MAPPING, "chebyshev", *HUBER.kernel), wants
    if launcher == "evaluate":
        return (x, coef, MAPPING, "chebyshev"), {}
    if launcher == "evaluate_backward":
        return (y, x, coef, MAPPING, "chebyshev"), {"want_x": True, "want_coef": True}
    return (x, y, weight, 3, MAPPING, 0.25), {}


def _launch(launcher: str, n_series: int) -> tuple[tuple, Launches]:
    """The results of a launcher, and what was recorded."""
    operands, wants = _operands(launcher, n_series)
    module, _, name = LAUNCHERS[launcher]
    launches = Launches()
    with launches.recording():
        results = getattr(module, name)(*operands, **wants)
    return results if isinstance(results, tuple) else (results,), launches


ONE_PASS = ["objective", "evaluate", "evaluate_backward", "moments"]


@pytest.mark.parametrize("launcher", ONE_PASS)
def test_a_launch_is_recorded_as_by_the_gate(launcher):
    operands, wants = _operands(launcher, 3)
    expected = record(launcher, DEVICES["sm_90"], *operands, **wants)
    _, launches = _launch(launcher, 3)
    (found,) = launches.variants.values()
    assert found.source.hash() == source_of(expected).hash()
    assert found.options == expected.options


def _truth(launcher: str, n_series: int) -> tuple[torch.Tensor, ...]:
    x, y, weight, coef = (part.requires_grad_() for part in _data(n_series))
    if launcher == "moments":
        return true_moments(x.detach(), y.detach(), weight.detach(), 3, MAPPING, 0.25)
    values = formula.polyval(x, coef, MODEL)
    if launcher == "evaluate":
        return (values.detach(),)
    if launcher == "evaluate_backward":
        return torch.autograd.grad(values, (x, coef), y.detach())
    sums = (weight * HUBER.value(values, y)).sum(1)
    to_x, to_y, to_weight, to_coef = torch.autograd.grad(sums.sum(), (x, y, weight, coef))
    return sums.detach(), weight.detach().sum(1), to_coef, to_x, to_y, to_weight


@pytest.mark.parametrize("n_series", [1, 3])
@pytest.mark.parametrize("launcher", ONE_PASS)
def test_a_recorded_launch_has_its_result(launcher, n_series):
    results, _ = _launch(launcher, n_series)
    for found, expected in zip(results, _truth(launcher, n_series), strict=True):
        # Sums of 4000 positive numbers or of both signs, relative to the largest: within 4000 eps, or 9e-13.
        torch.testing.assert_close(found, expected, rtol=0, atol=9e-13 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("recorded", "measured"), [(LONG, 2**28), (LONG, 2**27), (FULL_CARD, 10_000_019)])
def test_fewer_samples_launch_the_variants_of_all(recorded, measured, dtype):
    def sources(n_samples):
        x, coef = torch.empty(1, n_samples, dtype=dtype, device="meta"), torch.empty(1, 6, dtype=dtype, device="meta")
        wants = {"want_x": True, "want_coef": True}
        launched = [
            record("objective", DEVICES["sm_90"], x, x, coef, None, None, None, "power", "mse", 0.0),
            record("evaluate", DEVICES["sm_90"], x, coef, None, "power"),
            record("evaluate_backward", DEVICES["sm_90"], x, x, coef, None, "power", **wants),
            record("moments", DEVICES["sm_90"], x, x, None, 5, None),
            record("moments", DEVICES["sm_90"], x, x, x, 20, None),
        ]
        return [source_of(recorder).hash() for recorder in launched]

    assert sources(recorded) == sources(measured)


def test_equal_launches_are_one_variant():
    launches = Launches()
    with launches.recording():
        for launches.phase, degree in (("smoke", 2), ("headline", 2), ("headline", 3)):
            x, y, *_ = _data(1)
            LAUNCHERS["moments"][0].moments(x, y, None, degree, None)
    assert [dict(variant.by) for variant in launches.variants.values()] == [
        {"smoke": 1, "headline": 1},
        {"headline": 1},
    ]


def test_a_compiled_variant_is_judged():
    _, launches = _launch("evaluate", 1)
    (variant,) = launches.variants.values()
    found = compile_variant(variant)
    assert found.error == ""
    assert found.registers > 0
    assert found.faults(variant.name) == []
    assert compile_variant(dataclasses.replace(variant, options={"num_warps": 3})).error
    name, (most, _) = next(iter(KNOWN_SPILLS.items()))
    assert Compiled(1.0, spills=most).faults(name) == []
    for faulty in (Compiled(1.0, spills=most + 1), Compiled(1.0, shared=MOST_SHARED + 1), Compiled(1.0, error="no")):
        (fault,) = faulty.faults(name)
        assert name in fault


def test_sources_are_what_triton_would_compile():
    # By Triton's own binder, which sees the arguments of a launch. (On gfx942 it also notes tensors below 2 GiB.)
    backend = make_backend(DEVICES["sm_90"].target)
    for name, variant in GATE.items():
        recorder = variant.record(DEVICES["sm_90"])
        ours, kernel = source_of(recorder), recorder.kernel
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, options = binder(**recorder.arguments, **recorder.options)
        _, signature, constants, attributes = kernel._pack_args(
            backend, dict(recorder.options), bound, specialization, options
        )
        assert ours.signature == signature, name
        assert ours.constants == constants, name
        assert ours.attrs == {place: noted for place, noted in attributes.items() if noted}, name
