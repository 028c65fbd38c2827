"""SpookyNet: local and nonlocal interactions, charge, spin and physical terms (Unke et al. 2021, arXiv 2105.00304).

The architecture is that of the authors' code with its defaults: one residual block in every stack, exponential
Bernstein polynomials, Swish with learned constants. `docs/peers/spookynet.md` writes it out. Blocks of one input are
computed side by side, which changes nothing but the number of operations.

Edges reach to the larger of two cutoffs. The network's own vanish beyond `cutoff`, electrostatics and dispersion beyond
`long_cutoff`, where energy and force are shifted to 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.cost.parameters import SPECIES_TO_RADON
from chemscale.models.dispersion import BOHR, Dispersion, inverse_softplus, switch
from chemscale.models.graph import Graph

COULOMB = 14.399645351950548  # eV angstrom / e^2
# of a sum that is divided by
_TINY = 1e-8
# of the random features of attention, so that none vanishes
_FLOOR = 1e-4


class Swish(nn.Module):
    """alpha x sigmoid(beta x) with learned vectors, of several blocks side by side: [C, A, F]."""

    def __init__(self, copies: int, width: int) -> None:
        super().__init__()
        self.shape = (copies, 1, width)
        # flat, since weight decay acts on whatever has two dimensions or more
        self.alpha = nn.Parameter(torch.ones(copies * width))
        self.beta = nn.Parameter(torch.full((copies * width,), 1.702))

    def forward(self, x: Tensor) -> Tensor:
        """From [C or 1, A, F] to [C, A, F]."""
        return self.alpha.view(self.shape) * x * (self.beta.view(self.shape) * x).sigmoid()


class Linears(nn.Module):
    """Linear layers side by side: [C, A, F] to [C, A, F]; the first `drawn` begin orthogonal, the others zero."""

    def __init__(self, copies: int, width: int, bias: bool, drawn: int) -> None:
        super().__init__()
        self.shape, self.drawn = (copies, 1, width), drawn
        self.weight = nn.Parameter(torch.zeros(copies, width, width))
        self.bias = nn.Parameter(torch.zeros(copies * width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """The product of each with its own x."""
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias.view(self.shape), x, self.weight)


class Residual(nn.Module):
    """x + linear(swish(linear(swish(x)))), several side by side; the identity at first."""

    def __init__(self, copies: int, width: int, bias: bool = True) -> None:
        super().__init__()
        self.activation1, self.linear1 = Swish(copies, width), Linears(copies, width, bias, drawn=copies)
        self.activation2, self.linear2 = Swish(copies, width), Linears(copies, width, bias, drawn=0)

    def forward(self, x: Tensor) -> Tensor:
        """From [C or 1, A, F] to [C, A, F]."""
        result: Tensor = x + self.linear2(self.activation2(self.linear1(self.activation1(x))))
        return result


class Block(nn.Module):
    """linear(swish(residual(x))), several side by side; the first `drawn` of the last layers begin orthogonal."""

    def __init__(self, copies: int, width: int, *, drawn: int, bias: bool = True) -> None:
        super().__init__()
        self.residual = Residual(copies, width, bias)
        self.activation, self.linear = Swish(copies, width), Linears(copies, width, bias, drawn)

    def forward(self, x: Tensor) -> Tensor:
        """From [C or 1, A, F] to [C, A, F]."""
        result: Tensor = self.linear(self.activation(self.residual(x)))
        return result


class ElectronicEmbedding(nn.Module):
    """A frame's charge or spin, shared out among its atoms; of an amount of 0 exactly 0."""

    def __init__(self, width: int, signed: bool) -> None:
        super().__init__()
        self.signed = signed
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(2 if signed else 1, width, bias=False)
        self.value = nn.Linear(2 if signed else 1, width, bias=False)
        self.block = Block(1, width, drawn=0, bias=False)

    def forward(self, nuclei: Tensor, amount: Tensor, graph: Graph) -> Tensor:
        """Embedded nuclei [A, F] and the amount of each frame [F] to what is added to them [A, F]."""
        amount = amount.to(nuclei.dtype)
        kinds = torch.stack([amount, -amount], dim=1).relu() if self.signed else amount.abs()[:, None]
        keys = graph.of_frame(self.key(kinds / kinds.clamp(min=1)))
        shares = functional.softplus((keys * self.query(nuclei)).sum(1) / math.sqrt(nuclei.shape[1]))
        shares = shares / (graph.of_frame(graph.sum_of_atoms(shares)) + _TINY)
        added: Tensor = self.block((shares[:, None] * graph.of_frame(self.value(kinds)))[None])
        return added[0]


