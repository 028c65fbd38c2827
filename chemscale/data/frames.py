"""From molecules to shards of frames: what conformers and trajectories share."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chemscale.data.pool import ordered_map
from chemscale.data.shards import FRAMES_SCHEMA, write_manifest, write_shards
from chemscale.data.subsets import split_of
from chemscale.errors import DataError

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
        species = surface.numbers.astype("<u1")
        self.rows.append(
            {
                "row": _digest(species.tobytes() + positions.astype("<f8").tobytes()),
                "group": _digest(group.encode()),
                "split": split,
                "smiles": self.smiles,
                "molecule": self.molecule,
                "frame": frame,
                "species": species,
                "positions": positions.ravel(),
                "energy": energy,
                "forces": forces.ravel(),
            }
        )
        return None

    def reject(self, reason: str, count: int = 1) -> None:
        """Count `count` frames as rejected."""
        self.rejected[reason] += count


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def prepare_frames(
    make: Callable[[Task], Frames],
    tasks: Sequence[Task],
    section: dict[str, Any],
    folder: Path,
    workers: int,
    log: logging.Logger | None,
    origin: dict[str, Any] | None = None,
) -> None:
    """Run `make` for every task in `workers` processes, then write shards and manifest, the manifest last.

    `origin` is the record of the source of the molecules, where that is not the section itself.

    Raises:
        DataError: more rows than the section's `max_reject_share` are rejected, or two rows are one and the same.
    """
    from rich.console import Console
    from rich.progress import track

    log = log or logging.getLogger("chemscale.data")
    rows: list[dict[str, Any]] = []
    rejected: Counter[str] = Counter()
    results = ordered_map(make, tasks, workers)
    for frames in track(results, section["kind"], len(tasks), console=Console(stderr=True), transient=True):
        rows += frames.rows
        rejected += frames.rejected
        reasons = "".join(f", {count} {reason}" for reason, count in sorted(frames.rejected.items()))
        log.info("%s: %d frames%s", frames.molecule, len(frames.rows), reasons)
    for row in rows:
        row["split"] = row["split"] or split_of(row["group"], section["validation"], section["test"])
    _check(section, rows, rejected)
    # only now: the parent process needs no quantum chemistry before
    from chemscale.data.xtb import source_record

    settings = {key: value for key, value in section.items() if key != "workers"}
    write_manifest(
        folder,
        name=folder.name,
        domain="potentials",
        source=source_record() | ({"molecules": origin} if origin else {}),
        settings=settings,
        shards=write_shards(folder, rows, FRAMES_SCHEMA, section["rows_per_shard"]),
        rejected=rejected,
        tokenizer_digest=None,
    )


def _check(section: dict[str, Any], rows: list[dict[str, Any]], rejected: Counter[str]) -> None:
    """Refuse frames of which too many were rejected, or that repeat: their splits and subsets would mean nothing."""
    lost, total = sum(rejected.values()), len(rows) + sum(rejected.values())
    if lost > section["max_reject_share"] * total or not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
        raise DataError(
            f"{section['kind']}: at most {section['max_reject_share']:.1%} of {total:,} frames rejected",
            f"{lost:,} ({reasons})",
            "lower the temperature, choose other molecules, or raise max_reject_share",
        )
    found = {row["split"] for row in rows}
    wanted = ["train", *(split for split in ("validation", "test") if section[split] > 0)]
    if empty := [split for split in wanted if split not in found]:
        raise DataError(
            f"{section['kind']}: frames in {', '.join(wanted)}",
            f"none in {' and '.join(empty)}",
            "use more molecules or larger shares: the hash of a molecule's constitution gives its split",
        )
    distinct = len({row["row"] for row in rows})
    if distinct < len(rows):
        raise DataError(
            f"{section['kind']}: {len(rows):,} different frames",
            f"{distinct:,}",
            "give every molecule once, under one name",
        )
