"""The program: its commands, and its exit statuses."""

from __future__ import annotations

import io
import sys

import typer

from polyfit.cli.demo import demo
from polyfit.cli.fit import fit_command
from polyfit.cli.output import INTERRUPTED, UserError
from polyfit.cli.train import train_command
from polyfit.io.tables import TableError

app = typer.Typer(
    help="Fit polynomials to data, by least squares or by gradient descent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("fit")(fit_command)
app.command("train")(train_command)

_REFUSED = 2


def run() -> int:
    """Run the command line and return its exit status.

    Returns:
        0 for success, 2 after an error that the user can correct (one line on standard error), 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # terminals show a question mark for a character that they lack
        sys.stdout.reconfigure(errors="replace")
    try:
        status = app(standalone_mode=False)
    except (UserError, TableError) as error:
        return _refuse(str(error))
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's errors have it: an unknown option, for example
            raise
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        return _refuse(f"{message} (polyfit --help)") if message else _REFUSED  # no message: click has shown the help
    if status == INTERRUPTED:
        print("stopped", file=sys.stderr)
    return status or 0


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _REFUSED
