"""The command line: `polyfit demo`, `polyfit fit` and `polyfit train`."""

from __future__ import annotations

import io
import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table as RichTable
from torch import Tensor

from polyfit import bases, losses, optimizers, plotting
from polyfit.bases.formatting import format_polynomial, format_series
from polyfit.cli.tutorial import eager_loop, eager_training
from polyfit.functional import polyval
from polyfit.io.files import check_writable, replacing
from polyfit.io.tables import Column, Table, TableError, read_columns
from polyfit.least_squares.fit import fit
from polyfit.least_squares.result import Fit, FitWarning
from polyfit.least_squares.selection import select_degree
from polyfit.monitor import Monitor, MonitorWarning, ProgressBar, TensorBoard, Visdom
from polyfit.training import ENGINES, EarlyStopping, Reason, Training, explain, max_stable_lr, train

app = typer.Typer(
    help="Polynomials in PyTorch: fused evaluation, losses, gradients and training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Names of columns and files are shown as they are: no markup, no emoji codes.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

_INTERRUPTED = 130

# The tutorial's run.
_DEMO_SAMPLES = 2000
_DEMO_DEGREE = 5
_DEMO_LR = 0.55e-7
_DEMO_SEED = 0
_BETTER_EPOCHS = 1000
# Share of the largest stable rate that is taken where a person names none: the fastest direction then overshoots and
# comes back, shrinking by 0.9 an update, and the slowest is within 5 % of the best that a fixed rate can do.
_SHARE_OF_MAX_LR = 0.95
# The rate of rules that scale gradients themselves.
_ADAPTIVE_LR = 0.01
# The loss counts as still falling if it lost more than this share over the last tenth of the epochs.
_STILL_FALLING = 1e-4
_WARMING_EPOCHS = 300
_RULES = {
    "sgd": "gradient descent",
    "momentum": "gradient descent with momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
}
_OPTIMIZER_HELP = f"Update rule: {', '.join(_RULES)}."
_LOSS_HELP = f"Loss: {', '.join(losses.LOSSES)}."
_BASIS_HELP = f"Basis of the coefficients, as numpy.polynomial names it: {', '.join(bases.BASES)}."
_ENGINE_HELP = f"What makes the epochs: {', '.join(ENGINES)}."
_MONITOR_HELP = "What watches: bar, tensorboard:DIR, visdom[:HOST:PORT] or none; several with commas."
_STOPPED = {
    Reason.PATIENCE: "stopped: the loss has not come down any more",
    Reason.INTERRUPTED: "stopped by Ctrl-C: this is what was reached",
}


class UserError(Exception):
    """Something that the person at the command line can put right; shown as one line."""


def run() -> int:
    """Run the command line and return its exit status: 0, or 2 with one line on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character shows a question mark
        sys.stdout.reconfigure(errors="replace")
    try:
        status = app(standalone_mode=False)
    except (UserError, TableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own errors, of an option or a command
            raise
        if not error.format_message():  # pyright: ignore[reportAttributeAccessIssue] - help was shown instead
            return 2
        print(f"error: {error.format_message()} (polyfit --help)", file=sys.stderr)  # pyright: ignore[reportAttributeAccessIssue]
        return 2
    if status == _INTERRUPTED:
        print("stopped", file=sys.stderr)
    return status or 0


def _check_outputs(picture: Path | None, document: Path | None = None, data: Path | None = None) -> None:
    """All files can be written, and none over another, before any work is done for them."""
    if picture is not None and picture.suffix[1:].lower() not in plotting.supported_formats():
        endings = ", ".join(plotting.supported_formats())
        raise UserError(f"{picture} is no picture that can be written; end its name in one of {endings}")
    taken = {} if data is None else {data.resolve(): "the data"}
    for path, what in ((picture, "the picture"), (document, "the polynomial")):
        if path is None:
            continue
        if path.resolve() in taken:
            raise UserError(f"{path}: {what} would overwrite {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = what
        try:
            check_writable(path)
        except OSError as error:
            raise UserError(str(error)) from None


def _write(path: Path, what: str, write: object) -> None:
    """Call write(path), and say what was written."""
    assert callable(write)
    try:
        write(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    console.print(f"{what} in {path}")


# --- demo ---


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("polyfit_demo.png"),
    epochs: Annotated[int, typer.Option(min=1, help="Updates to make.")] = 80_000,
    eager_epochs: Annotated[int, typer.Option(min=1, help="Updates of the eager loop to compare with.")] = 2_000,
    optimizer: Annotated[str, typer.Option(help=_OPTIMIZER_HELP)] = "sgd",
    loss: Annotated[str, typer.Option(help=_LOSS_HELP)] = "mse",
    basis: Annotated[str, typer.Option(help=_BASIS_HELP)] = "power",
    engine: Annotated[str, typer.Option(help=_ENGINE_HELP)] = "auto",
    monitor: Annotated[str, typer.Option(help=_MONITOR_HELP)] = "none",
) -> None:
    """Fit sin(x) by 80000 epochs of gradient descent, as the tutorial does, and compare with eager autograd.

    Its rate is the tutorial's for the tutorial's rule, loss and basis, and chosen for others.
    """
    _check_outputs(out)
    is_tutorial = (optimizer, loss, basis) == ("sgd", "mse", "power")
    domain = None if basis == "power" else (-math.pi, math.pi)
    x = torch.linspace(-math.pi, math.pi, _DEMO_SAMPLES)
    y = torch.sin(x)
    start = torch.randn(_DEMO_DEGREE + 1, generator=torch.Generator().manual_seed(_DEMO_SEED))
    options: dict[str, Any] = {"reduction": "sum", "loss": loss, "basis": basis, "domain": domain, "engine": engine}
    try:
        largest = max_stable_lr(x, _DEMO_DEGREE, reduction="sum", basis=basis, domain=domain)
        rule = _rule(optimizer, _DEMO_LR if is_tutorial else None, largest, loss)
        console.print(
            f"sin(x) on {_DEMO_SAMPLES} points of [-pi, pi], degree {_DEMO_DEGREE}, sum of"
            f" {'squared errors' if loss == 'mse' else loss}, {_RULES[optimizer]} at {rule.lr:.3g}, {epochs} epochs"
        )
        chosen, why = explain(x, y, start, optimizer=rule, **options)
        # What a process does once is not the run's.
        warming = epochs if chosen == "closed_form" else min(epochs, _WARMING_EPOCHS)
        train(x, y, start, optimizer=rule, epochs=warming, **options)
        watching = _monitors(monitor)
        began = time.perf_counter()
        result = _watched(x, y, start, optimizer=rule, epochs=epochs, monitor=watching, **options)
        seconds = time.perf_counter() - began
    except ValueError as error:
        raise UserError(str(error)) from None

    shown = format_polynomial(result.coef.tolist()) if basis == "power" else None
    console.print(f"\n{shown or format_series(result.coef.tolist(), basis, domain)}", style="bold")
    console.print(f"loss {result.loss:.6g} after {result.epochs} epochs in {seconds * 1e3:.2g} ms ({result.engine})")
    console.print(f"{result.engine}: {why}")
    _show_landscape(x, y, start, result, is_tutorial=is_tutorial)
    if result.reason in _STOPPED:
        console.print(_STOPPED[result.reason])
    else:
        _compare_with_eager(x, y, start, rule, eager_epochs, epochs, seconds, options)
    figure = plotting.training_figure(
        result.losses,
        x,
        y,
        polyval(x, result.coef, basis=basis, domain=domain),
        title=f"sin(x), degree {_DEMO_DEGREE}: {result.epochs} epochs of {_RULES[optimizer]}",
    )
    _write(out, "picture", lambda path: plotting.save_figure(figure, path))
    if result.reason == Reason.INTERRUPTED:
        raise typer.Exit(_INTERRUPTED)


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
    rule = optimizers.SGD(lr=_SHARE_OF_MAX_LR * largest)
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
    rule: _AnyRule,
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


# --- fit ---


@app.command("fit")
def fit_command(
    file: Annotated[Path, typer.Argument(help="CSV file with a header line.")],
    x: Annotated[str, typer.Option(help="Column of x: numbers, or dates (read as days).")],
    y: Annotated[str, typer.Option(help="Column of y.")],
    degree: Annotated[int | None, typer.Option(min=0, help="Degree of the polynomial.")] = None,
    max_degree: Annotated[int | None, typer.Option(min=0, help="In its place: choose a degree up to this.")] = None,
    criterion: Annotated[str, typer.Option(help="What chooses it: aic, aicc, bic or cv.")] = "bic",
    basis: Annotated[str, typer.Option(help=_BASIS_HELP)] = "chebyshev",
    raw: Annotated[
        bool, typer.Option("--raw", help="Coefficients of x itself; else x is mapped to the window.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write a picture: data, curve, confidence band, residuals.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the fit as JSON, for polyfit.Fit.load.")] = None,
) -> None:
    """Fit a polynomial to two columns of a CSV file by least squares, with standard errors."""
    if (degree is None) == (max_degree is None):
        raise UserError("pass one of --degree, for a polynomial of that degree, and --max-degree, to have it chosen")
    _check_outputs(out, save, file)
    table = read_columns(file, x, y)
    x_values = torch.tensor(table.x.values, dtype=torch.float64)
    y_values = torch.tensor(table.y.values, dtype=torch.float64)
    _show_table(file, table)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitWarning)
            if max_degree is None:
                assert degree is not None
                found = fit(x_values, y_values, degree, basis=basis)
            else:
                found = select_degree(x_values, y_values, max_degree, criterion=criterion, basis=basis)
            if raw:
                found = found.in_basis(basis)
    except ValueError as error:
        raise UserError(str(error)) from None
    for warning in caught:
        console.print(f"warning: {warning.message}")
    _show_fit(table, found)
    if save is not None:
        _write(save, "fit", found.save)
    if out is not None:
        figure = plotting.fit_figure(found, x_values, y_values, x_label=x, y_label=y, x_is_days=table.x.is_date)
        _write(out, "picture", lambda path: plotting.save_figure(figure, path))


def _show_fit(table: Table, found: Fit) -> None:
    console.print(f"\n{found}", style="bold")
    if table.x.is_date:
        console.print(f"with {table.x.name} in days since 1970-01-01")
    shown = RichTable()
    for heading in ("k", "coefficient", "standard error"):
        shown.add_column(heading, justify="right")
    for k, (value, error) in enumerate(zip(found.coef.tolist(), found.std_err.tolist(), strict=True)):
        shown.add_row(str(k), f"{value:.15g}", f"{error:.6g}")
    console.print(shown)
    if found.selection is not None:
        compared = found.selection
        largest = compared.degrees[-1]
        console.print(f"degree {compared.degree} of 0 to {largest}, by {compared.criterion}")
        if compared.degree == largest:
            console.print("it is the largest that was tried: a larger --max-degree may do better")
    explained = f"R^2 {found.r_squared:.6f}"
    if math.isnan(found.r_squared):
        explained = f"R^2 is not defined: {table.y.name} is constant"
    console.print(f"{explained}, residual standard deviation {found.residual_std:.6g}, {found.status}")


# --- train ---


@app.command("train")
def train_command(
    file: Annotated[Path, typer.Argument(help="CSV file with a header line.")],
    x: Annotated[str, typer.Option(help="Column of x: numbers, or dates (read as days).")],
    y: Annotated[str, typer.Option(help="Column of y.")],
    degree: Annotated[int, typer.Option(min=0, help="Degree of the polynomial.")],
    epochs: Annotated[int, typer.Option(min=1, help="Updates to make.")] = 20_000,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; without it one is chosen and shown, for sgd a stable one.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help=_OPTIMIZER_HELP)] = "sgd",
    loss: Annotated[str, typer.Option(help=_LOSS_HELP)] = "mse",
    basis: Annotated[str, typer.Option(help=_BASIS_HELP)] = "power",
    engine: Annotated[str, typer.Option(help=_ENGINE_HELP)] = "auto",
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop when the loss has not come down for so many epochs.")
    ] = None,
    monitor: Annotated[str, typer.Option(help=_MONITOR_HELP)] = "bar",
    out: Annotated[Path | None, typer.Option(help="Write a picture: loss curve beside data and fit.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the polynomial as JSON.")] = None,
) -> None:
    """Fit a polynomial to two columns of a CSV file by gradient descent on the mean loss.

    x is mapped to t in the window of the basis, [-1, 1] but for laguerre, in which the polynomial is shown and saved.
    Rows with a missing value are skipped and counted.
    """
    _check_outputs(out, save, file)
    table = read_columns(file, x, y)
    x_values = torch.tensor(table.x.values, dtype=torch.float64)
    y_values = torch.tensor(table.y.values, dtype=torch.float64)
    _show_table(file, table)
    domain = _domain(table.x)
    try:
        largest = max_stable_lr(x_values, degree, basis=basis, domain=domain)
    except ValueError as error:
        raise UserError(f"{table.x.name}: {error}") from None
    rule = _rule(optimizer, lr, largest, loss)
    chosen = ""
    if lr is None and isinstance(rule, optimizers.SGD):
        chosen = f", chosen as {_SHARE_OF_MAX_LR:.0%} of the largest stable one for mse, {largest:.4g}"
    console.print(f"{optimizer}, learning rate {rule.lr:.4g}{chosen}")

    start = torch.zeros(degree + 1, dtype=torch.float64)
    try:
        result = _watched(
            x_values, y_values, start, optimizer=rule, epochs=epochs, loss=loss, basis=basis, domain=domain,
            engine=engine, monitor=_monitors(monitor),
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
        _write(save, "polynomial", lambda path: _save_json(document, path))
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
        _write(out, "picture", lambda path: plotting.save_figure(figure, path))
    if result.reason == Reason.INTERRUPTED:
        raise typer.Exit(_INTERRUPTED)


def _watched(*args: Any, **options: Any) -> Training:
    """`train`, with what is said of its monitors in a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MonitorWarning)
        result = train(*args, **options)
    for warning in caught:
        console.print(f"warning: {warning.message}")
    return result


