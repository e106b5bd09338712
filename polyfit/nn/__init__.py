"""Modules of torch.nn: polynomials as activations, as layers, as models and as a criterion."""

from polyfit.nn.kan import PolynomialKAN
from polyfit.nn.polynomial import Polynomial

__all__ = ["Polynomial", "PolynomialKAN"]
