"""Random point mutations of molecules in SELFIES, which stay molecules."""

from __future__ import annotations

import numpy as np
import selfies

from chemscale.data.tokenizer import symbols

LINES = 20_000  # of a task
_MUTATIONS = 3


def mutate(task: tuple[int, list[str], tuple[str, ...]]) -> str:
    """The SMILES of mutants of some SELFIES strings, one a line."""
    number, strings, alphabet = task
    random = np.random.default_rng([2026, number])
    lines = []
    for text in strings:
        parts = symbols(text)
        while True:
            mutant = list(parts)
            for place in random.integers(len(parts), size=_MUTATIONS):
                mutant[place] = alphabet[random.integers(len(alphabet))]
            smiles = selfies.decoder("".join(mutant))
            # a mutation can end the molecule early; there are few small ones, and they would come again and again
            if len(smiles) > 0.7 * len(parts):
                break
        lines.append(smiles)
    return "\n".join(lines) + "\n"
