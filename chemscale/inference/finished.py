"""A finished cell on disk, where it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chemscale.errors import InputError, RecordError
from chemscale.families import FAMILIES, LANGUAGE, knobs_fault
from chemscale.grid import Cell
from chemscale.io import read_json
from chemscale.models.decoder import MAX_POSITIONS
from chemscale.records import read_metrics

_DO = "name the folder of a finished cell as it was made"
# what the settings of a language cell's data are needed for, with the type of each
_SETTINGS: dict[str, type] = {"stereo": str, "fragments": str, "max_symbols": int, "split_by": str}


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

    def data_settings(self) -> dict[str, Any]:
        """How the molecules were treated that the cell was trained on.

        Raises:
            RecordError: the study's manifest is missing or damaged.
        """
        path = self.data / "manifest.json"
        manifest = read_json(path, do=_DO)
        settings = manifest.get("settings") if isinstance(manifest, dict) else None
        named = {key: settings.get(key) if isinstance(settings, dict) else None for key in _SETTINGS}
        for key, value in named.items():
            if type(value) is not _SETTINGS[key]:
                raise RecordError(f"read {path}", f"settings.{key} {value!r}", _DO)
        assert isinstance(settings, dict)
        if not 1 <= settings["max_symbols"] <= MAX_POSITIONS - 2:
            raise RecordError(f"read {path}", f"settings.max_symbols {settings['max_symbols']}", _DO)
        return settings


def finished_cell(folder: Path, domain: str) -> FinishedCell:
    """The finished cell of a domain in a folder such as `results/STUDY/cells/chemgpt/w88/n2000/seed0`.

    Raises:
        InputError: the folder holds no finished cell, one of another domain, or one outside its study's folder.
    """
    if not (folder / "metrics.json").is_file() or not (folder / "config.json").is_file():
        raise InputError(
            f"read the cell {folder}", "no metrics.json and config.json", "name the folder of a finished cell"
        )
    cell = _cell(folder / "config.json")
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


def _cell(path: Path) -> Cell:
    """The cell that a config.json describes, its model within the ranges of its family."""
    values = read_json(path, do=_DO)
    if not isinstance(values, dict):
        raise RecordError(f"read {path}", "no object", _DO)
    cell = Cell.from_dict(values)
    family = FAMILIES.get(cell.family) if isinstance(cell.family, str) else None
    if family is None or family.domain != cell.domain:
        raise RecordError(f"read {path}", f"family {cell.family!r} of the domain {cell.domain!r}", _DO)
    if fault := knobs_fault(cell.family, cell.knobs):
        raise RecordError(f"read {path}", f"knobs with {fault}", _DO)
    name = cell.data.get("name") if isinstance(cell.data, dict) else None
    if not isinstance(name, str) or Path(name).name != name:
        raise RecordError(f"read {path}", f"data.name {name!r}", _DO)
    return cell
