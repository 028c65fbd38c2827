"""Grimme's D4 dispersion energy of pairs (Caldeweyher et al. 2019, doi 10.1063/1.5090222), as SpookyNet has it.

Partial charges come from the network, there is no term of three atoms, and four constants are learned. C6 coefficients
are sums over frequencies of products of two atoms' polarisabilities, so that those are summed over reference systems
once an atom: the authors contract a table of both elements' references for every pair. The learned scale of reference
charges always acts on the reference polarisabilities; the authors' code takes it into them when it loads a model.

`d4_tables.safetensors` is made by `tests/peers/make_d4_tables.py` from packages of the Grimme group under the Apache
License 2.0 (`d4_tables.LICENSE`).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from chemscale.models.graph import Graph

BOHR = 0.5291772105638411  # angstrom
HARTREE = 27.211386024367243  # eV
_TABLES = Path(__file__).with_name("d4_tables.safetensors")
# of coordination numbers
_K2, _K4, _K5, _K6, _STEEPNESS = 4 / 3, 4.10451, 19.08857, 254.5553148552, 7.5
_WEIGHT = 6.0  # of reference systems
# below it a sum of weights, and an atom's effective nuclear charge, are none to divide by
_TINY = 1e-8


def inverse_softplus(x: float) -> float:
    """The number whose softplus is `x`."""
    return x + math.log(-math.expm1(-x))


def switch(distances: Tensor, start: float, end: float) -> Tensor:
    """1 up to `start`, 0 from `end`, with derivatives of every order between."""
    along = (distances - start) / (end - start)

    def rise(x: Tensor) -> Tensor:
        inside = x > 0
        return torch.where(inside, (-1 / torch.where(inside, x, 1.0)).exp(), 0.0)

    left, gone = rise(1 - along), rise(along)
    return left / (left + gone)


def growth(reference: Tensor, effective: Tensor, hardness: Tensor) -> Tensor:
    """By how much a polarisability grows with charge: of the effective nuclear charges of a reference and an atom."""
    positive = effective > _TINY
    ratio = reference / torch.where(positive, effective, 1.0)
    return torch.where(positive, (3 * (1 - (2 * hardness * (1 - ratio)).exp())).exp(), math.exp(3))


class Dispersion(nn.Module):
    """The dispersion energy of pairs, shifted so that energy and force vanish at a cutoff."""

    def __init__(self, cutoff: float) -> None:
        """`cutoff`: in angstrom."""
        super().__init__()
        self.cutoff = cutoff / BOHR
        # damping constants of Hartree-Fock, and the scale of reference charges
        self.s8 = nn.Parameter(torch.tensor(inverse_softplus(1.61679827)))
        self.a1 = nn.Parameter(torch.tensor(inverse_softplus(0.44959224)))
        self.a2 = nn.Parameter(torch.tensor(inverse_softplus(3.35743605)))
        self.charge_scale = nn.Parameter(torch.tensor(inverse_softplus(1.0)))
        from safetensors.torch import load_file

        tables = load_file(_TABLES)
        gaussians, others = tables["reference_gaussians"], tables["reference_others_kind"].long()
        tables |= {"one": (gaussians >= 1).double(), "three": (gaussians == 3).double()}
        tables |= {"others_nucleus": tables["nucleus"][others], "others_hardness": tables["hardness"][others]}
        # each C6 coefficient is then a plain product
        frequencies = (3 / math.pi * tables["frequency_weight"]).sqrt()

        def columns(*names: str) -> Tensor:
            return torch.stack([tables[name] for name in names], dim=1)

        def keep(name: str, value: Tensor) -> None:
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

        # by atomic number: what pairs need, what atoms do, and each of an element's reference systems
        self.of_pairs: Tensor
        self.of_atoms: Tensor
        self.of_references: Tensor
        keep("of_pairs", columns("radius", "electronegativity", "moment"))
        keep("of_atoms", columns("nucleus", "hardness"))
        reference = ("reference_charge", "reference_coordination")
        keep("of_references", columns(*reference, "one", "three", "reference_alone"))
        # polarisabilities of whole reference systems; and, to be taken off, those of their other atoms
        self.polarisabilities: Tensor
        self.of_others: Tensor
        self.others: Tensor
        keep("polarisabilities", tables["reference_polarisability"] * frequencies)
        keep("of_others", columns("others_nucleus", "reference_others_charge", "others_hardness"))
        off = tables["reference_others"][:, :, None] * tables["others_polarisability"][others]
        keep("others", off * frequencies)

    def forward(self, graph: Graph, charges: Tensor, distances: Tensor) -> Tensor:
        """Energy of each directed pair in eV [E], of partial charges [A]; the two of a pair add up to its energy."""
        r = distances / BOHR
        elements = self.of_pairs.index_select(0, graph.species)
        radius, negativity, moment = graph.received(elements).unbind(1)
        other_radius, other_negativity, other_moment = graph.sent(elements).unbind(1)

        bond = _K2 * (radius + other_radius)
        strength = _K4 * (-((negativity - other_negativity).abs() + _K5).square() / _K6).exp()
        bonded = strength * 0.5 * (1 + torch.erf(-_STEEPNESS * (r - bond) / bond))
        # the switch is as wide as in the authors' code: an angstrom's number of bohr taken the other way round
        coordination = graph.sum_of_edges(bonded * switch(r, self.cutoff - BOHR, self.cutoff))
        seen = self._polarisability(graph.species, coordination, charges)
        c6 = (graph.received(seen) * graph.sent(seen)).sum(1)

        c8_over_c6 = 3 * (moment * other_moment).square()
        damping = functional.softplus(self.a1) * c8_over_c6.sqrt() + functional.softplus(self.a2)
        attraction = self._inverse(r, damping, 6)
        attraction = attraction + functional.softplus(self.s8) * c8_over_c6 * self._inverse(r, damping, 8)
        return torch.where(r < self.cutoff, -HARTREE / 2 * c6 * attraction, 0.0)

    def _polarisability(self, species: Tensor, coordination: Tensor, charges: Tensor) -> Tensor:
        """Of each atom at each frequency [A, 23], from its coordination number and charge."""
        charge, numbers, one, three, alone = self.of_references.index_select(0, species).unbind(1)
        likeness = (-_WEIGHT * (coordination[:, None] - numbers).square()).exp()
        # some reference systems have a second and a third gaussian, two and three times as sharp
        weights = likeness * (one + three * likeness * (1 + likeness))
        total = weights.sum(1, keepdim=True)
        alike = total > _TINY
        weights = torch.where(alike, weights / torch.where(alike, total, 1.0), alone)

        scale = functional.softplus(self.charge_scale)
        nucleus, hardness = self.of_atoms.index_select(0, species).chunk(2, dim=1)
        weights = weights * growth(nucleus + charge * scale, nucleus + charges[:, None], hardness)
        # once an element: it depends on no position
        nucleus, charge, hardness = self.of_others.unbind(1)
        others = growth(nucleus, nucleus + charge * scale, hardness)[:, :, None] * self.others
        references = (self.polarisabilities - others).clamp(min=0)
        return (weights[:, :, None] * references.index_select(0, species)).sum(1)

    def _inverse(self, r: Tensor, damping: Tensor, power: int) -> Tensor:
        """1 / (r^power + damping^power), less its value and slope at the cutoff."""
        damped, end = damping**power, self.cutoff**power
        last = end + damped
        return 1 / (r**power + damped) - 1 / last + power * end / last.square() * (r / self.cutoff - 1)
