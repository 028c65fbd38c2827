"""A potential without built-in symmetry: SchNet's convolutions, whose filters see where a neighbour is, not how far.

The energy keeps its value when atoms are moved together or renumbered, and changes when they are turned. What it knows
of rotations it has learned from frames that were turned at random: the far end of the axis of built-in physics. Filters
of the displacement in place of its length follow ForceNet (Hu et al. 2021, arXiv 2103.01436).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import SPECIES
from chemscale.models.convolution import Interaction
from chemscale.models.graph import Graph
from chemscale.models.radial import Envelope, GaussianBasis, draw_linear_layers, linear_parts


class Baseline(nn.Module):
    """A network of `width` features and `interactions` layers; energies per atom from displacements as they lie."""

    def __init__(self, width: int, interactions: int, num_radial: int, cutoff: float, envelope: str) -> None:
        super().__init__()
        self.envelope = Envelope(cutoff, envelope)
        self.embedding = nn.Embedding(SPECIES, width)
        self.basis = GaussianBasis(num_radial, cutoff)
        # of distance and direction: each radial function as it is, and times x, y and z
        self.filter_input = nn.Linear(4 * num_radial, interactions * width)
        self.interactions = nn.ModuleList(Interaction(width, functional.silu) for _ in range(interactions))
        self.readout_hidden = nn.Linear(width, max(1, width // 2))
        self.readout_output = nn.Linear(max(1, width // 2), 1)

    def forward(self, graph: Graph) -> Tensor:
        """Energy per atom [A]."""
        # an edge and the one back have filters of their own
        graph = replace(graph, pair=None, first=None)
        separations, distances = graph.vectors()
        directions = separations / distances[:, None]
        seen = torch.cat([torch.ones_like(directions[:, :1]), directions * math.sqrt(3)], dim=1)
        basis = (self.basis(distances)[:, None, :] * seen[:, :, None]).flatten(1)
        cut = self.envelope(distances)
        layer = self.filter_input
        hidden = linear_parts(basis, layer.weight, layer.bias, len(self.interactions))
        features = self.embedding(graph.species)
        for interaction, hidden_filter in zip(self.interactions, hidden, strict=True):
            features = features + interaction(features, hidden_filter, cut, graph)
        energies: Tensor = self.readout_output(functional.silu(self.readout_hidden(features)))
        return energies.squeeze(1)


def build(knobs: dict[str, Any], generator: torch.Generator) -> Baseline:
    """A baseline of a size, its weights drawn from `generator`."""
    model = Baseline(**knobs)
    draw_linear_layers(model, generator)
    return model
