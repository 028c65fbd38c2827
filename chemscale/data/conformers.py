"""Conformers of many small molecules by normal-mode sampling on GFN2-xTB.

A frame is a molecule's minimum displaced along its normal modes, each by an amplitude drawn from the classical
Boltzmann distribution of the harmonic surface; energy and forces are those of the true surface. The modes come from a
Hessian by central differences of forces, translations and rotations projected out. What the harmonic picture cannot
say is cut: a mode softer than 200 cm^-1 (turning groups), or imaginary, is sampled as if it had 200 cm^-1, and no
amplitude exceeds three standard deviations. All draws of a molecule follow from the seed and its SMILES alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.data.frames import Frames
from chemscale.data.starts import Start, starts
from chemscale.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from chemscale.data.xtb import Surface

    Array = NDArray[np.float64]

# step of the central differences, in angstrom: noise of the forces and third derivatives both stay below 0.02
# eV/angstrom^2, where a bond has 30
_STEP = 0.02
_SOFTEST = 200.0  # cm^-1
_LARGEST_AMPLITUDE = 3.0  # standard deviations
# a molecule is linear where its extent across its axis is below this share of that along it
_LINEAR = 0.02
_BOLTZMANN = 8.617333262e-5  # eV/K, CODATA 2018
# cm^-1 of sqrt(eV / (angstrom^2 u)), CODATA 2018
_WAVENUMBER = 521.4708983725064


def tasks(section: Mapping[str, Any], compounds: Iterable[tuple[int, str]]) -> list[tuple[Start, Mapping[str, Any]]]:
    """What `sample` takes, for every molecule that a data section of kind conformers names or chooses.

    Raises:
        DataError: a SMILES or a structure file is wrong, or there are fewer molecules than asked for.
    """
    if section["molecules"] is not None:
        return [(start, section) for start in starts(section)]
    return [(start, section) for start in choose(section, compounds)]


def choose(section: Mapping[str, Any], compounds: Iterable[tuple[int, str]]) -> list[Start]:
    """The first `num_molecules` fitting molecules by PubChem's CID, one of each constitution.

    Fitting is a neutral single fragment without isotopes or unpaired electrons, of the section's elements (H counts)
    and number of heavy atoms. Charges within a neutral molecule (nitro groups, azides) are fine.

    Args:
        section: elements, min_heavy_atoms, max_heavy_atoms, num_molecules, exclude.
        compounds: CID and SMILES, in any order.

    Raises:
        DataError: there are fewer, or an excluded SMILES is none.
    """
    from rdkit import Chem, rdBase

    excluded = set()
    with rdBase.BlockLogs():
        for smiles in section["exclude"]:
            molecule = Chem.MolFromSmiles(smiles)
            if molecule is None:
                raise DataError("conformers: exclude", f"{smiles!r}, which is no SMILES", "give SMILES of molecules")
            excluded.add(Chem.MolToSmiles(molecule, isomericSmiles=False))

    allowed, largest = set(section["elements"]), section["max_heavy_atoms"]
    wanted = section["num_molecules"]
    chosen: dict[str, Start] = {}
    with rdBase.BlockLogs():
        for _, smiles in sorted(compounds):
            # an element has one capital letter: cheaply, most of the table is too large
            if "." in smiles or len(re.findall("[A-GI-Z]", smiles)) > largest:
                continue
            molecule = Chem.MolFromSmiles(smiles)
            if molecule is None or not section["min_heavy_atoms"] <= molecule.GetNumHeavyAtoms() <= largest:
                continue
            atoms = list(Chem.AddHs(molecule).GetAtoms())
            if (
                not allowed.issuperset(atom.GetSymbol() for atom in atoms)
                or any(atom.GetIsotope() or atom.GetNumRadicalElectrons() for atom in atoms)
                or Chem.GetFormalCharge(molecule) != 0
            ):
                continue
            constitution = Chem.MolToSmiles(molecule, isomericSmiles=False)
            if constitution not in chosen and constitution not in excluded:
                canonical = Chem.MolToSmiles(molecule)
                chosen[constitution] = Start(canonical, canonical, constitution)
            if len(chosen) == wanted:
                return list(chosen.values())
    raise DataError(
        f"conformers: num_molecules {wanted:,} of {', '.join(section['elements'])} "
        f"with {section['min_heavy_atoms']} to {largest} heavy atoms",
        f"{len(chosen):,} in the source",
        "lower num_molecules or raise max_heavy_atoms",
    )


def sample(task: tuple[Start, Mapping[str, Any]]) -> Frames:
    """The frames of one molecule, every frame one group: that of the molecule's constitution."""
    from ase.data import atomic_masses

    from chemscale.data import xtb

    start, section = task
    frames = Frames(start.name, start.smiles)
    count = section["frames_per_molecule"]
    random = xtb.random_state(section["seed"], start.key)
    try:
        surface, positions = start.minimum(random)
        hessian = numerical_hessian(surface, positions)
        # the minimum's charges, not those of the last displacement, start every frame's
        surface.energy_and_forces(positions)
    except xtb.Failure as failure:
        frames.reject(failure.reason, count)
        return frames
    wavenumbers, modes = normal_modes(hessian, positions, atomic_masses[surface.numbers])
    for displacement in draw_displacements(wavenumbers, modes, section["temperature"], count, random):
        frames.add(surface, positions + displacement, group=start.group, split=None)
    return frames


