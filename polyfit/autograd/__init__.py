"""The autograd Functions: forward is one pass, backward multiplies.

Each operation is a pair of Functions in the `setup_context` style. The backward of the first is the second, whose value
is a product or one more pass, and whose own backward goes through polyfit.formula, where derivatives of any order are
autograd's. So a first derivative costs one pass however it is taken (`backward`, `create_graph=True`,
`torch.func.grad`), and a second one is right. Their `vmap` rules make the new axis an axis of series.

There is no forward mode in them: under it, in an export, and where torch.compile traces a transform of torch.func,
`polyval` and `polynomial_loss` run the formula.

All operands are canonical (see polyfit.backends.operators).
"""

from polyfit.autograd._tied import tied
from polyfit.autograd.loss import polynomial_loss
from polyfit.autograd.polyval import polyval

__all__ = ["polynomial_loss", "polyval", "tied"]
