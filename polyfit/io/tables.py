"""Columns of a CSV file as numbers. Dates become days; rows that cannot be used are skipped and counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from polyfit.io.delimited import TableError, quoted, read_rows

_DAY = 86400.0  # seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "."}
# The number of digits of a date like 20240131.
_COMPACT_DATE = 8
# The largest share of the rows that may have a value which cannot be read. A choice: rows that are left out change the
# fit, so it is small; a table of a thousand rows may have a few words in it.
_MOST_UNREADABLE = 0.05
_ACCEPTED = (
    "A number is like 1234.5 or 1.2e3: it has a decimal point and no mark for thousands, no unit and no sign of percent"
    " or currency. A date is like 2024-01-31 or 2024-01-31T12:00"
)


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
        """A value of this column as text: a date, with the time if it is not midnight, or a number of six digits."""
        if not self.is_date:
            return f"{value:.6g}"
        moment = datetime.fromtimestamp(round(value * _DAY), tz=UTC)
        if value == math.floor(value):
            return moment.date().isoformat()
        return moment.replace(tzinfo=None).isoformat()


@dataclass(frozen=True)
class Cell:
    """A value that cannot be read.

    Attributes:
        line: the line at which its row begins; the first line of the file is 1.
        column: the name of its column.
        text: the value.
        is_date: whether the column holds dates.
    """

    line: int
    column: str
    text: str
    is_date: bool

    def __str__(self) -> str:
        kind = "date" if self.is_date else "finite number"
        return f"line {self.line}: {quoted([self.text])} in column {self.column!r} is not a {kind}"


@dataclass(frozen=True)
class Table:
    """Two columns of a file, in the order of its rows.

    Attributes:
        x: the column of x.
        y: the column of y.
        n_rows: number of rows of data in the file.
        n_missing: number of rows skipped because a value is missing.
        n_unreadable: number of rows skipped because a value is not a number (in a column of dates, not a date).
        first_unreadable: the first such value, or None.
    """

    x: Column
    y: Column
    n_rows: int
    n_missing: int
    n_unreadable: int
    first_unreadable: Cell | None = None


def read_columns(path: Path, x_name: str, y_name: str, *, delimiter: str | None = None) -> Table:
    """Read two columns of a CSV file with a header.

    A column holds dates if most of its values are dates or times of ISO 8601; numbers count as dates if all of them
    are like 20240131. Dates are read as days since 1970-01-01. Times without a zone are UTC.

    Args:
        path: the file, in UTF-8.
        x_name: the name of the column of x.
        y_name: the name of the column of y.
        delimiter: one character; None finds it, see `polyfit.io.delimited.read_rows`.

    Raises:
        TableError: the file or a column does not exist, the file is not CSV or can be read in two ways, a row has more
            cells than the header, more than one row of 20 has a value that is neither a number nor a date, no row has
            a value in both columns, or all values of y are like 20240131.
    """
    rows = read_rows(path, (x_name, y_name), delimiter)
    index = [_find(rows.header, name, path) for name in (x_name, y_name)]
    # In a row that is too short, the last values are missing.
    pairs = [tuple(row[i] if i < len(row) else "" for i in index) for row in rows.cells]
    present = [k for k, pair in enumerate(pairs) if not any(cell.lower() in _MISSING for cell in pair)]
    n_missing = len(pairs) - len(present)
    if not present:
        raise TableError(
            f"{path}: none of {len(pairs)} rows can be used: {n_missing} lack a value in {x_name!r} or {y_name!r};"
            " name other columns with --x and --y"
        )
    x_texts, y_texts = zip(*(pairs[k] for k in present), strict=True)
    x, y = _Parsed.of(x_name, x_texts), _Parsed.of(y_name, y_texts)
    lines = [rows.lines[k] for k in present]
    bad = [k for k, values in enumerate(zip(x.values, y.values, strict=True)) if None in values]
    first = (x if x.values[bad[0]] is None else y).cell(bad[0], lines[bad[0]]) if bad else None
    if len(bad) > _MOST_UNREADABLE * len(present):
        raise TableError(
            f"{path}, {first}; {len(bad)} of {len(present)} rows have such a value, and more than one of 20 is not left"
            f" out. Correct these values, or leave them empty. {_ACCEPTED}"
        )
    if y.is_date and all(map(_is_compact_date, y_texts)):
        raise TableError(
            f"{path}, line {lines[0]}: {y_texts[0]!r} in column {y_name!r} may be a number or a date, and so may all"
            " values of the column; write dates as 2024-01-31, and numbers with a decimal point, 20240131.0"
        )
    left_out = set(bad)
    return Table(x.without(left_out), y.without(left_out), len(pairs), n_missing, len(bad), first)


@dataclass(frozen=True)
class _Parsed:
    """A column with None for each value that cannot be read."""

    name: str
    texts: Sequence[str]
    is_date: bool
    values: list[float | None]

    @classmethod
    def of(cls, name: str, texts: Sequence[str]) -> _Parsed:
        is_date = _is_date_column(texts)
        return cls(name, texts, is_date, [(_days if is_date else _number)(text) for text in texts])

    def cell(self, k: int, line: int) -> Cell:
        return Cell(line, self.name, self.texts[k], self.is_date)

    def without(self, left_out: set[int]) -> Column:
        kept = [value for k, value in enumerate(self.values) if value is not None and k not in left_out]
        return Column(self.name, kept, self.is_date)


def _find(header: list[str], name: str, path: Path) -> int:
    if header.count(name) == 1:
        return header.index(name)
    problem = "no column" if name not in header else "more than one column"
    raise TableError(f"{path} has {problem} {name!r}; its columns are {quoted(header)}")


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


def _is_date_column(cells: Sequence[str]) -> bool:
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
