"""Derivative matrices, changes of basis and domain, and numpy's series, against numpy and rational numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev, hermite, hermite_e, laguerre, legendre, polynomial

from polyfit import bases
from polyfit.bases import conversion, convert, definition, derivative_matrix, from_numpy, to_numpy

F64 = torch.float64
# What numpy has for a basis: class, derivative, the way to powers, and the product with x.
NUMPY: dict[str, Any] = {
    "power": (polynomial.Polynomial, polynomial.polyder, lambda c: c, polynomial.polymulx),
    "chebyshev": (chebyshev.Chebyshev, chebyshev.chebder, chebyshev.cheb2poly, chebyshev.chebmulx),
    "legendre": (legendre.Legendre, legendre.legder, legendre.leg2poly, legendre.legmulx),
    "hermite": (hermite.Hermite, hermite.hermder, hermite.herm2poly, hermite.hermmulx),
    "hermite_e": (hermite_e.HermiteE, hermite_e.hermeder, hermite_e.herme2poly, hermite_e.hermemulx),
    "laguerre": (laguerre.Laguerre, laguerre.lagder, laguerre.lag2poly, laguerre.lagmulx),
}
PAIRS = list(itertools.product(NUMPY, NUMPY))
# From a domain to another one.
MOVES = [
    (None, None),
    ((-2.5, 0.3), (0.0, 10.0)),
    (None, (1e6, 1e6 + 1)),
    ((1e6, 1e6 + 1), None),
    ((1.7e9 + 0.1, 1.7e9 + 0.3), (1.7e9, 1.7e9 + 5e4)),
]

Domain = tuple[float, float] | None


def exact_map(basis: str, domain: Domain) -> tuple[Fraction, Fraction]:
    """Scale and shift of domain to window."""
    if domain is None:
        return Fraction(1), Fraction(0)
    start, stop = (Fraction(bound) for bound in NUMPY[basis][0].window.tolist())
    lo, hi = map(Fraction, domain)
    return (stop - start) / (hi - lo), (start * hi - stop * lo) / (hi - lo)


def exact_convert(coef: Sequence[float], basis: str, to: str, domain: Domain, to_domain: Domain) -> list[Fraction]:
    """By way of powers, in rational numbers, with numpy's recurrences."""
    powers = NUMPY[basis][2](np.array([Fraction(value) for value in coef], dtype=object))
    (scale, shift), (to_scale, to_shift) = exact_map(basis, domain), exact_map(to, to_domain)
    # t = p s + q: Horner's rule, in series of the new basis.
    p = scale / to_scale
    q = shift - p * to_shift
    result = np.array([Fraction(0)], dtype=object)
    for value in reversed(list(powers)):
        longer = NUMPY[to][3](result) * p
        longer[: len(result)] += result * q
        longer[0] += value
        result = longer
    result = [Fraction(value) for value in result] + [Fraction(0)] * len(coef)
    assert not any(result[len(coef) :])
    return result[: len(coef)]


def ulps(actual: torch.Tensor, exact: Sequence[Fraction]) -> float:
    """The largest distance, in units of the last place of the exact value."""
    eps = Fraction(torch.finfo(actual.dtype).eps)
    distances = []
    for ours, truth in zip(actual.tolist(), exact, strict=True):
        if not truth:
            assert ours == 0.0
            continue
        unit = Fraction(2) ** (math.frexp(float(truth))[1] - 1) * eps
        distances.append(float(abs(Fraction(ours) - truth) / unit))
    return max(distances, default=0.0)


# --- derivatives
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", NUMPY)
@pytest.mark.parametrize("degree", range(21))
def test_derivative_matrix_is_numpys(basis, degree):
    actual = derivative_matrix(bases.resolve(basis), degree)
    assert actual.shape == (degree, degree + 1)
    assert actual.dtype == F64
    for k, unit in enumerate(np.eye(degree + 1)):
        expected = NUMPY[basis][1](unit)[:degree]  # numpy's derivative of a constant has a coefficient, 0
        np.testing.assert_allclose(actual[:, k].numpy(), expected, rtol=1e-15, atol=0)


