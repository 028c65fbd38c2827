"""Exports under transformers 4 and 5: our logits, the same tokens alone and in a batch, saved and loaded again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chemscale.data.tokenizer import CLS, MASK, PAD, SEP, UNK, Tokenizer
from chemscale.inference import hugging_face
from chemscale.models import registry

ROOT = Path(__file__).resolve().parents[3]
# transformers 4 and its own packages, see the Makefile
TRANSFORMERS_4 = ROOT / ".venv-transformers4"
_NO_FOUR = f"no {TRANSFORMERS_4.name}: `make test` sets it up"
VOCABULARY = [
    "[UNK]",
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    ".",
    "[=C]",
    "[=O]",
    "[Branch1]",
    "[C]",
    "[N]",
    "[O]",
    "[S]",
]
KNOBS = {"layers": 3, "width": 16, "heads": 2}
FAMILIES = ("chemgpt", "chemgpt_modern")
# the last one is longer than the window of local attention
TEXTS = ["[C][C][O]", "", "[C].[Xe][=O]", "[C][O][N]" * 100]
PROMPTS = ["[CLS][C]", "[CLS][C][O][N][=C][C]", "[CLS]", "[CLS][S][Xe]"]


@pytest.fixture(scope="module")
def models():
    """Untrained models whose every weight matters: some begin as zeros or ones."""
    generator, made = torch.Generator().manual_seed(1), {}
    for family in FAMILIES:
        model = registry.build(family, KNOBS, seed=1, vocab_size=len(VOCABULARY), embedding_std=0.8)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "embedding.weight":
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        made[family] = model.eval()
    return made


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for family, model in models.items():
        hugging_face.save(model, Tokenizer(VOCABULARY), folder / family, hugging_face.USE)
    return {family: folder / family for family in FAMILIES}


def _has_four():
    return (TRANSFORMERS_4 / ".set-up").is_file()


def _file(tried, family, ending):
    folder, of = tried
    return folder / f"{family}{of}{ending}"


def _try(folders, out, **environment):
    out.mkdir()
    case = {"folders": {name: str(folder) for name, folder in folders.items()}, "texts": TEXTS, "prompts": PROMPTS}
    (out / "case.json").write_text(json.dumps(case))
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "tests/peers/try_export.py", out / "case.json", out],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def four(exported, tmp_path_factory):
    if not _has_four():
        pytest.skip(_NO_FOUR)
    return _try(exported, tmp_path_factory.mktemp("four") / "out", PYTHONPATH=str(TRANSFORMERS_4))


@pytest.fixture(scope="module")
def five(request, exported, tmp_path_factory):
    """Version 5 with the exports and, where version 4 is there, with what that saved."""
    folders = dict(exported)
    if _has_four():
        for family in FAMILIES:
            folders[f"{family}_of_four"] = request.getfixturevalue("four") / family
            (folders[f"{family}_of_four"] / "README.md").write_text(hugging_face.USE)
    return _try(folders, tmp_path_factory.mktemp("five") / "out")


@pytest.fixture(params=[("four", ""), ("five", ""), ("five", "_of_four")], ids=["four", "five", "five_of_four"])
def tried(request):
    """Where a version left what, and what the names of the models end with."""
    fixture, ending = request.param
    if ending and not _has_four():
        pytest.skip(_NO_FOUR)
    return request.getfixturevalue(fixture), ending


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_ours(models, tried, family):
    found = np.load(_file(tried, family, ".npz"))
    tokenizer = Tokenizer(VOCABULARY)
    for place, text in enumerate(TEXTS):
        with torch.no_grad():
            ours = models[family](torch.tensor([tokenizer.encode(text)]))[0].numpy()
        for kind in ("alone", "left", "right"):
            np.testing.assert_allclose(found[f"{kind}{place}"], ours, rtol=0, atol=1e-4, err_msg=f"{kind}, {text[:30]}")


def _continued(model, tokenizer, prompt):
    """The likeliest tokens after a prompt, 12 at most, as our own model gives them."""
    ids = tokenizer.encode(prompt.removeprefix("[CLS]"))[:-1]
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == SEP:
            break
    return ids


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_continued_as_each_prompt_alone(models, tried, family):
    facts = json.loads(_file(tried, family, ".json").read_text())
    tokenizer = Tokenizer(VOCABULARY)
    ours = [_continued(models[family], tokenizer, prompt) for prompt in PROMPTS]
    # an [UNK] or a [CLS] in the middle tells more than the same symbol again and again
    assert max(len(set(ids)) for ids in ours) > 4
    assert facts["batch"] == facts["one_by_one"] == ours
    strings = [text.removeprefix("[CLS]").replace("[Xe]", "") for text in facts["pipeline"]]
    assert strings == [tokenizer.decode(ids) for ids in ours]
    assert [text.startswith(begin) for text, begin in zip(facts["card"], ("[C][C]", "[N]"), strict=True)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_is_ours(tried, family):
    facts = json.loads(_file(tried, family, ".json").read_text())
    tokenizer = Tokenizer(VOCABULARY)
    assert facts["keys"] == ["attention_mask", "input_ids"]
    assert facts["ids"] == facts["slow"] == [tokenizer.encode(text) for text in TEXTS]
    assert facts["decoded"] == [text.replace("[Xe]", "") for text in TEXTS]
    carbon = VOCABULARY.index("[C]")
    assert facts["padded"] == [[PAD, CLS, carbon, SEP], [CLS, carbon, carbon, SEP]]
    assert facts["pair"] == [CLS, carbon, SEP, carbon, carbon, SEP]
    assert facts["cut"] == 2048
    assert facts["special"] == [UNK, PAD, CLS, SEP, MASK, CLS, SEP]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_again_is_the_same_model(models, tried, family):
    model, tokenizer = hugging_face.load(_file(tried, family, ""))
    assert list(tokenizer.vocabulary) == VOCABULARY
    for name, value in models[family].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_the_card_names_the_versions_that_are_tried(request, five):
    files = (ROOT / "tests/peers/transformers4.txt", ROOT / "constraints.txt")
    pins = [line for file in files for line in file.read_text().splitlines()]
    versions = [line.split("==")[1] for line in pins if line.startswith("transformers==")]
    assert tuple(versions) == hugging_face.VERSIONS
    assert f"transformers {versions[0]} to {versions[1]}" in hugging_face.USE
    tried = [request.getfixturevalue("four"), five] if _has_four() else [five]
    for version, folder in zip(versions[-len(tried) :], tried, strict=True):
        assert json.loads((folder / "chemgpt.json").read_text())["version"] == version
