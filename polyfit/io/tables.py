"""Columns of a CSV file as numbers. Dates become days; rows that cannot be used are skipped and counted."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

_DAY = 86400.0  # seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "."}
# The number of digits of a date like 20240131.
_COMPACT_DATE = 8


class TableError(ValueError):
    """A file that cannot be used; the message is for the user who named it."""


@dataclass(frozen=True)
class Column:
    """One column as numbers.

    Attributes:
        name: the name in the header.
        values: one number for each row that is kept.
        is_date: whether the values are days since 1970-01-01.
    """

    name: str
    values: list[float]
    is_date: bool

    @property
    def unit(self) -> str | None:
        """The unit of the values of a column of dates; None for numbers, whose unit a file does not say."""
        return "days since 1970-01-01" if self.is_date else None

    def describe(self, value: float) -> str:
        """A value of this column as text: a date, or a number of six digits."""
        if not self.is_date:
            return f"{value:.6g}"
        return datetime.fromtimestamp(value * _DAY, tz=UTC).date().isoformat()


@dataclass(frozen=True)
class Table:
    """Two columns of a file, in the order of its rows.

    Attributes:
        x: the column of x.
        y: the column of y.
        n_rows: number of rows of data in the file.
        n_missing: number of rows skipped because a value is missing.
        n_unreadable: number of rows skipped because a value is not a number (in a column of dates, not a date).
    """

    x: Column
    y: Column
    n_rows: int
    n_missing: int
    n_unreadable: int


def read_columns(path: Path, x_name: str, y_name: str) -> Table:
    """Read two columns of a CSV file with a header.

    csv.Sniffer finds the delimiter: comma, semicolon, tab or bar. A column holds dates if most of its values are dates
    or times of ISO 8601; numbers count as dates if all of them are like 20240131. Dates are read as days since
    1970-01-01. Times without a zone are UTC.

    Args:
        path: the file, in UTF-8.
        x_name: the name of the column of x.
        y_name: the name of the column of y.

    Raises:
        TableError: the file or a column does not exist, the file is not CSV, or no row has a value in both columns.
    """
    header, rows = _read(path)
    index = [_find(header, name, path) for name in (x_name, y_name)]
    # In a row that is too short, the last values are missing.
    cells = [[row[i].strip() if i < len(row) else "" for i in index] for row in rows]
    present = [pair for pair in cells if not any(cell.lower() in _MISSING for cell in pair)]
    columns, is_date = [], []
    for k in range(2):
        raw = [pair[k] for pair in present]
        is_date.append(_is_date_column(raw))
        columns.append([(_days if is_date[k] else _number)(cell) for cell in raw])
    kept = [(x, y) for x, y in zip(*columns, strict=True) if x is not None and y is not None]
    n_missing, n_unreadable = len(cells) - len(present), len(present) - len(kept)
    if not kept:
        raise TableError(
            f"{path}: none of {len(cells)} rows can be used: {n_missing} lack a value in {x_name!r} or {y_name!r},"
            f" {n_unreadable} hold a value that is neither a number nor a date; name other columns with --x and --y"
        )
    x_values, y_values = (list(values) for values in zip(*kept, strict=True))
    return Table(
        Column(x_name, x_values, is_date[0]), Column(y_name, y_values, is_date[1]), len(cells), n_missing, n_unreadable
    )


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names in the header, and the rows that are not blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            sample = file.read(1 << 16).lstrip()
            file.seek(0)
            try:
                dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(sample.split("\n", 1)[0], ",;\t|")
            except csv.Error:  # a single column, or an empty file
                dialect = csv.excel
            rows = [
                row for row in csv.reader(file, delimiter=dialect.delimiter) if len(row) > 1 or "".join(row).strip()
            ]
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise TableError(f"{path} is a folder; name a CSV file") from None
    except UnicodeDecodeError:
        raise TableError(f"{path} is not text in UTF-8; save it as CSV in UTF-8") from None
    except (OSError, csv.Error) as error:
        raise TableError(f"{path} cannot be read as CSV: {error}") from None
    while rows and not any(cell.strip() for cell in rows[0]):
        del rows[0]
    if not rows:
        raise TableError(f"{path} is empty; it needs a header line and rows of data")
    return [name.strip() for name in rows[0]], rows[1:]


def _find(header: list[str], name: str, path: Path) -> int:
    if header.count(name) == 1:
        return header.index(name)
    problem = "no column" if name not in header else "more than one column"
    raise TableError(f"{path} has {problem} {name!r}; its columns are {', '.join(map(repr, header))}")


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    if "_" in cell:  # float() reads 1_000, which is Python's notation
        return None
    return value if math.isfinite(value) else None


def _days(cell: str) -> float | None:
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:  # the conversion may leave the calendar
        moment = moment.astimezone(UTC)
    except OverflowError:
        return None
    return (moment - _EPOCH).total_seconds() / _DAY


def _is_date_column(cells: list[str]) -> bool:
    """Whether most cells are dates. Numbers count as dates if all of them are like 20240131."""
    numbers = [cell for cell in cells if _number(cell) is not None]
    n_dates = sum(_days(cell) is not None for cell in cells if _number(cell) is None)
    if numbers and all(_is_compact_date(cell) for cell in numbers):
        n_dates += len(numbers)
    return 2 * n_dates > len(cells)


def _is_compact_date(cell: str) -> bool:
    if len(cell) != _COMPACT_DATE or not cell.isdigit():
        return False
    try:
        date(int(cell[:4]), int(cell[4:6]), int(cell[6:]))
    except ValueError:
        return False
    return True
