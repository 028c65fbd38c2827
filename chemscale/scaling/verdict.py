"""When a fit is refused or carries a caution: typed reasons, each with what was found and what to run to fix it.

The criteria and their levels are fixed: no setting of a study moves them. A fit is accepted where it passes them with
room to spare, refused where it misses them clearly, and carries a caution in between: the same data with a little more
noise, or another estimate of it, would be judged otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chemscale.scaling.fit import Fit
from chemscale.scaling.law import Array, Index, Law

MIN_SPAN = 10.0  # of every axis: below a decade an exponent describes the window, not a law
DISTINCT = 1.05  # values closer than this ratio count as one (D of one subset size differs a little between seeds)
# of the intervals that an exponent is judged by: it is accepted where that at the highest level is no wider than its
# value and lies above 0, refused where not even that at the lowest level is and does, and carries a caution in between
LEVELS = (0.85, 0.9, 0.95)
NEAR = 1.2  # a threshold is near where a quantity lies within this factor of it
NEAR_P = 2.0  # the same for a p-value or a share
MAX_FAILURES = 0.05  # share of resamples whose fit may fail
LACK_OF_FIT_P = 0.01
LACK_OF_FIT_RATIO = 3.0  # of the scatter around the law to the noise that was measured
LACK_OF_FIT_RMS = 0.01  # a form that describes the loss to 1 % is kept, its interval widened
WIDENED_P = 0.05


@dataclass(frozen=True)
class Reason:
    """Why a fit is refused or carries a caution.

    Attributes:
        code: one of too_few_values, too_few_points, narrow_range, mixed_protocols, mixed_axis,
            not_converged, on_bound, not_falling, wide_interval, bootstrap_failures, lack_of_fit; of a contrast also
            too_few_subsets, too_few_replicates, near_zero; of a user's table also mixed_replicates.
        found: the finding, in numbers.
        mend: what to run or change.
        refuses: whether the fit is refused; else it carries a caution.
    """

    code: str
    found: str
    mend: str
    refuses: bool = True

    def __str__(self) -> str:
        return f"{self.code}: {self.found}; {self.mend}"


def distinct_values(values: Array) -> int:
    """How many values of an axis can be chosen so that all of them differ by more than the ratio `DISTINCT`."""
    return 1 + int(levels_of(values).max())


def levels_of(values: Array) -> Index:
    """The number of each value's level, from 0: a level holds all values up to `DISTINCT` times its lowest one.

    So a level spans that ratio at most, however many values lie between its ends.
    """
    unique, inverse = np.unique(np.log(values), return_inverse=True)
    levels, lowest = np.zeros(len(unique), np.int64), unique[0]
    for at in range(1, len(unique)):
        begins = unique[at] - lowest > math.log(DISTINCT)
        lowest = unique[at] if begins else lowest
        levels[at] = levels[at - 1] + begins
    return levels[inverse.reshape(-1)]


def check_points(law: Law, axes: Mapping[str, Array], labels: Mapping[str, str]) -> list[Reason]:
    """Reasons that the design itself gives, before anything is fitted.

    Args:
        law: the form.
        axes: values at the design points, by the law's axis names.
        labels: how each axis is called in words, such as {"x": "N"}.
    """
    reasons = []
    for name, needed in zip(law.axes, law.min_values, strict=True):
        values, label = axes[name], labels[name]
        found = distinct_values(values)
        if found < needed:
            reasons.append(
                Reason(
                    "too_few_values",
                    f"{found} distinct value{'s' * (found != 1)} of {label}, the {law.name} form needs {needed}",
                    f"run {needed - found} more value{'s' * (needed - found != 1)} of {label}",
                )
            )
        span = float(np.exp(np.ptp(np.log(values))))
        # a decade stays one where rounding takes its last digit
        if span < MIN_SPAN * (1 - 1e-9):
            reasons.append(
                Reason(
                    "narrow_range",
                    f"{label} spans a factor of {span:.3g}, less than a decade",
                    f"run {label} down to {values.max() / MIN_SPAN:.3g} or up to {values.min() * MIN_SPAN:.3g}",
                )
            )
    # runs of one design point may differ a little in D: they are one point
    points = len(np.unique(np.stack([levels_of(axes[name]) for name in law.axes]), axis=1).T)
    if points < law.min_points and not any(reason.code == "too_few_values" for reason in reasons):
        reasons.append(
            Reason(
                "too_few_points",
                f"{points} design points, the {law.name} form needs {law.min_points}",
                f"run {law.min_points - points} more",
            )
        )
    return reasons


def check_fit(fit: Fit) -> list[Reason]:
    """Reasons that the point fit gives."""
    reasons = []
    if not fit.converged:
        reasons.append(Reason("not_converged", "the search ended in no minimum", "add points or choose a simpler form"))
    for name in fit.on_bound:
        value = fit.parameters[name]
        if name == "E":
            found, mend = "E ended on its bound 0: no floor shows", "use the form without E, or extend the range"
        elif name in fit.law.exponents:
            found, mend = f"{name} ended on its bound {value:.3g}", "extend the range or choose another form"
        else:
            found, mend = f"the term of {name} vanished", "choose a form without it, or extend the range of its axis"
        reasons.append(Reason("on_bound", found, mend))
    return reasons


def check_failures(failures: float) -> list[Reason]:
    """Whether too many resamples have no fit; `failures` is their share."""
    if failures <= MAX_FAILURES / NEAR_P:
        return []
    return [
        Reason(
            "bootstrap_failures",
            f"{100 * failures:.1f} % of the resamples have no fit, the limit is {100 * MAX_FAILURES:.0f} %",
            "add points or choose a simpler form",
            failures > MAX_FAILURES * NEAR_P,
        )
    ]


def check_intervals(fit: Fit, intervals: Mapping[float, Mapping[str, tuple[float, float]]]) -> list[Reason]:
    """Whether the exponents are known well enough.

    Args:
        fit: the point fit.
        intervals: (low, high) of each parameter, for each of `LEVELS`.
    """
    reasons = []
    lenient, nominal, strict = LEVELS
    for name in fit.law.exponents:
        value = fit.parameters[name]
        passes = {
            level: value > 0 and found[name][0] > 0 and found[name][1] - found[name][0] <= value
            for level, found in intervals.items()
        }
        if passes[strict]:
            continue
        low, high = intervals[nominal][name]
        shown = f"{name} = {value:.3g} [{low:.3g}, {high:.3g}] at {100 * nominal:.0f} %"
        refuses = not passes[lenient]
        if value <= 0 or intervals[lenient if refuses else strict][name][0] <= 0:
            found = f"{shown}: no sign that the loss falls"
            if not refuses:
                found = f"{shown}: at {100 * strict:.0f} % the interval holds 0"
            reasons.append(Reason("not_falling", found, "extend the range or add seeds at its ends", refuses))
            continue
        ratios = {level: (found[name][1] - found[name][0]) / value for level, found in intervals.items()}
        more = max(math.ceil(ratios[strict] ** 2), 2)
        found = f"{shown}: the interval is {ratios[nominal]:.3g} times as wide as the value, more than 1"
        if not refuses:
            found = (
                f"{shown}: the interval is {ratios[nominal]:.3g} times as wide as the value, near the limit of 1 "
                f"(at {100 * lenient:.0f} % {ratios[lenient]:.3g} times, at {100 * strict:.0f} % "
                f"{ratios[strict]:.3g} times)"
            )
        reasons.append(Reason("wide_interval", found, f"extend the range, or run {more} times as many seeds", refuses))
    return reasons


def widened(p_value: float) -> float:
    """How far the noise of the resamples goes from that between seeds to the scatter around the law, 0 to 1.

    It rises with falling log p from `NEAR_P` times `WIDENED_P` to as much below it.
    """
    share = 0.5 + math.log(WIDENED_P / p_value) / (2 * math.log(NEAR_P))
    return min(max(share, 0.0), 1.0)


def check_scatter(scatter: float, noise: float, p_value: float) -> list[Reason]:
    """Whether the scatter around the law exceeds the noise by so much that the form does not describe the data.

    Args:
        scatter: relative scatter of a run around the law, corrected for the fitted parameters.
        noise: relative sd of a run over seeds.
        p_value: of so large a scatter from the noise alone.
    """

    def exceeds(near: float, near_p: float) -> bool:
        least = max(LACK_OF_FIT_RATIO * noise, LACK_OF_FIT_RMS)
        return p_value < LACK_OF_FIT_P * near_p and scatter > least / near

    times = f"{scatter / noise:.3g} times the noise" if noise > 0 else "and no noise"
    found = (
        f"scatter of {100 * scatter:.2f} % around the law, {times} of {100 * noise:.2f} % between seeds "
        f"(p {'<' if p_value < 0.005 else '='} {max(p_value, 0.005):.2g})"
    )
    limits = f"the limits are {LACK_OF_FIT_RATIO:.0f} times, {100 * LACK_OF_FIT_RMS:.0f} % and p = {LACK_OF_FIT_P}"
    return _lack_of_fit(exceeds, found, limits)


def check_structure(rms: float, p_value: float) -> list[Reason]:
    """Whether residuals follow a curve, where no replicates tell how large they may be.

    Args:
        rms: of the part of the residuals that the curve explains.
        p_value: of so much curvature from independent residuals.
    """

    def exceeds(near: float, near_p: float) -> bool:
        return p_value < LACK_OF_FIT_P * near_p and rms > LACK_OF_FIT_RMS / near

    found = f"the residuals follow a curve of {100 * rms:.2f} % (p = {p_value:.1g})"
    return _lack_of_fit(exceeds, found, f"the limits are {100 * LACK_OF_FIT_RMS:.0f} % and p = {LACK_OF_FIT_P}")


def _lack_of_fit(exceeds: Callable[[float, float], bool], found: str, limits: str) -> list[Reason]:
    """The reason where limits are exceeded after they were lowered by `NEAR`; it refuses where they are when raised."""
    if not exceeds(NEAR, NEAR_P):
        return []
    refuses = exceeds(1 / NEAR, 1 / NEAR_P)
    words = found if refuses else f"{found}, near the limit: {limits}"
    return [Reason("lack_of_fit", words, "choose a form with another term, or a narrower window", refuses)]


def verdict_of(reasons: Sequence[Reason]) -> str:
    """The verdict that reasons give: "accepted" where there is none, "refused" where one refuses, else "caution"."""
    if not reasons:
        return "accepted"
    return "refused" if any(reason.refuses for reason in reasons) else "caution"
