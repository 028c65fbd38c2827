"""Shards come back as they were written, or not at all, and other programs read them as well."""

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chemscale.data.manifest import read_manifest
from chemscale.data.shards import FRAMES_SCHEMA, LANGUAGE_SCHEMA, ROW_GROUP, stream
from chemscale.data.subsets import rows_digest
from chemscale.errors import DataError

SPLITS = ("train", "train", "train", "validation", "test")


def _common(index):
    return {"row": f"{index:032x}", "group": f"group {index // 2}", "split": SPLITS[index // 2 % 5]}


def _frames(count):
    random = np.random.default_rng(0)
    atoms = random.integers(1, 9, count).tolist()
    return [
        {**_common(i), "molecule": f"m{i}", "frame": i, "species": random.integers(1, 100, a), "smiles": "C" * (i % 3),
         "positions": random.normal(size=3 * a), "forces": random.normal(size=3 * a), "energy": random.normal()}
        for i, a in enumerate(atoms)
    ]  # fmt: skip


@pytest.fixture
def language(tmp_path, write_data):
    """Ten molecules of 3, 4, ... 12 tokens in three shards."""
    rows = [{**_common(i), "smiles": "C" * (i + 1), "selfies": "[C]" * (i + 1)} for i in range(10)]
    rejected = {"too_long": 3, "unparsable": 2}
    write_data(tmp_path / "set", rows, rows_per_shard=4, rejected=rejected)
    return tmp_path / "set", rows


def test_tokens_come_back_across_shards(language):
    folder, rows = language
    assert len(read_manifest(folder)["shards"]) == 3
    found = pa.concat_tables(stream(folder, ["tokens", "row", "split", "selfies"])).to_pylist()
    assert [row["tokens"] for row in found] == [[2, *[5] * (i + 1), 3] for i in range(10)]
    for name in ("row", "split", "selfies"):
        assert [row[name] for row in found] == [row[name] for row in rows]


def test_frames_come_back_with_every_bit(tmp_path, write_data):
    rows = _frames(30)
    manifest = write_data(tmp_path / "set", rows, rows_per_shard=8)
    assert [shard["frames"] for shard in manifest["shards"]] == [8, 8, 8, 6]
    found = pa.concat_tables(stream(tmp_path / "set", FRAMES_SCHEMA.names)).to_pylist()
    for row, told in zip(found, rows, strict=True):
        for name in ("species", "positions", "forces"):
            assert row[name] == told[name].tolist()
        for name in ("row", "split", "molecule", "frame", "energy", "smiles"):
            assert row[name] == told[name]
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
        "tokens": sum(len(row["selfies"]) // 3 + 2 for row in test),
        "digest": rows_digest([row["row"] for row in test]),
    }
    assert sum(shard["tokens"] for shard in manifest["shards"]) == sum(range(3, 13))


# --- what other programs see ------------------------------------------------------------------------------------------


def _types(schema):
    """Names of columns, and their types in the words of DuckDB."""
    words = {pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.float64(): "DOUBLE", pa.uint8(): "UTINYINT"}
    words |= {pa.list_(kind): f"{word}[]" for kind, word in (*words.items(), (pa.uint16(), "USMALLINT"))}
    return {field.name: words[field.type] for field in schema}


@pytest.fixture(scope="module", params=["language", "frames"])
def shard(request, tmp_path_factory, write_data):
    """A shard of more than two row groups, its schema, and the rows that went in."""
    folder = tmp_path_factory.mktemp(request.param) / "set"
    count = 2 * ROW_GROUP + 100
    if request.param == "language":
        rows = [{**_common(i), "smiles": f"C{i}", "selfies": "[C]" * (i % 7) + "[O]"} for i in range(count)]
    else:
        rows = _frames(count)
    manifest = write_data(folder, rows, rows_per_shard=50_000)
    assert len(manifest["shards"]) == 1
    schema = LANGUAGE_SCHEMA if request.param == "language" else FRAMES_SCHEMA
    return folder / "shards" / "shard-00000.parquet", schema, rows


def test_columns_are_named_typed_described_and_packed(shard):
    path, schema, rows = shard
    file = pq.ParquetFile(path)
    assert file.schema_arrow.equals(schema, check_metadata=False)
    assert file.metadata.num_rows == len(rows)
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP, ROW_GROUP, 100]
    assert ROW_GROUP <= 8192
    packed = {group.column(index).compression for group in groups for index in range(group.num_columns)}
    assert packed == {"ZSTD"}
    assert not any(field.nullable for field in file.schema_arrow)
    told = {field.name: field.metadata for field in file.schema_arrow}
    assert all(told[name][b"description"] for name in schema.names)
    units = {name: metadata[b"unit"] for name, metadata in told.items() if b"unit" in metadata}
    expected = {"positions": b"angstrom", "energy": b"eV", "forces": b"eV/angstrom"}
    assert units == ({} if schema is LANGUAGE_SCHEMA else expected)


def _same_rows(records, rows, schema):
    """Every value of records that another program read, against the rows that went in."""
    assert len(records) == len(rows)
    for record, row in zip(records, rows, strict=True):
        for name in set(schema.names) & set(row) - {"group"}:
            assert np.array_equal(record[name], row[name]), name


def test_pandas_reads_a_shard(shard):
    path, schema, rows = shard
    frame = pd.read_parquet(path)
    assert frame.columns.tolist() == schema.names
    for field in schema:
        if not pa.types.is_string(field.type) and not pa.types.is_list(field.type):
            assert frame[field.name].dtype == field.type.to_pandas_dtype()
    _same_rows(frame.to_dict("records"), rows, schema)


def test_polars_reads_a_shard(shard):
    path, schema, rows = shard
    frame = polars.read_parquet(path)
    of_arrow = polars.from_arrow(schema.empty_table()).schema
    assert dict(frame.schema) == dict(of_arrow)
    _same_rows(frame.to_dicts(), rows, schema)
    # a column and some rows of it, without reading the rest
    lazy = polars.scan_parquet(path).filter(polars.col("split") == "test").select("row").collect()
    assert lazy["row"].to_list() == [row["row"] for row in rows if row["split"] == "test"]


def test_duckdb_reads_a_shard(shard):
    path, schema, rows = shard
    with duckdb.connect() as connection:
        described = connection.execute("describe select * from read_parquet(?)", [str(path)]).fetchall()
        assert {name: kind for name, kind, *_ in described} == _types(schema)
        counted = connection.execute(
            "select split, count(*) from read_parquet(?) group by split", [str(path)]
        ).fetchall()
        found = connection.execute("select * from read_parquet(?)", [str(path)]).fetchall()
    assert dict(counted) == pd.Series([row["split"] for row in rows]).value_counts().to_dict()
    _same_rows([dict(zip(schema.names, values, strict=True)) for values in found], rows, schema)


def test_datasets_reads_a_shard(shard, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    path, schema, rows = shard
    files = {"train": str(path)}
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features.arrow_schema.names == schema.names
    assert loaded.features.arrow_schema.types == schema.types
    _same_rows(loaded.to_list(), rows, schema)


# --- damage -----------------------------------------------------------------------------------------------------------


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
        list(stream(language[0], ["row"]))


def test_an_edited_or_missing_manifest_is_refused(language):
    path = language[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["rejected"]["too_long"] -= 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="its own digest does not match"):
        read_manifest(language[0])
    path.unlink()
    with pytest.raises(DataError, match=r"no manifest\.json"):
        list(stream(language[0], ["row"]))


def test_a_rewrite_leaves_no_shard_of_the_former_data(language, write_data):
    folder, rows = language
    before = (folder / "manifest.json").read_bytes()
    write_data(folder, [row for row in rows if row["split"] == "train"][:3], rows_per_shard=4)
    assert [path.name for path in (folder / "shards").iterdir()] == ["shard-00000.parquet"]
    assert (folder / "manifest.json").read_bytes() != before


def test_a_rewrite_that_is_cut_short_leaves_no_manifest(language, write_data, monkeypatch):
    folder, rows = language

    def cut(path, *arguments, **options):
        if Path(path).name == "shards":
            raise KeyboardInterrupt
        return remove(path, *arguments, **options)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", cut)
    with pytest.raises(KeyboardInterrupt):
        write_data(folder, [row for row in rows if row["split"] == "train"][:3], rows_per_shard=4)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        read_manifest(folder)
