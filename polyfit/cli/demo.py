"""`polyfit demo`: the tutorial's run, and the same loop in eager autograd."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table as RichTable
from torch import Tensor

from polyfit import bases, losses, optimizers, plotting
from polyfit.bases.formatting import format_series
from polyfit.cli import options
from polyfit.cli.output import (
    INTERRUPTED,
    as_user_error,
    check_outputs,
    console,
    curve_label,
    format_time,
    printing_warnings,
    show_reason,
    write,
)
from polyfit.cli.tutorial import eager_loop, eager_training
from polyfit.functional import polyval
from polyfit.monitor import MonitorWarning
from polyfit.training import Reason, Training, explain, max_stable_lr, train

# The tutorial's run.
_SAMPLES = 2000
_DEGREE = 5
_LR = 0.55e-7
_SEED = 0
_DOMAIN = (-math.pi, math.pi)

# Epochs of the run in the Chebyshev basis that is compared with the tutorial's run.
_BETTER_EPOCHS = 1000

# Epochs that are run before the time is taken. A process pays some costs once: libraries load, threads start, kernels
# compile. Measured on two busy cores of an Intel Xeon, 2026-11-26: the first call of `train` in a process takes 15 to
# 31 ms and the second 3 to 13 ms (one epoch, engines closed_form, moments and stepwise), so one epoch is enough there.
# 300 epochs take at most 0.4 s in eager autograd on the same cores, and let the clock of a GPU rise.
_WARMING_EPOCHS = 300


@dataclass(frozen=True)
class _Run:
    """The data, the start and the options of a run on the sum of a loss."""

    x: Tensor
    y: Tensor
    start: Tensor
    rule: optimizers.Rule
    loss: str
    basis: str
    domain: tuple[float, float] | None
    engine: str

    @property
    def is_tutorial(self) -> bool:
        """Whether loss, basis, rule and rate are the tutorial's."""
        return (self.loss, self.basis, self.rule) == ("mse", "power", optimizers.SGD(lr=_LR))

    def train(self, epochs: int, **settings: Any) -> Training:
        """Run `polyfit.train`, which returns after Ctrl-C; the reason of the result says so."""
        return train(self.x, self.y, self.start, epochs=epochs, **self._options, **settings)

    def train_all(self, epochs: int, **settings: Any) -> Training:
        """Run all epochs.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the run.
        """
        result = self.train(epochs, **settings)
        if result.reason == Reason.INTERRUPTED:
            raise KeyboardInterrupt
        return result

    def train_eagerly(self, epochs: int) -> Tensor:
        """Run the same epochs by eager autograd and return the coefficients."""
        if self.is_tutorial:
            return eager_loop(self.x, self.y, self.start, _LR, epochs)
        mapping = bases.affine_map(self.domain, bases.BASES[self.basis], self.x.dtype)
        loss = losses.resolve(self.loss)
        return eager_training(
            self.x, self.y, self.start, self.rule, epochs, loss=loss, basis=self.basis, mapping=mapping
        )

    def explain(self) -> tuple[str, str]:
        """The engine that `train` takes, and why."""
        return explain(self.x, self.y, self.start, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "optimizer": self.rule,
            "loss": self.loss,
            "reduction": "sum",
            "basis": self.basis,
            "domain": self.domain,
            "engine": self.engine,
        }


def demo(
    out: Annotated[Path, typer.Option(help="File of the picture.")] = Path("polyfit_demo.png"),
    epochs: options.Epochs = 80_000,
    eager_epochs: Annotated[
        int, typer.Option(min=1, help="Number of updates of the eager loop that is compared.")
    ] = 2_000,
    optimizer: options.Optimizer = "sgd",
    loss: options.Loss = "mse",
    basis: options.Basis = "power",
    engine: options.Engine = "auto",
    monitor: options.Monitors = "none",
) -> None:
    """Fit sin(x) by 80000 epochs of gradient descent, as the tutorial does, and compare with eager autograd.

    The learning rate is the tutorial's for sgd, mse and power. For all other choices it is chosen.
    """
    check_outputs(picture=out)
    options.check_run(optimizer, loss, basis, engine)
    with as_user_error():
        run = _run(optimizer, loss, basis, engine)
        title = options.OPTIMIZERS[optimizer].title
        errors = "squared errors" if loss == "mse" else loss
        console.print(
            f"sin(x) on {_SAMPLES} points of [-pi, pi], degree {_DEGREE}, sum of {errors}, {title} at"
            f" {run.rule.lr:.3g}, {epochs} epochs"
        )
        chosen, why = run.explain()
        run.train_all(epochs if chosen == "closed_form" else min(epochs, _WARMING_EPOCHS))
        watching = options.monitors(monitor)
        with printing_warnings(MonitorWarning):
            began = time.perf_counter()
            result = run.train(epochs, monitor=watching, record_every=options.record_every(epochs))
            seconds = time.perf_counter() - began

    console.print(f"\n{format_series(result.coef.tolist(), basis, run.domain)}", style="bold")
    console.print(f"loss {result.loss:.6g} after {result.epochs} epochs in {format_time(seconds)} ({result.engine})")
    console.print(f"{result.engine}: {why}")
    show_reason(result.reason)
    is_interrupted = result.reason == Reason.INTERRUPTED
    if not is_interrupted:
        try:
            _show_landscape(run, result)
            _compare_with_eager(run, epochs, seconds, eager_epochs)
        except KeyboardInterrupt:
            is_interrupted = True
            console.print("stopped by Ctrl-C: the comparison is not complete")
    figure = plotting.training_figure(
        result.losses,
        run.x,
        run.y,
        losses.resolve(loss).to_scale_of_y(polyval(run.x, result.coef, basis=basis, domain=run.domain)),
        fitted_label=curve_label(loss),
        title=f"sin(x), degree {_DEGREE}: {result.epochs} epochs of {title}",
    )
    write(out, "picture", lambda path: plotting.save_figure(figure, path))
    if is_interrupted:
        raise typer.Exit(INTERRUPTED)


