"""`read_columns`: numbers, dates, rows that are skipped and counted, and files that are refused."""

import csv
import math
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfit.io.tables import Cell, Column, Table, TableError, read_columns

Read = Callable[..., Table]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads columns x and y of a file that holds the given text."""

    def read_text(text: str | bytes, x: str = "x", y: str = "y", delimiter: str | None = None) -> Table:
        path = tmp_path / "data.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_columns(path, x, y, delimiter=delimiter)

    return read_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples that hypothesis draws."""
    return tmp_path_factory.mktemp("tables")


def days(moment: str) -> float:
    """Days since 1970-01-01 as numpy counts them, to the microsecond."""
    return float((np.datetime64(moment, "us") - np.datetime64("1970-01-01", "us")) / np.timedelta64(1, "D"))


def one_column(cells: list[str]) -> str:
    """A file in which only x varies; quotes keep an empty x from making a blank line."""
    return "x,y\n" + "".join(f'"{cell}",1\n' for cell in cells)


# --- numbers ---


def test_numbers_in_all_their_spellings(read: Read):
    table = read("x,y\n1,-2\n+3.5,.5\n4.,1e-3\n 5 ,6E2\n-0.0,007\n")
    assert table.x == Column("x", [1.0, 3.5, 4.0, 5.0, 0.0], is_date=False)
    assert table.y == Column("y", [-2.0, 0.5, 0.001, 600.0, 7.0], is_date=False)
    assert math.copysign(1.0, table.x.values[-1]) == -1.0
    assert (table.n_rows, table.n_missing, table.n_unreadable) == (5, 0, 0)


def test_columns_are_found_by_name_in_any_order(read: Read):
    table = read("b, a ,c\n1,2,3\n4,5,6\n", x="c", y="a")
    assert table.x == Column("c", [3.0, 6.0], is_date=False)
    assert table.y == Column("a", [2.0, 5.0], is_date=False)


def test_one_column_can_be_both_x_and_y(read: Read):
    table = read("value\n3\n1\n2\n", x="value", y="value")
    assert table.x == table.y == Column("value", [3.0, 1.0, 2.0], is_date=False)
    assert table.n_rows == 3


@given(
    pairs=st.lists(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2), min_size=1),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_finite_floats_written_by_csv_come_back_bit_for_bit(folder: Path, pairs, delimiter, quoting, ending):
    path = folder / "floats.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=ending)
        writer.writerows([("x", "y"), *pairs])
    table = read_columns(path, "x", "y")
    x, y = zip(*pairs, strict=True)
    assert np.array(table.x.values).tobytes() == np.array(x).tobytes()
    assert np.array(table.y.values).tobytes() == np.array(y).tobytes()
    assert not table.x.is_date
    assert not table.y.is_date
    assert (table.n_rows, table.n_missing, table.n_unreadable) == (len(pairs), 0, 0)


# --- dates ---


@pytest.mark.parametrize("day", ["1970-01-01", "2020-01-31", "2020-02-29", "1969-12-31", "1582-10-14", "9999-12-31"])
def test_iso_date_is_days_since_1970(read: Read, day):
    table = read(one_column([day]))
    assert table.x == Column("x", [days(day)], is_date=True)
    assert not table.y.is_date


@pytest.mark.parametrize(
    ("cell", "utc"),
    [
        ("2020-01-31T06:00", "2020-01-31T06:00"),
        ("2020-01-31 18:30:15", "2020-01-31T18:30:15"),
        ("2020-01-31T12:00:00.250000", "2020-01-31T12:00:00.250000"),
        ("2020-01-31T12:00:00Z", "2020-01-31T12:00:00"),
        ("2020-01-31T02:00:00+05:30", "2020-01-30T20:30:00"),
        ("2020-01-31T20:00:00-05:00", "2020-02-01T01:00:00"),
        ("20200131T060000", "2020-01-31T06:00"),
    ],
)
def test_iso_time_counts_parts_of_a_day_in_utc(read: Read, cell, utc):
    table = read(one_column([cell]))
    assert table.x.is_date
    # The seconds round once and their quotient rounds once more; numpy divides whole microseconds.
    assert table.x.values == pytest.approx([days(utc)], rel=2 * np.finfo(float).eps, abs=0)


