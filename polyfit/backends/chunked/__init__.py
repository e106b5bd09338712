"""The one pass in plain PyTorch: value and gradients together, a chunk of the data at a time.

Samples of one series are gone through by recurrences, in place (`samples`): Horner's rule or Clenshaw's gives the
values, and the recurrence of the basis takes ``delta P_k`` to the next one. Series that share samples, data that are
kept, and moments for least squares have a matrix: the values ``P_k(t)`` of a chunk are laid out as its rows, and a
sample's part in everything that is wanted is then two products with it::

    p    = coef @ P                   (m, degree + 1) x (degree + 1, C)
    sums = delta @ P.T                (m, B) x (B, degree + 1),   delta = w dl/dp

with ``m`` the number of series that share this x (one, when each series has its own). No autograd inside, and nothing
of size n x degree: the rows are as long as a chunk, whatever n is. Plain operands, as most users pass them, have a pass
with fewer layers, `plain_loss` and `plain_values`, which chooses between numpy and torch.

Digits: sums are taken a block of B samples at a time, everything above in float64, so that the relative error of a
float32 sum does not grow with n.

All other operands here are canonical: x, y, weight (S or 1, N), where one row is shared by all series, and coef
(S, d + 1).
"""

from polyfit.backends.chunked.activation import activate, activate_backward
from polyfit.backends.chunked.gradient import Gradient
from polyfit.backends.chunked.kan import kan, kan_backward
from polyfit.backends.chunked.many import evaluate as many_evaluate
from polyfit.backends.chunked.many import evaluate_backward as many_evaluate_backward
from polyfit.backends.chunked.many import is_many
from polyfit.backends.chunked.many import objective as many_objective
from polyfit.backends.chunked.moments import gram, moments, triangle
from polyfit.backends.chunked.objective import Objective
from polyfit.backends.chunked.values import evaluate, evaluate_backward

__all__ = [
    "Gradient",
    "Objective",
    "activate",
    "activate_backward",
    "evaluate",
    "evaluate_backward",
    "gram",
    "is_many",
    "kan",
    "kan_backward",
    "many_evaluate",
    "many_evaluate_backward",
    "many_objective",
    "moments",
    "triangle",
]
