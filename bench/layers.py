"""Layers beside what a user could write instead: `python -m bench.layers [--threads N]`.

It prints time and peak memory of a step, forward and backward, as ratios within one run, all in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench import peers
from bench.memory import peak
from polyfit.nn import Polynomial

DEGREE, DOMAIN = 5, (-4.0, 4.0)
SHAPES = ((4096, 1024), (32, 64, 56, 56), (64, 256, 14, 14))
# The least time of so many rounds: what else runs on the machine only adds to it.
ROUNDS = 15

Step = Callable[[], None]


def step(layer: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor, parameters: list[nn.Parameter]) -> Step:
    """Values, and the gradients to x and to the parameters."""

    def run() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        layer(x).backward(upstream)

    return run


def activations(shape: tuple[int, ...], channels: int) -> dict[str, Step]:
    """A step of each kind of activation, one polynomial or one a channel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_()
    upstream = torch.randn(shape, generator=generator)

    def ours(impl: str) -> nn.Module:
        return Polynomial(DEGREE, channels, domain=DOMAIN, init="silu", impl=impl)

    coef = ours("torch").coef.detach()
    layers = {
        "ours": ours("torch"),
        'ours, impl="compile"': ours("compile"),
        "nn.SiLU": nn.SiLU(),
        "nn.PReLU": nn.PReLU(channels),
        "eager Horner": peers.HornerActivation(coef),
        "eager, same function": peers.ChebyshevActivation(coef, DOMAIN),
    }
    steps = {name: step(layer, x, upstream, list(layer.parameters())) for name, layer in layers.items()}
    within = ours("torch")
    steps["ours, compiled step"] = step(torch.compile(within), x, upstream, list(within.parameters()))
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
        run()
        lines.append(f"{name:24s}{times[name] * 1e3:9.2f}{ratios}{peak_of(run) / 2**20:12.1f}")
    return "\n".join(lines)


def peak_of(run: Step) -> int:
    """The peak of a step that finds no gradients of the step before."""
    run()
    return peak(run)


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
