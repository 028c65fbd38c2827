"""Contrasts that the config names before any run: how two series of cells differ along the data.

A series is one size of one family over its subsets. A contrast takes the subsets that both of its series have, and each
quantity is the second series' number minus the first's:

- `exponent_data`, `exponent_data_offset`: the exponents of L(D), a power law without and with a floor E;
- `log_loss_mean`, `log_loss_largest`: log(L second / L first), as a mean over the subsets and at the largest one.

What varies in an interval is what varies in those of the laws. Noise between seeds is drawn for each series on its own,
with the sd that the replicates of its family give, or its own where that is another (`bootstrap.noise_of`), and the
uncertainty of that sd; losses scatter around the fitted
law for an exponent, around the observed means for a log loss. Test clusters are drawn once for both where both were
tested on the same ones (`paired`): what is hard for both then cancels. A percentile interval of the differences between
the same resamples follows. What does not vary: the subsets of the grid, the two sizes, their learning rates, the
protocol, the form of the law, the data set. A seed fixes the draw of the subset, so that equal seeds of two families
have part of their noise in common; drawn apart, what moves both losses alike does not cancel and widens the interval.
In simulations with equal exponents 90 to 94 % of the intervals at 90 % held 0 with three seeds of five subsets, 95 to
98 % with 2 or 3 degrees of freedom for the noise of each family: the uncertainties of two sds add up to too much.

Several contrasts are corrected for by Bonferroni, primary and secondary ones each among themselves: with k of a role in
the config, those refused included, an interval has the level 1 - (1 - level) / k. So it stays an interval, and leaves
out 0 just where the corrected test says so. The quantities of a contrast answer different questions and are not counted
as several; whoever picks one after seeing all has not corrected for that.

Whether a difference is claimed (`excludes_zero`) depends on no setting: it is what intervals at 90 %, corrected in the
same way, say of the resamples that verdicts come from. Where those at 85 or 95 % say otherwise, the verdict is
`caution`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from chemscale.scaling.bootstrap import MIN_DOF, Draws, Noise
from chemscale.scaling.design import METRIC, Design, design
from chemscale.scaling.estimate import Estimate, Points, Resamples, estimate, quantiles
from chemscale.scaling.law import LAWS, Array, Law
from chemscale.scaling.verdict import LEVELS, Reason, check_points, verdict_of

# The columns of tables/contrasts.parquet. `of_first` and `of_second` are the two numbers whose difference is `value`:
# exponents, or mean log losses. `level` is that of the interval, corrected for `comparisons`; `seed_dof` are the
# degrees of freedom of the noise that is known less well; x is D over the subsets used. `excludes_zero` is judged at a
# fixed level, whatever `level` is. Where a row is refused its numbers are null.
CONTRAST_COLUMNS: dict[str, str] = {
    **dict.fromkeys(("contrast_id", "contrast", "role", "matched"), "string"),
    **dict.fromkeys(("family_first", "size_first", "family_second", "size_second"), "string"),
    **dict.fromkeys(("quantity", "form", "metric", "protocol"), "string"),
    **dict.fromkeys(("value", "low", "high", "of_first", "of_second", "level", "level_nominal"), "double"),
    **dict.fromkeys(("excludes_zero", "paired"), "bool"),
    **dict.fromkeys(("comparisons", "n_points", "n_runs", "seed_dof"), "int64"),
    **dict.fromkeys(("x_min", "x_max"), "double"),
    "verdict": "string",
    **dict.fromkeys(("reasons", "notes"), "list<string>"),
}
MIN_SUBSETS = 3  # that both series must have
# the quantities of a contrast, with the form of the law that an exponent is taken from
QUANTITIES: dict[str, str | None] = {
    "exponent_data": "power",
    "exponent_data_offset": "offset",
    "log_loss_mean": None,
    "log_loss_largest": None,
}


@dataclass(frozen=True)
class _Series:
    """The design points of one size at the subsets that both series of a contrast have."""

    design: Design
    size: str
    points: list[int]  # rows of the design's points, by rising number of samples
    noise: Noise  # of a run of the series
    notes: tuple[str, ...]  # on the noise

    @property
    def chosen(self) -> pd.DataFrame:
        """The design points themselves."""
        return self.design.points.iloc[self.points]

    def largest(self) -> _Series:
        """The series at its largest subset alone."""
        return replace(self, points=self.points[-1:])

    def __str__(self) -> str:
        return f"{self.design.name} {self.size}"


@dataclass(frozen=True)
class _Difference:
    """What a quantity was found to be: the two numbers, and the resamples of their difference.

    `resampled` are those behind the interval, `judged` those behind the verdict.
    """

    of_first: float
    of_second: float
    resampled: Array
    judged: Array
    notes: list[str] = field(default_factory=list)
    cautions: list[Reason] = field(default_factory=list)


def contrast_table(
    cells: pd.DataFrame, clusters: pd.DataFrame, contrasts: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> pd.DataFrame:
    """The contrasts of a study, a row per contrast and quantity with the columns `CONTRAST_COLUMNS`.

    Args:
        cells: as in tables/cells.parquet.
        clusters: as in tables/test_clusters.parquet; empty where the test set is taken as it is.
        contrasts: by name, as the config has them.
        settings: `level` of the intervals, `resamples`, `seed`.

    Raises:
        RecordError: the tables contradict each other.
    """
    roles = Counter(str(asked["role"]) for asked in contrasts.values())
    families = dict.fromkeys(side["family"] for asked in contrasts.values() for side in asked["between"])
    designs = {name: design(name, cells[cells["family"] == name], clusters, settings) for name in families}
    tested = {
        name: set(clusters.loc[clusters["cell"].isin(found.cells["cell"]), "cluster"])
        for name, found in designs.items()
    }
    rows = []
    for name, asked in contrasts.items():
        first, second = (str(side["family"]) for side in asked["between"])
        series = _series(designs, asked["between"])
        shared: dict[str, Any] = {
            "contrast": name,
            "role": asked["role"],
            "matched": asked["matched"],
            **{
                f"{key}_{which}": side[key]
                for which, side in zip(("first", "second"), asked["between"], strict=True)
                for key in ("family", "size")
            },
            "metric": METRIC,
            "protocol": " + ".join(_protocols(series)),
            "level": corrected(float(settings["level"]), roles[asked["role"]]),
            "level_nominal": float(settings["level"]),
            "paired": bool(tested[first]) and tested[first] == tested[second],
            "comparisons": roles[asked["role"]],
            "seed_dof": min(one.noise.dof for one in series),
        }
        told = _sides(series)
        rows += [_row(series, quantity, shared, told) for quantity in QUANTITIES]
    kinds = {"string": "str", "int64": "int64", "double": "float64", "bool": "boolean"}
    frame = pd.DataFrame(rows, columns=list(CONTRAST_COLUMNS))
    return frame.astype({column: kinds[kind] for column, kind in CONTRAST_COLUMNS.items() if kind in kinds})


def corrected(level: float, comparisons: int) -> float:
    """The level of each of so many intervals that all hold at once with the probability `level`, by Bonferroni."""
    return level if comparisons == 1 else 1 - (1 - level) / comparisons


def _series(designs: Mapping[str, Design], between: Sequence[Mapping[str, Any]]) -> list[_Series]:
    """The series of a contrast, at the subsets that have a loss in both."""
    rows = []
    for side in between:
        points = designs[side["family"]].points
        mine = points[points["size"] == side["size"]]
        rows.append({int(number): int(at) for at, number in mine["num_samples"].items()})
    common = sorted(set(rows[0]) & set(rows[1]))
    series = []
    for side, at in zip(between, rows, strict=True):
        shared = [at[number] for number in common]
        series.append(_Series(designs[side["family"]], side["size"], shared, *designs[side["family"]].noise_of(shared)))
    return series


def _protocols(series: Sequence[_Series]) -> list[str]:
    return sorted({protocol for one in series for protocol in one.design.protocols})


def _sides(series: Sequence[_Series]) -> list[str]:
    """In what the two series differ besides their losses, as far as their records tell: what nobody should overlook."""
    notes = []
    subsets = [set(one.design.points.loc[one.design.points["size"] == one.size, "num_samples"]) for one in series]
    for one, mine, others in zip(series, subsets, reversed(subsets), strict=True):
        if missing := sorted(others - mine):
            words = ", ".join(f"n{number}" for number in missing)
            notes.append(f"left out: {words}, of which {one} has no loss")
    if not series[0].points:
        return notes
    chosen = [one.chosen for one in series]
    uneven = [
        f"n{number} ({first} and {second})"
        for number, first, second in zip(
            chosen[0]["num_samples"], *(points["runs"].astype(int) for points in chosen), strict=True
        )
        if first != second
    ]
    if uneven:
        notes.append(f"unequal numbers of runs at {', '.join(uneven)}")
    rates = [one.design.cells.loc[one.design.cells["point"].isin(one.points), "learning_rate"] for one in series]
    for what, (first, second) in (
        ("N", [float(points["N"].iloc[-1]) for points in chosen]),
        ("training FLOPs", [float(points["C"].mean()) for points in chosen]),
        ("peak rate", [float(rate.max()) for rate in rates]),
    ):
        notes.append(f"{what} {first:.4g} and {second:.4g}, {second / first:.3g} to 1")
    return notes


def _row(series: list[_Series], quantity: str, shared: Mapping[str, Any], told: Sequence[str]) -> dict[str, Any]:
    form = QUANTITIES[quantity]
    reasons = _refusals(series, form)
    if quantity == "log_loss_largest":
        series = [one.largest() for one in series]
    row: dict[str, Any] = dict.fromkeys(CONTRAST_COLUMNS)
    distinct = np.concatenate([one.chosen["D"].to_numpy(float) for one in series])
    row.update(
        shared,
        contrast_id=f"{shared['contrast']}/{quantity}",
        quantity=quantity,
        form=form,
        n_points=len(series[0].points),
        n_runs=sum(int(one.chosen["runs"].sum()) for one in series),
        x_min=float(distinct.min()) if len(distinct) else np.nan,
        x_max=float(distinct.max()) if len(distinct) else np.nan,
        notes=[*told, *(f"{one}: {note}" for one in series for note in one.notes)],
    )
    if not reasons:
        found = _log_losses(series) if form is None else _exponents(series, form, shared["level_nominal"])
        if isinstance(found, _Difference):
            low, high = quantiles(found.resampled, shared["level"])
            excludes_zero, near = _excludes_zero(found.judged, shared["comparisons"])
            reasons = [*found.cautions, *near]
            row.update(
                value=found.of_second - found.of_first,
                low=float(low),
                high=float(high),
                of_first=found.of_first,
                of_second=found.of_second,
                excludes_zero=excludes_zero,
                notes=row["notes"] + found.notes,
            )
        else:
            reasons = found
    return row | {"verdict": verdict_of(reasons), "reasons": list(dict.fromkeys(map(str, reasons)))}


def _excludes_zero(differences: Array, comparisons: int) -> tuple[bool, list[Reason]]:
    """Whether the interval of a difference leaves out 0, and the caution where that is a near thing."""
    ends = {level: quantiles(differences, corrected(level, comparisons)) for level in LEVELS}
    says = {level: bool(low > 0 or high < 0) for level, (low, high) in ends.items()}
    lenient, nominal, strict = LEVELS
    if says[lenient] == says[strict]:
        return says[nominal], []
    low, high = ends[nominal]
    words = {True: "leaves out 0", False: "holds 0"}
    corrections = f", corrected for {comparisons} contrasts" if comparisons > 1 else ""
    found = (
        f"the interval [{low:.3g}, {high:.3g}] at {100 * nominal:.0f} %{corrections} {words[says[nominal]]}, and that "
        f"at {100 * (lenient if says[nominal] == says[strict] else strict):.0f} % {words[not says[nominal]]}"
    )
    return says[nominal], [Reason("near_zero", found, "add seeds or subsets before claiming either", refuses=False)]


def _refusals(series: Sequence[_Series], form: str | None) -> list[Reason]:
    """Reasons that the runs themselves give, before anything is compared."""
    reasons = []
    if len(_protocols(series)) > 1:
        reasons.append(
            Reason(
                "mixed_protocols", f"cells under {' and '.join(_protocols(series))}", "compare cells under one protocol"
            )
        )
    common = len(series[0].points)
    if common < MIN_SUBSETS:
        reasons.append(
            Reason(
                "too_few_subsets",
                f"{common} subset{'s' * (common != 1)} with cells of both, a contrast needs {MIN_SUBSETS}",
                "finish the cells that the config waives",
            )
        )
    # of fewer, a law takes the noise from the scatter around itself, which is not the noise between seeds
    needed = 1 if form is None else MIN_DOF
    for name, dof in {one.design.name: one.noise.dof for one in series}.items():
        if dof < needed:
            reasons.append(
                Reason(
                    "too_few_replicates",
                    f"{dof} degrees of freedom of the noise between seeds of {name}, this takes {needed}",
                    f"run {needed - dof} more of its cells with a further seed",
                )
            )
    if form is not None and not reasons:
        for one in series:
            reasons += check_points(LAWS[form], {"x": one.chosen["D"].to_numpy(float)}, {"x": "D"})
    return reasons


def _exponents(series: Sequence[_Series], form: str, level: float) -> _Difference | list[Reason]:
    """The exponents of L(D) of one form, or why one of the two fits is refused."""
    law = LAWS[form]
    fitted: list[Estimate] = []
    for one in series:
        chosen = one.chosen
        points = Points(
            {"x": chosen["D"].to_numpy(float)},
            {"x": "D"},
            chosen["loss"].to_numpy(float),
            chosen["runs"].to_numpy(float),
        )
        draws, judged = (drawn.take(one.points) for drawn in (one.design.draws, one.design.judged))
        fitted.append(estimate(law, points, one.noise, draws, level, judged))
    reasons = [
        replace(reason, found=f"{one}: {reason.found}")
        for one, found in zip(series, fitted, strict=True)
        for reason in found.reasons
    ]
    if any(reason.refuses for reason in reasons):
        return reasons
    resampled = _difference(law, *(found.resamples for found in fitted))
    behind = _difference(law, *(found.judged for found in fitted))
    betas = [found.fit.parameters["beta"] for found in fitted if found.fit is not None]
    notes = [f"{one}: {note}" for one, found in zip(series, fitted, strict=True) for note in found.notes]
    return _Difference(betas[0], betas[1], resampled, behind, notes, reasons)


def _difference(law: Law, first: Resamples, second: Resamples) -> Array:
    """The resampled difference of two exponents, of resamples that have a fit in both; those share test clusters."""
    _, *rows = np.intersect1d(first.kept, second.kept, assume_unique=True, return_indices=True)
    at = law.parameters.index("beta")
    return np.asarray(second.parameters[rows[1], at] - first.parameters[rows[0], at])


def _log_losses(series: Sequence[_Series]) -> _Difference:
    """The means of the log losses over the subsets."""
    first, second = (float(np.log(one.chosen["loss"].to_numpy(float)).mean()) for one in series)
    moved = [_moved(one, one.design.draws) for one in series]
    judged = [_moved(one, one.design.judged) for one in series]
    return _Difference(first, second, second - first + moved[1] - moved[0], second - first + judged[1] - judged[0])


def _moved(series: _Series, draws: Draws) -> Array:
    """How far the mean log loss of a series moves in each resample, [R]."""
    assert series.noise.sd is not None
    draws = draws.take(series.points)
    sds = series.noise.sd * series.chosen["runs"].to_numpy(float) ** -0.5
    return np.asarray((sds * draws.sd_factors(series.noise.dof)[:, None] * draws.normal + draws.shifts).mean(1))