def test_times_with_and_without_zone_share_a_column(read: Read):
    table = read(one_column(["2020-01-31T00:00", "2020-01-31T00:00Z", "2020-01-31T01:00+01:00", "2020-01-31"]))
    assert table.x == Column("x", [days("2020-01-31")] * 4, is_date=True)


def test_eight_digits_that_are_all_calendar_dates_are_dates(read: Read):
    table = read(one_column(["20200131", "20200229", "19580329"]))
    assert table.x == Column("x", [days("2020-01-31"), days("2020-02-29"), days("1958-03-29")], is_date=True)


@pytest.mark.parametrize(
    "other", ["20201399", "20190229", "20200431", "00000101", "2020013", "202001311", "20200131.0"]
)
def test_eight_digits_are_numbers_if_one_of_them_is_no_calendar_date(read: Read, other):
    table = read(one_column(["20200131", other, "20200229"]))
    assert table.x == Column("x", [20200131.0, float(other), 20200229.0], is_date=False)
    assert table.n_unreadable == 0


def test_missing_values_do_not_keep_eight_digits_from_being_dates(read: Read):
    table = read(one_column(["20200131", "NA", "20200229", ""]))
    assert table.x == Column("x", [days("2020-01-31"), days("2020-02-29")], is_date=True)
    assert table.n_missing == 2


def test_each_column_is_dates_or_numbers_for_itself(read: Read):
    table = read("x,y\n20200131,20200199\n20200201,20200131\n")
    assert table.x == Column("x", [days("2020-01-31"), days("2020-02-01")], is_date=True)
    assert table.y == Column("y", [20200199.0, 20200131.0], is_date=False)
    swapped = read("x,y\n1,2020-01-31\n2,20200201\n")
    assert swapped.y == Column("y", [days("2020-01-31"), days("2020-02-01")], is_date=True)


@pytest.mark.parametrize("name", ["y", "x"])
def test_eight_digits_as_y_are_refused_if_they_may_be_dates(read: Read, name):
    text = "x,y\n20200131,20200101\n20200201,20200131\n"
    with pytest.raises(TableError, match=rf"line 2: '2020\d+' in column '{name}' may be a number or a date"):
        read(text, y=name)
    assert read(text.replace(",20200101", ",20200101.0")).y.values == [20200101.0, 20200131.0]


def test_compact_and_dashed_dates_share_a_column(read: Read):
    table = read(one_column(["2020-01-31", "20200201", "2020-02-02"]))
    assert table.x == Column("x", [days("2020-01-31") + k for k in range(3)], is_date=True)


def test_numbers_and_words_among_dates_are_unreadable(read: Read):
    table = read(one_column(["2020-01-31", "soon", "2020-02-01", "3.5", "2020-02-30", *["2020-02-02"] * 60]))
    assert table.x == Column("x", [days("2020-01-31"), days("2020-02-01"), *[days("2020-02-02")] * 60], is_date=True)
    assert (table.n_missing, table.n_unreadable) == (0, 3)
    assert str(table.first_unreadable) == "line 3: 'soon' in column 'x' is not a date"


def test_a_date_among_numbers_is_unreadable(read: Read):
    table = read(one_column(["1", "2", "2020-01-31", *["3"] * 20]))
    assert table.x == Column("x", [1.0, 2.0, *[3.0] * 20], is_date=False)
    assert table.n_unreadable == 1


@given(dates=st.lists(st.dates(), min_size=1), compact=st.booleans())
def test_any_dates_are_read_as_numpy_counts_days(folder: Path, dates: list[date], compact):
    path = folder / "dates.csv"
    path.write_text(one_column([day.isoformat().replace("-", "" if compact else "-") for day in dates]), "utf-8")
    table = read_columns(path, "x", "y")
    expected = np.array(dates, dtype="datetime64[D]").astype(float).tolist()
    assert table.x == Column("x", expected, is_date=True)