def _monitors(names: str) -> list[Monitor]:
    """Monitors by the names of --monitor."""
    monitors: list[Monitor] = []
    for name in names.split(","):
        kind, _, rest = name.strip().partition(":")
        host, _, port = rest.partition(":")
        try:
            if kind == "bar" and not rest:
                monitors.append(ProgressBar())
            elif kind == "tensorboard" and rest:
                monitors.append(TensorBoard(rest))
            elif kind == "visdom":
                options = {"server": f"http://{host}"} if host else {}
                monitors.append(Visdom(**options, port=int(port or 8097)))
            elif kind != "none" or rest:
                raise UserError(f"--monitor {name} is unknown; pass bar, tensorboard:DIR, visdom[:HOST:PORT] or none")
        except (ImportError, ConnectionError) as error:
            raise UserError(f"--monitor {name}: {error}") from None
        except ValueError:
            raise UserError(
                f"--monitor {name}: {port!r} is no port; pass a number, as in visdom:localhost:8097"
            ) from None
    return monitors


def _show_table(file: Path, table: Table) -> None:
    n_used = len(table.x.values)
    skipped = [f"{table.n_missing} skipped for a missing value"]
    if table.n_unreadable:
        skipped.append(f"{table.n_unreadable} for one that is no number or date")
    console.print(f"{file}: {table.n_rows} rows, {n_used} used, {', '.join(skipped)}")
    low, high = (table.x.describe(bound) for bound in (min(table.x.values), max(table.x.values)))
    kind = "dates, as numbers of days, " if table.x.is_date else ""
    console.print(f"{table.x.name}: {kind}{low} .. {high}")


