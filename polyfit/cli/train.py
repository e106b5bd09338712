"""`polyfit train`: gradient descent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from polyfit import losses, optimizers, plotting
from polyfit.bases.formatting import format_shift, format_terms, origin_and_scale
from polyfit.cli import options
from polyfit.cli.output import (
    INTERRUPTED,
    UserError,
    as_user_error,
    check_outputs,
    console,
    curve_label,
    describe_r_squared,
    printing_warnings,
    show_reason,
    show_table,
    write,
)
from polyfit.functional import polyval
from polyfit.io.files import replacing
from polyfit.io.tables import Column, Table, read_columns
from polyfit.monitor import MonitorWarning
from polyfit.training import EarlyStopping, Reason, Training, max_stable_lr, train

# The loss is reported as still falling if the last tenth of the epochs reduced it by more than this share. A smaller
# change is hardly seen in the six digits that are printed.
_STILL_FALLING = 1e-4


def train_command(
    file: options.File,
    x: options.XColumn,
    y: options.YColumn,
    degree: Annotated[int, typer.Option(min=0, help="Degree of the polynomial.")],
    epochs: options.Epochs = 20_000,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate. Without it, a rate is chosen and shown; for sgd and mse it is stable."),
    ] = None,
    optimizer: options.Optimizer = "sgd",
    loss: options.Loss = "mse",
    delimiter: options.Delimiter = None,
    basis: options.Basis = "power",
    engine: options.Engine = "auto",
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when the loss has not fallen for this number of epochs.")
    ] = None,
    monitor: options.Monitors = "bar",
    out: Annotated[
        Path | None, typer.Option(help="Write a picture of the loss curve, the data and the polynomial.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the polynomial as JSON: coef, basis and domain as polyfit.polyval takes them."),
    ] = None,
) -> None:
    """Fit a polynomial to two columns of a CSV file by gradient descent on the mean loss.

    x is mapped to t in the window of the basis: [0, 1] for laguerre, [-1, 1] for the others. The polynomial is shown
    and saved in t. Rows with a missing value are skipped and counted.
    """
    options.check_run(optimizer, loss, basis, engine, lr)
    watching = options.monitors(monitor)
    separator = options.delimiter(delimiter)
    check_outputs(picture=out, document=save, data=file)
    table = read_columns(file, x, y, delimiter=separator)
    x_values = torch.tensor(table.x.values, dtype=torch.float64)
    y_values = torch.tensor(table.y.values, dtype=torch.float64)
    show_table(file, table)
    domain = _domain(table.x)
    with as_user_error(table.x.name):
        largest = max_stable_lr(x_values, degree, basis=basis, domain=domain)
    rule = options.update_rule(optimizer, lr, largest, loss)
    chosen = ""
    if lr is None and isinstance(rule, optimizers.SGD):
        chosen = f", chosen as {options.SHARE_OF_MAX_LR:.0%} of the largest stable one for mse, {largest:.4g}"
    console.print(f"{optimizer}, learning rate {rule.lr:.4g}{chosen}")

    start = torch.zeros(degree + 1, dtype=torch.float64)
    with as_user_error(), printing_warnings(MonitorWarning):
        result = train(
            x_values, y_values, start, optimizer=rule, epochs=epochs, loss=loss, basis=basis, domain=domain,
            engine=engine, monitor=watching, record_every=options.record_every(epochs),
            early_stopping=None if patience is None else EarlyStopping(patience=patience),
        )  # fmt: skip
    if not math.isfinite(result.loss):
        raise UserError(f"the loss became NaN or infinite; pass an --lr below {rule.lr:.4g}, or scale y down")
    fitted = losses.resolve(loss).to_scale_of_y(polyval(x_values, result.coef, basis=basis, domain=domain))
    trained = _Trained(table, optimizer, rule, loss, basis, domain, result, _r_squared(y_values, fitted))
    _show(trained)
    if save is not None:
        write(save, "polynomial", lambda path: _save(trained, file, path))
    if out is not None:
        figure = plotting.training_figure(
            result.losses,
            x_values,
            y_values,
            fitted,
            x_label=x,
            y_label=y,
            x_is_days=table.x.is_date,
            fitted_label=curve_label(loss),
            title=f"{file.name}: degree {degree}, R² = {trained.r_squared:.4f}",
        )
        write(out, "picture", lambda path: plotting.save_figure(figure, path))
    if result.reason == Reason.INTERRUPTED:
        raise typer.Exit(INTERRUPTED)


class _Trained(NamedTuple):
    """A run: its options and its result."""

    table: Table
    optimizer: str
    rule: optimizers.Rule
    loss: str
    basis: str
    domain: tuple[float, float]
    result: Training
    r_squared: float


def _domain(column: Column) -> tuple[float, float]:
    low, high = min(column.values), max(column.values)
    if low == high:
        raise UserError(
            f"all values of {column.name!r} are {column.describe(low)}; a fit needs at least two different values"
        )
    return low, high


def _r_squared(y: Tensor, fitted: Tensor) -> float:
    """1 - (sum of squared residuals) / (sum of squares about the mean); NaN for constant y."""
    total = float((y - y.mean()).square().mean())
    return 1.0 - float((fitted - y).square().mean()) / total if total > 0 else math.nan


def _show(trained: _Trained) -> None:
    x, result = trained.table.x, trained.result
    origin, scale = origin_and_scale(trained.basis, trained.domain)
    variable = "t" if x.name != "t" else "u"
    console.print(f"\n{format_terms(result.coef.tolist(), trained.basis, variable)}", style="bold")
    name = x.name if x.unit is None else f"{x.name} in {x.unit}"
    console.print(f"with {variable} = ({format_shift(name, origin, 15)}) / {scale:.15g}")
    meaning = "mean squared error" if trained.loss == "mse" else f"mean {trained.loss}"
    console.print(f"loss {result.loss:.6g} ({meaning}) after {result.epochs} epochs ({result.engine})")
    show_reason(result.reason)
    if result.optimal_loss is not None:
        console.print(f"the minimum loss is {result.optimal_loss:.6g}")
    explained = describe_r_squared(trained.r_squared, trained.table.y.name, 4)
    label = curve_label(trained.loss)
    console.print(explained if label == "polynomial" else f"{explained} ({label} compared with {trained.table.y.name})")
    if len(x.values) < len(result.coef):
        console.print("fewer rows than coefficients: this is one of many polynomials through the data")
    before = float(result.losses.values[int(0.9 * (len(result.losses.values) - 1))])
    if result.reason == Reason.EPOCHS and before - result.loss > _STILL_FALLING * before:
        console.print("the loss is still falling: pass a larger --epochs to reduce it further")


def _save(trained: _Trained, file: Path, path: Path) -> None:
    """Write the polynomial and the run as JSON: ``polyfit.polyval(x, coef, basis=..., domain=...)`` evaluates it."""
    table, result = trained.table, trained.result
    document = {
        "format": "polyfit training",
        "version": 1,
        "basis": trained.basis,
        "domain": trained.domain,
        "coef": result.coef.tolist(),
        "file": file.name,
        "x": {"column": table.x.name, "unit": table.x.unit},
        "y": {"column": table.y.name, "unit": table.y.unit},
        "n_rows": table.n_rows,
        "n_used": len(table.x.values),
        "loss": trained.loss,
        "loss_value": result.loss,
        "r_squared": trained.r_squared if math.isfinite(trained.r_squared) else None,
        "epochs": result.epochs,
        "optimizer": {"rule": "SGD" if trained.optimizer == "sgd" else trained.optimizer, "lr": trained.rule.lr},
        "engine": result.engine,
    }
    with replacing(path) as part:
        part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
