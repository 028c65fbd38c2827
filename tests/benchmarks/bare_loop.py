"""What anybody would write first: parse and canonicalise with RDKit, encode with selfies, row by row."""

from __future__ import annotations

import selfies
from rdkit import Chem, rdBase


def bare_loop(rows: list[str]) -> int:
    """Canonical SMILES and SELFIES of every row; the number of those that went well."""
    rdBase.DisableLog("rdApp.*")
    done = 0
    for smiles in rows:
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None:
            continue
        try:
            selfies.encoder(Chem.MolToSmiles(molecule))
        except selfies.EncoderError:
            continue
        done += 1
    return done
