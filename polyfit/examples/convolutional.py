"""A convolutional network on images of digits: a polynomial for each channel, beside ReLU and SiLU.

Run by ``python -m polyfit.examples.convolutional``; ``--epochs 100`` trains longer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from torch import nn

from polyfit.examples import _digits
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


def main(epochs: int = 30, seeds: int = 10) -> dict[str, _digits.Result]:
    """Train with each activation for each seed, and print the table."""
    networks = {name: partial(build, activation) for name, activation in ACTIVATIONS.items()}
    results = _digits.compare(networks, epochs, range(seeds))
    _digits.show(results)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
