"""Atomic writes, digests and the few file formats that chemscale uses: JSON and Parquet.

What is read may come from a stranger: `regular_file` and `open_regular` refuse what is no regular file, `read_json`,
`read_json_lines` and `read_parquet` refuse what would take more memory than a stated number of bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from chemscale.errors import DiskFullError, InputError, RecordError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_TEXT_BYTES = 2**26  # of a JSON file or another text
MAX_TABLE_BYTES = 2**28  # of a table in memory
_MAX_DEPTH = 100  # of lists and objects in JSON
_BYTES_A_VALUE = 8  # of JSON: more values than one in so many bytes would fill memory, such as "[]," again and again
_MAX_DIGITS = 300  # of a whole number in JSON; more are no float
_MAX_FOOTER_BYTES = 2**24  # of a Parquet file: what it says of its columns
_RUN_AGAIN = "delete it and run its stage again"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular_file(path: Path, error: type[InputError] = InputError, do: str = "name an existing file") -> Path:
    """`path`, which is a regular file or a link to one; it is not opened.

    Args:
        path: of a file that the user named, or that lies in a folder of the user's.
        error: the kind of error to raise.
        do: what the error's message tells the user to do.

    Raises:
        InputError: it is missing, a folder, a FIFO, a socket, a device, a link to one of these or to nothing, or a name
            that no file can have.
    """
    _check_regular(path, lambda: os.stat(path), error, do)
    return path


@contextmanager
def open_regular(
    path: Path, error: type[InputError] = InputError, do: str = "name an existing file"
) -> Iterator[BufferedReader]:
    """The bytes of a regular file, see `regular_file`; also where it is exchanged for a FIFO while it is opened."""
    regular_file(path, error, do)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        raise error(f"read {path}", f"no readable file ({failure.strerror})", do) from None
    with open(handle, "rb") as stream:
        _check_regular(path, lambda: os.fstat(handle), error, do)
        yield stream


def _check_regular(path: Path, status: Callable[[], os.stat_result], error: type[InputError], do: str) -> None:
    try:
        mode = status().st_mode
    except FileNotFoundError:
        found = "a link to nothing" if os.path.islink(path) else "no such file"
        raise error(f"read {path}", found, do) from None
    except OSError as failure:
        raise error(f"read {path}", f"no readable file ({failure.strerror})", do) from None
    except ValueError:
        # a NUL, or characters that the file system's encoding does not have
        raise error(f"read {path}", "a name that no file can have", do) from None
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something")
        link = " behind a link" if os.path.islink(path) else ""
        raise error(f"read {path}", f"{kind}{link}, which is no regular file", do)


def read_bytes(
    path: Path,
    max_bytes: int = MAX_TEXT_BYTES,
    error: type[InputError] = InputError,
    do: str = "name an existing file",
) -> bytes:
    """The bytes of a regular file; `error` where it holds more than `max_bytes` of them."""
    with open_regular(path, error, do) as stream:
        try:
            content = stream.read(max_bytes + 1) if os.fstat(stream.fileno()).st_size <= max_bytes else None
        except OSError as failure:
            raise error(f"read {path}", f"no readable file ({failure.strerror})", do) from None
    if content is None or len(content) > max_bytes:
        raise error(f"read {path}", f"more than {max_bytes:,} bytes, the limit of such a file", do)
    return content


def read_text(
    path: Path,
    max_bytes: int = MAX_TEXT_BYTES,
    error: type[InputError] = InputError,
    do: str = "name an existing file",
) -> str:
    """The UTF-8 text of a regular file; `error` where it is none, or holds more than `max_bytes` bytes."""
    try:
        return read_bytes(path, max_bytes, error, do).decode("utf-8")
    except UnicodeDecodeError as failure:
        raise error(f"read {path}", f"no UTF-8 text ({failure})", "save it as UTF-8") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` when the block ends without an error.

    The file is flushed to disk before the rename, so that a crash leaves the old file or the new one, never a part.

    Raises:
        DiskFullError: there is no space left.
    """
    path = Path(path)
    with disk_full_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            with disk_full_told(path, temporary):
                yield temporary
                with open(temporary, "rb") as written:
                    os.fsync(written.fileno())
                # mkstemp makes files that only their owner reads; results are meant to be shared
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def drop_unfinished(folder: Path, name: str = "*") -> None:
    """Delete what writers of `name` left in `folder` when they died; for the only one that writes there now."""
    for left in folder.glob(f".{name}.*.part"):
        left.unlink()
    if name == "*":
        # safetensors (0.8) writes beside the path that it was given, and renames
        for left in folder.glob(".tmp??????"):
            left.unlink()


