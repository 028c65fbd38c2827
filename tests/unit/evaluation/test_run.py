"""A finished cell evaluated: what is known is what it was trained on; nothing is made of what is not there."""

import pytest
import torch

from chemscale.data.arrays import load_language
from chemscale.errors import DataError, InputError
from chemscale.evaluation import generation, probe, run
from chemscale.evaluations import read_evaluation
from chemscale.grid import Cell
from chemscale.inference.language import load
from chemscale.io import read_json, read_parquet

CELL = "results/smoke/cells/chemgpt/w8/n400/seed0"
FITS = {"level": 0.9, "resamples": 200, "seed": 0}


@pytest.fixture(scope="module")
def cell(smoke_tree):
    return smoke_tree.path / CELL


@pytest.fixture(scope="module")
def data(smoke_tree, cell):
    return smoke_tree.path / "data" / read_json(cell / "config.json")["data"]["key"]


def test_molecules_of_the_subset_are_known_in_every_form_and_others_are_not(cell, data, monkeypatch):
    spec = Cell.from_dict(read_json(cell / "config.json"))
    rows = [row for shard in sorted((data / "shards").iterdir()) for row in read_parquet(shard).to_pylist()]
    places, _ = load_language(data).subset(spec.seed, spec.num_samples)
    trained_on = [rows[place]["smiles"] for place in places[:18]]
    groups = {rows[place]["group"] for place in places}
    others = [row["smiles"] for row in rows if row["group"] not in groups and row["split"] == "test"][:18]
    drawn = [*trained_on, *(f"{text}.[Na+].[Cl-]" for text in trained_on[:1]), *others, "C(C)(C)(C)(C)(C)C"]
    monkeypatch.setattr(generation.generate, "molecules", lambda *_, **__: ([(text, -1.0) for text in drawn], {"a": 2}))
    found = generation.evaluate(load(cell), spec, data, {"num": 20, "seed": 0, "temperature": 1.0})
    assert found["known"] == [True] * 19 + [False] * len(others)
    # a carbon with six bonds is no molecule
    assert (found["unreadable"], found["drawn"]) == (1, len(drawn) + 2)


def test_the_untrained_network_is_the_cells_own_before_its_first_step(cell, data, monkeypatch):
    asked = read_json(cell / "evaluation.json")["settings"] | {"generation": None}
    models = []
    before = probe.evaluate

    def watch(trained, untrained, *others):
        models.extend([trained.model, untrained])
        return before(trained, untrained, *others)

    monkeypatch.setattr(probe, "evaluate", watch)
    monkeypatch.setattr(run, "EVALUATION", "again.json")
    try:
        run.evaluate(cell, "language", data.parent, asked, FITS, "code")
        again, first = read_evaluation(cell / "again.json"), read_evaluation(cell / "evaluation.json")
    finally:
        (cell / "again.json").unlink(missing_ok=True)
    assert again["probe"] == first["probe"]
    assert again["generation"] is None
    spec = read_json(cell / "config.json")
    from chemscale.models import registry

    own = registry.build("chemgpt", spec["knobs"], seed=0, vocab_size=models[1].embedding.weight.shape[0],
                         embedding_std=spec["training"]["embedding_std"])  # fmt: skip
    for name, value in own.state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value), name
    trained = load(cell).model.state_dict()
    assert all(torch.equal(models[0].state_dict()[name], value) for name, value in trained.items())
    assert not torch.equal(models[0].embedding.weight, models[1].embedding.weight)


def test_what_is_not_there_is_told(cell, data, tmp_path):
    asked = read_json(cell / "evaluation.json")["settings"]
    with pytest.raises(InputError, match="no metrics"):
        run.evaluate(tmp_path, "language", data.parent, asked, FITS, "code")
    other = asked | {"generation": None, "probe": asked["probe"] | {"seed": 5}}
    with pytest.raises((DataError, InputError), match="no such file"):
        run.evaluate(cell, "language", data.parent, other, FITS, "code")
