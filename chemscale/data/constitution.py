"""What decides which molecules are kept together: the constitution of a molecule's parent, and its framework.

The parent of a molecule is found on its graph of atoms and bonds:

1. Isotopes and stereo are ignored. A hydrogen atom with one neighbour is counted at that neighbour.
2. Bonds between a metal and anything but a metal are cut, and their electrons stay with the partner: a salt drawn with
   bonds is the salt drawn with ions. Mercury and the metals of the p block, but for aluminium, keep their
   bonds to carbon.
3. The largest organic fragment is the parent: fragments with carbon before those without, then those that are more than
   metal; then the most heavy atoms, the highest sum of atomic numbers, the most hydrogen, the first text.

Its constitution is which elements are bonded to which, without bond orders and charges, and the number of its hydrogen
atoms less its charge. That number stays where a proton comes or goes: an acid, its anion, its zwitterion and its salts
are one parent, whatever atom the proton comes back to. Nor does it depend on how a nitro group, an azide or an N-oxide
is drawn. It also keeps together tautomers, and isomers that differ only in where their double bonds are: groups that
are too coarse leak nothing.

Atoms are told apart by colour refinement (B. Weisfeiler and A. Leman, 1968), not by a canonical SMILES: RDKit's depends
on the order of atoms in some symmetric molecules. Refinement takes few pairs of graphs for one, such as decalin and
bicyclopentyl.

Limits: a counterion that is larger than the drug is the parent. A mixture has the parent of its largest molecule. An
oligomer is a parent of its own. Without carbon, a salt has the parent of its largest anion, so that metal chlorides go
with hydrogen chloride, and oxides and hydroxides with water; a metal alone is its own parent. A quaternary ammonium ion
is no form of the amine. A radical is another parent than the molecule with one hydrogen more, as a quinone is than its
hydroquinone. A metal that is bonded to several carbon atoms of one ligand leaves a charge for each of its bonds: drawn
so, ferrocene has another parent than its ions.

Bemis-Murcko scaffolds are the ring systems of a molecule and what links them: G. W. Bemis and M. A. Murcko, The
properties of known drugs. 1. Molecular frameworks, J. Med. Chem. 39, 2887 (1996). They are computed only where a study
asks for them: a scaffold takes longer than parsing its molecule. A framework is the skeleton of a scaffold: it does not
depend on the form in which the parent is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_CARBON = 6
# lithium, beryllium, sodium to aluminium, potassium to germanium, rubidium to antimony, caesium to polonium, the rest
_METALS = frozenset({3, 4, 11, 12, 13, *range(19, 33), *range(37, 52), *range(55, 85), *range(87, 119)})
# gallium, germanium, indium, tin, antimony, mercury, thallium, lead, bismuth, polonium
_KEEP_CARBON = frozenset({31, 32, 49, 50, 51, 80, 81, 82, 83, 84})


@cache
def quiet() -> None:
    """Silence RDKit's log in this process: what it says of a row is the row's reject reason here."""
    from rdkit import rdBase

    rdBase.DisableLog("rdApp.*")


@dataclass(frozen=True)
class _Graph:
    """Atoms and bonds of a molecule: by atom its element and neighbours; `hydrogen` is what it has less its charge."""

    elements: list[int]
    neighbours: list[list[int]]
    hydrogen: list[int]

    def total(self, atoms: Iterable[int]) -> int:
        """The hydrogen less the charge of some atoms; atoms of hydrogen itself count."""
        return sum(self.hydrogen[atom] + (self.elements[atom] == 1) for atom in atoms)


def constitution(molecule: Any) -> str:
    """The constitution of the parent of an RDKit molecule, as a text: equal for two molecules that have one parent."""
    from rdkit import Chem

    elements, neighbours = _atoms_and_bonds(molecule)
    if _is_parent(molecule, elements):
        # the usual molecule, for which RDKit sums what would have to be summed over atoms
        hydrogen = molecule.GetNumAtoms(onlyExplicit=False) - len(elements) - Chem.GetFormalCharge(molecule)
        return _text(elements, neighbours, hydrogen)
    graph, _ = _cut(molecule, elements, neighbours)
    return _parent_of(graph)[1]


def framework(molecule: Any) -> str:
    """The rings of a molecule's parent and what links them, as a text; "" where it has no ring.

    Molecules of one scaffold have one framework, and so have molecules of one parent.
    """
    elements, neighbours = _atoms_and_bonds(molecule)
    atoms: Iterable[int] = range(len(elements))
    if not _is_parent(molecule, elements):
        graph, _ = _cut(molecule, elements, neighbours)
        atoms, neighbours = _parent_of(graph)[0], graph.neighbours
    degree = {atom: len(neighbours[atom]) for atom in atoms}
    ends = [atom for atom in degree if degree[atom] <= 1]
    for atom in ends:  # grows while it is read
        del degree[atom]
        for other in neighbours[atom]:
            if other in degree:
                degree[other] -= 1
                if degree[other] == 1:
                    ends.append(other)
    return _text(*_part(elements, neighbours, sorted(degree)), 0) if degree else ""


def parent_smiles(molecule: Any) -> str:
    """The canonical SMILES of a molecule's parent without stereo, isotopes and the charges that protons can balance."""
    from rdkit import Chem
    from rdkit.Chem.MolStandardize.rdMolStandardize import Uncharger

    parent = without_stereo(molecule)
    elements, neighbours = _atoms_and_bonds(parent)
    if not _is_parent(parent, elements):
        graph, cuts = _cut(parent, elements, neighbours)
        mine = set(_parent_of(graph)[0])
        # hydrogen that was counted at its neighbour stays where it is
        mine |= {atom for atom, number in enumerate(elements) if number == 1 and mine.intersection(neighbours[atom])}
        editable = Chem.RWMol(parent)
        for (atom, other), order in cuts.items():
            editable.RemoveBond(atom, other)
            charged = editable.GetAtomWithIdx(atom)
            charged.SetFormalCharge(charged.GetFormalCharge() - order)
        editable.BeginBatchEdit()
        for atom in set(range(len(elements))) - mine:
            editable.RemoveAtom(atom)
        editable.CommitBatchEdit()
        parent = editable.GetMol()
        Chem.SanitizeMol(parent)
    if any(atom.GetFormalCharge() for atom in parent.GetAtoms()):
        # force: also where a charge that no proton can balance, a quaternary nitrogen's, stays behind
        parent = Uncharger(force=True).uncharge(parent)
    return str(Chem.MolToSmiles(parent, isomericSmiles=False))


