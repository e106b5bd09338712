"""Rows of cells of a CSV file, each with its line. A file that can be read in two ways is refused."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The delimiters that are looked for, with their names.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# A message shows the first names or cells of a row, and so many characters of each.
_SHOWN, _LONGEST = 20, 60


class TableError(ValueError):
    """A file that cannot be used; the message is for the user who named it."""


@dataclass(frozen=True)
class Rows:
    """The content of a file.

    Attributes:
        header: the names of the columns.
        cells: the rows below the header that are not blank.
        lines: the line at which each row begins; the first line of the file is 1.
    """

    header: list[str]
    cells: list[list[str]]
    lines: list[int]

    def fit_the_header(self) -> bool:
        """Whether most rows have a cell for each name, and none has more."""
        width = len(self.header)
        if any(len(row) > width and _has_more(row, width) for row in self.cells):
            return False
        return 2 * sum(len(row) >= width for row in self.cells) > len(self.cells)


def read_rows(path: Path, names: tuple[str, ...], delimiter: str | None = None) -> Rows:
    """Read a CSV file with a header.

    Blanks around a cell are no part of it. A row may have fewer cells than the header, or blank cells beyond it.

    Args:
        path: the file, in UTF-8.
        names: columns that the header must have, if two delimiters are possible.
        delimiter: one character. None finds it: a comma, a semicolon, a tab or a bar that is in the header and that
            divides most rows into as many cells. If several do, it is the one whose header has the names.

    Raises:
        TableError: the file cannot be read, several delimiters are possible, or a row has more cells than the header.
    """
    text = _text(path)
    rows = _parse(text, path, delimiter) if delimiter is not None else _found(text, path, names)
    width = len(rows.header)
    for row, line in zip(rows.cells, rows.lines, strict=True):
        if len(row) > width and _has_more(row, width):
            raise TableError(
                f"{path}, line {line}: a row of {len(row)} cells ({quoted(row)}) under a header of {width}"
                f" ({quoted(rows.header)}); name all columns in the header, quote a cell that holds the delimiter, and"
                " write numbers as 1234.5: with a decimal point, without a mark for thousands"
            )
    return rows


def quoted(cells: list[str]) -> str:
    """Cells as a message shows them: the first ones, each cut to a length that can be read."""
    shown = [repr(cell if len(cell) <= _LONGEST else cell[:_LONGEST] + "...") for cell in cells[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else "")


def _text(path: Path) -> str:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise TableError(f"{path} is a folder; name a CSV file") from None
    except UnicodeDecodeError:
        raise TableError(f"{path} is not text in UTF-8; save it as CSV in UTF-8") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from None


def _found(text: str, path: Path, names: tuple[str, ...]) -> Rows:
    """The rows by the delimiter that header and rows show; those of a single column if there is none."""
    in_header = [delimiter for delimiter in DELIMITERS if delimiter in text and len(_header(text, delimiter)) > 1]
    if len(in_header) < 2:  # the common case: no second reading of the file
        return _parse(text, path, in_header[0] if in_header else ",")
    readings, refusals = {}, []
    for delimiter in in_header:
        try:
            readings[delimiter] = _parse(text, path, delimiter)
        except TableError as error:
            refusals.append(error)
    if not readings:
        raise refusals[0]
    fitting = {key: rows for key, rows in readings.items() if rows.fit_the_header()} or readings
    if len(fitting) > 1:
        named = {key: rows for key, rows in fitting.items() if all(name in rows.header for name in names)}
        fitting = named if len(named) == 1 else fitting
    if len(fitting) > 1:
        ways = " or ".join(f"{DELIMITERS[key]} (columns {quoted(rows.header)})" for key, rows in fitting.items())
        raise TableError(f"{path}: cells may be separated by {ways}; say which with --delimiter")
    (rows,) = fitting.values()
    return rows


def _header(text: str, delimiter: str) -> list[str]:
    """The first row that is not blank, or no cells where it cannot be read."""
    try:
        return next((row for row, _ in _cells(text, delimiter) if any(row)), [])
    except _BadRowError:
        return []


def _parse(text: str, path: Path, delimiter: str) -> Rows:
    cells, lines = [], []
    try:
        for row, line in _cells(text, delimiter):
            if any(row) or (cells and len(row) > 1):  # the header is the first row that has a name
                cells.append(row)
                lines.append(line)
    except _BadRowError as error:
        line, reason = error.args
        raise TableError(
            f"{path}, line {line}: the row that begins here cannot be read as CSV: {reason}; put quotes around the"
            " whole cell, and double each quote in it"
        ) from None
    if not cells:
        raise TableError(f"{path} is empty; it needs a header line and rows of data")
    return Rows(cells[0], cells[1:], lines[1:])


class _BadRowError(Exception):
    """A row that csv refuses: its line, and the reason."""


def _cells(text: str, delimiter: str) -> Iterator[tuple[list[str], int]]:
    """Each row of the text, with the line at which it begins."""
    # strict: without it `"1"5` is 15, and a quote without its partner takes the rest of the file into one cell.
    # Python 3.13 refuses blanks that are both delimiters and skipped.
    skips = delimiter != " "
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=skips, strict=True)
    line = 1
    try:
        for row in reader:
            yield [cell.strip() for cell in row], line
            line = reader.line_num + 1
    except csv.Error as error:
        raise _BadRowError(line, error) from None


def _has_more(row: list[str], width: int) -> bool:
    """Whether a row has cells beyond the header that are not blank."""
    return any(row[width:])
