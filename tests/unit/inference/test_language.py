"""A finished cell asked: transformers gives the same losses, draws follow the model, vectors those of each alone."""

import json
import math
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from chemscale.data.molecule_files import own_file
from chemscale.data.tokenizer import CLS, SEP, Tokenizer
from chemscale.errors import InputError, RecordError
from chemscale.families import LANGUAGE
from chemscale.inference import generate, hugging_face
from chemscale.inference.embed import embed, vectors
from chemscale.inference.export import export
from chemscale.inference.finished import finished_cell
from chemscale.inference.language import load
from chemscale.io import read_json, read_parquet
from chemscale.models import registry

CELL = "results/smoke/cells/chemgpt/w16/n400/seed0"


@pytest.fixture(scope="module")
def cell(smoke_tree):
    return smoke_tree.path / CELL


@pytest.fixture(scope="module")
def exported(cell, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "model"
    assert export(cell, out, "hf")["cell"] == "cells/chemgpt/w16/n400/seed0"
    return out


def test_transformers_reproduces_the_validation_loss(smoke_tree, cell, exported):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    key = read_json(cell / "config.json")["data"]["key"]
    shards = sorted((smoke_tree.path / "data" / key / "shards").glob("*.parquet"))
    rows = [row for shard in shards for row in read_parquet(shard).to_pylist() if row["split"] == "validation"]
    loss = tokens = 0.0
    for row in rows:
        ids = tokenizer(row["selfies"], return_tensors="pt")["input_ids"]
        assert ids[0].tolist() == row["tokens"]
        with torch.no_grad():
            loss += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert loss / tokens == pytest.approx(read_json(cell / "metrics.json")["val_loss"], rel=1e-5)
    card = (exported / "README.md").read_text()
    for value in ("chemgpt w16", "smoke", read_json(cell / "metrics.json")["subset_digest"], "Stereo is kept"):
        assert value in card


def test_an_exported_folder_comes_back_as_the_same_model(cell, exported):
    ours, again = load(cell), load(exported)
    assert again.tokenizer.vocabulary == ours.tokenizer.vocabulary
    for name, value in ours.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_folder_that_transformers_wrote_is_read(tmp_path):
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(vocab_size=30, hidden_size=24, num_layers=3, num_heads=2,
                          attention_types=[[["global", "local"], 1], [["global"], 1]])  # fmt: skip
    theirs = GPTNeoForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *(f"[C{i}]" for i in range(25))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    model, tokenizer = hugging_face.load(tmp_path)
    assert tokenizer.encode("[C3]") == [CLS, 8, SEP]
    tokens = torch.randint(0, 30, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-6)
        # as published: weights in a pickle
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        torch.testing.assert_close(hugging_face.load(tmp_path)[0](tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("model_type", "bert", "model_type 'bert'"), ("model_type", "llama", "num_hidden_layers None"),
     ("window_size", 128, "window_size 128"), ("intermediate_size", 7, "intermediate_size 7"),
     ("attention_types", [[["global"], 2]], r"attention_types \['global', 'global'\]"), ("vocab_size", 9, "74 tokens")],
)  # fmt: skip
def test_another_kind_of_model_is_refused(exported, tmp_path, key, value, message):
    folder = shutil.copytree(exported, tmp_path / "model")
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InputError, match=message):
        hugging_face.load(folder)


def test_what_is_no_finished_cell_is_told(cell, smoke_tree, exported, tmp_path):
    with pytest.raises(InputError, match="no metrics"):
        finished_cell(tmp_path, LANGUAGE)
    with pytest.raises(InputError, match="name a language cell"):
        finished_cell(smoke_tree.path / "results/smoke/cells/painn/w8/n8/seed0", LANGUAGE)
    with pytest.raises(InputError, match="outside of its study"):
        finished_cell(shutil.copytree(cell, tmp_path / "copied"), LANGUAGE)
    with pytest.raises(InputError, match="not empty"):
        export(cell, exported, "hf")
    with pytest.raises(InputError, match="no such target"):
        export(cell, tmp_path / "new", "onnx")
    study = shutil.copytree(smoke_tree.path / "results" / "smoke", tmp_path / "smoke")
    path = study / "cells/chemgpt/w16/n400/seed0/checkpoint/weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(RecordError, match="it was changed"):
        load(study / "cells/chemgpt/w16/n400/seed0")


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    """An untrained model of few tokens, whose distribution is far from uniform."""
    tokenizer = Tokenizer(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "[C]", "[O]", "[N]"])
    knobs = {"layers": 2, "width": 8, "heads": 2}
    model = registry.build("chemgpt", knobs, seed=3, vocab_size=8, embedding_std=0.8)
    return model.eval(), tokenizer


