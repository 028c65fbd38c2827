"""Shared by all tests: copies of the repository to run the workflow in, and one finished smoke study."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SMOKE = "tests/smoke.yaml"


@dataclass(frozen=True)
class Tree:
    """A copy of the working tree; commands run in it use its own `chemscale`."""

    path: Path

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `python COMMAND...` in the tree; output is captured, the exit code is the caller's to check."""
        environment = {**os.environ, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def snakemake(self, *arguments: str, config: str | None = SMOKE) -> subprocess.CompletedProcess[str]:
        """Run Snakemake on two cores, for the smoke study unless another config (None: the default one) is named."""
        chosen = [] if config is None else [f"--configfile={config}"]
        return self.run("-m", "snakemake", "--cores", "2", *arguments, *chosen)

    def copy(self, target: Path) -> Tree:
        """Everything, results and Snakemake's records included, with the times of the files."""
        shutil.copytree(self.path, target, symlinks=True, dirs_exist_ok=True)
        return Tree(target)


def copy_repository(target: Path) -> Tree:
    """The tracked files and the new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return Tree(target)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A fresh copy of the repository, without data and results."""
    return copy_repository(tmp_path / "repository")


@pytest.fixture(scope="session")
def smoke_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A copy of the repository in which `make run`'s program has finished the smoke study; nobody changes it.

    What it printed is in `output.txt`. Its results are in `results/smoke`.
    """
    made = copy_repository(tmp_path_factory.mktemp("smoke") / "repository")
    done = made.run("workflow/run_study.py", "--configfile", SMOKE)
    (made.path / "output.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, f"the smoke study failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return made


@pytest.fixture
def finished(smoke_tree: Tree, tmp_path: Path) -> Tree:
    """The finished smoke study in a copy of its own, free to be changed."""
    return smoke_tree.copy(tmp_path / "finished")
