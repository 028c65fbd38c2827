"""A finished potential cell, or a folder that it was exported to, as a model to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chemscale.errors import InputError, RecordError
from chemscale.families import FAMILIES, POTENTIALS
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
        RecordError: the weights are missing or changed, or not of the model that stands beside them.
    """
    for place in (folder, folder / "checkpoint"):
        if (place / weights.SPEC).is_file():
            state, spec = weights.load(place)
            break
    else:
        raise InputError(f"load a potential from {folder}", f"no {weights.SPEC}", "name a finished cell or an export")
    if spec.get("family") not in FAMILIES or FAMILIES[spec["family"]].domain != POTENTIALS:
        raise InputError(f"load a potential from {folder}", f"weights of {spec.get('family')}", "name a potential")
    try:
        core = registry.build(spec["family"], spec["knobs"], seed=0)
        potential = Potential(core, torch.zeros_like(state["reference"]), 1.0)
        potential.load_state_dict(state)
        species, closest = tuple(spec["species"]), dict(spec["closest"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise RecordError(
            f"load a potential from {place}", f"a {weights.SPEC} that its weights are not of", "train the cell again"
        ) from error
    return TrainedPotential(potential.eval(), spec["family"], spec["knobs"], species, closest)