def test_derivative_matrix_may_be_written():
    first = derivative_matrix(bases.CHEBYSHEV, 4)
    first.zero_()
    assert derivative_matrix(bases.CHEBYSHEV, 4)[0, 1] == 1.0


@pytest.mark.parametrize(("degree", "error"), [(-1, ValueError), (2.0, TypeError), ("2", TypeError)])
def test_bad_degree_is_named(degree, error):
    with pytest.raises(error, match="pass an int from 0 on"):
        derivative_matrix(bases.BASES["power"], degree)


# --- values
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("basis", "to"), PAIRS)
def test_coefficients_are_right_to_a_rounding(basis, to):
    for degree, (domain, to_domain) in itertools.product((0, 1, 5, 20), MOVES):
        coef = torch.randn(degree + 1, dtype=F64)
        actual = convert(coef, basis, to, domain=domain, to_domain=to_domain)
        exact = exact_convert(coef.tolist(), basis, to, domain, to_domain)
        # Half a unit for the rounding at the end, and a little for what stood beyond the second of its summands.
        assert ulps(actual, exact) <= 0.5001, (degree, domain, to_domain)


@pytest.mark.parametrize("degree", [3, 8, 20])
@pytest.mark.parametrize("to", NUMPY)
def test_what_cancels_leaves_a_result_to_a_rounding(to, degree):
    # Coefficients around zero of a function that is of order 1 on the domain: terms of 1e6**degree cancel down to what
    # the rounding of these coefficients makes of that function.
    domain = (1e6, 1e6 + 1)
    coef = convert(torch.randn(degree + 1, dtype=F64), "chebyshev", "power", domain=domain)
    actual = convert(coef, "power", to, to_domain=domain)
    assert ulps(actual, exact_convert(coef.tolist(), "power", to, None, domain)) <= 0.5001


def test_what_cancels_beyond_float64_leaves_digits():
    # (x - 1e6)**3 has coefficients that float64 holds; terms of 8e18 cancel to 1/8.
    coef = torch.tensor([-1e18, 3e12, -3e6, 1.0], dtype=F64)
    actual = convert(coef, "power", "power", to_domain=(1e6, 1e6 + 1))
    assert actual.tolist() == [1 / 8, 3 / 8, 3 / 8, 1 / 8]


@pytest.mark.parametrize(("basis", "to"), PAIRS)
def test_round_trip(basis, to):
    coef = torch.randn(7, 11, dtype=F64)
    domain, to_domain = (-2.0, 3.0), (-1.5, 3.5)
    there = convert(coef, basis, to, domain=domain, to_domain=to_domain)
    back = convert(there, to, basis, domain=to_domain, to_domain=domain)
    # The way back is exact; what was rounded in the middle it carries on.
    matrix = convert(torch.eye(11, dtype=F64), to, basis, domain=to_domain, to_domain=domain)
    allowed = torch.finfo(F64).eps * (there.abs() @ matrix.abs() + coef.abs())
    assert ((back - coef).abs() <= allowed).all()


@given(
    pair=st.sampled_from(PAIRS),
    coef=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8),
    x=st.floats(-10, 10),
    domains=st.tuples(*[st.none() | st.tuples(st.floats(-9, 0.25), st.floats(0.5, 9))] * 2),
)
@settings(max_examples=150)
def test_the_function_stays_the_same(pair, coef, x, domains):
    basis, to = pair
    domain, to_domain = domains
    before = torch.tensor(coef, dtype=F64)
    after = convert(before, basis, to, domain=domain, to_domain=to_domain)
    # In powers of x, exactly; each coefficient may be off by a rounding of its own.
    exact = [
        exact_convert(before.tolist(), basis, "power", domain, None),
        exact_convert(after.tolist(), to, "power", to_domain, None),
    ]
    each = [exact_convert(unit, to, "power", to_domain, None) for unit in np.eye(len(coef)).tolist()]
    # Half a unit, and below the smallest normal number that of the subnormal ones.
    off = [max(abs(Fraction(value)) / 2**53, Fraction(5e-324)) for value in after.tolist()]

    def value(powers: Sequence[Fraction]) -> Fraction:
        return sum((c * Fraction(x) ** k for k, c in enumerate(powers)), Fraction(0))

    allowed = sum((size * abs(value(unit)) for size, unit in zip(off, each, strict=True)), Fraction(0))
    assert abs(value(exact[0]) - value(exact[1])) <= allowed * Fraction(1001, 1000)


