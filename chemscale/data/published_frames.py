"""Frames of published files: rMD17, MD17 and ANI-1x, read by slices, so that memory does not grow with their frames.

Formats, by the name of the parser:

- rmd17: one npz archive a molecule: nuclear_charges [A], coords [F, A, 3], energies [F], forces [F, A, 3] and
  old_indices [F], the places of its shuffled frames in the trajectory that they come from;
- md17: one npz archive a molecule: z [A], R [F, A, 3], E [F, 1], F [F, A, 3], in the order of the trajectory;
- ani1x: HDF5, one group a formula: atomic_numbers [A], coordinates [F, A, 3], wb97x_dz.energy [F] and
  wb97x_dz.forces [F, A, 3], NaN where a property was not computed.

A user's file in one of these formats may also tell of charge and spin, under any key of `electronic_states`: one value,
or one for each frame, for each atom, or for each atom of each frame.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.blocks import LARGEST_MOLECULE, Block, Rejected, as_array, source_files, wanted_names
from chemscale.data.electronic_states import is_known, statements
from chemscale.errors import DataError

# distances between atoms that are held at once: 8 MB
_DISTANCES = 1_000_000
# arrays of numbers compress to a half or a tenth; what claims more, and is large, fills memory or runs for hours
_LARGEST_EXPANSION = 100
_LARGE = 1 << 30  # bytes
_LARGEST_CHUNK = 1 << 28  # bytes
_UNKNOWN_KEY = "not read"  # the value of a key that looks like charge or spin, and is not known


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
    own = section.get("source", "file") == "file"
    for path in source_files(located):
        yield from PARSERS[located["parser"]].blocks(path, wanted, own)


def _rows_at_once(atoms: int) -> int:
    return max(1, _DISTANCES // max(1, atoms * atoms))


def _fitting(where: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of frames, by the shapes of numbers, positions, energies, forces and, if any, places, in this order.

    Raises:
        DataError: the shapes do not fit each other; those of one frame's forces may, for its frames are then rejected.
    """
    numbers, positions, energies, forces, *places = shapes.values()
    frames = positions[0] if positions else 0
    if len(numbers) == 1 and numbers[0] > LARGEST_MOLECULE:
        raise DataError(f"at most {LARGEST_MOLECULE:,} atoms in {where}", f"{numbers[0]:,}", "leave it out")
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


def _check_size(key: str, where: str, size: int, stored: int) -> None:
    if size > _LARGE and size > _LARGEST_EXPANSION * max(1, stored):
        raise DataError(
            f"at most {_LARGEST_EXPANSION} times the stored size as {key} in {where}",
            f"{size:,} bytes from {stored:,}",
            "get the file from a source that you trust",
        )


def _of_part(values: Any, count: int) -> NDArray[Any]:
    """A value that all frames share, for each of `count` frames."""
    array = as_array(values)
    return np.broadcast_to(array, (count, *array.shape))


def _too_large(shape: tuple[int, ...]) -> str:
    return f"an array of the shape {list(shape)}"


