"""The molecules that peers compute: of ASE's G2 set, moved a little."""

from __future__ import annotations

import numpy as np
import torch
from ase.build import molecule

MOLECULES = ["CH3CH2OH", "C6H6", "NH3", "HCOOH", "CH3CN"]


def frames() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Atomic numbers [A] and positions [A, 3] in angstrom of each, the same every time."""
    random = np.random.default_rng(0)
    found = []
    for name in MOLECULES:
        atoms = molecule(name)
        positions = torch.from_numpy(atoms.positions + random.normal(0, 0.05, atoms.positions.shape))
        found.append((torch.from_numpy(atoms.numbers.astype(np.int64)), positions))
    return found


def neighbours(positions: torch.Tensor, cutoff: float) -> torch.Tensor:
    """All pairs within a cutoff, both ways [2, E]."""
    distances = (positions[:, None] - positions).norm(dim=-1)
    return torch.nonzero((distances < cutoff) & (distances > 0)).T.contiguous()
