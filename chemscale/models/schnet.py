"""SchNet: an invariant potential by continuous-filter convolutions (Schütt et al. 2017, arXiv 1706.08566)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import SPECIES
from chemscale.models.radial import GaussianBasis, draw_linear_layers, edge_vectors, envelope


def _shifted_softplus(x: Tensor) -> Tensor:
    return functional.softplus(x) - math.log(2.0)


class Interaction(nn.Module):
    """A continuous-filter convolution and its atom-wise layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter_output = nn.Linear(width, width)
        self.atom_input = nn.Linear(width, width, bias=False)
        self.atom_hidden = nn.Linear(width, width)
        self.atom_output = nn.Linear(width, width)

    def forward(self, features: Tensor, hidden_filter: Tensor, cut: Tensor, edges: Tensor) -> Tensor:
        """Features [A, width] to their update of the same shape."""
        filters = self.filter_output(hidden_filter) * cut
        messages = self.atom_input(features).index_select(0, edges[1]) * filters
        gathered = torch.zeros_like(features).index_add(0, edges[0], messages)
        update: Tensor = self.atom_output(_shifted_softplus(self.atom_hidden(gathered)))
        return update


class SchNet(nn.Module):
    """SchNet of `width` features and `interactions` layers; energies per atom from distances alone."""

    def __init__(self, width: int, interactions: int, num_radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.embedding = nn.Embedding(SPECIES, width)
        self.basis = GaussianBasis(num_radial, cutoff)
        # the first filter layer of all interactions in one product: they read the same distances
        self.filter_input = nn.Linear(num_radial, interactions * width)
        self.interactions = nn.ModuleList(Interaction(width) for _ in range(interactions))
        self.readout_hidden = nn.Linear(width, max(1, width // 2))
        self.readout_output = nn.Linear(max(1, width // 2), 1)

    def forward(self, species: Tensor, positions: Tensor, edges: Tensor, shifts: Tensor | None = None) -> Tensor:
        """Energy per atom [A] from atomic numbers [A], positions [A, 3] in angstrom and edges [2, E]."""
        _, distances = edge_vectors(positions, edges, shifts)
        cut = envelope(distances, self.cutoff)[:, None]
        hidden = _shifted_softplus(self.filter_input(self.basis(distances))).chunk(len(self.interactions), dim=1)
        features = self.embedding(species)
        for interaction, hidden_filter in zip(self.interactions, hidden, strict=True):
            features = features + interaction(features, hidden_filter, cut, edges)
        energies: Tensor = self.readout_output(_shifted_softplus(self.readout_hidden(features)))
        return energies.squeeze(1)


def build(knobs: dict[str, Any], generator: torch.Generator) -> SchNet:
    """A SchNet of a size, its weights drawn from `generator`."""
    model = SchNet(knobs["width"], knobs["interactions"], knobs["num_radial"], knobs["cutoff"])
    draw_linear_layers(model, generator)
    return model
