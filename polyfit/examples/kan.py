"""KAN layers on images of digits, compared with linear layers, and a picture of the functions that they learned.

Run by ``python -m polyfit.examples.kan``; ``--picture kan.png`` draws the functions.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from polyfit.examples import _arguments, _digits, fully_connected
from polyfit.nn import PolynomialKAN


def build(squash: str) -> nn.Sequential:
    """Three layers with a polynomial of degree 4 on each edge. They need no normalisation between them."""
    return nn.Sequential(
        nn.Flatten(),
        PolynomialKAN(64, 32, degree=4, squash=squash),
        PolynomialKAN(32, 32, degree=4, squash=squash),
        PolynomialKAN(32, 10, degree=4, squash=squash),
    )


def draw(path: str, epochs: int) -> None:
    """Train one network, and write a picture of the functions of its first layer that vary most."""
    torch.manual_seed(0)
    model = build("tanh")
    _digits.train(model, _digits.load(seed=0), epochs)
    layer = model[1]
    assert isinstance(layer, PolynomialKAN)
    layer.plot(edges=12).savefig(path, dpi=100)


def main(epochs: int = 30, seeds: int = 10, picture: str | None = None) -> dict[str, _digits.Result]:
    """Train with each map to [-1, 1] for each seed, print the table, and write the picture if a path is given."""
    networks = {"linear layers, SiLU": partial(fully_connected.build, nn.SiLU)}
    networks |= {f"KAN, {squash}": partial(build, squash) for squash in ("tanh", "algebraic", "clamp")}
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
