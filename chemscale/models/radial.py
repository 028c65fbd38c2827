"""What the graph potentials share: edge geometry, cutoff envelope, radial bases, and the draw of a linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def edge_vectors(positions: Tensor, edges: Tensor, shifts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Vectors [E, 3] from the receiving atom (row 0 of `edges`) to the sending one, and their lengths [E]; angstrom."""
    vectors = positions.index_select(0, edges[1]) - positions.index_select(0, edges[0])
    if shifts is not None:
        vectors = vectors + shifts
    return vectors, vectors.square().sum(1).sqrt()


def envelope(distances: Tensor, cutoff: float) -> Tensor:
    """1 at distance 0, falling to 0 at the cutoff with vanishing first and second derivatives.

    DimeNet's polynomial with p = 6 (Gasteiger et al. 2020, arXiv 2003.03123, eq. 8).
    """
    scaled = (distances / cutoff).clamp(max=1.0)
    power = scaled**6
    return 1 - power * (28 - scaled * (48 - 21 * scaled))


class GaussianBasis(nn.Module):
    """Gaussians at equal spacing from 0 to the cutoff, as wide as it: distances [E] to features [E, num_radial]."""

    def __init__(self, num_radial: int, cutoff: float) -> None:
        super().__init__()
        spacing = cutoff / (num_radial - 1)
        self.centres: Tensor
        self.register_buffer("centres", torch.arange(num_radial) * spacing, persistent=False)
        self.coefficient = -0.5 / spacing**2

    def forward(self, distances: Tensor) -> Tensor:
        """Features of each distance."""
        return (self.coefficient * (distances[:, None] - self.centres).square()).exp()


class BesselBasis(nn.Module):
    """sin(n pi d / cutoff) / d for n = 1 ... num_radial: distances [E] to features [E, num_radial]."""

    def __init__(self, num_radial: int, cutoff: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.arange(1, num_radial + 1) * (math.pi / cutoff), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Features of each distance."""
        return (distances[:, None] * self.frequencies).sin() / distances[:, None]


def draw_linear_layers(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear layer Xavier-uniform with zero bias and every embedding normal, in the module's fixed order."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, generator=generator)
