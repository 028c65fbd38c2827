"""A potential around any graph network: energies per frame, forces as minus the gradient, totals in eV.

The network works in scaled units, in which the training forces have RMS 1. Reference energies of the species and the
scale bring its interaction energy back to eV, summed in float64: a total of hundreds of eV costs float32 its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Potential(nn.Module):
    """A graph network with the reference energies and the scale that its training subset fixed."""

    reference: Tensor
    scale: Tensor

    def __init__(self, core: nn.Module, reference: Tensor, scale: float) -> None:
        """`reference`: energy of each species in eV [119], float64; `scale`: eV per unit of the network's energy."""
        super().__init__()
        self.core = core
        self.register_buffer("reference", reference.double())
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def interaction(
        self,
        species: Tensor,
        positions: Tensor,
        edges: Tensor,
        frame: Tensor,
        num_frames: int,
        shifts: Tensor | None = None,
    ) -> Tensor:
        """Interaction energy of each frame [F] in scaled units; `frame` [A] says which frame an atom is in."""
        energies = self.core(species, positions, edges, shifts)
        summed: Tensor = energies.new_zeros(num_frames).index_add(0, frame, energies)
        return summed

    def energies_and_forces(
        self,
        species: Tensor,
        positions: Tensor,
        edges: Tensor,
        frame: Tensor,
        num_frames: int,
        *,
        create_graph: bool,
        shifts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Interaction energies [F] and forces [A, 3] in scaled units (forces: scaled energy per angstrom).

        With `create_graph` the forces can be differentiated once more, as training does.
        """
        positions = positions.detach().requires_grad_()
        energies = self.interaction(species, positions, edges, frame, num_frames, shifts)
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=create_graph)
        return energies, -gradient

    def total_energies(self, interaction: Tensor, species: Tensor, frame: Tensor) -> Tensor:
        """Total energies in eV [F], float64, from interaction energies in scaled units."""
        scaled = interaction.double() * self.scale
        return scaled.index_add(0, frame, self.reference[species])
