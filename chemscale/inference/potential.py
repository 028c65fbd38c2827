"""A finished potential cell, or a folder that it was exported to, as a model to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chemscale.cost.parameters import SPECIES, SPECIES_TO_RADON, count
from chemscale.errors import InputError, RecordError
from chemscale.families import FAMILIES, POTENTIALS, architecture, knobs_fault
from chemscale.models import registry, weights
from chemscale.models.potential import Potential


@dataclass(frozen=True)
class TrainedPotential:
    """A potential with its best weights, and what it has seen.

    `species` are the atomic numbers of its training frames; `closest` the smallest distance in angstrom at which it saw
    two of them, such as "1-6", the smaller first.
    """

    potential: Potential
    family: str
    knobs: Mapping[str, Any]
    species: tuple[int, ...]
    closest: Mapping[str, float]


def load(folder: Path) -> TrainedPotential:
    """The potential of a finished cell's folder, or of a folder that `chemscale export --to ase` wrote.

    Raises:
        InputError: the folder holds none.
        RecordError: the weights are missing, changed or not finite, or not of the model that stands beside them.
    """
    for place in (folder, folder / "checkpoint"):
        if (place / weights.SPEC).is_file():
            break
    else:
        raise InputError(f"load a potential from {folder}", f"no {weights.SPEC}", "name a finished cell or an export")
    spec = weights.read_spec(place)
    family, knobs = spec.get("family"), spec.get("knobs")
    if not isinstance(family, str) or family not in FAMILIES or FAMILIES[family].domain != POTENTIALS:
        raise InputError(f"load a potential from {folder}", f"weights of {family}", "name a potential")
    if fault := knobs_fault(family, knobs) or _seen_fault(family, spec.get("species"), spec.get("closest")):
        raise RecordError(f"load a potential from {place}", f"{fault}, in {weights.SPEC}", "get the whole folder again")
    assert isinstance(knobs, dict)
    # the file has as many numbers as the model takes: only then is memory taken
    state = weights.load(place, count(family, knobs, None).total)
    core = registry.build(family, knobs, seed=0)
    potential = Potential(core, torch.zeros(SPECIES, dtype=torch.float64), 1.0)
    weights.fill(potential, state, place)
    return TrainedPotential(potential.eval(), family, knobs, tuple(spec["species"]), dict(spec["closest"]))


def _seen_fault(family: str, species: Any, closest: Any) -> str | None:
    """What is wrong with what a potential says of its training frames, in words; None where it is good."""
    rows = SPECIES_TO_RADON if architecture(family) == "spookynet" else SPECIES
    if not isinstance(species, list) or not all(type(number) is int and 0 < number < rows for number in species):
        return f"species {species!r} in place of atomic numbers from 1 to {rows - 1}"
    if not isinstance(closest, dict):
        return f"closest {closest!r} in place of distances"
    pairs = {f"{one}-{other}" for one in species for other in species}
    for pair, distance in closest.items():
        if pair not in pairs or type(distance) not in (int, float) or not distance > 0:
            return f"closest {pair!r} of {distance!r} in place of a distance of two of its species"
    return None
