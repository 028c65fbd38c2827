"""The texts of one column of a Parquet file, in bounded memory, whatever the file announces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chemscale.errors import DataError
from chemscale.io import open_parquet

_BATCH_BYTES = 1 << 26  # of the texts of a batch that are held at once
# A page of a column chunk is unpacked at once, and its size is not known before. Tables of molecules shrink to a tenth
# or so; what shrinks to less than a fiftieth and is large may be a bomb.
_LARGE_CHUNK = 1 << 27  # bytes, unpacked
_LARGEST_RATIO = 50
_LARGEST_CHUNK = 1 << 30  # bytes, unpacked
# a file of few bytes can announce any number of rows, of one value or of none
_ROWS_PER_BYTE = 1000
_SPARE_ROWS = 1_000_000
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
            more than 1,000 rows per byte of the file.
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
        _check_size(path, file.metadata, file.schema_arrow.names.index(name), name)
    # as codes and a dictionary: one long value may stand for any number of rows
    with open_parquet(path, DataError, do, read_dictionary=[name] if is_text else None) as file:
        for batch in file.iter_batches(columns=[name]):
            yield from _values(batch.column(0), longest)


def _check_size(path: Path, metadata: Any, place: int, name: str) -> None:
    size = path.stat().st_size
    most_rows = _SPARE_ROWS + _ROWS_PER_BYTE * size
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            chunk = row_group.column(index)
            if chunk.path_in_schema != name:
                continue
            unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            if max(chunk.num_values, row_group.num_rows) > most_rows or chunk.num_values != row_group.num_rows:
                found = f"{chunk.num_values:,} values for {row_group.num_rows:,} rows in a file of {size:,} bytes"
                raise DataError(f"read the column {name!r} of {path}", found, "give a whole Parquet file")
            if unpacked > _LARGEST_CHUNK or unpacked > max(_LARGE_CHUNK, _LARGEST_RATIO * packed):
                found = f"a row group of {unpacked:,} bytes in {packed:,} packed ones"
                raise DataError(f"read the column {name!r} of {path}", found, _WRITE_AGAIN)
    if metadata.num_rows > most_rows:
        found = f"{metadata.num_rows:,} rows in a file of {size:,} bytes"
        raise DataError(f"read the column {name!r} of {path}", found, "give a whole Parquet file")


def _values(column: Any, longest: int) -> Iterator[bytes | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        yield from (b"" for _ in range(len(column)))
        return
    if pa.types.is_dictionary(column.type):
        # by way of bytes: Parquet does not promise that its texts are UTF-8
        values = column.dictionary.cast(pa.large_binary())
        lengths = pc.binary_length(values)
        if (pc.sum(lengths.take(column.indices)).as_py() or 0) <= _BATCH_BYTES:
            column = values.take(column.indices)
        else:
            for code in column.indices.to_pylist():
                long = code is not None and lengths[code].as_py() > longest
                yield None if long else (values[code].as_py() if code is not None else b"") or b""
            return
    for text in column.cast(pa.large_binary()).to_pylist():
        yield None if text and len(text) > longest else text or b""