@pytest.mark.parametrize("domain", [None, (0.0, 3.0)])
@pytest.mark.parametrize("basis", NUMPY)
def test_same_basis_and_domain_is_an_equal_tensor(basis, domain):
    coef = torch.randn(2, 6)
    same = convert(coef, basis, basis, domain=domain, to_domain=domain)
    assert torch.equal(same, coef)
    assert same.data_ptr() != coef.data_ptr()
    # The window as a domain maps nothing; here the matrix is the unit matrix.
    assert torch.equal(convert(coef, basis, basis, to_domain=bases.resolve(basis).window), coef)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (2, 3, 4), (0, 4), (2, 0, 4), (5, 1)])
def test_batches_are_series_by_series(shape):
    coef = torch.randn(shape, dtype=F64)
    actual = convert(coef, "legendre", "laguerre", to_domain=(2, 3))
    assert actual.shape == coef.shape
    for row, expected in zip(actual.reshape(-1, shape[-1]), coef.reshape(-1, shape[-1]), strict=True):
        assert torch.equal(row, convert(expected, "legendre", "laguerre", to_domain=(2, 3)))


def test_many_series_go_in_chunks(monkeypatch):
    coef = torch.randn(50, 6, dtype=F64).T.contiguous().T
    whole = convert(coef, "legendre", "chebyshev")
    monkeypatch.setattr(conversion, "_CHUNK", 7 * 2 * 3 * 36)
    assert torch.equal(convert(coef, "legendre", "chebyshev"), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_are_rounded_at_the_end(dtype):
    coef = torch.randn(9).to(dtype)
    actual = convert(coef, "chebyshev", "power", to_domain=(-1.5, 1))
    assert actual.dtype == dtype
    exact = exact_convert(coef.tolist(), "chebyshev", "power", None, (-1.5, 1))
    assert ulps(actual, exact) <= 0.51  # to float64 first, and by way of float32 to the narrowest


# --- the ends of float64
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_series_that_is_not_finite_stays_so_and_alone(bad):
    coef = torch.randn(2, 4)
    coef[0, 2] = bad
    actual = convert(coef, "power", "laguerre", domain=(0, 1), to_domain=(0, 2))
    assert not actual[0].isfinite().any()
    assert actual[1].isfinite().all()


def test_large_and_small_numbers_do_not_overflow_on_the_way():
    large = convert(torch.tensor([0.0, 0.0, 0.0, 1.7e308], dtype=F64), "power", "chebyshev")
    assert ulps(large, exact_convert([0, 0, 0, 1.7e308], "power", "chebyshev", None, None)) <= 0.5001
    # T_3(x) = 4 x**3 - 3 x and T_5(x) = 16 x**5 - 20 x**3 + 5 x: cubic terms of 4e308, and a sum of 1e306.
    coef = [0.0, 0.0, 0.0, 1e308, 0.0, 1.9995e307 - 4e304]
    cancelled = convert(torch.tensor(coef, dtype=F64), "chebyshev", "power")
    exact = exact_convert(coef, "chebyshev", "power", None, None)
    assert ulps(cancelled[[0, 2, 3, 4]], [exact[k] for k in (0, 2, 3, 4)]) <= 0.5001
    assert cancelled[[1, 5]].tolist() == [-math.inf, math.inf]
    small = convert(torch.tensor([0.0, 0.0, 3e-310], dtype=F64), "power", "chebyshev")
    assert small.tolist() == [3e-310 / 2, 0.0, 3e-310 / 2]
    far = convert(torch.tensor([1.0, 1.0, 1e-300], dtype=F64), "power", "power", to_domain=(-1e150, 1e150))
    assert far.tolist() == [1.0, 1e150, 1e-300 * 1e150 * 1e150]
    assert convert(torch.ones(3), "power", "power", to_domain=(1e200, 2e200)).tolist() == [math.inf] * 3


# --- derivatives of the conversion
# ------------------------------------------------------------------------------------


def moved(coef: torch.Tensor) -> torch.Tensor:
    return convert(coef, "chebyshev", "laguerre", domain=(-1, 2), to_domain=(3, 4))


def test_gradcheck_to_second_order():
    coef = torch.randn(2, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(moved, (coef,), check_forward_ad=True, check_batched_grad=True)

    def square(coef):
        return moved(coef) ** 2

    assert torch.autograd.gradgradcheck(square, (coef,))


def test_gradient_is_the_transposed_matrix():
    coef = torch.randn(4, dtype=torch.float32, requires_grad=True)
    upstream = torch.randn(4)
    (gradient,) = torch.autograd.grad(moved(coef), coef, upstream)
    assert gradient.dtype == torch.float32
    matrix = moved(torch.eye(4, dtype=F64)).T
    torch.testing.assert_close(gradient, (upstream.double() @ matrix).float(), rtol=2**-23, atol=0)


def test_transforms():
    coef = torch.randn(3, 2, 4, dtype=F64)
    expected = moved(coef)
    assert torch.equal(torch.func.vmap(moved)(coef), expected)
    assert torch.equal(torch.func.vmap(moved, in_dims=1, out_dims=1)(coef), expected)
    matrix = moved(torch.eye(4, dtype=F64)).T
    assert torch.equal(torch.func.jacrev(moved)(coef[0, 0]), matrix)
    assert torch.equal(torch.func.jacfwd(moved)(coef[0, 0]), matrix)
    hessian = torch.func.hessian(lambda c: (moved(c) ** 2).sum())(coef[0, 0])
    torch.testing.assert_close(hessian, 2 * matrix.T @ matrix)
    each = torch.func.vmap(torch.func.grad(lambda c: moved(c).sum()))(coef[0])
    assert torch.equal(each, moved_gradient(coef[0]))


def moved_gradient(coef: torch.Tensor) -> torch.Tensor:
    coef = coef.detach().requires_grad_()
    return torch.autograd.grad(moved(coef).sum(), coef)[0]


def test_compile_without_graph_breaks():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(coef):
        return moved(coef)

    for shape in ((2, 4), (2, 6), (3, 5)):
        coef = torch.randn(shape, dtype=F64, requires_grad=True)
        values = compiled(coef)
        assert torch.equal(values, moved(coef))
        assert torch.equal(torch.autograd.grad(values.sum(), coef)[0], moved_gradient(coef))


def test_custom_operator_is_well_formed():
    coef = torch.randn(3, 4, dtype=F64).T.contiguous().T
    for transpose in (False, True):
        arguments = (coef, "power", "legendre", None, [0.5, 1.0], transpose)
        torch.library.opcheck(torch.ops.polyfit.change_basis, arguments)


# --- bad input
# ---------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"coef": torch.zeros(3), "basis": "power", "to": "chebyshev"}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"coef": [1.0, 2.0]}, TypeError, "coef is list; pass a torch.Tensor"),
        ({"coef": torch.zeros(3, dtype=torch.int64)}, TypeError, r"coef is torch.int64.*coef.to\(torch.float32\)"),
        ({"coef": torch.zeros(3, dtype=torch.complex64)}, TypeError, "coef is torch.complex64"),
        ({"coef": torch.tensor(1.0)}, ValueError, "degree [+] 1 coefficients"),
        ({"coef": torch.zeros(2, 0)}, ValueError, "degree [+] 1 coefficients"),
        ({"basis": "monomial"}, ValueError, "basis='monomial' is unknown; pass one of 'power'"),
        ({"to": "bernstein"}, ValueError, "'bernstein' is unknown; pass one of 'power'"),
        ({"domain": (1.0, 1.0)}, ValueError, "lo < hi"),
        ({"to_domain": (2.0, math.inf)}, ValueError, "finite"),
        ({"to_domain": 3.0}, TypeError, "pair of numbers"),
    ],
)
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        convert(**{**GOOD, **change})


