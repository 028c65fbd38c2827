"""The structures that potentials are timed on: ten ethanols, ten aspirins, and a periodic box of forty waters.

Molecules are RDKit's conformers, each moved at random by 0.05 angstrom; what is learned does not matter for the time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from chemscale.data.neighbours import edge_pairs, neighbour_edges

CUTOFF = 5.0
MOLECULES = {"ethanol": "CCO", "aspirin": "CC(=O)Oc1ccccc1C(=O)O"}
FRAMES = 10
WATERS, DENSITY = 40, 0.0334  # molecules per cubic angstrom, of water at room temperature


def write(folder: Path) -> list[str]:
    """Write a file of tensors for each case, for both sides to read; the names of the cases.

    species [A], positions [A, 3], edges [2, E] (receiver, sender), shifts [E, 3], frame [A], atoms [F], forces [A, 3]
    and energies [F] to learn, cell [3, 3].
    """
    from rdkit import Chem
    from rdkit.Chem import AllChem

    random = np.random.default_rng(0)
    for name, smiles in MOLECULES.items():
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(molecule, randomSeed=0)
        AllChem.MMFFOptimizeMolecule(molecule)
        numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
        frames = molecule.GetConformer().GetPositions() + random.normal(0, 0.05, (FRAMES, len(numbers), 3))
        offsets = np.arange(FRAMES + 1) * len(numbers)
        positions = frames.reshape(-1, 3)
        edges, _ = neighbour_edges(positions, offsets, CUTOFF)
        _save(folder / f"{name}.safetensors", np.tile(numbers, FRAMES), positions, edges, None, offsets, None, random)
    positions, length = _water(random)
    edges, shifts = _periodic(positions, length)
    numbers = np.tile([8, 1, 1], WATERS)
    offsets = np.array([0, len(numbers)])
    cell = np.eye(3) * length
    _save(folder / "water_box.safetensors", numbers, positions, edges, shifts, offsets, cell, random)
    return [*MOLECULES, "water_box"]


def _water(random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Waters on a grid, each turned at random; [A, 3], and the length of the box."""
    length = (WATERS / DENSITY) ** (1 / 3)
    side = int(np.ceil(WATERS ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    shape = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms = []
    for place in grid[random.permutation(len(grid))[:WATERS]]:
        rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
        atoms.append((place + 0.5) * length / side + shape @ rotation.T)
    return np.concatenate(atoms), length


def _periodic(positions: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours in a cube, by comparing all images."""
    images = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), -1).reshape(-1, 3) * length
    vectors = positions[None, :, None] + images[None, None] - positions[:, None, None]
    distances = np.linalg.norm(vectors, axis=-1)
    receiver, sender, image = np.nonzero((distances < CUTOFF) & (distances > 0))
    return np.stack([receiver, sender]), images[image]


def _save(
    path: Path,
    numbers: np.ndarray,
    positions: np.ndarray,
    edges: np.ndarray,
    shifts: np.ndarray | None,
    offsets: np.ndarray,
    cell: np.ndarray | None,
    random: np.random.Generator,
) -> None:
    sizes = np.diff(offsets)
    images = None if shifts is None or cell is None else np.rint(shifts / cell[0, 0]).astype(np.int64)
    pair, first = edge_pairs(edges, images)
    values = {
        "species": numbers.astype(np.int64),
        "positions": positions.astype(np.float32),
        "edges": edges.astype(np.int64),
        "pair": pair,
        "first": first,
        "frame": np.repeat(np.arange(len(sizes)), sizes),
        "atoms": sizes.astype(np.int64),
        "forces": random.normal(size=positions.shape).astype(np.float32),
        "energies": random.normal(size=len(sizes)).astype(np.float32),
    }
    if shifts is not None and cell is not None:
        values |= {"shifts": shifts.astype(np.float32), "cell": cell.astype(np.float32)}
    save_file({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}, path)
