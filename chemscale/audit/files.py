"""The seal: digests of every file of a study, in the format of `sha256sum`."""

from __future__ import annotations

import os
from pathlib import Path

from chemscale.audit.findings import Findings
from chemscale.io import sha256_file, write_text

SUMS = "audit/SHA256SUMS"
VERDICT = "audit/audit.json"
# the last audit writes audit.json after the seal; logs and benchmarks differ between runs and state no result
_UNCOVERED_FILES = {SUMS, VERDICT}
_UNCOVERED_FOLDERS = ("logs", "benchmarks")


def covered_files(root: Path) -> tuple[list[str], list[str]]:
    """The files that the seal covers, as relative paths in order, and what is neither a file nor a folder."""
    files, strange = [], []
    for folder, names, members in os.walk(root):
        relative = Path(folder).relative_to(root)
        if relative == Path():
            names[:] = [name for name in names if name not in _UNCOVERED_FOLDERS]
        strange += [(relative / name).as_posix() for name in names if (Path(folder) / name).is_symlink()]
        for name in members:
            path = (relative / name).as_posix()
            whole = Path(folder) / name
            if whole.is_symlink() or not whole.is_file():
                strange.append(path)
            elif path not in _UNCOVERED_FILES:
                files.append(path)
    return sorted(files), sorted(strange)


def seal(root: Path) -> None:
    """Write `audit/SHA256SUMS`: `sha256sum -c audit/SHA256SUMS` in the study's folder reads it."""
    files, _ = covered_files(root)
    write_text(root / SUMS, "".join(f"{sha256_file(root / path)}  {path}\n" for path in files))


def check_files(root: Path, findings: Findings) -> None:
    """Every file is as sealed; none is missing, unreadable, unknown or a link."""
    sealed: dict[str, str] = {}
    for number, line in enumerate((root / SUMS).read_text(encoding="utf-8").splitlines(), 1):
        digest, separator, path = line.partition("  ")
        if not separator or len(digest) != 64 or path in sealed:
            findings.differ(f"{SUMS}: line {number} is no digest of a file of its own")
        sealed[path] = digest
    files, strange = covered_files(root)
    for path in strange:
        findings.differ(f"{path}: a link or device, where only files and folders are expected")
    findings.same_names("file", files, sealed)
    for path in files:
        if path not in sealed:
            continue
        findings.compared += 1
        try:
            found = sha256_file(root / path)
        except OSError as error:
            findings.differ(f"{path}: unreadable ({error.strerror})")
            continue
        if found != sealed[path]:
            findings.differ(f"{path}: changed since it was sealed")
