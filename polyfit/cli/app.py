"""The program: its commands, and its exit statuses."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

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
    output = _Output(sys.stdout)
    with contextlib.redirect_stdout(output):  # pyright: ignore[reportArgumentType] - it has what print and rich use
        status = _run()
        output.flush()
    if output.error is None:
        return status
    output.discard()
    if isinstance(output.error, BrokenPipeError):  # its reader has gone, as in `polyfit fit ... | head -1`
        return status
    return _refuse(f"standard output cannot be written: {output.error.strerror}; files are written all the same")


def _run() -> int:
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


class _Output:
    """Standard output that drops text once it cannot be written, so that a command still writes its files.

    Attributes:
        error: the first error of writing, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, or drop it after an error."""
        self._unless_broken(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it after an error."""
        self._unless_broken(self._stream.flush)

    def discard(self) -> None:
        """Drop what is buffered. Otherwise Python would try to write it when the process ends, and print an error."""
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self._stream.fileno())
        os.close(devnull)

    def _unless_broken(self, function: Callable[..., object], *arguments: str) -> None:
        if self.error is None:
            try:
                function(*arguments)
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _REFUSED
