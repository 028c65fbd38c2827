"""Learning rate and validation points as pure functions of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, warmup: float, final: float) -> float:
    """The rate of a step (0-based): linear warm-up over a share of the steps, then a cosine to `final` * peak.

    The warm-up's first step has rate peak / warm-up steps, never 0.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising) / max(1, steps - rising)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def validation_steps(steps: int, count: int) -> list[int]:
    """The numbers of finished steps at which to validate: `count` log-spaced shares from 1/20 to 1, no repeats."""
    shares = [20 ** (index / max(1, count - 1) - 1) for index in range(count)] if count > 1 else [1.0]
    return sorted({max(1, round(share * steps)) for share in shares} | {steps})
