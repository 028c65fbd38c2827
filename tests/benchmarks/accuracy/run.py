"""How accurate are our potentials beside their authors' code, each trained by its own trainer on the same frames?

    python tests/benchmarks/accuracy/run.py PEERS_PYTHON [--molecules ethanol aspirin] [--seeds 0 1 2] [--cores 1]

950 training frames of GFN2-xTB ethanol and aspirin at 500 K, batches of ten, 10,000 and 5,000 steps, three seeds: our
PaiNN, SchNet and Allegro are cells of studies/accuracy_ethanol.yaml and studies/accuracy_aspirin.yaml; schnetpack's
PaiNN and nequip-allegro's Allegro have the same capacity (64 features and 3 interactions; 64 scalars, 32 tensors of
degree up to 2, 2 layers), loss, optimiser, rate and schedule as they publish them, so that recipes are compared and not
only architectures: docs/studies/accuracy tells what they come to. Errors are of the same test frames.
Rows `control` tell what those studies' controls, trained four times as long, come to.

Takes some hours on one core. Every finished run is a row of `results/benchmarks/accuracy.json` and is not run again;
the rows `force error MODEL` compare the means with those of a peer, or of another of our models: ratio is theirs over
ours, with a 90 % interval of the ratio of means by Welch's approximation on the logarithms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from frames import write_splits
from rows import FOLDER, write_rows

from chemscale.grid import Cell
from chemscale.io import read_json
from chemscale.provenance import machine, versions
from chemscale.study import Study, load_study

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
FILE = "accuracy.json"
STEPS = {"ethanol": 10_000, "aspirin": 5_000}
PEERS = {"painn": "schnetpack", "allegro": "nequip-allegro"}
LEVEL = 0.9


def study_of(molecule: str) -> Study:
    """The study that has our cells, one of each family and seed, and its controls, one of a name."""
    return load_study(ROOT / "studies" / f"accuracy_{molecule}.yaml")


def ours(molecule: str, cell: Cell, cores: int) -> dict[str, float]:
    """Train a cell by the pipeline, if need be; its test errors in meV/angstrom and meV."""
    target = f"results/accuracy_{molecule}/{cell.path}/metrics.json"
    config = f"studies/accuracy_{molecule}.yaml"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        str(cores),
        "--configfile",
        config,
        "--quiet",
        "rules",
        "--",
    ]
    subprocess.run([*command, target], cwd=ROOT, check=True)
    metrics = read_json(ROOT / target)["test_metrics"]
    atoms = {"ethanol": 9, "aspirin": 21}[molecule]
    return {"force_mae": metrics["force_mae"], "energy_mae": metrics["energy_mae"] * atoms}


def theirs(family: str, python: str, folder: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a peer's model on the same frames; its test errors in meV/angstrom and meV."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if family == "painn":
        command = [python, str(HERE / "schnetpack_train.py"), str(folder), str(seed), str(steps)]
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found
    settings = (HERE / "nequip.yaml").read_text().replace("${seed}", str(seed)).replace("${steps}", str(steps))
    (folder / "nequip.yaml").write_text(settings)
    command = [str(Path(python).parent / "nequip-train"), "-cp", str(folder), "-cn", "nequip", "hydra.run.dir=run"]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [line.split(",") for line in next(folder.glob("logs/version_*/metrics.csv")).read_text().splitlines()]
    last = dict(zip(lines[0], lines[-1], strict=True))
    return {
        "force_mae": float(last["test0_epoch/forces_mae"]) * 1000,
        "energy_mae": float(last["test0_epoch/total_energy_mae"]) * 1000,
    }


def run_row(what: str, molecule: str, peer: str | None, steps: int, found: dict[str, float], seconds: float) -> Any:
    """The row of one finished run; `peer` None: ours."""
    return {
        "what": what,
        "case": molecule,
        "peer": peer,
        "ours": round(found["force_mae"], 4) if peer is None else None,
        "theirs": None if peer is None else round(found["force_mae"], 4),
        "unit": "meV/angstrom",
        **dict.fromkeys(("ratio", "ratio_min", "ratio_max", "target")),
        "repeats": 1,
        "settings": {
            "energy_mae_mev": round(found["energy_mae"], 4),
            "wall_s": round(seconds),
            "steps": steps,
        },
        "machine": machine(),
        "versions": versions(),
    }


def compared(rows: list[dict[str, Any]], molecule: str, family: str, other: str, peer: str | None) -> Any:
    """The row that compares our family's mean over seeds with another's; None where a side has fewer than two runs.

    `other` is the family that `peer` trained, or one of ours where that is None.
    """
    mine, others = (
        [
            row["ours"] if trainer is None else row["theirs"]
            for row in rows
            if row["what"].startswith(f"run {name} ") and row["case"] == molecule and row["peer"] == trainer
        ]
        for name, trainer in ((family, None), (other, peer))
    )
    if min(len(mine), len(others)) < 2:
        return None
    means = [float(np.mean(values)) for values in (mine, others)]
    # of the logarithm of each mean
    squares = [
        float(np.var(values, ddof=1)) / len(values) / mean**2
        for values, mean in zip((mine, others), means, strict=True)
    ]
    variance = sum(squares)
    freedom = variance**2 / sum(s**2 / (len(v) - 1) for s, v in zip(squares, (mine, others), strict=True))
    width = float(student.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    ratio = means[1] / means[0]
    return {
        "what": f"force error {family}",
        "case": molecule,
        "peer": peer or f"our {other}",
        "ours": round(means[0], 4),
        "theirs": round(means[1], 4),
        "unit": "meV/angstrom",
        "ratio": round(ratio, 4),
        "ratio_min": round(ratio * float(np.exp(-width)), 4),
        "ratio_max": round(ratio * float(np.exp(width)), 4),
        # ours at most 1.03 times theirs
        "target": None if peer is None else round(1 / 1.03, 4),
        "repeats": min(len(mine), len(others)),
        "settings": {"ours": mine, "theirs": others, "level": LEVEL, "steps": STEPS[molecule]},
        "machine": machine(),
        "versions": versions(),
    }


def finished() -> list[dict[str, Any]]:
    """The rows so far."""
    path = FOLDER / FILE
    return read_json(path) if path.exists() else []


def is_finished(what: str, molecule: str, peer: str | None) -> bool:
    """Whether that run has its row."""
    return (what, molecule, peer) in {(row["what"], row["case"], row["peer"]) for row in finished()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peers_python")
    parser.add_argument("--molecules", nargs="+", default=list(STEPS))
    parser.add_argument("--families", nargs="+", default=["painn", "allegro", "schnet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", default=["ours", "theirs"])
    parser.add_argument("--cores", type=int, default=1)
    asked = parser.parse_args()
    peers_python = str(Path(asked.peers_python).absolute())
    for molecule in asked.molecules:
        study = study_of(molecule)
        cells = {(cell.family, cell.seed): cell for cell in study.cells}
        for seed in asked.seeds:
            for family in asked.families:
                for side in asked.sides:
                    peer = None if side == "ours" else PEERS.get(family)
                    what = f"run {family} seed{seed}"
                    if (side == "theirs" and peer is None) or is_finished(what, molecule, peer):
                        continue
                    begun = time.monotonic()
                    if side == "ours":
                        found = ours(molecule, cells[family, seed], asked.cores)
                    else:
                        with tempfile.TemporaryDirectory() as scratch:
                            write_splits(cells["painn", seed], ROOT / "data", Path(scratch))
                            found = theirs(family, peers_python, Path(scratch), seed, STEPS[molecule])
                    seconds = time.monotonic() - begun
                    write_rows(FILE, [run_row(what, molecule, peer, STEPS[molecule], found, seconds)])
            pairs = [(family, family, peer) for family, peer in PEERS.items()]
            pairs += [(*ours_both, None) for ours_both in itertools.combinations(("painn", "allegro", "schnet"), 2)]
            compared_rows = [compared(finished(), molecule, *pair) for pair in pairs]
            write_rows(FILE, [row for row in compared_rows if row is not None])
        for cell in study.controls if "ours" in asked.sides else []:
            what = f"control {cell.control} seed{cell.seed}"
            if cell.family in asked.families and not is_finished(what, molecule, None):
                begun = time.monotonic()
                found = ours(molecule, cell, asked.cores)
                steps = int(cell.protocol["steps"])
                write_rows(FILE, [run_row(what, molecule, None, steps, found, time.monotonic() - begun)])


if __name__ == "__main__":
    main()
