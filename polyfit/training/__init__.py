"""Training the coefficients of a polynomial by descent.

Four engines make the epochs. "auto" takes the first that applies; `explain` says which, and why.

- **closed_form**: for the squared loss and SGD at a constant rate, with or without momentum. The run is an affine map
  of the coefficients: any epoch follows from one eigenproblem of the size of the polynomial.
- **moments**: for the squared loss and every rule. Epochs run on the Hessian, and on the gradient at one place, which
  two passes over the data give (`polyfit.training.quadratic`). The cost of an epoch does not depend on the number of
  samples.
- **resident**: for every loss and rule, on a GPU, for series that fit into the registers of a multiprocessor. One
  launch of a kernel makes many epochs.
- **stepwise**: for every loss and rule, one fused pass over the data an epoch. For data that fit into one chunk the
  basis functions are computed once, so that an epoch is a few small operations.

The first two do not apply where their quadratic disagrees with the data at the start beyond rounding.

The first two compute in float64 whatever the dtype of the data. The others compute in float64 for float64 data, and in
float32 for all others.

Epochs are counted in updates: the loss recorded at epoch t is that of the coefficients after t updates. Epoch 0 is the
start, and the last record belongs to the coefficients returned.
"""

from polyfit.monitor import Losses
from polyfit.training.agreement import explain
from polyfit.training.choice import ENGINES, Choice
from polyfit.training.passes import shuffled
from polyfit.training.result import EarlyStopping, Reason, Training
from polyfit.training.run import max_stable_lr, train

__all__ = [
    "ENGINES",
    "Choice",
    "EarlyStopping",
    "Losses",
    "Reason",
    "Training",
    "explain",
    "max_stable_lr",
    "shuffled",
    "train",
]
