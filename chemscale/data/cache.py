"""Files of the cache folder, and what is known of files elsewhere: hashes, locks, and writing that ends by name.

The cache folder holds, in `NAME-VERSION/`, the files that were fetched and the members taken out of them, each with
`FILE.sha256.json` (size, time of change and hashes, so that no file is hashed twice), and locks. `verified/` holds the
same small records for files elsewhere: those are used where they are, and nothing is ever written beside them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from chemscale.errors import DataError, RecordError
from chemscale.io import digest, open_regular, read_json, write_json

CHUNK = 1 << 20  # bytes
_LONGEST_HOLE = 1 << 30  # bytes of a file that are not on the disk


@dataclass(frozen=True)
class Obtained:
    """A file that was found: its path, sha256 (hex), size in bytes, and md5 (hex) where its source publishes one."""

    path: Path
    sha256: str
    size: int
    md5: str | None = None


def hashes(path: Path, cache: Path, *, md5: bool = False) -> Obtained:
    """The sha256 and size of any file, and its md5 where asked for; read again only where the file has changed.

    What was found is kept in the cache folder, by the file's path, size and time of change.

    Raises:
        DataError: the file cannot be read, changes while it is read, or is a file of the cache that is no longer what
            it was when it was put there.
    """
    try:
        stamp = file_stamp(path)
        record, ours = _record(path, cache)
        known = known_facts(record)
        if known is not None and all(known.get(key) == value for key, value in stamp.items()):
            if not md5:
                return Obtained(path, known["sha256"], stamp["size"])
            if known.get("md5"):
                return Obtained(path, known["sha256"], stamp["size"], known["md5"])
        found = digests(path, md5)
        if file_stamp(path) != stamp:
            raise DataError(f"read {path}", "a file that changes meanwhile", "run again when it is complete")
    except OSError as error:
        raise DataError(f"read {path}", f"{error.strerror}", "make the file readable") from None
    if ours and known is not None and known["sha256"] != found["sha256"]:
        raise DataError(
            f"read {path}",
            f"sha256 {found['sha256']} where the file had {known['sha256']} when it was put there",
            f"delete it and {record}; the next run fetches it again",
        )
    remember(record, {**stamp, **found})
    return Obtained(path, found["sha256"], stamp["size"], found.get("md5"))


def check_file(path: Path) -> None:
    """See that a file may hold frames, by its kind, its size and its first bytes.

    Raises:
        DataError: it is missing or no regular file, empty, a web page or a pointer of Git LFS, or has a hole of 1 GiB.
    """
    with open_regular(path, DataError, "give the path of a file, from the folder of the run") as stream:
        try:
            # files of the kernel, which may wait for content without end, have no size
            start = stream.read(200).lstrip() if os.fstat(stream.fileno()).st_size else b""
        except OSError as error:
            raise DataError(f"read {path}", f"no readable file ({error.strerror})", "make it readable") from None
        hole = _longest_hole(stream.fileno())
    if not start:
        raise DataError(f"read {path}", "an empty file", "get it again")
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"read {path}", "a web page instead of data", "get it again")
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"read {path}", "a pointer of Git LFS instead of data", "get the file itself (git lfs pull)")
    if hole >= _LONGEST_HOLE:
        raise DataError(f"read {path}", f"a sparse file with a hole of {hole:,} bytes", "get the whole file")


def _longest_hole(handle: int) -> int:
    """The bytes of the longest part of an open file that is not on the disk and reads as zeros; 0 if not known."""
    size, place, longest = os.fstat(handle).st_size, 0, 0
    try:
        while place < size and longest < _LONGEST_HOLE:
            begin = os.lseek(handle, place, os.SEEK_HOLE)
            try:
                place = os.lseek(handle, begin, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                place = size
            longest = max(longest, place - begin)
    except OSError:
        # a file system that knows no holes
        return 0
    return longest


def file_stamp(path: Path) -> dict[str, int]:
    """Size and time of change of a file: a file of equal stamp is taken for the same one."""
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _record(path: Path, cache: Path) -> tuple[Path, bool]:
    """Where a file's hashes are kept, and whether the file itself is the cache's own."""
    place = path.resolve()
    if place.is_relative_to(Path(cache).resolve()):
        return own_record(place), True
    return Path(cache) / "verified" / f"{digest(str(place))[:32]}.json", False


def own_record(path: Path) -> Path:
    """Where what is known of a file of the cache is kept: beside it."""
    return path.with_name(path.name + ".sha256.json")


def known_facts(record: Path) -> dict[str, Any] | None:
    """What a record says of its file; None where there is none."""
    try:
        known = read_json(record)
    except RecordError:
        # missing, or not what this module wrote: the file is hashed again, which is all that the record saves
        return None
    return known if isinstance(known, dict) and isinstance(known.get("sha256"), str) else None


def remember(record: Path, facts: Mapping[str, Any]) -> None:
    """Write the record of a file, where the cache may be written."""
    try:
        write_json(record, dict(facts))
    except OSError as error:
        # of a cache that may only be read: the facts hold all the same, and the next call pays for them again
        logging.getLogger("chemscale.data").info("%s cannot be kept: %s", record, error.strerror)


def digests(path: Path, md5: bool) -> dict[str, str]:
    """The hashes of a file, by name; `OSError` where it cannot be read."""
    sums = {"sha256": hashlib.sha256()}
    if md5:
        sums["md5"] = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            for known in sums.values():
                known.update(chunk)
    return {name: known.hexdigest() for name, known in sums.items()}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file of the cache; wait for it where another process does. The lock file stays."""
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = open(lock, "a")  # noqa: SIM115 (closed below, which gives the lock back)
    except OSError as error:
        raise DataError(f"write to the cache {path.parent}", f"{error.strerror}", "name another cache") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.getLogger("chemscale.data").info("another process is bringing %s here: waiting for it", path.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            # some cluster file systems are mounted without locks
            raise DataError(f"lock {lock}", f"{error.strerror}", "name a cache on a disk with file locks") from None
        yield


def opened(path: Path, mode: Literal["ab", "wb"]) -> IO[bytes]:
    """A file of the cache, open to be written; `DataError` where that cannot be."""
    try:
        return open(path, mode)
    except OSError as error:
        raise no_room(path, None, error.errno, error.strerror) from None


def append(sink: IO[bytes], chunk: bytes, path: Path, missing: int | None) -> None:
    """Append to a file; `missing` bytes are still to come with this chunk, None where that is not known."""
    try:
        sink.write(chunk)
        sink.flush()
    except OSError as error:
        raise no_room(path, missing, error.errno, error.strerror) from None


def to_disk(sink: IO[bytes], path: Path) -> None:
    """See that what was written is on the disk, before the file gets its name; `DataError` where that cannot be."""
    try:
        os.fsync(sink.fileno())
    except OSError as error:
        raise no_room(path, None, error.errno, error.strerror) from None


def no_room(path: Path, missing: int | None, number: int | None, reason: str | None) -> DataError:
    """The error of a failed write, by its number and its reason; `missing` bytes are still to come, None if unknown."""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"write {path}", f"{reason}", "see to that disk")
    need = "more room" if missing is None else f"{missing:,} more bytes"
    free = shutil.disk_usage(path.parent).free
    return DataError(
        f"write {path}, which takes {need} in {path.parent}",
        f"{free:,} bytes free ({reason})",
        "make room there, or name a cache on another disk; the next run goes on from what is there",
    )


def check_room(part: Path, missing: int) -> None:
    """`DataError` where the disk of a file has no room for `missing` more bytes."""
    if shutil.disk_usage(part.parent).free < missing:
        raise no_room(part, missing, errno.ENOSPC, os.strerror(errno.ENOSPC))
