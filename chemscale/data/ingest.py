"""The stage that reads frames from published or own files: units converted, rejects counted, splits assigned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from chemscale.data import sources, structures
from chemscale.data.frames import frame_row, write_frames
from chemscale.data.runs import Ledger, finish_chunk, run_path, work_folder
from chemscale.data.structures import Rejected, Structure
from chemscale.data.subsets import time_splits

UNIT_FRAMES = 10_000


def prepare(
    section: Mapping[str, Any],
    folder: Path,
    located: Mapping[str, Any],
    code: str,
    chunk: tuple[int, int],
    workers: int,
    marker: Path,
) -> None:
    """Write the runs of every unit of frames of a chunk, and its record, `marker`; unit u is in chunk u modulo them.

    Runs that are there already are kept. Reading a frame costs microseconds: a chunk is one process, and `workers`,
    which this stage shares with the others, starts no more.

    Args:
        section: the resolved data section of kind structures.
        folder: the data folder.
        located: the source, as `chemscale.data.sources.locate` found it.
        code: the digest of the code that decides the rows.
        chunk: the chunk's number from 0, and the number of chunks.
        workers: of no effect.
        marker: the JSON file that says that the chunk is done.

    Raises:
        DataError: a file is not what it should be, or the settings leave a split without frames.
    """
    sources.check(located)
    durations: dict[str, int] = {}
    if section["split_by"] == "time":
        for structure in structures.read(located, section):
            if isinstance(structure, Structure):
                durations[structure.molecule] = max(durations.get(structure.molecule, 0), structure.order + 1)
    source = {**located["record"], "durations": durations}
    work = work_folder(folder, section, source, code)
    units = _Units(section, located, work, chunk)
    finish_chunk(marker, work, units, units.made(durations), section["kind"], source)


class _Units:
    """The units of a chunk, made one after another."""

    def __init__(
        self, section: Mapping[str, Any], located: Mapping[str, Any], work: Path, chunk: tuple[int, int]
    ) -> None:
        self._section, self._located, self._work = section, located, work
        self._chunk, self._chunks = chunk
        self.numbers: list[int] = []
        self.total = 0
        self.warnings: list[str] = []

    def made(self, durations: Mapping[str, int]) -> Iterator[Ledger]:
        """Make every unit of the chunk whose run is missing, and give its ledger."""
        check = structures.UnitCheck()
        times = {molecule: time_splits(self._section, frames) for molecule, frames in durations.items()}
        frames = structures.read(self._located, self._section)
        while unit := list(islice(frames, UNIT_FRAMES)):
            number, self.total = self.total, self.total + 1
            for frame in unit:
                if isinstance(frame, Structure):
                    check.add(frame)
            if number % self._chunks == self._chunk:
                self.numbers.append(number)
                path = run_path(self._work, number)
                if not path.exists():
                    yield self._make(path, number * UNIT_FRAMES, unit, times)
        self.warnings = check.warnings()

    def _make(
        self, path: Path, first: int, unit: list[Structure | Rejected], times: Mapping[str, list[tuple[int, str]]]
    ) -> Ledger:
        ledger = Ledger()
        rows, places = [], []
        for place, frame in enumerate(unit, first):
            if isinstance(frame, Rejected):
                ledger.rejected[frame.reason] += frame.count
                continue
            group, split = frame.molecule, None
            if self._section["split_by"] == "formula":
                group = frame.formula
            elif self._section["split_by"] == "time":
                block, split = times[frame.molecule][frame.order]
                group = f"{frame.molecule}|{block}"
            rows.append(
                frame_row(
                    frame.molecule,
                    frame.smiles or "",
                    frame.order,
                    frame.numbers,
                    frame.positions,
                    frame.energy,
                    frame.forces,
                    group,
                    split,
                )
            )
            places.append(place)
        ledger.rows_in = len(rows) + sum(ledger.rejected.values())
        write_frames(path, rows, places, self._section, ledger)
        return ledger
