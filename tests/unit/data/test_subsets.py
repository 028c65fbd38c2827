"""Splits and subsets are functions of a row's digest: nested, drawn anew by each seed, and blind to a row's place."""

import hashlib
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pytest

from chemscale.data.shards import LANGUAGE_SCHEMA, write_manifest, write_shards
from chemscale.data.subsets import prepare, rows_digest, split_of, subset_order, subset_rows
from chemscale.errors import DataError
from chemscale.io import read_parquet

ROWS = [hashlib.md5(str(index).encode()).hexdigest() for index in range(3000)]


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


def test_subsets_of_a_seed_nest_and_those_of_two_seeds_differ():
    draws = [subset_rows(ROWS, "set", 0, size) for size in (10, 100, 1000)]
    for small, large in pairwise(draws):
        assert large[: len(small)] == small
    assert len(set(draws[-1])) == 1000
    # two independent draws of a third of the rows share a third of them
    for other in (subset_rows(ROWS, "set", 1, 1000), subset_rows(ROWS, "other set", 0, 1000)):
        assert len({*draws[-1]} & {*other}) == pytest.approx(333, abs=75)


def test_a_subset_does_not_depend_on_the_order_of_the_file():
    assert subset_rows(ROWS[::-1], "set", 3, 500) == subset_rows(ROWS, "set", 3, 500)
    assert sorted(subset_order(ROWS, "set", 3)) == list(range(len(ROWS)))


def test_a_subset_larger_than_the_training_rows_is_refused():
    assert len(subset_rows(ROWS, "set", 0, len(ROWS))) == len(ROWS)
    with pytest.raises(DataError, match=r"3001 rows of set.*found 3000 training rows"):
        subset_rows(ROWS, "set", 0, len(ROWS) + 1)


def test_digest_of_rows_is_that_of_a_set():
    expected = hashlib.sha256("\n".join(sorted(ROWS[:5])).encode()).hexdigest()
    assert rows_digest(ROWS[:5]) == rows_digest(ROWS[4::-1]) == expected
    assert rows_digest(ROWS[:4]) != expected


def test_the_index_of_a_seed_holds_training_rows_alone(tmp_path):
    rows = [
        {"row": row, "group": row, "split": split_of(row, 0.1, 0.2), "smiles": "", "selfies": "", "tokens": [2, 3]}
        for row in ROWS[:200]
    ]
    shards = write_shards(tmp_path, rows, LANGUAGE_SCHEMA, 64)
    common = {"name": "set", "domain": "language", "source": {}, "settings": {}, "rejected": {}}
    write_manifest(tmp_path, shards=shards, tokenizer_digest="", **common)
    training = [row["row"] for row in rows if row["split"] == "train"]
    prepare(tmp_path, "set", 5, 40)
    table = read_parquet(tmp_path / "subsets" / "seed5.parquet")
    assert table.schema.field("row").type == pa.string()
    assert table["row"].to_pylist() == subset_rows(training, "set", 5, 40)
    with pytest.raises(DataError, match="training rows"):
        prepare(tmp_path, "set", 6, len(training) + 1)
    assert not (tmp_path / "subsets" / "seed6.parquet").exists()
