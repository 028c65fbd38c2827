"""One token per symbol as selfies itself splits them; vocabularies from training molecules or pinned; their files."""

import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import selfies

from chemscale.data import passport, sources
from chemscale.data.molecules import convert
from chemscale.data.tokenizer import CLS, SEP, SPECIAL, UNK, Tokenizer, symbols
from chemscale.errors import DataError
from chemscale.io import digest, read_json, write_json

SMOKE = Path(__file__).parents[2] / "data" / "smoke_molecules.csv"
POLICY = {"fragments": "keep", "stereo": "keep", "max_symbols": 128, "split_by": "constitution"}


@pytest.fixture(scope="module")
def texts():
    """The SELFIES of every 250th molecule of the real table: rings, stereo, charges, salts."""
    rows = [convert(smiles, POLICY) for _, smiles in islice(sources.chemicals(), 0, None, 250)]
    return [row.selfies for row in rows if not isinstance(row, str)]


@pytest.fixture
def smoke(section):
    """A function that gives the section of the smoke study's molecules, with changes."""

    def make(**changes):
        told = {"path": str(SMOKE), "column": "smiles", "validation": 0.2, "test": 0.2, "rows_per_shard": 64}
        return section(kind="molecules", source="file", **told, **changes)

    return make


def _shards(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])


def test_symbols_are_those_of_selfies(texts):
    assert any("." in text for text in texts)
    assert any("/" in text or "\\" in text for text in texts)
    assert [symbols(text) for text in texts] == [list(selfies.split_selfies(text)) for text in texts]
    assert symbols("") == []


def test_ids_come_back_as_the_text(texts):
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
    stored["vocabulary"][-2:] = stored["vocabulary"][:-3:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="its digest does not match"):
        Tokenizer.load(tmp_path / "tokenizer.json")


# --- files of vocabularies --------------------------------------------------------------------------------------------


