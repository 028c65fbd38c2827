"""Locks on files: one process at a time does a job; the kernel drops a lock when its holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chemscale.errors import LockedError

# a probe holds a lock for an instant to see whether there is one: that is no other worker
_TRIES, _SECONDS = 10, 0.1


@contextmanager
def held(path: Path, work: str) -> Iterator[None]:
    """Hold the lock file `path` within the block.

    Args:
        path: the lock file; its folder must exist.
        work: what the holder does, such as "the cell is being trained"; the error's message adds "by another process".

    Raises:
        LockedError: another process holds it.
    """
    with open(path, "w") as handle:
        for patience in (*[_SECONDS] * _TRIES, 0.0):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not patience:
                    raise LockedError(f"{work} by another process") from None
                time.sleep(patience)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file."""
    if not path.is_file():  # nor a pipe, which would wait
        return False
    with open(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