def _atoms_and_bonds(molecule: Any) -> tuple[list[int], list[list[int]]]:
    """The atomic number and the neighbours of every atom."""
    from rdkit import Chem

    elements = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    neighbours: list[list[int]] = [[] for _ in elements]
    begins, ends = Chem.GetAdjacencyMatrix(molecule).nonzero()
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        neighbours[begin].append(end)
    return elements, neighbours


def _is_parent(molecule: Any, elements: Sequence[int]) -> bool:
    """Whether a molecule is its own parent: one fragment without metals and without hydrogen as atoms of the graph."""
    from rdkit import Chem

    return _METALS.isdisjoint(elements) and 1 not in elements and len(Chem.GetMolFrags(molecule)) == 1


def _cut(molecule: Any, elements: list[int], neighbours: list[list[int]]) -> tuple[_Graph, dict[tuple[int, int], int]]:
    """The graph without bonds to metals and to counted hydrogen; and (partner, metal) of each bond with its order."""
    hydrogen = [atom.GetTotalNumHs() - atom.GetFormalCharge() for atom in molecule.GetAtoms()]
    removed: set[tuple[int, int]] = set()
    for atom, number in enumerate(elements):
        if number == 1 and len(neighbours[atom]) == 1 and elements[neighbours[atom][0]] != 1:
            hydrogen[neighbours[atom][0]] += 1 + hydrogen[atom]
            removed.add((atom, neighbours[atom][0]))
    counted = {atom for atom, _ in removed}
    cuts: dict[tuple[int, int], int] = {}
    for metal, number in enumerate(elements):
        for atom in neighbours[metal] if number in _METALS else ():
            other = elements[atom]
            if other in _METALS or atom in counted or (other == _CARBON and number in _KEEP_CARBON):
                continue
            bond = molecule.GetBondBetweenAtoms(atom, metal)
            # the electrons that the partner gave for the bond; none for one that it gives both of
            order = round(bond.GetValenceContrib(molecule.GetAtomWithIdx(atom)))
            cuts[atom, metal] = order
            hydrogen[atom] += order
            hydrogen[metal] -= order
    removed.update(cuts)
    left = [
        [] if atom in counted else [other for other in others if not {(atom, other), (other, atom)} & removed]
        for atom, others in enumerate(neighbours)
    ]
    # hydrogen that is counted at a neighbour is no atom of the graph
    return _Graph([0 if atom in counted else number for atom, number in enumerate(elements)], left, hydrogen), cuts


