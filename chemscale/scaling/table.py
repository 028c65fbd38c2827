"""A law fitted to anybody's table: what `chemscale fit TABLE` does.

The table is CSV or Parquet with the columns loss and those of N, D, C that the form needs; seed, run, size and
num_samples are optional. Each run is fitted at its own values. Runs that agree in the design are replicates, which show
the noise:

- their values on the axes are equal; or
- they agree in `size` (for N) and `num_samples` (for D), and their values lie within the ratio `DISTINCT`; or
- a column `seed` repeats the same few values all over the table, and their values lie together in groups of a width of
  at most `DISTINCT` with gaps between them that are wider than any group: so D in tokens differs a little between two
  draws of a subset.

A setting that differs between replicates, such as a learning rate, is reported: their mean is then no run's loss.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from chemscale.errors import InputError
from chemscale.scaling.bootstrap import Noise, draw, pooled_noise
from chemscale.scaling.estimate import Estimate, Points, estimate
from chemscale.scaling.fit import fit
from chemscale.scaling.law import LAWS, Array, Index, Law
from chemscale.scaling.table_file import LARGEST, MAX_CELLS, SMALLEST, RunTable, names_of, read_runs, shown
from chemscale.scaling.verdict import DISTINCT, Reason, distinct_values, levels_of, verdict_of

AXES = ("N", "D", "C")
RESAMPLES = 1000
MAX_LEVEL = 0.998  # what that many resamples resolve
MAX_POINTS = 10_000  # different design points times parameters: time and memory of the resamples grow with them
# the columns that name the levels of an axis
LEVELS_OF: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "N": (("size",),),
    "D": (("num_samples",), ("size",)),
    "C": (("size", "num_samples"), ("num_samples",), ("size",)),
}
# columns that are settings of a training by their name; others count as one where their values return and the loss
# depends on them
SETTINGS = frozenset(
    {
        "architecture",
        "batch",
        "batch_size",
        "bs",
        "dataset",
        "depth",
        "dropout",
        "epochs",
        "family",
        "global_batch_size",
        "heads",
        "layers",
        "learning_rate",
        "lr",
        "max_lr",
        "min_lr",
        "model",
        "momentum",
        "num_heads",
        "num_layers",
        "optimiser",
        "optimizer",
        "peak_lr",
        "protocol",
        "schedule",
        "scheduler",
        "tokenizer",
        "warmup",
        "warmup_steps",
        "wd",
        "weight_decay",
        "width",
    }
)
SETTING_P = 0.01  # below which the loss depends on a setting
MAX_VALUES = 200  # of a setting that is tested


def fit_table(
    path: Path | str,
    form: str = "power",
    x: str | None = None,
    level: float = 0.9,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fit a law to a table and judge it; the order of its rows changes nothing.

    Args:
        path: a .csv or .parquet file.
        form: a name in `LAWS`.
        x: the axis of a single-axis form, N, D or C; may be left out where just one of them varies.
        level: of the intervals, in (0, 1).
        resamples: of the bootstrap behind the intervals.
        seed: of the bootstrap behind the intervals.
        columns: the table's names of loss, N, D and C where they differ, such as {"loss": "test_loss"}.

    Returns:
        form, parameters (by name; null where nothing could be fitted), intervals (by name, [low, high] or null), level,
        num_runs, residual_rms (of the log loss), verdict ("accepted", "caution" or "refused"), reasons and notes
        (texts), num_rows of the file and left_out (how many of them no fit uses, by reason).

    Raises:
        InputError: the arguments or the table are wrong; names file, line and column.
    """
    if form not in LAWS:
        raise InputError("the form of a fit (--form)", repr(form), f"name one of {', '.join(LAWS)}")
    if not 0 < level <= MAX_LEVEL:
        raise InputError("the level of the intervals (--level)", repr(level), f"a number from above 0 to {MAX_LEVEL}")
    law, mapping = LAWS[form], dict(columns or {})
    table = read_runs(Path(path), mapping)
    labels = _axes(law, x, table, mapping)
    names = [name for name in _present(table, mapping) if name in labels.values() or name != "C"]
    values = {name: table.numbers(mapping.get(name, name)) for name in ("loss", *names)}
    # one order for all, so that sums have the same bits however the rows stand
    order = np.lexsort([values[name] for name in ("loss", *names)])
    values = {name: column[order] for name, column in values.items()}
    rows = table.rows.iloc[order]
    exact = _numbered([values[name] for name in names])
    runs = np.bincount(exact).astype(float)
    most = MAX_POINTS // len(law.parameters)
    if len(runs) > most:
        found = f"{len(runs):,} different design points"
        asked = f"fit the {form} form to {path}, of at most {most:,} design points"
        raise InputError(asked, found, "keep fewer runs, or fit parts of the table")
    points = Points(
        axes={axis: np.bincount(exact, values[name]) / runs for axis, name in labels.items()},
        labels=labels,
        loss=np.bincount(exact, values["loss"]) / runs,
        runs=runs,
    )
    levels = _levels(values, names, rows)
    replicates = _numbered([levels[name].astype(float) for name in names])
    reasons = _mixed(labels["x"], values, levels) if law.axes == ("x",) else []
    known = {"loss", *AXES, *mapping.values(), "seed", "run", "size", "num_samples"}
    others = rows.drop(columns=[name for name in rows if name in known])
    mixed, varied = _mixed_replicates(others, replicates, values["loss"])
    draws = draw(len(runs), resamples, seed, "table")
    noise, near = _noise(law, points, exact, replicates, values["loss"])
    judged = estimate(law, points, noise, draws, level)
    return _record(judged, [*reasons, *mixed], [*near, *varied], level, table)


