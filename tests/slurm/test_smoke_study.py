"""The smoke study on a real SLURM gives the bits of a run on this machine. `make test-slurm` starts the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from chemscale.records import read_metrics
from chemscale.study import load_study

if TYPE_CHECKING:
    from conftest import Tree

SMOKE = "tests/smoke.yaml"
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


def records(tree: Tree) -> dict[str, bytes]:
    root = tree.path / "results/smoke"
    found = [path for path in root.rglob("metrics.json") if "checkpoint" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_the_smoke_study_on_slurm_equals_a_local_run(smoke_tree: Tree, tree: Tree) -> None:
    done = tree.run("-m", "snakemake", "--profile", "slurm", "all", f"--configfile={SMOKE}", timeout=1500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert "has been submitted with SLURM jobid" in done.stdout + done.stderr
    local = records(smoke_tree)
    study = load_study(tree.path / SMOKE)
    assert len(local) == len(study.cells + study.controls)
    assert records(tree) == local
    audit = tree.run("-m", "chemscale.cli", "audit", "results/smoke")
    assert audit.returncode == 0, audit.stdout


def test_a_cell_is_trained_by_the_ranks_of_srun_on_two_nodes(smoke_tree: Tree, tree: Tree) -> None:
    (tree.path / "data").symlink_to(smoke_tree.path / "data")
    study = yaml.safe_load((tree.path / SMOKE).read_text())
    study["families"]["chemgpt"]["engine"] = {"ranks": 2}
    (tree.path / "spread.yaml").write_text(yaml.safe_dump(study))
    path = "cells/chemgpt/w32/n400/seed0"
    command = [sys.executable, "-m", "chemscale.cli", "train", path, "--config", "spread.yaml"]
    done = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", "--mem=1500", *command],
        cwd=tree.path,
        env={**os.environ, "PYTHONPATH": str(tree.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spread, alone = (read_metrics(where.path / "results/smoke" / path / "metrics.json") for where in (tree, smoke_tree))
    assert spread["tokens_seen"] == alone["tokens_seen"]
    assert spread["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)
    assert spread["test_loss"] != alone["test_loss"]


def test_jobs_ran_on_the_clusters_nodes() -> None:
    listed = subprocess.run(["squeue", "-h", "-t", "all", "-o", "%N %T"], capture_output=True, text=True, check=True)
    assert set(listed.stdout.splitlines()) >= {"cpu1 COMPLETED", "cpu2 COMPLETED"}
