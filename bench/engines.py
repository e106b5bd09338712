"""The loss curves of all engines, and how far each is from torch.optim in float64: `python -m bench.engines`.

Writes bench/results/engines.png. With a GPU the kernels are among them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import polyfit
from polyfit.optimizers import SGD, Adam, Rule
from polyfit.training import Losses

PICTURE = Path(__file__).parent / "results" / "engines.png"
EVERY = 100
# A problem, as the two columns of the picture show it: its title, rule, loss, basis and epochs.
PROBLEMS: dict[str, tuple[SGD | Adam, str, str, int]] = {
    "the tutorial: gradient descent, squared error, powers of x": (SGD(0.55e-7), "mse", "power", 80_000),
    "Adam, squared error, Chebyshev basis": (Adam(1e-3), "mse", "chebyshev", 5_000),
    "Adam, Huber's loss, Chebyshev basis": (Adam(1e-3), "huber", "chebyshev", 5_000),
}
ENGINES: dict[str, dict[str, Any]] = {
    "closed_form": {"engine": "closed_form"},
    "moments": {"engine": "moments"},
    "moments, C++": {"engine": "moments", "impl": "compile"},
    "stepwise, float64": {"engine": "stepwise", "dtype": torch.float64},
    "stepwise, float32": {"engine": "stepwise"},
    "resident, float64": {"engine": "resident", "dtype": torch.float64},
    "resident, float32": {"engine": "resident"},
}


def tutorial(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """The same samples and start, as float32 holds them, in any dtype."""
    x = torch.linspace(-math.pi, math.pi, 2000)
    start = torch.randn(6, generator=torch.Generator().manual_seed(0))
    return tuple(tensor.to(device, dtype) for tensor in (x, torch.sin(x), start))  # pyright: ignore[reportReturnType]


def by_torch_optim(rule: SGD | Adam, loss: str, basis: str, epochs: int, dtype: torch.dtype) -> Losses:
    """What an eager loop records, written with numpy's names of the basis."""
    x, y, start = tutorial(dtype, "cpu")
    t = x if basis == "power" else x / x[-1].double().item()
    coef = start.clone().requires_grad_()
    lr = float(rule.lr)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.SGD([coef], lr=lr) if isinstance(rule, SGD) else torch.optim.Adam([coef], lr=lr)
    pointwise = torch.nn.functional.mse_loss if loss == "mse" else torch.nn.functional.huber_loss
    values = []
    for epoch in range(epochs + 1):
        terms = [torch.ones_like(t), t]
        for _ in range(4):
            terms.append(t * terms[-1] if basis == "power" else 2 * t * terms[-1] - terms[-2])
        total = pointwise(sum((c * term for c, term in zip(coef, terms, strict=True)), torch.zeros_like(t)), y,
                          reduction="sum")  # fmt: skip
        if epoch % EVERY == 0:
            values.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return Losses(torch.arange(0, epochs + 1, EVERY), torch.tensor(values, dtype=torch.float64))


def by_engine(rule: Rule, loss: str, basis: str, epochs: int, how: dict[str, Any]) -> Losses | None:
    """What an engine records; None where it does not apply."""
    options = dict(how)
    dtype = options.pop("dtype", torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y, start = tutorial(dtype, device)
    domain = None if basis == "power" else (-float(x[-1]), float(x[-1]))
    try:
        return polyfit.train(
            x, y, start, optimizer=rule, epochs=epochs, loss=loss, basis=basis, domain=domain, reduction="sum",
            record_every=EVERY, **options,
        ).losses  # fmt: skip
    except ValueError as error:
        if "does not apply" not in str(error):
            raise
        return None


def draw(show: Callable[[str], None] = print) -> Figure:
    """Run all, and draw the curves above their distances from torch.optim in float64."""
    figure = Figure(figsize=(15, 7.5), layout="constrained")
    panels = figure.subplots(2, len(PROBLEMS), sharex="col", height_ratios=(3, 2))
    for (title, problem), (above, below) in zip(PROBLEMS.items(), np.transpose(panels), strict=True):
        truth = by_torch_optim(*problem, torch.float64)
        curves: dict[str, Losses | None] = {"eager, float32": by_torch_optim(*problem, torch.float32)}
        curves |= {name: by_engine(*problem, how) for name, how in ENGINES.items()}
        above.plot(truth.epochs, truth.values, color="0.8", linewidth=7, label="eager, float64")
        show(f"{title}: largest relative difference of a recorded loss from eager float64")
        shown = {name: curve for name, curve in curves.items() if curve is not None}
        for i, (name, curve) in enumerate(shown.items()):
            color = f"C{list(curves).index(name)}"
            in_turn = (4 * i, (4, 4 * (len(shown) - 1)))  # a dash of each after the other
            above.plot(curve.epochs, curve.values, color=color, linewidth=3, linestyle=in_turn, label=name)
            difference = (curve.values - truth.values).abs() / truth.values
            below.plot(curve.epochs, difference.clamp(min=1e-17), color=color, linewidth=1.4, label=name)
            show(f"  {name:20s} {difference.max():.1e}")
        above.set_title(title, fontsize="medium")
        above.set_ylabel("loss")
        below.set_ylabel("relative difference")
        below.set_xlabel("epoch")
        for panel in (above, below):
            panel.set_yscale("log")
            panel.grid(alpha=0.3)
        above.legend(fontsize="small", handlelength=8)
    return figure


def main() -> int:
    """Draw, and write the picture."""
    draw().savefig(PICTURE, dpi=100)
    print(f"picture in {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
