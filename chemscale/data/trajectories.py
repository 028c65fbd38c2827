"""Langevin trajectories of single molecules on GFN2-xTB, split by contiguous blocks of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.data.frames import Frames
from chemscale.data.starts import Start, starts
from chemscale.data.subsets import time_splits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase.md.langevin import Langevin

    from chemscale.data.xtb import Array, Surface


def tasks(section: Mapping[str, Any]) -> list[tuple[Start, Mapping[str, Any]]]:
    """What `simulate` takes, for every molecule of a data section of kind trajectories.

    Raises:
        DataError: a SMILES or a structure file is wrong, or the settings leave a split without frames.
    """
    time_splits(section, section["frames_per_molecule"])
    return [(start, section) for start in starts(section)]


def simulate(task: tuple[Start, Mapping[str, Any]]) -> Frames:
    """The saved frames of one molecule's trajectory; a group is a block of time."""
    from chemscale.data import xtb

    start, section = task
    splits = time_splits(section, section["frames_per_molecule"])
    frames = Frames(start.name, start.smiles)
    random = xtb.random_state(section["seed"], start.key)
    try:
        surface, positions = start.minimum(random)
        dynamics: Any = langevin(surface, positions, section, random)
        dynamics.run(section["equilibration_steps"])
    except xtb.Failure as failure:
        frames.reject(failure.reason, len(splits))
        return frames
    for done, (block, split) in enumerate(splits):
        try:
            dynamics.run(section["save_every"])
        except xtb.Failure as failure:
            # the molecule has left the surface: there is nothing after this
            frames.reject(failure.reason, len(splits) - done)
            break
        frames.add(surface, np.array(dynamics.atoms.positions), group=f"{start.name}|{block}", split=split)
    return frames


def langevin(surface: Surface, positions: Array, section: Mapping[str, Any], random: np.random.Generator) -> Langevin:
    """Langevin dynamics from `positions` [A, 3] with momenta of its temperature.

    Of the section it reads temperature (K), timestep (fs) and friction (1/fs). The centre of mass takes part
    (`fixcm=False`): ASE's correction that holds it overheats small molecules by a quarter.
    """
    from ase import Atoms, units
    from ase.md.langevin import Langevin

    from chemscale.data.xtb import SurfaceCalculator

    atoms: Any = Atoms(surface.numbers, positions)
    atoms.calc = SurfaceCalculator(surface)
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(random.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * section["temperature"]))
    return Langevin(
        atoms,
        section["timestep"] * units.fs,
        temperature_K=section["temperature"],
        friction=section["friction"] / units.fs,
        fixcm=False,
        rng=random,
        logfile=None,
    )
