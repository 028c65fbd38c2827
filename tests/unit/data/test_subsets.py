"""Splits and subsets are functions of a row's digest: nested, drawn anew by each seed, and blind to a row's place."""

import hashlib
import io
from collections import Counter
from itertools import combinations, groupby, pairwise

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from chemscale.data import subsets
from chemscale.data.arrays import load_language
from chemscale.data.manifest import read_manifest
from chemscale.data.prepare_subsets import prepare
from chemscale.data.subsets import (
    ALL_SPLITS,
    MAX_CLUSTERS,
    SPLITS,
    RowsDigest,
    SubsetDraw,
    cluster_of,
    count_groups,
    key_words,
    rows_digest,
    split_of,
    subset_keys,
    time_splits,
)
from chemscale.errors import DataError
from chemscale.io import sha256_file

ROWS = [hashlib.md5(str(index).encode()).hexdigest() for index in range(3000)]


def drawn(rows, dataset, seed, size):
    """The rows of a subset, by definition: those of the smallest hashes under the key of data set and seed."""
    key = hashlib.blake2b(f"{dataset}|{seed}".encode(), digest_size=32).digest()
    return sorted(rows, key=lambda row: hashlib.blake2b(row.encode(), digest_size=8, key=key).digest())[:size]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_splits_have_the_shares_that_were_asked_for():
    counts = Counter(split_of(row, validation=0.1, test=0.2) for row in ROWS)
    # five standard deviations of a binomial
    assert counts["validation"] == pytest.approx(300, abs=82)
    assert counts["test"] == pytest.approx(600, abs=110)
    assert sum(counts.values()) == len(ROWS)


def test_a_larger_test_share_takes_no_molecule_out_of_test():
    small = {row for row in ROWS if split_of(row, 0.1, 0.1) == "test"}
    large = {row for row in ROWS if split_of(row, 0.1, 0.3) == "test"}
    assert small < large
    assert {split_of(row, 0.0, 0.0) for row in ROWS} == {"train"}


@pytest.mark.parametrize(("frames", "blocks", "gap"), [(150, 10, 10), (97, 7, 5), (30, 10, 0)])
def test_splits_are_contiguous_in_time_with_gaps_between(frames, blocks, gap):
    found = time_splits({"blocks": blocks, "gap_frames": gap, "validation": 0.1, "test": 0.4}, frames)
    assert [block for block, _ in found] == [frame * blocks // frames for frame in range(frames)]
    runs = [(split, len(list(members))) for split, members in groupby(split for _, split in found)]
    apart = [("gap", gap)] if gap else []
    assert [run for run in runs if run[0] == "gap"] == 2 * apart
    assert [split for split, _ in runs if split != "gap"] == ["train", "validation", "test"]
    # validation keeps its whole block, and no block lies in two splits
    assert dict(runs)["validation"] == sum(block == blocks - round(0.4 * blocks) - 1 for block, _ in found)
    whole = {(block, split) for block, split in found if split != "gap"}
    assert len(whole) == len({block for block, _ in whole})


@pytest.mark.parametrize(
    ("changes", "frames", "match"),
    [({"gap_frames": 20}, 20, "train"), ({"validation": 0.5, "test": 0.5}, 20, "train"), ({}, 2, "test")],
)
def test_a_split_in_time_without_frames_is_refused(changes, frames, match):
    section = {"blocks": 10, "gap_frames": 1, "validation": 0.1, "test": 0.2} | changes
    with pytest.raises(DataError, match=f"no frame left for .*{match}"):
        time_splits(section, frames)


def test_clusters_are_groups_until_there_are_too_many():
    assert [cluster_of(row, False) for row in ROWS] == ROWS
    blocks = Counter(cluster_of(row, True) for row in ROWS)
    assert len(blocks) <= MAX_CLUSTERS
    # all but exp(-3) of the blocks have a row
    assert len(blocks) == pytest.approx(MAX_CLUSTERS * (1 - np.exp(-3000 / MAX_CLUSTERS)), rel=0.03)


# --- what is counted of them ------------------------------------------------------------------------------------------


def test_digest_of_rows_is_that_of_a_set():
    expected = hashlib.sha256("\n".join(sorted(ROWS[:5])).encode()).hexdigest()
    assert rows_digest(ROWS[:5]) == rows_digest(ROWS[4::-1]) == expected
    assert rows_digest(ROWS[:4]) != expected
    in_parts = RowsDigest()
    for part in (sorted(ROWS)[:7], [], sorted(ROWS)[7:]):
        in_parts.add(part)
    assert (in_parts.hexdigest(), in_parts.rows) == (rows_digest(ROWS), 3000)


@pytest.mark.parametrize("at_once", [10**6, 700, 100])
def test_groups_are_counted_whatever_the_number_of_passes(monkeypatch, at_once):
    monkeypatch.setattr(subsets, "_COUNTED_GROUPS", at_once)
    random = np.random.default_rng(0)
    groups = [ROWS[index] for index in random.integers(0, 400, 2000)]
    splits = random.choice(4, 2000, p=[0.9, 0.04, 0.04, 0.02]).astype(np.uint8)

    def parts():
        for first in range(0, 2000, 300):
            yield key_words(groups[first : first + 300]), splits[first : first + 300]

    found = count_groups(parts, 2000)
    sets = {
        name: {group for group, split in zip(groups, splits, strict=True) if split == code}
        for code, name in enumerate(ALL_SPLITS)
    }
    assert found.groups == {name: len(members) for name, members in sets.items()}
    assert found.common == {(one, other): len(sets[one] & sets[other]) for one, other in combinations(ALL_SPLITS, 2)}
    assert min(found.common.values()) > 0
    places = Counter(group for name in SPLITS for group in sets[name])
    assert (found.distinct, found.straddle) == (len(places), sum(count > 1 for count in places.values()))
    assert found.straddle < sum(found.common[pair] for pair in combinations(SPLITS, 2))


# --- subsets ----------------------------------------------------------------------------------------------------------


def test_keys_are_the_keyed_hashes():
    order = np.argsort(subset_keys(ROWS, "set", 3))
    assert [ROWS[place] for place in order] == drawn(ROWS, "set", 3, len(ROWS))


def taken(rows, dataset, seed, size):
    """The places of a subset's rows, whatever the parts in which they come."""
    parts = [part.tolist() for part in np.array_split(np.array(rows, object), 7)]
    chosen = [*SubsetDraw(parts, dataset, seed, io.BytesIO()).chosen(size)]
    found = np.flatnonzero(np.concatenate([mine for mine, _ in chosen]))
    assert len(found) == size
    keys = subset_keys([rows[place] for place in found], dataset, seed)
    assert np.array_equal(np.concatenate([keys for _, keys in chosen]), keys)
    return found


def test_subsets_of_a_seed_nest_and_those_of_two_seeds_differ():
    draws = [{*taken(ROWS, "set", 0, size).tolist()} for size in (10, 100, 1000)]
    for small, large in pairwise(draws):
        assert small < large
    assert [len(draw) for draw in draws] == [10, 100, 1000]
    # two independent draws of a third of the rows share a third of them
    for other in (("set", 1), ("other set", 0)):
        assert len(draws[-1] & {*taken(ROWS, *other, 1000).tolist()}) == pytest.approx(333, abs=75)


def test_a_subset_does_not_depend_on_the_order_of_the_file():
    def chosen(rows):
        return {rows[place] for place in taken(rows, "set", 3, 500)}

    assert chosen(ROWS[::-1]) == chosen(ROWS) == {*drawn(ROWS, "set", 3, 500)}


@pytest.fixture
def folder(tmp_path, write_data):
    """Data of 3,000 molecules in shards of 700."""
    rows = [
        {"row": row, "group": row, "split": split_of(row, 0.1, 0.2), "smiles": "", "selfies": "[C]"} for row in ROWS
    ]
    write_data(tmp_path / "set", rows, rows_per_shard=700)
    return tmp_path / "set"


def _rows(folder, name):
    table = pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])
    places = pd.read_parquet(folder / "subsets" / name)["place"]
    assert places.is_monotonic_increasing
    return table.iloc[places]


