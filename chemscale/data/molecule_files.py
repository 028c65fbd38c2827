"""SMILES, row by row, from the files of a source: lists and tables of text, plain or packed, and Parquet.

Memory does not grow with a file. A row that cannot be read is one row, with a reason; a file that ends too early, is
damaged or is no file of its kind is an error: an incomplete source never passes as a whole one.

Rows of tables are those of `chemscale.data.delimited`. The cells of a CSV table are separated by commas or, where its
header has the column by one of these alone, by semicolons, tabs or pipes; Excel's first line `sep=;` is understood.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from chemscale.data.delimited import UNREADABLE, NumberedLines, split_row, table_rows, text_of
from chemscale.data.file_kinds import BEGINNING, BYTE_ORDER_MARK, foreign_kind
from chemscale.data.parquet_column import texts
from chemscale.errors import DataError, shown
from chemscale.io import open_regular, regular_file

# Columns of the identifier table of `chemicals`, which has no header
_CID, _SMILES = 0, 4
_BLOCK = 1 << 18  # bytes
# A longer line is one row that cannot be read
_LONGEST_LINE = 1 << 20  # bytes
# With a longer one the file is no text of lines
_ENDLESS_LINE = 1 << 26  # bytes
_GZIP = b"\x1f\x8b"
_KINDS = (".csv", ".tsv", ".smi", ".txt", ".parquet")
_PACKED = ".gz"
# lists of molecules shrink to a tenth or so; what unpacks to this many bytes at this ratio is made to fill memory
_UNPACKED = 1 << 26
_LARGEST_RATIO = 200
# a larger file of which less than a hundredth is on the disk is a hole
_SPARSE = 1 << 30
_SPARSE_RATIO = 100
_CHECKED_ROWS = 1000
_LISTED = 20
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_EXCEL_HINT = re.compile(rb'"?sep=([,;\t|])"?[\r\n]*', re.IGNORECASE)
# white space of every kind, and characters that are not seen
WHITE_SPACE = re.compile("[\\s\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]+")
_WHOLE_FILE = "give the path from the folder of the run"
MORE_CELLS = "more_cells_than_columns"


class Unreadable(NamedTuple):
    """A row from which no SMILES can be taken, and why."""

    reason: str


_UNREADABLE = Unreadable(UNREADABLE)


def read(located: Mapping[str, Any]) -> Iterator[str | Unreadable]:
    """The SMILES of all files that `chemscale.data.sources.locate` found, in order, as they stand there.

    An `Unreadable` is a row from which none can be taken. Its reasons are unreadable_row (a SMILES with a NUL in it, a
    line of more than 1 MiB, a cell of more than 131,072 characters), stray_quote, and more_cells_than_columns (so that
    it is open which of them is the SMILES). An empty text is a row without a SMILES. Bytes that are no UTF-8 stay in
    their own row: as part of a SMILES they are no SMILES (the text is not ASCII), elsewhere they do not matter.

    Raises:
        DataError: a file is missing or empty, damaged or cut, no text or something else than its name says (a web page,
            a pointer of git LFS, a spreadsheet, UTF-16, no gzip by a name in .gz and so on), lacks the column or has
            several of its name, or would take too much memory. It names the file, and about how many rows were read.
    """
    for name in located["files"]:
        path = Path(name)
        match located["parser"]:
            case "own_file" | "smiles_csv_gz":
                yield from own_file(path, located["column"])
            case "smiles_lines_zip":
                yield from _whole(path, _first_words(_zipped(path, located["member"])))
            case "cid_smiles_gz":
                yield from _whole(path, _second_columns(_unpacked(path)))
            case "chemicals_tsv":
                yield from (smiles for _, smiles in identifiers(path))
            case other:
                raise DataError(f"read molecules from {path}", f"the format {other!r}", "name a source of molecules")


def own_file(path: Path, column: str | None) -> Iterator[str | Unreadable]:
    """The SMILES of a user's file, in order: CSV, TSV or Parquet by `column`, SMI or TXT by the first word of a line.

    Text may be packed: .csv.gz and so on. Rows are those that `read` describes. In SMI and TXT, the first word ends at
    a blank or a tab; where a CXSMILES extension (`|...|`) follows it, the extension is a part of the row's text.

    Raises:
        DataError: as `read`.
    """
    kind, packed = _kind_of(path)
    if kind == ".parquet":
        return _whole(path, _parquet_column(path, column))
    lines = _unpacked(path) if packed else _plain(path)
    if kind in (".csv", ".tsv"):
        return _whole(path, _table_column(path, lines, kind, column))
    return _whole(path, _first_words(lines))


def check_own_file(path: Path, column: str | None) -> None:
    """See that a user's file is one of molecules, by its first rows: what takes time for a large file comes after.

    Raises:
        DataError: as `own_file`.
    """
    for _ in islice(own_file(path, column), _CHECKED_ROWS):
        pass


def _kind_of(path: Path) -> tuple[str, bool]:
    """What a file is by its name, and whether it is packed; refuses what is no file of a known kind."""
    regular_file(path, DataError, _WHOLE_FILE)
    packed = path.suffix.lower() == _PACKED
    plain = Path(path.stem) if packed else path
    kind = plain.suffix.lower()
    if kind not in _KINDS or (packed and kind == ".parquet"):
        raise DataError(
            f"read molecules from {path}",
            f"a file of kind {kind + _PACKED if packed else kind!r}",
            "csv, tsv, smi, txt, each plain or in gzip (.gz), or parquet",
        )
    status = path.stat()
    on_disk = 512 * status.st_blocks
    # some file systems do not say how much is on the disk
    if status.st_size > _SPARSE and 0 < on_disk * _SPARSE_RATIO < status.st_size:
        found = f"a file of {status.st_size:,} bytes, of which {on_disk:,} are on the disk"
        raise DataError(f"read molecules from {path}", found, "give a whole file, without holes")
    return kind, packed


def _whole(path: Path, rows: Iterator[str | Unreadable]) -> Iterator[str | Unreadable]:
    """The rows of one file; an error where there are none, or where the file is damaged after some."""
    count = 0
    try:
        for row in rows:
            count += 1
            # RDKit reads a SMILES with a NUL at its end as if that were not there
            yield _UNREADABLE if isinstance(row, str) and "\0" in row else row
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"read molecules from {path}",
            f"a damaged or incomplete file after about {count:,} rows ({error})",
            "give the whole file",
        ) from None
    if not count:
        raise DataError(f"read molecules from {path}", "no rows", "give a file with at least one molecule")


# from files to lines


def _plain(path: Path) -> Iterator[bytes | None]:
    with open_regular(path, DataError, _WHOLE_FILE) as stream:
        yield from _lines(path, stream)


def _unpacked(path: Path) -> Iterator[bytes | None]:
    with open_regular(path, DataError, _WHOLE_FILE) as packed:
        beginning = packed.read(BEGINNING)
        packed.seek(0)
        if not beginning.startswith(_GZIP):
            _refuse(path, beginning)
            raise DataError(f"read molecules from {path}", "no gzip", "rename it, or give the gzip file")
        _check_ratio(path, packed)
        with gzip.GzipFile(fileobj=packed) as stream:
            yield from _lines(path, stream)


def _check_ratio(path: Path, packed: io.BufferedReader) -> None:
    """Refuse a gzip file that unpacks to far more than a list of molecules does, before its rows are read."""
    unpacked = 0
    # damage is met again where rows are counted
    with suppress(OSError, EOFError, zlib.error), gzip.GzipFile(fileobj=packed) as stream:
        while unpacked < _UNPACKED and packed.tell() <= _UNPACKED // _LARGEST_RATIO:
            block = stream.read1(_BLOCK)
            if not block:
                break
            unpacked += len(block)
    if unpacked >= _UNPACKED:
        raise DataError(
            f"read molecules from {path}",
            f"a gzip file of {path.stat().st_size:,} bytes that unpacks to more than {_LARGEST_RATIO} times as much",
            "give a list or a table of molecules",
        )
    packed.seek(0)


def _zipped(path: Path, member: str) -> Iterator[bytes | None]:
    with zipfile.ZipFile(path) as archive:
        if member not in archive.namelist():
            raise DataError(
                f"read {member} in {path}",
                f"an archive of {', '.join(archive.namelist()[:5]) or 'nothing'}",
                "give the published archive",
            )
        try:
            stream = cast(zipfile.ZipExtFile, archive.open(member))
        except RuntimeError as error:  # encrypted, or of a compression that zipfile doesn't know
            raise DataError(f"read {member} in {path}", f"{error}", "give the published archive") from None
        with stream:
            yield from _lines(path, stream)


def _refuse(path: Path, beginning: bytes) -> None:
    """Refuse what is surely no table or list of molecules, by its first bytes."""
    kind = foreign_kind(beginning)
    if kind is not None:
        raise DataError(f"read molecules from {path}", kind.name, kind.do)


def _lines(path: Path, stream: io.BufferedReader | gzip.GzipFile | zipfile.ZipExtFile) -> Iterator[bytes | None]:
    """The lines of a stream with their ends (LF, CRLF or CR), without a byte order mark.

    None stands for a line of more than 1 MiB, and comes as soon as that is known; no more than about that is held.
    """
    # read1, other than read, hands over what there is before it meets damage: the rows until there count
    beginning = stream.read1(_BLOCK)
    _refuse(path, beginning[:BEGINNING])
    rest, number = b"", 0
    skipped = 0  # bytes of a long line, of which None was handed over already
    block = beginning.removeprefix(BYTE_ORDER_MARK)
    while block:
        lines = (rest + block).splitlines(keepends=True)
        # a CR at the end may be half of a CRLF
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        for line in lines:
            if not skipped:
                yield None if len(line) > _LONGEST_LINE else line
            skipped = 0
        number += len(lines)
        if skipped or len(rest) > _LONGEST_LINE:
            if not skipped:
                yield None
            skipped += len(rest)
            if skipped > _ENDLESS_LINE:
                found = f"more than {_ENDLESS_LINE >> 20} MiB without a line break after line {number:,}"
                raise DataError(f"read molecules from {path}", found, "give a text with a molecule on each line")
            # the last byte stays: it may be a CR, which ends the line
            rest = rest[-1:]
        block = stream.read1(_BLOCK)
    if rest and not skipped:
        yield rest


# from lines to SMILES


def _first_words(lines: Iterator[bytes | None]) -> Iterator[str | Unreadable]:
    for line in lines:
        if line is None:
            yield _UNREADABLE
            continue
        text = text_of(line).strip(" \t\r\n")
        word, *rest = re.split("[ \t]+", text, maxsplit=1)
        # an extension says more of the molecule than the word does: without it, it would be another molecule
        extended = rest and rest[0].startswith("|") and "|" in rest[0][1:]
        yield text if extended else word


def _second_columns(lines: Iterator[bytes | None]) -> Iterator[str | Unreadable]:
    """The SMILES of lines of CID, tab, SMILES; a line without a tab cannot be read."""
    for line in lines:
        _, tab, smiles = (line or b"").partition(b"\t")
        yield text_of(smiles).strip() if tab else _UNREADABLE


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """PubChem CID and SMILES of each row of the identifier table of `chemicals`, in the file's order."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            fields = line.rstrip("\n").split("\t")
            yield int(fields[_CID]), fields[_SMILES]


