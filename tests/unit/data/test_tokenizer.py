"""One token per symbol as selfies itself splits them, a vocabulary from training molecules, shards by constitution."""

import json
from collections import defaultdict
from itertools import islice

import pyarrow as pa
import pytest
import selfies

from chemscale.data import sources
from chemscale.data.molecules import convert, row_digest
from chemscale.data.shards import load_language, read_manifest
from chemscale.data.subsets import split_of
from chemscale.data.tokenizer import CLS, SEP, SPECIAL, UNK, Tokenizer, prepare, symbols
from chemscale.errors import DataError
from chemscale.io import read_json, read_parquet, write_json, write_parquet

POLICY = {"fragments": "keep", "stereo": "keep", "max_symbols": 128}
SECTION = {
    "kind": "molecules",
    "validation": 0.2,
    "test": 0.2,
    "min_symbol_count": 1,
    "rows_per_shard": 64,
    "workers": 2,
}


@pytest.fixture(scope="module")
def converted():
    """Every 250th molecule of the real table: rings, stereo, charges, salts."""
    rows = [convert(smiles, POLICY) for _, smiles in islice(sources.chemicals(), 0, None, 250)]
    return [row for row in rows if not isinstance(row, str)]


def _folder(path, rows):
    table = {
        "smiles": [smiles for smiles, _, _ in rows],
        "selfies": [text for _, text, _ in rows],
        "row": [row_digest(smiles) for smiles, _, _ in rows],
        "group": [row_digest(constitution) for _, _, constitution in rows],
    }
    write_parquet(path / "molecules.parquet", pa.table(table))
    ledger = {"rows_in": len(rows) + 4, "rows_kept": len(rows), "rejected": {"too_long": 4}, "source": {"name": "toy"}}
    write_json(path / "molecules.json", ledger)
    return path


def test_symbols_are_those_of_selfies(converted):
    texts = [text for _, text, _ in converted]
    assert any("." in text for text in texts)
    assert any("/" in text or "\\" in text for text in texts)
    assert [symbols(text) for text in texts] == [list(selfies.split_selfies(text)) for text in texts]


def test_ids_come_back_as_the_text(converted):
    texts = [text for _, text, _ in converted]
    tokenizer = Tokenizer.build(texts)
    for text in texts:
        ids = tokenizer.encode(text)
        assert (ids[0], ids[-1]) == (CLS, SEP)
        assert min(ids[1:-1]) >= len(SPECIAL)
        assert tokenizer.decode(ids) == text


def test_special_ids_are_the_published_ones():
    vocabulary = Tokenizer.build(["[O][C].[=C]"]).vocabulary
    assert vocabulary == ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", ".", "[=C]", "[C]", "[O]")


def test_rare_and_unseen_symbols_are_unknown():
    tokenizer = Tokenizer.build(["[C][C]", "[C][O]"], min_count=2)
    assert tokenizer.encode("[C][O][Pu]") == [CLS, 5, UNK, UNK, SEP]
    # a symbol that looks like a special token isn't one
    assert Tokenizer.build(["[UNK][C]"]).encode("[UNK]") == [CLS, UNK, SEP]


def test_the_digest_follows_the_vocabulary(tmp_path):
    tokenizer = Tokenizer.build(["[C][O]"])
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").vocabulary == tokenizer.vocabulary
    assert Tokenizer.build(["[O][C]", "[C]"]).digest == tokenizer.digest != Tokenizer.build(["[C][N]"]).digest
    stored = read_json(tmp_path / "tokenizer.json")
    stored["vocabulary"].reverse()
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="its digest does not match"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_shards_hold_every_molecule_and_no_group_is_in_two_splits(tmp_path, converted):
    # each molecule also as a salt of its own: it must follow its parent
    salts = [convert(f"{smiles}.Cl", POLICY) for smiles, _, _ in converted if "." not in smiles and len(smiles) > 5]
    rows = list({row[0]: row for row in [*converted, *salts] if not isinstance(row, str)}.values())
    prepare(SECTION, _folder(tmp_path, rows))
    manifest, data = read_manifest(tmp_path), load_language(tmp_path)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert manifest["tokenizer_digest"] == tokenizer.digest
    assert manifest["rows_in"] == manifest["rows_kept"] + sum(manifest["rejected"].values()) == len(rows) + 4
    assert len(manifest["shards"]) == -(-len(rows) // 64)
    assert "workers" not in manifest["settings"]
    found = defaultdict(set)
    for group, split in zip(data.groups, data.splits, strict=True):
        found[group].add(str(split))
        assert split == split_of(group, 0.2, 0.2)
    assert {len(splits) for splits in found.values()} == {1}
    assert len(found) < len(rows) * 0.7
    known = [s for row, split in zip(rows, data.splits, strict=True) if split == "train" for s in symbols(row[1])]
    assert tokenizer.vocabulary == (*SPECIAL, *sorted(set(known)))
    tokens = [data.tokens[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)]
    assert tokens == [tokenizer.encode(text) for _, text, _ in rows]


def test_tokens_outside_the_vocabulary_are_counted(tmp_path, converted):
    prepare(SECTION | {"min_symbol_count": 20}, _folder(tmp_path, converted))
    data = load_language(tmp_path)
    lengths = data.offsets[1:] - data.offsets[:-1]
    splits = data.splits.repeat(lengths)
    expected = {split: int((data.tokens[splits == split] == UNK).sum()) for split in ("train", "validation", "test")}
    assert min(expected.values()) > 0
    assert read_manifest(tmp_path)["unknown_tokens"] == expected


def test_an_empty_split_is_refused(tmp_path, converted):
    folder = _folder(tmp_path, converted)
    with pytest.raises(DataError, match="no molecule in validation"):
        prepare(SECTION | {"validation": 0.0}, folder)
    assert not (folder / "manifest.json").exists()


def test_fewer_molecules_than_the_ledger_counts_are_refused(tmp_path, converted):
    folder = _folder(tmp_path, converted)
    table = read_parquet(folder / "molecules.parquet")
    write_parquet(folder / "molecules.parquet", table.slice(0, 100))
    with pytest.raises(DataError, match=f"100 rows of {len(converted)}"):
        prepare(SECTION, folder)
