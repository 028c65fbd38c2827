"""The resolved study, and what it does with cells that it no longer has."""

import re
from pathlib import Path

import pytest
import yaml

from chemscale.config import StudyConfig
from chemscale.errors import ConfigError, RecordError
from chemscale.grid import ALONE, Cell
from chemscale.io import read_json, write_json
from chemscale.planning.plan import memory_mb, plan_study, render
from chemscale.study import load_study, study_of, write_resolved

SMOKE = Path(__file__).parents[1] / "smoke.yaml"


@pytest.fixture
def resolved(monkeypatch):
    monkeypatch.chdir(SMOKE.parents[1])
    return load_study(SMOKE).resolved()


def test_cells_go_to_json_and_back(resolved):
    for values in resolved["cells"] + resolved["controls"]:
        cell = Cell.from_dict(values)
        assert cell.to_dict() == values
        assert cell.path.startswith("cells/" if cell.control is None else f"controls/{cell.control}/")
    digests = {Cell.from_dict(values).digest for values in resolved["cells"]}
    assert len(digests) == len(resolved["cells"])
    with pytest.raises(RecordError, match="missing"):
        Cell.from_dict({key: value for key, value in resolved["cells"][0].items() if key != "threads"})


def test_the_name_of_a_study_is_no_part_of_a_cells_digest(resolved):
    values = resolved["cells"][0]
    assert Cell.from_dict({**values, "study": "another"}).digest == Cell.from_dict(values).digest
    assert Cell.from_dict({**values, "seed": 9}).digest != Cell.from_dict(values).digest


def test_a_former_evaluation_is_moved_out_of_the_way(resolved, tmp_path):
    kept, gone = "cells/chemgpt/w8/n400/seed0", "cells/chemgpt/w8/n25/seed0"
    for path in (kept, gone):
        write_json(tmp_path / path / "evaluation.json", {})
        write_json(tmp_path / path / "metrics.json", {})
    write_resolved(tmp_path, resolved)
    assert (tmp_path / kept / "evaluation.json").exists()
    assert not (tmp_path / gone / "evaluation.json").exists()
    assert (tmp_path / gone / "metrics.json").exists()
    (moved,) = (tmp_path / "former").rglob("evaluation.json")
    assert moved.as_posix().endswith(f"{gone}/evaluation.json")


def test_cells_of_a_former_config_are_moved_out_of_the_way(resolved, tmp_path):
    kept, gone = "cells/painn/w4/n8/seed0", "cells/painn/w99/n8/seed0"
    for path in (kept, gone):
        write_json(tmp_path / path / "metrics.json", {"loss": 1.0})
    write_resolved(tmp_path, resolved)
    assert (tmp_path / kept / "metrics.json").exists()
    assert not (tmp_path / gone).exists()
    (moved,) = (tmp_path / "former").rglob("metrics.json")
    assert moved.parent.as_posix().endswith(gone)
    assert read_json(tmp_path / "config.json") == resolved


@pytest.fixture
def with_engine(monkeypatch, tmp_path):
    """A function that loads the smoke study with an engine and one size of ChemGPT."""
    monkeypatch.chdir(SMOKE.parents[1])

    def load(engine, batch_tokens=16384):
        values = yaml.safe_load(SMOKE.read_text())
        family = values["families"]["chemgpt"]
        family["engine"] = engine
        family["training"]["batch_tokens"] = batch_tokens
        family["sizes"] = {"w1024": {"layers": 24, "width": 1024, "heads": 16}}
        family["grid"] = [{"sizes": ["w1024"], "num_samples": [25]}]
        for other in ("controls", "contrasts", "evaluate"):
            values.pop(other, None)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_study(path)

    return load


def test_an_engine_that_nobody_chose_is_the_plain_one(with_engine):
    (cell,) = (cell for cell in with_engine({}).cells if cell.family == "chemgpt")
    assert cell.engine == ALONE | {"device": "auto"}
    (cell,) = (cell for cell in with_engine({"ranks": 2, "zero": 2}).cells if cell.family == "chemgpt")
    assert cell.engine == ALONE | {"device": "auto", "ranks": 2, "zero": 2}


