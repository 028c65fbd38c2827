"""SchNet: an invariant potential by continuous-filter convolutions (Schütt et al. 2017, arXiv 1706.08566)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import SPECIES
from chemscale.models.convolution import Interaction
from chemscale.models.graph import Graph
from chemscale.models.radial import Envelope, GaussianBasis, draw_linear_layers, linear_parts


def _shifted_softplus(x: Tensor) -> Tensor:
    return functional.softplus(x) - math.log(2.0)


class SchNet(nn.Module):
    """SchNet of `width` features and `interactions` layers; energies per atom from distances alone."""

    def __init__(self, width: int, interactions: int, num_radial: int, cutoff: float, envelope: str) -> None:
        super().__init__()
        self.envelope = Envelope(cutoff, envelope)
        self.embedding = nn.Embedding(SPECIES, width)
        self.basis = GaussianBasis(num_radial, cutoff)
        # the first filter layer of all interactions: they read the same distances
        self.filter_input = nn.Linear(num_radial, interactions * width)
        self.interactions = nn.ModuleList(Interaction(width, _shifted_softplus) for _ in range(interactions))
        self.readout_hidden = nn.Linear(width, max(1, width // 2))
        self.readout_output = nn.Linear(max(1, width // 2), 1)

    def forward(self, graph: Graph) -> Tensor:
        """Energy per atom [A]."""
        distances = graph.distances()
        cut = self.envelope(distances)
        layer = self.filter_input
        hidden = linear_parts(self.basis(distances), layer.weight, layer.bias, len(self.interactions))
        features = self.embedding(graph.species)
        for interaction, hidden_filter in zip(self.interactions, hidden, strict=True):
            features = features + interaction(features, hidden_filter, cut, graph)
        energies: Tensor = self.readout_output(_shifted_softplus(self.readout_hidden(features)))
        return energies.squeeze(1)


def build(knobs: dict[str, Any], generator: torch.Generator) -> SchNet:
    """A SchNet of a size, its weights drawn from `generator`."""
    model = SchNet(**knobs)
    draw_linear_layers(model, generator)
    return model
