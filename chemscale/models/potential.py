"""A potential around any graph network: energies per frame, forces as minus the gradient, totals in eV.

The network works in scaled units, in which the training forces have RMS 1. Reference energies of the species and the
scale bring its interaction energy back to eV, summed in float64: a total of hundreds of eV costs float32 its digits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chemscale.models.graph import Graph


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
        # a core with physical terms in eV has a place for it
        unit = dict(core.named_buffers(recurse=False)).get("unit")
        if unit is not None:
            unit.fill_(scale)

    def interaction(self, graph: Graph) -> Tensor:
        """Interaction energy of each frame [F] in scaled units."""
        return graph.sum_of_atoms(self.core(graph))

    def energies_and_forces(self, graph: Graph, *, create_graph: bool) -> tuple[Tensor, Tensor]:
        """Interaction energies [F] and forces [A, 3] in scaled units (forces: scaled energy per angstrom).

        With `create_graph` the forces can be differentiated once more, as training does.
        """
        positions = graph.positions.detach().requires_grad_()
        energies = self.interaction(graph.at(positions))
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=create_graph)
        return energies, -gradient

    def total_energies(self, interaction: Tensor, graph: Graph) -> Tensor:
        """Total energies in eV [F], float64, from interaction energies in scaled units."""
        return interaction.double() * self.scale + graph.sum_of_atoms(self.reference[graph.species])
