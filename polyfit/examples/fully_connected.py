"""A fully connected network on images of digits: polynomials as activations, compared with ReLU and SiLU.

Run by ``python -m polyfit.examples.fully_connected``; ``--epochs 100`` trains longer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from polyfit._optional import import_optional
from polyfit.examples import _arguments, _digits
from polyfit.nn import Polynomial

# What makes an activation. One polynomial serves a whole layer.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "SiLU": nn.SiLU,
    "ReLU": nn.ReLU,
    "identity on (-1, 1)": lambda: Polynomial(degree=5),
    "SiLU on (-4, 4)": lambda: Polynomial(degree=5, domain=(-4, 4), init="silu"),
    "identity on (-4, 4)": lambda: Polynomial(degree=5, domain=(-4, 4)),
}


def build(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """A network of three linear layers, with dropout."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        activation(),
        nn.Dropout(0.2),
        nn.Linear(64, 64),
        activation(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


def report(epochs: int) -> str:
    """How well one network with polynomials finds each of the digits: precision, recall and their harmonic mean."""
    digits = _digits.load(seed=0)
    torch.manual_seed(0)
    model = build(ACTIVATIONS["SiLU on (-4, 4)"])
    _digits.train(model, digits, epochs)
    metrics = import_optional("sklearn.metrics", "the report", "examples")
    return metrics.classification_report(digits.test_labels, _digits.predict(model, digits.test_images), digits=3)


def main(epochs: int = 30, seeds: int = 10) -> dict[str, _digits.Result]:
    """Train with each activation for each seed, and print the table."""
    networks = {name: partial(build, activation) for name, activation in ACTIVATIONS.items()}
    results = _digits.compare(networks, epochs, range(seeds))
    _digits.show(results)
    print("\nOne network, SiLU on (-4, 4):", report(epochs), sep="\n")
    return results


if __name__ == "__main__":
    options = _arguments.parser(__doc__)
    _arguments.add_epochs(options, 30)
    main(options.parse_args().epochs)
