"""The numbers of a potential's dynamics, from the raw values that `evaluation.json` keeps; the audit calls this, too.

Times that a replica held are censored at the cap: their median is Kaplan and Meier's (1958), and it is no number where
half of the replicas or more outlived the cap. Intervals of it come of the order of the times alone (binomial), those of
the share that held are Wilson's (1927), the others resample replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

from chemscale.evaluation.resampling import Resampling
from chemscale.evaluations import ALL, result

Array = NDArray[np.float64]

# a replica is over when a bond is off its mean length by more, in angstrom (Fu et al. 2023)
LARGEST_STRAIN = 0.5
# width of a bin of distances in angstrom
BIN = 0.05
# replicas that a mean over them needs for an interval: of fewer, resamples say too little of what the others might be
MIN_HELD = 4


def dynamics_results(raw: Mapping[str, Any], resampling: Resampling) -> list[dict[str, Any]]:
    """The numbers of each molecule, and of all of them together.

    Args:
        raw: what `chemscale.evaluation.dynamics.evaluate` records.
        resampling: of the intervals; replicas are resampled.
    """
    molecules = raw["molecules"]
    found = []
    for name, told in molecules.items():
        found += _holding(name, told["ended_ps"], told["cap_ps"], resampling.level)
        found += _of_replicas(name, [told], resampling)
    whole = list(molecules.values())
    ended = [time for told in whole for time in told["ended_ps"]]
    found += _holding(ALL, ended, whole[0]["cap_ps"], resampling.level)
    return [*found, *_of_replicas(ALL, whole, resampling)]


def median_time(ended: Sequence[float | None], cap: float) -> float | None:
    """Kaplan and Meier's median of times that are censored at the cap (None); None where it lies beyond the cap.

    With a single cap the survival curve falls by 1 / n at each end, and its median is the first time at which it is at
    one half or below.
    """
    times = sorted(time for time in ended if time is not None)
    place = (len(ended) + 1) // 2 - 1
    return times[place] if place < len(times) and times[place] <= cap else None


def _holding(subject: str, ended: Sequence[float | None], cap: float, level: float) -> list[dict[str, Any]]:
    """How long replicas hold, and which share of them holds to the cap."""
    count = len(ended)
    times = sorted(time for time in ended if time is not None)
    held = count - len(times)

    def at(place: int) -> float | None:
        """The time of this place in order; None where it is censored or there is none."""
        return times[place] if 0 <= place < len(times) else None

    # the median lies between the times of these places with a probability of `level` or more
    tail = int(binom.ppf((1 - level) / 2, count, 0.5))
    low = at(tail - 1) if tail > 0 else 0.0
    median, high = median_time(ended, cap), at(count - tail)
    beyond = f"beyond the cap of {cap:g} ps"
    reason = None
    if None in (median, low, high):
        names = [name for name, value in (("median", median), ("low end", low), ("high end", high)) if value is None]
        reason = f"{', '.join(names)}: {beyond}"
    share = held / count
    z = float(norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    width = z / (1 + z**2 / count) * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    interval = (max(0.0, middle - width), min(1.0, middle + width))
    return [
        result("dynamics", "replicas", subject, float(count), None, "replicas", "a count has no interval"),
        result("dynamics", "stability_time", subject, median, (low, high), "ps", reason),
        result("dynamics", "stable_share", subject, share, interval, "1"),
    ]


def _of_replicas(subject: str, molecules: Sequence[Mapping[str, Any]], resampling: Resampling) -> list[dict[str, Any]]:
    """Temperature, distribution of distances and drift of the energy: means over replicas, which are resampled."""
    random = np.random.default_rng([resampling.seed, len(molecules)])
    found = [
        _mean("temperature", subject, [told["temperatures"] for told in molecules], "K", resampling, random),
        _distances(subject, molecules, resampling, random),
        _reference(subject, molecules),
    ]
    if all(told["free"] is not None for told in molecules):
        drifts = [_drifts(told["free"]) for told in molecules]
        warmth = [told["free"]["temperatures"] for told in molecules]
        found.append(_mean("energy_drift", subject, drifts, "meV/atom/ps", resampling, random))
        found.append(_mean("free_temperature", subject, warmth, "K", resampling, random))
    return found


def _drifts(free: Mapping[str, Any]) -> list[float | None]:
    """The size of the slope of each replica's energy, in meV/atom/ps; None where it did not hold throughout."""
    drifts: list[float | None] = []
    for held, changes in zip(free["held"], free["energy_changes"], strict=True):
        times = np.arange(1, len(changes) + 1) * free["every_ps"]
        drifts.append(abs(float(np.polyfit(times, changes, 1)[0])) if held and len(changes) > 2 else None)
    return drifts


