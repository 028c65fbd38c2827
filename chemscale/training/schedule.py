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
            stable = stable_steps(steps, settings)
            share = 1 - math.sqrt(max(0, step - stable) / (steps - stable))
    return float(peak * (final + (1 - final) * share))


def stable_steps(steps: int, settings: Mapping[str, Any]) -> int:
    """The number of steps after which the rate of `stable_decay` falls."""
    return steps - max(1, round(float(settings["decay"]) * steps))


def validation_steps(steps: int, settings: Mapping[str, Any]) -> list[int]:
    """The numbers of finished steps at which to validate: `validations` log-spaced shares from 1/20 to 1, no repeats.

    With `stable_decay` only those while the rate falls, and the last: before that, a loss tells of no amount of data.
    """
    count = settings["validations"]
    shares = [20 ** (index / max(1, count - 1) - 1) for index in range(count)] if count > 1 else [1.0]
    first = stable_steps(steps, settings) if settings["schedule"] == "stable_decay" else 0
    return sorted({found for share in shares if (found := max(1, round(share * steps))) > first} | {steps})
