"""The molecules that frames are made of: given by SMILES, or by a structure file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chemscale.errors import DataError
from chemscale.io import regular_file, sha256_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chemscale.data.xtb import Array, Surface

_MAX_STRUCTURE_BYTES = 2**26


@dataclass(frozen=True)
class Start:
    """A molecule whose minimum frames start from: by canonical SMILES, or by numbers [A] and positions [A, 3].

    `group` is text that all its frames share: its constitution, or its name.
    """

    name: str
    smiles: str
    group: str
    numbers: NDArray[np.int64] | None = None
    positions: Array | None = None

    @property
    def key(self) -> str:
        """What, with the seed, fixes all random draws: the SMILES, or the name where there is none."""
        return self.smiles or self.name

    def minimum(self, random: np.random.Generator) -> tuple[Surface, Array]:
        """The surface and positions [A, 3] of a minimum; `chemscale.data.xtb.Failure` where none is found."""
        from chemscale.data import xtb

        if self.numbers is None or self.positions is None:
            return xtb.minimum(self.smiles, random)
        return xtb.relaxed(self.numbers, self.positions, random)


def starts(section: Mapping[str, Any]) -> list[Start]:
    """The molecules that a data section names, in the order of their names.

    Raises:
        DataError: a SMILES or a structure file is wrong.
    """
    found = []
    for name, molecule in sorted(section["molecules"].items()):
        asked = f"{section['kind']}: molecules.{name}"
        if molecule["structure"] is None:
            found.append(Start(name, *_canonical(asked, molecule["smiles"])))
        else:
            found.append(Start(name, "", name, *_structure(asked, Path(molecule["structure"]))))
    return found


def structure_digests(section: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of every structure file that a data section names, by the molecule's name."""
    files = {name: molecule["structure"] for name, molecule in (section["molecules"] or {}).items()}
    return {name: sha256_file(Path(file)) for name, file in files.items() if file is not None}


def _structure(asked: str, path: Path) -> tuple[NDArray[np.int64], Array]:
    """The last structure of a file; `DataError` where it is none that `chemscale.data.xtb` takes."""
    from ase.io import read

    asked = f"{asked}.structure {path}"
    regular_file(path, DataError, "give the path of a structure file from the folder of the run")
    if (size := path.stat().st_size) > _MAX_STRUCTURE_BYTES:
        raise DataError(asked, f"{size:,} bytes", f"give one molecule, in at most {_MAX_STRUCTURE_BYTES:,} bytes")
    try:
        atoms: Any = read(path)
    except Exception as error:
        # ASE has a reader for each of a hundred formats, and each fails in its own way
        raise DataError(asked, f"no structure that ASE reads ({type(error).__name__}: {error})", "mend it") from None
    if len(atoms) == 0:
        raise DataError(asked, "no atoms", "give a structure with atoms")
    if atoms.pbc.any():
        raise DataError(asked, "a periodic cell", "give a molecule in vacuum: without a cell")
    if atoms.numbers.sum() % 2:
        raise DataError(asked, "an odd number of electrons", "give a neutral molecule with paired electrons")
    return np.asarray(atoms.numbers, np.int64), np.asarray(atoms.positions, np.float64)


def _canonical(asked: str, smiles: str) -> tuple[str, str]:
    """The canonical SMILES with and without stereo; `DataError` where it is none that `chemscale.data.xtb` takes."""
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
        return str(Chem.MolToSmiles(molecule)), str(Chem.MolToSmiles(molecule, isomericSmiles=False))
    raise DataError(f"{asked}.smiles", found, "give a neutral molecule with paired electrons")