def _mean(
    metric: str,
    subject: str,
    groups: Sequence[Sequence[float | None]],
    unit: str,
    resampling: Resampling,
    random: np.random.Generator,
) -> dict[str, Any]:
    """The mean over the replicas that have the number."""
    values = np.array([value for group in groups for value in group if value is not None])
    missing = sum(len(group) for group in groups) - len(values)
    if not len(values):
        return result("dynamics", metric, subject, None, None, unit, "no replica held long enough")
    reasons = [f"of the {len(values)} replicas of {len(values) + missing} that held long enough"] if missing else []
    interval = None
    if len(values) < MIN_HELD:
        reasons.append(f"no interval from fewer than {MIN_HELD}")
    else:
        drawn = values[random.integers(len(values), size=(resampling.resamples, len(values)))].mean(1)
        interval = resampling.ends(drawn)
    return result("dynamics", metric, subject, float(values.mean()), interval, unit, "; ".join(reasons) or None)


def distance_error(counts: Array, reference: Array) -> float:
    """The integral of the difference of two distributions of distances, each of whose sums is 1: between 0 and 2."""
    return float(np.abs(counts / counts.sum() - reference / reference.sum()).sum())


def _distances(
    subject: str, molecules: Sequence[Mapping[str, Any]], resampling: Resampling, random: np.random.Generator
) -> dict[str, Any]:
    """The mean over molecules of the error of their distribution of distances."""
    sampled = [np.array(told["distances"], np.float64) for told in molecules]
    references = [np.array(told["reference_distances"], np.float64).sum(0) for told in molecules]
    if any(not counts.sum() for counts in sampled):
        reason = "the replicas of a molecule were over before their first sample"
        return result("dynamics", "distance_mae", subject, None, None, "1", reason)
    ended = [time for told in molecules for time in told["ended_ps"]]
    over = sum(time is not None for time in ended)
    told = f"with what {over} replicas of {len(ended)} showed before they were over" if over else None

    def error(counts: Array, reference: Array, weights: Array) -> float:
        total = weights @ counts
        # none of the replicas drawn has a sample: as far from the reference as can be
        return distance_error(total, reference) if total.sum() else 2.0

    def mean(weights: Sequence[Array]) -> float:
        pairs = zip(sampled, references, weights, strict=True)
        return float(np.mean([error(*pair) for pair in pairs]))

    value = mean([np.ones(len(counts)) for counts in sampled])
    drawn = [
        mean([random.multinomial(len(c), np.full(len(c), 1 / len(c))).astype(np.float64) for c in sampled])
        for _ in range(resampling.resamples)
    ]
    return result("dynamics", "distance_mae", subject, value, resampling.ends(np.array(drawn)), "1", told)


def _reference(subject: str, molecules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same between the two halves of the reference trajectories: what a perfect potential might show."""
    halves = [np.array(told["reference_distances"], np.float64) for told in molecules]
    value = float(np.mean([distance_error(first, second) for first, second in halves]))
    return result(
        "dynamics", "distance_mae_of_reference", subject, value, None, "1", "two halves of one trajectory, once"
    )
