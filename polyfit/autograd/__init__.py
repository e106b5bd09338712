"""The autograd Functions: forward is one pass, backward multiplies.

Each operation is a pair of Functions in the `setup_context` style. The second Function is the backward of the first: it
multiplies or makes one more pass. The backward of the second Function is made of values (`polyval`) and of slopes in
closed form (`pointwise`), both differentiable to any order. A first derivative therefore costs one pass however it is
taken (`backward`, `create_graph=True`, `torch.func.grad`), and a second one a few. The `vmap` rules turn the new axis
into an axis of series.

The Functions have no forward mode. In forward mode, in an export, where torch.compile traces a transform of
torch.func, and for few samples under such a transform, `polyval` and `polynomial_loss` run the formula.

An eager call on few samples of one series has Functions of its own (`short`), which have one layer less.

All operands are canonical (see polyfit.backends.operators).
"""

from polyfit.autograd._tied import tied
from polyfit.autograd.activation import activation
from polyfit.autograd.composed import loss_of_each
from polyfit.autograd.composed import polynomial_loss as composed_loss
from polyfit.autograd.kan import kan
from polyfit.autograd.loss import Reduced
from polyfit.autograd.short import is_short, polynomial_loss, polyval, short_loss, short_polyval

__all__ = [
    "Reduced",
    "activation",
    "composed_loss",
    "is_short",
    "kan",
    "loss_of_each",
    "polynomial_loss",
    "polyval",
    "short_loss",
    "short_polyval",
    "tied",
]
