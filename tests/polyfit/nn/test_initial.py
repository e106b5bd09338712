"""Initial coefficients: exact where they are exact, close to the function where they are fitted, tame at the ends."""

from __future__ import annotations

import functools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracle import NUMPY_CLASSES
from torch import nn

from polyfit import bases
from polyfit.nn import Polynomial

F64 = torch.float64
X = torch.linspace(-6, 6, 1201, dtype=F64)


@pytest.mark.parametrize("basis", list(bases.BASES))
@pytest.mark.parametrize("domain", [(-1, 1), (-4, 4), (-0.5, 3)])
def test_identity_is_x_everywhere(basis, domain):
    layer = Polynomial(4, 3, basis=basis, domain=domain, dtype=F64)
    x = X.expand(3, -1).T
    torch.testing.assert_close(layer(x), x.clone(), rtol=1e-14, atol=1e-14)
    assert layer.approximation_error is None
    free = Polynomial(2, basis=basis, domain=None, outside="extend", dtype=F64)
    torch.testing.assert_close(free(X), X, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("basis", list(bases.BASES))
@pytest.mark.parametrize("domain", [(-4, 4), (-5, 7), None])
def test_hermite(basis, domain):
    """Against numpy's series of hermite_e polynomials of x."""
    outside = "extend" if domain is None else "linear"
    layer = Polynomial(6, basis=basis, domain=domain, outside=outside, init="hermite", dtype=F64)
    expected = NUMPY_CLASSES["hermite_e"]([1 / (math.factorial(n) * math.sqrt(math.e)) for n in range(7)])
    x = torch.linspace(-4, 4, 401, dtype=F64)
    # Coefficients of windows like [0, 1] are large, and cancel when they are evaluated.
    size = float(layer.coef.detach().abs().sum())
    np.testing.assert_allclose(layer(x).detach().numpy(), expected(x.numpy()), rtol=1e-13, atol=1e-15 * size * 100)


@pytest.mark.parametrize(("degree", "lost"), [(3, 0.019), (5, 0.0006)])
def test_hermite_keeps_the_second_moment(degree, lost):
    layer = Polynomial(degree, domain=None, outside="extend", init="hermite", dtype=F64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    moment = weights @ layer(torch.from_numpy(nodes)).detach().numpy() ** 2 / math.sqrt(2 * math.pi)
    tail = 1 - float(sum(Fraction(1, math.factorial(n)) for n in range(degree + 1))) / math.e
    assert moment == pytest.approx(1 - tail, abs=1e-12)
    assert tail == pytest.approx(lost, rel=0.02)


def test_the_second_moment_of_hermite_with_tangents():
    """As the docstring says: 0.21 % is lost. By the trapezoidal rule, whose error is far smaller."""
    layer = Polynomial(5, domain=(-4, 4), init="hermite", dtype=F64)
    x = torch.linspace(-30, 30, 600_001, dtype=F64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    assert float(torch.trapezoid(layer(x).detach() ** 2 * density, x)) == pytest.approx(1 - 0.0021, abs=5e-5)


@pytest.mark.parametrize(("degree", "slope"), [(3, 7.58), (5, 16.96)])
def test_hermite_is_steep_on_the_right(degree, slope):
    """As the docstring says: it is nearly exp(x - 1)."""
    layer = Polynomial(degree, domain=(-4, 4), init="hermite", dtype=F64)
    x = torch.tensor([4.0, 9.0], dtype=F64, requires_grad=True)
    (slopes,) = torch.autograd.grad(layer(x).sum(), x)
    assert slopes.tolist() == pytest.approx([slope, slope], rel=1e-3)
    normal = Polynomial(9, domain=(-4, 4), init="hermite", dtype=F64)
    inside = torch.linspace(-2, 2, 100, dtype=F64)
    torch.testing.assert_close(normal(inside), (inside - 1).exp(), rtol=0.01, atol=1e-4)


ACTIVATIONS = [
    "identity",
    "silu",
    "gelu",
    "tanh",
    "relu",
    "sigmoid",
    "softplus",
    "elu",
    "selu",
    "mish",
    "hardswish",
    "leaky_relu",
]


@pytest.mark.parametrize("with_slope", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_tame(name, with_slope):
    """Slopes at the ends, which continue outside, are below 6 at degrees 3 to 9, and below what the docstring says."""
    if name == "identity" and with_slope:
        return  # refused: it is not fitted
    function = getattr(torch.nn.functional, name, lambda x: x)
    for degree in range(3, 10):
        layer = Polynomial(degree, domain=(-4, 4), init=name, init_slope=with_slope, dtype=F64)
        x = torch.tensor([-5.0, -4.0, 4.0, 5.0], dtype=F64, requires_grad=True)
        (slopes,) = torch.autograd.grad(layer(x).sum(), x)
        assert float(slopes.abs().max()) < 1.6  # the bound to keep is 6
        if name == "identity":
            continue
        x = torch.linspace(-4, 4, 3001, dtype=F64)
        error = (layer(x) - function(x)).abs().max().item()
        assert layer.approximation_error is not None
        assert error <= layer.approximation_error * 1.001
        assert layer.approximation_error < (0.7 if with_slope else 0.5)


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
def test_a_fit_is_near_the_best_one(degree):
    """The best uniform error is at least that of the dual bound of de la Vallee Poussin for the fit in Chebyshev nodes.

    It is estimated by a linear program here: minimise e with |p(x) - f(x)| <= e at 400 points.
    """
    linprog = pytest.importorskip("scipy.optimize").linprog
    t = np.cos(np.linspace(0, np.pi, 400))
    f = torch.nn.functional.silu(torch.from_numpy(4 * t)).numpy()
    design = np.polynomial.chebyshev.chebvander(t, degree)
    ones = np.ones((len(t), 1))
    program = linprog(
        np.r_[np.zeros(degree + 1), 1],
        A_ub=np.block([[design, -ones], [-design, -ones]]),
        b_ub=np.r_[f, -f],
        bounds=[(None, None)] * (degree + 2),
    )
    error = Polynomial.approximating("silu", degree, (-4, 4)).approximation_error
    assert error is not None
    assert program.fun * 0.999 <= error <= 2 * program.fun


def test_value_and_slope_is_the_better_fit_of_the_slope():
    x = torch.linspace(-4, 4, 2001, dtype=F64, requires_grad=True)
    (true,) = torch.autograd.grad(torch.nn.functional.gelu(x).sum(), x)
    errors = []
    for with_slope in (False, True):
        layer = Polynomial(7, domain=(-4, 4), init="gelu", init_slope=with_slope, dtype=F64)
        (slopes,) = torch.autograd.grad(layer(x).sum(), x)
        errors.append(float((slopes - true).abs().max()))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("basis", list(bases.BASES))
@pytest.mark.parametrize("with_slope", [False, True])
def test_a_polynomial_is_fitted_exactly_in_each_basis(basis, with_slope):
    def cubic(x: torch.Tensor) -> torch.Tensor:
        return 0.5 - x + 0.25 * x**3

    layer = Polynomial.approximating(cubic, 5, (-1, 3), init_slope=with_slope, basis=basis, dtype=F64, outside="extend")
    assert layer.approximation_error is not None
    assert layer.approximation_error < 1e-13
    torch.testing.assert_close(layer(X), cubic(X), rtol=1e-10, atol=1e-10)


def test_functions_that_are_taken():
    expected = Polynomial(5, domain=(-4, 4), init="silu").coef
    for function in (torch.nn.functional.silu, nn.SiLU(), functools.partial(torch.nn.functional.silu, inplace=True)):
        layer = Polynomial(5, domain=(-4, 4), init=function)
        assert torch.equal(layer.coef, expected)
        assert list(layer.children()) == []
    tanh = functools.partial(torch.nn.functional.gelu, approximate="tanh")
    assert "gelu" not in repr(Polynomial(5, init=torch.tanh))
    assert Polynomial(5, domain=(-4, 4), init=tanh).approximation_error is not None


def test_warnings_of_a_function_that_is_taken_are_shown():
    def function(x: torch.Tensor) -> torch.Tensor:
        warnings.warn("an old function", DeprecationWarning, stacklevel=2)
        return x.tanh()

    with pytest.warns(DeprecationWarning, match="an old function"):
        Polynomial(3, init=function)


def test_approximating_refuses_what_is_no_function():
    with pytest.raises(ValueError, match="function='hermite' is not approximated"):
        Polynomial.approximating("hermite", 3)
    assert Polynomial.approximating("silu", 3).domain == (-4.0, 4.0)


def test_reset_parameters():
    layer = Polynomial(5, 3, domain=(-4, 4), init="silu", dtype=torch.float16)
    start = layer.coef.detach().clone()
    with torch.no_grad():
        layer.coef.add_(1)
    layer.reset_parameters()
    assert torch.equal(layer.coef, start)


def test_the_default_device_and_dtype_do_not_matter():
    with torch.device("meta"):
        layer = Polynomial(5, 3, domain=(-4, 4), init="silu")
    assert layer.coef.is_meta
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.coef, Polynomial(5, 3, domain=(-4, 4), init="silu").coef)
    torch.set_default_dtype(F64)
    try:
        wide = Polynomial(5, 3, domain=(-4, 4), init="silu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert wide.coef.dtype == F64
    assert torch.equal(wide.coef.float(), layer.coef)
