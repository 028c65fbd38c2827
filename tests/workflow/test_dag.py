"""The plan of the workflow: sizes, errors before any job, waived cells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from chemscale.study import load_study

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Tree


def job_counts(planned: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many jobs of each rule a dry run lists; empty where nothing is to be done."""
    assert planned.returncode == 0, planned.stdout + planned.stderr
    table = (planned.stdout + planned.stderr).partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def changed_smoke(tree: Tree, change: Callable[[dict[str, Any]], None]) -> str:
    """A config that differs from the smoke study's by `change`; its name in the tree."""
    config = yaml.safe_load((tree.path / "tests/smoke.yaml").read_text())
    change(config)
    (tree.path / "changed.yaml").write_text(yaml.safe_dump(config))
    return "changed.yaml"


def test_the_default_study_has_a_job_for_each_cell(tree: Tree) -> None:
    study = load_study(tree.path / "config.yaml")
    counts = job_counts(tree.snakemake("-n", "--quiet", "rules", config=None))
    assert counts["train"] == len(study.cells + study.controls)
    assert "train_pack" not in counts
    assert {rule: counts[rule] for rule in ("gather", "fits", "report", "seal", "audit", "all")} == dict.fromkeys(
        ("gather", "fits", "report", "seal", "audit", "all"), 1
    )


def test_cells_that_the_config_names_are_evaluated_and_no_others(tree: Tree) -> None:
    planned = tree.snakemake("-n")
    counts = job_counts(planned)
    assert {rule: counts[rule] for rule in ("evaluate", "properties", "reference")} == {
        "evaluate": 4,
        "properties": 1,
        "reference": 1,
    }
    assert set(re.findall(r"^rule evaluate:.*?wildcards: cell=(\S+)$", planned.stdout, re.MULTILINE | re.DOTALL)) == {
        *(f"cells/chemgpt/{size}/n400/seed0" for size in ("w8", "w16")),
        *(f"cells/painn/{size}/n32/seed0" for size in ("w4", "w8")),
    }
    config = changed_smoke(tree, lambda config: config.update(waived=["cells/chemgpt/w8/n400/seed0"]))
    assert job_counts(tree.snakemake("-n", "--quiet", "rules", config=config))["evaluate"] == 3
    config = changed_smoke(tree, lambda config: config.pop("evaluate"))
    assert (
        not {"evaluate", "properties", "reference"}
        & job_counts(tree.snakemake("-n", "--quiet", "rules", config=config)).keys()
    )


def test_packs_train_every_cell_once_in_few_jobs(tree: Tree) -> None:
    counts = job_counts(tree.snakemake("packs", "-n", "--quiet", "rules", config=None))
    assert 3 <= counts["train_pack"] <= 40
    assert "train" not in counts


def test_a_grid_of_two_thousand_cells_is_planned(tree: Tree) -> None:
    def grow(config: dict[str, Any]) -> None:
        family = config["families"]["chemgpt"]
        family["sizes"] = {f"w{width}": {"layers": 2, "width": width, "heads": 1} for width in range(8, 168, 8)}
        subsets, seeds = [5 * step for step in range(1, 11)], list(range(10))
        family["grid"] = [{"sizes": list(family["sizes"]), "num_samples": subsets, "seeds": seeds}]
        del config["families"]["painn"]
        config["controls"], config["evaluate"] = {}, {}

    counts = job_counts(tree.snakemake("-n", "--quiet", "rules", config=changed_smoke(tree, grow)))
    assert counts["train"] == 2000
    assert counts["subset"] == 100


def _unknown_key(config: dict[str, Any]) -> None:
    config["families"]["chemgpt"]["training"]["momentum"] = 0.9


def _wrong_type(config: dict[str, Any]) -> None:
    config["threads"] = "many"


def _larger_than_its_source(config: dict[str, Any]) -> None:
    config["families"]["painn"]["grid"][0]["num_samples"] = [10_000_000]


def _indivisible(config: dict[str, Any]) -> None:
    config["families"]["chemgpt"]["sizes"]["w16"]["heads"] = 3


def _no_cell(config: dict[str, Any]) -> None:
    config["evaluate"]["chemgpt"]["grid"] = [{"sizes": ["w8"], "num_samples": [26]}]


def _no_such_file(config: dict[str, Any]) -> None:
    config["data"]["molecules"]["path"] = "nowhere.csv"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_unknown_key, ["families.chemgpt.training.momentum", "learning_rate"]),
        (_wrong_type, ["threads", "'many'"]),
        (_larger_than_its_source, ["families.painn.grid.0.num_samples.0", "10000000", "128"]),
        (_indivisible, ["families.chemgpt.sizes.w16.heads", "3", "16"]),
        (_no_cell, ["evaluate.chemgpt.grid.0", "w8/n26/seed0"]),
        (_no_such_file, ["data.molecules.path", "nowhere.csv"]),
    ],
)
def test_a_wrong_config_ends_before_any_job(
    tree: Tree, change: Callable[[dict[str, Any]], None], named: list[str]
) -> None:
    done = tree.snakemake("all", config=changed_smoke(tree, change))
    assert done.returncode == 2
    output = done.stdout + done.stderr
    (message,) = [line for line in output.splitlines() if line.startswith("chemscale: ")]
    assert all(part in message for part in ["changed.yaml", *named]), message
    assert "Traceback" not in output
    assert not (tree.path / "results" / "smoke").exists()
    assert not (tree.path / "data").exists()


def test_single_settings_and_two_studies_are_refused(tree: Tree) -> None:
    for arguments in (["--config", "threads=2"], ["--configfile", "config.yaml", "tests/smoke.yaml"]):
        done = tree.run("-m", "snakemake", "all", "--cores", "2", "-n", *arguments)
        assert done.returncode == 2
        assert "chemscale: " in done.stderr
        assert "Traceback" not in done.stderr


def test_another_study_is_not_merged_with_the_default_one(tree: Tree) -> None:
    smoke = load_study(tree.path / "tests/smoke.yaml")
    counts = job_counts(tree.snakemake("-n", "--quiet", "rules"))
    assert counts["train"] == len(smoke.cells + smoke.controls)


def test_a_path_that_is_no_cell_is_named(tree: Tree) -> None:
    done = tree.snakemake("results/smoke/cells/painn/w9/n8/seed0/metrics.json", "-n")
    assert done.returncode == 2
    assert "chemscale: results/smoke/cells/painn/w9/n8/seed0: found no such cell" in done.stdout + done.stderr


def test_a_waived_cell_leaves_the_inputs_of_gather(tree: Tree) -> None:
    waived = "cells/painn/w4/n8/seed0"
    config = changed_smoke(tree, lambda config: config.update(waived=[waived]))
    whole = job_counts(tree.snakemake("-n", "--quiet", "rules"))
    less = tree.snakemake("-n", config=config)
    assert job_counts(less)["train"] == whole["train"] - 1
    assert waived not in less.stdout
