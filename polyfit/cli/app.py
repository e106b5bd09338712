"""The command line: `polyfit demo`, `polyfit fit` and `polyfit train`."""

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
    help="Polynomials in PyTorch: fused evaluation, losses, gradients and training.",
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
        0; 2 with one line on standard error where something must be corrected; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character shows a question mark
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
        if not hasattr(error, "format_message"):  # click's own errors, of an option or a command, have it
            raise
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        return _refuse(f"{message} (polyfit --help)") if message else _REFUSED  # without a message, help was shown
    if status == INTERRUPTED:
        print("stopped", file=sys.stderr)
    return status or 0


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _REFUSED