def _domain(column: Column) -> tuple[float, float]:
    low, high = min(column.values), max(column.values)
    if low == high:
        raise UserError(
            f"all values of {column.name!r} are {column.describe(low)}; a fit needs at least two different ones"
        )
    return low, high


_AnyRule = optimizers.SGD | optimizers.Adam | optimizers.AdamW | optimizers.RMSprop


def _rule(name: str, lr: float | None, largest: float, loss: str) -> _AnyRule:
    """The update rule of that name; `largest` is the largest stable rate of plain descent on the squared error."""
    makers = {
        "sgd": lambda lr: optimizers.SGD(lr=lr),
        "momentum": lambda lr: optimizers.SGD(lr=lr, momentum=0.9),
        "adam": lambda lr: optimizers.Adam(lr=lr),
        "adamw": lambda lr: optimizers.AdamW(lr=lr),
        "rmsprop": lambda lr: optimizers.RMSprop(lr=lr),
    }
    if name not in makers:
        raise UserError(f"--optimizer {name} is unknown; pass one of {', '.join(makers)}")
    is_descent = name in {"sgd", "momentum"}
    if lr is None:
        return makers[name](_SHARE_OF_MAX_LR * largest if is_descent else _ADAPTIVE_LR)
    try:
        rule = makers[name](lr)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    if name == "sgd" and loss == "mse" and lr > largest:
        raise UserError(f"--lr {lr:g} must diverge: the largest stable rate for these data is {_round_down(largest)}")
    return rule


