"""A check that structures are in the units that their file is said to have."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque

import numpy as np
from ase.data import covalent_radii

from chemscale.data.structures import Structure


class UnitCheck:
    """Looks for wrong units in structures that are added one by one; its memory does not grow with their number.

    Three signs, none of which needs the method or the zero of the energies:

    - forces of molecules at room temperature or somewhat above have a root mean square of 0.4 (near a minimum) to 2
      eV/angstrom (ANI-1x) per component; outside of 0.15 to 6 the unit is doubted;
    - an atom's nearest neighbour is near the sum of covalent radii; the median of the ratio is 0.94 to 1.01 in thermal
      molecules and doubted outside of 0.75 to 1.4;
    - between two frames of one molecule, turned onto each other, whose atoms are all within 0.3 angstrom, the energy
      changes by the work of the mean force, to 15 % in anharmonic frames at 1,000 K. Other ratios than 0.72 to 1.4 mean
      that energies and forces have different units; work of the other sign, that gradients stand for forces.

    The first catches a factor on energies and forces alike, the second one on lengths, the third one on energies or
    forces alone. The last two look at the first frames of up to 500 atoms: 200 of every molecule and 5,000 in all. With
    less than ten pairs of near frames, or where energies do not follow the work at all, the third says nothing.
    """

    _FORCES = (0.15, 6.0)
    _NEAREST = (0.75, 1.4)
    _RATIO = (0.72, 1.4)
    _NEAR = 0.3
    _CORRELATION = 0.8
    _FEWEST = 10
    _FRAMES, _FRAMES_PER_MOLECULE, _EARLIER = 5000, 200, 20
    _MOST_ATOMS = 500  # all pairs of atoms are looked at

    def __init__(self) -> None:
        self._squares, self._components, self._frames = 0.0, 0, 0
        self._seen: Counter[tuple[str, bytes]] = Counter()
        self._nearest: list[float] = []
        self._earlier: defaultdict[tuple[str, bytes], deque[Structure]] = defaultdict(
            lambda: deque(maxlen=self._EARLIER)
        )
        self._pairs: list[tuple[float, float]] = []

    def add(self, structure: Structure) -> None:
        """Take a structure into account."""
        self._squares += float((structure.forces**2).sum())
        self._components += structure.forces.size
        molecule = (structure.molecule, structure.numbers.tobytes())
        if (
            not 2 <= len(structure.numbers) <= self._MOST_ATOMS
            or self._frames == self._FRAMES
            or self._seen[molecule] == self._FRAMES_PER_MOLECULE
        ):
            return
        self._frames += 1
        self._seen[molecule] += 1
        self._nearest.append(_nearest(structure))
        if self._earlier[molecule] and (pair := _work(structure, list(self._earlier[molecule]), self._NEAR)):
            self._pairs.append(pair)
        self._earlier[molecule].append(structure)

    def warnings(self) -> list[str]:
        """A sentence for every sign of a wrong unit; none where the units are plausible, or nothing was added."""
        found = []
        size = math.sqrt(self._squares / self._components) if self._components else None
        if size is not None and not self._FORCES[0] < size < self._FORCES[1]:
            found.append(
                f"forces have a root mean square of {size:.3g} eV/angstrom, of molecules near room temperature about 1"
                f"{_factors(size)}: check energy_unit, unless the frames are optimised or very hot"
            )
        nearest = float(np.median(self._nearest)) if self._nearest else None
        if nearest is not None and not self._NEAREST[0] < nearest < self._NEAREST[1]:
            found.append(
                f"nearest atoms are {nearest:.3g} times the sum of their covalent radii apart{_factors(nearest)}: "
                "check length_unit"
            )
        changes, works = np.array(self._pairs).reshape(-1, 2).T
        scale = math.sqrt(float(changes @ changes) * float(works @ works))
        if len(self._pairs) < self._FEWEST or scale == 0:
            return found
        correlation = float(changes @ works) / scale
        ratio = math.sqrt(float(changes @ changes) / float(works @ works))
        if correlation < -self._CORRELATION:
            found.append("energies fall against the forces: the forces are gradients, of the other sign")
        if abs(correlation) > self._CORRELATION and not self._RATIO[0] < ratio < self._RATIO[1]:
            found.append(
                f"between near frames energies change by {ratio:.3g} times the work of the forces{_factors(ratio)}: "
                "energies and forces have different units"
            )
        return found


def _nearest(structure: Structure) -> float:
    """The median over atoms of the distance to the nearest one, in sums of covalent radii."""
    apart = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=-1)
    radii = covalent_radii[structure.numbers]
    ratios = apart / (radii[:, None] + radii[None])
    np.fill_diagonal(ratios, np.inf)
    return float(np.median(ratios.min(axis=1)))


def _work(structure: Structure, earlier: list[Structure], near: float) -> tuple[float, float] | None:
    """The change of energy from the nearest earlier frame, and minus the mean forces times the displacements, in eV.

    None where in every earlier frame some atom is `near` or more away, after the frame was turned onto it.
    """
    there = np.array([other.positions for other in earlier])
    there = there - there.mean(axis=1, keepdims=True)
    here = structure.positions - structure.positions.mean(axis=0)
    # the rotation of least squares (Kabsch), without reflection
    left, _, right = np.linalg.svd(np.einsum("ai,kaj->kij", here, there))
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    turns = left @ right
    moved = here @ turns - there
    largest = np.linalg.norm(moved, axis=2).max(axis=1)
    best = int(largest.argmin())
    if largest[best] >= near:
        return None
    mean = (structure.forces @ turns[best] + earlier[best].forces) / 2
    return structure.energy - earlier[best].energy, -float((mean * moved[best]).sum())


_CONFUSED = {
    23.06: "eV and kcal/mol",
    27.21: "hartree and eV",
    627.5: "hartree and kcal/mol",
    96.49: "eV and kJ/mol",
    1000.0: "eV and meV",
    1.890: "angstrom and bohr",
    51.42: "hartree/bohr and eV/angstrom",
}


def _factors(ratio: float) -> str:
    """The conversions that a ratio, or its inverse, is within a third of."""
    if ratio == 0:
        return ""
    near = [
        f"{factor:g} between {units}"
        for factor, units in _CONFUSED.items()
        if abs(abs(math.log(ratio)) - math.log(factor)) < math.log(4 / 3)
    ]
    return f" (compare {', '.join(near)})" if near else ""