def _table_column(
    path: Path, lines: Iterator[bytes | None], kind: str, column: str | None
) -> Iterator[str | Unreadable]:
    numbered = NumberedLines(lines)
    delimiter, header, name = _header(path, numbered, kind, column)
    at = header.index(name)
    for row in table_rows(path, numbered, delimiter, len(header), at):
        cells = row.cells
        if cells is None:
            yield Unreadable(row.reason)
        elif at and any(cells[len(header) :]):
            # a delimiter too many may stand before the SMILES or after it
            yield Unreadable(MORE_CELLS)
        else:
            yield cells[at] if at < len(cells) else ""


def _header(path: Path, lines: NumberedLines, kind: str, column: str | None) -> tuple[str, list[str], str]:
    """The delimiter of a table, the names of its columns, and the name of the column that is read."""
    number, line = next(((number, line) for number, line in lines if line is None or line.strip()), (1, b""))
    usual = "," if kind == ".csv" else "\t"
    delimiters = [usual, *(other for other in _DELIMITERS if other != usual)]
    if line is not None and (hint := _EXCEL_HINT.fullmatch(line)):
        delimiters = [hint[1].decode()]
        number, line = next(lines, (number, b""))
    if line is None:
        found = f"a header that is none (line {number} has more than 1 MiB)"
        raise DataError(f"read molecules from {path}", found, "give a table with a header")
    headers = {}
    takers = {}
    for delimiter in delimiters:
        cells, taken = split_row(line, lines, delimiter)
        lines.give_back(taken)
        if cells is not None:
            headers[delimiter], takers[delimiter] = cells, len(taken)
    # the usual delimiter comes first; another one is certain where it alone gives the column
    fitting = [delimiter for delimiter, names in headers.items() if column in names]
    chosen = delimiters[0]
    if fitting and chosen not in fitting and kind == ".csv" and len(fitting) == 1:
        chosen = fitting[0]
        log = logging.getLogger("chemscale.data")
        log.info("%s: its cells are separated by %s", shown(path), _DELIMITERS[chosen])
    names = headers.get(chosen)
    if column is None or names is None or column not in names:
        raise _without_column(path, line, number, column, chosen, headers)
    for _ in range(takers[chosen]):
        next(lines)
    return chosen, names, _named(path, column, names)


