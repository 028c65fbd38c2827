"""Every wrong config is answered with the file, the key's path, the value found and what is allowed."""

from pathlib import Path

import pytest
import yaml

from chemscale.config import LanguageTraining, StudyConfig
from chemscale.config_file import load_config
from chemscale.errors import ConfigError
from chemscale.study import load_study, study_of

ROOT = Path(__file__).parents[2]
GRID = [{"sizes": ["w8"], "num_samples": [400]}]


@pytest.fixture
def edited(tmp_path):
    """A function that writes the smoke study with one value replaced (or a key removed) and gives its path."""

    def edit(*keys_and_value):
        *keys, value = keys_and_value
        raw = yaml.safe_load((ROOT / "tests" / "smoke.yaml").read_text())
        target = raw
        for key in keys[:-1]:
            target = target[key]
        if value is None:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return edit


@pytest.mark.parametrize(
    ("edit", "key", "found", "allowed"),
    [
        (("studdy", "x"), "studdy", "unknown key", "'study'"),
        (("families", "chemgpt", "trainig", {}), "families.chemgpt.trainig", "unknown key", "'training'"),
        (("data", "molecules", "stereos", "keep"), "data.molecules.stereos", "unknown key", "'stereo'"),
        (("families", "gpt", {}), "families.gpt", "unknown key", "chemgpt"),
        (
            ("families", "chemgpt", "sizes", "w8", "depth", 2),
            "families.chemgpt.sizes.w8.depth",
            "unknown key",
            "layers",
        ),
        (("fits", "resample", 3), "fits.resample", "unknown key", "'resamples'"),
        (("fits", "resamples", 99), "fits.resamples", "99", "greater than or equal to 200"),
        (("fits", "level", 0.995), "fits", "0.995", "400 resamples or more"),
        (
            ("families", "chemgpt", "sizes", "w8", "width", "wide"),
            "families.chemgpt.sizes.w8.width",
            "'wide'",
            "integer",
        ),
        (("families", "chemgpt", "sizes", "w8", 8), "families.chemgpt.sizes.w8", "8", "dictionary"),
        (("families", "chemgpt", "grid", "all"), "families.chemgpt.grid", "'all'", "list"),
        (("threads", 0), "threads", "0", "greater than or equal to 1"),
        (("data", "molecules", "stereo", "maybe"), "data.molecules.stereo", "'maybe'", "'keep' or 'strip'"),
        (("data", "molecules", "test", 0.95), "data.molecules", "validation", "below 1"),
        (("families", "chemgpt", "protocol", None), "families.chemgpt.protocol", "nothing", "required"),
        (
            ("families", "chemgpt", "protocol", {"kind": "equal_steps"}),
            "families.chemgpt.protocol",
            "equal_steps",
            "steps",
        ),
        (("families", "chemgpt", "data", "atoms"), "families.chemgpt.data", "'atoms'", "molecules"),
        (("families", "chemgpt", "data", "conformers"), "families.chemgpt.data", "conformers", "language"),
        (("families", "painn", "evaluations", ["other"]), "families.painn.evaluations.0", "'other'", "trajectories"),
        (
            ("families", "chemgpt", "sizes", "w8", "heads", 3),
            "families.chemgpt.sizes.w8.heads",
            "3",
            "divisor of the width 8",
        ),
        (
            ("families", "painn", "grid", 0, "num_samples", [999]),
            "families.painn.grid.0.num_samples.0",
            "999",
            "at most 128",
        ),
        (("families", "painn", "grid", 0, "sizes", ["w99"]), "families.painn.grid.0.sizes.0", "'w99'", "w4, w8"),
        (("families", "painn", "grid", 1, "seeds", [0]), "families.painn.grid.1", "second time", "once"),
        (
            ("controls", "chemgpt_more_steps", "family", "schnet"),
            "controls.chemgpt_more_steps.family",
            "'schnet'",
            "painn",
        ),
        (("waived", ["cells/painn/w4/n9/seed0"]), "waived.0", "n9", "name a cell"),
        (("families", {}), "families", "no family", "chemgpt"),
        (
            ("evaluate", "painn", "dynamics", "data", "molecules"),
            "evaluate.painn.dynamics.data",
            "molecules",
            "trajectories",
        ),
        (("evaluate", "painn", "dynamics", "replicas", 1), "evaluate.painn.dynamics.replicas", "1", "2"),
        (
            ("evaluate", "painn", "dynamics", "nvt_timestep_fs", 0.3),
            "evaluate.painn.dynamics",
            "steps of 0.3 fs",
            "choose a whole number",
        ),
        # frames of a file state no temperature
        (
            ("data", "trajectories", {"kind": "structures", "source": "ani1x", "validation": 0.1, "test": 0.1}),
            "evaluate.painn.dynamics.temperature",
            "none",
            "that of trajectories, in kelvin",
        ),
        (
            ("evaluate", "painn", "dynamics", "temperature", 300),
            "evaluate.painn.dynamics.temperature",
            "300 K, where trajectories is at 500 K",
            "leave it out",
        ),
        (("evaluate", "painn", "probe", {}), "evaluate.painn.probe", "an unknown key", "dynamics"),
        (
            ("families", "painn", "sizes", "w4", "envelope", "step"),
            "families.painn.sizes.w4.envelope",
            "step",
            "cosine",
        ),
        (
            ("evaluate", "chemgpt_modern", {"grid": GRID, "probe": {"num_molecules": 20}}),
            "evaluate.chemgpt_modern",
            "does not train",
            "families",
        ),
        (
            ("evaluate", "chemgpt", "grid", [{"sizes": ["w8"], "num_samples": [401]}]),
            "evaluate.chemgpt.grid.0",
            "w8/n401/seed0, no cell",
            "cells/chemgpt/w8/n25/seed0",
        ),
        (("evaluate", "chemgpt", "grid", [*GRID, *GRID]), "evaluate.chemgpt.grid.1", "second time", "once"),
        (("evaluate", "chemgpt", {"grid": GRID}), "evaluate.chemgpt", "grid", "generation, probe, or both"),
        (("evaluate", "chemgpt", "probe", "num_molecules", 5), "evaluate.chemgpt.probe.num_molecules", "5", "20"),
        (("evaluate", "chemgpt", "generation", "temperature", 0), "evaluate.chemgpt.generation.temperature", "0", "0"),
        (("threads", True), "threads", "True", "valid integer"),
        (("data", "conformers", "temperature", float("inf")), "data.conformers.temperature", "inf", "finite"),
        (("data", "conformers", "kind", "conformer"), "data.conformers.kind", "'conformer'", "conformers"),
        (("data", "conformers", "test", 0.0), "data.conformers.test", "0.0", "above 0"),
        (("data", "molecules", "path", "nowhere.csv"), "data.molecules.path", "nowhere.csv", "existing file"),
        (("data", "molecules", "max_symbols", 5000), "data.molecules.max_symbols", "5000", "2046"),
        (
            ("families", "painn", "training", "learning_rate", {"at_reference": 1, "reference": 1e-9, "power": 90}),
            "families.painn.training.learning_rate",
            "inf",
            "positive rate",
        ),
    ],
)
def test_wrong_config_is_explained(edited, edit, key, found, allowed):
    path = edited(*edit)
    with pytest.raises(ConfigError) as error:
        load_study(path)
    message = str(error.value)
    assert f"{path}: {key}: found" in message
    assert found in message
    assert allowed in message
    assert error.value.exit_code == 2


