"""Learning rate and validation points as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def learning_rate(step: int, steps: int, settings: Mapping[str, Any]) -> float:
    """The rate of a step (0-based): a linear warm-up, then what the settings' `schedule` says.

    The warm-up's first step has rate peak / warm-up steps, never 0. After it:

    - constant: the peak;
    - cosine: half a cosine from the peak to `final_rate` * peak;
    - stable_decay: the peak until the last `decay` share of the steps, in which the rate falls as 1 - sqrt of their
      share (Hagele et al. 2024, arXiv 2405.18392) to `final_rate` * peak.

    Args:
        step: the number of steps done.
        steps: of the whole run.
        settings: a cell's training settings: learning_rate (the peak), schedule, warmup (a share of the steps),
            warmup_steps (in its place), final_rate, decay.
    """
    peak, final = settings["learning_rate"], settings["final_rate"]
    rising = settings["warmup_steps"] or max(1, round(settings["warmup"] * steps))
    if step < rising:
        return float(peak * (step + 1) / rising)
    match settings["schedule"]:
        case "constant":
            return float(peak)
        case "cosine":
            progress = (step - rising) / max(1, steps - rising)
            share = 0.5 * (1 + math.cos(math.pi * progress))
        case other:
            assert other == "stable_decay", other
            falling = max(1, round(settings["decay"] * steps))
            share = 1 - math.sqrt(max(0, step - (steps - falling)) / falling)
    return float(peak * (final + (1 - final) * share))


def validation_steps(steps: int, count: int) -> list[int]:
    """The numbers of finished steps at which to validate: `count` log-spaced shares from 1/20 to 1, no repeats."""
    shares = [20 ** (index / max(1, count - 1) - 1) for index in range(count)] if count > 1 else [1.0]
    return sorted({max(1, round(share * steps)) for share in shares} | {steps})
