"""Frames with energies and forces from published and own files, and a check that their units are the stated ones.

Formats, by the name of the parser:

- rmd17: one npz archive a molecule: nuclear_charges [A], coords [F, A, 3], energies [F], forces [F, A, 3] and
  old_indices [F], the places of its shuffled frames in the trajectory that they come from;
- md17: one npz archive a molecule: z [A], R [F, A, 3], E [F, 1], F [F, A, 3], in the order of the trajectory;
- ani1x: HDF5, one group a formula: atomic_numbers [A], coordinates [F, A, 3], wb97x_dz.energy [F] and
  wb97x_dz.forces [F, A, 3], NaN where a property was not computed;
- extxyz: extended XYZ; ase_db: a SQLite database of ASE.

Files are read by slices, so that memory does not grow with their frames. Energies become eV, lengths angstrom and
forces eV/angstrom here and nowhere else. Frames, rows and places are counted from 0, lines of text from 1.
"""

from __future__ import annotations

import io
import math
import re
import sqlite3
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from chemscale.data.frames import CLOSEST
from chemscale.errors import ConfigError, DataError
from chemscale.units import energy_in_ev, length_in_angstrom

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]

# eV/angstrom on one atom. Two carbon nuclei 0.6 angstrom apart, the closest that is let through, repel each other with
# 340 (Ziegler-Biersack-Littmark), and frames of small molecules at 1,000 K reached 14: a larger one comes of a wrong
# unit or a failed calculation
LARGEST_FORCE = 300.0
_UNKNOWN = "unknown"  # the molecule of a frame that does not tell it
# distances between atoms that are held at once: 8 MB
_DISTANCES = 1_000_000
_ROWS_OF_DATABASE = 500


@dataclass(frozen=True)
class Structure:
    """A molecule at one point of its energy surface.

    `molecule` names it: the molecule of MD17 and rMD17, the group of ANI-1x, in own files the value of `molecule_key`
    or else the formula. `formula` is Hill's. `order` is the place in time of a trajectory (MD17, rMD17), else the place
    in the files among the frames of its molecule, rejected ones included. `numbers` [A] are atomic numbers, `positions`
    [A, 3] angstrom, `energy` is the total energy in eV, `forces` [A, 3] are eV/angstrom. `smiles` is None but where an
    own file has a text of this name.
    """

    molecule: str
    formula: str
    order: int
    numbers: NDArray[np.uint8]
    positions: Array
    energy: float
    forces: Array
    smiles: str | None


@dataclass(frozen=True)
class Rejected:
    """Frames of one molecule that cannot be used, the reason that they share, and where the first of them is."""

    molecule: str
    reason: str
    where: str
    count: int = 1


@dataclass(frozen=True)
class _Block:
    """Consecutive frames of one molecule in the units of their file; where it has rows, the first is row `first`."""

    molecule: str
    numbers: NDArray[np.int64]
    positions: NDArray[Any]
    energies: NDArray[Any]
    forces: NDArray[Any]
    order: NDArray[np.int64]
    where: str
    first: int | None
    smiles: str | None = None


@dataclass(frozen=True)
class _Frame:
    """A frame of an own file before any check; `properties` is all that the file tells of it, by name."""

    numbers: NDArray[np.int64]
    positions: Array
    periodic: bool
    properties: Mapping[str, Any]
    where: str


