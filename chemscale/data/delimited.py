"""Rows of a table in text: which lines belong to a row, and which quotes are damage.

A cell is quoted where its first character is a quote (RFC 4180); a quote further on in a cell is a character like any
other. A quoted cell ends at a single quote, and may hold delimiters, doubled quotes and line breaks. A quote that
begins a cell is a stray one, and its line a reject, where the cell

- is closed by a quote that is followed by something other than a delimiter or the end of the line;
- is not closed within 1,000 lines or 1 MiB, has more than 131,072 characters, or meets a line of more than 1 MiB or the
  end of the file;
- holds rows of the table: more than half of the lines in it that follow its first one have as many cells as the header,
  and what may be a SMILES in the column of SMILES, with six characters of SMILES or more together.

Reading then goes on at the next line, so that nothing is swallowed. In a table of one column, rows cannot be told from
a SMILES of many lines: from three such lines on every line of the cell is a reject.

So every line is the header, blank, a row, a rejected row, or part of a quoted cell: the `lines` of all rows, with the
lines of the header and blank ones, sum up to those of the file.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from chemscale.errors import DataError

# of one cell, as in Python's csv module
LONGEST_CELL = csv.field_size_limit()
_MOST_LINES = 1000  # of a row
_MOST_BYTES = 1 << 20  # of a row after its first line
# bytes that may be read again after stray quotes, for a start, and per byte of the file
_READ_AGAIN = 1 << 24
_READ_AGAIN_RATIO = 4
_LINE_BREAK = re.compile("\r\n|\r|\n")
_MAYBE_SMILES = re.compile(r"(?:Cl|Br|[BCNOPSFIbcnops*]|\[[^\[\]\s]+\]|[-=#$:/\\~.()0-9%]|->|<-)+")
_EVIDENCE = 6  # characters of SMILES
STRAY_QUOTE = "stray_quote"
UNREADABLE = "unreadable_row"


class Row(NamedTuple):
    """A row of a table: the number of its first line (from 1), how many lines it has, and its cells.

    A rejected row has no cells, and the reason.
    """

    line: int
    lines: int
    cells: list[str] | None
    reason: str = ""


class NumberedLines:
    """The lines of a text with their numbers, from 1; None stands for one that is too long. Lines can be given back."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = enumerate(lines, 1)
        self._returned: deque[tuple[int, bytes | None]] = deque()

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        return self

    def __next__(self) -> tuple[int, bytes | None]:
        return self._returned.popleft() if self._returned else next(self._lines)

    def give_back(self, lines: list[tuple[int, bytes | None]]) -> None:
        """Put lines, in their order, before those that are still to come."""
        self._returned.extendleft(reversed(lines))


def text_of(line: bytes) -> str:
    """The text of a line; other bytes than UTF-8 become single surrogates: they stay in place, and are no SMILES."""
    return line.decode("utf-8", "surrogateescape")


def split_row(
    line: bytes, lines: NumberedLines, delimiter: str
) -> tuple[list[str] | None, list[tuple[int, bytes | None]]]:
    """The cells of the row that begins with a line, None where a quote in it is a stray one.

    Returns:
        The cells, and the further lines that were taken from `lines` to read them.
    """
    taken: list[tuple[int, bytes | None]] = []
    # strict: else a quote that is never closed swallows all lines after it as one row
    reader = csv.reader(chain([text_of(line)], _following(lines, taken)), delimiter=delimiter, strict=True)
    try:
        return next(reader), taken
    except csv.Error:
        return None, taken


def _following(lines: NumberedLines, taken: list[tuple[int, bytes | None]]) -> Iterator[str]:
    """The lines after the first of a row, as far as one may go on; each is noted in `taken`."""
    size = 0
    for number, line in lines:
        taken.append((number, line))
        size += 0 if line is None else len(line)
        if line is None or len(taken) >= _MOST_LINES or size > _MOST_BYTES:
            return
        yield text_of(line)


def table_rows(path: Path, lines: NumberedLines, delimiter: str, columns: int, at: int) -> Iterator[Row]:
    """The rows of a table after its header; blank lines are no rows.

    Args:
        path: of the file, for messages.
        lines: the lines after the header.
        delimiter: between cells, one character.
        columns: how many the header has.
        at: the place of the column of SMILES, from 0.

    Raises:
        DataError: so many quotes are stray that looking for their ends takes longer than reading the file.
    """
    size = again = 0
    for number, line in lines:
        if line is None:
            yield Row(number, 1, None, UNREADABLE)
            continue
        size += len(line)
        if b'"' not in line:
            text = text_of(line).rstrip("\r\n")
            if text:
                cells = text.split(delimiter)
                too_long = len(text) > LONGEST_CELL and max(map(len, cells)) > LONGEST_CELL
                yield Row(number, 1, None, UNREADABLE) if too_long else Row(number, 1, cells)
            continue
        found, taken = split_row(line, lines, delimiter)
        holds_rows = found is not None and bool(taken) and _holds_rows(found, delimiter, columns, at)
        if found is not None and not holds_rows:
            yield Row(number, 1 + len(taken), found)
            continue
        too_long = not taken and len(line) > LONGEST_CELL
        yield Row(number, 1, None, UNREADABLE if too_long else STRAY_QUOTE)
        if holds_rows and columns == 1:
            for further, _ in taken:
                yield Row(further, 1, None, STRAY_QUOTE)
            continue
        lines.give_back(taken)
        again += sum(len(other) for _, other in taken if other is not None)
        if again > _READ_AGAIN + _READ_AGAIN_RATIO * size:
            raise DataError(
                f"read molecules from {path}",
                f"stray quotes up to line {number:,} in so many places that its rows cannot be told",
                "write the table again with its quotes doubled, or without quotes",
            )


def _holds_rows(cells: list[str], delimiter: str, columns: int, at: int) -> bool:
    """Whether a cell of several lines is a part of the table between two stray quotes."""
    for cell in cells:
        pieces = [piece for piece in _LINE_BREAK.split(cell)[1:] if piece]
        rows = [parts for piece in pieces if len(parts := piece.split(delimiter)) == columns]
        smiles = [text for row in rows if _MAYBE_SMILES.fullmatch(text := row[at].strip())]
        if 2 * len(smiles) > len(pieces) and sum(map(len, smiles)) >= _EVIDENCE and (columns > 1 or len(smiles) >= 3):
            return True
    return False
