"""PaiNN: an equivariant potential with scalar and vector features (Schütt et al. 2021, arXiv 2102.03150)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import SPECIES
from chemscale.models.graph import Graph
from chemscale.models.radial import BesselBasis, Envelope, cut_linear, draw_linear_layers

# keeps the gradient of a vector's length finite where the vector is zero
_TINY = 1e-8


class Interaction(nn.Module):
    """Messages between atoms (paper, eq. 7 and 8), then the mixing of scalars and vectors in each atom (eq. 9)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.message_hidden = nn.Linear(width, width)
        self.message_output = nn.Linear(width, 3 * width)
        self.mix_vectors = nn.Linear(width, 2 * width, bias=False)
        self.mix_hidden = nn.Linear(2 * width, width)
        self.mix_output = nn.Linear(width, 3 * width)

    def forward(
        self, scalars: Tensor, vectors: Tensor | None, filters: Tensor, directions: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """Scalars [A, width] and vectors [A, 3, width] (None: all zero) to their next values."""
        sent = graph.sent(self.message_output(functional.silu(self.message_hidden(scalars))))
        weights = sent * graph.of_pair(filters)
        to_scalars, to_directions, to_vectors = weights.chunk(3, dim=1)
        scalars = scalars + graph.sum_of_edges(to_scalars)
        moved = directions[:, :, None] * to_directions[:, None, :]
        if vectors is None:
            vectors = graph.sum_of_edges(moved)
        else:
            vectors = vectors + graph.sum_of_edges(moved + graph.sent(vectors) * to_vectors[:, None, :])

        left, right = self.mix_vectors(vectors).split(self.width, dim=2)
        length = (right.square().sum(1) + _TINY).sqrt()
        mixed = self.mix_output(functional.silu(self.mix_hidden(torch.cat([scalars, length], dim=1))))
        scale_vectors, scale_product, to_scalars = mixed.split(self.width, dim=1)
        scalars = scalars + to_scalars + scale_product * (left * right).sum(1)
        return scalars, vectors + left * scale_vectors[:, None, :]


class ScalarInteraction(nn.Module):
    """The same without vectors: messages and mixing of scalars alone, which makes an invariant model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message_hidden = nn.Linear(width, width)
        self.message_output = nn.Linear(width, width)
        self.mix_hidden = nn.Linear(width, width)
        self.mix_output = nn.Linear(width, width)

    def forward(
        self, scalars: Tensor, vectors: None, filters: Tensor, directions: Tensor, graph: Graph
    ) -> tuple[Tensor, None]:
        """Scalars [A, width] to their next values."""
        sent = graph.sent(self.message_output(functional.silu(self.message_hidden(scalars))))
        scalars = scalars + graph.sum_of_edges(sent * graph.of_pair(filters))
        return scalars + self.mix_output(functional.silu(self.mix_hidden(scalars))), vectors


class PaiNN(nn.Module):
    """PaiNN of `width` features and `interactions` layers; energies per atom from its invariant scalars."""

    def __init__(
        self, width: int, interactions: int, num_radial: int, cutoff: float, envelope: str, vectors: bool
    ) -> None:
        """`vectors`: whether it has vector features; without, it is an invariant model of the same build."""
        super().__init__()
        self.envelope = Envelope(cutoff, envelope)
        self.embedding = nn.Embedding(SPECIES, width)
        self.basis = BesselBasis(num_radial, cutoff)
        # the filters of all interactions: they read the same distances
        self.filters = nn.Linear(num_radial, interactions * (3 if vectors else 1) * width)
        interaction = Interaction if vectors else ScalarInteraction
        self.interactions = nn.ModuleList(interaction(width) for _ in range(interactions))
        self.readout_hidden = nn.Linear(width, max(1, width // 2))
        self.readout_output = nn.Linear(max(1, width // 2), 1)

    def forward(self, graph: Graph) -> Tensor:
        """Energy per atom [A]."""
        separations, lengths = graph.vectors()
        directions = separations / lengths[:, None]
        distances = graph.distances()
        filters = cut_linear(self.filters, self.basis(distances), self.envelope(distances), len(self.interactions))
        scalars = self.embedding(graph.species)
        vectors = None  # zero before the first messages: nothing to gather and weigh there
        for interaction, own in zip(self.interactions, filters, strict=True):
            scalars, vectors = interaction(scalars, vectors, own, directions, graph)
        energies: Tensor = self.readout_output(functional.silu(self.readout_hidden(scalars)))
        return energies.squeeze(1)


def build(knobs: dict[str, Any], generator: torch.Generator) -> PaiNN:
    """A PaiNN of a size, its weights drawn from `generator`."""
    model = PaiNN(**knobs)
    draw_linear_layers(model, generator)
    return model
