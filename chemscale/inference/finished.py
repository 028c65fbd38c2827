"""A finished cell on disk, where it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemscale.errors import InputError
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.io import read_json
from chemscale.records import read_metrics


@dataclass(frozen=True)
class FinishedCell:
    """A finished cell on disk: its folder, spec, metrics, and the folder of its study."""

    folder: Path
    cell: Cell
    metrics: Mapping[str, Any]
    study: Path

    @property
    def data(self) -> Path:
        """The study's copy of what the cell was trained on."""
        return self.study / "data" / str(self.cell.data["name"])


def finished_cell(folder: Path, domain: str) -> FinishedCell:
    """The finished cell of a domain in a folder such as `results/STUDY/cells/chemgpt/w88/n2000/seed0`.

    Raises:
        InputError: the folder holds no finished cell, one of another domain, or one outside its study's folder.
    """
    if not (folder / "metrics.json").is_file() or not (folder / "config.json").is_file():
        raise InputError(
            f"read the cell {folder}", "no metrics.json and config.json", "name the folder of a finished cell"
        )
    cell = Cell.from_dict(read_json(folder / "config.json"))
    if cell.domain != domain:
        kind = "language cell" if domain == LANGUAGE else "potential"
        raise InputError(f"read the {kind} {folder}", f"one of {cell.family}", f"name a {kind}")
    place = folder.resolve()
    if not place.as_posix().endswith(f"/{cell.path}"):
        raise InputError(
            f"read the cell {folder}", "a folder outside of its study", f"name it where it was made, .../{cell.path}"
        )
    study = place.parents[len(Path(cell.path).parts) - 1]
    return FinishedCell(folder, cell, read_metrics(folder / "metrics.json"), study)
