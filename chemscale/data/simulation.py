"""The stage that makes frames with GFN2-xTB: conformers of many molecules, or trajectories of some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemscale.data import conformers, sources, trajectories
from chemscale.data.frames import make_chunk
from chemscale.data.runs import work_folder
from chemscale.data.starts import structure_digests

# molecules whose conformers one process makes in a few seconds
_UNIT_MOLECULES = 8


def prepare(
    section: Mapping[str, Any], folder: Path, code: str, chunk: tuple[int, int], workers: int, marker: Path
) -> None:
    """Write the runs of a chunk of a data section of kind conformers or trajectories, and its record, `marker`.

    The runs are the same bytes for every number of workers and of chunks. Every attempt is a row: a molecule without
    a minimum rejects all its frames.

    Args:
        section: the resolved data section.
        folder: the data folder.
        code: the digest of the code that decides the rows.
        chunk: the chunk's number from 0, and the number of chunks.
        workers: processes.
        marker: the JSON file that says that the chunk is done.

    Raises:
        DataError: a SMILES is wrong, the settings leave a split without frames or ask for more molecules than there
            are.
    """
    from chemscale.data.xtb import source_record

    source: dict[str, Any] = source_record()
    if digests := structure_digests(section):
        source["structures"] = digests
    if section["kind"] == "conformers":
        if section["molecules"] is None:
            source["molecules"] = sources.record({"source": section["molecules_from"]})
        work = work_folder(folder, section, source, code)
        made = conformers.tasks(section, sources.chemicals())
        make_chunk(conformers.sample, made, _UNIT_MOLECULES, section, work, chunk, workers, marker, source)
    else:
        work = work_folder(folder, section, source, code)
        make_chunk(trajectories.simulate, trajectories.tasks(section), 1, section, work, chunk, workers, marker, source)
