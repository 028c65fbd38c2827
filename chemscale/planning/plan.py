"""What every cell of a study will take, before anything runs: size, data, FLOPs, memory and time.

The plan reads the config alone, neither data nor fits, so that it can be kept beside what then happened. Amounts that
only data can tell are nominal (`NOMINAL`): the means of the default data sets. Times are for the machine on which the
rates of `planning/packs.py` were measured, good to a factor of two.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from chemscale.cost.engine import planned_steps
from chemscale.cost.flops import language_flops, potential_flops
from chemscale.cost.matching import ATOMS_PER_FRAME, EDGES_PER_FRAME, SYMBOLS_PER_MOLECULE
from chemscale.cost.memory import BASE, VOCABULARY, language_memory, peak_bytes
from chemscale.cost.parameters import count
from chemscale.cost.passes import tokens_of_pass
from chemscale.families import LANGUAGE
from chemscale.grid import Cell, protocol_label
from chemscale.io import read_json, write_parquet
from chemscale.planning.packs import estimated_seconds
from chemscale.study import Study, longest_molecule
from chemscale.units import format_number

# Means of the quickstart's data: vocabulary of the identifier table, atoms and directed edges within 5 angstrom of a
# conformer of 2 to 5 heavy atoms.
NOMINAL = {
    "vocabulary": VOCABULARY,
    "tokens_per_molecule": SYMBOLS_PER_MOLECULE,
    "atoms_per_frame": ATOMS_PER_FRAME,
    "edges_per_frame": EDGES_PER_FRAME,
}


# of the memory that a job asks for, above what the model says: what a kernel counts against it besides, page tables
# and files that were read, and the tenth by which the model may err
_MARGIN = 1.25
_LEAST_MB = 2000


def plan_cell(cell: Cell, longest: int | None) -> dict[str, Any]:
    """The plan of one cell: a row of `tables/plan.parquet`; null where nothing is known yet.

    `longest`: tokens of the longest molecule of its data, None of a potential.
    """
    language = cell.domain == LANGUAGE
    vocabulary = NOMINAL["vocabulary"] if language else None
    parameters = count(cell.family, cell.knobs, vocabulary)
    per_step = (
        cell.training["batch_tokens"] / NOMINAL["tokens_per_molecule"] if language else cell.training["batch_frames"]
    )
    steps = planned_steps(cell, per_step)
    if language:
        molecules = round(steps * per_step)
        one = language_flops(cell.family, cell.knobs, NOMINAL["vocabulary"], [NOMINAL["tokens_per_molecule"]])
        flops = one["flops_full"] * molecules
        unique, seen = cell.num_samples * NOMINAL["tokens_per_molecule"], molecules * NOMINAL["tokens_per_molecule"]
    else:
        # the largest batch, shared by the ranks
        batch = min(cell.training["batch_frames"], cell.num_samples)
        atoms, edges = NOMINAL["atoms_per_frame"] * batch, NOMINAL["edges_per_frame"] * batch
        pairs = atoms**2 // cell.engine["ranks"]
        flops = potential_flops(cell.family, cell.knobs, atoms=atoms, edges=edges, pairs=pairs)["flops_full"] * steps
        unique, seen = cell.num_samples, steps * batch
    shared = _shared_steps(cell, per_step)
    seconds = estimated_seconds(cell) * (1 - shared / steps)
    return {
        "cell": cell.path,
        "family": cell.family,
        "size": cell.size,
        "num_samples": cell.num_samples,
        "seed": cell.seed,
        "control": cell.control,
        "protocol": protocol_label(cell.protocol),
        "N": parameters.non_embedding,
        "num_params": parameters.total,
        "D": unique,
        "D_unit": "tokens" if language else "frames",
        "seen": seen,
        "steps": steps,
        "flops_full": flops,
        "shared_steps": shared,
        "shared_flops": flops * shared // steps,
        "peak_memory_bytes": peak_of_rank(cell, longest),
        "engine": _engine(cell),
        "ranks": cell.engine["ranks"],
        "micro_tokens": _micro_tokens(cell, longest),
        "recompute": cell.engine["recompute"],
        "wall_s": seconds,
        "device_hours": seconds / 3600,
        "energy_kwh": None,
        "predicted_loss": None,
    }


def _engine(cell: Cell) -> str:
    if cell.engine["zero"]:
        return f"ZeRO {cell.engine['zero']}"
    return "compiled" if cell.engine["compiled"] else "plain"


def _shared_steps(cell: Cell, per_step: float) -> int:
    """How many first steps a run on fewer samples makes for this one: those before its rate falls.

    Cells of several ranks are jobs of their own, of which none waits for another: nothing is counted on.
    """
    fewer = max((num for num in cell.engine["shared_with"] if num < cell.num_samples), default=0)
    if cell.engine["ranks"] > 1:
        return 0
    stable = 1 - float(cell.training["decay"])
    return math.floor(stable * math.ceil(fewer / per_step))


def peak_of_rank(cell: Cell, longest: int | None) -> int:
    """The peak memory of each process that trains a cell, in bytes; `longest` as in `plan_cell`."""
    if longest is None:
        return peak_bytes(cell.family, cell.knobs, cell.training["batch_frames"] * NOMINAL["atoms_per_frame"])
    return BASE + language_memory(cell, NOMINAL["vocabulary"], longest).total


def memory_mb(study: Study, cell: Cell) -> int:
    """The memory that a job of a cell asks a scheduler for, in MB, all ranks together."""
    peak = peak_of_rank(cell, study.longest_molecule(cell))
    return int(max(_LEAST_MB, math.ceil(_MARGIN * peak / 1e6)) * cell.engine["ranks"])


def _micro_tokens(cell: Cell, longest: int | None) -> int | None:
    """The most computed tokens that a rank takes at a time; None of a potential."""
    if longest is None:
        return None
    return tokens_of_pass(cell, longest - 1)


def plan_study(study: Study) -> dict[str, Any]:
    """The plan of a study: cells (a row each), totals, the nominal amounts, and why a column is null."""
    cells = [plan_cell(cell, study.longest_molecule(cell)) for cell in study.cells + study.controls]
    return {
        "study": study.name,
        "cells": cells,
        "total": {
            "cells": len(cells),
            "flops_full": sum(cell["flops_full"] for cell in cells),
            "shared_flops": sum(cell["shared_flops"] for cell in cells),
            "device_hours": sum(cell["device_hours"] for cell in cells),
            "peak_memory_bytes": max(cell["peak_memory_bytes"] for cell in cells),
            "energy_kwh": None,
        },
        "nominal": NOMINAL,
        "reasons": {
            "energy_kwh": "no forecast of energy yet",
            "predicted_loss": "no law from before this study is known",
        },
    }


def render(plan: dict[str, Any]) -> str:
    """The plan as text: a line a cell and the totals."""
    head = f"{'cell':64} {'N':>12} {'D':>12} {'steps':>8} {'FLOPs':>10} {'engine':>17} {'memory':>10} {'seconds':>8}"
    lines = [head]
    for cell in plan["cells"]:
        memory = cell["peak_memory_bytes"] / 1e6
        engine = cell["engine"] if cell["ranks"] == 1 else f"{cell['engine']} x {cell['ranks']}"
        engine += "" if cell["micro_tokens"] is None else f" / {cell['micro_tokens']}"
        lines.append(
            f"{cell['cell']:64} {format_number(cell['N'], 'N'):>12} {format_number(cell['D'], 'D'):>12} "
            f"{cell['steps']:>8} {cell['flops_full']:>10.2e} {engine:>17} {memory:>7.0f} MB {cell['wall_s']:>8.0f}"
        )
    total = plan["total"]
    share = total["shared_flops"] / total["flops_full"]
    saved = f", of which {100 * share:.0f} % are done once for several cells" if share else ""
    lines.append(
        f"{total['cells']} cells, {total['flops_full']:.2e} FLOPs{saved}, {total['device_hours']:.2f} device hours, "
        "one core; " + "; ".join(f"{column} unknown: {reason}" for column, reason in plan["reasons"].items())
    )
    return "\n".join(lines)


def write(root: Path) -> None:
    """Write `tables/plan.parquet` of the study whose `config.json` is in `root`."""
    import pyarrow as pa

    study = read_json(root / "config.json")
    cells = [Cell.from_dict(values) for values in study["cells"] + study["controls"]]
    rows = [plan_cell(cell, longest_molecule(study["config"]["data"][cell.data["name"]])) for cell in cells]
    types = dict.fromkeys(_TEXT, pa.string()) | dict.fromkeys(_REAL, pa.float64()) | {"recompute": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.int64())) for name in rows[0]])
    write_parquet(root / "tables" / "plan.parquet", pa.Table.from_pylist(rows, schema=schema))


_TEXT = ("cell", "family", "size", "control", "protocol", "D_unit", "engine")
_REAL = ("wall_s", "device_hours", "energy_kwh", "predicted_loss")
