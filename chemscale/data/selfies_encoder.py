"""The SELFIES of a canonical SMILES: what `selfies.encoder` returns, several times as fast.

The algorithm is that of the library selfies 2.2 (M. Krenn et al., Mach. Learn.: Sci. Technol. 1, 045024 (2020)): read
the SMILES into directed bonds, give aromatic bonds alternating orders by a perfect matching, write symbols depth first.
The library keeps an object for each token, atom, bond and attribution; here they are numbers in lists, and what the
text of an atom alone decides is worked out once. All tables are the library's. Whatever this reader does not know goes
to the library itself, which so remains the judge of every error.
"""

from __future__ import annotations

import heapq
import re
from functools import lru_cache
from typing import NamedTuple

import selfies
from selfies.bond_constraints import get_bonding_capacity
from selfies.constants import AROMATIC_VALENCES, VALENCE_ELECTRONS
from selfies.grammar_rules import get_selfies_from_index
from selfies.utils.matching_utils import find_perfect_matching
from selfies.utils.smiles_utils import atom_to_smiles, smiles_to_atom

# bond, atom, ring number, or one of "(", ")", "."
_TOKENS = re.compile(r"([-=#/\\]?)(?:(Br|Cl|[BCNOSPFIbcnosp]|\[[^\]]*\])|(\d|%\d\d))|([().])")
_ALL_TOKENS = re.compile(rf"(?:{_TOKENS.pattern})+")
_ORDERS = {"": 1, "-": 1, "=": 2, "#": 3, "/": 1, "\\": 1}
_BOND_TEXTS: dict[float, str] = {0: "", 1: "", 2: "=", 3: "#"}  # 0: before a root
_STEREO = ("/", "\\")


class _Atom(NamedTuple):
    """What the SMILES token of an atom says."""

    aromatic: bool
    symbol: str  # without bond and brackets
    inverted: str  # the symbol with the other chirality; the symbol itself where there is none
    capacity: int  # of bonds, attached hydrogen taken off
    element: str
    charge: int
    hydrogens: int | None  # None where they are implicit


@lru_cache(4096)
def _atom(token: str) -> _Atom | None:
    atom = smiles_to_atom(token)
    if atom is None:
        return None
    aromatic, atom.is_aromatic = atom.is_aromatic, False
    symbol = atom_to_smiles(atom, brackets=False)
    atom.invert_chirality()
    capacity = get_bonding_capacity(atom.element, atom.charge) - (atom.h_count or 0)
    inverted = atom_to_smiles(atom, brackets=False)
    return _Atom(aromatic, symbol, inverted, capacity, atom.element, atom.charge, atom.h_count)


@lru_cache(4096)
def _takes_no_double_bond(atom: _Atom, bonds: float, aromatic_bonds: int) -> bool:
    """Whether an aromatic atom with this sum of bond orders (1.5 each aromatic bond) has no electron to pair."""
    if not aromatic_bonds:
        return True
    valences = AROMATIC_VALENCES[atom.element]
    used = int(bonds - 0.5 * aromatic_bonds)
    if atom.hydrogens is None:
        return used in valences
    used += atom.hydrogens
    bound = max(0, atom.charge) + atom.hydrogens + int(bonds) + int(2 * (bonds % 1))
    unpaired = max(0, VALENCE_ELECTRONS[atom.element] - bound) % 2
    free = valences[-1] - atom.charge - used - unpaired
    return used in [valence - atom.charge for valence in valences] or not (free >= 0 and free % 2 != 0)


@lru_cache(4096)
def _index_symbols(index: int) -> tuple[str, ...]:
    return tuple(get_selfies_from_index(index))


def encode(smiles: str) -> str:
    """The SELFIES of an RDKit canonical SMILES, the same text as `selfies.encoder(smiles)`.

    Raises:
        selfies.EncoderError: as the library's encoder, for a wildcard atom or too many bonds, for instance.
    """
    graph = _read(smiles)
    if graph is None or not graph.make_kekule():
        return str(selfies.encoder(smiles))
    if any(bonds > atom.capacity for atom, bonds in zip(graph.atoms, graph.bonds, strict=True)):
        return str(selfies.encoder(smiles))
    if "@" in smiles:
        graph.restore_chirality()
    return ".".join("".join(graph.fragment(root)) for root in graph.roots)


