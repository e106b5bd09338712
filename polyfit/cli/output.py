"""What commands print and write, and how they fail."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from polyfit import plotting
from polyfit.io.files import check_writable
from polyfit.io.tables import Table
from polyfit.monitor import MonitorWarning
from polyfit.training import Reason, Training, train

# Names of columns and files are shown as they are: no markup, no emoji codes.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

INTERRUPTED = 130
STOPPED = {
    Reason.PATIENCE: "stopped: the loss has not come down any more",
    Reason.INTERRUPTED: "stopped by Ctrl-C: this is what was reached",
}


class UserError(Exception):
    """Something that the person at the command line can put right; shown as one line."""


def check_outputs(picture: Path | None, document: Path | None = None, data: Path | None = None) -> None:
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


def write(path: Path, what: str, write: object) -> None:
    """Call `write` with the path, and say what was written."""
    assert callable(write)
    try:
        write(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    console.print(f"{what} in {path}")


def show_table(file: Path, table: Table) -> None:
    """Print how many rows were used, and the range of x."""
    n_used = len(table.x.values)
    skipped = [f"{table.n_missing} skipped for a missing value"]
    if table.n_unreadable:
        skipped.append(f"{table.n_unreadable} for one that is no number or date")
    console.print(f"{file}: {table.n_rows} rows, {n_used} used, {', '.join(skipped)}")
    low, high = (table.x.describe(bound) for bound in (min(table.x.values), max(table.x.values)))
    kind = "dates, as numbers of days, " if table.x.is_date else ""
    console.print(f"{table.x.name}: {kind}{low} .. {high}")


def watched(*args: Any, **options: Any) -> Training:
    """`train`, with what is said of its monitors in a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MonitorWarning)
        result = train(*args, **options)
    for warning in caught:
        console.print(f"warning: {warning.message}")
    return result
