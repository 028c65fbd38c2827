"""Scaffolds as a step of their own: one for each row, found anew only where shards or code are others."""

import pyarrow.parquet as pq
import pytest

from chemscale.data import prepare_scaffolds, shards
from chemscale.data.prepare_scaffolds import prepare, scaffold_of
from chemscale.data.scaffolds import read_record, stream
from chemscale.data.subsets import listing_digest, scaffold_digest
from chemscale.errors import DataError
from chemscale.io import sha256_file

SMILES = ["CCO", "Cc1ccccc1", "OC1CC1.[Na+].[Cl-]", "c1ccc2ccccc2c1CC", "C[C@@H](O)C1CCNCC1", "CC(C)C"] * 3


@pytest.fixture
def folder(tmp_path, write_data):
    rows = [
        {"smiles": smiles, "row": f"{index:032x}", "selfies": "[C]", "split": "train", "group": str(index)}
        for index, smiles in enumerate(SMILES)
    ]
    write_data(tmp_path / "set", rows, rows_per_shard=7)
    return tmp_path / "set"


def _bytes(folder):
    return {path.name: path.read_bytes() for path in (folder / "scaffolds").iterdir()}


def test_every_row_has_its_scaffold_whoever_finds_it(folder, monkeypatch):
    monkeypatch.setattr(prepare_scaffolds, "ROW_GROUP", 3)
    prepare(folder, "code", 2)
    made = _bytes(folder)
    found = [text for part in stream(folder) for text in part.to_pylist()]
    assert found[:6] == ["", "c1ccccc1", "C1CC1", "c1ccc2ccccc2c1", "C1CCNCC1", ""]
    assert found == found[:6] * 3
    record = read_record(folder)
    assert [entry["file"][10:] for entry in record["files"]] == [f"shard-{index:05d}.parquet" for index in range(3)]
    assert record["not_found"] == 0
    rows = [f"{index:032x}" for index in range(7)]
    digests = [scaffold_digest(text) for text in found[:7]]
    assert record["files"][0]["listing"] == listing_digest([rows, digests])
    for path in (folder / "scaffolds").iterdir():
        path.unlink()
    prepare(folder, "code", 1)
    assert _bytes(folder) == made


def test_parts_are_those_of_the_shards(folder, monkeypatch, in_process):
    prepare(folder, "code", 1)
    parts = [len(part) for part in stream(folder)]
    assert parts == [table.num_rows for table in shards.stream(folder, ["row"])] == [7, 7, 4]


def test_an_interrupted_stage_goes_on_and_another_code_begins_anew(folder, monkeypatch, in_process):
    asked = []

    def told(smiles):
        asked.append(smiles)
        return scaffold_of(smiles)

    monkeypatch.setattr(prepare_scaffolds, "scaffold_of", told)
    prepare(folder, "code", 1)
    assert asked == SMILES
    made = _bytes(folder)
    (folder / "scaffolds" / "scaffolds.json").unlink()
    (folder / "scaffolds" / "shard-00001.parquet").unlink()
    asked.clear()
    prepare(folder, "code", 1)
    assert asked == SMILES[7:14]
    assert _bytes(folder) == made
    asked.clear()
    prepare(folder, "other code", 1)
    assert asked == SMILES


def test_a_molecule_without_an_answer_loses_no_other(folder, monkeypatch, in_process, caplog):
    def fails(constitution):
        if constitution == "CCO":
            raise RuntimeError("no ring information")
        return constitution

    monkeypatch.setattr(prepare_scaffolds, "scaffold", fails)
    prepare(folder, "code", 1)
    found = [text for part in stream(folder) for text in part.to_pylist()]
    assert [smiles for smiles, text in zip(SMILES, found, strict=True) if text is None] == ["CCO"] * 3
    assert read_record(folder)["not_found"] == 3
    assert "no scaffold was found of 3 molecules" in caplog.text


def test_other_or_changed_scaffolds_are_refused(folder, write_data, in_process):
    prepare(folder, "code", 1)
    path = folder / "scaffolds" / "shard-00002.parquet"
    before = sha256_file(path)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 3), path)
    assert sha256_file(path) != before
    with pytest.raises(DataError, match=r"shard-00002\.parquet"):
        list(stream(folder))
    rows = [{"smiles": "C", "selfies": "[C]", "split": "train", "group": "a"}]
    write_data(folder, rows)
    with pytest.raises(DataError, match="scaffolds of other data"):
        list(stream(folder))