# --- numpy's series
# ---------------------------------------------------------------------------------------------------


def plain_values(coef: torch.Tensor, basis: str, domain: Domain, x: np.ndarray) -> np.ndarray:
    """The recurrence and the map of polyfit.bases, written out."""
    kind = bases.resolve(basis)
    mapping = bases.affine_map(domain, kind, F64)
    t = x if mapping is None else (x - mapping.center) * mapping.scale + mapping.shift
    functions = [np.ones_like(t), np.zeros_like(t)]  # P_k, P_{k-1}
    total = coef[0].item() * functions[0]
    for value, (a, b, c) in zip(coef[1:].tolist(), kind.steps(len(coef) - 1), strict=True):
        functions = [(a * t + b) * functions[0] - c * functions[1], functions[0]]
        total = total + value * functions[0]
    return total


@pytest.mark.parametrize("domain", [None, (-3.0, 0.5), (100.0, 101.0)])
@pytest.mark.parametrize("degree", [0, 1, 6])
@pytest.mark.parametrize("basis", NUMPY)
def test_to_numpy_and_back(basis, degree, domain):
    coef = torch.randn(degree + 1, dtype=F64, requires_grad=True)
    series = to_numpy(coef, basis, domain)
    assert type(series) is NUMPY[basis][0]
    x = np.linspace(domain[0] if domain else -1.0, domain[1] if domain else 2.0, 17)
    ours = plain_values(coef, basis, domain, x)
    np.testing.assert_allclose(series(x), ours, rtol=1e-11, atol=1e-11)
    back, name, bounds = from_numpy(series)
    assert back.dtype == F64
    assert torch.equal(back, coef)
    assert (name, bounds) == (basis, domain or bases.resolve(basis).window)