def read(located: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[Structure | Rejected]:
    """The frames of a source in the order of its files, and every rejected frame by its reason.

    Reasons: not_computed (NaN as energy or force), not_finite, unknown_element, atoms_too_close (nearer than 0.6
    angstrom), force_too_large, wrong_shape (forces of another shape than positions); in own files also periodic,
    no_energy, no_forces, no_molecule (without its `molecule_key`) and unreadable.

    Args:
        located: files (paths), parser, energy_unit and length_unit; forces are one over the other.
        section: molecules (the names of those to take, None for all), largest_force in eV/angstrom (300 by default)
            and, for own files, energy_key ("energy" by default), forces_key ("forces"), molecule_key (None: the formula
            names the molecule). A key is looked up among the calculator's results, then in info and arrays.

    Raises:
        DataError: a file is missing, empty, damaged, of another format or without frames, lacks a key, holds arrays
            that do not fit each other, or lacks a molecule asked for.
        ConfigError: the parser or a unit is unknown.
    """
    energy = energy_in_ev(located["energy_unit"])
    length = length_in_angstrom(located["length_unit"])
    largest = section.get("largest_force")
    largest = LARGEST_FORCE if largest is None else largest
    for item in _own(located, section) if located["parser"] in _OWN else _published(located, section):
        if isinstance(item, Rejected):
            yield item
        else:
            yield from _judged(item, energy, length, largest)


def counts(located: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, int]:
    """Frames of every molecule that `read` would give, rejected ones included; of arrays only the shapes are read.

    Takes and raises what `read` does, but for unknown units.
    """
    found: Counter[str] = Counter()
    if located["parser"] in _OWN:
        for frame in _own_frames(located):
            found[frame.molecule if isinstance(frame, Rejected) else _molecule(frame, section)] += 1
    else:
        parser = _parser(located, _PUBLISHED)
        for path in _files(located):
            found.update(parser.counts(path))
    return {name: found[name] for name in _wanted(section, list(found), located)}


def _parser(located: Mapping[str, Any], parsers: Mapping[str, Any]) -> Any:
    if located["parser"] not in parsers:
        known = ", ".join([*_PUBLISHED, *_OWN])
        raise ConfigError("the parser of a source of frames", repr(located["parser"]), f"give one of {known}")
    return parsers[located["parser"]]


def _files(located: Mapping[str, Any]) -> list[Path]:
    """The files of a source; `DataError` where there is none, or where one is plainly no data."""
    paths = [Path(path) for path in located["files"]]
    if not paths:
        raise DataError(
            f"read a source of format {located['parser']}", "no file", "name the files that hold its frames"
        )
    for path in paths:
        if not path.is_file():
            raise DataError(f"read {path}", "no such file", "check its path, or get it again")
        with open(path, "rb") as stream:
            start = stream.read(200).lstrip()
        if not start:
            raise DataError(f"read {path}", "an empty file", "get it again")
        if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            raise DataError(f"read {path}", "a web page instead of data", "get it again")
        if start.startswith(b"version https://git-lfs"):
            raise DataError(
                f"read {path}", "a pointer of Git LFS instead of data", "get the file itself (git lfs pull)"
            )
    return paths


def _wanted(section: Mapping[str, Any], found: list[str], located: Mapping[str, Any]) -> list[str]:
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
    return [name for name in found if name in (*asked, _UNKNOWN)]


# --- from checked arrays to structures --------------------------------------------------------------------------------


def _judged(block: _Block, energy: float, length: float, largest: float) -> Iterator[Structure | Rejected]:
    """The good frames of a block in eV and angstrom, then its rejected ones, counted by reason."""
    positions = np.asarray(block.positions, dtype=np.float64) * length
    energies = np.asarray(block.energies, dtype=np.float64).reshape(-1) * energy
    forces = np.asarray(block.forces, dtype=np.float64) * (energy / length)
    numbers = block.numbers
    known = _elements(numbers)
    # a frame of NaN or infinities is near or far from nothing: it has a reason of its own
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.zeros((len(positions), len(numbers), len(numbers)))
        for axis in range(3):
            squares += (positions[:, :, None, axis] - positions[:, None, :, axis]) ** 2
        squares[:, np.arange(len(numbers)), np.arange(len(numbers))] = np.inf
        too_close = squares.min(axis=(1, 2), initial=np.inf) < CLOSEST**2
        too_large = np.linalg.norm(forces, axis=2).max(axis=1, initial=0) > largest
    reasons = np.select(
        [
            np.full(len(positions), not known),
            np.isnan(energies) | np.isnan(forces).any(axis=(1, 2)),
            ~(np.isfinite(energies) & np.isfinite(forces).all(axis=(1, 2)) & np.isfinite(positions).all(axis=(1, 2))),
            too_close,
            too_large,
        ],
        ["unknown_element", "not_computed", "not_finite", "atoms_too_close", "force_too_large"],
        default="",
    )
    if known:
        formula, species = _formula(numbers), numbers.astype(np.uint8)
        for row in np.flatnonzero(reasons == ""):
            yield Structure(
                block.molecule,
                formula,
                int(block.order[row]),
                species,
                positions[row],
                float(energies[row]),
                forces[row],
                block.smiles,
            )
    for reason in sorted(set(reasons.tolist()) - {""}):
        rows = np.flatnonzero(reasons == reason)
        place = "" if block.first is None else f", row {block.first + rows[0]}"
        yield Rejected(block.molecule, reason, f"{block.where}{place}", len(rows))


def _elements(numbers: NDArray[Any]) -> bool:
    """Whether all are atomic numbers of elements."""
    return bool(((numbers > 0) & (numbers < len(chemical_symbols))).all())


def _formula(numbers: NDArray[np.int64]) -> str:
    """Hill's formula."""
    return str(Formula.from_list([chemical_symbols[number] for number in numbers]).format("hill"))


# --- published files --------------------------------------------------------------------------------------------------


def _published(located: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[_Block | Rejected]:
    parser = _parser(located, _PUBLISHED)
    # this also checks the keys and shapes of all files before the first frame is given
    wanted = counts(located, section)
    for path in _files(located):
        yield from parser.blocks(path, wanted)


def _rows_at_once(atoms: int) -> int:
    return max(1, _DISTANCES // max(1, atoms * atoms))


def _fitting(where: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of frames, by the shapes of numbers, positions, energies, forces and, if any, places, in this order.

    Raises:
        DataError: the shapes do not fit each other; those of one frame's forces may, for its frames are then rejected.
    """
    numbers, positions, energies, forces, *places = shapes.values()
    frames = positions[0] if positions else 0
    if (
        len(numbers) != 1
        or numbers[0] == 0
        or positions != (frames, numbers[0], 3)
        or energies not in ((frames,), (frames, 1))
        or forces[:1] != (frames,)
        or any(place != (frames,) for place in places)
    ):
        raise DataError(
            f"arrays of the same frames and atoms in {where}",
            ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items()),
            "get the file again, or mend its arrays",
        )
    return frames


def _missing(missing: list[str], where: str, kind: str, found: list[str]) -> DataError:
    return DataError(
        f"{', '.join(missing)} in {where}",
        f"the {kind} {', '.join(found) or '(none)'}",
        "check that it has this format",
    )


def _check_type(key: str, where: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise DataError(
            f"numbers as {key} in {where}", "pickled objects, which can run code", "save it as a plain array"
        )
    if dtype.kind not in "fiu":
        raise DataError(
            f"numbers as {key} in {where}", f"values of type {dtype}", "save it as a plain array of numbers"
        )


def _whole(values: NDArray[Any], key: str, where: str) -> NDArray[np.int64]:
    """Whole numbers as such, whatever type the file gives them; `DataError` where one is none."""
    if not np.all(np.isfinite(values)) or np.any(values != np.round(values)):
        raise DataError(f"whole numbers as {key} in {where}", "others", "check that it has this format")
    return values.astype(np.int64)


class _Member:
    """An array inside an npz archive, whose rows are read one part after the other."""

    def __init__(self, stream: IO[bytes], path: Path, key: str) -> None:
        self._stream, self._path, self._key = stream, path, key
        try:
            version = np.lib.format.read_magic(self._stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._by_columns, self._dtype = header(self._stream)
        except ValueError as error:
            raise DataError(f"read {key} in {path}", f"no array of numpy ({error})", "get it again") from None
        _check_type(key, str(path), self._dtype)
        self._whole: NDArray[Any] | None = None
        self._next = 0

    def rows(self, count: int) -> NDArray[Any]:
        """The next `count` rows, of which there must be as many."""
        if not self._by_columns:
            return self._read((count, *self.shape[1:]))
        # as arrays that come from MATLAB are stored: a row lies all over the file
        if self._whole is None:
            self._whole = self._read(self.shape[::-1]).T
        self._next += count
        return self._whole[self._next - count : self._next]

    def _read(self, shape: tuple[int, ...]) -> NDArray[Any]:
        size = math.prod(shape) * self._dtype.itemsize
        content = self._stream.read(size)
        if len(content) < size:
            raise DataError(f"read {self._key} in {self._path}", "an array that is cut short", "get it again")
        return np.frombuffer(content, self._dtype).reshape(shape)


@dataclass(frozen=True)
class _Npz:
    """The format of npz archives of one molecule each: what stands before its name, and the arrays' keys."""

    prefix: str
    numbers: str
    positions: str
    energies: str
    forces: str
    places: str | None = None

    def counts(self, path: Path) -> dict[str, int]:
        """The molecule and its frames."""
        with self._open(path) as (frames, _):
            return {self._molecule(path): frames}

    def blocks(self, path: Path, wanted: Mapping[str, int]) -> Iterator[_Block | Rejected]:
        """The frames by parts, if the molecule is one of those wanted."""
        molecule = self._molecule(path)
        if molecule not in wanted:
            return
        with self._open(path) as (frames, members):
            if members[self.forces].shape != members[self.positions].shape:
                yield Rejected(molecule, "wrong_shape", f"{path}, row 0", frames)
                return
            atoms = members[self.numbers].shape[0]
            numbers = _whole(members[self.numbers].rows(atoms), self.numbers, str(path))
            step = _rows_at_once(atoms)
            for first in range(0, frames, step):
                count = min(step, frames - first)
                positions, energies, forces = (
                    members[key].rows(count) for key in (self.positions, self.energies, self.forces)
                )
                order = np.arange(first, first + count)
                if self.places is not None:
                    order = _whole(members[self.places].rows(count), self.places, str(path))
                yield _Block(molecule, numbers, positions, energies, forces, order, str(path), first)

    def _molecule(self, path: Path) -> str:
        return path.stem.removeprefix(self.prefix)

    @contextmanager
    def _open(self, path: Path) -> Iterator[tuple[int, dict[str, _Member]]]:
        """The number of frames, and the arrays by their keys."""
        keys = [self.numbers, self.positions, self.energies, self.forces]
        if self.places is not None:
            keys.append(self.places)
        try:
            with zipfile.ZipFile(path) as archive, ExitStack() as streams:
                found = [name.removesuffix(".npy") for name in archive.namelist()]
                if missing := [key for key in keys if key not in found]:
                    raise _missing(missing, str(path), "arrays", found)
                members = {key: _Member(streams.enter_context(archive.open(f"{key}.npy")), path, key) for key in keys}
                frames = _fitting(str(path), {key: member.shape for key, member in members.items()})
                if frames == 0:
                    raise DataError(f"read {path}", "no frames", "get it again")
                yield frames, members
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"read {path}", f"no npz archive, or a damaged one ({error})", "get it again") from None


class _Ani1x:
    """The format of ANI-1x; a group without frames is left out."""

    _KEYS = ("atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces")

    def counts(self, path: Path) -> dict[str, int]:
        """The groups and their frames."""
        with self._open(path) as file:
            found = {name: self._frames(group, path, name) for name, group in file.items()}
        found = {name: frames for name, frames in found.items() if frames}
        if not found:
            raise DataError(f"read {path}", "no frames", "get it again")
        return found

    def blocks(self, path: Path, wanted: Mapping[str, int]) -> Iterator[_Block | Rejected]:
        """The frames of the groups wanted, by parts."""
        with self._open(path) as file:
            for name, frames in wanted.items():
                where = f"{path}, group {name}"
                numbers, positions, energies, forces = (file[name][key] for key in self._KEYS)
                if forces.shape != positions.shape:
                    yield Rejected(name, "wrong_shape", f"{where}, row 0", frames)
                    continue
                species = _whole(numbers[:], self._KEYS[0], where)
                step = _rows_at_once(len(species))
                for first in range(0, frames, step):
                    part = slice(first, min(first + step, frames))
                    order = np.arange(part.start, part.stop)
                    yield _Block(name, species, positions[part], energies[part], forces[part], order, where, first)

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                yield file
        except (OSError, RuntimeError) as error:
            raise DataError(f"read {path}", f"no HDF5 file, or a damaged one ({error})", "get it again") from None

    def _frames(self, group: Any, path: Path, name: str) -> int:
        import h5py

        if not isinstance(group, h5py.Group):
            raise _missing(["a group for every formula"], str(path), "array", [name])
        where = f"{path}, group {name}"
        if missing := [key for key in self._KEYS if not isinstance(group.get(key), h5py.Dataset)]:
            raise _missing(missing, where, "keys", list(group))
        for key in self._KEYS:
            _check_type(key, where, group[key].dtype)
        return _fitting(where, {key: group[key].shape for key in self._KEYS})


_PUBLISHED: dict[str, _Npz | _Ani1x] = {
    "rmd17": _Npz("rmd17_", "nuclear_charges", "coords", "energies", "forces", "old_indices"),
    "md17": _Npz("md17_", "z", "R", "E", "F"),
    "ani1x": _Ani1x(),
}


# --- own files --------------------------------------------------------------------------------------------------------


def _own(located: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[_Block | Rejected]:
    """The frames of own files, each a block, in which all that concerns one frame alone is right."""
    found: Counter[str] = Counter()
    asked = section.get("molecules")
    for frame in _own_frames(located):
        molecule = frame.molecule if isinstance(frame, Rejected) else _molecule(frame, section)
        order = found[molecule]
        found[molecule] += 1
        if asked is not None and molecule not in (*asked, _UNKNOWN):
            continue
        yield frame if isinstance(frame, Rejected) else _block(frame, molecule, order, section)
    _wanted(section, list(found), located)


def _own_frames(located: Mapping[str, Any]) -> Iterator[_Frame | Rejected]:
    """The frames of own files, unchecked but for what cannot be read; `DataError` where a file has none."""
    parser = _parser(located, _OWN)
    for path in _files(located):
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
        return str(frame.properties.get(key, _UNKNOWN))
    return _formula(frame.numbers) if _elements(frame.numbers) else _UNKNOWN


def _block(frame: _Frame, molecule: str, order: int, section: Mapping[str, Any]) -> _Block | Rejected:
    """A frame of an own file as a block of one, or the reason why it cannot be."""
    energy_key, forces_key = section.get("energy_key") or "energy", section.get("forces_key") or "forces"
    where, properties = frame.where, frame.properties
    energy, forces = (properties.get(key) for key in (energy_key, forces_key))
    reason = None
    if len(frame.numbers) == 0:
        reason = "unreadable"
    elif not _elements(frame.numbers):
        reason = "unknown_element"
    elif molecule == _UNKNOWN:
        reason = "no_molecule"
    elif frame.periodic:
        reason = "periodic"
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
    return _Block(
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
            yield Rejected(_UNKNOWN, "unknown_element", f"{where}: {error}")
        except (ValueError, TypeError, IndexError, AttributeError, OSError) as error:
            yield Rejected(_UNKNOWN, "unreadable", f"{where}: {error}")
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


_OWN = {"extxyz": _extxyz, "ase_db": _ase_db}