def _without_column(
    path: Path, line: bytes, number: int, column: str | None, usual: str, headers: Mapping[str, list[str]]
) -> DataError:
    """The error of a header without the column; it names the delimiter, where another one than the usual is likely."""
    likely = max(headers, key=lambda delimiter: (len(headers[delimiter]), delimiter == usual), default=None)
    if likely is None or (usual not in headers and len(headers[likely]) == 1):
        if line.rstrip(b"\r\n").count(b'"') % 2:
            found, do = f"a quote in line {number} that is not closed there", "close it, or double it"
        else:
            found, do = f"a header that is none (line {number} is no row of a table)", "give a table with a header"
        return DataError(f"read molecules from {path}", found, do)
    if likely == usual or len(headers[likely]) == 1:
        found = f"the columns {_listed(headers[likely], ', ')}"
        return DataError(f"read the column {column!r} of {path}", found, "name one of them")
    found = f"the columns {_listed(headers[likely], likely)} (separated by {_DELIMITERS[likely]})"
    do = "name one of them" if usual == "," else f"end its name in .csv, or separate them by {_DELIMITERS[usual]}"
    return DataError(f"read the column {column!r} of {path}", found, do)


def _listed(columns: list[str], delimiter: str) -> str:
    """The names of columns, in quotes where blanks are at their ends; of many, the first ones."""
    names = [name if name and WHITE_SPACE.sub(" ", name).strip() == name else repr(name) for name in columns]
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return (delimiter.join(names[:_LISTED]) or "(none)") + more


def _named(path: Path, column: str | None, columns: list[str]) -> str:
    """The one column of a name; another one that differs in blanks alone makes it ambiguous."""
    if column is None or column not in columns:
        found = f"the columns {_listed(columns, ', ')}"
        raise DataError(f"read the column {column!r} of {path}", found, "name one of them")
    same = [place for place, name in enumerate(columns) if WHITE_SPACE.sub("", name) == WHITE_SPACE.sub("", column)]
    if len(same) > 1:
        found = " and ".join(f"{columns[place]!r} (column {place + 1})" for place in same)
        raise DataError(f"read the column {column!r} of {path}", found, "give each column a name of its own")
    return column


def _parquet_column(path: Path, column: str | None) -> Iterator[str | Unreadable]:
    with open_regular(path, DataError, _WHOLE_FILE) as stream:
        beginning = stream.read(BEGINNING)
    if not beginning.startswith(b"PAR1"):
        _refuse(path, beginning)
    for text in texts(path, lambda columns: _named(path, column, columns), _LONGEST_LINE):
        yield _UNREADABLE if text is None else text_of(text)
