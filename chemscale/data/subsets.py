"""Splits and nested subsets by keyed hashes: pure functions of a row's digest, whatever its place in a file.

The standard library and numpy suffice, so that a compute node and the audit share these functions.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from chemscale.errors import DataError

SPLITS = ("train", "validation", "test")
# with the frames between two splits of a trajectory, which belong to none
ALL_SPLITS = (*SPLITS, "gap")
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


def time_splits(section: Mapping[str, Any], frames: int) -> list[tuple[int, str]]:
    """Block and split of every one of a trajectory's saved `frames`, in order of time.

    The frames are cut into `blocks` contiguous blocks of equal length, up to one frame. The last blocks are test, those
    before them validation, all others train; a share above 0 gets its rounded number of blocks, at least one. Where two
    splits meet, `gap_frames` frames belong to neither (split "gap"): the last of train, or the first of test where test
    follows validation, so that validation, the shortest, loses none.

    Raises:
        DataError: a split with a share above 0 would have no frame.
    """
    blocks, gap = section["blocks"], section["gap_frames"]
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
            "use more frames, raise blocks, or lower gap_frames or the shares of validation and test",
        )
    return list(zip(block_of, found, strict=True))


def cluster_of(group: str, many: bool) -> str:
    """The test cluster of a row, from its split group: what is resampled together.

    A cluster is a group (a molecule's constitution, or a block of time); where the test split has `many` of them (more
    than 1,024), groups are joined in 1,024 blocks by a hash of the group.
    """
    if not many:
        return group
    key = hashlib.blake2b(group.encode(), digest_size=8, key=b"chemscale-cluster").digest()
    return f"block-{int.from_bytes(key, 'big') % MAX_CLUSTERS:04d}"


class RowsDigest:
    """The digest of a set of rows: sha256 over their digests in sorted order, fed in that order part by part."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, rows: Sequence[str]) -> None:
        """Add rows' digests, all of which come after those before."""
        if len(rows):
            self._hash.update((("\n" if self.rows else "") + "\n".join(rows)).encode())
            self.rows += len(rows)

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._hash.hexdigest()


def rows_digest(rows: Iterable[str]) -> str:
    """The digest of a set of rows, whatever their order."""
    digest = RowsDigest()
    digest.add(sorted(rows))
    return digest.hexdigest()


@dataclass(frozen=True)
class GroupCounts:
    """How many distinct groups each split has, how many each pair of splits has in common, and how many straddle.

    Those that `straddle` are in two or in all of train, validation and test, `distinct` are in any of them.
    """

    groups: dict[str, int]
    common: dict[tuple[str, str], int]
    distinct: int
    straddle: int


# groups that are counted in one go: some tens of megabytes
_COUNTED_GROUPS = 2_000_000


