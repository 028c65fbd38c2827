"""What an edit reruns: exactly what depends on it."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from chemscale.study import load_study

if TYPE_CHECKING:
    from conftest import Tree

pytestmark = pytest.mark.slow
PUBLISHING = {"report", "seal", "audit", "all"}
FITTING = {"fits", "figures", "audit_records", *PUBLISHING}
GATHERING = {"gather", *FITTING}


def planned(tree: Tree, config: str = "tests/smoke.yaml") -> tuple[set[str], set[str]]:
    """The rules that a dry run lists, and the paths of the cells that it would train."""
    done = tree.snakemake("all", "-n", config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    rules = set(re.findall(r"^(?:local)?rule (\w+):$", output, re.MULTILINE))
    return rules, set(re.findall(r"^ +wildcards: cell=(\S+)$", output, re.MULTILINE))


def edit(tree: Tree, module: str) -> None:
    with open(tree.path / "chemscale" / f"{module}.py", "a") as source:
        source.write("\n# an edit\n")


def test_a_finished_study_has_nothing_to_do(finished: Tree) -> None:
    assert planned(finished) == (set(), set())


def test_an_edited_model_reruns_its_family_and_what_follows(finished: Tree) -> None:
    edit(finished, "models/painn")
    rules, cells = planned(finished)
    assert rules == {"train", "evaluate", *GATHERING}
    study = load_study(finished.path / "tests/smoke.yaml")
    assert cells == {cell.path for cell in study.cells + study.controls if cell.family == "painn"}


def test_an_edited_evaluation_reruns_evaluations_and_no_cell(finished: Tree) -> None:
    edit(finished, "evaluation/probe")
    rules, cells = planned(finished)
    assert rules == {"evaluate", *GATHERING}
    of_language = {f"cells/chemgpt/{size}/n400/seed0" for size in ("w8", "w16")}
    assert cells == of_language | {f"cells/painn/{size}/n32/seed0" for size in ("w4", "w8")}


def test_a_deleted_evaluation_comes_back_bit_by_bit(finished: Tree) -> None:
    path = finished.path / "results/smoke/cells/chemgpt/w8/n400/seed0/evaluation.json"
    before = path.read_bytes()
    path.unlink()
    rules, _ = planned(finished)
    assert rules == {"evaluate", *GATHERING}
    done = finished.snakemake("results/smoke/cells/chemgpt/w8/n400/seed0/evaluation.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.read_bytes() == before


def test_an_edited_page_reruns_no_cell_and_no_fit(finished: Tree) -> None:
    edit(finished, "reporting/page")
    assert planned(finished) == (PUBLISHING, set())


def test_an_edited_fit_reruns_no_cell(finished: Tree) -> None:
    edit(finished, "scaling/fit")
    rules, cells = planned(finished)
    assert cells == set()
    assert "fits" in rules
    assert "gather" not in rules


def test_a_changed_size_reruns_its_cells_alone(finished: Tree) -> None:
    config = yaml.safe_load((finished.path / "tests/smoke.yaml").read_text())
    config["families"]["painn"]["sizes"]["w4"]["num_radial"] = 6
    (finished.path / "changed.yaml").write_text(yaml.safe_dump(config))
    rules, cells = planned(finished, "changed.yaml")
    assert cells
    assert all(cell.startswith("cells/painn/w4/") for cell in cells)
    # every table that reads the resolved study is made anew with it
    assert {"study", "plan", "data_table", "train", "evaluate", *GATHERING} == rules


def test_an_added_seed_trains_new_cells_alone(finished: Tree) -> None:
    config = yaml.safe_load((finished.path / "tests/smoke.yaml").read_text())
    config["families"]["chemgpt"]["grid"].append({"sizes": ["w8"], "num_samples": [25, 50], "seeds": [7]})
    (finished.path / "changed.yaml").write_text(yaml.safe_dump(config))
    _, cells = planned(finished, "changed.yaml")
    assert cells == {"cells/chemgpt/w8/n25/seed7", "cells/chemgpt/w8/n50/seed7"}


def test_an_added_subset_adds_its_file_and_its_cells_alone(finished: Tree) -> None:
    config = yaml.safe_load((finished.path / "tests/smoke.yaml").read_text())
    config["families"]["chemgpt"]["grid"].append({"sizes": ["w8"], "num_samples": [300]})
    (finished.path / "changed.yaml").write_text(yaml.safe_dump(config))
    rules, cells = planned(finished, "changed.yaml")
    assert cells == {"cells/chemgpt/w8/n300/seed0"}
    assert rules == {"study", "plan", "passport_of_molecules", "data_table", "subset", "train", *GATHERING}
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (finished.path / "data").rglob("*.*")}
    done = finished.snakemake("results/smoke/cells/chemgpt/w8/n300/seed0/metrics.json", config="changed.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (finished.path / "data").rglob("*.*")}
    assert {path: after[path] for path in before} == before
    new = {path.relative_to(path.parents[2]).as_posix() for path in after.keys() - before.keys()}
    assert {name.partition("/")[2] for name in new} == {
        "seed0/n300.parquet",
        "jobs/subset-seed0-n300.json",
        "jobs/subset-seed0-n300.lock",
    }


def test_an_edited_reader_reads_its_sources_again(finished: Tree) -> None:
    edit(finished, "data/molecules")
    done = finished.snakemake("-n", "--quiet", "rules")
    output = done.stdout + done.stderr
    assert re.search(r"^read +1$", output, re.MULTILINE)
    assert re.search(r"^assemble +1$", output, re.MULTILINE)
    assert "simulate" not in output


def test_a_deleted_cell_comes_back_bit_by_bit_and_alone(finished: Tree) -> None:
    folder = finished.path / "results/smoke/cells/painn/w8/n8/seed0"
    before = (folder / "metrics.json").read_bytes()
    shutil.rmtree(folder)
    rules, cells = planned(finished)
    assert cells == {"cells/painn/w8/n8/seed0"}
    assert rules == {"train", *GATHERING}
    done = finished.snakemake("results/smoke/cells/painn/w8/n8/seed0/metrics.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "metrics.json").read_bytes() == before
    rules, cells = planned(finished)
    assert cells == set()
    assert rules == GATHERING


def test_a_stale_checkpoint_is_set_aside(finished: Tree) -> None:
    cell = "results/smoke/cells/painn/w4/n8/seed0"
    folder = finished.path / cell
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()  # trained, and not published: no finished cell is lost
    edit(finished, "models/painn")
    done = finished.snakemake(f"{cell}/metrics.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((folder / "checkpoint/superseded").iterdir())
    assert "code" in (finished.path / "results/smoke/logs/cells/painn/w4/n8/seed0.log").read_text()
