"""The frames that a cell trains on, is chosen by, and is tested on, as extended XYZ files for the peers' trainers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from chemscale.data.arrays import load_frames
from chemscale.grid import Cell


def write_splits(cell: Cell, data_dir: Path, folder: Path) -> None:
    """Write train.xyz (the cell's subset), validation.xyz and test.xyz; energies in eV, forces in eV/angstrom."""
    data = load_frames(data_dir / cell.data["key"])
    splits = {"train": data.subset(cell.seed, cell.num_samples)[0]}
    splits |= {name: data.split(name)[0] for name in ("validation", "test")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, index in splits.items():
        frames = []
        for row in index:
            atoms_of = slice(data.offsets[row], data.offsets[row + 1])
            atoms = Atoms(np.array(data.species[atoms_of]), np.array(data.positions[atoms_of]))
            results = {"energy": float(data.energies[row]), "forces": np.array(data.forces[atoms_of])}
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
        write(folder / f"{name}.xyz", frames, format="extxyz")
