"""Polynomials in PyTorch: evaluate and train them in one fused pass over the data.

Coefficients are lowest degree first on the last axis; x, y and weight hold samples on their last axis.
"""

from polyfit import backends, bases, losses, nn, optimizers, training
from polyfit.functional import polynomial_loss, polyval
from polyfit.least_squares.fit import fit
from polyfit.least_squares.moments import Moments
from polyfit.least_squares.result import Fit
from polyfit.least_squares.selection import select_degree
from polyfit.least_squares.warn import FitWarning
from polyfit.training import Training, train

__all__ = [
    "Fit",
    "FitWarning",
    "Moments",
    "Training",
    "backends",
    "bases",
    "fit",
    "losses",
    "nn",
    "optimizers",
    "polynomial_loss",
    "polyval",
    "select_degree",
    "train",
    "training",
]
__version__ = "0.1.0"