@pytest.mark.parametrize(
    ("domain", "window"),
    [([0, 10], [0, 1]), ([-3, 0.5], [-1, 1]), ([1, 2], [-2, 5]), ([100, 101], [10, 10.5]), ([2, 1], [1, -1])],
)
@pytest.mark.parametrize("basis", NUMPY)
def test_from_numpy_with_a_window_of_its_own(basis, domain, window):
    coef = [0.5, -1.0, 0.25, 2.0]
    series = NUMPY[basis][0](coef, domain=domain, window=window)
    x = np.linspace(min(domain), max(domain), 17)
    actual = plain_values(*from_numpy(series), x)
    expected = series(x)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_from_numpy_keeps_the_domain_of_the_usual_window_to_the_bit():
    domain = [1e6 + 0.1, 1e6 + 0.3]
    assert from_numpy(polynomial.Polynomial([1, 2], domain=domain))[2] == tuple(domain)


def test_numpy_series_share_no_memory():
    coef = torch.ones(3, dtype=F64)
    series = to_numpy(coef, "power")
    series.coef[0] = 5.0
    assert coef[0] == 1.0
    back = from_numpy(series)[0]
    back[1] = 7.0
    assert series.coef[1] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes_to_numpy(dtype):
    coef = torch.randn(3).to(dtype)
    assert to_numpy(coef, "power").coef.tolist() == coef.tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((torch.zeros(2, 3), "power"), ValueError, "1-D"),
        ((torch.tensor(1.0), "power"), ValueError, "degree [+] 1 coefficients"),
        ((torch.zeros(3, dtype=torch.int32), "power"), TypeError, "coef is torch.int32"),
        ((np.zeros(3), "power"), TypeError, "coef is ndarray"),
        ((torch.zeros(3), "monomial"), ValueError, "unknown"),
        ((torch.zeros(3), "power", (1.0, 0.0)), ValueError, "lo < hi"),
    ],
)
def test_bad_input_of_to_numpy_is_named(arguments, error, match):
    with pytest.raises(error, match=match):
        to_numpy(*arguments)


