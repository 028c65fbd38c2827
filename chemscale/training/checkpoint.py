"""A cell's `checkpoint/` folder: running state, live curve, lock, the reason of a failure, and the finished records.

No rule declares this folder, so that Snakemake never deletes it between attempts. Every write is atomic and a marker
that names the digests of what it covers comes last: half-written state is never taken for whole. State of another
config, data or code is set aside in `superseded/` and training starts anew.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.errors import RecordError
from chemscale.io import atomic_path, drop_unfinished, read_json, sha256_file, write_json
from chemscale.locks import held

if TYPE_CHECKING:
    from torch import Tensor

_MARKER = "complete.json"
_FINISHED = "finished"
_RETRY = "retry.json"


class Checkpoint:
    """The `checkpoint/` folder of one cell; `identity` names the digests that state must share to be continued."""

    def __init__(self, folder: Path, identity: dict[str, str], log: logging.Logger) -> None:
        self.folder, self.identity, self.log = folder, identity, log
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def curve(self) -> Path:
        """The live curve, a JSON line each step."""
        return self.folder / "curve.jsonl"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the cell: two processes never write one; `LockedError` where another one holds it."""
        return held(self.folder / "lock", f"{self.folder.parent} is being trained")

    def start_attempt(self) -> int:
        """Count one more attempt, forget the last failure and what it left; the number of attempts so far."""
        drop_unfinished(self.folder)
        path = self.folder / "attempts.json"
        attempts = (int(read_json(path)["attempts"]) if path.exists() else 0) + 1
        write_json(path, {"attempts": attempts})
        (self.folder / "failure.json").unlink(missing_ok=True)
        return attempts

    # --- running state ------------------------------------------------------------------------------------------------

    def save(self, kind: str, step: int, parts: Iterable[dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Write the state after `step` steps, a file for each part of its tensors, then drop older ones of its kind.

        The kinds are `step`, `validated`, where a run was taken back, `retry`, and, of what cells share, `shared`.
        """
        from safetensors.torch import save_file

        folder = self._folder(kind, step)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        count = 0
        for part in parts:
            with atomic_path(folder / _part(count)) as temporary:
                save_file({name: value.contiguous() for name, value in part.items()}, temporary)
            del part  # before the next one is put together
            count += 1
        write_json(folder / "state.json", {"identity": self.identity, "step": step, "parts": count, **state})
        _mark(folder, self.identity)
        for older in self._states(kind)[:-2]:
            shutil.rmtree(older)

    def newest(self, kind: str, up_to: int | None = None) -> int | None:
        """The step of the newest whole state of this identity, after at most `up_to` steps where that is given.

        Damaged state is passed over with a line in the log.
        """
        for folder in reversed(self._states(kind)):
            if up_to is not None and folder > self._folder(kind, up_to):
                continue
            marker = _verified(folder)
            if marker is None:
                self.log.warning("%s is not whole: passed over", folder)
                continue
            return int(folder.name.removeprefix(f"{kind}-")) if self._same(marker["identity"]) else None
        return None

    def load(self, kind: str, step: int) -> tuple[Iterator[dict[str, Tensor]], dict[str, Any]]:
        """The state after `step` steps, one that `newest` named; the parts of its tensors are read one at a time."""
        from safetensors.torch import load_file

        folder = self._folder(kind, step)
        state = read_json(folder / "state.json")
        return (load_file(folder / _part(number)) for number in range(state["parts"])), state

    def _folder(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:09d}"

    def _states(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-*"))

    def drop_states(self, *kinds: str, after: int = 0) -> None:
        """Delete the states of these kinds after more than `after` steps, whole or not."""
        for kind in kinds:
            for folder in self._states(kind):
                if folder > self._folder(kind, after):
                    shutil.rmtree(folder)

    # --- a run that diverged ------------------------------------------------------------------------------------------

    def take_back(self, rate_share: float) -> None:
        """Decide that a run that diverged goes on from its last validation; its curve is kept as `diverged.jsonl`."""
        with atomic_path(self.folder / "diverged.jsonl") as temporary:
            shutil.copyfile(self.curve, temporary)
        decision = {"from_step": self.newest("validated") or 0, "rate_share": rate_share}
        write_json(self.folder / _RETRY, {"identity": self.identity, **decision})

    def retry(self) -> dict[str, Any] | None:
        """Where a run goes on (`from_step`) at which `rate_share` of its rate; None where it did not diverge."""
        path = self.folder / _RETRY
        decision: dict[str, Any] | None = read_json(path) if path.exists() else None
        return decision if decision and decision["identity"] == self.identity else None

    def _same(self, identity: dict[str, str]) -> bool:
        for field, value in self.identity.items():
            if identity.get(field) != value:
                self._supersede(field, identity.get(field), value)
                return False
        return True

    def _supersede(self, field: str, found: Any, now: str) -> None:
        """Move everything but the lock and the count of attempts to `superseded/`."""
        aside = self.folder / "superseded" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        aside.mkdir(parents=True)
        for entry in self.folder.iterdir():
            if entry.name not in ("superseded", "lock", "attempts.json"):
                shutil.move(entry, aside / entry.name)
        self.log.warning(
            "%s: checkpoint of another %s (%.12s, now %.12s) moved to %s; training starts anew",
            self.folder.parent,
            field,
            found,
            now,
            aside,
        )

    # --- finished records ---------------------------------------------------------------------------------------------

    @property
    def finished_folder(self) -> Path:
        """Where a finished cell's records wait to be published."""
        return self.folder / _FINISHED

    def mark_finished(self) -> None:
        """Declare the records in `finished/` whole."""
        _mark(self.finished_folder, self.identity)

    def finished(self) -> bool:
        """Whether whole records of this identity wait in `finished/`; those of another identity are set aside."""
        if not self.finished_folder.exists():
            return False
        marker = _verified(self.finished_folder)
        if marker is None:
            shutil.rmtree(self.finished_folder)
            return False
        return self._same(marker["identity"])

    def publish(self, target: Path) -> None:
        """Copy the finished records to the cell's folder, `metrics.json` last."""
        names = sorted(read_json(self.finished_folder / _MARKER)["files"], key=lambda name: name == "metrics.json")
        for name in names:
            drop_unfinished(target, name)
            with atomic_path(target / name) as temporary:
                shutil.copyfile(self.finished_folder / name, temporary)


def _part(number: int) -> str:
    return f"state-{number:05d}.safetensors"


def record_failure(folder: Path, error: Exception) -> None:
    """Leave the reason of a failure in a cell's `checkpoint/` folder, for `chemscale status` and the report.

    Of several ranks that fail the first one knows the reason, the others only that it is gone.
    """
    if (folder / "failure.json").exists():
        return
    try:
        attempts = int(read_json(folder / "attempts.json")["attempts"])
    except (RecordError, KeyError, TypeError, ValueError):
        attempts = 0  # none was begun, or the count itself is what is damaged
    write_json(
        folder / "failure.json",
        {
            "reason": f"{type(error).__name__}: {error}",
            "attempts": attempts,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _mark(folder: Path, identity: dict[str, str]) -> None:
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != _MARKER}
    write_json(folder / _MARKER, {"identity": identity, "files": files})


def _verified(folder: Path) -> dict[str, Any] | None:
    """The marker of a folder whose files are all there with the digests that it names, else None."""
    try:
        marker = read_json(folder / _MARKER)
        whole = all(sha256_file(folder / name) == value for name, value in marker["files"].items())
    except (RecordError, OSError, KeyError, TypeError):
        return None
    return marker if whole and isinstance(marker.get("identity"), dict) else None
