"""Anybody's table of runs as a file: CSV with any of four delimiters, or Parquet.

Nothing is guessed and nothing is lost: each row of the file is in the table, or counted among those left out, and a
cell that should be a number and is not ends in an error with its line.
"""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from chemscale.errors import InputError, RecordError
from chemscale.io import read_parquet, regular_file
from chemscale.scaling.law import Array

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BYTES = 2**24  # of a CSV; text takes about twenty times as much memory while it is read
MAX_PARQUET_BYTES = 2**26
MAX_ROWS = 100_000
MAX_COLUMNS = 1_000
MAX_CELLS = 4_000_000
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# values beyond these are no loss, size or compute of anything; their squares and ratios would leave the floats
SMALLEST, LARGEST = 1e-100, 1e100
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_LINE_END = re.compile(r"\r\n|\r|\n")
_FEWER = "keep the rows and columns that the fit needs"


@dataclass(frozen=True)
class RunTable:
    """The rows of a file.

    Attributes:
        path: of the file.
        rows: a row per run; its index is the position in the file, from 0. Cells of a CSV are text.
        left_out: how many rows of the file are not in `rows`, by reason.
        lines: the line of each position of a CSV; None for Parquet, which has rows and no lines.
    """

    path: Path
    rows: pd.DataFrame
    left_out: dict[str, int]
    lines: list[int] | None

    def place(self, at: int) -> str:
        """A row in words, by its position in the file."""
        return f"row {at + 1}" if self.lines is None else f"line {self.lines[at]}"

    def numbers(self, column: str) -> Array:
        """A column as positive numbers; `InputError` names the first line where it is not."""
        numbers = [_number(value) for value in self.rows[column]]
        for at, value, number in zip(self.rows.index, self.rows[column], numbers, strict=True):
            if not SMALLEST <= number <= LARGEST:
                raise InputError(
                    f"{self.path}, {self.place(at)}, column {shown(column)}",
                    "nothing" if isinstance(value, str) and not value.strip() else shown(value),
                    "give a positive, finite number with a decimal point, or remove the row",
                )
        return np.array(numbers)


def shown(value: Any) -> str:
    """A name or a value of a stranger's file in a message: on one line, and not too long."""
    text = value if isinstance(value, str) and value.isprintable() and value.strip() == value != "" else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def names_of(columns: list[str]) -> str:
    """The columns of a table in a message."""
    first = ", ".join(shown(name) for name in columns[:20])
    return first if len(columns) <= 20 else f"{first} and {len(columns) - 20} more"


def _number(value: Any) -> float:
    """A cell as a number; NaN where it is none."""
    if isinstance(value, str):
        text = value.strip()
        return float(text) if _NUMBER.fullmatch(text) else math.nan
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | Decimal | np.number):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_runs(path: Path, mapping: Mapping[str, str]) -> RunTable:
    """Read a table of runs.

    Args:
        path: a CSV, or a file whose name ends in .parquet or .pq.
        mapping: the file's names of loss, N, D and C where they differ.

    Raises:
        InputError: it is no such file, too large, empty, ambiguous, or names a column or a run twice.
    """
    regular_file(path, do="name a CSV or Parquet file")
    if path.suffix.lower() in (".parquet", ".pq"):
        table = RunTable(path, _read_parquet(path), {}, None)
    else:
        table = _read_csv(path, mapping.get("loss", "loss"))
    rows = table.rows
    if rows.empty:
        raise InputError(f"read the table {path}", "no rows", "write a line per run")
    repeated = rows.columns[rows.columns.duplicated()]
    if len(repeated):
        raise InputError(f"read the table {path}", f"two columns {str(repeated[0])[:60]!r}", "name each column once")
    if {"seed", "run"} & set(rows.columns):
        twice = rows.astype(str).duplicated()
        if twice.any():
            place = table.place(int(rows.index[twice][0]))
            raise InputError(f"{path}, {place}", "a run that stands in the table before", "give each run once")
    return table


def _check_bytes(path: Path, most: int, kind: str) -> None:
    size = path.stat().st_size
    if size > most:
        raise InputError(f"read the table {path}, of at most {most:,} bytes {kind}", f"{size:,} bytes", _FEWER)