@pytest.mark.parametrize(
    ("series", "error", "match"),
    [
        ([1.0, 2.0], TypeError, "series is list; pass a Polynomial"),
        (np.poly1d([1.0, 2.0]), TypeError, "series is poly1d"),
        (polynomial.Polynomial([1j, 2.0]), TypeError, "complex128"),
        (polynomial.Polynomial([1.0], domain=[2, 1]), ValueError, r"increasing: pass series.convert"),
        (polynomial.Polynomial([1.0], domain=[1, 1]), ValueError, r"increasing: pass series.convert"),
        (polynomial.Polynomial([1.0], window=[1, 1]), ValueError, r"increasing: pass series.convert"),
        (polynomial.Polynomial([1.0], domain=[0, math.inf]), ValueError, "finite"),
        (polynomial.Polynomial([1.0], domain=[0, 1e308], window=[0, 1e-9]), ValueError, "finite"),
    ],
)
def test_bad_input_of_from_numpy_is_named(series, error, match):
    with pytest.raises(error, match=match):
        from_numpy(series)


@pytest.mark.parametrize(("basis", "to"), PAIRS)
@pytest.mark.parametrize(("domain", "to_domain"), MOVES)
def test_a_product_in_rational_numbers_is_rounded_once(basis, to, domain, to_domain):
    row = [0.1, -3e5, 0.0, 7.0, 1 / 3, -5e-324]
    matrix = conversion.exact_conversion(basis, to, domain, to_domain, len(row) - 1)
    assert conversion._exact_product(matrix, row, transpose=False) == [
        float(value) for value in exact_convert(row, basis, to, domain, to_domain)
    ]
    columns = [
        exact_convert([float(j == k) for j in range(len(row))], basis, to, domain, to_domain) for k in range(len(row))
    ]
    assert conversion._exact_product(matrix, row, transpose=True) == [
        float(sum((entry * Fraction(value) for entry, value in zip(column, row, strict=True)), Fraction(0)))
        for column in columns
    ]


@pytest.mark.parametrize("size", [6, 31])
def test_a_product_with_an_unevaluated_sum_is_rounded_once(size):
    row = [(-1.7) ** k for k in range(size)]
    low = [value * 2.0**-54 / (k + 1) for k, value in enumerate(row)]
    matrix = conversion.exact_conversion("chebyshev", "power", (0.1, 9.7), None, size - 1)
    assert conversion._exact_product(matrix, row, transpose=False, low=low) == [
        float(sum((a * (Fraction(b) + Fraction(c)) for a, b, c in zip(entries, row, low, strict=True)), Fraction(0)))
        for entries in matrix
    ]


LARGEST = 1.7976931348623157e308


def test_a_product_that_float64_cannot_hold_is_left_to_the_tensors():
    matrix = conversion.exact_conversion("power", "chebyshev", (-2.0, 2.0), None, 2)  # t = x / 2
    for transpose in (False, True):
        for bad in (math.nan, math.inf, -math.inf):
            assert conversion._exact_product(matrix, [1.0, bad, 0.0], transpose) is None
    # x = 2 t doubles the second coefficient.
    matrix = conversion.exact_conversion("power", "power", None, (-2.0, 2.0), 1)
    assert conversion._exact_product(matrix, [1.0, LARGEST], False) is None
    assert conversion._exact_product(matrix, [1.0, LARGEST / 2], False) == [1.0, LARGEST]
    assert conversion._exact_product(matrix, [LARGEST / 2, -5e-324], True) == [LARGEST / 2, -1e-323]
    # x = 1 + t: the second coefficient is -L + 2 L, of which one term overflows and the sum does not.
    matrix = conversion.exact_conversion("power", "power", None, (0.0, 2.0), 2)
    assert conversion._exact_product(matrix, [1.0, -LARGEST, LARGEST], False) == [1.0, LARGEST, LARGEST]


def test_import_needs_no_numpy():
    import ast
    import inspect

    # torch itself imports numpy where it is there: so look at the module, not at what is loaded.
    for module in (definition, conversion):
        top = [
            node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [node for node in top if ast.unparse(node).split()[1].startswith("numpy")]