def _take(count, model, tokenizer, seed=0, **options):
    stream = generate.draw(model, tokenizer, seed, **options)
    return [next(stream) for _ in range(count)]


def test_strings_come_as_often_as_the_model_says(small):
    model, tokenizer = small
    drawn = _take(4000, model, tokenizer, max_symbols=5)
    counts = Counter(string.selfies for string in drawn if string.finished)
    with torch.no_grad():
        for text, count in counts.most_common(6):
            ids = torch.tensor([tokenizer.encode(text)])
            steps = model(ids[:, :-1])[0].double()
            told = float(steps.log_softmax(1).gather(1, ids[0, 1:, None]).sum())
            assert {round(s.log_probability, 6) for s in drawn if s.selfies == text and s.finished} == {round(told, 6)}
            # drawn among the tokens that may be drawn alone
            steps[:, [0, 1, 2, 4]] = -math.inf
            share = math.exp(float(steps.log_softmax(1).gather(1, ids[0, 1:, None]).sum()))
            assert abs(count / 4000 - share) < 4 * math.sqrt(share / 4000)


def test_a_draw_is_fixed_by_its_seed_and_begins_with_its_prompt(small):
    model, tokenizer = small
    first = _take(300, model, tokenizer, max_symbols=9)
    assert _take(40, model, tokenizer, max_symbols=9) == first[:40]
    assert _take(40, model, tokenizer, seed=1, max_symbols=9) != first[:40]
    prompted = _take(50, model, tokenizer, prompt="[C][O]", max_symbols=6)
    assert all(string.selfies.startswith("[C][O]") for string in prompted)
    cut = [string for string in prompted if not string.finished]
    assert {string.selfies.count("[") for string in cut} == {6}
    cold = _take(300, model, tokenizer, max_symbols=9, temperature=0.05)
    assert len(Counter(string.selfies for string in cold)) < len(Counter(string.selfies for string in first)) / 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prompt": "CCO"}, "not SELFIES"), ({"prompt": "[C][Xe]"}, r"\[Xe\] outside"), ({"max_symbols": 0}, "no room"),
     ({"prompt": "[C][C]", "max_symbols": 2}, "no room"), ({"temperature": 0.0}, "temperature")],
)  # fmt: skip
def test_a_draw_that_cannot_be_is_told(small, options, message):
    with pytest.raises(InputError, match=message):
        _take(1, *small, **options)


def test_molecules_are_smiles_and_others_are_counted(small, cell):
    model, tokenizer = small
    found, left_out = generate.molecules(model, tokenizer, 200, 0, max_symbols=4)
    assert len(found) == 200
    assert all(smiles and set(smiles) <= set("CON=#") for smiles, _ in found)
    assert left_out["cut by the limit"] > 0
    asked = load(cell)
    assert len(generate.molecules(asked.model, asked.tokenizer, 20, 0)[0]) == 20


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_do_not_depend_on_the_batch(small):
    model, tokenizer = small
    strings = [tokenizer.encode("[C]" * length) for length in (1, 40, 7, 3, 700, 90)]
    together = vectors(model, strings)
    for ids, vector in zip(strings, together, strict=True):
        with torch.no_grad():
            alone = model.hidden(torch.tensor([ids]))[0].mean(0)
        np.testing.assert_allclose(vector, alone, rtol=1e-4, atol=1e-5)


def test_every_row_of_a_file_has_a_vector_or_a_reason(cell, smoke_tree, tmp_path, monkeypatch):
    file = tmp_path / "molecules.csv"
    smoke = (smoke_tree.path / "tests" / "data" / "smoke_molecules.csv").read_text().splitlines()[1:201]
    smoke = [line.split(",", 1)[1] for line in smoke]
    file.write_text("\n".join(["smiles", "nothing", *smoke[:90], "C1CC", *smoke[90:], "[U+9]#[Xe]"]) + "\n")
    monkeypatch.setattr("chemscale.inference.embed._ROWS", 70)
    done = embed(cell, file, tmp_path / "out.parquet", "smiles")
    table = read_parquet(tmp_path / "out.parquet").to_pylist()
    rows = list(own_file(file, "smiles"))
    assert [row["smiles"] for row in table] == rows
    assert [row["row"] for row in table] == list(range(len(rows)))
    assert done["rows"] == len(rows) == done["embedded"] + sum(done["rejected"].values())
    assert [row["row"] for row in table if row["rejected"] == "unparsable"][:2] == [0, 91]
    assert all((row["embedding"] is None) == (row["rejected"] is not None) for row in table)
    assert all(len(row["embedding"]) == 16 for row in table if row["embedding"])
