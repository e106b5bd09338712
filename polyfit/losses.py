"""What a pointwise loss is: plain data, named as torch names it.

``polynomial_loss(loss=...)`` takes an object of this module or its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class MSE:
    """Squared error, ``l(p, y) = (p - y)**2``: torch.nn.functional.mse_loss."""

    name: ClassVar[str] = "mse"


Loss = MSE

LOSSES = {loss.name: loss for loss in (MSE,)}


def resolve(loss: str | Loss) -> Loss:
    """The loss object for a name; an object is returned as it is.

    Raises:
        ValueError: no loss has that name.
    """
    if isinstance(loss, tuple(LOSSES.values())):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    accepted = ", ".join(repr(name) for name in LOSSES)
    raise ValueError(f"loss={loss!r} is unknown; pass one of {accepted} or an object from polyfit.losses")