def test_the_engine_is_chosen_for_a_memory_and_shown_by_the_plan(with_engine):
    study = with_engine({"ranks": 2, "memory_gb": 7})
    assert study_of(StudyConfig.model_validate(study.resolved()["config"]), study.path).cells == study.cells
    (cell,) = (cell for cell in study.cells if cell.family == "chemgpt")
    assert cell.engine["zero"] > 0
    assert set(cell.engine) == set(ALONE)
    planned = plan_study(study)
    (row,) = (row for row in planned["cells"] if row["family"] == "chemgpt")
    assert (row["engine"], row["ranks"]) == (f"ZeRO {cell.engine['zero']}", 2)
    assert row["peak_memory_bytes"] <= 7e9
    assert row["micro_tokens"] <= 8192
    assert f"ZeRO {cell.engine['zero']} x 2 / {row['micro_tokens']}" in render(planned)
    # a job asks for both ranks and something above
    assert 2 * row["peak_memory_bytes"] < 1e6 * memory_mb(study, cell) < 3 * row["peak_memory_bytes"]


def test_a_size_that_fits_nowhere_is_refused_with_the_ranks_that_would_do(with_engine):
    with pytest.raises(ConfigError, match=r"engine\.memory_gb: found 5 GB .* w1024 .*ranks: (4|8)"):
        with_engine({"memory_gb": 5})
    with pytest.raises(ConfigError, match="give a rank more memory"):
        with_engine({"memory_gb": 0.1})
    ranks = int(re.search(r"ranks: (\d+)", _refusal(with_engine, {"memory_gb": 5}))[1])
    assert with_engine({"memory_gb": 5, "ranks": ranks}).cells


def _refusal(with_engine, engine):
    with pytest.raises(ConfigError) as refused:
        with_engine(engine)
    return str(refused.value)


@pytest.fixture
def with_training(monkeypatch):
    """The smoke study's ChemGPT trained in one pass, with further settings."""
    monkeypatch.chdir(SMOKE.parents[1])

    def load(**training):
        values = yaml.safe_load(SMOKE.read_text())
        family = values["families"]["chemgpt"]
        family["protocol"] = {"kind": "one_pass"}
        family["training"] |= training
        family["grid"] = [{"sizes": ["w8"], "num_samples": [4000, 16000, 8000]}]
        for other in ("controls", "contrasts", "evaluate", "waived"):
            values.pop(other, None)
        values["families"] = {"chemgpt": family}
        return study_of(StudyConfig.model_validate(values), SMOKE)

    return load


def test_cells_know_who_begins_with_the_same_steps(with_training):
    study = with_training(schedule="stable_decay", warmup_steps=10, decay=0.25)
    told = {cell.num_samples: cell.engine["shared_with"] for cell in study.cells}
    assert told == {4000: [8000, 16000], 8000: [4000, 16000], 16000: [4000, 8000]}
    assert len({cell.shared_path for cell in study.cells}) == len({cell.shared_digest for cell in study.cells}) == 1
    plan = plan_study(study)
    steps = {cell["num_samples"]: cell["steps"] for cell in plan["cells"]}
    shared = {cell["num_samples"]: cell["shared_steps"] for cell in plan["cells"]}
    assert shared == {4000: 0, 8000: int(0.75 * steps[4000]), 16000: int(0.75 * steps[8000])}
    # of 28 parts, three quarters of 4 and of 8
    assert plan["total"]["shared_flops"] / plan["total"]["flops_full"] == pytest.approx(9 / 28, rel=0.01)
    assert "32 % are done once for several cells" in render(plan)


@pytest.mark.parametrize(
    "training",
    [
        {"schedule": "cosine", "warmup_steps": 10},
        # a share of the steps is another number of them on more samples
        {"schedule": "stable_decay"},
    ],
)
def test_cells_of_other_schedules_share_nothing(with_training, training):
    study = with_training(**training)
    assert [cell.engine["shared_with"] for cell in study.cells] == [[], [], []]
    assert plan_study(study)["total"]["shared_flops"] == 0
    assert "done once" not in render(plan_study(study))


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_study_that_comes_along_is_one(path, monkeypatch):
    monkeypatch.chdir(path.parents[1])
    study = load_study(path)
    assert study.name == path.stem
    assert len(study.cells) == len({cell.path for cell in study.cells}) > 0
