"""Splits and nested subsets by keyed hashes: pure functions of a row's digest, whatever its place in a file.

The standard library and numpy suffice, so that a compute node and the audit share these functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.errors import DataError

SPLITS = ("train", "validation", "test")
_SPLIT_KEY = b"chemscale-split"
MAX_CLUSTERS = 1024


def split_of(group: str, validation: float, test: float) -> str:
    """The split of a group (a molecule's constitution, say): a hash of its digest falls into test, validation or train.

    All rows of a group share a split, in every study that states the same shares.
    """
    hashed = hashlib.blake2b(group.encode(), digest_size=8, key=_SPLIT_KEY).digest()
    place = int.from_bytes(hashed, "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def time_splits(section: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Block and split of every saved frame of a trajectory, in order of time.

    The frames are cut into `blocks` contiguous blocks of equal length, up to one frame. The last blocks are test, those
    before them validation, all others train; a share above 0 gets its rounded number of blocks, at least one. Where two
    splits meet, `gap_frames` frames belong to neither (split "gap"): the last of train, or the first of test where test
    follows validation, so that validation, the shortest, loses none.

    Raises:
        DataError: a split with a share above 0 would have no frame.
    """
    frames, blocks, gap = section["frames_per_molecule"], section["blocks"], section["gap_frames"]
    shares = {name: section[name] for name in ("validation", "test")}
    number = {name: max(1, round(share * blocks)) if share > 0 else 0 for name, share in shares.items()}
    number["train"] = blocks - sum(number.values())
    order = [name for name in ("train", "validation", "test") for _ in range(number[name])]
    block_of = [frame * blocks // frames for frame in range(frames)]
    splits = [order[block] for block in block_of]
    found = list(splits)
    for border in range(1, frames):
        if splits[border] != splits[border - 1]:
            gap_starts = border - gap if splits[border - 1] == "train" else border
            for frame in range(max(0, gap_starts), min(frames, gap_starts + gap)):
                found[frame] = "gap"
    missing = [name for name in ("train", *(name for name, share in shares.items() if share > 0)) if name not in found]
    if missing:
        raise DataError(
            f"trajectories: {frames} frames in {blocks} blocks with gaps of {gap}",
            f"no frame left for {' and '.join(missing)}",
            "raise frames_per_molecule or blocks, or lower gap_frames or the shares of validation and test",
        )
    return list(zip(block_of, found, strict=True))


def clusters_of(groups: Sequence[str]) -> list[str]:
    """The test cluster of each row, from its split group: what is resampled together.

    A cluster is a group (a molecule's constitution, or a block of time); where there are more than 1,024 of them,
    groups are joined in 1,024 blocks by a hash of the group.
    """
    if len(set(groups)) <= MAX_CLUSTERS:
        return list(groups)
    return [f"block-{_block(group):04d}" for group in groups]


def _block(group: str) -> int:
    key = hashlib.blake2b(group.encode(), digest_size=8, key=b"chemscale-cluster").digest()
    return int.from_bytes(key, "big") % MAX_CLUSTERS


def rows_digest(rows: Sequence[str]) -> str:
    """The digest of a set of rows: sha256 over their sorted digests, whatever their order."""
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def subset_order(rows: Sequence[str], dataset: str, seed: int) -> NDArray[np.int64]:
    """The positions of `rows` in the order of a keyed hash (key: dataset and seed); ties, by the digest itself.

    The first n of them are the subset of n rows: subsets of one seed are nested, those of two seeds are drawn anew.
    """
    key = hashlib.blake2b(f"{dataset}|{seed}".encode(), digest_size=32).digest()
    hashed = [hashlib.blake2b(row.encode(), digest_size=16, key=key).digest() for row in rows]
    return np.array(sorted(range(len(rows)), key=lambda index: (hashed[index], rows[index])), dtype=np.int64)


def subset_rows(rows: Sequence[str], dataset: str, seed: int, num_samples: int) -> list[str]:
    """The digests of the first `num_samples` training rows in the order of the keyed hash.

    Raises:
        DataError: there are fewer training rows than asked for.
    """
    if num_samples > len(rows):
        raise DataError(
            f"a subset of {num_samples} rows of {dataset}",
            f"{len(rows)} training rows that were kept",
            "ask for a smaller subset or for more data",
        )
    return [rows[index] for index in subset_order(rows, dataset, seed)[:num_samples]]


def prepare(folder: Path, key: str, seed: int, num_samples: int) -> None:
    """Write `subsets/seed{seed}.parquet` of a data folder: the first `num_samples` training rows, in order.

    Raises:
        DataError: there are fewer training rows than asked for.
    """
    import pyarrow as pa

    from chemscale.data.shards import read_columns
    from chemscale.io import write_parquet

    table = read_columns(folder, ["row", "split"])
    training = [
        row for row, split in zip(table["row"].to_pylist(), table["split"].to_pylist(), strict=True) if split == "train"
    ]
    chosen = subset_rows(training, key, seed, num_samples)
    write_parquet(folder / "subsets" / f"seed{seed}.parquet", pa.table({"row": chosen}), {"dataset": key})
