"""KAN layers without normalisation stay finite where the form that others publish becomes NaN.

The whole runs, of 12000 steps, are made by `python -m bench.tame`; these are the first of their steps.
"""

import pytest

pytest.importorskip("sklearn", reason="needs the extra examples")

from bench.tame import acos_layer, train
from polyfit.nn import PolynomialKAN


def test_a_kan_of_three_layers_learns_without_normalisation() -> None:
    result = train(PolynomialKAN, lr=3e-3, steps=600)
    assert result.not_finite is None
    assert result.accuracy > 0.93


def test_a_large_rate_leaves_polynomials_finite_and_the_acos_layer_not() -> None:
    assert train(PolynomialKAN, lr=5e-2, steps=300).not_finite is None
    first_not_finite = train(acos_layer, lr=5e-2, steps=300).not_finite
    assert first_not_finite is not None
    assert first_not_finite < 100  # 3: NaN are the coefficients after the second step
