"""What a parser of frames gives: blocks of frames in the units of their file, and frames that it has to reject.

Frames, rows and places are counted from 0, lines of text from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from chemscale.data.cache import check_file
from chemscale.errors import DataError

UNKNOWN = "unknown"  # the molecule of a frame that does not tell it
LARGEST_MOLECULE = 10_000  # atoms; what is computed for a frame before it is kept takes memory for each


@dataclass(frozen=True)
class Rejected:
    """Frames of one molecule that cannot be used, the reason that they share, and where the first of them is.

    `note` says more about the first one, without the path of its file: the keys that it has, or what decided.
    """

    molecule: str
    reason: str
    where: str
    count: int = 1
    note: str = ""


@dataclass(frozen=True)
class Frame:
    """A frame of a user's file before any check.

    `properties` is all that the file says about it by key, `texts` the single values as they are written, `stated` what
    tells of charge and spin, and `remark` what a user should know about how it was read.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    periodic: bool
    properties: Mapping[str, Any]
    texts: Mapping[str, str]
    stated: Mapping[str, Any]
    where: str
    remark: str


@dataclass(frozen=True)
class Block:
    """Consecutive frames of one molecule in the units of their file; where it has rows, the first is row `first`.

    `stated` holds, by key, what tells of charge and spin: a value for each frame. It is None for published data sets,
    whose frames are known to be neutral singlets.
    """

    molecule: str
    numbers: NDArray[np.int64]
    positions: NDArray[Any]
    energies: NDArray[Any]
    forces: NDArray[Any]
    order: NDArray[np.int64]
    where: str
    first: int | None
    smiles: str | None = None
    stated: Mapping[str, Any] | None = None


def source_files(located: Mapping[str, Any]) -> list[Path]:
    """The files of a source; `DataError` where there is none, or where one is plainly no data."""
    paths = [Path(path) for path in located["files"]]
    if not paths:
        raise DataError(
            f"read a source of format {located['parser']}", "no file", "name the files that hold its frames"
        )
    for path in paths:
        check_file(path)
    return paths


def wanted_names(section: Mapping[str, Any], found: list[str], located: Mapping[str, Any]) -> list[str]:
    """The names among `found` that the section takes, and "unknown"; `DataError` where it asks for another one."""
    asked = section.get("molecules")
    if asked is None:
        return found
    if missing := sorted(set(asked) - set(found)):
        shown = ", ".join(found[:20]) + (f" and {len(found) - 20:,} more" if len(found) > 20 else "")
        raise DataError(
            f"molecules: {', '.join(missing)} in {', '.join(map(str, located['files']))}",
            f"the molecules {shown}",
            "choose among those",
        )
    return [name for name in found if name in (*asked, UNKNOWN)]


def as_array(value: Any) -> NDArray[Any]:
    """A value as an array; lists of different lengths are an object, which is no array of numbers."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty((), dtype=object)


def are_elements(numbers: NDArray[Any]) -> bool:
    """Whether all are atomic numbers of elements."""
    return bool(((numbers > 0) & (numbers < len(chemical_symbols))).all())


def hill_formula(numbers: NDArray[np.int64]) -> str:
    """Hill's formula."""
    return str(Formula.from_list([chemical_symbols[number] for number in numbers]).format("hill"))
