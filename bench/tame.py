"""Whether KAN layers stay finite in a long training without normalisation, beside the form that others publish.

`python -m bench.tame` trains three layers, 64-32-32-10 of degree 4, on the images of digits with Adam, for 12000 steps
at the rates 3e-3 and 5e-2, and prints the loss, the test accuracy, and the step at which the loss was not finite.
`--steps 500` makes a shorter run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from bench.kan import AcosKAN
from polyfit.examples import _digits
from polyfit.nn import PolynomialKAN

STEPS, RATES, DEGREE = 12_000, (3e-3, 5e-2), 4


def acos_layer(in_features: int, out_features: int, degree: int) -> nn.Module:
    """The layer with the same start, as others publish it. The slope of acos is infinite at 1, and tanh rounds to 1."""
    return AcosKAN(PolynomialKAN(in_features, out_features, degree))


LAYERS: dict[str, Callable[[int, int, int], nn.Module]] = {"PolynomialKAN": PolynomialKAN, "acos layer": acos_layer}


class Training(NamedTuple):
    """A run.

    Attributes:
        loss: of the last batch.
        accuracy: the share of the test images whose digit is found, 0 to 1.
        not_finite: the first step, from 1, whose loss is NaN or infinite, at which the run ends; None if there is none.
    """

    loss: float
    accuracy: float
    not_finite: int | None


def train(layer: Callable[[int, int, int], nn.Module], lr: float, steps: int, seed: int = 0) -> Training:
    """Train three layers without anything between them, on batches of 128 images."""
    torch.manual_seed(seed)
    digits = _digits.load(seed)
    model = nn.Sequential(nn.Flatten(), layer(64, 32, DEGREE), layer(32, 32, DEGREE), layer(32, 10, DEGREE))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    value = math.nan
    for step in range(1, steps + 1):
        batch = torch.randint(len(digits.labels), (128,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(digits.images[batch]), digits.labels[batch])
        loss.backward()
        optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            return Training(value, _digits.accuracy(model, digits), step)
    return Training(value, _digits.accuracy(model, digits), None)


def main() -> None:
    """Run all, and print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=STEPS)
    steps = parser.parse_args().steps
    print(f"{'layer':16}{'rate':>6}  {'loss':>10}  accuracy  not finite at step")
    for name, layer in LAYERS.items():
        for lr in RATES:
            loss, accuracy, step = train(layer, lr, steps)
            print(f"{name:16}{lr:6.0e}  {loss:10.3g}  {accuracy:8.4f}  {step or 'none'}", flush=True)


if __name__ == "__main__":
    main()
