"""A study's copy of its data suffices to recompute splits and subsets, without the data folder."""

import shutil

import pytest

from chemscale.data.passport import write_study_data
from chemscale.data.shards import FRAMES_SCHEMA, LANGUAGE_SCHEMA, write_manifest, write_shards
from chemscale.data.subsets import rows_digest
from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import DataError
from chemscale.io import read_json, read_parquet

SPLITS = ("train", "validation", "test")


def _folder(path, domain):
    tokenizer = Tokenizer.build(["[C][O]"])
    rows = []
    for index in range(9):
        row = {"row": f"{index:032x}", "group": f"{index // 3:032x}", "split": SPLITS[index // 3], "smiles": "C"}
        if domain == "language":
            row |= {"selfies": "[C]" * index, "tokens": tokenizer.encode("[C]" * index)}
        else:
            zeros = [0.0] * 3 * index
            row |= {
                "molecule": "m",
                "frame": index,
                "species": [6] * index,
                "positions": zeros,
                "forces": zeros,
                "energy": 0.0,
            }
        rows.append(row)
    schema = LANGUAGE_SCHEMA if domain == "language" else FRAMES_SCHEMA
    path.mkdir()
    tokenizer.save(path / "tokenizer.json")
    write_manifest(
        path,
        name="set",
        domain=domain,
        source={},
        settings={},
        shards=write_shards(path, rows, schema, 4),
        rejected={},
        tokenizer_digest=tokenizer.digest if domain == "language" else None,
    )
    return path


@pytest.mark.parametrize(("domain", "lengths"), [("language", range(2, 11)), ("potentials", range(9))])
def test_the_copy_says_what_the_data_say(tmp_path, domain, lengths):
    folder = _folder(tmp_path / "set", domain)
    manifest = (folder / "manifest.json").read_bytes()
    write_study_data(tmp_path / "study", folder, "mine")
    # from here on, the study alone
    shutil.rmtree(folder)
    copy = tmp_path / "study" / "data" / "mine"
    assert (copy / "manifest.json").read_bytes() == manifest
    assert (copy / "tokenizer.json").exists() == (domain == "language")
    table = read_parquet(copy / "rows.parquet")
    expected = ["row", "group", "split", "length"] + (["frame"] if domain == "potentials" else [])
    assert table.column_names == expected
    assert table["length"].to_pylist() == list(lengths)
    for split, stated in read_json(copy / "manifest.json")["splits"].items():
        chosen = [row["row"] for row in table.to_pylist() if row["split"] == split]
        assert rows_digest(chosen) == stated["digest"]


def test_damaged_data_are_not_vouched_for(tmp_path):
    folder = _folder(tmp_path / "set", "language")
    shard = folder / "shards" / "shard-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-00002\.parquet"):
        write_study_data(tmp_path / "study", folder, "mine")
    assert not (tmp_path / "study" / "data" / "mine" / "manifest.json").exists()
