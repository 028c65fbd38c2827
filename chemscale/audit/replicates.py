"""Checks that every run is one of its own: no copy of another one under another seed, no invented test losses."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.audit.findings import Findings
from chemscale.grid import Cell
from chemscale.io import open_regular, read_parquet

# seeds fix initial weights and the order of batches: two runs have hardly one loss in common
_MOST_EQUAL = 0.05
# the spread of the log ratio of two seeds' losses over test clusters is some per cent, of a scaled copy 0
_LEAST_SPREAD = 1e-5
_LEAST_CLUSTERS = 4


def check_replicates(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """No two seeds have the same curve or test losses in one ratio, and no run has one loss in all test clusters."""
    by_size: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    losses: dict[str, NDArray[np.float64]] = {}
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        table = read_parquet(root / cell.path / "test_clusters.parquet")
        sums, counts = (np.array(table[name].to_pylist(), float) for name in ("loss_sum", "count"))
        losses[cell.path] = sums / counts
        enough = len(sums) >= _LEAST_CLUSTERS
        level = enough and np.ptp(losses[cell.path]) <= _LEAST_SPREAD * abs(losses[cell.path].mean())
        findings.holds(f"{cell.path}/test_clusters.parquet", not level, "the same loss in all test clusters")
        by_size[cell.family, cell.size].append(cell)
    for cells in by_size.values():
        curves = {cell.path: _training_losses(root, cell) for cell in cells}
        for one, other in itertools.combinations(cells, 2):
            _check_ratio(one, other, losses, findings)
            if one.seed == other.seed:
                continue
            mine, theirs = curves[one.path], curves[other.path]
            steps = min(len(mine), len(theirs))
            equal = int((mine[:steps] == theirs[:steps]).sum())
            found = f"{equal} of {steps} losses are those of {one.path}, of another seed"
            findings.holds(f"{other.path}/metrics.jsonl", equal <= max(3, _MOST_EQUAL * steps), found)
    # of sizes, neighbours alone: all pairs of a large grid would take long
    for one, other in itertools.pairwise(cells[0] for cells in by_size.values()):
        _check_ratio(one, other, losses, findings)


def _check_ratio(one: Cell, other: Cell, losses: dict[str, NDArray[np.float64]], findings: Findings) -> None:
    """The test losses of two runs are not in one ratio in every cluster."""
    mine, theirs = (losses[cell.path] for cell in (one, other))
    comparable = one.data == other.data and len(mine) == len(theirs) >= _LEAST_CLUSTERS
    if may_be_equal(one, other) or not comparable or not ((mine > 0).all() and (theirs > 0).all()):
        return
    spread = float(np.std(np.log(mine / theirs)))
    found = f"losses in one ratio to those of {one.path} in every cluster"
    findings.holds(f"{other.path}/test_clusters.parquet", spread >= _LEAST_SPREAD, found)


def may_be_equal(one: Cell, other: Cell) -> bool:
    """Whether two runs may end alike: the same model, subset and seed, trained for another number of steps, say."""
    return all(
        getattr(one, name) == getattr(other, name) for name in ("family", "knobs", "num_samples", "seed", "data")
    )


def _training_losses(root: Path, cell: Cell) -> NDArray[np.float64]:
    """The training loss of each step of a curve that `check_curves` has found to be whole."""
    with open_regular(root / cell.path / "metrics.jsonl") as stream:
        lines = map(json.loads, stream)
        return np.array([line["loss"] for line in lines if "loss" in line], float)
