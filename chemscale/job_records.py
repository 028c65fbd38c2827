"""What a job of the workflow leaves about itself: whether it was begun, done or failed, and what it was made from.

A record is a JSON file. While its job runs, a lock is held beside it, which the kernel drops when the job dies. The
records, and neither file times nor what Snakemake remembers, say what is stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chemscale.errors import ChemscaleError, RecordError
from chemscale.io import digest, read_json, sha256_file, write_json
from chemscale.locks import held, is_held

SCHEMA_VERSION = 1
STATES = ("started", "done", "failed")
# of the record of a job that is done
_FIELDS = {"settings": dict, "inputs": list, "own_files": list, "outputs": dict}
# what Snakemake leaves in a folder that is an output
_SNAKEMAKES = ".snakemake_timestamp"


@contextmanager
def recorded(job: Mapping[str, Any], outputs: list[str]) -> Iterator[None]:
    """Write the record of a job: that it began, then that it is done and what it was made from, or why it failed.

    Args:
        job: what `chemscale.planning.jobs.Jobs.params` gives.
        outputs: the files that the job writes.

    Raises:
        LockedError: another process runs the job.
    """
    record = Path(job["record"])
    record.parent.mkdir(parents=True, exist_ok=True)
    with held(_lock(record), f"the job of {record} is being run"):
        write_json(record, {"schema_version": SCHEMA_VERSION, "state": "started"})
        try:
            made_from = {
                "settings": job["settings"],
                "inputs": [fingerprint(path) for path in job["inputs"]],
                "own_files": [fingerprint(path) for path in job["own_files"]],
            }
            yield
        except BaseException as error:
            reason = str(error) if isinstance(error, ChemscaleError) else f"{type(error).__name__}: {error}"
            write_json(record, {"schema_version": SCHEMA_VERSION, "state": "failed", "reason": reason})
            raise
        made = {path: fingerprint(path) for path in outputs}
        write_json(record, {"schema_version": SCHEMA_VERSION, "state": "done", **made_from, "outputs": made})


def _lock(record: Path) -> Path:
    return record.with_suffix(".lock")


def fingerprint(path: str | Path) -> str:
    """The sha256 of a file, or the digest of the names and the sha256 of all files of a folder."""
    place = Path(path)
    if not place.is_dir():
        return sha256_file(place)
    files = [file for file in place.rglob("*") if file.is_file() and file.name != _SNAKEMAKES]
    return digest({file.relative_to(place).as_posix(): sha256_file(file) for file in files})


def read_record(path: Path) -> dict[str, Any] | None:
    """A job's record; None where there is none, or one that is damaged or of another version."""
    try:
        record = read_json(path)
    except RecordError:
        return None
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        return None
    fields = _FIELDS if record.get("state") == "done" else {}
    whole = record.get("state") in STATES and all(isinstance(record.get(name), kind) for name, kind in fields.items())
    return record if whole else None


def is_running(record: Path) -> bool:
    """Whether a process runs the job of this record now."""
    return is_held(_lock(record))
