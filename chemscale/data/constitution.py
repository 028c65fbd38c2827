"""What decides which molecules are kept together: the constitution of a molecule's parent, and its scaffold.

Bemis-Murcko scaffolds are the ring systems of a molecule and what links them: G. W. Bemis and M. A. Murcko, The
properties of known drugs. 1. Molecular frameworks, J. Med. Chem. 39, 2887 (1996). They are computed only where a study
asks for them: a scaffold takes longer than parsing its molecule.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

# a canonical SMILES that says more than its constitution: stereo, fragments, isotopes, charges, explicit hydrogen atoms
_MORE_THAN_CONSTITUTION = re.compile(r"[@/\\.]|\[(?:\d|H\]|[^\]]*[+-])")


@cache
def quiet() -> None:
    """Silence RDKit's log in this process: what it says of a row is the row's reject reason here."""
    from rdkit import rdBase

    rdBase.DisableLog("rdApp.*")


def says_more(canonical: str) -> bool:
    """Whether a canonical SMILES says more than the constitution of the molecule's parent; if not, it is that."""
    return _MORE_THAN_CONSTITUTION.search(canonical) is not None


def constitution(canonical: str) -> str:
    """The constitution of the parent of a molecule that was kept, by its canonical SMILES."""
    from rdkit import Chem

    if not says_more(canonical):
        return canonical
    quiet()
    fragments = Chem.GetMolFrags(Chem.MolFromSmiles(canonical), asMols=True)
    return constitution_of_parent(largest_fragment(list(fragments)) if len(fragments) > 1 else fragments[0])


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


def constitution_of_parent(fragment: Any) -> str:
    """The canonical SMILES of a fragment without stereo, isotopes, and the charges that protons can balance."""
    from rdkit import Chem
    from rdkit.Chem.MolStandardize.rdMolStandardize import Uncharger

    parent = without_stereo(fragment)
    if any(atom.GetFormalCharge() for atom in parent.GetAtoms()):
        # force: also where a charge that no proton can balance, a quaternary nitrogen's, stays behind
        parent = Uncharger(force=True).uncharge(parent)
    return str(Chem.MolToSmiles(parent, isomericSmiles=False))


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


def scaffold(constitution: str) -> str:
    """The canonical SMILES of a molecule's scaffold, by its constitution; "" where it has no ring."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    molecule = Chem.MolFromSmiles(constitution)
    if molecule is None:
        # a graph without the charge that its aromatic bonds had, a cyclopentadienide's: rings are rings all the same
        molecule = Chem.MolFromSmiles(constitution, sanitize=False)
        Chem.FastFindRings(molecule)
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=molecule))  # type: ignore[no-untyped-call]
