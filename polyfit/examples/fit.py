"""sin(x) by a polynomial of degree 5, with a module, torch.optim and a DataLoader; in eager PyTorch, and in polyfit.

Run by ``python -m polyfit.examples.fit``. The two functions that train differ in two lines, which it prints.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from polyfit.examples import _arguments
from polyfit.nn import PolynomialRegression

EPOCHS = 100
# Stable for each batch: 2 / (largest eigenvalue of the Hessian) was at least 6.5e-7 in 2000 random batches.
LEARNING_RATE = 5e-7


class Quintic(nn.Module):
    """The model of the tutorial, a + b x + c x^2 + d x^3 + e x^4 + f x^5."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e, self.f = (nn.Parameter(torch.zeros(())) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        """The values at x, of any shape."""
        return self.a + self.b * x + self.c * x**2 + self.d * x**3 + self.e * x**4 + self.f * x**5


class Run(NamedTuple):
    """A finished run.

    Attributes:
        losses: of each epoch, the sum of the losses of its batches.
        coef: the coefficients at the end, lowest degree first.
    """

    losses: list[float]
    coef: Tensor


def data() -> DataLoader[tuple[Tensor, ...]]:
    """2000 samples of sin(x) on [-pi, pi], in batches of 100 in a random order."""
    x = torch.linspace(-math.pi, math.pi, 2000)
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(x, torch.sin(x)), batch_size=100, shuffle=True, generator=generator)


def train_eager(loader: Iterable[tuple[Tensor, ...]]) -> Run:
    """The loop of the tutorial."""
    model = Quintic()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y, reduction="sum")
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    return Run(losses, nn.utils.parameters_to_vector(model.parameters()).detach())


def train_polyfit(loader: Iterable[tuple[Tensor, ...]]) -> Run:
    """The same loop; value and gradient of the loss come from one pass over the batch."""
    model = PolynomialRegression(degree=5, reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = model.loss(x, y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    return Run(losses, nn.utils.parameters_to_vector(model.parameters()).detach())


def changed_lines() -> list[str]:
    """The lines in which the two functions differ, below their first two, with - and +."""
    before, after = (_body(function) for function in (train_eager, train_polyfit))
    return [line for line in difflib.ndiff(before, after) if line[0] in "-+"]


def _body(function: Callable[..., Run]) -> list[str]:
    return [line.strip() for line in inspect.getsource(function).splitlines()[2:]]


def main() -> tuple[Run, Run]:
    """Train both, and print the two lines, the losses and the coefficients."""
    print(*changed_lines(), sep="\n")
    eager, ours = train_eager(data()), train_polyfit(data())
    print("\nepoch  loss, eager  loss, polyfit")
    for epoch in (1, 10, 100):
        print(f"{epoch:5}  {eager.losses[epoch - 1]:11.5g}  {ours.losses[epoch - 1]:13.5g}")
    print("coefficients of x, x^3 and x^5:", *(f"{value:.4f}" for value in ours.coef[1::2].tolist()))
    return eager, ours


if __name__ == "__main__":
    _arguments.parser(__doc__).parse_args()
    main()
