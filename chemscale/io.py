"""Atomic writes, digests and the few file formats that chemscale uses: JSON and Parquet."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.errors import DiskFullError, RecordError

if TYPE_CHECKING:
    import pyarrow as pa


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


def read_json(path: Path) -> Any:
    """The JSON value of a file; `RecordError` where it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"read {path}", "no such file", "run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"read {path}", f"no valid JSON ({error})", "delete it and run its stage again") from None


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


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The table of a Parquet file; `RecordError` where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except FileNotFoundError:
        raise RecordError(f"read {path}", "no such file", "run the stage that writes it") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise RecordError(
            f"read {path}", f"no readable Parquet ({error})", "delete it and run its stage again"
        ) from None


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, no value that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON, as hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
