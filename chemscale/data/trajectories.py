"""Langevin trajectories of single molecules on GFN2-xTB, split by contiguous blocks of time.

Also the entry point of the stage that makes frames: `prepare` takes either kind of data section.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.data import conformers
from chemscale.data.frames import Frames, prepare_frames
from chemscale.data.subsets import time_splits
from chemscale.errors import DataError

if TYPE_CHECKING:
    import logging

    from ase.md.langevin import Langevin

    from chemscale.data.xtb import Array, Surface


def prepare(section: dict[str, Any], folder: Path, workers: int, log: logging.Logger | None = None) -> None:
    """Write shards and manifest of a data section of kind conformers or trajectories to `folder`; the manifest last.

    The same section gives the same bytes for every number of `workers`.

    Args:
        section: the resolved data section.
        folder: the data folder; what an earlier run left there is replaced.
        workers: processes.
        log: takes a line for every molecule; by default the logger "chemscale.data".

    Raises:
        DataError: a SMILES is wrong, the settings leave a split without frames or ask for more molecules than there
            are, or more rows are rejected than the section allows.
    """
    if section["kind"] == "conformers":
        conformers.prepare(section, folder, workers, log)
        return
    time_splits(section)
    molecules = {name: _canonical(name, molecule["smiles"]) for name, molecule in sorted(section["molecules"].items())}
    tasks = [(name, smiles, section) for name, smiles in molecules.items()]
    prepare_frames(simulate, tasks, section, folder, workers, log)


def _canonical(name: str, smiles: str) -> str:
    """The canonical SMILES of a trajectory's molecule; `DataError` where it is none that `chemscale.data.xtb` takes."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None or molecule.GetNumAtoms() == 0:
        found = f"{smiles!r}, which is no SMILES"
    elif Chem.GetFormalCharge(molecule) != 0:
        found = f"{smiles!r} with charge {Chem.GetFormalCharge(molecule):+d}"
    elif any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        found = f"{smiles!r} with unpaired electrons"
    else:
        return str(Chem.MolToSmiles(molecule))
    raise DataError(f"trajectories: molecules.{name}.smiles", found, "give a neutral molecule with paired electrons")


def simulate(task: tuple[str, str, dict[str, Any]]) -> Frames:
    """The saved frames of one molecule's trajectory; a group is a block of time."""
    from chemscale.data import xtb

    name, smiles, section = task
    splits = time_splits(section)
    frames = Frames(name, smiles)
    random = xtb.random_state(section["seed"], smiles)
    try:
        surface, positions = xtb.minimum(smiles, random)
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
        frames.add(surface, np.array(dynamics.atoms.positions), group=f"{smiles}|{block}", split=split)
    return frames


def langevin(surface: Surface, positions: Array, section: dict[str, Any], random: np.random.Generator) -> Langevin:
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
