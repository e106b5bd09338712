"""A convolutional network on images of digits: a polynomial for each channel, compared with ReLU and SiLU.

Run by ``python -m polyfit.examples.convolutional``; ``--picture activations.png`` draws what the channels learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from polyfit.examples import _arguments, _digits
from polyfit.nn import Polynomial

# What makes an activation for a number of channels.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "SiLU": lambda channels: nn.SiLU(),
    "ReLU": lambda channels: nn.ReLU(),
    "identity on (-1, 1)": lambda channels: Polynomial(5, channels),
    "SiLU on (-4, 4)": lambda channels: Polynomial(5, channels, domain=(-4, 4), init="silu"),
    "identity on (-4, 4)": lambda channels: Polynomial(5, channels, domain=(-4, 4)),
}


def build(activation: Callable[[int], nn.Module]) -> nn.Sequential:
    """Two convolutions, then a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=3, padding=1),
        activation(8),
        nn.Conv2d(8, 16, kernel_size=3, padding=1, stride=2),
        activation(16),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * 4 * 4, 10),
    )


def draw(path: str, epochs: int) -> None:
    """Train one network, and write a picture of the functions of its first channels, with the inputs that they see."""
    digits = _digits.load(seed=0)
    torch.manual_seed(0)
    model = build(ACTIVATIONS["SiLU on (-4, 4)"])
    _digits.train(model, digits, epochs)
    layer = model[1]
    assert isinstance(layer, Polynomial)
    with layer.record_inputs():
        _digits.predict(model, digits.test_images)
    layer.plot().savefig(path, dpi=100)


def main(epochs: int = 30, seeds: int = 10, picture: str | None = None) -> dict[str, _digits.Result]:
    """Train with each activation for each seed, print the table, and write the picture if a path is given."""
    networks = {name: partial(build, activation) for name, activation in ACTIVATIONS.items()}
    results = _digits.compare(networks, epochs, range(seeds))
    _digits.show(results)
    if picture is not None:
        draw(picture, epochs)
    return results


if __name__ == "__main__":
    options = _arguments.parser(__doc__)
    _arguments.add_epochs(options, 30)
    _arguments.add_picture(options)
    arguments = options.parse_args()
    main(arguments.epochs, picture=arguments.picture)
