"""The operations on canonical operands, each carried out by the backend that `impl` names.

Canonical operands: x, y, weight (N,) or (S, N), where a 1-D one is shared by all series; coef (degree + 1,) or
(S, degree + 1). The functions here are not differentiable; polyfit.autograd is.

Under a tracer (torch.compile, make_fx, FakeTensorMode) they appear as the custom operators `polyfit::objective`,
`polyfit::evaluate` and so on. Eager calls go straight to the backend, which saves some 10 us.
"""

from polyfit.backends.operators.activation import activate, activate_backward
from polyfit.backends.operators.kan import kan, kan_backward
from polyfit.backends.operators.least_squares import moments
from polyfit.backends.operators.loss import bound_objective, objective
from polyfit.backends.operators.values import evaluate, evaluate_backward

__all__ = [
    "activate",
    "activate_backward",
    "bound_objective",
    "evaluate",
    "evaluate_backward",
    "kan",
    "kan_backward",
    "moments",
    "objective",
]