@pytest.mark.parametrize(
    ("cell", "described"),
    [
        ("2020-01-31", "2020-01-31"),
        ("1958-03-29T23:59:59", "1958-03-29T23:59:59"),
        ("2024-01-31 06:30", "2024-01-31T06:30:00"),
        ("0001-01-01", "0001-01-01"),
        ("9999-12-31", "9999-12-31"),
    ],
)
def test_a_date_is_described_as_it_was_written(read: Read, cell, described):
    column = read(one_column([cell])).x
    assert column.describe(column.values[0]) == described


@pytest.mark.parametrize("cell", ["0001-01-01T00:00+05:00", "9999-12-31T23:00-05:00"])
def test_a_time_outside_the_calendar_in_utc_is_described_or_unreadable(read: Read, cell):
    column = read(one_column(["2020-01-31", *["2020-02-01"] * 30, cell])).x
    assert all(column.describe(value) for value in column.values)


def test_a_number_is_described_to_six_digits():
    column = Column("x", [1234567.0], is_date=False)
    assert column.describe(1234567.0) == "1.23457e+06"
    assert column.describe(0.25) == "0.25"


# --- rows that are skipped ---


@pytest.mark.parametrize("cell", ["", "  ", "NA", "na", "n/a", "nan", "NaN", "null", "NULL", "None", "-", ".", " NA "])
def test_missing_values_are_skipped_and_counted(read: Read, cell):
    table = read(f"x,y\n1,10\n{cell},20\n3,{cell}\n{cell},NA\n5,50\n")
    assert table.x.values == [1.0, 5.0]
    assert table.y.values == [10.0, 50.0]
    assert (table.n_rows, table.n_missing, table.n_unreadable) == (5, 3, 0)


@pytest.mark.parametrize(
    "cell", ["many", "1,5", "1.2.3", "0x10", "12 m", "--", "inf", "-inf", "Infinity", "1e999", "-1e999", "\0"]
)
def test_values_that_are_no_finite_number_are_counted_apart(read: Read, cell):
    rest = "".join(f"{k};{10 * k}\n" for k in range(5, 50))
    table = read(f'x;y\n1;10\n"{cell}";20\n3;"{cell}"\n4;\n{rest}')
    assert table.x == Column("x", [1.0, *range(5, 50)], is_date=False)
    assert table.y == Column("y", [10.0, *range(50, 500, 10)], is_date=False)
    assert (table.n_rows, table.n_missing, table.n_unreadable) == (49, 1, 2)
    assert table.first_unreadable == Cell(3, "x", cell, is_date=False)


@pytest.mark.parametrize(("n_rows", "n_bad"), [(4, 1), (20, 2), (39, 2), (12, 10), (1, 1)])
def test_more_than_one_unreadable_row_of_20_is_refused_with_the_first_value(read: Read, n_rows, n_bad):
    bad = "".join(f'{k},"1,{k:03}.5"\n' for k in range(n_bad))
    text = "x,y\n" + "".join(f"{k},{k}\n" for k in range(n_rows - n_bad)) + bad
    said = rf"line {n_rows - n_bad + 2}: '1,000\.5' in column 'y' is not a finite number; {n_bad} of {n_rows} rows"
    with pytest.raises(TableError, match=said):
        read(text)


def test_one_unreadable_row_of_20_is_left_out(read: Read):
    table = read("x,y\n" + "1,2\n" * 19 + "3,many\n")
    assert (len(table.x.values), table.n_unreadable) == (19, 1)
    assert str(table.first_unreadable) == "line 21: 'many' in column 'y' is not a finite number"


def test_a_line_is_counted_in_the_file_where_cells_hold_line_ends(read: Read):
    table = read('\nx,note,y\n1,"two\n\nlines",2\n\n' + "1,,2\n" * 20 + "1,,many\n")
    assert table.first_unreadable == Cell(27, "y", "many", is_date=False)


def test_a_row_with_one_value_missing_and_one_unreadable_counts_as_missing(read: Read):
    table = read("x,y\n1,2\nNA,many\n")
    assert (table.n_rows, table.n_missing, table.n_unreadable) == (2, 1, 0)


def test_only_the_two_columns_named_decide_what_is_skipped(read: Read):
    table = read("x,note,y\n1,,2\n3,many,4\n")
    assert table.x.values == [1.0, 3.0]
    assert (table.n_missing, table.n_unreadable) == (0, 0)


