"""Members of published archives, taken out once, checked, into the cache folder."""

from __future__ import annotations

import bz2
import hashlib
import logging
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from chemscale.catalogue import Member, Published
from chemscale.data.cache import (
    CHUNK,
    Obtained,
    append,
    check_room,
    file_stamp,
    known_facts,
    locked,
    opened,
    own_record,
    remember,
    to_disk,
)
from chemscale.data.downloads import remedy
from chemscale.errors import DataError

_LISTED = 5  # names of an archive that an error tells


def members(obtained: Obtained, entry: Published, cache: Path) -> list[Path]:
    """The paths in the cache of all files that an entry wants out of its archive, in the entry's order.

    They are taken out once, all in one pass (a pass over a large bzip2 archive takes minutes), each checked against its
    sha256 where one is published, and again only where the archive or a file in the cache has changed.

    Args:
        obtained: the archive, a zip file (also a wheel) or a tar file.
        entry: its row of the catalogue, with `members`.
        cache: the folder that `obtain` was given.

    Raises:
        DataError: the archive is damaged or lacks a member, a member is not the published one, or the disk is full.
    """
    folder = cache / entry.folder
    targets = {member: folder / Path(member.path).name for member in entry.members}
    missing = {member: target for member, target in targets.items() if not _taken(member, target, obtained)}
    if missing:
        with locked(folder / entry.file_name):
            missing = {member: target for member, target in targets.items() if not _taken(member, target, obtained)}
            if missing:
                _take_out(obtained, entry, missing, cache)
    return list(targets.values())


def _taken(member: Member, target: Path, obtained: Obtained) -> bool:
    """Whether a member lies in the cache as it was taken out of this very archive."""
    if not target.is_file():
        return False
    known = known_facts(own_record(target))
    return (
        known is not None
        and all(known.get(key) == value for key, value in file_stamp(target).items())
        and known.get("archive") == obtained.sha256
        and member.sha256 in (None, known["sha256"])
    )


def _take_out(obtained: Obtained, entry: Published, targets: Mapping[Member, Path], cache: Path) -> None:
    wanted = {member.path: (member, target) for member, target in targets.items()}
    listed: list[str] = []
    opened = _zip_members if entry.file.endswith((".zip", ".whl")) else _tar_members
    try:
        # only names of the catalogue are written: an archive cannot choose where
        for name, size, stream in opened(obtained.path, set(wanted)):
            if stream is None:
                listed.append(name)
                continue
            member, target = wanted.pop(name)
            logging.getLogger("chemscale.data").info("taking %s out of %s", name, obtained.path.name)
            with stream:
                _copy_member(stream, size, member, target, obtained)
            if not wanted:
                return
    except (zipfile.BadZipFile, zlib.error, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"take {', '.join(member.path for member in targets)} out of {obtained.path}",
            f"a damaged archive ({error})",
            remedy(entry, obtained.path, cache),
        ) from None
    more = ", ..." if len(listed) > _LISTED else ""
    raise DataError(
        f"take {', '.join(wanted)} out of {obtained.path}",
        f"an archive of {', '.join(listed[:_LISTED]) or 'nothing'}{more}",
        remedy(entry, obtained.path, cache),
    )


def _zip_members(path: Path, wanted: set[str]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Name, size in bytes and stream of each member of a zip file; no stream where it is not wanted."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            try:
                stream = archive.open(info) if info.filename in wanted else None
            except RuntimeError as error:  # encrypted, or of a compression that zipfile doesn't know
                raise zipfile.BadZipFile(f"{info.filename}: {error}") from None
            yield info.filename, info.file_size, stream


def _tar_members(path: Path, wanted: set[str]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """The same of a tar file, read from front to end; links and folders are no members."""
    # BZ2File, other than tarfile's own stream, tells an end that comes too early
    with (
        bz2.open(path) if path.suffix == ".bz2" else open(path, "rb") as content,
        tarfile.open(fileobj=content, mode="r|") as archive,
    ):
        for info in archive:
            name = info.name.removeprefix("./")
            stream = archive.extractfile(info) if name in wanted and info.isfile() else None
            yield name, info.size, stream


def _copy_member(stream: IO[bytes], size: int, member: Member, target: Path, obtained: Obtained) -> None:
    part = target.with_name(target.name + ".part")
    check_room(part, size)
    known = hashlib.sha256()
    written = 0
    try:
        with opened(part, "wb") as sink:
            while chunk := stream.read(CHUNK):
                append(sink, chunk, part, size - written)
                known.update(chunk)
                written += len(chunk)
            to_disk(sink, part)
        if written != size:
            raise EOFError(f"{member.path} ends after {written:,} of {size:,} bytes")
        if member.sha256 is not None and known.hexdigest() != member.sha256:
            raise DataError(
                f"take {member.path} out of {obtained.path}",
                f"sha256 {known.hexdigest()} instead of {member.sha256}",
                "get the published archive",
            )
        facts = {**file_stamp(part), "sha256": known.hexdigest(), "archive": obtained.sha256}
        # the record first, as for a download
        remember(own_record(target), facts)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
