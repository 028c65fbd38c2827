"""The records that a run writes: its curve step by step, its losses per test cluster, its metrics and provenance."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.errors import DivergedError, RecordError
from chemscale.io import atomic_path, open_regular, parse_json


def whole_lines(path: Path, step: int) -> list[str]:
    """The lines of the curve at `path` up to `step`, those after a torn one left out; empty where a step is missing."""
    lines: list[str] = []
    steps = 0
    if not path.exists():
        return lines
    with open_regular(path) as stream:
        text = stream.read().decode("utf-8", "replace")
    for line in text.splitlines():
        try:
            values = parse_json(line, f"read {path}")
        except RecordError:
            break
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            break
        if values["step"] <= step:
            lines.append(line)
            steps += "loss" in values
    return lines if steps == step else []


class Curve:
    """The live curve: a JSON line for each step and each validation, cut back to a checkpoint's step on resume."""

    def __init__(self, path: Path | None, step: int) -> None:
        """Continue the curve at `path` after `step` steps; 0 begins it anew, and no path writes nothing."""
        if path is None:
            self._stream: IO[str] = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as below)
            return
        lines = whole_lines(path, step) if step else []
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held open for the run's length)

    def write(self, **values: float | int) -> None:
        """Append a line; a value that is not finite ends the run, after it was written as text."""
        for name, value in values.items():
            if not math.isfinite(value):
                self._stream.write(json.dumps({**values, name: str(value)}) + "\n")
                self.close()
                raise DivergedError(f"{name} is not finite ({value}) at step {values['step']}")
        self._stream.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        """Make what was written visible to others, and safe: a checkpoint counts on it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Flush and close; writing ends here."""
        self._stream.close()


def cluster_sums(
    names: Sequence[str], clusters: NDArray[np.int32], sums: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Summed loss and count of each test cluster, clusters in the order of their names.

    Args:
        names: of the clusters.
        clusters: the place in `names` of the cluster of each test row.
        sums: summed loss of each test row.
        counts: what each is a sum over.
    """
    loss = np.zeros(len(names))
    count = np.zeros(len(names), dtype=np.int64)
    np.add.at(loss, clusters, sums)
    np.add.at(count, clusters, counts)
    order = sorted(range(len(names)), key=names.__getitem__)
    return [names[index] for index in order], loss[order], count[order]


def write_clusters(path: Path, clusters: list[str], loss: NDArray[np.float64], count: NDArray[np.int64]) -> float:
    """Write a cell's `test_clusters.parquet`; the test loss, their ratio of sums."""
    import pyarrow as pa

    from chemscale.io import write_parquet

    write_parquet(path, pa.table({"cluster": clusters, "loss_sum": loss, "count": count}))
    return float(math.fsum(loss) / int(count.sum()))


def peak_memory_bytes() -> int:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timestamp() -> str:
    """Now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def provenance() -> dict[str, Any]:
    """Where and by what a run is finished: memory, machine, versions, state of the repository."""
    from chemscale.provenance import git_state, machine, versions

    return {
        "finished": timestamp(),
        "peak_memory_bytes": peak_memory_bytes(),
        "host": hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
        "machine": machine(),
        "versions": versions(),
        "repository": git_state(),
    }