def test_the_file_of_a_subset_holds_its_training_rows_alone(folder):
    training = [row for row in ROWS if split_of(row, 0.1, 0.2) == "train"]
    for seed, size in ((5, 40), (5, 1000), (6, 1), (6, len(training))):
        prepare(folder, "set", seed, size)
        chosen = _rows(folder, f"seed{seed}/n{size}.parquet")
        expected = drawn(training, "set", seed, size)
        assert set(chosen["split"]) == {"train"}
        assert sorted(chosen["row"]) == sorted(expected)
        told = pq.read_metadata(folder / "subsets" / f"seed{seed}" / f"n{size}.parquet").metadata
        assert told[b"subset_digest"].decode() == rows_digest(expected)
        assert told[b"data_digest"].decode() == read_manifest(folder)["digest"]
        index, digest = load_language(folder).subset(seed, size)
        assert (len(index), digest) == (size, rows_digest(expected))


def test_another_subset_leaves_those_before_as_they_were(folder):
    prepare(folder, "set", 0, 50)
    path = folder / "subsets" / "seed0" / "n50.parquet"
    before = (sha256_file(path), path.stat().st_mtime_ns, path.stat().st_ino)
    for seed, size in ((0, 49), (0, 51), (0, 2000), (1, 50)):
        prepare(folder, "set", seed, size)
    assert (sha256_file(path), path.stat().st_mtime_ns, path.stat().st_ino) == before
    prepare(folder, "set", 0, 50)
    assert sha256_file(path) == before[0]
    small, large = (set(_rows(folder, f"seed0/n{size}.parquet")["row"]) for size in (50, 2000))
    assert small < large


def test_of_equal_keys_the_first_rows_are_taken(folder, monkeypatch):
    def few(rows, dataset, seed):
        return subset_keys(rows, dataset, seed) % np.uint64(5) << np.uint64(60)

    monkeypatch.setattr(subsets, "subset_keys", few)
    training = sorted(row for row in ROWS if split_of(row, 0.1, 0.2) == "train")
    keys = few(training, "set", 0)
    for size in (1, 300, 1111, len(training)):
        prepare(folder, "set", 0, size)
        # Python's sort keeps the order of equal ones
        expected = sorted(range(len(training)), key=lambda place: keys[place])[:size]
        assert _rows(folder, f"seed0/n{size}.parquet")["row"].tolist() == [
            training[place] for place in sorted(expected)
        ]


def test_a_subset_larger_than_the_training_rows_is_refused(folder):
    training = read_manifest(folder)["splits"]["train"]["rows"]
    with pytest.raises(DataError, match=rf"{training + 1:,} rows of set.*found {training:,} training rows"):
        prepare(folder, "set", 0, training + 1)
    assert not (folder / "subsets").exists()


def test_a_subset_of_other_data_is_refused(folder, write_data):
    prepare(folder, "set", 0, 20)
    rows = [{"row": row, "group": row, "split": "train", "smiles": "", "selfies": "[C]"} for row in ROWS[:100]]
    write_data(folder, rows)
    with pytest.raises(DataError, match="a subset of other data"):
        load_language(folder).subset(0, 20)
    with pytest.raises(DataError, match=r"no .*n21\.parquet"):
        load_language(folder).subset(0, 21)
