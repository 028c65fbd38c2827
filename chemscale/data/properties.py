"""Electronic properties of small molecules by GFN2-xTB: what a probe of a language model predicts.

Each molecule has one conformer, RDKit's (ETKDG, relaxed by MMFF94 or else UFF), and one calculation on it, as a neutral
singlet in vacuum. The gap is that between the orbital energies of the highest occupied and the lowest unoccupied
orbital. So the values belong to the method and to that conformer: a probe learns them, not an experiment's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from chemscale.data.constitution import constitution, parent_smiles, quiet, scaffold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# for which the force fields have parameters and GFN2-xTB was fitted with many molecules
ELEMENTS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Br", "I")


@dataclass(frozen=True)
class Candidate:
    """A molecule of the data: row digest, SMILES, SELFIES, and its cluster: the scaffold, or without one itself."""

    row: str
    smiles: str
    selfies: str
    cluster: str


@dataclass(frozen=True)
class Outcome:
    """A molecule with its gap in eV and its dipole moment in debye; or the reason why it has none."""

    candidate: Candidate
    gap: float | None
    dipole: float | None
    rejected: str | None

    def to_row(self) -> dict[str, Any]:
        """The outcome as a row of a table."""
        return {**asdict(self.candidate), "gap": self.gap, "dipole": self.dipole}


def candidates(rows: Iterable[Mapping[str, str]], largest: int) -> Iterable[Candidate]:
    """The molecules among rows (row, smiles, selfies) that xTB takes, one of each constitution, in their order.

    A single neutral fragment of `ELEMENTS` with paired electrons, at least two and at most `largest` heavy atoms.
    """
    from rdkit import Chem

    quiet()
    seen = set()
    for row in rows:
        if not may_fit(row["smiles"], largest):
            continue
        molecule = Chem.MolFromSmiles(row["smiles"])
        if not 2 <= molecule.GetNumHeavyAtoms() <= largest or Chem.GetFormalCharge(molecule) != 0:
            continue
        if any(atom.GetSymbol() not in ELEMENTS or atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
            continue
        shared = constitution(molecule)
        if shared not in seen:
            seen.add(shared)
            parent = parent_smiles(molecule)
            yield Candidate(row["row"], row["smiles"], row["selfies"], scaffold(parent) or parent)


def may_fit(smiles: str, largest: int) -> bool:
    """Whether a molecule may be a single fragment of so few heavy atoms: cheaply, most of a table is not."""
    # an element has one capital letter, and an aromatic atom a small one of its own
    return "." not in smiles and len(re.findall("[A-GI-Z]", smiles)) <= largest


def compute(task: tuple[list[Candidate], int]) -> list[Outcome]:
    """The properties of molecules, in their order; the task is the molecules and the seed of their conformers."""
    from chemscale.data import xtb

    molecules, seed = task
    found = []
    for molecule in molecules:
        try:
            start = int(xtb.random_state(seed, molecule.smiles).integers(2**31))
            gap, dipole = gap_and_dipole(*xtb.embed(molecule.smiles, start))
            found.append(Outcome(molecule, gap, dipole, None))
        except xtb.Failure as failure:
            found.append(Outcome(molecule, None, None, failure.reason))
    return found


def gap_and_dipole(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> tuple[float, float]:
    """The HOMO-LUMO gap in eV and the dipole moment in debye of a neutral singlet at positions [A, 3] in angstrom.

    Raises:
        chemscale.data.xtb.Failure: scf_failed, or no_empty_orbital.
    """
    import numpy as np
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    from chemscale.data import xtb
    from chemscale.units import ATOMIC_DIPOLE_TO_DEBYE, BOHR_TO_ANGSTROM, HARTREE_TO_EV

    try:
        method = Calculator(xtb.METHOD, numbers, positions / BOHR_TO_ANGSTROM)
        method.set("verbosity", 0)
        method.set("accuracy", xtb.ACCURACY)
        found = method.singlepoint()
        energies, occupations = found.get("orbital-energies"), found.get("orbital-occupations")
        dipole = float(np.linalg.norm(found.get("dipole"))) * ATOMIC_DIPOLE_TO_DEBYE
    except TBLiteRuntimeError:
        raise xtb.Failure("scf_failed") from None
    # at the method's electronic temperature occupations are broken numbers; their sum is that of the electrons
    pairs = round(float(occupations.sum()) / 2)
    if pairs >= len(energies):
        raise xtb.Failure("no_empty_orbital")
    gap = float(energies[pairs] - energies[pairs - 1]) * HARTREE_TO_EV
    if not (np.isfinite(gap) and np.isfinite(dipole)):
        raise xtb.Failure("scf_failed")
    return gap, dipole
