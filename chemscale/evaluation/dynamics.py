"""Molecular dynamics on a trained potential: how long molecules hold, how well energy is kept, where atoms are.

After Fu et al. (Forces are not enough, 2023, arXiv 2210.07237): replicas of a molecule start from frames of a reference
trajectory and run at its temperature; one is over when a bond is more than 0.5 angstrom off its mean length there. All
replicas of a molecule are one batch of frames. What is kept are raw values: times, energies, counts of distances;
`chemscale.evaluation.stability` makes numbers of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, covalent_radii
from ase.units import fs, kB
from numpy.typing import NDArray
from torch import Tensor

from chemscale.data.neighbours import edge_pairs, neighbour_edges
from chemscale.data.shards import stream
from chemscale.errors import DataError
from chemscale.evaluation.stability import BIN, LARGEST_STRAIN
from chemscale.models.graph import Graph
from chemscale.units import MEV_PER_EV

Array = NDArray[np.float64]
# total energies in eV [F] and forces in eV/angstrom [A, 3] of a graph
Predict = Callable[[Graph], tuple[Tensor, Tensor]]

# two atoms are bonded that are closer, in the mean, than this many times the sum of their covalent radii
_BONDED = 1.25
# a neighbour list is made anew when an atom has moved by half of this, in angstrom
_SKIN = 1.0
# femtoseconds between two looks at the bonds, at the distances, and at the energy
_LOOK, _SAMPLE = 5.0, 20.0
_ENERGIES = 200  # the most total energies that are kept of a replica
_FRAMES = 1000  # of a reference trajectory that are measured at a time


@dataclass(frozen=True)
class Reference:
    """A molecule's reference trajectory: atomic numbers [A], positions [F, A, 3] in angstrom, and which are of test."""

    molecule: str
    species: NDArray[np.uint8]
    positions: Array
    of_test: NDArray[np.bool_]

    def starts(self, replicas: int) -> Array:
        """So many test frames, evenly spread over them [R, A, 3]."""
        frames = self.positions[self.of_test]
        if len(frames) < replicas:
            raise DataError(
                f"start {replicas} replicas of {self.molecule}",
                f"{len(frames)} test frames",
                "ask for fewer, or make the trajectory longer",
            )
        return frames[np.linspace(0, len(frames) - 1, replicas).round().astype(np.int64)]

    def bonds(self) -> tuple[NDArray[np.int64], Array]:
        """The bonded pairs [2, B], and their mean lengths [B] in angstrom; `DataError` where there is none."""
        one, other = np.triu_indices(len(self.species), 1)
        lengths = sum(distances.sum(0) for distances in _distances(self.positions)) / len(self.positions)
        radii = covalent_radii[self.species]
        bonded = lengths < _BONDED * (radii[one] + radii[other])
        if not bonded.any():
            raise DataError(f"simulate {self.molecule}", "no two atoms of it bonded", "name molecules with a bond")
        return np.stack([one[bonded], other[bonded]]), lengths[bonded]

    def bins(self) -> int:
        """The number of bins of distances; the last one has what is beyond."""
        spans = np.ptp(self.positions, axis=1)
        return int(np.ceil(float(np.linalg.norm(spans, axis=1).max()) / BIN)) + 1


def references(folder: Path, molecules: list[str] | None) -> Iterator[Reference]:
    """The trajectories of the molecules named, or of all, that a data folder holds, by name; one at a time in memory.

    Raises:
        DataError: it does not hold one of them, or a molecule's frames differ in their atoms.
    """
    held = {name for table in stream(folder, ["molecule"]) for name in table["molecule"].unique().to_pylist()}
    if missing := sorted(set(molecules or []) - held):
        raise DataError(
            f"simulate {', '.join(missing)}", f"no frame of it in {folder}", "name molecules of that data set"
        )
    for molecule in sorted(held if molecules is None else set(molecules)):
        yield _reference(folder, molecule)


def _reference(folder: Path, molecule: str) -> Reference:
    """The trajectory of one molecule that a data folder holds."""
    import pyarrow.compute as pc

    frames, splits, positions, atoms = [], [], [], set()
    for table in stream(folder, ["molecule", "frame", "split", "species", "positions"]):
        mine = table.filter(pc.equal(table["molecule"], molecule))
        frames += mine["frame"].to_pylist()
        splits += mine["split"].to_pylist()
        atoms |= {bytes(species) for species in mine["species"].to_pylist()}
        positions.append(pc.list_flatten(mine["positions"]).to_numpy())
    if len(atoms) > 1:
        raise DataError(
            f"the trajectory of {molecule} in {folder}", "frames of different atoms", "name a single molecule"
        )
    species = np.frombuffer(atoms.pop(), np.uint8)
    order = np.argsort(frames, kind="stable")
    return Reference(
        molecule,
        species,
        np.concatenate(positions).reshape(len(frames), len(species), 3)[order],
        np.array(splits)[order] == "test",
    )


