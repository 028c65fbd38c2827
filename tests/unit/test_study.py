"""The resolved study, and what it does with cells that it no longer has."""

from pathlib import Path

import pytest

from chemscale.errors import RecordError
from chemscale.grid import Cell
from chemscale.io import read_json, write_json
from chemscale.study import load_study, write_resolved

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
