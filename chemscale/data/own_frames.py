"""Frames of own files: extended XYZ (parser extxyz) and SQLite databases of ASE (ase_db), one frame at a time."""

from __future__ import annotations

import io
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.blocks import UNKNOWN, Block, Rejected, are_elements, hill_formula, source_files, wanted_names
from chemscale.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_ROWS_OF_DATABASE = 500


@dataclass(frozen=True)
class _Frame:
    """A frame of an own file before any check; `properties` is all that the file tells of it, by name."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    periodic: bool
    properties: Mapping[str, Any]
    where: str


def counts(located: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, int]:
    """Frames of every molecule, rejected ones included.

    Raises:
        DataError: a file is missing, empty or damaged, or without frames.
    """
    found: Counter[str] = Counter()
    for frame in _frames(located):
        found[frame.molecule if isinstance(frame, Rejected) else _molecule(frame, section)] += 1
    return found


def blocks(located: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[Block | Rejected]:
    """The frames of the molecules that the section takes, each a block, or rejected; raises what `counts` does."""
    found: Counter[str] = Counter()
    asked = section.get("molecules")
    for frame in _frames(located):
        molecule = frame.molecule if isinstance(frame, Rejected) else _molecule(frame, section)
        order = found[molecule]
        found[molecule] += 1
        if asked is not None and molecule not in (*asked, UNKNOWN):
            continue
        yield frame if isinstance(frame, Rejected) else _block(frame, molecule, order, section)
    wanted_names(section, list(found), located)


def _frames(located: Mapping[str, Any]) -> Iterator[_Frame | Rejected]:
    """The frames of own files, unchecked but for what cannot be read; `DataError` where a file has none."""
    parser = PARSERS[located["parser"]]
    for path in source_files(located):
        frames = 0
        for frame in parser(path):
            frames += 1
            yield frame
        if frames == 0:
            raise DataError(f"read {path}", "no frames", "check what wrote it")


def _molecule(frame: _Frame, section: Mapping[str, Any]) -> str:
    """The name of a frame's molecule, or "unknown"."""
    key = section.get("molecule_key")
    if key is not None:
        return str(frame.properties.get(key, UNKNOWN))
    return hill_formula(frame.numbers) if are_elements(frame.numbers) else UNKNOWN


def _block(frame: _Frame, molecule: str, order: int, section: Mapping[str, Any]) -> Block | Rejected:
    """A frame of an own file as a block of one, or the reason why it cannot be."""
    energy_key, forces_key = section.get("energy_key") or "energy", section.get("forces_key") or "forces"
    where, properties = frame.where, frame.properties
    energy, forces = (properties.get(key) for key in (energy_key, forces_key))
    reason = None
    if len(frame.numbers) == 0:
        reason = "unreadable"
    elif not are_elements(frame.numbers):
        reason = "unknown_element"
    elif molecule == UNKNOWN:
        reason = "no_molecule"
    elif frame.periodic:
        reason = "periodic"
    elif _numeric(charge := properties.get("charge")) and np.any(charge):
        reason = "charged"
    elif energy is None:
        reason = "no_energy"
    elif forces is None:
        reason = "no_forces"
    elif not (_numeric(energy) and np.size(energy) == 1 and _numeric(forces)):
        reason = "unreadable"
    elif np.shape(forces) != frame.positions.shape:
        reason = "wrong_shape"
    if reason is not None:
        # where a key is wrong for the whole file, the names that it has instead are the answer
        names = f" (it has {', '.join(sorted(map(str, properties)))})" if reason.startswith("no_") else ""
        return Rejected(molecule, reason, where + names)
    smiles = properties.get("smiles")
    return Block(
        molecule,
        frame.numbers,
        frame.positions[None],
        np.asarray(energy).reshape(1),
        np.asarray(forces)[None],
        np.array([order]),
        where,
        None,
        smiles if isinstance(smiles, str) else None,
    )


def _numeric(value: Any) -> bool:
    """Whether a value is a number or an array of numbers; true and false are none."""
    return np.asarray(value).dtype.kind in "fiu"


def _extxyz(path: Path) -> Iterator[_Frame | Rejected]:
    """The frames of an extended XYZ file; those that ASE cannot make sense of are rejected one by one."""
    from ase.io.extxyz import read_xyz

    for number, line, text in _texts(path):
        where = f"{path}, frame {number} (line {line})"
        try:
            atoms: Atoms = next(read_xyz(io.StringIO(text), index=0))
        except KeyError as error:
            yield Rejected(UNKNOWN, "unknown_element", f"{where}: {error}")
        except (ValueError, TypeError, IndexError, AttributeError, OSError) as error:
            yield Rejected(UNKNOWN, "unreadable", f"{where}: {error}")
        else:
            results = {} if atoms.calc is None else atoms.calc.results
            yield _Frame(
                atoms.numbers.astype(np.int64),
                atoms.positions,
                bool(atoms.pbc.any()),
                {**atoms.arrays, **atoms.info, **results},
                where,
            )


def _texts(path: Path) -> Iterator[tuple[int, int, str]]:
    """Number, first line and text of every frame of an XYZ file.

    ASE's own reader lists all frames of the file before it gives the first one, and takes an empty line for the end.

    Raises:
        DataError: the file is no text, the last frame is cut short, or another line stands where a frame must begin:
            what comes after it cannot be told apart.
    """
    number, line = 0, 0
    try:
        with open(path, encoding="utf-8") as stream:
            while header := stream.readline():
                line += 1
                if not header.strip():
                    continue
                if not re.fullmatch(r"\s*[0-9]{1,9}\s*", header):
                    before = f"check that frame {number - 1} has the atoms that it says" if number else "is it XYZ?"
                    raise DataError(
                        f"the number of atoms of frame {number} in line {line} of {path}",
                        repr(header.strip()[:60]),
                        before,
                    )
                atoms, first = int(header), line
                content = [header]
                while len(content) < atoms + 2 and (text := stream.readline()):
                    content.append(text)
                    line += 1
                if len(content) < atoms + 2:
                    raise DataError(
                        f"{atoms} atoms in frame {number} (line {first}) of {path}",
                        f"the end of the file after {max(0, len(content) - 2)}",
                        "get the whole file, or cut off the frame",
                    )
                yield number, first, "".join(content)
                number += 1
    except UnicodeDecodeError:
        raise DataError(
            f"frame {number} of {path} as text", "bytes that are none", "unpack it, if it is compressed"
        ) from None


def _ase_db(path: Path) -> Iterator[_Frame | Rejected]:
    """The rows of an ASE database in the order of their ids."""
    import ase.db

    last = 0
    try:
        # read only, before ASE opens it: ASE would make its tables in whatever database it is given
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as plain:
            tables = plain.execute("SELECT name FROM sqlite_master WHERE name = 'systems'").fetchall()
        if not tables:
            raise sqlite3.DatabaseError("it has no table systems")
        with ase.db.connect(path, type="db") as database:  # type: ignore[no-untyped-call]
            # some rows at a time: ASE holds all that it selects
            while rows := list(database.select(f"id>{last}", sort="id", limit=_ROWS_OF_DATABASE)):
                for row in rows:
                    where = f"{path}, id {row.id}"
                    properties = {**row.data, **{key: row[key] for key in row}}
                    yield _Frame(row.numbers.astype(np.int64), row.positions, bool(row.pbc.any()), properties, where)
                    last = row.id
    except (sqlite3.Error, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"read {path} after id {last}", f"no database of ASE, or a damaged one ({error})", "get it again"
        ) from None


PARSERS = {"extxyz": _extxyz, "ase_db": _ase_db}
