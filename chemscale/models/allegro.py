"""Allegro: a strictly local equivariant potential of edge features (Musaelian et al. 2023, arXiv 2204.05249).

The architecture is that of the authors' package nequip-allegro 0.8, which differs from the paper's: latents are
concatenated in place of being updated, the cutoff acts on the radial basis alone, and no layer has a bias.

An edge's tensor features meet the environment of its central atom, a sum over that atom's edges. So the product's
coupling is contracted with the environment once an atom, and each edge multiplies by the small matrix that results: the
package contracts all three for every edge. Channels come last in memory wherever edges are gone through, so that
machine code takes several at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import SPECIES
from chemscale.cost.tensors import Irrep, components, paths, spherical_irreps, tensor_plan
from chemscale.models.graph import Graph
from chemscale.models.radial import BesselBasis, Envelope


def coupling(inputs: Sequence[Irrep], l_max: int, outputs: Sequence[Irrep]) -> Tensor:
    """Coefficients of each path's product [P, inputs, environment, outputs]: sqrt(2 l + 1) Wigner 3j, float64."""
    from e3nn.o3 import wigner_3j

    def places(irreps: Sequence[Irrep]) -> dict[Irrep, slice]:
        found, start = {}, 0
        for irrep in irreps:
            found[irrep] = slice(start, start + 2 * irrep[0] + 1)
            start += 2 * irrep[0] + 1
        return found

    environment = spherical_irreps(l_max)
    rows, columns, depths = places(inputs), places(environment), places(outputs)
    found = paths(inputs, l_max, outputs)
    table = torch.zeros(
        len(found), components(inputs), components(environment), components(outputs), dtype=torch.float64
    )
    for path, (one, other, output) in enumerate(found):
        block = wigner_3j(one[0], other[0], output[0], dtype=torch.float64) * math.sqrt(2 * output[0] + 1)
        table[path, rows[one], columns[other], depths[output]] = block
    return table


def spherical_harmonics(directions: Tensor, l_max: int) -> Tensor:
    """Real spherical harmonics up to degree `l_max` of unit vectors [E, 3]: [E, (l_max + 1)^2].

    In e3nn's order and signs, in which y is the axis; the squares of a degree's components sum to 2 l + 1.
    """
    x, y, z = directions.unbind(1)
    parts = [torch.ones_like(x)]
    if l_max >= 1:
        root = math.sqrt(3)
        parts += [root * x, root * y, root * z]
    if l_max >= 2:
        root = math.sqrt(15)
        parts += [
            root * x * z,
            root * x * y,
            math.sqrt(5) * (y.square() - (x.square() + z.square()) / 2),
            root * y * z,
            root / 2 * (z.square() - x.square()),
        ]
    return torch.stack(parts, dim=1)


