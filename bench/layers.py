"""Layers beside what a user could write instead: `python -m bench.layers [--threads N]`.

It prints time and peak memory of a step, forward and backward, as ratios within one run, all in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench import peers
from bench.memory import peak
from polyfit.nn import Polynomial

DEGREE, DOMAIN = 5, (-4.0, 4.0)
SHAPES = ((4096, 1024), (32, 64, 56, 56), (64, 256, 14, 14))
# The least time of so many rounds: what else runs on the machine only adds to it.
ROUNDS = 15


class Step:
    """Values, and the gradients to x and to the parameters of a layer.

    Args:
        layer: takes x.
        x: requires a gradient.
        upstream: the incoming gradient.
        parameters: of the layer.
    """

    def __init__(self, layer: Any, x: Tensor, upstream: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        self._layer, self._x, self._upstream = layer, x, upstream
        self._leaves = [x, *parameters]

    def clear(self) -> None:
        """Drop the gradients of the step before."""
        for leaf in self._leaves:
            leaf.grad = None

    def __call__(self) -> None:
        """One step."""
        self.clear()
        self._layer(self._x).backward(self._upstream)

    def peak(self) -> int:
        """The most bytes that it holds at a time, the gradients among them."""
        self.clear()
        return peak(self)


def activations(shape: tuple[int, ...], channels: int) -> dict[str, Step]:
    """A step of each kind of activation, one polynomial or one a channel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_()
    upstream = torch.randn(shape, generator=generator)

    def ours(impl: str) -> Polynomial:
        return Polynomial(DEGREE, channels, domain=DOMAIN, init="silu", impl=impl)

    coef = ours("torch").coef.detach().reshape(channels, -1)
    layers = {
        "ours": ours("torch"),
        'ours, impl="compile"': ours("compile"),
        "nn.SiLU": nn.SiLU(),
        "nn.PReLU": nn.PReLU(channels),
        "eager Horner": peers.HornerActivation(coef),
        "eager, same function": peers.ChebyshevActivation(coef, DOMAIN),
    }
    steps = {name: Step(layer, x, upstream, layer.parameters()) for name, layer in layers.items()}
    within = ours("torch")
    steps["ours, compiled step"] = Step(torch.compile(within), x, upstream, within.parameters())
    return steps


def least_times(steps: dict[str, Step], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each, the least of some rounds in which each has its turn."""
    for run in steps.values():  # compile, allocate, fill caches
        run()
        run()
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, run in steps.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def table(title: str, steps: dict[str, Step], of: tuple[str, ...]) -> str:
    """Times, how many times longer some others take, and the peak of memory."""
    times = least_times(steps)
    lines = [f"\n{title}", f"{'':24s}{'ms':>9s}" + "".join(f"{'/ ' + name:>24s}" for name in of) + f"{'peak MiB':>12s}"]
    for name, run in steps.items():
        ratios = "".join(f"{times[name] / times[other]:24.2f}" for other in of)
        lines.append(f"{name:24s}{times[name] * 1e3:9.2f}{ratios}{run.peak() / 2**20:12.1f}")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each shape."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    torch.set_num_threads(parser.parse_args().threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for shape in SHAPES:
        for channels in (1, shape[1]):
            kind = "one polynomial" if channels == 1 else "one a channel"
            others = ("nn.SiLU", "nn.PReLU", "eager Horner", "eager, same function")
            print(
                table(f"activation {shape}, degree {DEGREE}, {kind}", activations(shape, channels), others), flush=True
            )


if __name__ == "__main__":
    main()
