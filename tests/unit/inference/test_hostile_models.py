"""Models from strangers: an odd folder ends in one line, before memory is taken, and no number is NaN or infinite."""

import json
import os
import pickle
import resource
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import chemscale
from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import ChemscaleError, InputError, RecordError
from chemscale.grid import ALONE
from chemscale.inference import generate, hugging_face, language
from chemscale.inference.embed import embed, vectors
from chemscale.inference.export import export
from chemscale.inference.potential import load
from chemscale.models import registry, weights
from chemscale.models.potential import Potential
from chemscale.records import METRIC_FIELDS

VOCABULARY = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "[C]", "[N]", "[O]"]
KNOBS = {"layers": 2, "width": 8, "heads": 2}
FAMILIES = ("chemgpt", "chemgpt_modern")
POTENTIAL = {"width": 4, "interactions": 1, "num_radial": 2, "cutoff": 3.0, "envelope": "smooth", "vectors": True}
SEEN = {"species": [1, 6, 8], "closest": {"1-6": 0.9, "6-8": 1.2}}
MOST_MEMORY = 300 * 2**20
FUZZ = settings(max_examples=200, derandomize=True, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def _memory():
    """The most memory that the process ever held stays near what it held before all of these folders."""
    # what loading takes by itself: libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        model = registry.build(family, KNOBS, seed=1, vocab_size=len(VOCABULARY), embedding_std=0.8)
        hugging_face.save(model, Tokenizer(VOCABULARY), folder / family, "card")
    potential = Potential(registry.build("painn", POTENTIAL, seed=0), torch.ones(119, dtype=torch.float64), 0.7)
    weights.save(folder / "painn", potential.state_dict(), {"family": "painn", "knobs": POTENTIAL, **SEEN})
    model = registry.build("chemgpt", KNOBS, seed=1, vocab_size=len(VOCABULARY), embedding_std=0.8)
    about = {"family": "chemgpt", "knobs": KNOBS, "vocab": len(VOCABULARY)}
    policy = {"stereo": "keep", "fragments": "keep", "max_symbols": 20, "split_by": "constitution"}
    _save_cell(folder / "study", CELL, model.state_dict(), about, manifest={"settings": policy})
    Tokenizer(VOCABULARY).save(folder / "study" / "data" / "mine" / "tokenizer.json")
    about = {"family": "painn", "knobs": POTENTIAL, **SEEN}
    _save_cell(folder / "frames", POTENTIAL_CELL, potential.state_dict(), about)
    (folder / "molecules.smi").write_text("C\nCO\nC#N\n")
    return folder


CELL = "cells/chemgpt/tiny/n8/seed0"
POTENTIAL_CELL = "cells/painn/tiny/n8/seed0"


def _save_cell(study, path, state, about, **of_data):
    """A finished cell with all that is read of it, and nothing else."""
    cell, data, family = study / path, study / "data" / "mine", about["family"]
    weights.save(cell / "checkpoint", state, about)
    config = {"study": "study", "family": family, "size": "tiny", "num_samples": 8, "seed": 0, "control": None}
    config |= {"domain": "language" if family == "chemgpt" else "potentials", "knobs": about["knobs"], "threads": 1}
    config |= {"protocol": {"kind": "one_pass"}, "training": {}, "engine": ALONE}
    config |= {"data": {"name": "mine", "key": "mine-1", "evaluations": {}}}
    examples = {int: 1, float: 0.5, str: "word", dict: {}}
    metrics = {field: examples[kind] for field, kind in METRIC_FIELDS.items()}
    metrics["test_metrics"] = {"energy_mae": 0.5, "force_rmse": 0.5}
    provenance = {"versions": {"torch": "2"}}
    for name, value in {"config": config, "metrics": metrics, "provenance": provenance}.items():
        (cell / f"{name}.json").write_text(json.dumps(value))
    data.mkdir(parents=True)
    for name, value in {"passport": {"source": {"name": "mine"}}, **of_data}.items():
        (data / f"{name}.json").write_text(json.dumps(value))


def _changed(folder, name, **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def _tensors(change):
    def changed(folder):
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return changed


def _config(**values):
    return lambda folder: _changed(folder, "config.json", **values)


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


def _vocabulary(**model):
    return lambda folder: _changed(folder, "tokenizer.json", model=model)


def _fifo(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _endless(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def _sparse(folder):
    """A header that fits a model of 10 TB, and a file of that size without any of its blocks."""
    width, layers = 65536, 64
    _changed(folder, "config.json", hidden_size=width, num_layers=layers, attention_types=[[["global", "local"], 32]])
    knobs = {"layers": layers, "width": width, "heads": 2}
    model, _ = registry.outline("chemgpt", knobs, seed=0, vocab_size=8, embedding_std=1.0)
    header, end, state = {}, 0, model.state_dict()
    for ours, theirs, (_, parts) in hugging_face._names("gpt_neo", layers):
        first, *others = state[ours].shape
        shape = [first // parts, *others]
        header[theirs] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end := end + 4 * int(np.prod(shape))]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


class _Code:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def _pickled(make):
    def changed(folder):
        (folder / "model.safetensors").unlink()
        make(folder / "pytorch_model.bin")

    return changed


def _code(path):
    torch.save({"transformer.wte.weight": _Code(path.parent / "ran"), "padding": torch.zeros(10**5)}, path)


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
        archive.writestr("archive/data/0", os.urandom(10**5))


def _expanded(path):
    """Tensors of the right shapes, each of which is one number again and again."""
    model, _ = registry.outline("chemgpt", KNOBS | {"width": 1024}, seed=0, vocab_size=8, embedding_std=1.0)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, path)
    _changed(path.parent, "config.json", hidden_size=1024)


IDS = {token: index for index, token in enumerate(VOCABULARY)}
ONE, EMBEDDING = "transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight"
HOSTILE = {
    "nan": (_tensors(lambda state: state[ONE].fill_(torch.nan)), "not finite"),
    "one infinity": (_tensors(lambda state: state[EMBEDDING][3].fill_(-torch.inf)), "not finite"),
    "double that is no float": (_tensors(lambda s: s.update({ONE: s[ONE].double() + 1e300})), "not finite"),
    "shape": (_tensors(lambda state: state.update({ONE: state[ONE].T.contiguous()})), r"\(8, 32\); config.json says"),
    "whole numbers": (_tensors(lambda state: state.update({ONE: state[ONE].long()})), "the kind I64"),
    "no tensor": (_tensors(lambda s: s.update(more=s.pop(ONE))), f"no {ONE}"),
    "no numbers": (_tensors(lambda state: [state.pop(name) for name in list(state)]), "found 0 numbers"),
    "layers": (_config(num_layers=10**9), "num_layers 1000000000"),
    "many layers": (_config(num_layers=512), "numbers; the model of config.json has"),
    "wide": (_config(hidden_size=65536), "numbers; the model of config.json has 10"),
    "negative": (_config(hidden_size=-8), "hidden_size -8"),
    "huge": (_config(hidden_size=10**30), "hidden_size 1000"),
    "true": (_config(num_heads=True), "num_heads True"),
    "text": (_config(num_heads="2"), "num_heads '2'"),
    "heads": (_config(num_heads=3), "3 heads that do not divide the width 8"),
    "tokens": (_config(vocab_size=2**40), "vocab_size 1099511627776"),
    "no tokens": (_config(vocab_size=0), "vocab_size 0"),
    "attention": (_config(attention_types=[[["global"], 10**9]]), "attention_types None"),
    "words of attention": (_config(attention_types="global"), "attention_types None"),
    "epsilon": (_config(layer_norm_epsilon=1e-3), "layer_norm_epsilon 0.001"),
    "not tied": (_config(tie_word_embeddings=False), "tie_word_embeddings False"),
    "kind": (_config(model_type=["gpt_neo"]), "model_type"),
    "no config": (_text("config.json", "[]"), "no metrics.json"),
    "twice": (_text("config.json", '{"model_type": "gpt_neo", "model_type": "llama"}'), "'model_type' stands twice"),
    "deep": (_text("config.json", "[" * 10**5 + "]" * 10**5), "deep"),
    "header": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}"), "a header of 1,152,"),
    "empty": (_text("model.safetensors", ""), "a header of 0 bytes"),
    "garbage": (_text("model.safetensors", "x" * 10**4), "a header of"),
    "bad header": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"[[[["), "no safetensors"),
    "sparse": (_sparse, "a sparse file"),
    "fifo": (_fifo, "a FIFO"),
    "endless": (_endless, "a device behind a link"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "no vocabulary": (lambda folder: (folder / "tokenizer.json").unlink(), "neither tokenizer.json nor"),
    "five tokens": (_vocabulary(vocab=dict(list(IDS.items())[:5])), "5 tokens; 8 are in config.json"),
    "more tokens": (_vocabulary(vocab=IDS | {"[S]": 8}), "9 tokens; 8 are in config.json"),
    "ids of text": (_vocabulary(vocab=dict.fromkeys(IDS, "1")), "no whole numbers"),
    "the same ids": (_vocabulary(vocab=dict.fromkeys(IDS, 1)), "gaps"),
    "a list": (_vocabulary(vocab=list(IDS)), "neither vocabulary nor"),
    "a half character": (_vocabulary(vocab={("\ud800" if i == 7 else t): i for t, i in IDS.items()}), "no text"),
    "code": (_pickled(_code), "no weights"),
    "bomb": (_pickled(_bomb), "unfold"),
    "old pickle": (_pickled(lambda path: path.write_bytes(pickle.dumps([0] * 10**5))), "no file of torch.save"),
    "no dictionary": (_pickled(lambda path: torch.save(torch.zeros(10**5), path)), "Tensor in place of"),
    "expanded": (_pickled(_expanded), "numbers; the model of config.json has 27,"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_strangers_language_model_ends_in_one_line(models, tmp_path, case):
    change, message = HOSTILE[case]
    folder = shutil.copytree(models / "chemgpt", tmp_path / "model")
    change(folder)
    with pytest.raises(InputError, match=message) as raised:
        language.load(folder)
    assert str(raised.value).isprintable()
    assert raised.value.exit_code == 2
    assert not (folder / "ran").exists()


def test_code_beside_a_model_is_not_run(models, tmp_path):
    folder = shutil.copytree(models / "chemgpt", tmp_path / "model")
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    _changed(folder, "config.json", auto_map={"AutoModelForCausalLM": "code.Model"})
    _changed(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", None]}, tokenizer_class="code.T")
    language.load(folder)
    assert not (tmp_path / "ran").exists()


# --- any field of any file --------------------------------------------------------------------------------------------

ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-9, 9),
        st.sampled_from([10**9, -(10**9), 2**31, 2**64, 10**40, 0.5, 1e308, -1e-320, 5e-324]),
        st.text(max_size=4),
        st.sampled_from(["gpt_neo", "llama", "chemgpt", "painn", "language", "..", "\0", "\x1b[31m", "\ud800"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)


def _keys(content, depth):
    """Every place in a JSON value, to a depth."""
    yield ()
    if depth and isinstance(content, dict):
        for name, inner in content.items():
            yield from ((name, *rest) for rest in _keys(inner, depth - 1))


def _replaced(content, key, value):
    if not key:
        return value
    return {**content, key[0]: _replaced(content[key[0]], key[1:], value)}


def _check_line(error):
    assert str(error).isprintable()


def _fuzz(paths, outcome, depth=2):
    """Hold 200 files, each with an odd value in one place, to an outcome: our own error, or finite numbers."""
    texts = {path: path.read_text() for path in paths}
    places = [(path, key) for path in paths for key in _keys(json.loads(texts[path]), depth)]
    outcomes = []

    @FUZZ
    @given(st.sampled_from(places), ODD)
    def run(place, value):
        path, key = place
        try:
            path.write_text(json.dumps(_replaced(json.loads(texts[path]), key, value)))
            assert np.isfinite(outcome()).all()
            outcomes.append(True)
        except ChemscaleError as error:
            outcomes.append(None)
            _check_line(error)
        finally:
            path.write_text(texts[path])

    run()
    assert None in outcomes
    assert True in outcomes


def _used(folder):
    """Vectors and probabilities of a language model."""
    asked = language.load(folder)
    found = generate.draw(asked.model, asked.tokenizer, 0, max_symbols=2)
    return [*vectors(asked.model, [[2, 5, 3]])[0].tolist(), next(found).log_probability]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_field_of_a_config_may_be_odd(models, tmp_path, family):
    folder = shutil.copytree(models / family, tmp_path / "model")
    _fuzz([folder / "config.json"], lambda: _used(folder))


def test_any_field_of_a_tokenizer_may_be_odd(models, tmp_path):
    folder = shutil.copytree(models / "chemgpt", tmp_path / "model")
    _fuzz([folder / "tokenizer.json"], lambda: _used(folder), depth=3)


@pytest.mark.filterwarnings("ignore::chemscale.inference.calculator.OutsideTraining")
def test_any_field_of_a_potential_may_be_odd(models, tmp_path):
    folder = shutil.copytree(models / "painn", tmp_path / "model")

    def energy():
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.3]], calculator=chemscale.calculator(folder))
        return atoms.get_potential_energy()

    _fuzz([folder / weights.SPEC], energy)


@pytest.mark.parametrize(("name", "path", "to"), [("study", CELL, "hf"), ("frames", POTENTIAL_CELL, "ase")])
def test_any_field_of_a_finished_cell_may_be_odd(models, tmp_path, name, path, to):
    study = shutil.copytree(models / name, tmp_path / "study")
    cell, data = study / path, study / "data" / "mine"
    files = [*cell.glob("*.json"), *data.glob("*.json"), cell / "checkpoint" / weights.SPEC]
    numbers = iter(range(10**6))

    def exported():
        out = tmp_path / "out" / str(next(numbers))
        export(cell, out, to)
        return _used(out) if to == "hf" else load(out).potential.reference.numpy()

    _fuzz(files, exported)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("metrics.json", {"config_digest": "\ud800"}, "UnicodeEncodeError"),
        ("metrics.json", {"val_loss": None, "reasons": {"val_loss": "lost"}}, "TypeError"),
        ("provenance.json", {"versions": []}, "AttributeError"),
        ("config.json", {"knobs": POTENTIAL | {"width": 5}}, "are expected"),
        ("config.json", {"data": {"name": "../mine"}}, r"data.name '\.\./mine'"),
        ("config.json", {"family": "nequip"}, "family 'nequip' of the domain 'potentials'"),
    ],
)
def test_a_card_is_made_of_whole_records(models, tmp_path, file, values, message):
    cell = shutil.copytree(models / "frames", tmp_path / "frames") / POTENTIAL_CELL
    _changed(cell, file, **values)
    with pytest.raises(RecordError, match=message):
        export(cell, tmp_path / "out", "ase")
    assert not (tmp_path / "out").exists()