class BernsteinBasis(nn.Module):
    """Bernstein polynomials in exp(-a r) times one more such factor, a learned: distances [E] to [E, num_radial]."""

    def __init__(self, num_radial: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(inverse_softplus(0.5 / BOHR)))
        orders = range(num_radial)
        logs = [math.log(math.comb(num_radial - 1, order)) for order in orders]
        self.constants: Tensor
        kind = torch.get_default_dtype()
        table = torch.tensor([logs, [num_radial - order for order in orders], orders], dtype=kind)
        self.register_buffer("constants", table, persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Features of each distance."""
        scaled = (-functional.softplus(self.decay) * distances)[:, None]
        logs, near, far = self.constants
        result: Tensor = (logs + near * scaled + far * (-torch.expm1(scaled)).log()).exp()
        return result


def bump(distances: Tensor, cutoff: float) -> Tensor:
    """exp(-r^2 / (cutoff^2 - r^2)) within the cutoff, 0 beyond: derivatives of every order vanish there."""
    inside = distances < cutoff
    r = torch.where(inside, distances, 0.0)
    return torch.where(inside, (-r.square() / ((cutoff - r) * (cutoff + r))).exp(), 0.0)


def angular(directions: Tensor) -> Tensor:
    """The factors of s, p and d messages [E, 9] of unit vectors [E, 3]."""
    x, y, z = directions.unbind(1)
    root = math.sqrt(3)
    d = [root * x * y, root * x * z, root * y * z, 0.5 * (3 * z * z - 1), root / 2 * (x * x - y * y)]
    return torch.stack([torch.ones_like(x), x, y, z, *d], dim=1)


class Interaction(nn.Module):
    """Messages of s, p and d character from neighbours, and attention over all atoms of a frame."""

    def __init__(self, width: int, num_radial: int) -> None:
        super().__init__()
        self.before, self.after = Residual(1, width), Residual(1, width)
        # of one input: centre, s, p and d of the local part, then query, key and value of the nonlocal one
        self.branches = Block(7, width, drawn=4)
        # for s, p and d
        self.radial = nn.ModuleList(nn.Linear(num_radial, width, bias=False) for _ in range(3))
        self.project_p = nn.Linear(width, 2 * width, bias=False)
        self.project_d = nn.Linear(width, 2 * width, bias=False)
        self.local = Block(1, width, drawn=0)
        self.output = Block(1, width, drawn=1)
        # of random features: its columns are as long as normal ones, but orthogonal
        self.omega: Tensor
        self.register_buffer("omega", torch.empty(width, width))

    def forward(self, x: Tensor, basis: Tensor, factors: Tensor, same: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Features [1, A, F] to their next value and to this interaction's share of the output."""
        x = self.before(x)
        branches = self.branches(x)
        local = self.local(self._local(branches[:4], basis, factors, graph)[None])
        x = self.after(x + local + self._attention(branches[4:6], branches[6], same, graph))
        return x, self.output(x)

    def _local(self, branches: Tensor, basis: Tensor, factors: Tensor, graph: Graph) -> Tensor:
        centre, *sent = branches
        s, p, d = (
            graph.of_pair(radial(basis)) * graph.sent(own) for radial, own in zip(self.radial, sent, strict=True)
        )
        found: Tensor = centre + graph.sum_of_edges(s)
        for messages, own, project in ((p, factors[:, 1:4], self.project_p), (d, factors[:, 4:], self.project_d)):
            one, other = project(graph.sum_of_edges(own[:, :, None] * messages[:, None, :])).chunk(2, dim=2)
            found = found + (one * other).sum(1)
        return found

    def _attention(self, ends: Tensor, values: Tensor, same: Tensor, graph: Graph) -> Tensor:
        """Attention by random features of queries and keys, `ends` (Choromanski et al. 2021, arXiv 2009.14794).

        It is multiplied out over pairs of atoms of all frames, as in the authors' code. To sum keys times values over
        each frame first would take more, unless frames are many and the width small.
        """
        width = values.shape[1]
        features = (ends / width**0.25) @ self.omega
        norms = ends.square().sum(2, keepdim=True) / (2 * math.sqrt(width))
        # Each query's largest exponent is 0; so is that of each frame's keys, unless all are less. Were it not for the
        # floor, that would cancel: gradients pass through it.
        largest, of_keys = features.amax(2).unbind(0)
        of_frames = of_keys.new_zeros(graph.num_frames).scatter_reduce(0, graph.frame, of_keys, "amax")
        offsets = torch.stack([largest, graph.of_frame(of_frames)])[:, :, None]
        queries, keys = (((features - norms - offsets).exp() + _FLOOR) / math.sqrt(width)).unbind(0)
        weights: Tensor = (queries @ keys.T) * same
        return weights @ values / (weights.sum(1, keepdim=True) + _TINY)


class Repulsion(nn.Module):
    """Ziegler, Biersack and Littmark's repulsion of screened nuclei, with learned constants."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(inverse_softplus(0.23)))
        self.inverse_length = nn.Parameter(torch.tensor(inverse_softplus(1 / (0.8854 * BOHR))))
        shares, decays = (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016)
        self.shares = nn.Parameter(torch.tensor([inverse_softplus(x) for x in shares]))
        self.decays = nn.Parameter(torch.tensor([inverse_softplus(x) for x in decays]))

    def forward(self, graph: Graph, distances: Tensor, cut: Tensor) -> Tensor:
        """Energy of each directed pair in eV [E]; the two of a pair add up to its energy."""
        nuclei = graph.species.to(distances.dtype)
        sizes = nuclei ** functional.softplus(self.exponent)
        scaled = (graph.received(sizes) + graph.sent(sizes)) * functional.softplus(self.inverse_length) * distances
        shares = functional.softplus(self.shares)
        screening = (shares / shares.sum() * (-functional.softplus(self.decays) * scaled[:, None]).exp()).sum(1)
        return COULOMB / 2 * graph.received(nuclei) * graph.sent(nuclei) / distances * cut * screening


def coulomb(graph: Graph, charges: Tensor, distances: Tensor, cutoff: float, long_cutoff: float) -> Tensor:
    """Electrostatic energy of each directed pair in eV [E], of partial charges [A].

    Near atoms, within a part of the network's cutoff, it is damped; energy and force are shifted to 0 at `long_cutoff`.
    """
    near = switch(distances, 0.25 * cutoff, 0.75 * cutoff)
    plain = 1 / distances + distances / long_cutoff**2 - 2 / long_cutoff
    square = long_cutoff**2 + 1
    damped = (distances.square() + 1).rsqrt() + (distances * long_cutoff - 2 * long_cutoff**2 - 1) / square**1.5
    energies = COULOMB / 2 * graph.received(charges) * graph.sent(charges) * (near * damped + (1 - near) * plain)
    return torch.where(distances < long_cutoff, energies, 0.0)


def electron_configurations() -> list[list[int]]:
    """Of each element up to radon: its number, electrons in each shell, and those of its period's s, p, d and f."""
    held = {"s": 2, "p": 6, "d": 10, "f": 14}
    order = ["1s", "2s", "2p", "3s", "3p", "4s", "3d", "4p", "5s", "4d", "5p", "6s", "4f", "5d", "6p"]
    # electrons that are elsewhere than the order says
    moved = dict.fromkeys((24, 29), ("4s", "3d", 1)) | dict.fromkeys((41, 42, 44, 45, 47), ("5s", "4d", 1))
    moved |= (
        {46: ("5s", "4d", 2)} | dict.fromkeys((57, 58, 64), ("4f", "5d", 1)) | dict.fromkeys((78, 79), ("6s", "5d", 1))
    )
    rows = [[0] * (len(order) + 5)]
    for number in range(1, SPECIES_TO_RADON):
        shells, left = {}, number
        for shell in order:
            shells[shell] = min(left, held[shell[1]])
            left -= shells[shell]
        if number in moved:
            giving, taking, count = moved[number]
            shells[giving] -= count
            shells[taking] += count
        period = 1 + sum(number > noble for noble in (2, 10, 18, 36, 54))
        valence = [f"{period}s", f"{period}p", f"{period - 1}d", f"{period - 2}f"]
        rows.append([number, *shells.values(), *(shells.get(shell, 0) for shell in valence)])
    return rows


class SpookyNet(nn.Module):
    """SpookyNet of `width` features and `interactions` layers; energies per atom, also from charge and spin."""

    def __init__(
        self,
        width: int,
        interactions: int,
        num_radial: int,
        cutoff: float,
        long_cutoff: float,
        repulsion: bool,
        electrostatics: bool,
        dispersion: bool,
    ) -> None:
        super().__init__()
        self.cutoff, self.long_cutoff, self.electrostatics = cutoff, long_cutoff, electrostatics
        self.embedding = nn.Embedding(SPECIES_TO_RADON, width)
        table = torch.tensor(electron_configurations(), dtype=torch.float64)
        self.configurations: Tensor
        normed = (table / table.amax(0)).to(torch.get_default_dtype())
        self.register_buffer("configurations", normed, persistent=False)
        self.configuration = nn.Linear(table.shape[1], width, bias=False)
        self.charge, self.spin = ElectronicEmbedding(width, signed=True), ElectronicEmbedding(width, signed=False)
        self.basis = BernsteinBasis(num_radial)
        self.interactions = nn.ModuleList(Interaction(width, num_radial) for _ in range(interactions))
        # an atom's energy and partial charge
        self.readout = nn.Linear(width, 2, bias=False)
        self.species = nn.Embedding(SPECIES_TO_RADON, 2)
        self.repulsion = Repulsion() if repulsion else None
        self.dispersion = Dispersion(long_cutoff) if dispersion else None
        # eV per unit of energy, which the physical terms are divided by: `Potential` sets it
        self.unit: Tensor
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))

    def forward(self, graph: Graph) -> Tensor:
        """Energy per atom [A]."""
        vectors, distances = graph.vectors()
        cut = bump(distances, self.cutoff)
        near = graph.distances()
        basis, factors = self.basis(near) * bump(near, self.cutoff)[:, None], angular(vectors / distances[:, None])
        same = (graph.frame[:, None] == graph.frame).to(distances.dtype)
        nuclei = self.embedding(graph.species)
        nuclei = nuclei + self.configuration(self.configurations.index_select(0, graph.species))
        features = nuclei
        if graph.charge is not None:
            features = features + self.charge(nuclei, graph.charge, graph)
        if graph.spin is not None:
            features = features + self.spin(nuclei, graph.spin, graph)
        features, outputs = features[None], []
        for interaction in self.interactions:
            features, output = interaction(features, basis, factors, same, graph)
            outputs.append(output[0])
        energies: Tensor
        energies, charges = (self.readout(torch.stack(outputs).sum(0)) + self.species(graph.species)).unbind(1)

        physical = []
        if self.repulsion is not None:
            physical.append(self.repulsion(graph, distances, cut))
        if self.electrostatics or self.dispersion is not None:
            charges = self._neutralised(charges, graph)
        if self.electrostatics:
            physical.append(coulomb(graph, charges, distances, self.cutoff, self.long_cutoff))
        if self.dispersion is not None:
            physical.append(self.dispersion(graph, charges, distances))
        if physical:
            energies = energies + graph.sum_of_edges(torch.stack(physical).sum(0)) / self.unit
        return energies

    def _neutralised(self, charges: Tensor, graph: Graph) -> Tensor:
        """Partial charges that add up to each frame's charge: what is missing is spread evenly."""
        missing = -graph.sum_of_atoms(charges)
        if graph.charge is not None:
            missing = missing + graph.charge
        return charges + graph.of_frame(missing / graph.sum_of_atoms(torch.ones_like(charges)))


def build(knobs: dict[str, Any], generator: torch.Generator) -> SpookyNet:
    """A SpookyNet of a size, its weights and random features drawn from `generator`; many begin at 0."""
    model = SpookyNet(**knobs)
    for module in model.modules():
        if isinstance(module, Linears):
            for weight in module.weight.detach()[: module.drawn]:
                nn.init.orthogonal_(weight, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)
        elif isinstance(module, Interaction):
            square = torch.randn(module.omega.shape, generator=generator, dtype=torch.float64)
            lengths = torch.randn(module.omega.shape, generator=generator, dtype=torch.float64).norm(dim=0)
            module.omega.copy_(torch.linalg.qr(square)[0] * lengths)
    nn.init.zeros_(model.configuration.weight)
    return model