class _Member:
    """An array inside an npz archive, whose rows are read one part after the other."""

    def __init__(self, stream: IO[bytes], path: Path, key: str) -> None:
        self._stream, self._path, self._key = stream, path, key
        try:
            version = np.lib.format.read_magic(self._stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._by_columns, self._dtype = header(self._stream)
            if any(length < 0 for length in self.shape):
                raise ValueError(f"of shape {self.shape}")
        except (ValueError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
            raise DataError(f"read {key} in {path}", f"no array of numpy ({error})", "get it again") from None
        _check_type(key, str(path), self._dtype)
        self._columns: NDArray[Any] | None = None
        self._next = 0

    def rows(self, count: int) -> NDArray[Any]:
        """The next `count` rows, of which there must be as many."""
        if not self._by_columns:
            return self._read((count, *self.shape[1:]))
        # as arrays that come from MATLAB are stored: a row lies all over the file
        if self._columns is None:
            size = math.prod(self.shape) * self._dtype.itemsize
            if size > _LARGE:
                where = f"{self._key} in {self._path}"
                raise DataError(
                    f"read {where}", f"{size:,} bytes stored by columns", "save the array by rows (C order)"
                )
            self._columns = self._read(self.shape[::-1]).T
        self._next += count
        return self._columns[self._next - count : self._next]

    def whole(self) -> NDArray[Any]:
        """The whole array, of which nothing was read before."""
        return self.rows(self.shape[0]) if self.shape else self._read(())

    def _read(self, shape: tuple[int, ...]) -> NDArray[Any]:
        size = math.prod(shape) * self._dtype.itemsize
        content = self._stream.read(size)
        if len(content) < size:
            raise DataError(f"read {self._key} in {self._path}", "an array that is cut short", "get it again")
        return np.frombuffer(content, self._dtype).reshape(shape)


def _shared(member: _Member | None) -> Any:
    """A value that tells of charge and spin of all frames of an archive; a word where its key is not known."""
    if member is None:
        return _UNKNOWN_KEY
    return member.whole() if math.prod(member.shape) <= LARGEST_MOLECULE else _too_large(member.shape)


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
        with self._open(path, False) as (frames, _, _):
            return {self._molecule(path): frames}

    def blocks(self, path: Path, wanted: Mapping[str, int], own: bool) -> Iterator[Block | Rejected]:
        """The frames by parts, if the molecule is one of those wanted; of a user's `own` file with charge and spin."""
        molecule = self._molecule(path)
        if molecule not in wanted:
            return
        with self._open(path, own) as (frames, members, stated):
            if members[self.forces].shape != members[self.positions].shape:
                yield Rejected(molecule, "wrong_shape", f"{path}, row 0", frames)
                return
            atoms = members[self.numbers].shape[0]
            numbers = _whole(members[self.numbers].rows(atoms), self.numbers, str(path))
            by_frame = {key: member for key, member in stated.items() if member and member.shape[:1] == (frames,)}
            shared = {key: _shared(member) for key, member in stated.items() if key not in by_frame}
            step = _rows_at_once(atoms)
            for first in range(0, frames, step):
                count = min(step, frames - first)
                positions, energies, forces = (
                    members[key].rows(count) for key in (self.positions, self.energies, self.forces)
                )
                order = np.arange(first, first + count)
                if self.places is not None:
                    order = _whole(members[self.places].rows(count), self.places, str(path))
                told = {key: member.rows(count) for key, member in by_frame.items()}
                told |= {key: _of_part(value, count) for key, value in shared.items()}
                yield Block(
                    molecule,
                    numbers,
                    positions,
                    energies,
                    forces,
                    order,
                    str(path),
                    first,
                    stated=told if own else None,
                )

    def _molecule(self, path: Path) -> str:
        return path.stem.removeprefix(self.prefix)

    @contextmanager
    def _open(self, path: Path, own: bool) -> Iterator[tuple[int, dict[str, _Member], dict[str, _Member | None]]]:
        """The number of frames, the arrays by their keys, and those that tell of charge and spin; None if not known."""
        keys = [self.numbers, self.positions, self.energies, self.forces]
        if self.places is not None:
            keys.append(self.places)
        try:
            with zipfile.ZipFile(path) as archive, ExitStack() as streams:
                found = [name.removesuffix(".npy") for name in archive.namelist()]
                if missing := [key for key in keys if key not in found]:
                    raise _missing(missing, str(path), "arrays", found)

                def member(key: str) -> _Member:
                    info = archive.getinfo(f"{key}.npy")
                    _check_size(key, str(path), info.file_size, info.compress_size)
                    return _Member(streams.enter_context(archive.open(info)), path, key)

                members = {key: member(key) for key in keys}
                others = [key for key in statements(dict.fromkeys(found)) if own and key not in keys]
                stated = {key: member(key) if is_known(key) else None for key in others}
                frames = _fitting(str(path), {key: member.shape for key, member in members.items()})
                if frames == 0:
                    raise DataError(f"read {path}", "no frames", "get it again")
                yield frames, members, stated
        except DataError:
            raise
        except (
            *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
            *(EOFError, KeyError, OSError, RuntimeError, ValueError),
        ) as error:
            raise DataError(f"read {path}", f"no npz archive, or a damaged one ({error})", "get it again") from None


class _Ani1x:
    """The format of ANI-1x; a group without frames is left out."""

    _KEYS = ("atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces")

    def counts(self, path: Path) -> dict[str, int]:
        """The groups and their frames."""
        with self._open(path) as file:
            found = {name: self._frames(self._linked(file, name, path), path, name) for name in file}
        found = {name: frames for name, frames in found.items() if frames}
        if not found:
            raise DataError(f"read {path}", "no frames", "get it again")
        return found

    def blocks(self, path: Path, wanted: Mapping[str, int], own: bool) -> Iterator[Block | Rejected]:
        """The frames of the groups wanted, by parts; of a user's `own` file with charge and spin."""
        with self._open(path) as file:
            for name in wanted:
                if name not in file:
                    continue  # it is in another file of the source
                where, group = f"{path}, group {name}", file[name]
                numbers, positions, energies, forces = (group[key] for key in self._KEYS)
                frames = positions.shape[0]
                if forces.shape != positions.shape:
                    yield Rejected(name, "wrong_shape", f"{where}, row 0", frames)
                    continue
                species = _whole(numbers[:], self._KEYS[0], where)
                stated = self._stated(file, group, where, frames) if own else {}
                step = _rows_at_once(len(species))
                for first in range(0, frames, step):
                    part = slice(first, min(first + step, frames))
                    order = np.arange(part.start, part.stop)
                    told = {
                        key: values[part] if np.shape(values)[:1] == (frames,) else _of_part(values, len(order))
                        for key, values in stated.items()
                    }
                    yield Block(
                        name,
                        species,
                        positions[part],
                        energies[part],
                        forces[part],
                        order,
                        where,
                        first,
                        stated=told if own else None,
                    )

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                yield file
        except DataError:
            raise
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            # all that h5py raises for a damaged file
            raise DataError(f"read {path}", f"no HDF5 file, or a damaged one ({error})", "get it again") from None

    def _frames(self, group: Any, path: Path, name: str) -> int:
        import h5py

        if not isinstance(group, h5py.Group):
            raise _missing(["a group for every formula"], str(path), "array", [name])
        where = f"{path}, group {name}"
        arrays = {key: self._linked(group, key, where) for key in self._KEYS if key in group.keys()}  # noqa: SIM118
        if missing := [key for key in self._KEYS if not isinstance(arrays.get(key), h5py.Dataset)]:
            raise _missing(missing, where, "keys", list(group))
        for key, array in arrays.items():
            self._check(array, key, where)
        return _fitting(where, {key: arrays[key].shape for key in self._KEYS})

    def _stated(self, file: Any, group: Any, where: str, frames: int) -> dict[str, Any]:
        """What tells of charge and spin by key: arrays of the group, and attributes of the file and of the group.

        Arrays with a value for each frame stay in the file.
        """
        found: dict[str, Any] = {}
        for holder in (file.attrs, group.attrs):
            found |= {key: holder[key] if is_known(key) else _UNKNOWN_KEY for key in statements(dict.fromkeys(holder))}
        for key in statements(dict.fromkeys(group)):
            if key in self._KEYS:
                continue
            found[key] = _UNKNOWN_KEY
            if is_known(key):
                array = self._linked(group, key, where)
                self._check(array, key, where)
                if array.shape[:1] == (frames,):
                    found[key] = array
                else:
                    found[key] = array[()] if array.size <= LARGEST_MOLECULE else _too_large(array.shape)
        return found

    def _linked(self, group: Any, key: str, where: Path | str) -> Any:
        """What a group holds under a key, which must be in the same file."""
        import h5py

        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise DataError(
                f"read {key} in {where}",
                "a link, which may lead to any file of this machine",
                "get a file that holds its data",
            )
        return group[key]

    def _check(self, array: Any, key: str, where: str) -> None:
        """See that an array is numbers that lie in the file, in no more memory than the file's size makes plausible."""
        import h5py

        if not isinstance(array, h5py.Dataset) or array.shape is None:
            raise DataError(
                f"an array {key} in {where}", "a group, or an array without a shape", "check that it has this format"
            )
        _check_type(key, where, array.dtype)
        if array.is_virtual or array.external:
            raise DataError(
                f"read {key} in {where}",
                "an array stored in other files, which may be any of this machine",
                "get a file that holds its data",
            )
        _check_size(key, where, int(array.nbytes), int(array.id.get_storage_size()))
        if array.chunks is not None and math.prod(array.chunks) * array.dtype.itemsize > _LARGEST_CHUNK:
            raise DataError(
                f"read {key} in {where}", f"chunks of more than {_LARGEST_CHUNK:,} bytes", "store it in smaller chunks"
            )


PARSERS: dict[str, _Npz | _Ani1x] = {
    "rmd17": _Npz("rmd17_", "nuclear_charges", "coords", "energies", "forces", "old_indices"),
    "md17": _Npz("md17_", "z", "R", "E", "F"),
    "ani1x": _Ani1x(),
}
