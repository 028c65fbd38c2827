"""The texts of one column of a Parquet file, in bounded memory, whatever the file announces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chemscale.errors import DataError
from chemscale.io import open_parquet, open_regular

_BATCH_ROWS = 1 << 16
_BATCH_BYTES = 1 << 26  # of the texts of a batch
# A page of a column chunk is unpacked at once, and its size is not known before. Tables of molecules shrink to a tenth
# or so; what shrinks to less than a fiftieth and is large may be a bomb.
_LARGE_CHUNK = 1 << 27  # bytes, unpacked
_LARGEST_RATIO = 50
_LARGEST_CHUNK = 1 << 30  # bytes, unpacked
# a file of few bytes can announce any number of rows, of one value or of none: for a start, and per byte of the file
_SPARE_ROWS = 1_000_000
_ROWS_PER_BYTE = 100
_SPARE_TEXT = 1 << 30  # bytes
_TEXT_PER_BYTE = 1000
# the beginning of a dictionary page in Thrift's compact protocol: its kind, 2, and its unpacked size
_DICTIONARY_PAGE = re.compile(rb"\x15\x04\x15([\x80-\xff]*[\x00-\x7f])", re.DOTALL)
_WRITE_AGAIN = "write it again with row groups of at most a million rows"


def texts(path: Path, choose: Callable[[list[str]], str], longest: int) -> Iterator[bytes | None]:
    """The values of a column of text, in order: b"" for one that is missing, None for one of more than `longest` bytes.

    Text may be string, large_string, string_view, a dictionary of these (categories), or a column of nulls.

    Args:
        path: of the file.
        choose: gives the name of the column, of the names of all.
        longest: bytes of the longest value that is read.

    Raises:
        DataError: the file is no whole Parquet file, the column holds no text, or it would take too much memory or
            time: a column chunk of more than 1 GiB, or of more than 128 MiB that are packed to less than a fiftieth;
            more rows or text than a table of molecules of that many bytes has.
    """
    import pyarrow as pa

    do = "give a whole Parquet file"
    with open_parquet(path, DataError, do) as file:
        name = choose(file.schema_arrow.names)
        kind = file.schema_arrow.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
        if not (is_text or pa.types.is_null(value)):
            raise DataError(f"read the column {name!r} of {path}", f"values of type {kind}", "name a column of text")
        _check_size(path, file.metadata, name)
        rows = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, _repeated(path, file.metadata, name))))
        size, total, read = path.stat().st_size, 0, 0
        for batch in file.iter_batches(columns=[name], batch_size=rows):
            column = batch.column(name)
            read += len(column)
            if pa.types.is_null(column.type):
                yield from (b"" for _ in range(len(column)))
                continue
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            # by way of bytes: Parquet does not promise that its texts are UTF-8
            for text in column.cast(pa.large_binary()).to_pylist():
                text = text or b""
                total += len(text)
                yield None if len(text) > longest else text
            if total > _SPARE_TEXT + _TEXT_PER_BYTE * size:
                found = f"more than {total:,} bytes of text in a file of {size:,} bytes"
                raise DataError(f"read the column {name!r} of {path}", found, "give a table of molecules")
        if read != file.metadata.num_rows:
            found = f"{read:,} rows where it announces {file.metadata.num_rows:,}"
            raise DataError(f"read the column {name!r} of {path}", found, do)


def _chunks(metadata: Any, name: str) -> Iterator[tuple[Any, int]]:
    """What a file says of a column's part in each row group, and of the group's rows."""
    places = [place for place in range(metadata.num_columns) if metadata.schema.column(place).path == name]
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in places:
            yield row_group.column(place), row_group.num_rows


def _repeated(path: Path, metadata: Any, name: str) -> int:
    """The most bytes of one text that may stand for many rows, as far as the file tells before it is read."""
    most = 0
    with open_regular(path, DataError) as stream:
        for chunk, _ in _chunks(metadata, name):
            if "DELTA_BYTE_ARRAY" in chunk.encodings:
                most = max(most, chunk.total_uncompressed_size)
            stream.seek(max(0, chunk.dictionary_page_offset or chunk.data_page_offset))
            if (page := _DICTIONARY_PAGE.match(stream.read(16))) is not None:
                size = sum((byte & 127) << 7 * place for place, byte in enumerate(page[1]))
                most = max(most, size // 2)
    return most


def _check_size(path: Path, metadata: Any, name: str) -> None:
    size = path.stat().st_size
    most_rows = _SPARE_ROWS + _ROWS_PER_BYTE * size
    found, do = "", "give a table of molecules"
    if metadata.num_rows > most_rows:
        found = f"{metadata.num_rows:,} rows in a file of {size:,} bytes"
    for chunk, rows in _chunks(metadata, name):
        unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
        if chunk.num_values != rows:
            found = f"a row group of {rows:,} rows with {chunk.num_values:,} values"
        elif unpacked > _LARGEST_CHUNK or unpacked > max(_LARGE_CHUNK, _LARGEST_RATIO * packed):
            found, do = f"a row group of {unpacked:,} bytes in {packed:,} packed ones", _WRITE_AGAIN
    if found:
        raise DataError(f"read the column {name!r} of {path}", found, do)
