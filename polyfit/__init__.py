"""Polynomials in PyTorch: evaluate, fit and train them in one fused pass over the data.

Coefficients are lowest degree first on the last axis; x, y and weight hold samples on their last axis.
"""

from polyfit import losses, optimizers
from polyfit.functional import polynomial_loss, polyval

__all__ = ["losses", "optimizers", "polynomial_loss", "polyval"]
__version__ = "0.1.0"
