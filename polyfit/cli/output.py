"""The text and the files that commands write, and the errors and warnings that they show."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from polyfit import losses, plotting
from polyfit.io.files import check_writable
from polyfit.io.tables import Table
from polyfit.training import Reason

# No markup and no emoji codes: names of columns and files are printed as they are.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

# The exit status after Ctrl-C: 128 + SIGINT, the convention of shells.
INTERRUPTED = 130


class UserError(Exception):
    """An error that the user can correct; `polyfit.cli.app.run` shows it as one line."""


@contextlib.contextmanager
def as_user_error(subject: str = "") -> Iterator[None]:
    """Raise a ValueError of the library as a `UserError` with the same message.

    Args:
        subject: put before the message.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{subject}: {error}" if subject else str(error)) from None


@contextlib.contextmanager
def printing_warnings(category: type[Warning]) -> Iterator[None]:
    """Print each warning of the block as one line. Warnings of `category` are printed whatever the filters are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category)
        yield
    for warning in caught:
        console.print(f"warning: {warning.message}")


# --- files ---


def check_outputs(*, picture: Path | None = None, document: Path | None = None, data: Path | None = None) -> None:
    """Check before the work that the outputs can be written and overwrite no other file of the command.

    Args:
        picture: the file of --out.
        document: the file of --save.
        data: the file that is read.

    Raises:
        UserError: a file cannot be written, or would overwrite another one.
    """
    if picture is not None and picture.suffix[1:].lower() not in plotting.supported_formats():
        endings = ", ".join(plotting.supported_formats())
        raise UserError(
            f"{picture} is not a picture format that can be written; use a file name that ends in one of {endings}"
        )
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


def write(path: Path, what: str, write_to: Callable[[Path], object]) -> None:
    """Write a file by calling `write_to` with its path, and print where it is."""
    try:
        write_to(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    console.print(f"{what} in {path}")


# --- lines that several commands print ---


def show_table(file: Path, table: Table) -> None:
    """Print how many rows were used, the range of x, and that of y if it holds dates."""
    skipped = [f"{table.n_missing} skipped for a missing value"]
    if table.n_unreadable:
        skipped.append(f"{table.n_unreadable} for a value that is neither a number nor a date")
    console.print(f"{file}: {table.n_rows} rows, {len(table.x.values)} used, {', '.join(skipped)}")
    if table.first_unreadable is not None:
        console.print(f"warning: {table.first_unreadable}: the row is left out")
    for column in [table.x, table.y] if table.y.is_date else [table.x]:
        low, high = (column.describe(bound) for bound in (min(column.values), max(column.values)))
        kind = f"dates, read as {column.unit}, " if column.is_date else ""
        console.print(f"{column.name}: {kind}{low} .. {high}")


def describe_r_squared(r_squared: float, y_name: str, digits: int) -> str:
    """R^2 with this number of decimals, or why it is not defined."""
    return f"R^2 {r_squared:.{digits}f}" if math.isfinite(r_squared) else f"R^2 is not defined: {y_name} is constant"


def curve_label(loss: str) -> str:
    """The function that is compared with y, as text: the polynomial, or the probability or rate that it stands for.

    >>> curve_label("mse"), curve_label("poisson_nll")
    ('polynomial', 'exp(polynomial)')
    """
    return re.sub(r"\bp\b", "polynomial", losses.resolve(loss).inverse_link)


def format_time(seconds: float) -> str:
    """A time with three digits.

    >>> format_time(0.00123), format_time(1.6), format_time(1234.5)
    ('1.23 ms', '1.6 s', '1234 s')
    """
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def show_reason(reason: Reason) -> None:
    """Print why a run ended early, if it did."""
    lines = {
        Reason.PATIENCE: "stopped by --patience: the loss no longer falls",
        Reason.INTERRUPTED: "stopped by Ctrl-C: the results are those of the last epoch",
    }
    if reason in lines:
        console.print(lines[reason])
