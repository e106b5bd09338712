"""`polyfit demo`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table as RichTable
from torch import Tensor

from polyfit import bases, losses, optimizers, plotting
from polyfit.backends import resolve_impl
from polyfit.bases.formatting import format_series
from polyfit.cli.options import (
    BASIS_HELP,
    ENGINE_HELP,
    LOSS_HELP,
    MONITOR_HELP,
    OPTIMIZER_HELP,
    RULES,
    SHARE_OF_MAX_LR,
    AnyRule,
    monitors,
    rule_of,
)
from polyfit.cli.output import INTERRUPTED, STOPPED, UserError, check_outputs, console, watched, write
from polyfit.cli.tutorial import eager_loop, eager_training
from polyfit.functional import polyval
from polyfit.training import Reason, Training, explain, max_stable_lr, train

# The tutorial's run.
_DEMO_SAMPLES = 2000
_DEMO_DEGREE = 5
_DEMO_LR = 0.55e-7
_DEMO_SEED = 0
_BETTER_EPOCHS = 1000
_WARMING_EPOCHS = 300


def demo(
    out: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("polyfit_demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Updates to make.")] = 80_000,
    eager_epochs: Annotated[int, typer.Option(min=1, help="Updates of the eager loop to compare with.")] = 2_000,
    optimizer: Annotated[str, typer.Option(help=OPTIMIZER_HELP)] = "sgd",
    loss: Annotated[str, typer.Option(help=LOSS_HELP)] = "mse",
    basis: Annotated[str, typer.Option(help=BASIS_HELP)] = "power",
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "auto",
    monitor: Annotated[str, typer.Option(help=MONITOR_HELP)] = "none",
) -> None:
    """Fit sin(x) by 80000 epochs of gradient descent, as the tutorial does, and compare with eager autograd.

    Its rate is the tutorial's for the tutorial's rule, loss and basis, and chosen for others.
    """
    check_outputs(out)
    is_tutorial = (optimizer, loss, basis) == ("sgd", "mse", "power")
    domain = None if basis == "power" else (-math.pi, math.pi)
    x = torch.linspace(-math.pi, math.pi, _DEMO_SAMPLES)
    y = torch.sin(x)
    start = torch.randn(_DEMO_DEGREE + 1, generator=torch.Generator().manual_seed(_DEMO_SEED))
    options: dict[str, Any] = {"reduction": "sum", "loss": loss, "basis": basis, "domain": domain, "engine": engine}
    try:
        largest = max_stable_lr(x, _DEMO_DEGREE, reduction="sum", basis=basis, domain=domain)
        rule = rule_of(optimizer, _DEMO_LR if is_tutorial else None, largest, loss)
        console.print(
            f"sin(x) on {_DEMO_SAMPLES} points of [-pi, pi], degree {_DEMO_DEGREE}, sum of"
            f" {'squared errors' if loss == 'mse' else loss}, {RULES[optimizer]} at {rule.lr:.3g}, {epochs} epochs"
        )
        chosen, why = explain(
            rule, loss, engine=engine, impl=resolve_impl("auto", x.device), n_samples=len(x), degree=_DEMO_DEGREE
        )
        # What a process does once is not the run's.
        warming = epochs if chosen == "closed_form" else min(epochs, _WARMING_EPOCHS)
        train(x, y, start, optimizer=rule, epochs=warming, **options)
        watching = monitors(monitor)
        began = time.perf_counter()
        result = watched(x, y, start, optimizer=rule, epochs=epochs, monitor=watching, **options)
        seconds = time.perf_counter() - began
    except ValueError as error:
        raise UserError(str(error)) from None

    console.print(f"\n{format_series(result.coef.tolist(), basis, domain)}", style="bold")
    console.print(f"loss {result.loss:.6g} after {result.epochs} epochs in {seconds * 1e3:.2g} ms ({result.engine})")
    console.print(f"{result.engine}: {why}")
    _show_landscape(x, y, start, result, is_tutorial=is_tutorial)
    if result.reason in STOPPED:
        console.print(STOPPED[result.reason])
    else:
        _compare_with_eager(x, y, start, rule, eager_epochs, epochs, seconds, options)
    figure = plotting.training_figure(
        result.losses,
        x,
        y,
        polyval(x, result.coef, basis=basis, domain=domain),
        title=f"sin(x), degree {_DEMO_DEGREE}: {result.epochs} epochs of {RULES[optimizer]}",
    )
    write(out, "picture", lambda path: plotting.save_figure(figure, path))
    if result.reason == Reason.INTERRUPTED:
        raise typer.Exit(INTERRUPTED)


def _show_landscape(x: Tensor, y: Tensor, start: Tensor, result: Training, *, is_tutorial: bool) -> None:
    """How far from the optimum the run ended, why, and what a better basis makes of it."""
    if result.optimal_loss is None:
        return
    if result.slowest_share is None:
        console.print(f"the least loss is {result.optimal_loss:.4g}")
        return
    epochs = [result.epochs_to(share) for share in (0.01, 1e-6)]
    console.print(
        f"the least loss is {result.optimal_loss:.4g}: along the slowest direction {result.slowest_share:.3g} of the"
        f" initial error is left; it would take {epochs[0]:.3g} epochs to 1 % and {epochs[1]:.3g} to 1e-6"
    )
    if not is_tutorial:
        return
    console.print(
        f"powers of x are nearly dependent there: the curvature of the loss differs {result.condition:.2g}-fold between"
        f" directions, and the largest stable rate, {result.max_stable_lr:.3g}, is set by the steepest"
    )
    domain = (-math.pi, math.pi)
    largest = max_stable_lr(x, _DEMO_DEGREE, reduction="sum", basis="chebyshev", domain=domain)
    rule = optimizers.SGD(lr=SHARE_OF_MAX_LR * largest)
    better = train(
        x, y, start, optimizer=rule, epochs=_BETTER_EPOCHS, reduction="sum", basis="chebyshev", domain=domain,
        record_every=1,
    )  # fmt: skip
    near = better.losses.values <= 1.01 * result.optimal_loss
    if bool(near.any()):
        first = int(better.losses.epochs[near.nonzero()[0]])
        console.print(
            f"on the Chebyshev basis of [-pi, pi] the same rule, at {rule.lr:.3g}, is within 1 % of the least loss"
            f" after {first} epochs"
        )


def _compare_with_eager(
    x: Tensor,
    y: Tensor,
    start: Tensor,
    rule: AnyRule,
    eager_epochs: int,
    epochs: int,
    seconds: float,
    options: dict[str, Any],
) -> None:
    """Time the loop that one writes oneself for some epochs, and see how far from it ours ends after as many."""
    basis, loss = options["basis"], losses.resolve(options["loss"])
    mapping = bases.affine_map(options["domain"], bases.BASES[basis], x.dtype)
    is_tutorial = isinstance(rule, optimizers.SGD) and (rule.lr, basis, loss.name) == (_DEMO_LR, "power", "mse")

    def descend(epochs: int) -> Tensor:
        if is_tutorial:
            return eager_loop(x, y, start, _DEMO_LR, epochs)
        return eager_training(x, y, start, rule, epochs, loss=loss, basis=basis, mapping=mapping)

    descend(min(eager_epochs, _WARMING_EPOCHS))
    began = time.perf_counter()
    eager = descend(eager_epochs)
    eager_seconds = (time.perf_counter() - began) / eager_epochs * epochs
    table = RichTable(title=f"{epochs} epochs")
    table.add_column("loop")
    table.add_column("seconds", justify="right")
    how = "eager autograd, as the tutorial writes it" if is_tutorial else "eager autograd and torch.optim"
    table.add_row(f"{how} ({eager_epochs} epochs timed)", f"{eager_seconds:.3g}")
    table.add_row("polyfit.train", f"{seconds:.3g}")
    table.add_row("ratio", f"{eager_seconds / seconds:.4g}")
    console.print(table)
    ours = train(x, y, start, optimizer=rule, epochs=eager_epochs, **options)
    difference = float((eager - ours.coef).abs().max())
    console.print(f"largest difference of a coefficient after {eager_epochs} epochs: {difference:.1e}")
