"""When a fit is refused: typed reasons, each with what was found in numbers and what to run to mend it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chemscale.scaling.fit import Fit
from chemscale.scaling.law import Array, Law

MIN_SPAN = 10.0  # of every axis: below a decade an exponent describes the window, not a law
DISTINCT = 1.05  # values closer than this ratio count as one (D of one subset size differs a little between seeds)
MAX_FAILURES = 0.05  # share of resamples whose fit may fail
LACK_OF_FIT_P = 0.01
LACK_OF_FIT_RATIO = 3.0  # of the scatter around the law to the noise that was measured
LACK_OF_FIT_RMS = 0.01  # a form that describes the loss to 1 % is kept, its interval widened
WIDENED_P = 0.05


@dataclass(frozen=True)
class Reason:
    """Why a fit is refused.

    Attributes:
        code: one of too_few_values, too_few_points, narrow_range, mixed_protocols, mixed_axis,
            not_converged, on_bound, not_falling, wide_interval, bootstrap_failures, lack_of_fit; of a contrast also
            too_few_subsets, too_few_replicates.
        found: the finding, in numbers.
        mend: what to run or change.
    """

    code: str
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.code}: {self.found}; {self.mend}"


def distinct_values(values: Array) -> int:
    """How many values of an axis differ by more than the ratio `DISTINCT` from the next lower one."""
    logs = np.sort(np.log(values))
    return 1 + int((np.diff(logs) > math.log(DISTINCT)).sum())


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
        span = float(values.max() / values.min())
        if span < MIN_SPAN:
            reasons.append(
                Reason(
                    "narrow_range",
                    f"{label} spans a factor of {span:.3g}, less than a decade",
                    f"run {label} down to {values.max() / MIN_SPAN:.3g} or up to {values.min() * MIN_SPAN:.3g}",
                )
            )
    points = len(axes[law.axes[0]])
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


def check_intervals(
    fit: Fit, intervals: Mapping[str, tuple[float, float]], level: float, failures: float
) -> list[Reason]:
    """Reasons that the resamples give.

    Args:
        fit: the point fit.
        intervals: (low, high) of each parameter.
        level: of the intervals.
        failures: share of the resamples whose fit did not converge.
    """
    reasons = []
    if failures > MAX_FAILURES:
        reasons.append(
            Reason(
                "bootstrap_failures",
                f"{100 * failures:.1f} % of the resamples have no fit, more than {100 * MAX_FAILURES:.0f} %",
                "add points or choose a simpler form",
            )
        )
    for name in fit.law.exponents:
        value, (low, high) = fit.parameters[name], intervals[name]
        if value <= 0 or low <= 0:
            reasons.append(
                Reason(
                    "not_falling",
                    f"{name} = {value:.3g} [{low:.3g}, {high:.3g}] at {100 * level:.0f} %: no sign that the loss falls",
                    "extend the range or add seeds at its ends",
                )
            )
        elif high - low > value:
            more = math.ceil(((high - low) / value) ** 2)
            reasons.append(
                Reason(
                    "wide_interval",
                    f"the {100 * level:.0f} % interval [{low:.3g}, {high:.3g}] of {name} is wider than its value "
                    f"{value:.3g}",
                    f"extend the range, or run {max(more, 2)} times as many seeds",
                )
            )
    return reasons


def check_scatter(scatter: float, noise: float, p_value: float) -> list[Reason]:
    """Whether the scatter around the law exceeds the noise by so much that the form does not describe the data.

    Args:
        scatter: relative scatter of a run around the law, corrected for the fitted parameters.
        noise: relative sd of a run over seeds.
        p_value: of so large a scatter from the noise alone.
    """
    if not (p_value < LACK_OF_FIT_P and scatter > LACK_OF_FIT_RATIO * noise and scatter > LACK_OF_FIT_RMS):
        return []
    times = f"{scatter / noise:.1f} times the noise" if noise > 0 else "and no noise"
    return [
        Reason(
            "lack_of_fit",
            f"scatter of {100 * scatter:.2f} % around the law, {times} of {100 * noise:.2f} % between seeds "
            f"(p {'<' if p_value < 0.005 else '='} {max(p_value, 0.005):.2g})",
            "choose a form with another term, or a narrower window",
        )
    ]


def check_structure(rms: float, p_value: float) -> list[Reason]:
    """Whether residuals follow a curve, where no replicates tell how large they may be.

    Args:
        rms: of the part of the residuals that the curve explains.
        p_value: of so much curvature from independent residuals.
    """
    if not (p_value < LACK_OF_FIT_P and rms > LACK_OF_FIT_RMS):
        return []
    return [
        Reason(
            "lack_of_fit",
            f"the residuals follow a curve of {100 * rms:.2f} % (p = {p_value:.1g})",
            "choose a form with another term, or a narrower window",
        )
    ]


def accepted(reasons: Sequence[Reason]) -> str:
    """The verdict that reasons give: "accepted" where there is none, else "refused"."""
    return "refused" if reasons else "accepted"