def test_a_row_that_is_too_short_lacks_its_last_values(read: Read):
    table = read("x,other,y\n1,0,2\n3,0\n4\n5,0,6\n")
    assert table.x.values == [1.0, 5.0]
    assert table.y.values == [2.0, 6.0]
    assert (table.n_rows, table.n_missing) == (4, 2)


def test_blank_cells_beyond_the_header_are_no_values(read: Read):
    assert read("x,y\n1,2,\n3,4,, \n5,6\n").y.values == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # Decimal commas, the names of rows that R writes, a mark for thousands.
        ("x,y\n0,5,1,25\n", r"line 2: a row of 4 cells ('0', '5', '1', '25') under a header of 2 ('x', 'y')"),
        ('"x","y"\n"1",0.5,2.5\n"2",1,3\n', r"line 2: a row of 3 cells ('1', '0.5', '2.5') under a header of 2"),
        ("x,y\n1,234\n\n2,1,234\n", r"line 4: a row of 3 cells ('2', '1', '234')"),
        ("value\n1\n1,5\n", r"line 3: a row of 2 cells ('1', '5') under a header of 1 ('value')"),
        ("x;y\n1;2\n3;4;;5\n", r"line 3: a row of 4 cells ('3', '4', '', '5')"),
    ],
)
def test_a_row_with_more_cells_than_the_header_is_refused_with_its_line(read: Read, text, said):
    with pytest.raises(TableError, match=re.escape(said)):
        read(text)


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_blank_lines_are_no_rows(read: Read, blank):
    table = read(f"x;y\n{blank}\n1;2\n{blank}\n\n3;4\n{blank}\n")
    assert table.x.values == [1.0, 3.0]
    assert (table.n_rows, table.n_missing) == (2, 0)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_blank_lines_may_stand_before_the_header(read: Read, delimiter):
    table = read("\n  \nx,y\n1,2\n".replace(",", delimiter))
    assert table.x.values == [1.0]
    assert table.y.values == [2.0]


# --- the file ---


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("names", [("x", "y"), ("depth in m", "salt (per mille)"), ("day: UTC", "it's")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_delimiter_is_found(read: Read, delimiter, names, quote):
    rows = [names, ("1", "2"), ("3", "4")]
    text = "".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) + "\n" for row in rows)
    table = read(text, x=names[0], y=names[1])
    assert table.x == Column(names[0], [1.0, 3.0], is_date=False)
    assert table.y == Column(names[1], [2.0, 4.0], is_date=False)


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("Datum;Temperatur, Grad;y\n1;2,5;3\n", ("Datum", "y"), ([1.0], [3.0])),
        ("Datum;Temperatur, Grad;y\n1;2;3\n", ("Temperatur, Grad", "y"), ([2.0], [3.0])),
        ("a|b;c\n1|2\n3|4\n", ("a", "b;c"), ([1.0, 3.0], [2.0, 4.0])),
        ("a\tb, in m\n1\t2\n3\n", ("a", "b, in m"), ([1.0], [2.0])),
        ('"a;b",c\n"1",2\n', ("a;b", "c"), ([1.0], [2.0])),
    ],
)
def test_a_header_with_several_delimiters_is_read_by_the_rows_and_the_names(read: Read, text, names, values):
    table = read(text, *names)
    assert (table.x.values, table.y.values) == values


def test_a_file_that_can_be_read_in_two_ways_is_refused_unless_the_delimiter_is_given(read: Read):
    text = "a;b, c;d\n1;2,5;3\n"
    with pytest.raises(
        TableError,
        match=r"by commas \(columns 'a;b', 'c;d'\) or semicolons \(columns 'a', 'b, c', 'd'\); .*--delimiter",
    ):
        read(text, "x", "y")
    with pytest.raises(TableError, match="no column 'x'; its columns are 'a', 'b, c', 'd'"):
        read(text, "x", "y", delimiter=";")
    assert read("x y\n1 2\n", delimiter=" ").y.values == [2.0]