def count_groups(parts: Callable[[], Iterable[tuple[NDArray[np.uint64], NDArray[np.uint8]]]], rows: int) -> GroupCounts:
    """Count the distinct groups of splits in one pass and in bounded memory: large sets go through files on disk.

    Args:
        parts: gives the stream of all rows: the first 64 bits of the digests of their groups, and their splits' places
            in `ALL_SPLITS`.
        rows: the number of rows, at most.
    """
    buckets = max(1, -(-rows // _COUNTED_GROUPS))
    groups = dict.fromkeys(ALL_SPLITS, 0)
    common = dict.fromkeys(itertools.combinations(ALL_SPLITS, 2), 0)
    anywhere = several = 0

    def count(keys: NDArray[np.uint64], splits: NDArray[np.uint8]) -> None:
        nonlocal anywhere, several
        distinct = {split: np.unique(keys[splits == code]) for code, split in enumerate(ALL_SPLITS)}
        for split, members in distinct.items():
            groups[split] += len(members)
        for one, other in common:
            common[one, other] += len(np.intersect1d(distinct[one], distinct[other], assume_unique=True))
        _, places = np.unique(np.concatenate([distinct[split] for split in SPLITS]), return_counts=True)
        anywhere += len(places)
        several += int((places > 1).sum())

    if buckets == 1:
        found = list(parts())
        empty = (np.empty(0, np.uint64), np.empty(0, np.uint8))
        count(*(np.concatenate(columns) for columns in zip(*(found or [empty]), strict=True)))
        return GroupCounts(groups, common, anywhere, several)
    with ExitStack() as opened:
        # equal groups land in the same bucket
        files = [
            (opened.enter_context(tempfile.TemporaryFile()), opened.enter_context(tempfile.TemporaryFile()))
            for _ in range(buckets)
        ]
        for keys, splits in parts():
            bucket = keys % np.uint64(buckets)
            for number, (key_file, split_file) in enumerate(files):
                mine = bucket == number
                key_file.write(keys[mine].tobytes())
                split_file.write(splits[mine].tobytes())
        for key_file, split_file in files:
            key_file.seek(0)
            split_file.seek(0)
            count(np.frombuffer(key_file.read(), np.uint64), np.frombuffer(split_file.read(), np.uint8))
    return GroupCounts(groups, common, anywhere, several)


def key_words(digests: Sequence[str]) -> NDArray[np.uint64]:
    """The first 64 bits of digests of 32 hex digits, as numbers."""
    raw = np.frombuffer(bytes.fromhex("".join(digests)), dtype=">u8")
    return raw[::2].astype(np.uint64)


def subset_keys(rows: Sequence[str], dataset: str, seed: int) -> NDArray[np.uint64]:
    """The keyed hash of each row (key: dataset and seed), of which a subset takes the smallest."""
    key = hashlib.blake2b(f"{dataset}|{seed}".encode(), digest_size=32).digest()
    blake2b = hashlib.blake2b
    hashed = b"".join(blake2b(row.encode(), digest_size=8, key=key).digest() for row in rows)
    return np.frombuffer(hashed, dtype=">u8").astype(np.uint64)


class SubsetDraw:
    """The subsets that one seed draws from a stream of rows, whose keys lie in a file: memory stays flat.

    A subset takes the rows of the smallest keys; of equal keys, the first rows. Subsets of one seed are nested, those
    of two seeds are drawn anew, and none depends on the order of rows.
    """

    def __init__(self, rows: Iterable[Sequence[str]], dataset: str, seed: int, file: IO[bytes]) -> None:
        """Take the digests of all rows, part by part; `file` is an empty one to write and read."""
        self._file = file
        self._sizes: list[int] = []
        # the largest key of a subset lies in the bucket (first 16 bits) in which the count passes its size
        self._counts = np.zeros(2**16, np.int64)
        for part in rows:
            keys = subset_keys(part, dataset, seed)
            self._counts += np.bincount((keys >> np.uint64(48)).astype(np.int64), minlength=2**16)
            self._sizes.append(len(keys))
            self._file.write(keys.tobytes())

    def _parts(self) -> Iterator[NDArray[np.uint64]]:
        self._file.seek(0)
        for size in self._sizes:
            yield np.frombuffer(self._file.read(8 * size), np.uint64)

    def chosen(self, num_samples: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.uint64]]]:
        """Which rows of each part belong to the subset of `num_samples` rows, and their keys.

        There are at least so many rows.
        """
        bucket = int(np.searchsorted(np.cumsum(self._counts), num_samples))
        within = np.sort(np.concatenate([keys[keys >> np.uint64(48) == bucket] for keys in self._parts()]))
        taken = num_samples - int(self._counts[:bucket].sum())
        last = within[taken - 1]
        equal_left = int((within[:taken] == last).sum())
        for keys in self._parts():
            equal = np.flatnonzero(keys == last)[:equal_left]
            equal_left -= len(equal)
            mine = keys < last
            mine[equal] = True
            yield mine, keys[mine]


def content_digest(content: bytes) -> bytes:
    """The digest of a row, a group or a scaffold by its content: 16 bytes."""
    return hashlib.blake2b(content, digest_size=16).digest()


def scaffold_digest(scaffold: str | None) -> str | None:
    """The digest of a scaffold, 32 hex digits; None where a molecule has none to share."""
    return content_digest(scaffold.encode()).hex() if scaffold else None


def listing_digest(columns: Sequence[Sequence[Any]]) -> str:
    """The sha256 of rows written out, a line each: what ties the columns of `rows.parquet` to the manifest."""
    lines = (" ".join("-" if value is None else str(value) for value in row) for row in zip(*columns, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
