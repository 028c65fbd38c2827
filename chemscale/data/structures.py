"""Frames with energies and forces from published and own files, each checked, in eV and angstrom.

What a file holds is told by its parser (`published_frames`, `own_frames`); energies become eV, lengths angstrom and
forces eV/angstrom here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from chemscale.data import own_frames, published_frames
from chemscale.data.blocks import Block, Rejected, are_elements, hill_formula, wanted_names
from chemscale.data.electronic_states import ElectronicStates, Others
from chemscale.data.frames import CLOSEST
from chemscale.errors import ConfigError
from chemscale.units import energy_in_ev, length_in_angstrom

Array = NDArray[np.float64]

# eV/angstrom on one atom. Two carbon nuclei 0.6 angstrom apart, the closest that is let through, repel each other with
# 340 (Ziegler-Biersack-Littmark), and frames of small molecules at 1,000 K reached 14: a larger one comes of a wrong
# unit or a failed calculation
LARGEST_FORCE = 300.0
# of more atoms, not all pairs are looked at
_ATOMS_FOR_PAIRS = 500


@dataclass(frozen=True)
class Structure:
    """A molecule at one point of its energy surface.

    `molecule` names it: the molecule of MD17 and rMD17, the group of ANI-1x, in own files the value of `molecule_key`
    as it is written, or else the formula. `formula` is Hill's. `order` is the place in time of a trajectory (MD17,
    rMD17), else the place in the files among the frames of its molecule, rejected ones included. `numbers` [A] are
    atomic numbers, `positions` [A, 3] angstrom, `energy` is the total energy in eV, `forces` [A, 3] are eV/angstrom.
    `smiles` is None but where an own file has a text of this name.
    """

    molecule: str
    formula: str
    order: int
    numbers: NDArray[np.uint8]
    positions: Array
    energy: float
    forces: Array
    smiles: str | None


def read(
    located: Mapping[str, Any], section: Mapping[str, Any], states: ElectronicStates | None = None
) -> Iterator[Structure | Rejected]:
    """The frames of a source in the order of its files, and every rejected frame by its reason.

    Reasons: not_computed (NaN as energy or force), not_finite, unknown_element, atoms_too_close (nearer than 0.6
    angstrom), force_too_large, wrong_shape (forces of another shape than positions); in own files also periodic,
    no_energy, no_forces, no_molecule (without its `molecule_key`), too_many_atoms and unreadable, and those of
    `electronic_states`: charged, fractional_charge, open_shell, unclear_charge, unclear_spin.

    Args:
        located: files (paths), parser, energy_unit and length_unit; forces are one over the other.
        section: molecules (the names of those to take, None for all), largest_force in eV/angstrom (300 by default)
            and, for own files, energy_key ("energy" by default), forces_key ("forces"), molecule_key (None: the formula
            names the molecule). A key is looked up among the calculator's results, then in info and arrays.
        states: judges charge and spin; afterwards its warnings hold what was assumed about them.

    Raises:
        DataError: a file is missing, empty, damaged, of another format or without frames, lacks a key, holds arrays
            that do not fit each other, or lacks a molecule asked for.
        ConfigError: the parser or a unit is unknown.
    """
    energy = energy_in_ev(located["energy_unit"])
    length = length_in_angstrom(located["length_unit"])
    largest = section.get("largest_force")
    largest = LARGEST_FORCE if largest is None else largest
    states = ElectronicStates() if states is None else states
    parser = _format(located)

    def others(key: str) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
        for block in parser.blocks(located, section):
            if isinstance(block, Block) and block.stated is not None and key in block.stated:
                yield from ((block.numbers, _row(block.stated, row)) for row in range(len(block.positions)))

    for item in parser.blocks(located, section):
        if isinstance(item, Rejected):
            yield item
        else:
            yield from _judged(item, energy, length, largest, states, others)


def counts(located: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, int]:
    """Frames of every molecule that `read` would give, rejected ones included; of arrays only the shapes are read.

    Takes and raises what `read` does, but for unknown units.
    """
    found = _format(located).counts(located, section)
    return {name: found[name] for name in wanted_names(section, list(found), located)}


def _format(located: Mapping[str, Any]) -> ModuleType:
    """The module that reads a source's files."""
    parser = located["parser"]
    for module in (published_frames, own_frames):
        if parser in module.PARSERS:
            return module
    known = ", ".join([*published_frames.PARSERS, *own_frames.PARSERS])
    raise ConfigError("the parser of a source of frames", repr(parser), f"give one of {known}")


