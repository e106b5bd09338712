"""The images of digits of scikit-learn, a loop that trains a network on them, and a table that compares networks.

1797 images of 8 x 8 pixels come with the package. A seed chooses 1200 of them for training; the others are the test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polyfit._optional import import_optional

TRAINING_IMAGES = 1200


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) with values in [-1, 1], and the digits 0 to 9 that they show, (N,)."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(seed: int) -> Digits:
    """The images, divided by a random permutation that the seed determines."""
    digits = import_optional("sklearn.datasets", "this example", "examples").load_digits()
    order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 8 - 1  # they hold 0 to 16
    labels = torch.tensor(digits.target)[order]
    n = TRAINING_IMAGES
    return Digits(images[:n], labels[:n], images[n:], labels[n:])


def train(model: nn.Module, digits: Digits, epochs: int, lr: float = 3e-3) -> None:
    """Train by cross-entropy and Adam, in batches of 128, with a rate that falls to zero along a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    criterion = nn.CrossEntropyLoss()
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(digits.labels)).split(128):
            optimizer.zero_grad()
            loss = criterion(model(digits.images[batch]), digits.labels[batch])
            loss.backward()
            optimizer.step()
        schedule.step()


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The digits that a trained network sees in images, (N,)."""
    model.eval()
    with torch.no_grad():
        return model(images).argmax(1)


def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of the test images whose digit the network finds."""
    return (predict(model, digits.test_images) == digits.test_labels).double().mean().item()


class Result(NamedTuple):
    """Test accuracies of a network over the seeds, and their difference from another's.

    Attributes:
        accuracy: the mean.
        difference: the mean of the differences, seed by seed. Two networks of one seed have the same images, the same
            order of batches, and the same initial weights but those of their activations.
        error: the standard error of `difference`.
    """

    accuracy: float
    difference: float
    error: float


def compare(networks: Mapping[str, Callable[[], nn.Module]], epochs: int, seeds: Iterable[int]) -> dict[str, Result]:
    """Train each network for each seed, and compare with the first of them.

    Args:
        networks: what makes a network, by its name in the table.
        epochs: epochs of training.
        seeds: two or more.
    """
    accuracies: dict[str, list[float]] = {name: [] for name in networks}
    for seed in seeds:
        digits = load(seed)
        for name, build in networks.items():
            torch.manual_seed(seed)
            model = build()
            train(model, digits, epochs)
            accuracies[name].append(accuracy(model, digits))
    table = torch.tensor(list(accuracies.values()), dtype=torch.float64)
    differences = table - table[0]
    errors = differences.std(1) / math.sqrt(table.shape[1])
    columns = zip(table.mean(1).tolist(), differences.mean(1).tolist(), errors.tolist(), strict=True)
    return {name: Result(*numbers) for name, numbers in zip(accuracies, columns, strict=True)}


def show(results: Mapping[str, Result]) -> None:
    """Print the table."""
    first = next(iter(results))
    print(f"{'':24}accuracy  difference from {first}")
    for name, (mean, difference, error) in results.items():
        shown = "" if name == first else f"  {difference:+.4f} +- {error:.4f}"
        print(f"{name:24}{mean:8.4f}{shown}")
