"""How many atoms of each element rows have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

# an atom of a SMILES: within brackets after its isotope, or of the organic subset
_ATOMS = re.compile(r"\[\d*([A-Za-z][a-z]?)|(Cl|Br|[BCNOSPFIbcnosp])")
_AROMATIC = {"se", "as", "te", "si", "al"}


def count_elements(smiles: Sequence[str]) -> dict[str, int]:
    """How many atoms of each element molecules have, hydrogen only where the SMILES states it as an atom."""
    found: Counter[str] = Counter(bracket or bare for bracket, bare in _ATOMS.findall("\n".join(smiles)))
    counts: Counter[str] = Counter()
    for text, count in found.items():
        # "[nH]" is nitrogen with a hydrogen, "[se]" selenium
        symbol = text if text in _AROMATIC or text[0].isupper() else text[0]
        counts[symbol.capitalize()] += count
    return dict(counts)


def count_species(numbers: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, int]:
    """How many atoms of each element there are among atomic numbers."""
    from ase.data import chemical_symbols

    counts = np.bincount(numbers)
    return {chemical_symbols[number]: int(counts[number]) for number in np.flatnonzero(counts)}
