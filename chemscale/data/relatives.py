"""An independent definition of a molecule's parent: the check on the groups that `chemscale.data.constitution` makes.

It shares no code with that module, so that a fault of one shows in the other. RDKit's standardizer disconnects metals,
takes the largest organic fragment and neutralises it. The parent's name is the first block of its InChIKey (S. R.
Heller et al., J. Cheminform. 7, 23 (2015)), which ignores stereo, isotopes and the place of mobile hydrogen.

Limits: the standardizer takes no proton from a protonated N-oxide, and of equally large fragments it chooses by weight.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from typing import Any

# an atom in brackets that is neither an organic element nor hydrogen: maybe a metal
_MAYBE_METAL = re.compile(r"\[\d*(?!(?:Cl|Br|[BCNOPSFIHcnops])(?![a-z]))")
# the element of each atom of a SMILES
_ELEMENT = re.compile(r"\[\d*(?:[A-Z][a-z]?|se|te|as|[bcnops])|Cl|Br|[BCNOPSFIbcnops]")
_CHARGE = re.compile(r"\[[^\]]*[+-]")


@cache
def _tools() -> tuple[Any, Any, Any]:
    from rdkit import rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    rdBase.DisableLog("rdApp.*")
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]
    parameters.largestFragmentChooserCountHeavyAtomsOnly = True  # type: ignore[assignment]
    chooser = rdMolStandardize.LargestFragmentChooser(parameters)
    return rdMolStandardize.MetalDisconnector(), chooser, rdMolStandardize.Uncharger(force=True)


def relative_key(smiles: str) -> str | None:
    """The first block of the InChIKey of a molecule's parent, 14 letters.

    None where the parent has no carbon (the standardizer has no rule for inorganic salts), or where RDKit or InChI
    makes nothing of the molecule.
    """
    from rdkit import Chem

    metals, chooser, uncharger = _tools()
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    try:
        if _MAYBE_METAL.search(smiles):
            metals.DisconnectInPlace(molecule)
        if "." in smiles or _MAYBE_METAL.search(smiles):
            molecule = chooser.choose(molecule)
        if _CHARGE.search(smiles) or _MAYBE_METAL.search(smiles):
            molecule = uncharger.uncharge(molecule)
    except (RuntimeError, ValueError):
        return None
    if not any(atom.GetAtomicNum() == 6 for atom in molecule.GetAtoms()):
        return None
    key = Chem.MolToInchiKey(molecule, options="-SNon")  # type: ignore[no-untyped-call]
    return str(key).partition("-")[0] or None


def is_sampled(smiles: str, share: float) -> bool:
    """Whether a molecule belongs to a sample of about `share` of all, which takes most relatives together.

    The sample is by a hash of how many carbon, nitrogen, oxygen and sulfur atoms the part of the text with the most of
    them has: a molecule and its salts are nearly always all in the sample or all outside.
    """
    if share >= 1:
        return True
    parts = [
        Counter(text.lstrip("[0123456789").upper() for text in _ELEMENT.findall(part)) for part in smiles.split(".")
    ]
    largest = max(tuple(counts[element] for element in "CNOS") for counts in parts)
    hashed = hashlib.blake2b(repr(largest).encode(), digest_size=8, key=b"chemscale-relatives").digest()
    return int.from_bytes(hashed, "big") / 2**64 < share
