"""A trained potential as a calculator of ASE: molecules and periodic cells, energies, forces and stress."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from numpy.typing import NDArray

from chemscale.data.neighbours import edge_pairs
from chemscale.errors import InputError
from chemscale.families import FAMILIES
from chemscale.inference.potential import load
from chemscale.inference.predictor import Predictor
from chemscale.models.graph import Graph

# a neighbour list is made anew when an atom has moved by half of this, in angstrom
_SKIN = 0.5
# two atoms are far outside of what training saw where they are nearer than this share of the smallest distance there
_NEAR = 0.9


# a molecule whose atoms are farther apart, in angstrom, has flown to pieces: vesin ends the process somewhere beyond
_WIDEST = 1e5


class OutsideTraining(UserWarning):
    """Two atoms are much nearer than any of their elements in training, or something was never seen there at all."""


class ChemscaleCalculator(Calculator):
    """Energies in eV, forces in eV/angstrom and stress in eV/angstrom^3 of a trained potential.

    `outside_training` says whether the last structure is far outside of what training saw: two atoms nearer than 0.9 of
    the smallest distance of their elements there, two elements side by side that it never saw so, or a charge or
    unpaired electrons, since all frames that chemscale trains on are neutral singlets. A warning says it, too, once for
    each calculator.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (as in ASE)

    def __init__(
        self,
        folder: str | Path,
        *,
        charge: int = 0,
        spin: int = 0,
        dtype: str = "float32",
        compiled: bool = False,
        threads: int = 1,
    ) -> None:
        """Load a potential.

        Args:
            folder: of a finished cell, or of an export.
            charge: of the structure in e.
            spin: its unpaired electrons.
            dtype: float32, or float64 for vibrations and tight minima.
            compiled: use machine code, which takes half a minute to build once for each size of a model.
            threads: of the processor that machine code may use.

        Raises:
            InputError: the folder holds no potential, or the potential knows neither charge nor spin.
            RecordError: the weights are missing or changed.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        trained = load(Path(folder))
        if (charge or spin) and not FAMILIES[trained.family].electronic:
            knowing = ", ".join(name for name, family in FAMILIES.items() if family.electronic)
            raise InputError(
                f"charge {charge} and spin {spin} of a {trained.family}",
                "a model without such inputs",
                f"take {knowing}",
            )
        if dtype not in ("float32", "float64"):
            raise InputError("the dtype of a calculator", repr(dtype), "name float32 or float64")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chemscale" / "compiled"
        self._predictor = Predictor(
            trained, dtype=getattr(torch, dtype), compiled=cache if compiled else None, threads=threads
        )
        self._species = trained.species
        # how near two elements may be: a pair that training never saw, nowhere within reach
        self._limits = np.full((119, 119), self._predictor.reach)
        for pair, distance in trained.closest.items():
            one, other = map(int, pair.split("-"))
            self._limits[[one, other], [other, one]] = min(_NEAR * distance, self._predictor.reach)
        self._charge, self._spin = charge, spin
        self._list: _NeighbourList | None = None
        self.outside_training = self._warned = False

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Fill `results`; ASE calls it.

        Raises:
            InputError: an element that training never saw, a position that is no number, a periodic axis without a
                cell vector, atoms that have flown apart, or so near to each other that the energy is no number.
        """
        # where this ends with an error, no number of another structure is left
        self.results = {}
        self.outside_training = False
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        structure: Any = self.atoms
        unseen = sorted(set(structure.numbers.tolist()) - set(self._species))
        if unseen:
            raise _refusal(
                structure,
                f"{', '.join(chemical_symbols[number] for number in unseen)}, which training never saw",
                f"give a structure of {', '.join(chemical_symbols[number] for number in self._species)}",
            )
        if not np.isfinite(structure.positions).all() or not np.isfinite(structure.cell.array).all():
            raise _refusal(structure, "a position or a cell vector that is no number", "mend it")
        if self._list is None or self._list.outdated(structure):
            if np.linalg.matrix_rank(structure.cell.array[structure.pbc]) < structure.pbc.sum():
                raise _refusal(structure, "periodic axes without cell vectors of their own", "set them, or pbc=False")
            home = _cell_shifts(structure)
            if len(structure) and (width := float(np.ptp(structure.positions - home, axis=0).max())) > _WIDEST:
                raise _refusal(structure, f"atoms {width:.3g} angstrom apart", "see whether a run has blown up")
            self._list = _NeighbourList(structure, home, self._predictor.reach + _SKIN, self._limits)
        graph = self._graph(structure, self._list)
        energies, forces, of_edges = self._predictor.with_edges(graph)
        vectors, lengths = graph.vectors()
        self._look_outside(structure, self._list, lengths.numpy())
        energy = float(energies[0])
        if not np.isfinite(energy + float(forces.sum())):
            raise _refusal(structure, "no number for it", "see that atoms are not in one place")
        self.results = {"energy": energy, "free_energy": energy, "forces": forces.double().numpy()}
        if of_edges is not None and structure.cell.rank == 3:
            virial = (vectors.double().T @ of_edges.double()).numpy()
            # the antisymmetric part is what a rotation costs: nothing, but for rounding
            stress = (virial + virial.T) / (2 * structure.get_volume())
            self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]  # in Voigt's order

    def _graph(self, atoms: Any, listed: _NeighbourList) -> Graph:
        shifts = torch.from_numpy(listed.images @ atoms.cell.array) if atoms.pbc.any() else None
        count, positions = len(atoms), atoms.positions - listed.home

        def of_frame(value: int) -> torch.Tensor | None:
            return torch.tensor([value]) if self._charge or self._spin else None

        return Graph(
            torch.from_numpy(atoms.numbers.astype(np.int64)),
            # in one cell, and from the first atom on: far from the origin float32 would lose its digits
            torch.from_numpy(positions - positions[:1]),
            torch.from_numpy(listed.edges),
            torch.zeros(count, dtype=torch.int64),
            1,
            shifts,
            of_frame(self._charge),
            of_frame(self._spin),
            torch.from_numpy(listed.pair),
            torch.from_numpy(listed.first),
        )

    def _look_outside(self, atoms: Any, listed: _NeighbourList, lengths: NDArray[np.float64]) -> None:
        """Set `outside_training`, and warn the first time."""
        near = lengths < listed.limits
        charged = bool(self._charge or self._spin)
        self.outside_training = bool(near.any()) or charged
        if not self.outside_training or self._warned:
            return
        self._warned = True
        kinds = np.sort(atoms.numbers[listed.edges[:, near]], axis=0)
        found = [f"charge {self._charge} and {self._spin} unpaired electrons"] if charged else []
        found += [
            f"{chemical_symbols[low]} and {chemical_symbols[high]} "
            f"{lengths[near][(kinds[0] == low) & (kinds[1] == high)].min():.2f} angstrom apart"
            for low, high in np.unique(kinds, axis=1).T
        ]
        warnings.warn(f"far outside of the training frames: {'; '.join(found)}", OutsideTraining, stacklevel=4)


