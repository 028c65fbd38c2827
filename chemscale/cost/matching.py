"""What two sizes are matched by, before any data are there: parameters, and the FLOPs of a step.

Amounts that only data can tell are nominal, means of the default data sets; the plan takes the same.
"""

from __future__ import annotations

from chemscale.cost.flops import language_flops, potential_flops
from chemscale.cost.memory import VOCABULARY
from chemscale.cost.parameters import count
from chemscale.families import LANGUAGE
from chemscale.grid import Cell

# what is matched, in words
MATCHED = {"parameters": "non-embedding parameters", "flops": "FLOPs of a step"}
MOST_APART = 0.1  # relative difference of what is called matched
SYMBOLS_PER_MOLECULE = 28  # the mean of the chemicals table
# means of the quickstart's conformers; edges are directed, within 5 angstrom
ATOMS_PER_FRAME, EDGES_PER_FRAME = 10, 100


def matched_amount(cell: Cell, what: str) -> int:
    """What a cell has of what is matched, `parameters` or `flops`: those of a whole batch at nominal amounts."""
    language = cell.domain == LANGUAGE
    if what == "parameters":
        return count(cell.family, cell.knobs, VOCABULARY if language else None).non_embedding
    assert what == "flops", what
    if language:
        molecules = round(cell.training["batch_tokens"] / SYMBOLS_PER_MOLECULE)
        lengths = [SYMBOLS_PER_MOLECULE] * molecules
        return language_flops(cell.family, cell.knobs, VOCABULARY, lengths)["flops_full"]
    frames = cell.training["batch_frames"]
    atoms, edges = ATOMS_PER_FRAME * frames, EDGES_PER_FRAME * frames
    pairs = atoms**2 // cell.engine["ranks"]
    return potential_flops(cell.family, cell.knobs, atoms=atoms, edges=edges, pairs=pairs)["flops_full"]


def apart(one: int, other: int) -> float:
    """How far two amounts are apart, relative to the smaller one."""
    return max(one, other) / min(one, other) - 1