def evaluate(predict: Predict, reach: float, folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """The raw record of a potential's dynamics, the same bits in each run; and its steps per second at a thermostat.

    Args:
        predict: the potential.
        reach: how far its neighbour lists have to go, in angstrom.
        folder: the data folder of the reference trajectories.
        settings: the config's `dynamics`.
    """
    record: dict[str, Any] = {"data": folder.name, "bin": BIN, "molecules": {}}
    seconds, done = 0.0, 0
    for number, reference in enumerate(references(folder, settings["molecules"])):
        generator = torch.Generator().manual_seed(settings["seed"] * 1000 + number)
        replicas = _Replicas(predict, reach, reference, settings["replicas"], settings["temperature"], generator)
        begun = time.monotonic()
        thermostat = _run_thermostat(replicas, settings)
        seconds += time.monotonic() - begun
        done += thermostat["steps"]
        free = None if settings["nve_ps"] is None else _run_free(replicas, settings)
        distances = _counts_of_reference(reference)
        record["molecules"][reference.molecule] = {**thermostat, "free": free, "reference_distances": distances}
    return record, done / seconds


def steps(settings: Mapping[str, Any]) -> int:
    """The most steps that the dynamics of a molecule takes."""
    free = (settings["nve_ps"] or 0.0) / settings["nve_timestep_fs"]
    return int(1000 * (settings["nvt_ps"] / settings["nvt_timestep_fs"] + free))


class _Replicas:
    """Copies of a molecule that move side by side; those that are over stand still, so that they harm no other."""

    def __init__(
        self,
        predict: Predict,
        reach: float,
        reference: Reference,
        replicas: int,
        temperature: float,
        generator: torch.Generator,
    ) -> None:
        self._predict, self._reach, self._generator = predict, reach, generator
        self.atoms, self.count, self._temperature = len(reference.species), replicas, temperature
        self._starts = torch.from_numpy(reference.starts(replicas))
        self._species = torch.from_numpy(reference.species.astype(np.int64)).repeat(replicas)
        self._frame = torch.arange(replicas).repeat_interleave(self.atoms)
        self._masses = torch.from_numpy(atomic_masses[reference.species])[None, :, None]
        bonds, self._lengths = map(torch.from_numpy, reference.bonds())
        self._one, self._other = bonds
        self._bins = reference.bins()
        self._pairs = torch.triu_indices(self.atoms, self.atoms, 1)
        self.begin()

    def begin(self) -> None:
        """Go back to the start, with new velocities of the temperature; the centre of mass rests."""
        self.positions = self._starts.clone()  # [R, A, 3]
        self.velocities = self.noise() * (kB * self._temperature / self._masses).sqrt()
        self.velocities -= (self.velocities * self._masses).sum(1, keepdim=True) / self._masses.sum()
        self.moving = torch.ones(self.count, dtype=torch.bool)
        self._listed: Tensor | None = None
        self.find_forces()

    def noise(self) -> Tensor:
        """Normal numbers [R, A, 3]."""
        return torch.randn(self.positions.shape, generator=self._generator, dtype=torch.float64)

    def find_forces(self) -> None:
        """Potential energies [R] in eV, and accelerations [R, A, 3], where the atoms are."""
        flat = self.positions.reshape(-1, 3)
        if self._listed is None or float((flat - self._listed).square().sum(1).max()) > (_SKIN / 2) ** 2:
            offsets = np.arange(self.count + 1) * self.atoms
            edges, _ = neighbour_edges(flat.numpy(), offsets, self._reach + _SKIN)
            pair, first = edge_pairs(edges)
            self._edges, self._pair, self._first = map(torch.from_numpy, (edges, pair, first))
            self._listed = flat.clone()
        graph = Graph(self._species, flat, self._edges, self._frame, self.count, pair=self._pair, first=self._first)
        energies, forces = self._predict(graph)
        self.energies = energies.double()
        self._accelerations = forces.double().view(self.positions.shape) / self._masses

    def step(self, timestep: float, friction: float) -> None:
        """A step of Langevin dynamics by the splitting BAOAB (Leimkuhler & Matthews 2013); of Verlet without friction.

        `timestep` is in ASE's units of time, `friction` in one over those.
        """
        self.velocities += timestep / 2 * self._accelerations
        self._move(timestep / 2)
        if friction:
            kept = float(np.exp(-friction * timestep))
            spread = (kB * self._temperature * (1 - kept**2) / self._masses).sqrt()
            self.velocities = kept * self.velocities + spread * self.noise()
        self._move(timestep / 2)
        self.find_forces()
        self.velocities += timestep / 2 * self._accelerations

    def _move(self, duration: float) -> None:
        moved = self.positions + duration * self.velocities
        # chosen and not multiplied: what is over may have velocities that are no numbers
        self.positions = torch.where(self.moving[:, None, None], moved, self.positions)

    def stop_broken(self) -> None:
        """Stop the replicas that are over: a bond is too far off its length, or a number is none."""
        lengths = (self.positions[:, self._one] - self.positions[:, self._other]).norm(dim=2)
        strain = (lengths - self._lengths).abs().amax(1)
        finite = self.velocities.isfinite().flatten(1).all(1) & self.energies.isfinite()
        over = self.moving & ~((strain <= LARGEST_STRAIN) & finite)
        if over.any():
            self.moving = self.moving & ~over
            # where they were: a number that is none would be one in every sum
            broken = ~self.moving
            self.positions[broken] = self._starts[broken]
            self.velocities[broken] = 0.0
            self.find_forces()

    def total_energies(self) -> Tensor:
        """Potential and kinetic energies of the replicas [R] in eV."""
        return self.energies + 0.5 * (self._masses * self.velocities.square()).sum((1, 2))

    def temperatures(self, resting: int = 0) -> Tensor:
        """Kinetic temperatures [R] in kelvin; of the degrees of freedom, `resting` have no share."""
        return (self._masses * self.velocities.square()).sum((1, 2)) / ((3 * self.atoms - resting) * kB)

    def no_distances(self) -> Tensor:
        """Counts of distances by replica and bin before any are counted [R, bins]."""
        return torch.zeros(self.count, self._bins, dtype=torch.int64)

    def count_distances(self, counts: Tensor) -> None:
        """Add the distances of all pairs of atoms to such counts."""
        one, other = self._pairs
        distances = (self.positions[:, one] - self.positions[:, other]).norm(dim=2)
        bins = (distances / BIN).long().clamp(max=counts.shape[1] - 1)
        counts.scatter_add_(1, bins, self.moving[:, None].to(counts.dtype).expand(bins.shape).contiguous())


def _run_thermostat(replicas: _Replicas, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Constant temperature until the cap, or until no replica holds."""
    timestep = settings["nvt_timestep_fs"]
    steps, look, sample = (round(span / timestep) for span in (settings["nvt_ps"] * 1000, _LOOK, _SAMPLE))
    look, sample = max(1, look), max(1, sample)
    counts = replicas.no_distances()
    # in steps; None where a replica has held to the cap
    ended: list[int | None] = [None] * replicas.count
    warmth, samples = torch.zeros(replicas.count, dtype=torch.float64), torch.zeros(replicas.count)
    done = 0
    while done < steps and bool(replicas.moving.any()):
        replicas.step(timestep * fs, settings["friction_per_ps"] / (1000 * fs))
        done += 1
        # before distances are counted, too: what is broken has none
        if done % look == 0 or done % sample == 0 or done == steps:
            replicas.stop_broken()
            for replica in torch.nonzero(~replicas.moving).flatten().tolist():
                ended[replica] = done if ended[replica] is None else ended[replica]
        if done % sample == 0:
            replicas.count_distances(counts)
            warmth += torch.where(replicas.moving, replicas.temperatures(), 0.0)
            samples += replicas.moving
    return {
        "atoms": replicas.atoms,
        "steps": done,
        "cap_ps": steps * timestep / 1000,
        "ended_ps": [None if end is None else end * timestep / 1000 for end in ended],
        "temperatures": [
            value / count if count else None for value, count in zip(warmth.tolist(), samples.tolist(), strict=True)
        ],
        "distances": counts.tolist(),
    }


def _run_free(replicas: _Replicas, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Constant energy: the total energies of the replicas in meV per atom, each as long as it holds, and its warmth."""
    timestep = settings["nve_timestep_fs"]
    steps = round(settings["nve_ps"] * 1000 / timestep)
    every = max(1, steps // _ENERGIES)
    look = max(1, round(_LOOK / timestep))
    replicas.begin()
    first = replicas.total_energies()
    energies: list[list[float]] = [[] for _ in range(replicas.count)]
    warmth: list[list[float]] = [[] for _ in range(replicas.count)]
    for done in range(1, steps + 1):
        replicas.step(timestep * fs, 0.0)
        if done % look == 0 or done % every == 0:
            replicas.stop_broken()
            if not replicas.moving.any():
                break
        if done % every == 0:
            change = (replicas.total_energies() - first) * (MEV_PER_EV / replicas.atoms)
            for replica in torch.nonzero(replicas.moving).flatten().tolist():
                energies[replica].append(float(change[replica]))
                warmth[replica].append(float(replicas.temperatures(resting=3)[replica]))
    return {
        "every_ps": every * timestep / 1000,
        "length_ps": steps * timestep / 1000,
        "held": replicas.moving.tolist(),
        "energy_changes": energies,
        "temperatures": [float(np.mean(values)) if values else None for values in warmth],
    }


def _counts_of_reference(reference: Reference) -> list[list[int]]:
    """Counts of distances by bins in the two halves of a reference trajectory."""
    bins = reference.bins()
    found = []
    for half in np.array_split(reference.positions, 2):
        counts = np.zeros(bins, np.int64)
        for distances in _distances(half):
            places = np.minimum((distances / BIN).astype(np.int64), bins - 1)
            counts += np.bincount(places.ravel(), minlength=bins)
        found.append(counts.tolist())
    return found


def _distances(positions: Array) -> Iterator[Array]:
    """The distances between all pairs of atoms [frames, pairs], some frames at a time: trajectories are long."""
    one, other = np.triu_indices(positions.shape[1], 1)
    for start in range(0, len(positions), _FRAMES):
        some = positions[start : start + _FRAMES]
        yield np.linalg.norm(some[:, one] - some[:, other], axis=2)