@FUZZ
@given(data=st.data())
def test_any_bytes_of_the_weights_may_be_odd(models, tmp_path_factory, data):
    folder = models / "bytes"
    if not folder.exists():
        shutil.copytree(models / "chemgpt", folder)
    whole = (models / "chemgpt" / "model.safetensors").read_bytes()
    place = data.draw(st.integers(0, 4000))
    content = whole[:place] + data.draw(st.binary(max_size=9)) + whole[place + data.draw(st.integers(0, 9)) :]
    (folder / "model.safetensors").write_bytes(content)
    try:
        assert np.isfinite(_used(folder)).all()
    except ChemscaleError as error:
        _check_line(error)


# --- potentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": ["painn"]}, "name a potential"),
        ({"knobs": POTENTIAL | {"width": 10**9}}, "width 1000000000 in place of a whole number from 2 to 4096"),
        ({"knobs": POTENTIAL | {"width": 4096, "interactions": 24}}, "numbers for a model of 4,"),
        ({"knobs": POTENTIAL | {"cutoff": -1.0}}, "cutoff -1.0"),
        ({"knobs": {"width": 4}}, r"\['width'\] in place of width, interactions"),
        ({"species": [0]}, r"species \[0\]"),
        ({"species": [1, 6, 119]}, "from 1 to 118"),
        ({"closest": {"1-6": -1}}, "'1-6' of -1"),
        ({"closest": {"1-999": 1.0}}, "'1-999'"),
        ({"sha256": None}, "no object with a sha256"),
    ],
)
def test_a_strangers_potential_ends_in_one_line(models, tmp_path, values, message):
    folder = shutil.copytree(models / "painn", tmp_path / "model")
    _changed(folder, weights.SPEC, **values)
    with pytest.raises(InputError, match=message):
        chemscale.calculator(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("core.embedding.weight", torch.full((119, 4), torch.nan), "core.embedding.weight that are not finite"),
        ("reference", torch.full((119,), torch.inf, dtype=torch.float64), "reference that are not finite"),
        (
            "reference",
            torch.zeros(5, dtype=torch.float64),
            r"reference of shape \(5,\), of which its model has \(119,\)",
        ),
        ("core.more", torch.zeros(5), r"core.more of shape \(5,\), of which its model has none"),
        ("scale", torch.zeros((), dtype=torch.int64), "the kind I64"),
        ("core.huge", torch.zeros(10**5), "numbers for a model of"),
    ],
)
def test_odd_weights_of_a_potential_are_refused(models, tmp_path, name, value, message):
    state = load_file(models / "painn" / weights.WEIGHTS)
    weights.save(tmp_path, state | {name: value}, {"family": "painn", "knobs": POTENTIAL, **SEEN})
    with pytest.raises(InputError, match=message):
        chemscale.calculator(tmp_path)