def test_evaluated_cells_are_resolved_and_the_resolved_config_is_a_config_again(edited, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(edited("threads", 1))
    asked = {
        "generation": {"num": 20, "seed": 0, "temperature": 1.0},
        "probe": {"num_molecules": 40, "max_heavy_atoms": 10, "seed": 0},
        "dynamics": None,
    }
    evaluated = study.resolved()["evaluated"]
    moved = {path: told["dynamics"] for path, told in evaluated.items() if path.startswith("cells/painn")}
    assert sorted(moved) == ["cells/painn/w4/n32/seed0", "cells/painn/w8/n32/seed0"]
    assert moved["cells/painn/w4/n32/seed0"]["key"] == study.data_key("trajectories")
    assert moved["cells/painn/w4/n32/seed0"]["temperature"] == 500.0
    language = {path: told for path, told in evaluated.items() if path.startswith("cells/chemgpt")}
    assert language == {f"cells/chemgpt/{size}/n400/seed0": asked for size in ("w8", "w16")}
    again = study_of(StudyConfig.model_validate(study.resolved()["config"]), Path("again"))
    assert again.resolved() == study.resolved()
    assert load_study(edited("evaluate", None)).resolved()["evaluated"] == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("study: [a", "no valid YAML"),
        ("study: a\nstudy: b\n", "the key 'study' stands twice"),
        ("- a\n", "list"),
        ("study: {{ name }}\n", "is no name"),
        ("!!python/object/apply:os.system ['true']", "no valid YAML"),
    ],
)
def test_file_that_is_no_config(tmp_path, text, found):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=found):
        load_config(path)


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="a folder, which is no regular file"):
        load_config(tmp_path)


def test_missing_config_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: found no such file"):
        load_config(tmp_path / "none.yaml")


def test_quickstart_has_the_promised_grid():
    study = load_study(ROOT / "config.yaml")
    for family, sizes in (("chemgpt", 4), ("schnet", 3), ("painn", 3)):
        cells = [cell for cell in study.cells if cell.family == family and cell.seed == 0]
        full = {(cell.size, cell.num_samples) for cell in cells}
        subsets = {cell.num_samples for cell in cells}
        complete = [size for size in {cell.size for cell in cells} if all((size, n) in full for n in subsets)]
        assert len(complete) >= sizes
        assert len(subsets) >= 6
        assert max(subsets) >= 31 * min(subsets)  # one and a half decades
        points = {(cell.size, cell.num_samples) for cell in study.cells if cell.family == family and cell.seed}
        assert len(points) >= 5


def test_key_of_data_ignores_workers_alone(edited):
    base = load_study(edited("threads", 1)).data_key("molecules")
    assert load_study(edited("data", "molecules", "workers", 7)).data_key("molecules") == base
    assert load_study(edited("data", "molecules", "max_symbols", 63)).data_key("molecules") != base


@pytest.mark.parametrize(
    "settings",
    [{}, {"schedule": "constant", "warmup_steps": 100}, {"schedule": "stable_decay", "decay": 0.3, "final_rate": 0.0}],
)
def test_resolved_training_settings_are_settings_again(settings):
    rule = {"at_reference": 0.01, "reference": 32, "power": 0.0}
    resolved = LanguageTraining(learning_rate=rule, batch_tokens=64, **settings).model_dump(mode="json")
    assert LanguageTraining.model_validate(resolved).model_dump(mode="json") == resolved


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"decay": 0.3}, "takes no decay"), ({"schedule": "constant", "final_rate": 0.5}, "takes no final_rate"),
     ({"warmup": 0.2, "warmup_steps": 9}, "give warmup")],
)  # fmt: skip
def test_a_schedule_takes_its_own_keys_alone(settings, message):
    rule = {"at_reference": 0.01, "reference": 32, "power": 0.0}
    with pytest.raises(ValueError, match=message):
        LanguageTraining(learning_rate=rule, batch_tokens=64, **settings)
