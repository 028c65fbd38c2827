"""What is compared of molecules: columns of descriptors, scaffolds and fingerprints by RDKit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors, rdFingerprintGenerator

from chemscale.data.constitution import quiet
from chemscale.data.prepare_scaffolds import scaffold_of

FINGERPRINT_BITS = 1024
# MOSES compares scaffolds of at least two rings: one ring is nearly always benzene
_LEAST_RINGS = 2


def parsed(smiles: Sequence[str]) -> list[Any]:
    """RDKit's molecules of those texts that it reads, in their order."""
    quiet()
    return [molecule for text in smiles if (molecule := Chem.MolFromSmiles(text)) is not None]


def describe(molecules: Sequence[Any]) -> dict[str, list[Any]]:
    """The columns of molecules, a value each.

    smiles (canonical), scaffold (Bemis-Murcko, of the parent; None with fewer than two rings), fingerprint (Morgan of
    radius 2, 1,024 bits, as hex), weight (g/mol), log_p (Crippen's), qed (Bickerton et al., Nat. Chem. 4, 90 (2012)),
    rings, heavy_atoms.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT_BITS)
    smiles = [Chem.MolToSmiles(molecule) for molecule in molecules]
    return {
        "smiles": smiles,
        "scaffold": [_scaffold(text) for text in smiles],
        "fingerprint": [_hex(generator.GetFingerprint(molecule)) for molecule in molecules],
        "weight": [float(Descriptors.MolWt(molecule)) for molecule in molecules],  # type: ignore[attr-defined]
        "log_p": [float(Crippen.MolLogP(molecule)) for molecule in molecules],  # type: ignore[attr-defined]
        "qed": [float(QED.qed(molecule)) for molecule in molecules],  # type: ignore[no-untyped-call]
        "rings": [molecule.GetRingInfo().NumRings() for molecule in molecules],
        "heavy_atoms": [molecule.GetNumHeavyAtoms() for molecule in molecules],
    }


def _scaffold(smiles: str) -> str | None:
    scaffold = scaffold_of(smiles)
    if not scaffold:
        return None
    # a scaffold is one piece: its independent rings are its bonds beyond those of a tree
    graph = Chem.MolFromSmiles(scaffold, sanitize=False)
    return scaffold if graph.GetNumBonds() - graph.GetNumAtoms() + 1 >= _LEAST_RINGS else None


def _hex(fingerprint: Any) -> str:
    return f"{int(fingerprint.ToBitString(), 2):0{FINGERPRINT_BITS // 4}x}"
