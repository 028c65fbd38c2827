"""Which engine trains a cell within a given memory: the fastest one that the memory model says will do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chemscale.cost.memory import BASE, VOCABULARY, language_memory
from chemscale.cost.passes import micro_batch_tokens
from chemscale.families import POTENTIALS
from chemscale.grid import Cell

# what an engine is where nothing is asked and nothing is chosen
_PLAIN: dict[str, Any] = {"zero": 0, "offload": False, "recompute": False, "micro_tokens": None}
# computed tokens below which a pass gets slower than computing blocks anew would make it
_SMALLEST_PASS = 1024
# stages of ZeRO and offload, the fastest first: each sends more than the one before
_STAGES = ((0, False), (1, False), (2, False), (3, False), (2, True), (3, True))
_MOST_RANKS = 1024
# Measured on one core: a small potential's step is 2 to 15 ms shorter as machine code, which takes 20 to 40 s to build
_STEPS_THAT_PAY = 6000


def plain(engine: Mapping[str, Any]) -> dict[str, Any]:
    """An engine whose settings that a config leaves unset (None) are the plain ones."""
    return {name: _PLAIN.get(name) if value is None else value for name, value in engine.items()}


def with_compiled(cells: Sequence[Cell], asked: Mapping[str, str]) -> list[Cell]:
    """Potential cells that know whether their steps are machine code, which is built once for each family and size.

    Args:
        cells: all that a study trains.
        asked: of each family, always or never; or auto: where the steps of all cells of a size pay for building it.
    """
    steps: Counter[tuple[str, str]] = Counter()
    for cell in cells:
        if cell.domain == POTENTIALS:
            steps[cell.family, cell.size] += planned_steps(cell, cell.training["batch_frames"])

    def pays(cell: Cell) -> bool:
        rule = asked[cell.family]
        return rule == "always" or (rule == "auto" and steps[cell.family, cell.size] >= _STEPS_THAT_PAY)

    return [
        replace(cell, engine={**cell.engine, "compiled": pays(cell)}) if cell.domain == POTENTIALS else cell
        for cell in cells
    ]


def planned_steps(cell: Cell, per_step: float) -> int:
    """The steps that a cell's protocol asks for, of so many samples each; the most of `to_convergence`."""
    in_epoch = math.ceil(cell.num_samples / per_step)
    return int(cell.protocol.get("steps") or in_epoch * cell.protocol.get("epochs", 1))


def chosen(cell: Cell, longest: int, memory: float) -> dict[str, Any] | None:
    """The engine of a language cell within `memory` bytes for each rank; None where nothing fits.

    What the cell's engine sets stays. What it leaves unset (None) is tried in this order, the fastest first: all
    weights on each rank with the whole share of a batch, then half of it and so on; the same with blocks computed anew;
    then ZeRO 1, 2 and 3, each in the same way, where there are ranks to share; then, on a GPU, with offload.

    Args:
        cell: the cell, with its number of ranks.
        longest: tokens of the longest molecule, [CLS] and [SEP] included.
        memory: bytes of a rank's process, that before the model included.
    """
    for engine in _candidates(cell, longest):
        if BASE + language_memory(replace(cell, engine=engine), VOCABULARY, longest).total <= memory:
            return engine
    return None


def ranks_that_would_do(cell: Cell, longest: int, memory: float) -> int | None:
    """The smallest power of two of ranks with which an engine fits, None where none up to 1,024 does."""
    ranks = 1
    while ranks <= _MOST_RANKS:
        if chosen(replace(cell, engine={**cell.engine, "ranks": ranks}), longest, memory) is not None:
            return ranks
        ranks *= 2
    return None


def _candidates(cell: Cell, longest: int) -> Iterator[dict[str, Any]]:
    asked = cell.engine
    share = micro_batch_tokens(cell.training["batch_tokens"], longest - 1, asked["ranks"], None)
    for stage, offload in _STAGES:
        if stage and asked["ranks"] == 1 and asked["zero"] is None:
            continue  # nobody to share with
        if offload and asked["device"] != "cuda" and asked["offload"] is None:
            continue  # into the memory where all of it is already
        for recompute in (False, True):
            tokens: int | None = None
            while True:
                tried = {"zero": stage, "offload": offload, "recompute": recompute, "micro_tokens": tokens}
                if all(asked[name] in (None, value) for name, value in tried.items() if name != "micro_tokens"):
                    yield {**asked, **tried, "micro_tokens": asked["micro_tokens"] or tokens}
                tokens = (tokens or share) // 2
                if tokens < max(_SMALLEST_PASS, longest - 1) or asked["micro_tokens"] is not None:
                    break