def _refusal(atoms: Any, found: str, do: str) -> InputError:
    return InputError(f"the energy of {atoms.get_chemical_formula()}", found, do)


def _cell_shifts(atoms: Any) -> NDArray[np.float64]:
    """What an atom is away from its place in the cell, by whole vectors of the periodic axes [A, 3]."""
    cell = complete_cell(atoms.cell.array)  # type: ignore[no-untyped-call]
    turns = np.floor(np.linalg.solve(cell.T, atoms.positions.T).T)
    shifts: NDArray[np.float64] = (turns * atoms.pbc) @ cell
    return shifts


class _NeighbourList:
    """Edges within a reach, which stay good until an atom has moved by half of the skin; how near each may be.

    `home` takes each atom into the cell: images are counted from there.
    """

    def __init__(self, atoms: Any, home: NDArray[np.float64], reach: float, limits: NDArray[np.float64]) -> None:
        import vesin

        self.home = home
        self._positions, self._cell = atoms.positions.copy(), atoms.cell.array.copy()
        self._numbers, self._pbc = atoms.numbers.copy(), atoms.pbc.copy()
        finder = vesin.NeighborList(cutoff=reach, full_list=True, sorted=True, n_threads=1)
        receiver, sender, images = finder.compute(
            points=self._positions - home, box=self._cell, periodic=self._pbc, quantities="ijS"
        )
        self.edges: NDArray[np.int64] = np.stack([receiver, sender]).astype(np.int64)
        self.images: NDArray[np.int64] = images.astype(np.int64).reshape(-1, 3)
        self.pair, self.first = edge_pairs(self.edges, self.images)
        self.limits: NDArray[np.float64] = limits[tuple(self._numbers[self.edges])]

    def outdated(self, atoms: Any) -> bool:
        """Whether the structure is another one, or moved too far."""
        if len(atoms) != len(self._positions) or (atoms.numbers != self._numbers).any():
            return True
        if (atoms.pbc != self._pbc).any() or (atoms.cell.array != self._cell).any():
            return True
        moved = np.square(atoms.positions - self._positions).sum(1).max(initial=0.0)
        return bool(moved > (_SKIN / 2) ** 2)