def _round_down(value: float) -> str:
    """Four digits, and none of them too many."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.floor(value / unit) * unit:.4g}"


def _r_squared(y: Tensor, loss: float) -> float:
    """1 - residual / total sum of squares about the mean; nan for constant y."""
    total = float((y - y.mean()).square().mean())
    return 1.0 - loss / total if total > 0 else math.nan


def _show_result(
    table: Table, basis: str, domain: tuple[float, float], loss: str, result: Training, r_squared: float
) -> None:
    name = f"{table.x.name} in days since 1970-01-01" if table.x.is_date else table.x.name
    window_lo, window_hi = bases.BASES[basis].window
    scale = (0.5 * domain[1] - 0.5 * domain[0]) / (0.5 * (window_hi - window_lo))
    series, _, _ = format_series(result.coef.tolist(), basis, domain).partition(", t = ")
    console.print(f"\n{series}", style="bold")
    console.print(f"with t = ({name} - {domain[0] - scale * window_lo:.15g}) / {scale:.15g}")
    meaning = "mean squared error" if loss == "mse" else f"mean {loss}"
    console.print(f"loss {result.loss:.6g} ({meaning}) after {result.epochs} epochs ({result.engine})")
    if result.reason in _STOPPED:
        console.print(_STOPPED[result.reason])
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
