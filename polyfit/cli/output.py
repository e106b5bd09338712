"""What the commands print and write, and how they report what a user can correct."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from polyfit import plotting
from polyfit.io.files import check_writable
from polyfit.io.tables import Table
from polyfit.training import Reason

# Names of columns and files are shown as they are: no markup, no emoji codes.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

# The exit status after Ctrl-C: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


class UserError(Exception):
    """An error that the user can correct; `polyfit.cli.app.run` shows it as one line."""


@contextlib.contextmanager
def as_user_error(subject: str = "") -> Iterator[None]:
    """Turn a ValueError of the library, which says what to do, into a `UserError`.

    Args:
        subject: what stands before the message.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{subject}: {error}" if subject else str(error)) from None


@contextlib.contextmanager
def printing_warnings(category: type[Warning]) -> Iterator[None]:
    """Print each warning of the block as one line; those of `category` whatever the filters are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category)
        yield
    for warning in caught:
        console.print(f"warning: {warning.message}")


# --- files ---


def check_outputs(*, picture: Path | None = None, document: Path | None = None, data: Path | None = None) -> None:
    """Check, before the work, that each output can be written and that none overwrites another file of the command.

    Args:
        picture: the file of --out.
        document: the file of --save.
        data: the file that is read.

    Raises:
        UserError: a file cannot be written, or would overwrite another one.
    """
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


def write(path: Path, what: str, write_to: Callable[[Path], object]) -> None:
    """Write a file by `write_to` and print what was written where."""
    try:
        write_to(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    console.print(f"{what} in {path}")


# --- lines that several commands print ---


def show_table(file: Path, table: Table) -> None:
    """Print how many rows were used, and the range of x."""
    skipped = [f"{table.n_missing} skipped for a missing value"]
    if table.n_unreadable:
        skipped.append(f"{table.n_unreadable} for one that is no number or date")
    console.print(f"{file}: {table.n_rows} rows, {len(table.x.values)} used, {', '.join(skipped)}")
    low, high = (table.x.describe(bound) for bound in (min(table.x.values), max(table.x.values)))
    kind = "dates, as numbers of days, " if table.x.is_date else ""
    console.print(f"{table.x.name}: {kind}{low} .. {high}")


def describe_r_squared(r_squared: float, y_name: str, digits: int) -> str:
    """The coefficient of determination with so many decimals, or why there is none."""
    return f"R^2 {r_squared:.{digits}f}" if math.isfinite(r_squared) else f"R^2 is not defined: {y_name} is constant"


def show_reason(reason: Reason) -> None:
    """Print why a run ended before its last epoch, if it did."""
    said = {
        Reason.PATIENCE: "stopped: the loss has not come down any more",
        Reason.INTERRUPTED: "stopped by Ctrl-C: this is what was reached",
    }
    if reason in said:
        console.print(said[reason])
