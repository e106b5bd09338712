"""The activation by Triton's interpreter on CPU tensors: fp64 truth, eager in the same dtype, kernel."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from activation_oracle import Activation, make_activation
from oracle import NUMPY_CLASSES
from torch import Tensor

pytest.importorskip("triton")
import triton
import triton.language as tl

from polyfit import bases as definitions
from polyfit import formula
from polyfit_kernels import bases, launch, partials
from polyfit_kernels.activation import activate, activate_backward

pytestmark = [pytest.mark.interpreter, pytest.mark.usefixtures("poison")]

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# How samples of a channel lie in memory, for a number of samples n.
LAYOUTS = {
    "one polynomial": lambda n: (1, 1, n),
    "one channel of several runs": lambda n: (n, 1, 3),
    "channels last": lambda n: (n, 5, 1),
    "many channels last": lambda n: (n, 100, 1),
    "short runs": lambda n: (n, 5, 6),
    "runs of a power of 2": lambda n: (n, 4, 4),
    "planes": lambda n: (3, 2, n),
    "rows": lambda n: (1, 3, n),
}
# A tile of planes has 1024 samples of float32, one of 64 columns 16 rows, in two loads.
OF_PLANES, OF_COLUMNS = (0, 1, 1023, 1024, 1025), (0, 1, 7, 15, 16, 17, 33)
SIZES = {
    "one polynomial": OF_PLANES,
    "one channel of several runs": (341, 342),
    "channels last": OF_COLUMNS,
    "many channels last": OF_COLUMNS,
    "short runs": OF_COLUMNS,
    "runs of a power of 2": OF_COLUMNS,
    "planes": (0, 32, 341, 342),
    "rows": OF_PLANES[2:],
}


def run(problem: Activation, *, want_x: bool = True, want_coef: bool = True) -> dict[str, Tensor]:
    """All results of the kernels."""
    model = (problem.mapping, problem.basis, problem.outside)
    values = activate(problem.x, problem.coef, *model)
    gradients = activate_backward(problem.grad, problem.x, problem.coef, *model, want_x=want_x, want_coef=want_coef)
    assert [part is not None for part in gradients] == [want_x, want_coef]
    named = zip(("values", "grad_x", "grad_coef"), (values, *gradients), strict=True)
    return {name: result for name, result in named if result is not None}


def check(problem: Activation, what: str = "") -> dict[str, Tensor]:
    """The results, no worse than eager."""
    found = run(problem)
    problem.check(found, what)
    return found


@pytest.mark.parametrize(("layout", "n_samples"), [(layout, n) for layout, sizes in SIZES.items() for n in sizes])
def test_the_edges_of_a_tile(layout, n_samples):
    check(make_activation(LAYOUTS[layout](n_samples), 3), layout)


@pytest.mark.parametrize("outside", formula.OUTSIDE)
@pytest.mark.parametrize("shape", [(2, 2, 70), (20, 3, 1)])
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_every_basis_and_continuation(basis, shape, outside):
    for degree in (0, 1, 6):
        check(make_activation(shape, degree, basis=basis, outside=outside), f"{degree}")
    check(make_activation(shape, 4, basis=basis, outside=outside, domain=None), "no domain")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dtype(layout, dtype):
    check(make_activation(LAYOUTS[layout](40), 5, dtype=dtype), layout)


@pytest.mark.parametrize("basis", NUMPY_CLASSES)
@pytest.mark.parametrize("shape", [(1, 1, 65), (65, 2, 1)])
def test_every_basis_in_float64_is_numpys(shape, basis):
    # The constants of a recurrence must not pass through float32 on their way into the kernel.
    degree = 20
    problem = make_activation(shape, degree, basis=basis, domain=None, dtype=torch.float64)
    found, numpy_class = run(problem), NUMPY_CLASSES[basis]
    lo, hi = numpy_class.window
    for group in range(shape[1]):
        x, grad = (part[:, group].flatten().numpy() for part in (problem.x, problem.grad))
        inside, coef = x.clip(lo, hi), problem.coef[group].numpy()
        units = [numpy_class.basis(k, domain=numpy_class.window) for k in range(degree + 1)]
        slopes = [unit.deriv() for unit in units]
        at_ends = [slope(hi) * (x - hi).clip(0.0) + slope(lo) * (x - lo).clip(None, 0.0) for slope in slopes]
        terms = np.array([unit(inside) + more for unit, more in zip(units, at_ends, strict=True)])
        largest = np.array([np.abs(unit(inside)) + np.abs(more) for unit, more in zip(units, at_ends, strict=True)])
        slopes_of_terms = np.array([slope(inside) for slope in slopes])
        for name, expected, size in (
            ("values", coef @ terms, np.abs(coef) @ largest),
            ("grad_x", grad * (coef @ slopes_of_terms), np.abs(grad) * (np.abs(coef) @ np.abs(slopes_of_terms)).max()),
            ("grad_coef", terms @ grad, largest @ np.abs(grad)),
        ):
            result = found[name][group] if name == "grad_coef" else found[name][:, group].flatten()
            assert np.all(np.abs(result.numpy() - expected) <= 1e-13 * size), name


@pytest.mark.parametrize("degree", [12, 13, 24, 25])
def test_columns_of_a_thread_by_degree(degree):
    check(make_activation((20, 9, 1), degree))


@pytest.mark.parametrize("outside", formula.OUTSIDE)
@pytest.mark.parametrize("degree", [0, 1, 5])
@pytest.mark.parametrize("shape", [(1, 1, 130), (20, 9, 1), (3, 2, 40)])
def test_each_gradient_alone(shape, degree, outside):
    problem = make_activation(shape, degree, outside=outside)
    for wants in ({"want_x": False}, {"want_coef": False}):
        problem.check(run(problem, **wants), str(wants))
    assert "grad_x" not in run(problem, want_x=False, want_coef=False)


@pytest.mark.parametrize("inner", [33, 34, 36, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_tile_ends_within_any_run(set_policy, inner, dtype):
    # Each program takes several tiles, which begin anywhere within a run of a channel.
    set_policy(plane_bytes=1, plane_rows=32, plane_samples=8, plane_programs=1)
    problem = make_activation((11, 2, inner), 3, dtype=dtype)
    check(problem, "tiles of 32 rows")


def test_a_run_longer_than_all_tiles(set_policy):
    set_policy(plane_rows=32, plane_programs=1)
    check(make_activation((2, 2, 1500), 3))


@pytest.mark.parametrize("shape", [(60, 70, 1), (70, 9, 5), (900, 3, 1)])
def test_programs_of_columns_add_up_in_parts(set_policy, shape):
    set_policy(column_part=2, column_programs=(40,) * 3, column_loads=1)
    for degree in (0, 5):
        config = launch.choose_columns(*shape, 4, 2, 32, degree, policy=launch.current())
        assert config.parts > 1
        check(make_activation(shape, degree), f"{config}")
        assert all(not tickets.any() for tickets in partials._tickets.values())


@pytest.mark.parametrize("shape", [(2, 3, 1500), (1, 1, 5000), (100, 20, 1), (100, 5, 4)])
def test_the_same_bits_again(shape):
    problem = make_activation(shape, 5)
    first = check(problem)
    again = run(problem)
    for name, result in again.items():
        assert torch.equal(result, first[name]), name
    assert all(not tickets.any() for tickets in partials._tickets.values())


@pytest.mark.parametrize("shape", [(2, 7, 40), (30, 70, 1)])
def test_channels_that_no_single_grid_holds(set_policy, shape):
    problem = make_activation(shape, 3)
    expected = run(problem)
    set_policy(largest_grid=3)
    found = run(problem)
    for name, result in found.items():
        torch.testing.assert_close(result, expected[name], rtol=1e-5, atol=1e-6 * float(expected[name].abs().max()))


@pytest.mark.parametrize("shape", [(1, 1, 1030), (2, 3, 40), (40, 8, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_operands_that_begin_anywhere(shape, dtype):
    problem = make_activation(shape, 3, dtype=dtype)
    size = math.prod(shape)

    def moved(part: Tensor) -> Tensor:
        buffer = torch.full((size + 1,), float("nan"), dtype=dtype)
        buffer[1:] = part.flatten()
        assert buffer[1:].data_ptr() % 16 != 0
        return buffer[1:].view(shape)

    check(dataclasses.replace(problem, grad=moved(problem.grad), x=moved(problem.x), coef=problem.coef.contiguous()))


@pytest.mark.parametrize("outside", formula.OUTSIDE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 70), (20, 3, 1)])
def test_nan_stays_nan(shape, dtype, outside):
    problem = make_activation(shape, 3, dtype=dtype, outside=outside)
    clean = run(problem)
    problem.x[0, 0, 0] = float("nan")
    found = run(problem)
    for name in ("values", "grad_x"):
        assert found[name].isnan().nonzero().tolist() == [[0, 0, 0]]
        others = torch.ones(shape, dtype=torch.bool)
        others[0, 0, 0] = False
        assert torch.equal(found[name][others], clean[name][others])
    assert found["grad_coef"][0, 1:].isnan().all()
    assert torch.equal(found["grad_coef"][1:], clean["grad_coef"][1:])


def test_the_ends_are_inside():
    x = torch.tensor([[[-1.0, 1.0, 1.0 + 2**-23, -2.0]]])
    _, grad_coef = activate_backward(
        torch.ones_like(x), x, torch.tensor([[0.0, 1.0]]), None, "power", "clamp", want_x=False, want_coef=True
    )
    assert grad_coef is not None
    assert grad_coef.tolist() == [[4.0, 0.0]]
    grad_x, _ = activate_backward(
        torch.ones_like(x), x, torch.tensor([[0.0, 1.0]]), None, "power", "clamp", want_x=True, want_coef=False
    )
    assert grad_x is not None
    assert grad_x.tolist() == [[[1.0, 1.0, 0.0, 0.0]]]


def test_gradients_of_large_inputs_are_finite():
    # As under autocast: float16 inputs of 1e4, float32 coefficients.
    x = torch.tensor([1e4, -1e4, 0.0] * 700, dtype=torch.float16).view(1, 1, -1)
    grad = torch.full_like(x, 100.0)
    for outside in ("linear", "clamp"):
        grad_x, grad_coef = activate_backward(
            grad, x, torch.ones(1, 6), None, "chebyshev", outside, want_x=True, want_coef=True
        )
        assert grad_x is not None
        assert grad_coef is not None
        assert grad_x.isfinite().all()
        assert grad_coef.isfinite().all()


def negated(operand: Tensor) -> Tensor:
    """The same numbers as a view that torch negates lazily."""
    view = torch.complex(operand, -operand).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("largest_grid", [launch.DEFAULT.largest_grid, 2])
@pytest.mark.parametrize("shape", [(3, 4, 40), (5, 8, 1)])
def test_views_that_are_negated_lazily(set_policy, shape, largest_grid):
    set_policy(largest_grid=largest_grid)
    problem = make_activation(shape, 3)
    expected = run(problem)
    for names in (("grad", "x", "coef"), ("grad",)):
        lazily = dataclasses.replace(problem, **{name: negated(getattr(problem, name)) for name in names})
        for name, result in run(lazily).items():
            assert torch.equal(result, expected[name]), f"{names} {name}"


# --- what the kernels know of a basis ---


@triton.jit
def _slopes_kernel(coef_ptr, out_ptr, ends_ptr, DEGREE: tl.constexpr, BASIS: tl.constexpr):  # noqa: N803
    coef = bases.load_coefficients(coef_ptr, 1, DEGREE, tl.float64)
    slopes = bases.slope_coefficients(coef, DEGREE, BASIS)
    of_terms = bases.slopes_of_terms(tl.load(ends_ptr), DEGREE, BASIS)
    for k in tl.static_range(DEGREE):
        tl.store(out_ptr + k, slopes[k])
        tl.store(ends_ptr + 1 + k, of_terms[k + 1])


@pytest.mark.parametrize("degree", [1, 2, 3, 12])
@pytest.mark.parametrize("basis", definitions.BASES)
def test_slopes_of_a_basis(basis, degree):
    coef, out = torch.randn(degree + 1, dtype=torch.float64), torch.empty(degree, dtype=torch.float64)
    for side, end in enumerate(definitions.BASES[basis].window):
        ends = torch.full((degree + 1,), end, dtype=torch.float64)
        _slopes_kernel[(1,)](coef, out, ends, degree, basis)
        expected = definitions.derivative_matrix(definitions.BASES[basis], degree) @ coef
        torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-13 * float(expected.abs().max()))
        slopes = definitions.BASES[basis].slopes_at_ends(degree)[side]
        torch.testing.assert_close(ends[1:], torch.tensor(slopes[1:], dtype=torch.float64), rtol=1e-13, atol=0)