class _Graph:
    """A molecule as its SMILES states it: atoms in order, and bonds from the earlier text to the later.

    `out[a]` lists what follows atom a in the text: the number of the next atom for a chain or branch, ~r for an end of
    ring bond r. Orders are 1, 2, 3, or 1.5 for an aromatic bond.
    """

    def __init__(self) -> None:
        self.atoms: list[_Atom] = []
        self.symbols: list[str] = []
        self.roots: list[int] = []
        self.out: list[list[int]] = []
        self.bonds: list[float] = []  # sum of bond orders of each atom
        self.order: list[float] = []  # of the bond into each atom; 0 for a root
        self.stereo: list[str] = []  # "/" or "\" of that bond, or ""
        self.rings: list[tuple[int, int, str, str]] = []  # both ends, the stereo stated at each
        self.ring_order: list[float] = []
        # aromatic atoms and the other ends of their aromatic bonds: (atom, atom of the bond into it or ~ring)
        self.aromatic: dict[int, list[tuple[int, int]]] = {}

    def make_kekule(self) -> bool:
        """Turn aromatic bonds to orders 1 and 2; False where that cannot be."""
        aromatic = self.aromatic
        if not aromatic:
            return True
        kept = [
            atom
            for atom in sorted(aromatic)
            if not _takes_no_double_bond(self.atoms[atom], self.bonds[atom], len(aromatic[atom]))
        ]
        label = {atom: index for index, atom in enumerate(kept)}
        graph = tuple(tuple(label[other] for other, _ in aromatic[atom] if other in label) for atom in kept)
        matching = _matching(graph)
        if matching is None:
            return False
        order, ring_order = self.order, self.ring_order
        for atom, neighbours in aromatic.items():
            self.bonds[atom] -= 0.5 * len(neighbours)
            for _, bond in neighbours:
                if bond < 0:
                    ring_order[~bond] = 1
                else:
                    order[bond] = 1
        for index, mate in enumerate(matching):
            atom, other = kept[index], kept[mate]
            self.bonds[atom] += 1
            if index < mate:
                bond = next(bond for neighbour, bond in aromatic[atom] if neighbour == other)
                if bond < 0:
                    ring_order[~bond] = 2
                else:
                    order[bond] = 2
        return True

    def restore_chirality(self) -> None:
        """Invert the chirality of atoms around which SELFIES lists the ring bonds in another, odd order."""
        for index, atom in enumerate(self.atoms):
            if atom.inverted != atom.symbol and any(entry < 0 for entry in self.out[index]):
                closing, opening, chain = [], [], []
                for place, entry in enumerate(self.out[index]):
                    if entry >= 0:
                        chain.append(place)
                    elif self.rings[~entry][1] == index:
                        closing.append(place)
                    else:
                        opening.append((self.rings[~entry][1], place))
                order = closing + [place for _, place in sorted(opening)] + chain
                swaps = sum(one > other for at, one in enumerate(order) for other in order[at + 1 :])
                if swaps % 2:
                    self.symbols[index] = atom.inverted

    def fragment(self, atom: int) -> list[str]:
        """The symbols of the chain that begins with an atom, its branches included."""
        out, symbols, order, stereo = self.out, self.symbols, self.order, self.stereo
        derived: list[str] = []
        while True:
            derived.append(f"[{_BOND_TEXTS[order[atom]] or stereo[atom]}{symbols[atom]}]")
            following = out[atom]
            if not following:
                return derived
            last = following[-1]
            for entry in following:
                if entry < 0:
                    begin, end, begin_stereo, end_stereo = self.rings[~entry]
                    if end != atom:
                        continue  # the ring bond is written at its later end
                    text = _BOND_TEXTS[self.ring_order[~entry]]
                    if not text and (begin_stereo or end_stereo):
                        text = (begin_stereo or "-") + (end_stereo or "-")
                    index = _index_symbols(end - begin - 1)
                    derived.append(f"[{text}Ring{len(index)}]")
                    derived += index
                elif entry != last:
                    branch = self.fragment(entry)
                    index = _index_symbols(len(branch) - 1)
                    derived.append(f"[{_BOND_TEXTS[order[entry]]}Branch{len(index)}]")
                    derived += index
                    derived += branch
            if last < 0:
                return derived
            atom = last


