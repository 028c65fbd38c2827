"""GFN2-xTB by tblite: the energy surface that frames are made on, and the way from a SMILES to its minimum.

Energies are eV, lengths angstrom, forces eV/angstrom. All molecules are neutral singlets in vacuum. Compute in a
process whose OMP_NUM_THREADS is 1 (see `chemscale.data.pool`): with more threads tblite's results have other bits.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator as Method
from tblite.interface import Result

from chemscale.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV

Array = NDArray[np.float64]

METHOD = "GFN2-xTB"
# tblite's scale of all its convergence thresholds. Of ethanol's forces 0.1 leaves 4e-5 eV/angstrom, 1 (the default)
# 3e-4, 10 3e-3, for 0.70, 0.65 and 0.55 ms a call: coarser saves less than it costs
ACCURACY = 0.1
# a minimum: no force above this
_MINIMUM_FORCE = 0.02
_MINIMUM_STEPS = 400
# spread of the random push off the symmetric, often stationary geometry that a force field leaves
_PUSH = 0.03
_EMBEDDING_TRIES = 50


class Failure(Exception):  # noqa: N818 (an outcome that is counted, not an error of the program)
    """A molecule or frame that cannot be made; `reason` is what the manifest counts it under."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Surface:
    """The energy surface of one molecule.

    Each calculation starts from the charges of the one before, so that results depend on the order of calls below the
    convergence threshold (1e-9 eV, 1e-4 eV/angstrom): the same calls in the same order give the same bits.
    """

    def __init__(self, numbers: NDArray[np.int64], accuracy: float = ACCURACY) -> None:
        self.numbers = numbers
        self._accuracy = accuracy
        self._method: Method | None = None
        self._last: Result | None = None

    def energy_and_forces(self, positions: Array) -> tuple[float, Array]:
        """Energy in eV and forces [A, 3] in eV/angstrom at positions [A, 3].

        Raises:
            Failure: scf_failed, where the charges do not converge or two atoms coincide.
        """
        bohr = positions / BOHR_TO_ANGSTROM
        try:
            if self._method is None:
                self._method = Method(METHOD, self.numbers, bohr)
                self._method.set("verbosity", 0)
                self._method.set("accuracy", self._accuracy)
            else:
                self._method.update(positions=bohr)
            self._last = self._method.singlepoint(self._last)
            energy = float(self._last.get("energy")) * HARTREE_TO_EV
            forces: Array = -self._last.get("gradient") * (HARTREE_TO_EV / BOHR_TO_ANGSTROM)
        except TBLiteRuntimeError:
            # the next geometry must not start from what failed here
            self._last = None
            raise Failure("scf_failed") from None
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            self._last = None
            raise Failure("scf_failed")
        return energy, forces


class SurfaceCalculator(Calculator):
    """A `Surface` as ASE's optimisers and dynamics want it; a quarter faster than tblite's, which fetches more."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE declares it a list)

    def __init__(self, surface: Surface) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._surface = surface

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: list[str] = all_changes
    ) -> None:
        """Fill `results` with the energy in eV and the forces in eV/angstrom of `atoms`."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None
        energy, forces = self._surface.energy_and_forces(self.atoms.positions)
        self.results = {"energy": energy, "forces": forces}


def random_state(*parts: object) -> np.random.Generator:
    """A random generator fixed by `parts` alone, such as a seed and a molecule."""
    key = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(key, "little"))


def minimum(smiles: str, random: np.random.Generator) -> tuple[Surface, Array]:
    """A minimum of a molecule's surface, near the first geometry that RDKit finds: the surface and positions [A, 3].

    RDKit embeds the molecule (ETKDG) and relaxes it in a force field (MMFF94, else UFF), which saves half of the steps
    after it; then BFGS on GFN2-xTB until no force exceeds 0.02 eV/angstrom.

    Raises:
        Failure: embedding_failed, not_converged or scf_failed.
    """
    return relaxed(*embed(smiles, int(random.integers(2**31))), random)


def relaxed(numbers: NDArray[np.int64], positions: Array, random: np.random.Generator) -> tuple[Surface, Array]:
    """A minimum near `positions` [A, 3]: BFGS until no force exceeds 0.02 eV/angstrom; the surface and positions.

    Raises:
        Failure: not_converged or scf_failed.
    """
    surface = Surface(numbers)
    atoms = Atoms(numbers, positions + random.normal(0, _PUSH, positions.shape))
    atoms.calc = SurfaceCalculator(surface)
    optimiser: Any = BFGS(atoms, logfile=None)
    if not optimiser.run(fmax=_MINIMUM_FORCE, steps=_MINIMUM_STEPS):
        raise Failure("not_converged")
    return surface, np.array(atoms.positions)


def embed(smiles: str, seed: int) -> tuple[NDArray[np.int64], Array]:
    """Atomic numbers [A] and force-field positions [A, 3] of a molecule, hydrogens included."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    settings.maxIterations = _EMBEDDING_TRIES
    if rdDistGeom.EmbedMolecule(molecule, settings) != 0:
        # strained cages embed from random coordinates where the distance matrix's eigenvectors fail
        settings.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(molecule, settings) != 0:
            raise Failure("embedding_failed")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=2000)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=2000)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    return numbers, np.array(molecule.GetConformer().GetPositions())


def source_record() -> dict[str, str | None]:
    """The `source` of a manifest of frames: what made them, in which version, and what to cite."""
    parts = [f"{name} {version(name)}" for name in ("tblite", "ase", "rdkit", "numpy")]
    return {
        "name": "xtb",
        "version": f"{METHOD}, accuracy {ACCURACY:g}; {', '.join(parts)}",
        "sha256": None,
        "licence": "computed here; tblite is LGPL-3.0-or-later",
        "citation": "Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176",
    }
