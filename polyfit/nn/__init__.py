"""Modules of torch.nn: polynomials as activations, as layers, as models and as a criterion."""

from polyfit.nn.criterion import PolynomialLoss
from polyfit.nn.groups import parameter_groups
from polyfit.nn.kan import PolynomialKAN
from polyfit.nn.polynomial import Polynomial
from polyfit.nn.regression import PolynomialRegression

__all__ = ["Polynomial", "PolynomialKAN", "PolynomialLoss", "PolynomialRegression", "parameter_groups"]