def _run(optimizer: str, loss: str, basis: str, engine: str) -> _Run:
    """The run of these options, on the data and from the start of the tutorial."""
    domain = None if basis == "power" else _DOMAIN
    x = torch.linspace(*_DOMAIN, _SAMPLES)
    start = torch.randn(_DEGREE + 1, generator=torch.Generator().manual_seed(_SEED))
    largest = max_stable_lr(x, _DEGREE, reduction="sum", basis=basis, domain=domain)
    lr = _LR if (optimizer, loss, basis) == ("sgd", "mse", "power") else None
    rule = options.update_rule(optimizer, lr, largest, loss)
    return _Run(x, torch.sin(x), start, rule, loss, basis, domain, engine)


def _show_landscape(run: _Run, result: Training) -> None:
    """Print how far from the minimum the run ended, the reason, and how fast a better basis gets there."""
    if result.optimal_loss is None:
        return
    if result.slowest_share is None:
        console.print(f"the minimum loss is {result.optimal_loss:.4g}")
        return
    needed = [result.epochs_to(share) for share in (0.01, 1e-6)]
    console.print(
        f"the minimum loss is {result.optimal_loss:.4g}: along the slowest direction {result.slowest_share:.3g} of the"
        f" initial error remains; it takes {needed[0]:.3g} epochs to reduce it to 1 %, and {needed[1]:.3g} to 1e-6"
    )
    if not run.is_tutorial:
        return
    console.print(
        f"the powers of x are nearly dependent on [-pi, pi]: the largest curvature of the loss is"
        f" {result.condition:.2g} times the smallest. The largest one limits the learning rate to"
        f" {result.max_stable_lr:.3g}; the smallest one then makes the descent slow"
    )
    largest = max_stable_lr(run.x, _DEGREE, reduction="sum", basis="chebyshev", domain=_DOMAIN)
    rule = optimizers.SGD(lr=options.SHARE_OF_MAX_LR * largest)
    better = replace(run, rule=rule, basis="chebyshev", domain=_DOMAIN, engine="auto")
    epochs, values = better.train_all(_BETTER_EPOCHS, record_every=1).losses
    near = values <= 1.01 * result.optimal_loss
    if bool(near.any()):
        first = int(epochs[near.nonzero()[0]])
        console.print(
            f"in the Chebyshev basis on [-pi, pi], the same rule at {rule.lr:.3g} is within 1 % of the minimum loss"
            f" after {first} epochs"
        )


def _compare_with_eager(run: _Run, epochs: int, seconds: float, eager_epochs: int) -> None:
    """Time the eager loop, and compare its coefficients with those of `polyfit.train` after the same epochs.

    Args:
        run: the data and the options.
        epochs: number of epochs that `polyfit.train` ran.
        seconds: their time.
        eager_epochs: number of epochs of the eager loop.
    """
    run.train_eagerly(min(eager_epochs, _WARMING_EPOCHS))
    began = time.perf_counter()
    eager = run.train_eagerly(eager_epochs)
    eager_seconds = (time.perf_counter() - began) / eager_epochs * epochs
    table = RichTable(title=f"{epochs} epochs")
    table.add_column("loop")
    table.add_column("seconds", justify="right")
    how = "eager autograd, as the tutorial writes it" if run.is_tutorial else "eager autograd and torch.optim"
    table.add_row(f"{how} ({eager_epochs} epochs timed)", f"{eager_seconds:.3g}")
    table.add_row("polyfit.train", f"{seconds:.3g}")
    table.add_row("ratio", f"{eager_seconds / seconds:.4g}")
    console.print(table)
    difference = float((eager - run.train_all(eager_epochs).coef).abs().max())
    console.print(f"largest difference between coefficients after {eager_epochs} epochs: {difference:.1e}")
