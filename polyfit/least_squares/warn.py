"""Warnings about fits, which point to the line of the user that called into polyfit."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])


class FitWarning(UserWarning):
    """The data do not determine the fit, or only just. The message says what to change."""


def warn(message: str) -> None:
    """Give a `FitWarning` that points to the first caller outside polyfit."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, FitWarning, stacklevel=level)
