"""Frames of molecules and the runs that hold them: what all makers and readers of frames share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from chemscale.data.pool import ordered_map
from chemscale.data.runs import DIGEST, ChunkUnits, Ledger, finish_chunk, run_path, write_run
from chemscale.data.subsets import ALL_SPLITS, content_digest, split_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chemscale.data.xtb import Surface

Task = TypeVar("Task")

# atoms nearer than this, or pulled harder, belong to no molecule near 500 K: H2 has 0.74 angstrom, and the largest
# force among 1,700 conformers was 11 eV/angstrom
CLOSEST = 0.6  # angstrom
LARGEST_FORCE = 30.0  # eV/angstrom, on one atom


@dataclass
class Frames:
    """The frames of one molecule, as rows of the shards, and its rejects by reason."""

    molecule: str
    smiles: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, surface: Surface, positions: NDArray[np.float64], group: str, split: str | None) -> None:
        """Add a frame at positions [A, 3] in angstrom, or count it as rejected.

        `group` is text that all frames share which must not straddle splits; with `split` None its hash decides.
        """
        from chemscale.data.xtb import Failure

        frame = len(self.rows) + sum(self.rejected.values())
        apart = positions[:, None] - positions[None]
        if np.linalg.norm(apart, axis=-1)[~np.eye(len(positions), dtype=bool)].min(initial=np.inf) < CLOSEST:
            return self.reject("atoms_too_close")
        try:
            energy, forces = surface.energy_and_forces(positions)
        except Failure as failure:
            return self.reject(failure.reason)
        if np.linalg.norm(forces, axis=1).max() > LARGEST_FORCE:
            return self.reject("force_too_large")
        self.rows.append(
            frame_row(self.molecule, self.smiles, frame, surface.numbers, positions, energy, forces, group, split)
        )
        return None

    def reject(self, reason: str, count: int = 1) -> None:
        """Count `count` frames as rejected."""
        self.rejected[reason] += count


def frame_row(
    molecule: str,
    smiles: str,
    frame: int,
    species: NDArray[Any],
    positions: NDArray[np.float64],
    energy: float,
    forces: NDArray[np.float64],
    group: str,
    split: str | None,
) -> dict[str, Any]:
    """A row of a run: digests of content and group, and the frame itself, in eV and angstrom.

    `group` is text that all frames share which must not straddle splits; with `split` None its hash decides.
    """
    numbers = species.astype("<u1")
    return {
        "row": content_digest(numbers.tobytes() + positions.astype("<f8").tobytes()),
        "group": content_digest(group.encode()),
        "split": split,
        "smiles": smiles,
        "molecule": molecule,
        "frame": frame,
        "species": numbers,
        "positions": positions.ravel(),
        "energy": energy,
        "forces": forces.ravel(),
    }


_RUN_SCHEMA = pa.schema(
    [
        ("row", DIGEST),
        ("place", pa.int64()),
        ("group", DIGEST),
        ("split", pa.uint8()),
        ("smiles", pa.string()),
        ("molecule", pa.string()),
        ("frame", pa.int32()),
        ("species", pa.list_(pa.uint8())),
        ("positions", pa.list_(pa.float64())),
        ("energy", pa.float64()),
        ("forces", pa.list_(pa.float64())),
    ]
)


def write_frames(
    path: Path, rows: Sequence[dict[str, Any]], places: Sequence[int], section: Mapping[str, Any], ledger: Ledger
) -> None:
    """Write the run of rows of frames; `places` are their numbers in the source."""
    for row, place in zip(rows, places, strict=True):
        split = row["split"] or split_of(row["group"].hex(), section["validation"], section["test"])
        row |= {"split": ALL_SPLITS.index(split), "place": place}
    ledger.rows_kept = len(rows)
    write_run(path, pa.Table.from_pylist(list(rows), schema=_RUN_SCHEMA), ledger)


@dataclass(frozen=True)
class _Unit:
    """Tasks that one process works out: their numbers among all tasks, and what each makes."""

    number: int
    first: int
    tasks: list[Any]
    make: Callable[[Any], Frames]
    section: Mapping[str, Any]
    work: Path


def _make_unit(unit: _Unit) -> Ledger:
    """Make a unit's frames and write their run; its ledger."""
    ledger = Ledger()
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    for number, task in enumerate(unit.tasks, unit.first):
        frames = unit.make(task)
        rows += frames.rows
        places += [number * unit.section["frames_per_molecule"] + row["frame"] for row in frames.rows]
        ledger.rejected += frames.rejected
    ledger.rows_in = len(rows) + sum(ledger.rejected.values())
    write_frames(run_path(unit.work, unit.number), rows, places, unit.section, ledger)
    return ledger


def make_chunk(
    make: Callable[[Task], Frames],
    tasks: Sequence[Task],
    tasks_per_unit: int,
    section: Mapping[str, Any],
    work: Path,
    chunk: tuple[int, int],
    workers: int,
    marker: Path,
    source: Mapping[str, Any],
) -> None:
    """Write the runs of every unit of tasks that belongs to a chunk, in `workers` processes, and the chunk's record.

    Runs that are there already are kept. The runs are the same bytes for every number of workers and of chunks.
    """
    units = ChunkUnits(tasks, tasks_per_unit, work, chunk)
    chosen = (_Unit(number, number * tasks_per_unit, members, make, section, work) for number, members in units)
    finish_chunk(marker, units, ordered_map(_make_unit, chosen, workers), section["kind"], source)
