"""The smoke study on a real SLURM gives the bits of a run on this machine. `make test-slurm` starts the cluster."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

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


def test_jobs_ran_on_the_clusters_nodes() -> None:
    listed = subprocess.run(["squeue", "-h", "-t", "all", "-o", "%N %T"], capture_output=True, text=True, check=True)
    assert set(listed.stdout.splitlines()) >= {"cpu1 COMPLETED", "cpu2 COMPLETED"}
