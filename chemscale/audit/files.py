"""The files of a study: what may lie in its folder, the budgets of reading it, and the seal.

The seal holds digests of every file of a study, in the format of `sha256sum`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from chemscale.audit.findings import Findings
from chemscale.audit.layout import SUMS, UNCOVERED_FOLDERS, VERDICT, known_names, litter
from chemscale.errors import InputError, RecordError
from chemscale.io import MAX_TEXT_BYTES, open_parquet, open_regular, read_bytes, read_text, sha256_file, write_text

_MOST_ENTRIES = 2_000_000
# of a file by its ending; what is hashed and not read has no limit
_MOST_BYTES = {".json": MAX_TEXT_BYTES, ".html": 2**28, ".svg": 2**26, ".png": 2**26, ".jsonl": 2**30}
# a file that takes less than this share of its size on disk is mostly holes
_LEAST_STORED, _LARGE = 0.01, 2**26
# digests of 32 hex digits and short words, which do not compress below this
_LEAST_ROW_BYTES, _LONGEST_TEXT = 8, 64
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass
class Listing:
    """What a study's folder holds but for logs and benchmarks, by paths below it; each list is in order."""

    files: list[str] = field(default_factory=list)
    litter: dict[str, str] = field(default_factory=dict)  # of other programs, with what it is
    strange: dict[str, str] = field(default_factory=dict)  # neither file nor folder, with what it is
    unreadable: dict[str, str] = field(default_factory=dict)  # folders, with the reason


def list_files(root: Path) -> Listing:
    """Everything in a study's folder; no link is followed and no file is opened.

    Raises:
        RecordError: there are more than two million entries.
    """
    listing = Listing()
    waiting, entries = [Path(root)], 0
    while waiting:
        folder = waiting.pop()
        try:
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            listing.unreadable[folder.relative_to(root).as_posix()] = str(error.strerror)
            continue
        entries += len(found)
        if entries > _MOST_ENTRIES:
            raise RecordError("list the study's files", f"more than {_MOST_ENTRIES:,}", "audit a study's folder")
        for entry in found:
            path = Path(entry.path).relative_to(root).as_posix()
            mode = entry.stat(follow_symlinks=False).st_mode
            if path in UNCOVERED_FOLDERS and stat.S_ISDIR(mode):
                continue
            if (what := litter(entry.name)) is not None:
                listing.litter[path] = what
            elif stat.S_ISDIR(mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                listing.files.append(path)
            else:
                listing.strange[path] = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")
    listing.files.sort()
    return listing


def check_folder(root: Path, findings: Findings) -> None:
    """Every file can be read by anybody: no links or devices, no holes, no sizes that no study has.

    Nothing else is read before this holds.
    """
    listing = list_files(root)
    findings.compared += 1  # whatever their number, which differs between this check before the page and after it
    for path, what in listing.strange.items():
        findings.differ(f"{path}: {what}, where only files and folders are expected")
    for path, reason in listing.unreadable.items():
        findings.differ(f"{path}: a folder that cannot be listed ({reason})")
    for path in listing.files:
        status = os.stat(root / path, follow_symlinks=False)
        most = _MOST_BYTES.get(Path(path).suffix, MAX_TEXT_BYTES if path == SUMS else status.st_size)
        stored = getattr(status, "st_blocks", status.st_size) * 512
        if status.st_size > _LARGE and stored < _LEAST_STORED * status.st_size:
            findings.differ(f"{path}: {status.st_size:,} bytes, nearly all of them holes")
        elif status.st_size > most:
            findings.differ(f"{path}: {status.st_size:,} bytes; a study's has at most {most:,}")
        elif path.startswith("data/") and path.endswith("/rows.parquet"):
            _check_rows_fit(root, path, status.st_size, findings)


def _check_rows_fit(root: Path, path: str, size: int, findings: Findings) -> None:
    """A table of rows is read part by part: it has as many rows as its bytes can hold, and no long texts."""
    try:
        with open_parquet(root / path) as file:
            texts = [column.name for column in file.schema_arrow if str(column.type) in ("string", "large_string")]
            rows = file.metadata.num_rows
        if rows > size / _LEAST_ROW_BYTES + 10_000:
            findings.differ(f"{path}: {rows:,} rows in {size:,} bytes, more than distinct rows take")
            return
        with open_parquet(root / path, read_dictionary=texts) as file:
            for batch in file.iter_batches(columns=texts, batch_size=100_000):
                for name in texts:
                    longest = pc.max(pc.binary_length(batch[name].dictionary)).as_py() or 0
                    if longest > _LONGEST_TEXT:
                        findings.differ(f"{path}: {name} of {longest:,} characters, where digests and words are short")
                        return
    except InputError as error:
        findings.differ(str(error))


def seal(root: Path) -> None:
    """Write `audit/SHA256SUMS`: `sha256sum -c audit/SHA256SUMS` in the study's folder reads it.

    What other programs leave in the folder (`layout.litter`) is no part of the study.
    """
    files = [path for path in list_files(root).files if path not in (SUMS, VERDICT)]
    write_text(root / SUMS, "".join(f"{sha256_file(root / path)}  {path}\n" for path in files))


def check_files(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Every file is as sealed; none is missing, unreadable or unknown."""
    sealed: dict[str, str] = {}
    for number, line in enumerate(read_text(root / SUMS, error=RecordError).splitlines(), 1):
        digest, separator, path = line.partition("  ")
        if not separator or len(digest) != 64 or path in sealed:
            findings.differ(f"{SUMS}: line {number} is no digest of a file of its own")
        sealed[path] = digest
    listing = list_files(root)
    known = known_names(study)
    for path in listing.files:
        if not known(path):
            findings.differ(f"{path}: no file of this study; remove it, or move it out of the folder")
    covered = {path for path in listing.files if path not in (SUMS, VERDICT)}
    strangers = {path for path in sealed if _is_litter(path)}
    both = findings.same_names(
        "file", (path for path in covered if known(path) or path in sealed), set(sealed) - strangers
    )
    converted = []
    for path in both:
        findings.compared += 1
        try:
            with open_regular(root / path) as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except (InputError, OSError) as error:
            findings.differ(f"{path}: unreadable ({error})")
            continue
        if found != sealed[path]:
            if _with_unix_lines(root / path) == sealed[path]:
                converted.append(path)
            else:
                findings.differ(f"{path}: changed since it was sealed")
    if converted:
        findings.differ(
            f"{len(converted)} files, such as {converted[0]}, have CRLF at the end of their lines and are otherwise as "
            "sealed, as git with core.autocrlf leaves them: check the study out again without it, or copy it"
        )
    if listing.litter:
        findings.notes.append(f"not of the study: {_summary(listing.litter)}")


def _is_litter(path: str) -> bool:
    return any(litter(part) is not None for part in path.split("/"))


def _with_unix_lines(path: Path) -> str | None:
    """The digest of a text file whose line breaks are put back to those of Unix; None where there is none to put."""
    try:
        content = read_bytes(path)
    except InputError:
        return None
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() if b"\r\n" in content else None


def _summary(found: dict[str, str]) -> str:
    names: Iterable[str] = (f"{path} ({what})" for path, what in list(found.items())[:5])
    return ", ".join(names) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
