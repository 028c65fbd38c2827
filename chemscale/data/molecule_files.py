"""SMILES, row by row, from the files of a source: lists and tables of text, plain or packed, and Parquet.

Memory does not grow with a file. A row that cannot be read is one row; a file that ends too early, is damaged or is no
file of its kind is an error: an incomplete source never passes as a whole one.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, cast

from chemscale.data.downloads import is_html
from chemscale.errors import DataError

# Columns of the identifier table of `chemicals`, which has no header
_CID, _SMILES = 0, 4
_BLOCK = 1 << 18  # bytes
# A longer line is one row that cannot be read
_LONGEST_LINE = 1 << 20  # bytes
# A longer field of a table too, as in Python's csv module
_LONGEST_FIELD = csv.field_size_limit()
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_GZIP = b"\x1f\x8b"
_KINDS = (".csv", ".tsv", ".smi", ".txt", ".parquet")
_PACKED = ".gz"


def read(located: Mapping[str, Any]) -> Iterator[str | None]:
    """The SMILES of all files that `chemscale.data.sources.locate` found, in order, as they stand there.

    None stands for a row that cannot be read: one with a stray quote, a SMILES with a NUL in it, or a line of more than
    1 MiB. An empty text is a row without a SMILES. Bytes that are no UTF-8 stay in their own row: as part of a SMILES
    they are no SMILES (the text is not ASCII), elsewhere they do not matter.

    Raises:
        DataError: a file is missing or empty, damaged or cut, no text (a web page, UTF-16, no gzip by a name in .gz),
            lacks the column, or has a quote that is never closed. It names the file and about how many rows were read.
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


def own_file(path: Path, column: str | None) -> Iterator[str | None]:
    """The SMILES of a user's file, in order: CSV, TSV or Parquet by `column`, SMI or TXT by the first word of a line.

    Text may be packed: .csv.gz and so on. Rows are those that `read` describes.

    Raises:
        DataError: as `read`.
    """
    kind, packed = kind_of(path)
    if kind == ".parquet":
        return _whole(path, _parquet_column(path, column))
    lines = _unpacked(path) if packed else _plain(path)
    if kind in (".csv", ".tsv"):
        return _whole(path, _table_column(path, lines, "," if kind == ".csv" else "\t", column))
    return _whole(path, _first_words(lines))


def kind_of(path: Path) -> tuple[str, bool]:
    """What a file is by its name, and whether it is packed; refuses what is no file of a known kind."""
    if not path.is_file():
        raise DataError(f"read molecules from {path}", "no such file", "give the path from the folder of the run")
    packed = path.suffix.lower() == _PACKED
    plain = Path(path.stem) if packed else path
    kind = plain.suffix.lower()
    if kind not in _KINDS or (packed and kind == ".parquet"):
        raise DataError(
            f"read molecules from {path}",
            f"a file of kind {kind + _PACKED if packed else kind!r}",
            "csv, tsv, smi, txt, each plain or in gzip (.gz), or parquet",
        )
    return kind, packed


def _whole(path: Path, rows: Iterator[str | None]) -> Iterator[str | None]:
    """The rows of one file; an error where there are none, or where the file is damaged after some."""
    count = 0
    try:
        for row in rows:
            count += 1
            # RDKit reads a SMILES with a NUL at its end as if that were not there
            yield None if row is not None and "\0" in row else row
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
    with open(path, "rb") as stream:
        yield from _lines(path, stream)


def _unpacked(path: Path) -> Iterator[bytes | None]:
    with open(path, "rb") as packed:
        _refuse(path, packed.peek(1024))
        if not packed.peek(2).startswith(_GZIP):
            raise DataError(f"read molecules from {path}", "no gzip", "rename it, or give the gzip file")
        with gzip.GzipFile(fileobj=packed) as stream:
            yield from _lines(path, stream)


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
    if not beginning.removeprefix(_BYTE_ORDER_MARK):
        raise DataError(f"read molecules from {path}", "an empty file", "give a file with at least one molecule")
    if is_html(beginning):
        raise DataError(
            f"read molecules from {path}", "an HTML page instead of the data", "fetch the file itself, not its page"
        )
    if beginning.startswith(_UTF_16):
        raise DataError(f"read molecules from {path}", "text in UTF-16", "save it as UTF-8")


