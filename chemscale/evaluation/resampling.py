"""How the intervals of an evaluation are made of resampled values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: their level, the number of resamples, and the seed of these."""

    level: float
    resamples: int
    seed: int

    def ends(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """The interval of resampled values."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)
