"""Training the coefficients of a polynomial by descent.

Four engines, of which "auto" takes the first that applies (`explain` says which, and why):

- **closed_form**: for the squared loss and SGD at a constant rate, with momentum or without. The run is an affine map
  of the coefficients: any epoch follows from one eigenproblem of the size of the polynomial.
- **moments**: for the squared loss and every rule. Epochs run on the Hessian and the gradient at one place, which two
  passes over the data give (`polyfit.training.quadratic`): an epoch costs the same for any number of samples.
- **resident**: for every loss and rule, on a GPU and for data that fit into the registers of a multiprocessor, a series
  each: many epochs are one launch of a kernel.
- **stepwise**: for every loss and rule, one fused pass over the data an epoch. Data that fit into one chunk have their
  basis functions laid out once, so that an epoch is a handful of small operations.

The first two compute in float64 whatever the dtype of the data is; the others in float32, or in
float64 for data that are.

Epochs are counted in updates: the loss recorded at epoch t is that of the coefficients after t updates, so epoch 0 is
the start and the last record belongs to the coefficients returned.
"""

from polyfit.monitor import Losses
from polyfit.training.result import EarlyStopping, Reason, Training
from polyfit.training.run import ENGINES, explain, max_stable_lr, shuffled, train

__all__ = [
    "ENGINES",
    "EarlyStopping",
    "Losses",
    "Reason",
    "Training",
    "explain",
    "max_stable_lr",
    "shuffled",
    "train",
]
