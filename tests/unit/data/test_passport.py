"""A study's copy of its data suffices to recompute splits and subsets, and its passport says what is in them."""

import itertools
import shutil
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem

from chemscale.data import passport, prepare_scaffolds, subsets
from chemscale.data.elements import count_elements
from chemscale.data.molecules import convert
from chemscale.data.passport import measure_lengths, measure_overlaps
from chemscale.data.subsets import rows_digest
from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import DataError
from chemscale.io import read_json, read_parquet

SPLITS = ("train", "train", "validation", "test")
DRAWS = [(0, 2), (0, 5), (1, 3)]
SMILES = ["CCO", "c1ccccc1", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "c1cc[nH]c1", "[2H]OC", "Clc1ccc[se]1", "CC", "CBr",
          "C[Si](C)(C)C", "O=[As]O", "[13CH4]"]  # fmt: skip


def _language(folder, write_data):
    policy = {"fragments": "keep", "stereo": "keep", "max_symbols": 128, "split_by": "scaffold"}
    rows = []
    for index, smiles in enumerate(SMILES):
        made = convert(smiles, policy)
        split = SPLITS[index // 3 % 4]
        scaffold = prepare_scaffolds.scaffold_of(made.smiles)
        rows.append({"smiles": made.smiles, "selfies": made.selfies, "scaffold": scaffold,
                     "split": split, "group": f"{index // 3}"})  # fmt: skip
    write_data(folder, rows, rejected={"unparsable": 3}, warnings=["a warning"], draws=DRAWS, rows_per_shard=5)
    return rows


def _frames(folder, write_data):
    random = np.random.default_rng(0)
    rows = [
        {"molecule": "m", "frame": index, "split": SPLITS[index // 3 % 4], "group": f"{index // 3}",
         "species": random.choice([1, 6, 8], index + 1), "positions": random.normal(size=3 * index + 3),
         "forces": random.normal(size=3 * index + 3), "energy": 0.0}
        for index in range(12)
    ]  # fmt: skip
    write_data(folder, rows, draws=DRAWS, rows_per_shard=5)
    return rows


@pytest.fixture(params=["language", "potentials"])
def copied(request, tmp_path, write_data):
    """The rows that went in, the folder of the study's copy, and the bytes of the manifest; the data are gone."""
    folder = tmp_path / "set"
    rows = (_language if request.param == "language" else _frames)(folder, write_data)
    passport.prepare(tmp_path / "study", folder, "mine", DRAWS, scaffolds=request.param == "language")
    manifest = (folder / "manifest.json").read_bytes()
    kept = {
        draw: read_parquet(folder / "subsets" / f"seed{draw[0]}" / f"n{draw[1]}.parquet")["place"].to_pylist()
        for draw in DRAWS
    }
    shutil.rmtree(folder)
    return request.param, rows, tmp_path / "study" / "data" / "mine", manifest, kept


def test_the_copy_says_what_the_data_say(copied):
    domain, rows, copy, manifest, _ = copied
    assert (copy / "manifest.json").read_bytes() == manifest
    assert (copy / "tokenizer.json").exists() == (copy / "tokenizer").exists() == (domain == "language")
    table = read_parquet(copy / "rows.parquet")
    assert table.column_names == ["row", "group", "split", "length"] + (
        ["frame"] if domain == "potentials" else ["relative", "scaffold"]
    )
    if domain == "language":
        tokenizer = Tokenizer.load(copy / "tokenizer.json")
        lengths = Counter((len(tokenizer.encode(row["selfies"])), row["split"]) for row in rows)
    else:
        lengths = Counter((len(row["species"]), row["split"]) for row in rows)
        assert sorted(table["frame"].to_pylist()) == list(range(12))
    found = zip(table["length"].to_pylist(), table["split"].to_pylist(), strict=True)
    assert Counter(found) == lengths
    for split, stated in read_json(copy / "manifest.json")["splits"].items():
        chosen = [row["row"] for row in table.to_pylist() if row["split"] == split]
        assert rows_digest(chosen) == stated["digest"]


def test_the_passport_says_what_was_trained_on(copied):
    domain, rows, copy, _, kept = copied
    told = read_json(copy / "passport.json")
    manifest = read_json(copy / "manifest.json")
    assert told["name"] == "mine"
    assert told["data_digest"] == manifest["digest"]
    assert (told["rows_in"], told["rows_kept"]) == (12 + 3 * (domain == "language"), 12)
    assert told["rejected"] == ({"unparsable": 3} if domain == "language" else {})
    assert told["warnings"] == (["a warning"] if domain == "language" else [])
    assert told["splits"] == manifest["splits"]
    # elements by RDKit and by count
    elements = {split: Counter() for split in ("train", "validation", "test")}
    for row in rows:
        if domain == "language":
            elements[row["split"]].update(atom.GetSymbol() for atom in Chem.MolFromSmiles(row["smiles"]).GetAtoms())
        else:
            elements[row["split"]].update({1: "H", 6: "C", 8: "O"}[number] for number in row["species"].tolist())
    assert told["elements"] == elements
    table = read_parquet(copy / "rows.parquet").to_pylist()
    lengths = {split: Counter(row["length"] for row in table if row["split"] == split) for split in elements}
    assert told["lengths"] == {
        split: [list(pair) for pair in sorted(found.items())] for split, found in lengths.items()
    }
    drawn = {draw: [table[place] for place in places] for draw, places in kept.items()}
    assert told["subsets"] == [
        {
            "seed": seed,
            "num_samples": num_samples,
            "length": sum(row["length"] for row in drawn[seed, num_samples]),
            "digest": rows_digest(row["row"] for row in drawn[seed, num_samples]),
        }
        for seed, num_samples in DRAWS
    ]


def test_overlaps_of_splits_are_those_of_their_rows(tmp_path, write_data):
    # groups and scaffolds that straddle, as a wrong split would leave them
    splits = ["train", "validation", "test"]
    rows = [
        {"smiles": f"C{i}", "selfies": "[C]", "split": splits[i % 3], "group": f"{i // 2}", "scaffold": f"{i // 6}"}
        for i in range(30)
    ]
    # no scaffold is none in common
    rows[6:9] = [row | {"scaffold": ""} for row in rows[6:9]]
    write_data(tmp_path / "set", rows)
    passport.prepare(tmp_path / "study", tmp_path / "set", "mine", [], scaffolds=True)
    sets = {
        (split, name): {row[name] for row in rows if row["split"] == split} - {""}
        for split in splits
        for name in ("group", "scaffold")
    }
    expected = [
        {"splits": [one, other], "rows": 0}
        | {f"{name}s": len(sets[one, name] & sets[other, name]) for name in ("group", "scaffold")}
        for one, other in itertools.combinations(splits, 2)
    ]
    assert [pair["groups"] for pair in expected] == [5, 5, 5]
    copy = tmp_path / "study" / "data" / "mine"
    assert measure_overlaps(copy / "rows.parquet") == expected == read_json(copy / "passport.json")["overlaps"]
    assert measure_lengths(copy / "rows.parquet") == {split: [[3, 10]] for split in splits}


def test_relatives_that_splits_part_are_counted(tmp_path, write_data, monkeypatch):
    # by another definition than that of the groups, which here are wrong ones
    smiles = {
        "train": ["CCCN.Cl", "CC(=O)O", "CCO", "C[C@H](N)C(=O)O", "CCCC", "[Na+].[Cl-]"],
        "validation": ["CCCN", "[13CH3]C(=O)[O-].[Na+]", "CCS"],
        "test": ["CCC[NH3+].[Br-]", "C[C@@H](N)C(=O)[O-].[K+]", "CCF", "Cl"],
    }
    texts = [(text, split) for split, members in smiles.items() for text in members]
    rows = [
        {"smiles": text, "selfies": "[C]", "split": split, "group": f"{place}"}
        for place, (text, split) in enumerate(texts)
    ]
    write_data(tmp_path / "set", rows)
    passport.prepare(tmp_path / "study", tmp_path / "set", "mine", [], scaffolds=False)
    copy = tmp_path / "study" / "data" / "mine"
    told = read_json(copy / "passport.json")["relatives"]
    # propylamine is in three splits, acetic acid and alanine are in two; sodium chloride has no parent with carbon
    assert (told["rows"], told["parents"], told["straddle"]) == (11, 7, 3)
    (row,) = [row for row in passport.passport_rows("mine", read_json(copy / "passport.json")) if "straddle" in row]
    assert (row["entry"], row["straddle"]) == ("mine, relatives, train, validation, test", 3)
    table = read_parquet(copy / "rows.parquet").to_pylist()
    known = [f"{row['row']} {row['relative']}" for row in table if row["relative"]]
    assert told["digest"] == rows_digest(known)
    # of a larger set, a sample
    monkeypatch.setattr(passport, "_MOST_RELATIVES", 5)
    passport.prepare(tmp_path / "sample", tmp_path / "set", "mine", [], scaffolds=False)
    sample = read_json(tmp_path / "sample" / "data" / "mine" / "passport.json")["relatives"]
    assert 0 < sample["rows"] < 11


def test_elements_are_rdkits_of_whatever_text():
    odd = ["[Cu+2]", "C1=CC=C[Te]1", "[H][H]", "[te]1cccc1", "P", "[Sc]", "[SiH4]", "o1cccc1", "C[N+](C)(C)C"]
    molecules = [Chem.MolFromSmiles(text) for text in SMILES + odd]
    expected = Counter(atom.GetSymbol() for molecule in molecules for atom in molecule.GetAtoms())
    assert count_elements([Chem.MolToSmiles(molecule) for molecule in molecules]) == expected


def test_damaged_data_are_not_vouched_for(tmp_path, write_data):
    folder = tmp_path / "set"
    _language(folder, write_data)
    shard = folder / "shards" / "shard-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"shard-00002\.parquet"):
        passport.prepare(tmp_path / "study", folder, "mine", DRAWS, scaffolds=False)
    assert not (tmp_path / "study" / "data" / "mine" / "manifest.json").exists()
    assert not (tmp_path / "study" / "data" / "mine" / "passport.json").exists()


def test_subsets_are_measured_as_they_are_drawn(tmp_path, write_data, monkeypatch):
    # parts of the stream that end anywhere
    batches = passport.row_batches
    _frames(tmp_path / "set", write_data)
    passport.prepare(tmp_path / "study", tmp_path / "set", "mine", DRAWS, scaffolds=False)
    rows = tmp_path / "study" / "data" / "mine" / "rows.parquet"
    whole = passport.measure_subsets(rows, "set", DRAWS)

    def small(path, columns):
        for batch in batches(path, columns):
            yield from (batch.slice(first, 2) for first in range(0, batch.num_rows, 2))

    monkeypatch.setattr(passport, "row_batches", small)
    assert passport.measure_subsets(rows, "set", DRAWS) == whole
    assert passport.measure_subsets(rows, "set", DRAWS[::-1]) == whole
    train = [row for row in read_parquet(rows).to_pylist() if row["split"] == "train"]
    order = np.argsort(subsets.subset_keys([row["row"] for row in train], "set", 1), kind="stable")
    chosen = [train[place] for place in order[:3]]
    assert whole[-1] == {
        "seed": 1,
        "num_samples": 3,
        "length": sum(row["length"] for row in chosen),
        "digest": rows_digest(row["row"] for row in chosen),
    }
