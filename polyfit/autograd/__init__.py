"""The autograd Functions: forward is one pass, backward multiplies.

Each operation is a pair of Functions in the `setup_context` style. The second Function is the backward of the first: it
multiplies or makes one more pass. The backward of the second Function is made of values (`polyval`) and of slopes in
closed form (`pointwise`), both differentiable to any order. A first derivative therefore costs one pass however it is
taken (`backward`, `create_graph=True`, `torch.func.grad`), and a second one a few. The `vmap` rules turn the new axis
into an axis of series.

The Functions have no forward mode. In forward mode, in an export, where torch.compile traces a transform of
torch.func, and for few samples under such a transform, `polyval` and `polynomial_loss` run the formula.

All operands are canonical (see polyfit.backends.operators).
"""

from polyfit.autograd._tied import tied
from polyfit.autograd.activation import activation
from polyfit.autograd.composed import loss_of_each
from polyfit.autograd.composed import polynomial_loss as composed_loss
from polyfit.autograd.kan import kan
from polyfit.autograd.loss import polynomial_loss
from polyfit.autograd.polyval import polyval

__all__ = ["activation", "composed_loss", "kan", "loss_of_each", "polynomial_loss", "polyval", "tied"]
