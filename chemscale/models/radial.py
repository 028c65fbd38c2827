"""What the graph potentials share: cutoff envelope, radial bases, and the draw of a linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.families import ENVELOPES


class Envelope(nn.Module):
    """1 at distance 0, falling to 0 at the cutoff: what messages are multiplied with.

    `smooth` is DimeNet's polynomial with p = 6 (Gasteiger et al. 2020, arXiv 2003.03123, eq. 8), whose first and second
    derivatives vanish at the cutoff, too. `cosine` is half a period of the cosine (Behler & Parrinello 2007), whose
    second derivative jumps there.
    """

    def __init__(self, cutoff: float, kind: str) -> None:
        super().__init__()
        assert kind in ENVELOPES, kind
        self.cutoff, self.kind = cutoff, kind

    def forward(self, distances: Tensor) -> Tensor:
        """The factor of each distance."""
        scaled = (distances / self.cutoff).clamp(max=1.0)
        if self.kind == "cosine":
            return 0.5 * ((scaled * math.pi).cos() + 1)
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


def linear_parts(inputs: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> list[Tensor]:
    """A linear layer's outputs in so many equal parts, each a tensor of its own.

    Machine code of a step was up to twice as fast with them as with slices of one wide tensor.
    """
    biases = [None] * parts if bias is None else bias.chunk(parts)
    return [functional.linear(inputs, *own) for own in zip(weight.chunk(parts), biases, strict=True)]


def cut_linear(layer: nn.Linear, inputs: Tensor, cut: Tensor, parts: int = 1) -> list[Tensor]:
    """`linear_parts` of layer(inputs) * cut for inputs [E, n] and factors [E], as products of narrow inputs.

    The outputs are the widest tensors of a model: no pass over them is spent on the factor, nor on its gradients.
    """
    widened = torch.cat([inputs, torch.ones_like(cut)[:, None]], dim=1) * cut[:, None]
    return linear_parts(widened, torch.cat([layer.weight, layer.bias[:, None]], dim=1), None, parts)


def draw_linear_layers(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear layer Xavier-uniform with zero bias and every embedding normal, in the module's fixed order."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, generator=generator)
