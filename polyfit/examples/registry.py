"""A polynomial in a registry of activations, as the models of Hugging Face take theirs from, and in nn.Sequential.

Run by ``python -m polyfit.examples.registry``.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polyfit.examples import _arguments, _digits
from polyfit.nn import Polynomial


class ActivationsByName(OrderedDict[str, Any]):
    """A new module for each look-up, from a class, or from a class and its arguments, as in transformers.activations.

    With transformers installed, `transformers.activations.ACT2FN` takes the place of `ACT2FN` here.
    """

    def __getitem__(self, name: str) -> nn.Module:
        """The activation of that name."""
        entry = super().__getitem__(name)
        made_by, arguments = entry if isinstance(entry, tuple) else (entry, {})
        return made_by(**arguments)


ACT2FN = ActivationsByName({"relu": nn.ReLU, "silu": nn.SiLU, "gelu_tanh": (nn.GELU, {"approximate": "tanh"})})

# This line, and the import of Polynomial, are all: every model whose configuration says "polynomial" has it now.
ACT2FN["polynomial"] = (Polynomial, {"degree": 5, "domain": (-4, 4), "init": "silu"})


class FeedForward(nn.Module):
    """The block of two linear layers of a transformer, with the activation that its configuration names."""

    def __init__(self, hidden_act: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.act_fn = ACT2FN[hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """(..., 64) to (..., 64)."""
        return x + self.down(self.act_fn(self.up(self.norm(x))))


def by_name(hidden_act: str) -> nn.Sequential:
    """A network of two blocks."""
    return nn.Sequential(nn.Flatten(), FeedForward(hidden_act), FeedForward(hidden_act), nn.Linear(64, 10))


def sequential() -> nn.Sequential:
    """nn.Sequential takes a polynomial where it takes nn.SiLU()."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        Polynomial(5, domain=(-4, 4), init="silu"),
        nn.Linear(128, 10),
    )


def main(epochs: int = 10) -> dict[str, float]:
    """Train networks on images of digits, and print their accuracies."""
    networks = {f"blocks, {name}": partial(by_name, name) for name in ACT2FN} | {"nn.Sequential": sequential}
    digits, accuracies = _digits.load(seed=0), {}
    for name, build in networks.items():
        torch.manual_seed(0)
        model = build()
        _digits.train(model, digits, epochs)
        accuracies[name] = _digits.accuracy(model, digits)
        print(f"{name:24}{accuracies[name]:.3f}")
    return accuracies


if __name__ == "__main__":
    _arguments.parser(__doc__).parse_args()
    main()