def test_vocabularies_of_hugging_face_are_read(tmp_path):
    vocabulary = [*SPECIAL, ".", "[C]", "[=C]", "[O]"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    # as their library writes it: ids by token, in any order
    model = {"type": "WordLevel", "vocab": {token: index for index, token in reversed([*enumerate(vocabulary)])}}
    write_json(tmp_path / "tokenizer.json", {"version": "1.0", "model": model})
    for name in ("vocab.txt", "tokenizer.json"):
        tokenizer = Tokenizer.load(tmp_path / name)
        assert tokenizer.vocabulary == tuple(vocabulary)
        assert tokenizer.digest == digest(vocabulary)
        assert tokenizer.encode("[=C][O].[C]") == [CLS, 7, 8, 5, 6, SEP]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", {"vocab": {"[C]": 0}}, "neither vocabulary nor model.vocab"),
        ("t.json", ["[C]"], "neither vocabulary nor model.vocab"),
        ("t.json", {"model": {"vocab": {**{t: i for i, t in enumerate(SPECIAL)}, "[C]": 9}}}, "token ids with gaps"),
        ("t.json", {"model": {"vocab": {"[C]": 0, "[O]": 1}}}, "the first tokens"),
        ("t.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[C]\n", "begin with"),
        ("t.txt", "\n".join([*SPECIAL, "[C]", "[C]"]), "a token twice"),
        ("t.txt", "\n".join([*SPECIAL, *map(str, range(2**16))]), "65,541 tokens"),
        ("t.json", {"vocabulary": [*SPECIAL, 7], "digest": ""}, "one that is no text"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


def test_more_symbols_than_16_bits_are_refused():
    with pytest.raises(DataError, match="70,000 symbols"):
        Tokenizer.of_counts({f"[{number}]": 1 for number in range(70_000)})


# --- in the pipeline --------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_that_of_the_training_molecules(smoke, build, tmp_path, in_process):
    manifest = build(smoke(min_symbol_count=3), tmp_path / "out")
    table = _shards(tmp_path / "out")
    counts = Counter(
        symbol for text in table["selfies"][table["split"] == "train"] for symbol in selfies.split_selfies(text)
    )
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    assert tokenizer.vocabulary == (*SPECIAL, *sorted(symbol for symbol, count in counts.items() if count >= 3))
    assert manifest["tokenizer_digest"] == tokenizer.digest
    assert [tokens.tolist() for tokens in table["tokens"]] == [tokenizer.encode(text) for text in table["selfies"]]
    unknown = {
        split: int(sum((tokens == UNK).sum() for tokens in part["tokens"])) for split, part in table.groupby("split")
    }
    assert min(unknown.values()) > 0
    assert manifest["unknown_tokens"] == unknown


@pytest.fixture
def pinned(tmp_path):
    """A vocabulary of the ten most common symbols, as a vocab.txt."""
    common = Counter()
    for text in pd.read_csv(SMOKE)["smiles"]:
        converted = convert(text, POLICY)
        common.update([] if isinstance(converted, str) else selfies.split_selfies(converted.selfies))
    path = tmp_path / "vocab.txt"
    vocabulary = [*SPECIAL, *(symbol for symbol, _ in common.most_common(10))]
    path.write_text("\n".join(vocabulary))
    return path, vocabulary


def test_unknown_symbols_of_a_pinned_vocabulary_are_mapped_or_rejected(smoke, build, tmp_path, in_process, pinned):
    path, vocabulary = pinned
    told = {"vocabulary": str(path), "vocabulary_digest": digest(vocabulary), "max_reject_share": 0.99}
    mapped = build(smoke(**told), tmp_path / "map")
    refused = build(smoke(unknown_symbols="reject", **told), tmp_path / "reject")
    assert mapped["tokenizer_digest"] == refused["tokenizer_digest"] == digest(vocabulary)
    assert read_json(tmp_path / "map" / "tokenizer.json")["vocabulary"] == vocabulary
    table = _shards(tmp_path / "map")
    texts = [set(selfies.split_selfies(text)) for text in table["selfies"]]
    outside = np.array([bool(text - set(vocabulary)) for text in texts])
    assert 50 < outside.sum() < len(table) - 50
    # of all rows: also those that come twice
    assert mapped["rejected"].keys() == refused["rejected"].keys() - {"outside_vocabulary"}
    assert set(_shards(tmp_path / "reject")["selfies"]) == set(table["selfies"][~outside])
    assert refused["rejected"]["outside_vocabulary"] >= outside.sum()
    assert refused["rows_in"] == refused["rows_kept"] + sum(refused["rejected"].values())
    assert set(refused["unknown_tokens"].values()) == {0}
    expected = Counter()
    for text, split in zip(table["selfies"], table["split"], strict=True):
        expected[split] += sum(symbol not in vocabulary for symbol in selfies.split_selfies(text))
    assert mapped["unknown_tokens"] == expected


def test_another_vocabulary_than_the_pinned_one_is_refused(smoke, build, tmp_path, in_process, pinned):
    path, vocabulary = pinned
    told = smoke(vocabulary=str(path), vocabulary_digest=digest(vocabulary))
    path.write_text("\n".join([*vocabulary, "[Pu]"]))
    with pytest.raises(
        DataError, match=f"of digest {digest(vocabulary)}: found digest {digest([*vocabulary, '[Pu]'])}"
    ):
        build(told, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_transformers_reads_a_studys_vocabulary_and_encodes_the_same_ids(smoke, build, tmp_path, in_process, texts):
    from transformers import AutoTokenizer

    build(smoke(), tmp_path / "set")
    passport.prepare(tmp_path / "study", tmp_path / "set", "mine", [], scaffolds=False)
    ours = Tokenizer.load(tmp_path / "study" / "data" / "mine" / "tokenizer.json")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "study" / "data" / "mine" / "tokenizer", local_files_only=True)
    assert len(theirs) == len(ours)
    assert theirs.get_vocab() == {token: index for index, token in enumerate(ours.vocabulary)}
    random = np.random.default_rng(0)
    alphabet = [symbol for symbol in ours.vocabulary[len(SPECIAL) :] if symbol != "."] + ["[Pu]", "[No+1]"]
    fragments = ["".join(random.choice(alphabet, length)) for length in random.integers(1, 60, 300)]
    # each alone, each with the next, and molecules as they are
    strings = fragments + list(map(".".join, pairwise(fragments))) + texts
    for text in strings:
        assert theirs(text)["input_ids"] == ours.encode(text)
    encoded = [ours.encode(text) for text in strings]
    assert sum(UNK in ids for ids in encoded) > 50, "unknown symbols have to be among them"
    assert (theirs.unk_token_id, theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id) == (0, 1, CLS, SEP)
    batch = theirs(["[C]", "[C][C][O]"], padding=True)
    assert batch["input_ids"][0] == [1, 1, *ours.encode("[C]")]
    assert theirs.decode(ours.encode("[C][O].[C]"), skip_special_tokens=True) == "[C][O].[C]"