def _numbered(axes: list[Array]) -> Index:
    """The index of each row's combination of values, from 0."""
    return np.unique(np.stack(axes, 1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _levels(values: Mapping[str, Array], names: list[str], rows: pd.DataFrame) -> dict[str, Index]:
    """The level of each row on each axis: rows of one level on all axes are replicates."""
    levels = {name: _named_levels(name, values[name], rows) for name in names}
    if "seed" not in rows.columns:
        return levels
    seeds = rows["seed"].astype(str).to_numpy()
    # a seed of its own for each run says nothing of which runs belong together
    if len(set(seeds)) > len(seeds) / 2:
        return levels
    near = {name: _separate_levels(values[name], levels[name]) for name in names}
    group = _numbered([near[name].astype(float) for name in names])
    # a seed that stands twice in a group tells two points of the design, however near they are
    twice = pd.DataFrame({"group": group, "seed": seeds}).duplicated().any()
    return levels if twice else near


def _named_levels(name: str, values: Array, rows: pd.DataFrame) -> Index:
    """Levels by the columns that name them, where each spans no more than `DISTINCT`; else a level for each value."""
    exact = _numbered([values])
    for columns in LEVELS_OF[name]:
        if not set(columns) <= set(rows.columns):
            continue
        named = np.asarray(rows.groupby(list(columns), sort=True, dropna=False).ngroup(), np.int64)
        logs = pd.Series(np.log(values)).groupby(named)
        if named.max() < exact.max() and (logs.max() - logs.min()).max() <= np.log(DISTINCT):
            return named
    return exact


def _separate_levels(values: Array, levels: Index) -> Index:
    """Levels of values that lie together in groups, where the gaps between groups are wider than each of them."""
    if levels.max() < len(np.unique(values)) - 1:
        return levels  # their names are known
    near = levels_of(values)
    logs = pd.Series(np.log(values)).groupby(near)
    low, high = logs.min().to_numpy(), logs.max().to_numpy()
    gaps = low[1:] - high[:-1]
    return near if not len(gaps) or gaps.min() > 2 * (high - low).max() else levels


def _noise(law: Law, points: Points, exact: Index, replicates: Index, loss: Array) -> tuple[Noise, list[str]]:
    """The noise of a run from replicates, and what a reader has to know of them."""
    logs = np.log(loss)
    if exact.max() == replicates.max():
        return pooled_noise(logs, replicates), []
    enough = len(points.loss) >= len(law.parameters)
    if enough and all(distinct_values(axis) > 1 for axis in points.axes.values()):
        # what the law makes of a slightly different D is no noise
        logs = logs - fit(law, points.axes, points.loss, points.runs**-0.5).fitted[exact]
    note = (
        f"{len(loss)} runs at {exact.max() + 1} values are replicates of {replicates.max() + 1} design points, whose "
        f"values differ by at most {100 * (DISTINCT - 1):.0f} %"
    )
    return pooled_noise(logs, replicates), [note]


def _mixed_replicates(rows: pd.DataFrame, replicates: Index, loss: Array) -> tuple[list[Reason], list[str]]:
    """Settings that differ between the replicates of a design point, in `rows`' columns, and a note on other columns.

    A setting on which the loss depends (an F-test within the design points, corrected for the number of columns) makes
    their mean meaningless; one that is known by its name and shows no effect is worth a caution.
    """
    logs = pd.Series(np.log(loss))
    inside = (logs - logs.groupby(replicates).transform("mean")).to_numpy()
    if not (inside**2).sum() > 1e-20:
        return [], []  # equal losses: a mean of them is one of them
    settings, others = {}, []
    for column in rows.columns:
        values = _settings(rows[column])
        cells = pd.DataFrame({"point": replicates, "value": values})
        counts = cells.groupby("point")["value"].nunique()
        if counts.max() < 2:
            continue
        # in how many of the design points a value stands: of an identifier or a measured quantity, in one alone
        points_of = cells.drop_duplicates().groupby("value")["point"].size()
        returns = points_of[values].to_numpy() > 1
        mixed = (counts[replicates] > 1).to_numpy()
        by_name = re.split(r"[./]", str(column).strip().lower().replace("-", "_").replace(" ", "_"))[-1] in SETTINGS
        if by_name or returns[mixed].mean() > 0.5:
            settings[column] = (values, counts, by_name)
        else:
            others.append(column)
    reasons = []
    for column, (values, counts, by_name) in settings.items():
        depends = _effect(inside, replicates, _terms(rows[column], values)) < SETTING_P / len(settings)
        if not (depends or by_name):
            others.append(column)
            continue
        effect = "and the loss depends on it" if depends else "though no effect on the loss shows"
        reasons.append(
            Reason(
                "mixed_replicates",
                f"the column {shown(column)} takes {counts.max()} values within one design point, whose runs count as "
                f"replicates, {effect}",
                f"keep the run with the lowest loss of each design point, or the rows of one {shown(column)}",
                refuses=depends,
            )
        )
    notes = (
        [f"replicates differ in the columns {names_of(others)}, too: none of them may be a setting"] if others else []
    )
    return reasons, notes


def _settings(column: pd.Series[Any]) -> Index:
    """The values of a column, numbered; numbers that are written in two ways are one value."""
    numbers = _as_numbers(column)
    return pd.factorize(column.astype(str).str.strip() if numbers is None else numbers)[0].astype(np.int64)


def _as_numbers(column: pd.Series[Any]) -> Array | None:
    """A column as numbers of a usual size; None where a cell is none."""
    numbers = pd.to_numeric(column.astype(str).str.strip(), errors="coerce").to_numpy(float)
    return numbers if (np.abs(numbers) < LARGEST).all() else None


def _terms(column: pd.Series[Any], values: Index) -> Array:
    """What the loss may depend on, [rows, terms]: each value of a setting, or a curve where few values return."""
    count, numbers = int(values.max()) + 1, _as_numbers(column)
    if count <= min(MAX_VALUES, len(values) / 2) and count * len(values) <= MAX_CELLS:
        return np.asarray(np.eye(count)[values])
    if numbers is None:
        return np.empty((len(values), 0))
    numbers = np.log(numbers) if (numbers > 0).all() else numbers
    spread = numbers.std()
    if not spread > SMALLEST:
        return np.empty((len(values), 0))
    numbers = (numbers - numbers.mean()) / spread
    return np.stack([numbers, numbers**2], 1)


def _effect(inside: Array, replicates: Index, terms: Array) -> float:
    """The p-value of an effect of `terms` on deviations from the means of the design points (an F-test)."""
    if not terms.shape[1]:
        return 1.0
    frame = pd.DataFrame(terms)
    within = (frame - frame.groupby(replicates).transform("mean")).to_numpy()
    # from the normal equations: as many unknowns as values, however many rows there are
    solution, _, rank, _ = np.linalg.lstsq(within.T @ within, within.T @ inside, rcond=1e-9)
    freedom = len(inside) - len(np.unique(replicates)) - int(rank)
    if freedom < 1 or rank < 1:
        return 1.0
    total, explained = float((inside**2).sum()), float(solution @ (within.T @ inside))
    left = max(total - explained, 1e-12 * total)
    return float(stats.f.sf(explained / rank / (left / freedom), rank, freedom))


def _record(found: Estimate, mixed: list[Reason], notes: list[str], level: float, table: RunTable) -> dict[str, Any]:
    names, reasons = found.law.parameters, [*mixed, *found.reasons]
    fitted = found.fit
    return {
        "form": found.law.name,
        "parameters": {name: None if fitted is None else fitted.parameters[name] for name in names},
        "intervals": {name: list(found.intervals[name]) if name in found.intervals else None for name in names},
        "level": level,
        "num_runs": len(table.rows),
        "residual_rms": None if fitted is None else fitted.residual_rms,
        "verdict": verdict_of(reasons),
        "reasons": [str(reason) for reason in reasons],
        "notes": [*notes, *found.notes],
        "num_rows": len(table.rows) + sum(table.left_out.values()),
        "left_out": table.left_out,
    }


def _present(table: RunTable, mapping: Mapping[str, str]) -> list[str]:
    return [name for name in AXES if mapping.get(name, name) in table.rows.columns]


def _axes(law: Law, x: str | None, table: RunTable, mapping: Mapping[str, str]) -> dict[str, str]:
    """The column of each of the law's axes, such as {"x": "N"}; `InputError` where one is missing or ambiguous."""
    unknown = sorted(set(mapping) - {"loss", *AXES})
    if unknown:
        raise InputError("the mapping of columns", repr(unknown[0]), f"map one of loss, {', '.join(AXES)}")
    present = _present(table, mapping)
    if law.axes == ("x",):
        if x is None:
            varied = [name for name in present if table.rows[mapping.get(name, name)].astype(str).nunique() > 1]
            varied = varied or present
            x = varied[0] if len(varied) == 1 else None
        if x is None:
            found = " and ".join(present) or f"none of them but the columns {names_of(list(table.rows.columns))}"
            raise InputError(f"the axis of the fit (--x) to {table.path}", found, f"name one of {', '.join(AXES)}")
        if x not in AXES:
            raise InputError("the axis of the fit (--x)", repr(x), f"name one of {', '.join(AXES)}")
        labels = {"x": x}
    elif x is not None:
        raise InputError("the axis of the fit (--x)", repr(x), f"leave it out: {law.name} is fitted over N and D")
    else:
        labels = {axis: axis for axis in law.axes}
    for name in ("loss", *labels.values()):
        if mapping.get(name, name) not in table.rows.columns:
            raise InputError(
                f"the column {mapping.get(name, name)} of {table.path}",
                f"the columns {names_of(list(table.rows.columns))}",
                f"call one of them {name}, and separate columns by commas, semicolons, tabs or bars",
            )
    return labels


def _mixed(axis: str, values: Mapping[str, Array], levels: Mapping[str, Index]) -> list[Reason]:
    """Whether N or D takes several values at one value of the axis: the fit would mix two effects.

    Along C both vary by nature, and what is asked there is the loss at a compute, not at a grid point.
    """
    if axis == "C":
        return []
    for name in levels:
        if name in (axis, "C"):
            continue
        of_level = pd.Series(values[name]).groupby(levels[axis])
        spread = np.log((of_level.max() / of_level.min()).to_numpy())
        if spread.max() <= np.log(DISTINCT):
            continue
        at = int(spread.argmax())
        here = levels[axis] == at
        other = levels_of(values[name])
        pairs = np.unique(np.stack([levels[axis], other], 1), axis=0)
        kept, members = np.unique(pairs[:, 1], return_counts=True)
        best = kept[len(members) - 1 - members[::-1].argmax()]
        return [
            Reason(
                "mixed_axis",
                f"{name} takes {distinct_values(values[name][here])} values at {axis} = {values[axis][here][0]:.6g}",
                f"keep the rows of one {name}, for instance {values[name][other == best][0]:.6g} with {members.max()} "
                f"values of {axis}, or fit the joint form",
            )
        ]
    return []
