"""Cells for the campaigns on training: real molecules, prepared by the workflow, and a cell's job as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from chemscale.grid import Cell
from chemscale.study import load_study

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / "data" / "faults"
DATA = SCRATCH / "data"


def prepared(size: str, num_samples: int, seeds: Sequence[int] = (0,)) -> list[Cell]:
    """The quickstart's language cells of a size on its own molecules, the rules for their data run where need be."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config |= {"study": "faults", "data_dir": str(DATA), "results_dir": str(SCRATCH / "results"), "controls": {}}
    config.pop("evaluate")
    config["data"] = {"molecules": config["data"]["molecules"]}
    config["families"] = {"chemgpt": config["families"]["chemgpt"]}
    config["families"]["chemgpt"]["grid"] = [{"sizes": [size], "num_samples": [num_samples], "seeds": list(seeds)}]
    path = SCRATCH / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    cells = load_study(path).cells
    folder = DATA / cells[0].data["key"]
    targets = [folder / "subsets" / f"seed{seed}" / f"n{num_samples}.parquet" for seed in seeds]
    targets.append(folder / "arrays" / "arrays.json")
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", "--rerun-incomplete", "--quiet", "all"]
    subprocess.run([*command, "--configfile", str(path), "--", *map(str, targets)], cwd=ROOT, check=True)
    return cells


def changed(cell: Cell, *, steps: int, training: dict[str, Any] | None = None, **engine: Any) -> Cell:
    """The cell with another number of steps, other training settings and another engine."""
    return replace(
        cell,
        protocol={"kind": "equal_steps", "steps": steps},
        training=cell.training | (training or {}),
        engine=cell.engine | engine,
    )


def start(cell: Cell, root: Path) -> subprocess.Popen[bytes]:
    """Start a cell's job as the workflow does, by as many ranks as its engine names; what it says goes to `said`."""
    root.mkdir(parents=True, exist_ok=True)
    job = {"cell": cell.to_dict(), "root": str(root), "data_dir": str(DATA), "code": "campaign"}
    job["log_file"] = str(root / "cell.log")
    with open(root / "said", "ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "chemscale.training.launch", json.dumps(job)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )


def curve(folder: Path) -> list[dict[str, Any]]:
    """The lines of a finished cell's curve."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
