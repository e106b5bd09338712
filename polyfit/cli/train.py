"""`polyfit train`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from polyfit import optimizers, plotting
from polyfit.bases.formatting import format_shift, format_terms, origin_and_scale
from polyfit.cli.options import (
    BASIS_HELP,
    ENGINE_HELP,
    LOSS_HELP,
    MONITOR_HELP,
    OPTIMIZER_HELP,
    SHARE_OF_MAX_LR,
    monitors,
    rule_of,
)
from polyfit.cli.output import INTERRUPTED, STOPPED, UserError, check_outputs, console, show_table, watched, write
from polyfit.functional import polyval
from polyfit.io.files import replacing
from polyfit.io.tables import Column, Table, read_columns
from polyfit.training import EarlyStopping, Reason, Training, max_stable_lr

# The loss counts as still falling if it lost more than this share over the last tenth of the epochs.
_STILL_FALLING = 1e-4


def train_command(
    file: Annotated[Path, typer.Argument(help="CSV file with a header line.")],
    x: Annotated[str, typer.Option(help="Column of x: numbers, or dates (read as days).")],
    y: Annotated[str, typer.Option(help="Column of y.")],
    degree: Annotated[int, typer.Option(min=0, help="Degree of the polynomial.")],
    epochs: Annotated[int, typer.Option(min=1, help="Updates to make.")] = 20_000,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; without it one is chosen and shown, for sgd a stable one.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help=OPTIMIZER_HELP)] = "sgd",
    loss: Annotated[str, typer.Option(help=LOSS_HELP)] = "mse",
    basis: Annotated[str, typer.Option(help=BASIS_HELP)] = "power",
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "auto",
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when the loss has not come down for so many epochs.")
    ] = None,
    monitor: Annotated[str, typer.Option(help=MONITOR_HELP)] = "bar",
    out: Annotated[Path | None, typer.Option(help="Write a picture: loss curve beside data and fit.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the polynomial as JSON.")] = None,
) -> None:
    """Fit a polynomial to two columns of a CSV file by gradient descent on the mean loss.

    x is mapped to t in the window of the basis, [-1, 1] but for laguerre, in which the polynomial is shown and saved.
    Rows with a missing value are skipped and counted.
    """
    check_outputs(out, save, file)
    table = read_columns(file, x, y)
    x_values = torch.tensor(table.x.values, dtype=torch.float64)
    y_values = torch.tensor(table.y.values, dtype=torch.float64)
    show_table(file, table)
    domain = _domain(table.x)
    try:
        largest = max_stable_lr(x_values, degree, basis=basis, domain=domain)
    except ValueError as error:
        raise UserError(f"{table.x.name}: {error}") from None
    rule = rule_of(optimizer, lr, largest, loss)
    chosen = ""
    if lr is None and isinstance(rule, optimizers.SGD):
        chosen = f", chosen as {SHARE_OF_MAX_LR:.0%} of the largest stable one for mse, {largest:.4g}"
    console.print(f"{optimizer}, learning rate {rule.lr:.4g}{chosen}")

    start = torch.zeros(degree + 1, dtype=torch.float64)
    try:
        result = watched(
            x_values, y_values, start, optimizer=rule, epochs=epochs, loss=loss, basis=basis, domain=domain,
            engine=engine, monitor=monitors(monitor),
            early_stopping=None if patience is None else EarlyStopping(patience=patience),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(str(error)) from None
    if not math.isfinite(result.loss):
        raise UserError(f"the loss left the finite numbers; pass a smaller --lr than {rule.lr:.4g}, or scale y down")
    residuals = polyval(x_values, result.coef, basis=basis, domain=domain) - y_values
    r_squared = _r_squared(y_values, float(residuals.square().mean()))
    _show_result(table, basis, domain, loss, result, r_squared)
    if save is not None:
        document = _document(file, table, basis, domain, (optimizer, rule.lr), loss, result, r_squared)
        write(save, "polynomial", lambda path: _save_json(document, path))
    if out is not None:
        fitted = polyval(x_values, result.coef, basis=basis, domain=domain)
        figure = plotting.training_figure(
            result.losses,
            x_values,
            y_values,
            fitted,
            x_label=x,
            y_label=y,
            x_is_days=table.x.is_date,
            title=f"{file.name}: degree {degree}, R² = {r_squared:.4f}",
        )
        write(out, "picture", lambda path: plotting.save_figure(figure, path))
    if result.reason == Reason.INTERRUPTED:
        raise typer.Exit(INTERRUPTED)


def _domain(column: Column) -> tuple[float, float]:
    low, high = min(column.values), max(column.values)
    if low == high:
        raise UserError(
            f"all values of {column.name!r} are {column.describe(low)}; a fit needs at least two different ones"
        )
    return low, high


def _r_squared(y: Tensor, loss: float) -> float:
    """1 - residual / total sum of squares about the mean; nan for constant y."""
    total = float((y - y.mean()).square().mean())
    return 1.0 - loss / total if total > 0 else math.nan


def _show_result(
    table: Table, basis: str, domain: tuple[float, float], loss: str, result: Training, r_squared: float
) -> None:
    name = f"{table.x.name} in days since 1970-01-01" if table.x.is_date else table.x.name
    origin, scale = origin_and_scale(basis, domain)
    console.print(f"\n{format_terms(result.coef.tolist(), basis, 't')}", style="bold")
    console.print(f"with t = ({format_shift(name, origin, 15)}) / {scale:.15g}")
    meaning = "mean squared error" if loss == "mse" else f"mean {loss}"
    console.print(f"loss {result.loss:.6g} ({meaning}) after {result.epochs} epochs ({result.engine})")
    if result.reason in STOPPED:
        console.print(STOPPED[result.reason])
    if result.optimal_loss is not None:
        console.print(f"the least loss is {result.optimal_loss:.6g}")
    console.print(
        f"R^2 {r_squared:.4f}" if math.isfinite(r_squared) else f"R^2 is not defined: {table.y.name} is constant"
    )
    if len(table.x.values) < len(result.coef):
        console.print("fewer rows than coefficients: many polynomials pass through the data, this is one of them")
    before = float(result.losses.values[int(0.9 * (len(result.losses.values) - 1))])
    if result.reason == Reason.EPOCHS and before - result.loss > _STILL_FALLING * before:
        console.print("the loss is still falling: more --epochs will bring it down further")


def _document(
    file: Path,
    table: Table,
    basis: str,
    domain: tuple[float, float],
    rule: tuple[str, object],
    loss: str,
    result: Training,
    r_squared: float,
) -> dict[str, object]:
    return {
        "format": "polyfit training",
        "version": 1,
        "basis": basis,
        "domain": list(domain),
        "coef": result.coef.tolist(),
        "file": file.name,
        "x": {"column": table.x.name, "unit": "days since 1970-01-01" if table.x.is_date else None},
        "y": {"column": table.y.name, "unit": "days since 1970-01-01" if table.y.is_date else None},
        "n_rows": table.n_rows,
        "n_used": len(table.x.values),
        "loss": loss,
        "loss_value": result.loss,
        "r_squared": r_squared if math.isfinite(r_squared) else None,
        "epochs": result.epochs,
        "optimizer": {"rule": "SGD" if rule[0] == "sgd" else rule[0], "lr": rule[1]},
        "engine": result.engine,
    }


def _save_json(document: dict[str, object], path: Path) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
