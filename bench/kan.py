"""The KAN layer beside nn.Linear and the layers that others publish: time and memory of a forward and a backward pass.

    python -m bench.kan [--rounds 15]

The peers compute the same function in their usual form. They hold tensors of batch x in x (degree + 1) elements.
"""

from __future__ import annotations

import argparse
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.memory import peak
from polyfit.nn import PolynomialKAN

DEGREE = 4


class Shape(NamedTuple):
    """A layer and its batch."""

    n_in: int
    n_out: int
    batch: int


SHAPES = {
    "256 -> 256, batch 4096": Shape(256, 256, 4096),
    "1000 -> 1000, batch 100": Shape(1000, 1000, 100),
    "784 -> 64, batch 36864": Shape(784, 64, 36864),
}


class _Published(nn.Module, ABC):
    """The form in which these layers are published: all T_k(t) in one tensor, T_0 among them, and one einsum."""

    def __init__(self, ours: PolynomialKAN) -> None:
        super().__init__()
        bias = ours.bias.detach().expand(ours.in_features, -1) / ours.in_features  # T_0 has a coefficient an edge
        coef = torch.cat((bias.unsqueeze(0), ours.coef.detach()))
        self.degree = ours.degree
        self.coef = nn.Parameter(coef.permute(1, 2, 0).contiguous())  # (in, out, degree + 1)

    @abstractmethod
    def functions(self, t: Tensor) -> Tensor:
        """T_k(t), (B, in, degree + 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, out)."""
        return torch.einsum("bid,iod->bo", self.functions(torch.tanh(x)), self.coef)


class AcosKAN(_Published):
    """T_k(t) = cos(k acos(t))."""

    def functions(self, t: Tensor) -> Tensor:
        """All k at once."""
        orders = torch.arange(self.degree + 1, dtype=t.dtype)
        return (t.unsqueeze(-1).expand(*t.shape, self.degree + 1).acos() * orders).cos()


class RecurrenceKAN(_Published):
    """T_k by the recurrence, stacked."""

    def functions(self, t: Tensor) -> Tensor:
        """Degree by degree."""
        terms = [torch.ones_like(t), t]
        for _ in range(self.degree - 1):
            terms.append(2 * t * terms[-1] - terms[-2])
        return torch.stack(terms[: self.degree + 1], -1)


def layers(shape: Shape, degree: int = DEGREE) -> dict[str, nn.Module]:
    """Ours and the peers, with the same coefficients."""
    torch.manual_seed(0)
    ours = PolynomialKAN(shape.n_in, shape.n_out, degree)
    with torch.no_grad():
        ours.coef.normal_(std=1.0 / math.sqrt(shape.n_in * degree))
        ours.bias.normal_()
    return {
        "ours": ours,
        "nn.Linear": nn.Linear(shape.n_in, shape.n_out),
        "acos": AcosKAN(ours),
        "recurrence": RecurrenceKAN(ours),
    }


def step(layer: nn.Module, shape: Shape) -> Callable[[], Tensor]:
    """A forward and a backward pass, with the gradient to x. It returns the values."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape.batch, shape.n_in, generator=generator)
    grad = torch.randn(shape.batch, shape.n_out, generator=generator)

    def run() -> Tensor:
        layer.zero_grad()
        values = layer(x.detach().requires_grad_())
        values.backward(grad)
        return values.detach()

    return run


class Figures(NamedTuple):
    """Seconds and bytes of a layer: the shortest time, and the peak above what was there before."""

    seconds: float
    bytes: int


def measure(name: str, rounds: int = 15) -> dict[str, Figures]:
    """Time and memory of a forward and a backward pass of a shape of `SHAPES`, layer by layer; in turn, the minimum."""
    shape = SHAPES[name]
    steps = {layer: step(module, shape) for layer, module in layers(shape).items()}
    peaks = {layer: peak(run) for layer, run in steps.items()}
    times = dict.fromkeys(steps, math.inf)
    for _ in range(rounds):
        for layer, run in steps.items():
            began = time.perf_counter()
            run()
            times[layer] = min(times[layer], time.perf_counter() - began)
    return {layer: Figures(times[layer], peaks[layer]) for layer in steps}


def render(name: str, figures: dict[str, Figures]) -> str:
    """A table of a shape, with ours as the unit."""
    ours, linear = figures["ours"], figures["nn.Linear"]
    lines = [
        f"{name}, degree {DEGREE}: {ours.seconds / linear.seconds / DEGREE:.2f} x degree x nn.Linear's time,"
        f" {ours.bytes / linear.bytes:.2f} x its memory"
    ]
    lines += [
        f"  {layer:12s} {seconds * 1e3:9.2f} ms  x {seconds / ours.seconds:5.2f}"
        f" {peak / 2**20:9.1f} MiB  x {peak / ours.bytes:5.2f}"
        for layer, (seconds, peak) in figures.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all shapes and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.kan", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="passes of each layer, in turn; the shortest counts")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in SHAPES:
        print(render(name, measure(name, options.rounds)))


if __name__ == "__main__":
    main()
