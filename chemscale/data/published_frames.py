"""Frames of published files: rMD17, MD17 and ANI-1x, read by slices, so that memory does not grow with their frames.

Formats, by the name of the parser:

- rmd17: one npz archive a molecule: nuclear_charges [A], coords [F, A, 3], energies [F], forces [F, A, 3] and
  old_indices [F], the places of its shuffled frames in the trajectory that they come from;
- md17: one npz archive a molecule: z [A], R [F, A, 3], E [F, 1], F [F, A, 3], in the order of the trajectory;
- ani1x: HDF5, one group a formula: atomic_numbers [A], coordinates [F, A, 3], wb97x_dz.energy [F] and
  wb97x_dz.forces [F, A, 3], NaN where a property was not computed.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.blocks import Block, Rejected, source_files, wanted_names
from chemscale.errors import DataError

# distances between atoms that are held at once: 8 MB
_DISTANCES = 1_000_000


def counts(located: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, int]:
    """Frames of every molecule, rejected ones included; only the shapes of arrays are read.

    Raises:
        DataError: a file is missing, empty or damaged, lacks a key, or holds arrays that do not fit each other.
    """
    found: Counter[str] = Counter()
    for path in source_files(located):
        found.update(PARSERS[located["parser"]].counts(path))
    return found


def blocks(located: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[Block | Rejected]:
    """The frames of the molecules that the section takes, by parts; raises what `counts` does."""
    # this also checks the keys and shapes of all files before the first frame is given
    found = counts(located, section)
    wanted = {name: found[name] for name in wanted_names(section, list(found), located)}
    for path in source_files(located):
        yield from PARSERS[located["parser"]].blocks(path, wanted)


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

    def blocks(self, path: Path, wanted: Mapping[str, int]) -> Iterator[Block | Rejected]:
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
                yield Block(molecule, numbers, positions, energies, forces, order, str(path), first)

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

    def blocks(self, path: Path, wanted: Mapping[str, int]) -> Iterator[Block | Rejected]:
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
                    yield Block(name, species, positions[part], energies[part], forces[part], order, where, first)

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


PARSERS: dict[str, _Npz | _Ani1x] = {
    "rmd17": _Npz("rmd17_", "nuclear_charges", "coords", "energies", "forces", "old_indices"),
    "md17": _Npz("md17_", "z", "R", "E", "F"),
    "ani1x": _Ani1x(),
}