def _judged(
    block: Block, energy: float, length: float, largest: float, states: ElectronicStates, others: Others
) -> Iterator[Structure | Rejected]:
    """The good frames of a block in eV and angstrom, then its rejected ones, counted by reason."""
    positions = np.asarray(block.positions, dtype=np.float64) * length
    energies = np.asarray(block.energies, dtype=np.float64).reshape(-1) * energy
    forces = np.asarray(block.forces, dtype=np.float64) * (energy / length)
    numbers = block.numbers
    known = are_elements(numbers)
    # a frame of NaN or infinities is near or far from nothing: it has a reason of its own
    with np.errstate(invalid="ignore", over="ignore"):
        too_close = _smallest_squares(positions) < CLOSEST**2
        too_large = np.linalg.norm(forces, axis=2).max(axis=1, initial=0) > largest
    reasons = np.select(
        [
            np.full(len(positions), not known),
            np.isnan(energies) | np.isnan(forces).any(axis=(1, 2)),
            ~(np.isfinite(energies) & np.isfinite(forces).all(axis=(1, 2)) & np.isfinite(positions).all(axis=(1, 2))),
            too_close,
            too_large,
        ],
        ["unknown_element", "not_computed", "not_finite", "atoms_too_close", "force_too_large"],
        default="",
    ).astype(object)
    notes: dict[str, str] = {}
    if block.stated is not None:
        for row in np.flatnonzero(reasons == ""):
            refusal = states.refusal(numbers, _row(block.stated, int(row)), others)
            if refusal is not None:
                reasons[row] = refusal.reason
                notes.setdefault(refusal.reason, refusal.note)
    if known:
        formula, species = hill_formula(numbers), numbers.astype(np.uint8)
        for row in np.flatnonzero(reasons == ""):
            yield Structure(
                block.molecule,
                formula,
                int(block.order[row]),
                species,
                positions[row],
                float(energies[row]),
                forces[row],
                block.smiles,
            )
    for reason in sorted(set(reasons.tolist()) - {""}):
        rows = np.flatnonzero(reasons == reason)
        place = "" if block.first is None else f", row {block.first + rows[0]}"
        note = notes.get(reason, "")
        yield Rejected(block.molecule, reason, f"{block.where}{place}{f' ({note})' if note else ''}", len(rows), note)


def _row(stated: Mapping[str, Any], row: int) -> dict[str, Any]:
    """What one frame of a block states."""
    return {key: values[row] for key, values in stated.items()}


def _smallest_squares(positions: Array) -> Array:
    """The square of the smallest distance between two atoms of each frame [F], infinite for a single atom."""
    frames, atoms, _ = positions.shape
    if atoms > _ATOMS_FOR_PAIRS:
        return np.array(
            [
                cKDTree(frame).query(frame, k=2)[0][:, 1].min() ** 2 if np.isfinite(frame).all() else np.inf
                for frame in positions
            ]
        )
    squares = np.zeros((frames, atoms, atoms))
    for axis in range(3):
        squares += (positions[:, :, None, axis] - positions[:, None, :, axis]) ** 2
    squares[:, np.arange(atoms), np.arange(atoms)] = np.inf
    smallest: Array = squares.min(axis=(1, 2), initial=np.inf)
    return smallest
