"""The frames of a split as tensors on the device, cut into batches there: no loader stands between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chemscale.data.arrays import FrameData
from chemscale.data.neighbours import edge_pairs
from chemscale.errors import DataError
from chemscale.models.graph import Graph


@dataclass(frozen=True)
class Batch:
    """Some frames and, in scaled units, what is known of them: forces [A, 3], energies [F]; atoms [F] of each."""

    graph: Graph
    forces: Tensor
    energies: Tensor
    atoms: Tensor


class Frames:
    """The frames of a split with their stored neighbours within a reach."""

    def __init__(
        self,
        data: FrameData,
        index: NDArray[np.int64],
        reach: float,
        reference: NDArray[np.float64],
        scale: float,
        place: torch.device,
    ) -> None:
        """Frames of a data set.

        Args:
            data: all of its frames.
            index: the places of those of the split.
            reach: of their neighbour lists, in angstrom.
            reference: energy of each species in eV [119].
            scale: eV per scaled unit of energy.
            place: the device that holds them.
        """
        sizes = data.offsets[index + 1] - data.offsets[index]
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        atoms = _ranges(data.offsets[index], sizes)
        all_edges, all_offsets = data.edges(reach)
        degrees = all_offsets[index + 1] - all_offsets[index]
        self.edge_offsets = np.concatenate([[0], np.cumsum(degrees)])
        self.sizes, self.degrees = sizes, degrees
        # atoms numbered over the whole split
        first = np.repeat(self.offsets[:-1], degrees)
        # one row after the other in memory: index_select would copy a transposed array whole, for each batch
        edges = np.ascontiguousarray(all_edges[_ranges(all_offsets[index], degrees)].T, dtype=np.int64) + first
        species = data.species[atoms]
        references = np.add.reduceat(reference[species], self.offsets[:-1])
        self.species = torch.from_numpy(species.astype(np.int64)).to(place)
        self.positions = torch.from_numpy(data.positions[atoms].astype(np.float32)).to(place)
        self.forces = torch.from_numpy((data.forces[atoms] / scale).astype(np.float32)).to(place)
        # references are taken off in float64: totals of hundreds of eV would cost float32 its digits
        self.energies = torch.from_numpy(((data.energies[index] - references) / scale).astype(np.float32)).to(place)
        self.edges = torch.from_numpy(edges).to(place)
        # of each edge its pair, of each pair an edge; those of a frame follow each other
        pair, first_edge = edge_pairs(edges)
        self.pair, self.first_edge = torch.from_numpy(pair).to(place), torch.from_numpy(first_edge).to(place)
        self.pair_offsets = self.edge_offsets // 2

    def __len__(self) -> int:
        return len(self.sizes)

    def batch(self, chosen: NDArray[np.int64], turned: NDArray[np.float64] | None = None) -> Batch:
        """The frames `chosen`, atoms numbered anew from 0; each turned by its rotation `turned` [F, 3, 3], if any."""
        sizes = self.sizes[chosen]
        begins, edge_begins = self.offsets[chosen], self.edge_offsets[chosen]
        degrees = self.degrees[chosen]
        place = self.species.device
        atoms, edges = (
            torch.from_numpy(_ranges(*ranges)).to(place) for ranges in ((begins, sizes), (edge_begins, degrees))
        )
        pair_begins, pair_counts = self.pair_offsets[chosen], degrees // 2
        pairs = torch.from_numpy(_ranges(pair_begins, pair_counts)).to(place)

        def shift(begins: NDArray[np.int64], counts: NDArray[np.int64], repeats: NDArray[np.int64]) -> Tensor:
            """How far numbers that began at `begins` move when frames follow each other, for each of a frame's."""
            return torch.from_numpy(np.repeat(np.cumsum(counts) - counts - begins, repeats)).to(place)

        frame = torch.from_numpy(np.repeat(np.arange(len(chosen)), sizes)).to(place)
        positions, forces = self.positions.index_select(0, atoms), self.forces.index_select(0, atoms)
        if turned is not None:
            of_atom = torch.from_numpy(turned.astype(np.float32)).to(place).index_select(0, frame)
            positions, forces = (torch.einsum("aij,aj->ai", of_atom, vectors) for vectors in (positions, forces))
        graph = Graph(
            self.species.index_select(0, atoms),
            positions,
            self.edges.index_select(1, edges) + shift(begins, sizes, degrees),
            frame,
            len(chosen),
            pair=self.pair.index_select(0, edges) + shift(pair_begins, pair_counts, degrees),
            first=self.first_edge.index_select(0, pairs) + shift(edge_begins, degrees, pair_counts),
        )
        picked = torch.from_numpy(chosen).to(place)
        return Batch(
            graph,
            forces,
            self.energies.index_select(0, picked),
            torch.from_numpy(sizes).to(place),
        )


