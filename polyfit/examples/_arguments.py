"""The command lines of the examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from polyfit._optional import import_optional
from polyfit.io.files import check_writable
from polyfit.plotting import supported_formats


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the text of the module as its help."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_epochs(options: argparse.ArgumentParser, default: int) -> None:
    """The option --epochs."""
    options.add_argument("--epochs", type=_epochs, default=default, help=f"epochs of training; default: {default}")


def add_picture(options: argparse.ArgumentParser) -> None:
    """The option --picture."""
    options.add_argument("--picture", type=_picture, metavar="FILE", help="write a picture, for example to figure.png")


def _epochs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of epochs; pass an int of at least 1")
    return int(text)


def _picture(text: str) -> str:
    """The path, checked before the training that the picture is of."""
    path = Path(text)
    try:
        import_optional("matplotlib.figure", "a picture", "cli")
        formats = supported_formats()
        check_writable(path)
    except (ImportError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if path.suffix[1:].lower() not in formats:
        raise argparse.ArgumentTypeError(f"{text!r} names no format; end it with one of .{', .'.join(formats)}")
    return text
