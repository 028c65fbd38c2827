"""Bemis-Murcko scaffolds: the ring systems of a molecule and what links them.

G. W. Bemis and M. A. Murcko, The properties of known drugs. 1. Molecular frameworks, J. Med. Chem. 39, 2887 (1996).
Computed only where a study asks for them: a scaffold takes longer than parsing its molecule.
"""

from __future__ import annotations


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
