"""The stage that reads frames from published or own files: units converted, rejects counted, splits assigned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chemscale.data import sources, structures
from chemscale.data.blocks import Rejected
from chemscale.data.electronic_states import ElectronicStates
from chemscale.data.frames import frame_row, write_frames
from chemscale.data.runs import ChunkUnits, Ledger, finish_chunk, run_path, work_folder
from chemscale.data.structures import Structure
from chemscale.data.subsets import time_splits
from chemscale.data.unit_check import UnitCheck
from chemscale.errors import shown

UNIT_FRAMES = 10_000
_LONGEST_NOTE = 400  # characters
_ADVICE = {
    "no_energy": "set energy_key to the key of the total energy",
    "no_forces": "set forces_key to the key of the forces",
    "no_molecule": "set molecule_key to a key that every frame has, or leave it out to group frames by formula",
}


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
    times = {molecule: time_splits(section, frames) for molecule, frames in durations.items()}
    notes = _Notes()
    frames = notes.watched(structures.read(located, section, notes.states))
    units = ChunkUnits(frames, UNIT_FRAMES, work, chunk)
    made = (_make(run_path(work, number), number * UNIT_FRAMES, frames, section, times) for number, frames in units)
    finish_chunk(marker, units, made, section["kind"], source, notes.warnings)


class _Notes:
    """What the manifest warns about, gathered from all frames of a source."""

    def __init__(self) -> None:
        self.states = ElectronicStates()
        self._units = UnitCheck()
        self._rejected: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def watched(self, frames: Iterator[Structure | Rejected]) -> Iterator[Structure | Rejected]:
        """The frames, each of them looked at on its way."""
        for frame in frames:
            if isinstance(frame, Structure):
                self._units.add(frame)
            elif frame.note:
                self._rejected[frame.reason] += frame.count
                self._first.setdefault(frame.reason, frame.note)
            yield frame

    def warnings(self) -> list[str]:
        """A sentence for each reason that takes a note, and what the checks of units and of states warn about."""
        rejected = []
        for reason, count in sorted(self._rejected.items()):
            advice = f"; {_ADVICE[reason]}" if reason in _ADVICE else ""
            note = shown(self._first[reason], _LONGEST_NOTE)
            rejected.append(f"frames rejected as {reason}: {count:,}; the first: {note}{advice}")
        return [*rejected, *self.states.warnings(), *self._units.warnings()]


def _make(
    path: Path,
    first: int,
    unit: list[Structure | Rejected],
    section: Mapping[str, Any],
    times: Mapping[str, list[tuple[int, str]]],
) -> Ledger:
    """Write the run of a unit's frames; its ledger."""
    ledger = Ledger()
    rows, places = [], []
    for place, frame in enumerate(unit, first):
        if isinstance(frame, Rejected):
            ledger.rejected[frame.reason] += frame.count
            continue
        group, split = frame.molecule, None
        if section["split_by"] == "formula":
            group = frame.formula
        elif section["split_by"] == "time":
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
    write_frames(path, rows, places, section, ledger)
    return ledger