def test_blanks_before_a_quote_do_not_hide_it(read: Read):
    table = read('x, place, y\n1, "Rue 7, 12, Lyon", 3.5\n  2,"a",  "4"\n')
    assert (table.x.values, table.y.values) == ([1.0, 2.0], [3.5, 4.0])


@pytest.mark.parametrize(("text", "line"), [('x,y\n1,2\n"3,4\n5,6\n', 3), ('x,y\n1,2\n\n1,"1"5\n3,4\n', 4)])
def test_a_quote_that_ends_elsewhere_than_its_cell_is_refused(read: Read, text, line):
    with pytest.raises(TableError, match=f"line {line}: the row that begins here cannot be read as CSV: .*quote"):
        read(text)


def test_quoted_cells_may_hold_delimiters_quotes_and_line_ends(read: Read):
    table = read('"x","a ""b"", c",y\n"1","two\nlines, or ""three""","2"\n3,plain,"4"\n')
    assert table.x.values == [1.0, 3.0]
    assert table.y.values == [2.0, 4.0]
    assert table.n_rows == 2
    named = read('x,"a ""b"", c"\n1,2\n', y='a "b", c')
    assert named.y.values == [2.0]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_of_every_system(read: Read, ending):
    table = read(ending.join(["x,y", "1,2", "3,4"]))
    assert table.x.values == [1.0, 3.0]
    assert table.y.values == [2.0, 4.0]


def test_byte_order_mark_is_not_part_of_the_first_name(read: Read):
    assert read("\ufeffx,y\n1,2\n").x == Column("x", [1.0], is_date=False)


def test_names_in_any_alphabet(read: Read):
    assert read("время,温度\n1,2\n", x="время", y="温度").y == Column("温度", [2.0], is_date=False)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_refused(read: Read, encoding):
    with pytest.raises(TableError, match="not text in UTF-8"):
        read("x,y,été\n1,2,3\n".encode(encoding))


def test_another_encoding_is_refused_wherever_it_shows(read: Read):
    # Beyond the part of the file that is read to find the delimiter.
    text = "x,y\n" + "1,2\n" * 20_000
    with pytest.raises(TableError, match="not text in UTF-8"):
        read(text.encode() + "3,é\n".encode("latin-1"))


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "  \n,,\n"])
def test_an_empty_file_is_refused(read: Read, text):
    with pytest.raises(TableError, match=r"data\.csv is empty; it needs a header line and rows of data"):
        read(text)


@pytest.mark.parametrize("text", ["x,y", "x,y\n", "x,y\n\n\n"])
def test_a_header_without_rows_is_refused(read: Read, text):
    with pytest.raises(TableError, match=r"data\.csv: none of 0 rows can be used"):
        read(text)


def test_no_usable_row_is_refused_with_the_counts(read: Read):
    with pytest.raises(TableError, match="none of 3 rows can be used: 3 lack a value in 'x' or 'y';"):
        read("x,y\n1,\n,2\nNA,NA\n")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(read: Read):
    with pytest.raises(TableError, match=r"has no column 'z'; its columns are 'x', 'Y', 'a b'$"):
        read("x,Y,a b\n1,2,3\n", y="z")
    with pytest.raises(TableError, match="has no column 'y'"):  # names are case-sensitive
        read("x,Y,a b\n1,2,3\n", y="y")


def test_a_column_that_is_there_twice_is_refused_only_if_named(read: Read):
    text = "x,x,y,z\n1,2,3,4\n"
    with pytest.raises(TableError, match="more than one column 'x'; its columns are 'x', 'x', 'y', 'z'"):
        read(text)
    assert read(text, x="z").x.values == [4.0]


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(TableError, match="is a folder; name a CSV file"):
        read_columns(tmp_path, "x", "y")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(TableError, match=r"absent\.csv: no such file"):
        read_columns(tmp_path / "absent.csv", "x", "y")
    (tmp_path / "file").touch()
    with pytest.raises(TableError, match="cannot be read"):
        read_columns(tmp_path / "file" / "below.csv", "x", "y")


def test_a_cell_beyond_what_csv_reads_is_refused(read: Read):
    with pytest.raises(TableError, match="cannot be read as CSV: field larger than field limit"):
        read("x,y\n1," + "2" * (csv.field_size_limit() + 1) + "\n")
