"""The options that several commands take: their help texts, and the objects that their values name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from polyfit import bases, losses, optimizers
from polyfit._checks import check_choice
from polyfit.cli.output import UserError, as_user_error
from polyfit.monitor import Monitor, ProgressBar, TensorBoard, Visdom
from polyfit.training import ENGINES


class Choice(NamedTuple):
    """A value of --optimizer.

    Attributes:
        title: its name in a sentence.
        rule: the class of the update rule.
        settings: arguments of the class, besides the learning rate.
    """

    title: str
    rule: Callable[..., optimizers.Rule]
    settings: dict[str, Any]


OPTIMIZERS = {name: Choice(rule.__name__, rule, {}) for name, rule in optimizers.OPTIMIZERS.items()} | {
    "sgd": Choice("gradient descent", optimizers.SGD, {}),
    "momentum": Choice("gradient descent with momentum", optimizers.SGD, {"momentum": 0.9}),
}

File = Annotated[Path, typer.Argument(help="CSV file with a header line.")]
XColumn = Annotated[str, typer.Option(help="Column of x: numbers or dates. Dates are read as days since 1970-01-01.")]
YColumn = Annotated[str, typer.Option(help="Column of y.")]
Delimiter = Annotated[
    str | None,
    typer.Option(help="What separates the cells of a row: one character, or tab. Without it, it is found."),
]
Epochs = Annotated[int, typer.Option(min=1, help="Number of updates.")]
# The most records of a run: a picture shows some thousands.
_MOST_RECORDS = 100_000
Optimizer = Annotated[str, typer.Option(help=f"Update rule: {', '.join(OPTIMIZERS)}.")]
Loss = Annotated[str, typer.Option(help=f"Loss: {', '.join(losses.LOSSES)}.")]
Basis = Annotated[str, typer.Option(help=f"Basis of the coefficients: {', '.join(bases.BASES)}.")]
Engine = Annotated[str, typer.Option(help=f"Engine that runs the epochs: {', '.join(ENGINES)}.")]
Monitors = Annotated[
    str,
    typer.Option(help="Monitors: bar, tensorboard:DIR, visdom[:HOST:PORT] or none. Separate several by commas."),
]

# Without --lr, gradient descent takes this share of the largest stable rate, 2 / (largest curvature). Each update then
# multiplies the error along the steepest direction by -0.9. Along the slowest direction, it removes at least 95 % of
# the error that the best constant rate, 2 / (largest + smallest curvature), would remove.
SHARE_OF_MAX_LR = 0.95
# Without --lr, rules that scale the gradient themselves take this rate, torch.optim's default for RMSprop. They move a
# coefficient by about the rate in an update: at Adam's default, 0.001, a distance of 1 takes about a thousand updates.
_ADAPTIVE_LR = 0.01


def delimiter(value: str | None) -> str | None:
    """The character for a value of --delimiter.

    Raises:
        UserError: it is not one character that can separate cells.
    """
    if value == "tab":
        return "\t"
    if value is not None and (len(value) != 1 or value in '"\r\n'):
        raise UserError(f"--delimiter {value!r} is not one character; pass a character as ';', or tab")
    return value


def check_run(optimizer: str, loss: str, basis: str, engine: str, lr: float | None = None) -> None:
    """Check the options of a run that do not depend on the data, before the file is read.

    Raises:
        UserError: a name is unknown, or the rate is out of range.
    """
    if optimizer not in OPTIMIZERS:
        raise UserError(f"--optimizer {optimizer} is unknown; pass one of {', '.join(OPTIMIZERS)}")
    with as_user_error():
        losses.resolve(loss)
        check_choice("basis", basis, bases.BASES)
        check_choice("engine", engine, ENGINES)
    if lr is not None:
        _rule(optimizer, lr)


def update_rule(name: str, lr: float | None, largest: float, loss: str) -> optimizers.Rule:
    """The update rule for a value of --optimizer.

    Args:
        name: the value, a key of `OPTIMIZERS`.
        lr: the learning rate, or None to choose one.
        largest: the largest rate at which gradient descent on the squared error is stable.
        loss: the loss that is trained on.

    Raises:
        UserError: the rate is out of range or diverges.
    """
    if lr is None:
        lr = SHARE_OF_MAX_LR * largest if OPTIMIZERS[name].rule is optimizers.SGD else _ADAPTIVE_LR
    made = _rule(name, lr)
    if name == "sgd" and loss == "mse" and lr > largest:
        raise UserError(
            f"--lr {lr:g} diverges on these data; pass at most {_round_down(largest)}, the largest stable rate"
        )
    return made


def _rule(name: str, lr: float) -> optimizers.Rule:
    _, rule, settings = OPTIMIZERS[name]
    try:
        return rule(lr=lr, **settings)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _round_down(value: float) -> str:
    """A positive number as text of four digits, never larger than the number."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.floor(value / unit) * unit:.4g}"


def monitors(values: str) -> list[Monitor]:
    """The monitors for a value of --monitor."""
    found = (_monitor(value.strip()) for value in values.split(","))
    return [monitor for monitor in found if monitor is not None]


def _monitor(value: str) -> Monitor | None:
    kind, _, rest = value.partition(":")
    try:
        if kind == "none" and not rest:
            return None
        if kind == "bar" and not rest:
            return ProgressBar()
        if kind == "tensorboard" and rest:
            return TensorBoard(rest)
        if kind == "visdom":
            host, _, port = rest.partition(":")
            return Visdom(port=_port(value, port), **({"server": f"http://{host}"} if host else {}))
    except (ImportError, ConnectionError) as error:
        raise UserError(f"--monitor {value}: {error}") from None
    raise UserError(f"--monitor {value} is unknown; pass bar, tensorboard:DIR, visdom[:HOST:PORT] or none")


def _port(value: str, port: str) -> int:
    """The port of a Visdom server; 8097, the default of Visdom, if `port` is empty."""
    try:
        return int(port or 8097)
    except ValueError:
        raise UserError(
            f"--monitor {value}: {port!r} is not a port; pass a number, as in visdom:localhost:8097"
        ) from None


def record_every(epochs: int) -> int:
    """Epochs from record to record: 100, or more where a run would have more than 100000 records.

    >>> record_every(80_000), record_every(10**12)
    (100, 10000000)
    """
    return max(100, -(-epochs // _MOST_RECORDS))