def _parent_of(graph: _Graph) -> tuple[list[int], str]:
    """The atoms of the largest organic fragment, and the text of its constitution."""
    fragments = []
    seen: set[int] = set()
    for first, number in enumerate(graph.elements):
        if number == 0 or first in seen:
            continue
        fragment = [first]
        seen.add(first)
        for atom in fragment:  # grows while it is read
            new = [other for other in graph.neighbours[atom] if other not in seen]
            seen.update(new)
            fragment += new
        fragments.append(sorted(fragment))

    def rank(atoms: list[int]) -> tuple[bool, bool, int, int, int]:
        numbers = [graph.elements[atom] for atom in atoms]
        heavy = [number for number in numbers if number > 1]
        return (
            _CARBON not in numbers,
            _METALS.issuperset(numbers),
            -len(heavy),
            -sum(heavy),
            -graph.total(atoms),
        )

    best = min(map(rank, fragments))
    return min(
        ((atoms, _fragment_text(graph, atoms)) for atoms in fragments if rank(atoms) == best),
        key=lambda found: found[1],
    )


def _fragment_text(graph: _Graph, atoms: list[int]) -> str:
    total = graph.total(atoms)
    heavy = [atom for atom in atoms if graph.elements[atom] != 1]
    # a hydride, a proton and hydrogen have no skeleton; hydrogen that bridges atoms is part of theirs
    return _text(*_part(graph.elements, graph.neighbours, atoms), total) if heavy else _text([], [], total)


def _part(
    elements: Sequence[int], neighbours: Sequence[Sequence[int]], atoms: Sequence[int]
) -> tuple[list[int], list[list[int]]]:
    """Elements and neighbours of some atoms of a graph, which get new numbers."""
    place = {atom: index for index, atom in enumerate(atoms)}
    return (
        [elements[atom] for atom in atoms],
        [[place[other] for other in neighbours[atom] if other in place] for atom in atoms],
    )


def _text(elements: list[int], neighbours: list[list[int]], hydrogen: int) -> str:
    """A graph as a text that does not depend on the order of its atoms, by colour refinement.

    The text holds the kinds of atoms, each with its number of atoms, its element and the kinds of its neighbours.
    """
    colours, distinct = elements, 0
    while True:
        seen = [
            (colours[atom], *sorted([colours[other] for other in others])) for atom, others in enumerate(neighbours)
        ]
        names = {kind: name for name, kind in enumerate(sorted(set(seen)))}
        if len(names) == distinct:
            break
        distinct = len(names)
        colours = [names[kind] for kind in seen]
    kinds = Counter(zip(seen, elements, strict=True))
    body = ";".join(f"{count}*{element}:{','.join(map(str, kind))}" for (kind, element), count in sorted(kinds.items()))
    return f"{body}/H{hydrogen}"


def without_stereo(molecule: Any) -> Any:
    """A copy without stereo and isotopes, and without the hydrogen atoms that only stated one of them."""
    from rdkit import Chem

    bare = Chem.Mol(molecule)
    Chem.RemoveStereochemistry(bare)
    # a deuterium is an atom of the graph, and so is a hydrogen that stated the stereo of its bond
    if any(atom.GetIsotope() or atom.GetAtomicNum() == 1 for atom in bare.GetAtoms()):
        for atom in bare.GetAtoms():
            atom.SetIsotope(0)
        bare = Chem.RemoveHs(bare)
    return bare


def largest_fragment(fragments: list[Any]) -> Any:
    """The fragment of most heavy atoms, then most atoms; then the first in the order of the SMILES text."""
    from rdkit import Chem

    return min(
        fragments,
        key=lambda part: (
            -part.GetNumHeavyAtoms(),
            -Chem.AddHs(part).GetNumAtoms(),
            Chem.MolToSmiles(part, isomericSmiles=False),
        ),
    )


def scaffold(parent: str) -> str:
    """The scaffold of a parent, canonical SMILES both; "" where it has no ring."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = Chem.MolFromSmiles(parent)
    if molecule is None:
        # a graph without the charge that its aromatic bonds had, a cyclopentadienide's: rings are rings all the same
        molecule = Chem.MolFromSmiles(parent, sanitize=False)
        Chem.FastFindRings(molecule)
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule))  # type: ignore[no-untyped-call]
