"""Shared by all tests: copies of the repository to run the workflow in, one finished smoke study, and data folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# numerical libraries read it once, when they are loaded: on more threads than idle cores tblite is slow, and gives
# other last bits than the one-threaded processes of the pipeline
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]
SMOKE = "tests/smoke.yaml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep in one process of `pytest -n` what shares dear things: a file's tests, and all of the smoke study."""
    smoked = {item.path for item in items if "smoke_tree" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "smoke" if item.path in smoked else item.path.relative_to(REPOSITORY).as_posix()
        item.add_marker(pytest.mark.xdist_group(group))


@dataclass(frozen=True)
class Tree:
    """A copy of the working tree; commands run in it use its own `chemscale`."""

    path: Path

    @property
    def python(self) -> str:
        """The interpreter, by a path in the tree."""
        return str(self.path / ".venv/bin/python")

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `python COMMAND...` in the tree; output is captured, the exit code is the caller's to check."""
        environment = {**os.environ, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [self.python, *command],
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
    (target / ".venv").symlink_to(sys.prefix)
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
    made = copy_repository(tmp_path_factory.mktemp("smoke") / "my runs" / "ü'x")
    done = made.run("workflow/run_study.py", "--configfile", SMOKE)
    (made.path / "output.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, f"the smoke study failed:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return made


@pytest.fixture
def finished(smoke_tree: Tree, tmp_path: Path) -> Tree:
    """The finished smoke study in a copy of its own, free to be changed."""
    return smoke_tree.copy(tmp_path / "finished")


@pytest.fixture(scope="session")
def write_data() -> Callable[..., dict[str, Any]]:
    """A function that writes a whole data folder from rows of one's own, by the stages that write every other one."""
    return _write_data


def _write_data(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    cutoffs: Sequence[float] = (),
    draws: Sequence[tuple[int, int]] = (),
    rejected: Mapping[str, int] | None = None,
    warnings: Sequence[str] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Write runs, shards, manifest, arrays, neighbour lists and subsets of `folder`; the manifest.

    Args:
        folder: the data folder; its name is the data set's.
        rows: molecules (smiles, selfies) or frames (molecule, frame, species, positions, energy, forces), each with its
            split and a text that names its group; `row` (32 hex digits) is the digest of smiles, or of the frame.
        cutoffs: of the neighbour lists, in angstrom.
        draws: (seed, num_samples) of the subsets.
        rejected: rows that were rejected on the way, by reason.
        warnings: what was to be told of the source.
        settings: of the data section, where they differ.
    """
    import hashlib
    from collections import Counter
    from unittest.mock import patch

    import numpy as np
    import pyarrow as pa

    from chemscale.data import assemble, prepare_arrays, prepare_scaffolds, prepare_subsets
    from chemscale.data.frames import write_frames
    from chemscale.data.manifest import read_manifest
    from chemscale.data.runs import DIGEST, ChunkUnits, Ledger, finish_chunk, run_path, work_folder, write_run
    from chemscale.data.subsets import ALL_SPLITS

    def digest(text: str | bytes) -> bytes:
        return hashlib.blake2b(text if isinstance(text, bytes) else text.encode(), digest_size=16).digest()

    language = "selfies" in rows[0]
    known = {row["split"] for row in rows}
    section = {
        "kind": "molecules" if language else "structures",
        # a split without rows was not asked for
        **{split: 0.2 if split in known else 0.0 for split in ("validation", "test")},
        "max_reject_share": 0.99,
        "rows_per_shard": 50,
        "vocabulary": None,
        "min_symbol_count": 1,
    } | settings
    source = {"name": "toy"}
    work = work_folder(folder, section, source, "code")
    ledger = Ledger(len(rows) + sum((rejected or {}).values()), len(rows), Counter(rejected or {}))
    groups = [digest(row["group"]) for row in rows]
    places = list(range(len(rows)))
    if language:
        digests = [bytes.fromhex(row["row"]) if "row" in row else digest(row["smiles"]) for row in rows]
        columns = {
            "row": pa.array(digests, DIGEST),
            "place": pa.array(places, pa.int64()),
            "group": pa.array(groups, DIGEST),
            "split": pa.array([ALL_SPLITS.index(row["split"]) for row in rows], pa.uint8()),
            **{name: pa.array([row[name] for row in rows], pa.string()) for name in ("smiles", "selfies")},
        }
        write_run(run_path(work, 0), pa.table(columns), ledger)
    else:
        frames = []
        for row, group in zip(rows, groups, strict=True):
            arrays = {name: np.asarray(row[name], float).ravel() for name in ("positions", "forces")}
            species = np.asarray(row["species"], np.uint8)
            own = digest(species.tobytes() + arrays["positions"].tobytes())
            own = bytes.fromhex(row["row"]) if "row" in row else own
            frames.append({"smiles": "", **row, **arrays, "species": species, "row": own, "group": group})
        write_frames(run_path(work, 0), frames, places, section, ledger)
    units = ChunkUnits(rows, len(rows), work, (0, 1))
    assert not list(units), "the only unit has its run"
    marker = folder / "chunks" / "0of1.json"
    finish_chunk(marker, units, [], "toy", source, lambda: list(warnings))

    # the stages' own functions, without a second for each new process
    def in_process(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Iterable[Any]:
        return map(function, tasks)

    with patch.object(assemble, "ordered_map", in_process):
        assemble.prepare(section, folder, [marker], "code", 1)
    shutil.rmtree(marker.parent)
    if "scaffold" in rows[0]:
        known = {row["smiles"]: row["scaffold"] for row in rows}
        with (
            patch.object(prepare_scaffolds, "ordered_map", in_process),
            patch.object(prepare_scaffolds, "scaffold_of", known.__getitem__),
        ):
            prepare_scaffolds.prepare(folder, "code", 1)
    prepare_arrays.prepare(folder)
    for cutoff in cutoffs:
        prepare_arrays.prepare_neighbours(folder, cutoff)
    for seed, num_samples in draws:
        prepare_subsets.prepare(folder, folder.name, seed, num_samples)
    return read_manifest(folder)