# --- what is written -------------------------------------------------------------------------------------


def test_embed_writes_over_no_input_and_into_no_device(models, tmp_path):
    file = shutil.copy(models / "molecules.smi", tmp_path / "molecules.smi")
    folder = shutil.copytree(models / "chemgpt", tmp_path / "model")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "again.smi").symlink_to(file)
    before = {path: path.read_bytes() for path in (file, *folder.iterdir())}
    for out, message in [
        (file, "a part of the input"),
        (tmp_path / "again.smi", "a part of the input"),
        (folder / "model.safetensors", "a part of the input"),
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path / "device", "a device behind a link"),
        (tmp_path, "a folder"),
        (file / "out.parquet", "no place for a file"),
        (tmp_path / ("x" * 241), "a name of more than 200 bytes"),
    ]:
        with pytest.raises(InputError, match=message):
            embed(folder, file, out)
    assert before == {path: path.read_bytes() for path in before}
    assert (tmp_path / "device").is_symlink()
    assert embed(folder, file, tmp_path / "out.parquet")["embedded"] == 3
    assert embed(folder, file, tmp_path / "out.parquet")["rows"] == 3


def test_numbers_that_overflow_are_no_result(models, tmp_path):
    folder = shutil.copytree(models / "chemgpt", tmp_path / "model")
    _tensors(lambda state: state[EMBEDDING].fill_(3e38))(folder)
    with pytest.raises(InputError, match="not finite"):
        embed(folder, models / "molecules.smi", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    asked = language.load(folder)
    with pytest.raises(InputError, match="not finite"):
        generate.molecules(asked.model, asked.tokenizer, 5, 0)


def test_a_vocabulary_that_is_not_selfies_ends(models, tmp_path):
    folder = shutil.copytree(models / "chemgpt", tmp_path / "model")
    names = [*VOCABULARY[:5], "[Foo]", "no symbol", "[\x1b]"]
    _vocabulary(vocab={token: index for index, token in enumerate(names)})(folder)
    asked = language.load(folder)
    with pytest.raises(InputError, match="0 among 2,561 strings"):
        generate.molecules(asked.model, asked.tokenizer, 5, 0, max_symbols=6)