def _lines(path: Path, stream: io.BufferedReader | gzip.GzipFile | zipfile.ZipExtFile) -> Iterator[bytes | None]:
    """The lines of a stream with their ends (LF, CRLF or CR), without a byte order mark.

    None stands for a line of more than 1 MiB; no more than about that is held.
    """
    # read1, other than read, hands over what there is before it meets damage: the rows until there count
    beginning = stream.read1(_BLOCK)
    _refuse(path, beginning)
    rest, skipping = b"", False
    block = beginning.removeprefix(_BYTE_ORDER_MARK)
    while block:
        lines = (rest + block).splitlines(keepends=True)
        # a CR at the end may be half of a CRLF
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        for line in lines:
            yield None if skipping or len(line) > _LONGEST_LINE else line
            skipping = False
        if len(rest) > _LONGEST_LINE:
            # the last byte stays: it may be a CR, which ends the line
            rest, skipping = rest[-1:], True
        block = stream.read1(_BLOCK)
    if rest:
        yield None if skipping else rest


def _text(line: bytes) -> str:
    # other bytes than UTF-8 become single surrogates: they stay in their place, and are no SMILES
    return line.decode("utf-8", "surrogateescape")


# from lines to SMILES


def _first_words(lines: Iterator[bytes | None]) -> Iterator[str | None]:
    for line in lines:
        if line is None:
            yield None
            continue
        words = _text(line).split(maxsplit=1)
        yield words[0] if words else ""


def _second_columns(lines: Iterator[bytes | None]) -> Iterator[str | None]:
    """The SMILES of lines of CID, tab, SMILES; None for a line without a tab."""
    for line in lines:
        _, tab, smiles = (line or b"").partition(b"\t")
        yield _text(smiles).strip() if tab else None


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """PubChem CID and SMILES of each row of the identifier table of `chemicals`, in the file's order."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            fields = line.rstrip("\n").split("\t")
            yield int(fields[_CID]), fields[_SMILES]


def _table_column(
    path: Path, lines: Iterator[bytes | None], delimiter: str, column: str | None
) -> Iterator[str | None]:
    numbered = enumerate(lines, 1)
    header = _fields(path, next(numbered), numbered, delimiter)
    if header is None:
        raise DataError(f"read molecules from {path}", "a header that is none (line 1 is no row of a table)", "mend it")
    at = header.index(_named(path, column, header))
    for line in numbered:
        row = _fields(path, line, numbered, delimiter)
        if row is None:
            yield None
        elif row:  # a line without anything is no row
            yield row[at] if at < len(row) else ""


def _fields(
    path: Path, line: tuple[int, bytes | None], following: Iterator[tuple[int, bytes | None]], delimiter: str
) -> list[str] | None:
    """The fields of the row that begins with a line; None where it cannot be read.

    A quoted field may go on over the `following` lines, which are then taken from them.
    """
    number, content = line
    if content is None:
        return None
    text = _text(content)
    if '"' not in text:
        text = text.rstrip("\r\n")
        fields = text.split(delimiter) if text else []
        too_long = len(text) > _LONGEST_FIELD and max(map(len, fields)) > _LONGEST_FIELD
        return None if too_long else fields
    # strict: else a quote that is never closed swallows all lines after it as one row
    reader = csv.reader(chain([text], _continued(path, number, following)), delimiter=delimiter, strict=True)
    try:
        return next(reader)
    except csv.Error as error:
        if reader.line_num == 1:
            return None
        raise _unclosed(path, number, str(error)) from None


def _continued(path: Path, begun: int, following: Iterator[tuple[int, bytes | None]]) -> Iterator[str]:
    for number, line in following:
        if line is None:
            raise _unclosed(path, begun, f"line {number} has more than 1 MiB")
        yield _text(line)


def _unclosed(path: Path, number: int, reason: str) -> DataError:
    return DataError(
        f"read molecules from {path}", f"a quote in line {number} that is not closed there ({reason})", "mend that line"
    )


def _parquet_column(path: Path, column: str | None) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as stream:
        _refuse(path, stream.read(1024))
    try:
        with pq.ParquetFile(path) as file:
            name = _named(path, column, file.schema_arrow.names)
            kind = file.schema_arrow.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(
                    f"read the column {name!r} of {path}", f"values of type {kind}", "name a column of text"
                )
            for batch in file.iter_batches(columns=[name]):
                # by way of bytes: Parquet does not promise that its texts are UTF-8
                for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                    yield None if value and len(value) > _LONGEST_LINE else _text(value or b"")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"read molecules from {path}", f"no Parquet ({error})", "give a whole Parquet file") from None


def _named(path: Path, column: str | None, columns: list[str]) -> str:
    if column is None or column not in columns:
        raise DataError(
            f"read the column {column!r} of {path}",
            f"the columns {', '.join(columns) or '(none)'}",
            "set data.NAME.column to one of them",
        )
    return column
