"""Numbers, tables and paragraphs of the pages with results."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Two digits with a unit."""
    unit, size = ("s", 1.0) if seconds >= 0.0995 else ("ms", 1e-3) if seconds >= 0.0995e-3 else ("us", 1e-6)
    return f"{two_digits(seconds / size)} {unit}"


def two_digits(value: float) -> str:
    """A positive number rounded to two digits, without an exponent."""
    rounded = float(f"{value:.1e}")
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(rounded)))}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def wrapped(text: str) -> str:
    """A paragraph in lines of 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)
