"""What an update rule is: plain data, the rules of torch.optim to the letter.

`polyfit.train` reads these; nothing here holds state, so one object can serve many runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SGD:
    """Plain gradient descent, ``coef <- coef - lr * grad``: torch.optim.SGD with its defaults.

    Args:
        lr: learning rate, a positive number.

    Raises:
        ValueError: ``lr`` is not a positive finite number.

    >>> SGD(lr=1e-3)
    SGD(lr=0.001)
    """

    lr: float

    def __post_init__(self) -> None:
        if isinstance(self.lr, bool) or not isinstance(self.lr, (int, float)):
            raise TypeError(f"lr={self.lr!r} is not a number; pass a positive float")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr={self.lr!r} is not a rate to descend with; pass a positive finite number")