@contextmanager
def disk_full_told(path: Path, begun: Path | None = None) -> Iterator[None]:
    """Let a full disk, met while the block writes `path`, end as one message that names the folder and the need.

    `begun` is the file that holds what could be written of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        size = begun.stat().st_size if begun is not None and begun.exists() else 0
        raise DiskFullError(
            f"write {path}: found no space left in {path.parent} ({error.strerror or error}); it takes more than "
            f"{size:,} bytes: free some space there, then run the same command again"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, atomically; a value that is not finite is an error."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, max_bytes: int = MAX_TEXT_BYTES, do: str = _RUN_AGAIN) -> Any:
    """The JSON value of a file.

    Args:
        path: of the file.
        max_bytes: the largest file that is read.
        do: what an error's message tells the user to do.

    Raises:
        RecordError: the file is missing or no regular one, too large, or no strict JSON, see `parse_json`.
    """
    text = _record_text(Path(path), max_bytes, do)
    if sum(map(text.count, "[{,:")) > max_bytes // _BYTES_A_VALUE:
        found = f"more than {max_bytes // _BYTES_A_VALUE:,} values, the limit of such a file"
        raise RecordError(f"read {path}", found, do)
    return parse_json(text, f"read {path}", do)


def read_json_lines(path: Path, max_bytes: int = MAX_TEXT_BYTES, do: str = _RUN_AGAIN) -> list[Any]:
    """The JSON values of a file that has one on each line; errors are those of `read_json`, and name the line."""
    lines = _record_text(Path(path), max_bytes, do).splitlines()
    return [parse_json(line, f"read {path}, line {number}", do) for number, line in enumerate(lines, 1)]


def _record_text(path: Path, max_bytes: int, do: str) -> str:
    _check_written(path)
    return read_text(path, max_bytes, RecordError, do)


def _check_written(path: Path) -> None:
    try:
        os.lstat(path)
    except FileNotFoundError:
        raise RecordError(f"read {path}", "no such file", "run the stage that writes it") from None
    except (OSError, ValueError):
        pass  # reading it tells why


def parse_json(text: str, asked: str, do: str = _RUN_AGAIN) -> Any:
    """The value of strict JSON text.

    Raises:
        RecordError: it is no JSON, an object has a key twice, a number is not finite or has more than 300 digits, or
            lists and objects are more than 100 deep. It begins with `asked` and ends with `do`.
    """
    try:
        value = _decoder.decode(text)
    except RecursionError:
        raise RecordError(asked, _TOO_DEEP, do) from None
    except ValueError as error:
        raise RecordError(asked, f"no valid JSON ({error})", do) from None
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return value
        level = [
            child
            for item in containers
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    raise RecordError(asked, _TOO_DEEP, do)


_TOO_DEEP = f"lists or objects that are more than {_MAX_DEPTH} deep"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]!r} is not finite")
    return value


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_finite)


def write_parquet(path: Path, table: pa.Table, metadata: dict[str, str] | None = None) -> None:
    """Write a table as zstd-compressed Parquet, atomically, with `metadata` added to the schema's."""
    import pyarrow.parquet as pq

    if metadata:
        known = table.schema.metadata or {}
        table = table.replace_schema_metadata(
            {**known, **{key.encode(): value.encode() for key, value in metadata.items()}}
        )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_parquet(path: Path, columns: list[str] | None = None, max_bytes: int = MAX_TABLE_BYTES) -> pa.Table:
    """The table of a Parquet file.

    Args:
        path: of the file.
        columns: names of those that are read; all by default.
        max_bytes: the largest table that is read, as it is in memory: a small file may hold a very large one.

    Raises:
        RecordError: the file is missing or no regular one, damaged, too large, or has not these columns.
    """
    import pyarrow as pa

    path = Path(path)
    _check_written(path)
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if missing := [name for name in columns or [] if name not in names]:
            raise RecordError(f"read {path}", f"no column {', '.join(map(repr, missing))}", _RUN_AGAIN)
        wanted = set(names if columns is None else columns)
        sizes = _leaf_sizes(file, wanted)
        _check_size(path, sum(size.least for size in sizes), max_bytes)
        if sum(size.most for size in sizes) <= max_bytes:
            return file.read(columns=columns)
        schema = file.schema_arrow
    # a value of a dictionary may stand for any number of rows: how much text that is, is known once they are counted
    texts = [size for size in sizes if size.most > size.least]
    with open_parquet(path, read_dictionary=[text.leaf for text in texts]) as file:
        table = file.read(columns=columns)
        unfolded = sum(_text_bytes(path, table[name]) for name in {text.column for text in texts})
        _check_size(path, table.nbytes + unfolded, max_bytes)
        return table.cast(pa.schema([schema.field(name) for name in table.column_names], schema.metadata))