class Linear(nn.Module):
    """A product without bias; weights are drawn of size 1 and scaled as they are used.

    So a step of the optimiser means the same at every width.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """From [..., inputs] to [..., outputs]."""
        return functional.linear(x, self.weight * self.scale)


class Perceptron(nn.Module):
    """Two products with SiLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = Linear(inputs, hidden)
        self.output = Linear(hidden, outputs, gain=math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        """From [..., inputs] to [..., outputs]."""
        result: Tensor = self.output(functional.silu(self.hidden(x)))
        return result


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, order: tuple[int, ...]) -> Tensor:
        ctx.order = order
        laid_out = values.permute(order).contiguous()
        # a compiler would read the values where they were; it makes a tensor of what is viewed like this
        return laid_out.as_strided(laid_out.shape, laid_out.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        back = sorted(range(len(ctx.order)), key=ctx.order.__getitem__)
        return permuted(gradient, tuple(back)), None


def permuted(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """Dimensions in another order, contiguous in memory, and so is the gradient on its way back."""
    result: Tensor = _Permuted.apply(values, order)  # type: ignore[no-untyped-call]
    return result


class Product(nn.Module):
    """The tensor product of edges' features with their central atoms' environments, each path weighed by channel."""

    def __init__(self, inputs: Sequence[Irrep], l_max: int, outputs: Sequence[Irrep], channels: int) -> None:
        super().__init__()
        table = coupling(inputs, l_max, outputs)
        self.inputs, self.environment, self.outputs = table.shape[1:]
        self.weight = nn.Parameter(torch.empty(channels, len(table)))
        self.table: Tensor
        self.register_buffer("table", table.transpose(1, 2).flatten(1).to(self.weight.dtype), persistent=False)

    def forward(self, features: Tensor, environment: Tensor, graph: Graph) -> Tensor:
        """Features [E, inputs, U] and environments [A, (l_max + 1)^2, U] to [E, outputs, U]."""
        channels = len(self.weight)
        weighed = (self.weight @ self.table).view(channels, self.environment, -1)
        matrices = permuted(torch.bmm(permuted(environment, (2, 0, 1)), weighed), (1, 2, 0))
        own = graph.received(matrices).view(-1, self.inputs, self.outputs, channels)
        return (features[:, :, None] * own).sum(1)


class Allegro(nn.Module):
    """Allegro with `width` scalars and `tensors` tensors of degree up to `l_max` an edge; energies per atom."""

    def __init__(
        self,
        width: int,
        tensors: int,
        l_max: int,
        interactions: int,
        num_radial: int,
        cutoff: float,
        envelope: str,
        neighbours: float,
    ) -> None:
        """`neighbours`: about how many an atom has within the cutoff; sums over them are divided by its root."""
        super().__init__()
        self.l_max, self.width, self.tensors = l_max, width, tensors
        self.envelope = Envelope(cutoff, envelope)
        self.sum_scale = 1 / math.sqrt(neighbours)
        self.centre = nn.Embedding(SPECIES, width // 2)
        self.neighbour = nn.Embedding(SPECIES, width - width // 2)
        self.basis = BesselBasis(num_radial, cutoff)
        self.radial = Linear(num_radial, width)
        self.two_body = Perceptron(width, width, width)
        weights = tensors * (l_max + 1)
        self.first_tensors = Linear(width, weights)
        self.first_latents = Linear(width, width + weights)
        plan = tensor_plan(l_max, interactions)
        self.products = nn.ModuleList(Product(inputs, l_max, outputs, tensors) for inputs, outputs in pairwise(plan))
        self.latents = nn.ModuleList(
            Perceptron((layer + 1) * width + tensors, width, width + (weights if layer < interactions - 1 else 0))
            for layer in range(interactions)
        )
        self.readout = Perceptron((interactions + 1) * width, max(1, width // 2), 1)

    def forward(self, graph: Graph) -> Tensor:
        """Energy per atom [A]."""
        vectors, distances = graph.vectors()
        harmonics = spherical_harmonics(vectors / distances[:, None], self.l_max)
        bessel = self.basis(distances) * (self.envelope.cutoff / math.pi) * self.envelope(distances)[:, None]
        kinds = torch.cat(
            [graph.received(self.centre(graph.species)), graph.sent(self.neighbour(graph.species))], dim=1
        )
        hidden = self.two_body(kinds * self.radial(bessel))
        features = self._spread(self.first_tensors(hidden), harmonics)
        latents, weights = self.first_latents(hidden).split([self.width, self.tensors * (self.l_max + 1)], dim=1)
        known = [latents]
        for product, perceptron in zip(self.products, self.latents, strict=True):
            environment = graph.sum_of_edges(self._spread(weights, harmonics)) * self.sum_scale
            features = product(features, environment, graph)
            found = perceptron(torch.cat([*known, features[:, 0]], dim=1))
            known.append(found[:, : self.width])
            weights = found[:, self.width :]
        energies = self.readout(torch.cat(known, dim=1)).squeeze(1) * (self.sum_scale / math.sqrt(2))
        return graph.sum_of_edges(energies)

    def _spread(self, weights: Tensor, harmonics: Tensor) -> Tensor:
        """Harmonics [E, (l_max + 1)^2] weighed by degree and channel [E, (l_max + 1) U]: [E, (l_max + 1)^2, U]."""
        of_degree = weights.view(weights.shape[0], -1, self.tensors)
        parts = [
            of_degree[:, degree, None] * harmonics[:, degree**2 : (degree + 1) ** 2, None]
            for degree in range(self.l_max + 1)
        ]
        return torch.cat(parts, dim=1)


def build(knobs: dict[str, Any], generator: torch.Generator) -> Allegro:
    """An Allegro of a size, its weights drawn from `generator`."""
    model = Allegro(**knobs)
    for module in model.modules():
        if isinstance(module, Linear | Product):
            nn.init.uniform_(module.weight, -math.sqrt(3), math.sqrt(3), generator=generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
    return model
