"""What every potential is asked about: frames of atoms, their neighbours, charge and spin, as one batch of tensors.

Sums over atoms and neighbours are spelled here once. They take sizes from tensors' shapes and never from Python
numbers, so that a computation traced with one batch holds for any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from chemscale.errors import DataError


@dataclass(frozen=True)
class Graph:
    """Frames of atoms, one after the other.

    Attributes:
        species: atomic numbers [A].
        positions: angstrom [A, 3].
        edges: receiving and sending atom of every pair within the model's reach, both ways [2, E].
        frame: the frame of each atom, ascending [A].
        num_frames: the number of frames F.
        shifts: angstrom [E, 3], added to the vector to the sending atom where that is a periodic image; None without.
        charge: total charge of each frame in e [F]; None where all are neutral.
        spin: unpaired electrons of each frame [F]; None where there are none.
        pair: the pair of atoms that each edge is of [E]: an edge and the one back are one pair. What depends on their
            distance alone is computed once a pair. None where each edge counts for itself.
        first: one of the edges of each pair [P]; None as above.
    """

    species: Tensor
    positions: Tensor
    edges: Tensor
    frame: Tensor
    num_frames: int
    shifts: Tensor | None = None
    charge: Tensor | None = None
    spin: Tensor | None = None
    pair: Tensor | None = None
    first: Tensor | None = None

    def at(self, positions: Tensor) -> Graph:
        """The same graph with its atoms elsewhere."""
        return replace(self, positions=positions)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors [E, 3] from the receiving atom to the sending one, and their lengths [E], in angstrom."""
        vectors = self.positions.index_select(0, self.edges[1]) - self.positions.index_select(0, self.edges[0])
        if self.shifts is not None:
            vectors = vectors + self.shifts
        return vectors, vectors.square().sum(1).sqrt()

    def distances(self) -> Tensor:
        """The distance of each pair [P] in angstrom; `of_pair` has it for each edge."""
        if self.first is None:
            return self.vectors()[1]
        shifts = None if self.shifts is None else self.shifts.index_select(0, self.first)
        one_of_each = replace(self, edges=self.edges.index_select(1, self.first), shifts=shifts)
        return one_of_each.vectors()[1]

    def of_pair(self, values: Tensor) -> Tensor:
        """What the pair of each edge holds: [P, ...] to [E, ...]."""
        return values if self.pair is None else values.index_select(0, self.pair)

    def sent(self, features: Tensor) -> Tensor:
        """What the sending atom of each edge holds: [A, ...] to [E, ...]."""
        return features.index_select(0, self.edges[1])

    def received(self, features: Tensor) -> Tensor:
        """What the receiving atom of each edge holds: [A, ...] to [E, ...]."""
        return features.index_select(0, self.edges[0])

    def sum_of_edges(self, messages: Tensor) -> Tensor:
        """Sums over the edges that an atom receives: [E, ...] to [A, ...]."""
        zeros = messages.new_zeros(self.species.shape[0], *messages.shape[1:])
        return zeros.index_add(0, self.edges[0], messages)

    def of_frame(self, values: Tensor) -> Tensor:
        """What the frame of each atom holds: [F, ...] to [A, ...]."""
        return values.index_select(0, self.frame)

    def sum_of_atoms(self, values: Tensor) -> Tensor:
        """Sums over the atoms of each frame: [A, ...] to [F, ...]."""
        return values.new_zeros(self.num_frames, *values.shape[1:]).index_add(0, self.frame, values)


def from_geometric(batch: Any) -> Graph:
    """The graph of a torch-geometric `Data` or `Batch` with z, pos and edge_index; also shifts, charge and spin.

    An edge of theirs goes from the sending atom (row 0) to the receiving one (row 1).

    Raises:
        DataError: an attribute is missing.
    """
    for name in ("z", "pos", "edge_index"):
        if getattr(batch, name, None) is None:
            raise DataError(
                f"read a graph of class {type(batch).__name__}",
                f"no {name}",
                "give atomic numbers z, positions pos in angstrom and edge_index",
            )
    frame = getattr(batch, "batch", None)
    return Graph(
        batch.z,
        batch.pos,
        batch.edge_index.flip(0),
        batch.z.new_zeros(batch.z.shape[0]) if frame is None else frame,
        1 if frame is None else int(batch.num_graphs),
        *(getattr(batch, name, None) for name in ("shifts", "charge", "spin")),
    )
