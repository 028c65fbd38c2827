"""From shards to the arrays that training reads (`chemscale.data.arrays`), in a stream."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.arrays import cutoff_folder, load_frames
from chemscale.data.manifest import read_manifest
from chemscale.data.neighbours import neighbour_edges
from chemscale.data.shards import stream
from chemscale.data.subsets import ALL_SPLITS, MAX_CLUSTERS, cluster_of
from chemscale.families import LANGUAGE
from chemscale.io import atomic_path, disk_full_told, sha256_file, write_json

# whose neighbours are found in one go
_ATOMS_AT_ONCE = 200_000


class _Writer:
    """A `.npy` file that is written in parts, its length known at the end: memory does not grow with it."""

    _HEADER = 128  # bytes, as many as a header of any length of ours takes

    def __init__(self, file: IO[bytes], kind: str, width: int | None = None) -> None:
        self._kind, self._width, self._numbers = np.dtype(kind), width, 0
        self._file = file
        self._file.write(bytes(self._HEADER))

    def add(self, part: NDArray[Any]) -> None:
        """Append values; flat, or rows of the file's width."""
        self._file.write(np.ascontiguousarray(part, self._kind).tobytes())
        self._numbers += part.size

    def finish(self) -> None:
        """Write the header (NumPy's format, version 1.0)."""
        shape = (self._numbers,) if self._width is None else (self._numbers // self._width, self._width)
        told = repr({"descr": self._kind.str, "fortran_order": False, "shape": shape})
        text = told.ljust(self._HEADER - 11).encode() + b"\n"
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


_Parts = Iterator[dict[str, NDArray[Any]]]


def _write(folder: Path, data_digest: str, writers: Mapping[str, tuple[str, int | None]], parts: _Parts) -> None:
    """Write arrays whose values come in parts, by name; then their record, the last."""
    # renamed when they are whole: who has former ones mapped into memory keeps them
    with disk_full_told(folder / "arrays.json"), ExitStack() as opened:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "arrays.json").unlink(missing_ok=True)
        paths = {name: opened.enter_context(atomic_path(folder / f"{name}.npy")) for name in writers}
        files = {
            name: _Writer(opened.enter_context(open(paths[name], "wb")), kind, width)
            for name, (kind, width) in writers.items()
        }
        for part in parts:
            for name, values in part.items():
                files[name].add(values)
        for file in files.values():
            file.finish()
    digests = {name: sha256_file(folder / f"{name}.npy") for name in files}
    write_json(folder / "arrays.json", {"data_digest": data_digest, "files": digests})


def prepare(folder: Path) -> None:
    """Write `arrays/` of a data folder from its shards, their record last; and remove the runs, which nobody needs now.

    Raises:
        DataError: the folder is not whole.
    """
    manifest = read_manifest(folder)
    # the runs that the shards were made of have done their service
    shutil.rmtree(folder / "work", ignore_errors=True)
    many = manifest["splits"]["test"]["groups"] > MAX_CLUSTERS if "test" in manifest["splits"] else False
    clusters: dict[str, int] = {}
    language = manifest["domain"] == LANGUAGE

    def parts() -> _Parts:
        columns = ["tokens"] if language else ["species", "positions", "forces", "energy"]
        end = np.zeros(1, np.int64)
        for table in stream(folder, ["split", "group", *columns]):
            splits = table["split"].to_pylist()
            test = [group for group, split in zip(table["group"].to_pylist(), splits, strict=True) if split == "test"]
            named = [clusters.setdefault(cluster_of(group, many), len(clusters)) for group in test]
            flat = {name: table[name].combine_chunks() for name in columns}
            sized = flat["tokens" if language else "species"]
            offsets = end[-1] + np.cumsum(np.diff(sized.offsets.to_numpy()), dtype=np.int64)
            part = {
                "splits": np.array([ALL_SPLITS.index(split) for split in splits], np.uint8),
                "test_clusters": np.array(named, np.int32),
                "offsets": np.concatenate([end, offsets]) if end[-1] == 0 else offsets,
            }
            end = offsets[-1:]
            for name, values in flat.items():
                part["energies" if name == "energy" else name] = (
                    values.to_numpy() if name == "energy" else values.flatten().to_numpy()
                )
            yield part

    kinds: dict[str, tuple[str, int | None]] = {
        "splits": ("|u1", None),
        "test_clusters": ("<i4", None),
        "offsets": ("<i8", None),
    }
    if language:
        kinds["tokens"] = ("<u2", None)
    else:
        kinds |= {"species": ("|u1", None), "energies": ("<f8", None), "positions": ("<f8", 3), "forces": ("<f8", 3)}

    def named_parts() -> _Parts:
        yield from parts()
        write_json(folder / "arrays" / "cluster_names.json", list(clusters))

    _write(folder / "arrays", manifest["digest"], kinds, named_parts())


def prepare_neighbours(folder: Path, cutoff: float) -> None:
    """Write the neighbour lists of a data folder's frames within a cutoff in angstrom, from its arrays.

    Raises:
        DataError: the arrays are not whole.
    """
    data = load_frames(folder)

    def parts() -> _Parts:
        frames = len(data.offsets) - 1
        end = np.zeros(1, np.int64)
        last = 0
        while last < frames:
            first = last
            last = int(np.searchsorted(data.offsets, data.offsets[first] + _ATOMS_AT_ONCE, "right")) - 1
            last = max(last, first + 1)  # a frame of more atoms is one part
            atoms = slice(int(data.offsets[first]), int(data.offsets[last]))
            local = data.offsets[first : last + 1] - data.offsets[first]
            edges, edge_offsets = neighbour_edges(data.positions[atoms], local, cutoff)
            begins = np.repeat(local[:-1], np.diff(edge_offsets))
            offsets = end[-1] + edge_offsets[1:]
            yield {
                "edges": (edges - begins).T,
                "offsets": np.concatenate([end, offsets]) if first == 0 else offsets,
            }
            end = offsets[-1:]

    kinds: dict[str, tuple[str, int | None]] = {"edges": ("<i4", 2), "offsets": ("<i8", None)}
    _write(folder / cutoff_folder(cutoff), data.manifest["digest"], kinds, parts())
