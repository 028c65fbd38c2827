"""Shards come back as they were written, or not at all."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from chemscale.data.shards import (
    FRAMES_SCHEMA,
    LANGUAGE_SCHEMA,
    load_frames,
    load_language,
    read_manifest,
    write_manifest,
    write_shards,
)
from chemscale.data.subsets import rows_digest
from chemscale.errors import DataError

SPLITS = ("train", "train", "train", "validation", "test")


def _common(index):
    return {"row": f"{index:032x}", "group": f"{index // 2:032x}", "split": SPLITS[index // 2 % 5], "smiles": "C"}


def _write(folder, rows, schema, domain, rejected=None):
    shards = write_shards(folder, rows, schema, 4)
    return write_manifest(
        folder,
        name="set",
        domain=domain,
        source={"name": "toy"},
        settings={},
        shards=shards,
        rejected=rejected or {},
        tokenizer_digest=None,
    )


@pytest.fixture
def language(tmp_path):
    """Ten rows of 2, 3, ... 11 tokens in three shards."""
    rows = [{**_common(i), "selfies": "[C]" * i, "tokens": [2, *range(10, 10 + i), 3]} for i in range(10)]
    _write(tmp_path, rows, LANGUAGE_SCHEMA, "language", {"too_long": 3, "duplicate": 2})
    return tmp_path, rows


def test_tokens_come_back_across_shards(language):
    folder, rows = language
    data = load_language(folder)
    assert data.tokens.dtype == np.uint16
    assert len(read_manifest(folder)["shards"]) == 3
    found = [data.tokens[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)]
    assert found == [row["tokens"] for row in rows]
    assert (data.rows, data.groups) == ([row["row"] for row in rows], [row["group"] for row in rows])
    assert data.splits.tolist() == [row["split"] for row in rows]


def test_frames_come_back_with_every_bit(tmp_path):
    random = np.random.default_rng(0)
    atoms = [3, 1, 5, 2, 4, 3]
    rows = [
        {**_common(i), "molecule": f"m{i}", "frame": i, "species": [6] * a, "energy": random.normal(),
         "positions": random.normal(size=3 * a), "forces": random.normal(size=3 * a)}
        for i, a in enumerate(atoms)
    ]  # fmt: skip
    manifest = _write(tmp_path, rows, FRAMES_SCHEMA, "potentials")
    data = load_frames(tmp_path)
    assert np.diff(data.offsets).tolist() == atoms
    for name in ("positions", "forces"):
        expected = np.concatenate([row[name] for row in rows]).reshape(-1, 3)
        np.testing.assert_array_equal(getattr(data, name), expected)
    np.testing.assert_array_equal(data.energies, [row["energy"] for row in rows])
    assert data.species.tolist() == [6] * sum(atoms)
    assert sum(split["frames"] for split in manifest["splits"].values()) == len(rows)


def test_the_manifest_accounts_for_rows_tokens_and_splits(language):
    folder, rows = language
    manifest = read_manifest(folder)
    assert manifest["rows_in"] == 15
    assert manifest["rows_in"] == manifest["rows_kept"] + sum(manifest["rejected"].values())
    test = [row for row in rows if row["split"] == "test"]
    assert manifest["splits"]["test"] == {
        "rows": 2,
        "groups": 1,
        "tokens": sum(len(row["tokens"]) for row in test),
        "digest": rows_digest([row["row"] for row in test]),
    }
    assert sum(shard["tokens"] for shard in manifest["shards"]) == sum(len(row["tokens"]) for row in rows)


def test_others_read_a_shard_and_its_units(language, tmp_path):
    shard = language[0] / "shards" / "shard-00000.parquet"
    frame = pd.read_parquet(shard)
    assert frame["tokens"][3].tolist() == [2, 10, 11, 12, 3]
    assert pq.ParquetFile(shard).metadata.row_group(0).column(0).compression == "ZSTD"
    units = {name: FRAMES_SCHEMA.field(name).metadata.get(b"unit") for name in ("positions", "energy", "forces")}
    assert units == {"positions": b"angstrom", "energy": b"eV", "forces": b"eV/angstrom"}
    stored = pq.read_schema(shard)
    assert all(stored.field(name).metadata[b"description"] for name in stored.names)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _swap(path):
    # whole and readable, but another shard than the manifest names
    path.write_bytes((path.parent / "shard-00000.parquet").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, r"shard-00001\.parquet: found sha256 .* where the manifest says"),
        (_swap, r"shard-00001\.parquet: found sha256 .* where the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"shard-00001\.parquet: found sha256"),
        (lambda path: path.unlink(), r"found no shards/shard-00001\.parquet"),
    ],
    ids=["flipped", "swapped", "truncated", "missing"],
)
def test_a_damaged_shard_is_refused(language, damage, message):
    damage(language[0] / "shards" / "shard-00001.parquet")
    with pytest.raises(DataError, match=message):
        load_language(language[0])


def test_an_edited_or_missing_manifest_is_refused(language):
    path = language[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["rejected"]["too_long"] -= 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="its own digest does not match"):
        read_manifest(language[0])
    path.unlink()
    with pytest.raises(DataError, match=r"no manifest\.json"):
        load_language(language[0])


def test_a_rewrite_leaves_no_shard_and_no_manifest_of_the_former_one(language):
    folder, rows = language
    write_shards(folder, rows[:3], LANGUAGE_SCHEMA, 4)
    assert [path.name for path in (folder / "shards").iterdir()] == ["shard-00000.parquet"]
    assert not (folder / "manifest.json").exists()