def rotations(count: int, seed: int, step: int) -> NDArray[np.float64]:
    """Rotations [count, 3, 3], uniform over all, that depend on nothing but the arguments."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
    # the unit quaternion of a normal one is uniform on the sphere (Shoemake 1992)
    quaternions = random.normal(size=(4, count))
    w, x, y, z = quaternions / np.linalg.norm(quaternions, axis=0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def normalisation(data: FrameData, index: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Reference energy of each species in eV [119] by least squares, and the force RMS in eV/angstrom, of a subset.

    A species that the subset lacks keeps 0: the least-squares solution of smallest norm.

    Raises:
        DataError: all forces are zero, or one is no number.
    """
    counts = np.zeros((len(index), 119))
    squares = total = 0.0
    for row, frame in enumerate(index):
        atoms = slice(data.offsets[frame], data.offsets[frame + 1])
        np.add.at(counts[row], data.species[atoms], 1)
        squares += float(np.square(data.forces[atoms]).sum())
        total += data.forces[atoms].size
    if not 0 < squares < np.inf:
        raise DataError(
            f"normalise by the forces of {len(index)} frames in {data.folder}",
            "forces that are all zero" if squares == 0 else "a force that is no number",
            "give frames whose forces were computed",
        )
    present = np.flatnonzero(counts.any(axis=0))
    reference = np.zeros(119)
    reference[present] = np.linalg.lstsq(counts[:, present], data.energies[index], rcond=None)[0]
    return reference, float(np.sqrt(squares / total))


def seen(data: FrameData, index: NDArray[np.int64], reach: float) -> dict[str, Any]:
    """The species of some frames, and the smallest distance in angstrom of each pair of species within a reach.

    A pair is named by its atomic numbers, such as "1-6", the smaller first.
    """
    all_edges, all_offsets = data.edges(reach)
    degrees = all_offsets[index + 1] - all_offsets[index]
    first = np.repeat(data.offsets[index], degrees)
    receiver, sender = all_edges[_ranges(all_offsets[index], degrees)].T.astype(np.int64) + first
    distances = np.linalg.norm(data.positions[receiver] - data.positions[sender], axis=1)
    pairs = np.sort(np.stack([data.species[receiver], data.species[sender]]).astype(np.int64), axis=0)
    kinds, places = np.unique(pairs[0] * 256 + pairs[1], return_inverse=True)
    closest = np.full(len(kinds), np.inf)
    np.minimum.at(closest, places, distances)
    atoms = _ranges(data.offsets[index], data.offsets[index + 1] - data.offsets[index])
    return {
        "species": [int(number) for number in np.unique(data.species[atoms])],
        "closest": {f"{kind // 256}-{kind % 256}": float(value) for kind, value in zip(kinds, closest, strict=True)},
    }


def _ranges(begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers begin, begin + 1 ... of each range, one range after another."""
    ends = np.cumsum(sizes)
    ranges: NDArray[np.int64] = np.arange(ends[-1]) + np.repeat(begins - (ends - sizes), sizes)
    return ranges
