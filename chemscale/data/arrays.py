"""What training reads: arrays made from the shards once, mapped into memory by every cell that needs them.

`arrays/` of a data folder holds `.npy` files and, last, `arrays.json` with the digest of the data and the sha256 of
each file. Reading them takes numpy alone: a compute node has no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.data.manifest import read_manifest
from chemscale.data.subsets import ALL_SPLITS
from chemscale.errors import DataError
from chemscale.io import digest, read_json, sha256_file

# names of the test clusters of a set of some hundred million molecules
_MAX_NAMES_BYTES = 2**34


@dataclass(frozen=True)
class DataArrays:
    """What both domains share: the split of every row, and the test cluster of every test row, in the shards' order."""

    folder: Path
    manifest: dict[str, Any]
    splits: NDArray[np.uint8]  # places in ALL_SPLITS
    test_clusters: NDArray[np.int32]  # places in cluster_names
    cluster_names: list[str]

    def split(self, name: str) -> tuple[NDArray[np.int64], str]:
        """The places of a split's rows, and the digest of their row digests."""
        index = np.flatnonzero(self.splits == ALL_SPLITS.index(name))
        return index, str(self.manifest["splits"][name]["digest"])

    def subset(self, seed: int, num_samples: int, *, drawn: bool = False) -> tuple[NDArray[np.int64], str]:
        """The places of a subset's rows, and the digest of their row digests.

        They are in the shards' order; with `drawn` in that of the draw, in which a smaller subset is the beginning of a
        larger one.

        Raises:
            DataError: the subset is missing, or one of other data.
        """
        import pyarrow.parquet as pq

        told, path = _subset_told(self.folder, seed, num_samples), _subset_path(self.folder, seed, num_samples)
        rows = pq.read_table(path, partitioning=None)
        places: NDArray[np.int64] = rows["place"].to_numpy()
        if told.get("data_digest") != self.manifest["digest"] or len(places) != num_samples:
            raise DataError(f"read {path}", "a subset of other data than these", "run the data stage again")
        if drawn:
            places = places[np.argsort(rows["key"].to_numpy(), kind="stable")]
        return places, told["subset_digest"]


def _subset_path(folder: Path, seed: int, num_samples: int) -> Path:
    return folder / "subsets" / f"seed{seed}" / f"n{num_samples}.parquet"


def _subset_told(folder: Path, seed: int, num_samples: int) -> dict[str, str]:
    """What a subset's file says of itself; `DataError` where there is none, or a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _subset_path(folder, seed, num_samples)
    if not path.exists():
        raise DataError(f"read the subset of {num_samples} rows of seed {seed}", f"no {path}", "run its stage")
    try:
        found = pq.read_metadata(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"read {path}", str(error), "delete it and run its stage again") from None
    if b"subset_digest" not in found:
        raise DataError(f"read {path}", "no digest of its rows", "delete it and run its stage again")
    return {key.decode(): value.decode() for key, value in found.items()}


@dataclass(frozen=True)
class LanguageData(DataArrays):
    """Tokens of all molecules, one after the other: molecule i is tokens[offsets[i] : offsets[i + 1]]."""

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class FrameData(DataArrays):
    """Frames one after the other: frame i holds atoms offsets[i] ... offsets[i + 1] - 1; eV, angstrom, eV/angstrom."""

    species: NDArray[np.uint8]
    positions: NDArray[np.float64]
    forces: NDArray[np.float64]
    energies: NDArray[np.float64]
    offsets: NDArray[np.int64]

    @cached_property
    def _cutoffs(self) -> dict[float, tuple[NDArray[np.int32], NDArray[np.int64]]]:
        return {}

    def edges(self, cutoff: float) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Edges [E, 2] (receiver, sender) within a cutoff in angstrom, and the offsets [F + 1] of the frames' edges.

        Atoms are numbered within their frame.

        Raises:
            DataError: they were not made for that cutoff.
        """
        if cutoff not in self._cutoffs:
            files = _checked(self.folder / cutoff_folder(cutoff), self.manifest["digest"])
            self._cutoffs[cutoff] = (files["edges"], files["offsets"])
        return self._cutoffs[cutoff]


def cutoff_folder(cutoff: float) -> str:
    """The folder, in a data folder, of the neighbour lists of a cutoff in angstrom."""
    return f"neighbours/{cutoff:g}"


def content(folder: Path, cutoff: float | None, subset: tuple[int, int] | None) -> str:
    """The digest of what a run reads of a data folder, by the records of its arrays; without hashing them again.

    Args:
        folder: the data folder.
        cutoff: of its neighbour lists in angstrom, if it uses any.
        subset: seed and number of samples, if it draws one.

    Raises:
        RecordError: a record is missing.
    """
    records = [read_json(folder / "arrays" / "arrays.json")]
    if cutoff is not None:
        records.append(read_json(folder / cutoff_folder(cutoff) / "arrays.json"))
    if subset is not None:
        records.append(_subset_told(folder, *subset)["subset_digest"])
    return digest(records)


def load_language(folder: Path) -> LanguageData:
    """The tokens of a language data folder; `DataError` where its arrays are not whole."""
    return LanguageData(**_common(folder))


def load_frames(folder: Path) -> FrameData:
    """The frames of a potential data folder; `DataError` where its arrays are not whole."""
    return FrameData(**_common(folder))


def _common(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    files = _checked(folder / "arrays", manifest["digest"])
    names = read_json(folder / "arrays" / "cluster_names.json", _MAX_NAMES_BYTES)
    return {"folder": folder, "manifest": manifest, "cluster_names": names, **files}


def _checked(folder: Path, data_digest: str) -> dict[str, Any]:
    """The arrays of a folder, mapped into memory, after all files were compared with their record."""
    record = folder / "arrays.json"
    if not record.exists():
        raise DataError(f"read the arrays in {folder}", "no arrays.json", "run the data stage again")
    told = read_json(record)
    if told["data_digest"] != data_digest:
        raise DataError(f"read {record}", "arrays of other data than the manifest's", "run the data stage again")
    for name, expected in told["files"].items():
        path = folder / f"{name}.npy"
        if not path.exists() or sha256_file(path) != expected:
            raise DataError(f"read {path}", "a file that its record does not match", "run the data stage again")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in told["files"]}