def numerical_hessian(surface: Surface, positions: Array) -> Array:
    """Second derivatives [3A, 3A] in eV/angstrom^2 by central differences of forces, made symmetric."""
    flat = positions.ravel()
    rows = []
    for component in range(len(flat)):
        forces = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[component] += sign * _STEP
            forces.append(surface.energy_and_forces(moved.reshape(-1, 3))[1].ravel())
        rows.append((forces[1] - forces[0]) / (2 * _STEP))
    hessian: Array = np.array(rows)
    return (hessian + hessian.T) / 2


def normal_modes(hessian: Array, positions: Array, masses: Array) -> tuple[Array, Array]:
    """Wavenumbers [M] in cm^-1, imaginary ones negative, and modes [M, A, 3] of a molecule without its rigid motions.

    M is 3A - 6, or 3A - 5 for a linear molecule. A mode is the displacement in angstrom by an amplitude of one
    angstrom sqrt(u) in mass-weighted coordinates. `masses` [A] are in u.
    """
    roots = np.sqrt(np.repeat(masses, 3))
    centred = positions - np.average(positions, axis=0, weights=masses)
    axes = np.eye(3)
    rotations = np.array([np.cross(axis, centred).ravel() * roots for axis in axes])
    translations = np.array([np.tile(axis, len(masses)) * roots for axis in axes])
    # about its own axis a linear molecule does not turn
    _, extents, turns = np.linalg.svd(rotations, full_matrices=False)
    turns = turns[extents > _LINEAR * extents[0]]
    rigid = np.concatenate([translations / np.linalg.norm(translations, axis=1, keepdims=True), turns])
    # an orthonormal basis of all other motions: the rows after those that span the rigid ones
    rest = np.linalg.svd(rigid, full_matrices=True)[2][len(rigid) :]
    squares, vectors = np.linalg.eigh(rest @ (hessian / np.outer(roots, roots)) @ rest.T)
    wavenumbers = np.sign(squares) * np.sqrt(np.abs(squares)) * _WAVENUMBER
    return wavenumbers, ((vectors.T @ rest) / roots).reshape(len(squares), -1, 3)


def draw_displacements(
    wavenumbers: Array, modes: Array, temperature: float, count: int, random: np.random.Generator
) -> Array:
    """Displacements [count, A, 3] in angstrom along modes [M, A, 3], drawn at a temperature in kelvin.

    Soft and imaginary modes count as 200 cm^-1; amplitudes beyond three standard deviations become three.
    """
    frequencies = np.maximum(wavenumbers, _SOFTEST) / _WAVENUMBER
    spread = np.sqrt(_BOLTZMANN * temperature) / frequencies
    draws = random.standard_normal((count, len(wavenumbers)))
    amplitudes = np.clip(draws, -_LARGEST_AMPLITUDE, _LARGEST_AMPLITUDE) * spread
    displacements: Array = np.einsum("cm,mad->cad", amplitudes, modes)
    return displacements
