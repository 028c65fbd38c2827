"""Cells of seconds share a process: which cells are trained together, so that starting Python is paid once a pack."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from chemscale.cost.flops import potential_flops
from chemscale.cost.matching import ATOMS_PER_FRAME, EDGES_PER_FRAME, SYMBOLS_PER_MOLECULE
from chemscale.families import LANGUAGE, architecture
from chemscale.grid import Cell

PACK_SECONDS = 60.0  # the longest pack aimed at: short enough that the cores finish together
# seconds of a step of a potential for each interaction, and FLOPs per second of the rest: as machine code, and by torch
# (measured, but for the baseline by torch, which has SchNet's; Allegro's are those of degrees 0 to 2 in the mean)
_COMPILED = {
    "schnet": (1.4e-4, 4.1e10),
    "baseline": (2.3e-4, 4.1e10),
    "painn": (2.5e-4, 4.1e10),
    "allegro": (6e-4, 4.1e10),
    "spookynet": (8e-4, 2.0e10),
}
_EAGER = {
    "schnet": (9e-4, 3.5e10),
    "baseline": (9e-4, 3.5e10),
    "painn": (3.2e-3, 2.4e10),
    "allegro": (4e-3, 1.15e10),
    "spookynet": (9e-3, 2.4e10),
}


def packs(cells: Iterable[Cell], seconds: float = PACK_SECONDS) -> dict[str, list[Cell]]:
    """The cells in packs of one family each, balanced by estimated cost: {"painn-0": [cells], ...}.

    Cells whose steps are machine code are in packs of one size, too: one process builds it, and none waits for it.
    Every cell that one process trains is in exactly one pack. The answer depends on the cells alone, not on their
    order. A pack takes about `seconds` at most, or is a single unit that takes longer: a cell, or the cells that share
    steps, by number of samples, so that each goes on from the one before. Within a pack the dearest units come first.
    """
    families: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        if cell.engine["ranks"] == 1:
            unit = cell.shared_path if cell.shares_steps else cell.path
            kind = f"{cell.family}-{cell.size}" if cell.engine["compiled"] else cell.family
            families.setdefault(kind, {}).setdefault(unit, []).append(cell)
    found: dict[str, list[Cell]] = {}
    for family, units in sorted(families.items()):
        costs = {unit: sum(map(estimated_seconds, members)) for unit, members in units.items()}
        count = min(max(math.ceil(sum(costs.values()) / seconds), 1), len(units))
        # each unit, dearest first, goes to the pack that has least
        loads = [(0.0, index) for index in range(count)]
        filled: list[list[Cell]] = [[] for _ in range(count)]
        for unit in sorted(units, key=lambda unit: (-costs[unit], unit)):
            load, index = heapq.heappop(loads)
            filled[index].extend(sorted(units[unit], key=lambda cell: cell.num_samples))
            heapq.heappush(loads, (load + costs[unit], index))
        found.update({f"{family}-{index}": pack for index, pack in enumerate(filled)})
    return found


def estimated_seconds(cell: Cell) -> float:
    """A crude time of a cell on one core, good to a factor of two: what balances packs, and nothing else.

    The constants are measured rates on one core: fixed work per step and work that grows with the model. Building
    machine code, which cells of a size share, is left out. A model without rates of its own has PaiNN's.
    """
    training, knobs = cell.training, cell.knobs
    if cell.domain == LANGUAGE:
        per_batch = training["batch_tokens"] / SYMBOLS_PER_MOLECULE
        width = knobs["width"]
        step = training["batch_tokens"] * (6e-6 + knobs["layers"] * (1.2e-7 * width + 1.2e-9 * width**2))
    else:
        per_batch = training["batch_frames"]
        rates = _COMPILED if cell.engine["compiled"] else _EAGER
        fixed, rate = rates.get(architecture(cell.family), rates["painn"])
        atoms, edges = ATOMS_PER_FRAME * per_batch, EDGES_PER_FRAME * per_batch
        flops = potential_flops(cell.family, knobs, atoms=atoms, edges=edges)["flops_full"]
        step = fixed * knobs["interactions"] + flops / rate
    passes = cell.protocol.get("epochs", 1)
    steps = cell.protocol.get("steps") or math.ceil(passes * cell.num_samples / per_batch)
    return float(1.0 + steps * step)