def _check_shape(path: Path, rows: int, columns: int) -> None:
    if rows > MAX_ROWS or columns > MAX_COLUMNS or rows * columns > MAX_CELLS:
        raise InputError(
            f"read the table {path}, of at most {MAX_ROWS:,} rows, {MAX_COLUMNS:,} columns and {MAX_CELLS:,} cells",
            f"{rows:,} rows and {columns:,} columns",
            _FEWER,
        )


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_bytes(path, MAX_PARQUET_BYTES, "as Parquet")
    try:
        footer = pq.read_metadata(path)
        _check_shape(path, footer.num_rows, footer.num_columns)
        table = read_parquet(path)
    except (RecordError, pa.ArrowException, OSError) as error:
        found = error.found if isinstance(error, RecordError) else f"no readable Parquet ({error})"
        raise InputError(f"read the table {path}", found, "give a whole Parquet file") from None
    # a list, a structure or bytes are neither a number nor a setting
    flat = [at for at, field in enumerate(table.schema) if _is_plain(field.type)]
    try:
        # a stored index is a column like any other
        frame: pd.DataFrame = table.select(flat).to_pandas(ignore_metadata=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, OverflowError) as error:
        found = f"values that cannot be read ({' '.join(str(error).split())[:200]})"
        raise InputError(f"read the table {path}", found, _FEWER) from None
    return frame


def _is_plain(kind: pa.DataType) -> bool:
    """Whether the values of a column are numbers, flags, times or text."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_primitive, types.is_decimal, types.is_string, types.is_large_string, types.is_string_view)
    return any(test(kind) for test in tests)


def _read_csv(path: Path, loss: str) -> RunTable:
    try:
        _check_bytes(path, MAX_BYTES, "as CSV")
        text = path.read_bytes().decode("utf-8-sig")
    except (UnicodeError, OSError) as error:
        raise _no_csv(path, error) from None
    header = _LINE_END.split(text, maxsplit=1)[0]
    delimiter = _delimiter(path, header, loss)
    lines = len(_LINE_END.findall(text)) + 1
    _check_shape(path, lines - 1 - text.endswith(("\n", "\r")), header.count(delimiter) + 1)
    try:
        with warnings.catch_warnings():
            # a line with more fields than the header, 3,5 for 3.5 say, is no run whose last field may be dropped
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # as text: a number that is none must be reported with its line, not turned into NaN
            cells = pd.read_csv(
                io.StringIO(text, newline=""),
                sep=delimiter,
                dtype=str,
                header=None,
                keep_default_na=False,
                na_filter=False,
                skipinitialspace=True,
                skip_blank_lines=False,  # so that a row's index gives its line
                index_col=False,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, ValueError) as error:
        raise _no_csv(path, error) from None
    names = [str(name).strip() for name in cells.iloc[0].fillna("")]
    cells = cells.fillna("")
    breaks = np.zeros(len(cells), int)
    if '"' in text:  # only a quoted cell has more lines than one
        breaks[:] = [sum(len(_LINE_END.findall(cell)) for cell in row) for row in cells.itertuples(index=False)]
    numbers = np.arange(1, len(cells) + 1) + np.concatenate([[0], np.cumsum(breaks)[:-1]])
    physical = _LINE_END.split(text) if breaks.any() else []
    for at in np.flatnonzero(breaks):
        number, more = int(numbers[at]), int(breaks[at])
        # a stray quotation mark joins lines that are whole rows; a text of several lines leaves the first one short
        whole = [line.count(delimiter) >= len(names) - 1 for line in physical[number - 1 : number + more]]
        if at == 0 or all(whole) or any(whole[1:-1]):
            found = f"a quotation mark that takes in {more} more line{'s' * (more > 1)}"
            raise InputError(f"{path}, line {number}", found, "remove it, or close it on its line")
    rows = cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    filled = (rows != "").any(axis=1)
    blank = int((~filled).sum())
    return RunTable(path, rows[filled], {"blank": blank} if blank else {}, numbers[1:].tolist())


def _no_csv(path: Path, error: Exception) -> InputError:
    found = f"no CSV ({' '.join(str(error).split())[:200]})"
    return InputError(f"read the table {path}", found, "write a header and a line per run")


def _delimiter(path: Path, header: str, loss: str) -> str:
    """The delimiter of a CSV by its header: the only one there, or the only one that leaves a column of the loss."""
    names = {}
    for delimiter in DELIMITERS:
        try:
            fields = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error as error:
            raise _no_csv(path, error) from None
        if len(fields) > 1:
            names[delimiter] = [field.strip() for field in fields]
    fitting = list(names) if len(names) < 2 else [delimiter for delimiter in names if loss in names[delimiter]]
    if len(fitting) > 1 or (names and not fitting):
        found = " and ".join(DELIMITERS[delimiter] for delimiter in names)
        raise InputError(
            f"the delimiter of {path}", f"{found} in the header", "separate the columns by one of them, and only by it"
        )
    return fitting[0] if fitting else ","