def _read(smiles: str) -> _Graph | None:
    """The graph of a SMILES; None where this reader does not know what stands there."""
    if not _ALL_TOKENS.fullmatch(smiles):
        return None
    graph = _Graph()
    atoms, out, bonds, order, aromatic = graph.atoms, graph.out, graph.bonds, graph.order, graph.aromatic
    previous = -1
    branches: list[int] = []
    open_rings: dict[str, tuple[int, str, int]] = {}
    for bond, token, ring, mark in _TOKENS.findall(smiles):
        if token:
            atom = _atom(token)
            if atom is None:
                return None
            index = len(atoms)
            atoms.append(atom)
            graph.symbols.append(atom.symbol)
            out.append([])
            graph.stereo.append(bond if bond in _STEREO else "")
            if atom.aromatic:
                aromatic[index] = []
            if previous < 0:
                if bond:
                    return None
                graph.roots.append(index)
                bonds.append(0)
                order.append(0)
            else:
                out[previous].append(index)
                if atom.aromatic and not bond and atoms[previous].aromatic:
                    this: float = 1.5
                    aromatic[previous].append((index, index))
                    aromatic[index].append((previous, index))
                else:
                    this = _ORDERS[bond]
                order.append(this)
                bonds.append(this)
                bonds[previous] += this
            previous = index
        elif ring:
            if previous < 0:
                return None
            if ring not in open_rings:
                open_rings[ring] = (previous, bond, len(out[previous]))
                out[previous].append(0)
                continue
            begin, begin_bond, place = open_rings.pop(ring)
            begin_stereo = begin_bond if begin_bond in _STEREO else ""
            stereo = bond if bond in _STEREO else ""
            if begin == previous or (begin_bond and bond and begin_bond != bond and not (begin_stereo and stereo)):
                return None
            number = len(graph.rings)
            out[begin][place] = ~number
            out[previous].append(~number)
            graph.rings.append((begin, previous, begin_stereo, stereo))
            if not begin_bond and not bond and atoms[begin].aromatic and atoms[previous].aromatic:
                this = 1.5
                aromatic[begin].append((previous, ~number))
                aromatic[previous].append((begin, ~number))
            else:
                this = max(_ORDERS[begin_bond], _ORDERS[bond])
            graph.ring_order.append(this)
            bonds[begin] += this
            bonds[previous] += this
        elif mark == "(":
            if previous < 0:
                return None
            branches.append(previous)
        elif mark == ")":
            if not branches:
                return None
            previous = branches.pop()
        else:
            if branches or open_rings or previous < 0:
                return None
            previous = -1
    return None if branches or open_rings or previous < 0 else graph


@lru_cache(4096)
def _matching(graph: tuple[tuple[int, ...], ...]) -> list[int] | None:
    """The perfect matching that the library finds: greedily, and by its own search where that leaves an atom out."""
    matching = [-1] * len(graph)
    free = [len(neighbours) for neighbours in graph]
    waiting = [(degree, node) for node, degree in enumerate(free)]
    heapq.heapify(waiting)
    while waiting:
        _, node = heapq.heappop(waiting)
        if matching[node] >= 0 or free[node] == 0:
            continue
        mate = next(other for other in graph[node] if matching[other] < 0)
        matching[node], matching[mate] = mate, node
        for other in (*graph[node], *graph[mate]):
            free[other] -= 1
            if matching[other] < 0 and free[other] > 0:
                heapq.heappush(waiting, (free[other], other))
    if -1 in matching:
        found: list[int] | None = find_perfect_matching([list(neighbours) for neighbours in graph])
        return found
    return matching