@contextmanager
def open_parquet(
    path: Path,
    error: type[InputError] = RecordError,
    do: str = _RUN_AGAIN,
    read_dictionary: list[str] | None = None,
) -> Iterator[pq.ParquetFile]:
    """A Parquet file, to be read in batches; no more than its footer is read here.

    What arrow finds wrong with the file, here and while the block reads it, ends as `error`.

    Args:
        path: of the file.
        error: the kind of error to raise.
        do: what the error's message tells the user to do.
        read_dictionary: columns of text that are read as codes and a dictionary.

    Raises:
        InputError: the file is missing or no regular one, or damaged, or its footer is larger than 16 MiB, or two of
            its columns have one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_regular(path, error, do) as stream:
        try:
            _check_footer(path, stream, error, do)
            with pq.ParquetFile(
                stream,
                read_dictionary=read_dictionary,
                thrift_string_size_limit=_MAX_FOOTER_BYTES,
                thrift_container_size_limit=1_000_000,
            ) as file:
                names = file.schema_arrow.names
                if len(set(names)) < len(names):
                    twice = next(name for name in names if names.count(name) > 1)
                    raise error(f"read {path}", f"the column {twice!r} twice", do)
                yield file
        except (pa.ArrowException, OSError, UnicodeError) as failure:
            if isinstance(failure, OSError) and failure.errno is not None:
                raise  # by the system, and not by arrow: the block's own, such as a full disk
            raise error(f"read {path}", f"no readable Parquet ({failure})", do) from None


def _check_footer(path: Path, stream: IO[bytes], error: type[InputError], do: str) -> None:
    size = os.fstat(stream.fileno()).st_size
    stream.seek(max(0, size - 8))
    end = stream.read(8)
    stream.seek(0)
    if size < 12 or end[4:] != b"PAR1" or stream.read(4) != b"PAR1":
        raise error(f"read {path}", "no readable Parquet (it does not begin and end as such a file does)", do)
    stream.seek(0)
    footer = int.from_bytes(end[:4], "little")
    if footer > min(size - 12, _MAX_FOOTER_BYTES):
        raise error(f"read {path}", f"no readable Parquet (a footer of {footer:,} bytes)", do)


class _LeafSize(NamedTuple):
    """A leaf of a Parquet file's columns, a list of plain values, and its bytes in memory.

    They are at least `least`, and at most `most` where values of any length repeat.
    """

    column: str
    leaf: str
    least: int
    most: int


def _leaf_sizes(file: pq.ParquetFile, wanted: set[str]) -> list[_LeafSize]:
    """The sizes of the leaves of the columns that are wanted."""
    metadata, sizes = file.metadata, []
    for index in range(metadata.num_columns):
        leaf = file.schema.column(index)
        column = max((name for name in file.schema_arrow.names if f"{leaf.path}.".startswith(f"{name}.")), key=len)
        if column not in wanted:
            continue
        chunks = [metadata.row_group(group).column(index) for group in range(metadata.num_row_groups)]
        values = max(metadata.num_rows, sum(chunk.num_values for chunk in chunks))
        stored = sum(chunk.total_uncompressed_size for chunk in chunks)
        least = max(stored, values * max(8, leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else 8))
        most = max(least, values * stored) if leaf.physical_type == "BYTE_ARRAY" else least
        sizes.append(_LeafSize(column, leaf.path, least, most))
    return sizes


def _text_bytes(path: Path, column: pa.ChunkedArray) -> int:
    """The bytes of a column of text, or of lists of it, which was read as codes and dictionaries, once unfolded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    for chunk in column.chunks:
        values = chunk
        while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            values = values.flatten()
        if not pa.types.is_dictionary(values.type):
            raise RecordError(f"read {path}", f"text in a column of type {column.type}", _RUN_AGAIN)
        total += pc.sum(pc.binary_length(values.dictionary).take(values.indices)).as_py() or 0
    return total


def _check_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        found = f"a table of {size:,} bytes in memory, above the limit of {max_bytes:,}"
        raise RecordError(f"read {path}", found, _RUN_AGAIN)


def sha256_file(path: Path) -> str:
    """The sha256 of a regular file's bytes, as hex; `InputError` where it is none."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, no value that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON, as hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
