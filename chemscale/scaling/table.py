"""A law fitted to anybody's table: what `chemscale fit TABLE` does.

The table is CSV or Parquet with the columns loss and those of N, D, C that the form needs; seed and run are optional.
Rows that agree in N, D and the axis of the fit are replicates of one design point; where a column `seed` tells them
apart, so are those whose values differ by a few per cent, as D in tokens does between two draws of a subset.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chemscale.errors import InputError, RecordError
from chemscale.io import read_parquet
from chemscale.scaling.bootstrap import draw, pooled_noise
from chemscale.scaling.estimate import Estimate, Points, estimate
from chemscale.scaling.law import LAWS, Array, Index, Law
from chemscale.scaling.verdict import DISTINCT, Reason, accepted

AXES = ("N", "D", "C")
RESAMPLES = 1000
MAX_LEVEL = 0.998  # what that many resamples resolve


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
    """Fit a law to a table and judge it.

    Args:
        path: a .csv or .parquet file.
        form: a name in `LAWS`.
        x: the axis of a single-axis form, N, D or C; may be left out where just one of them varies.
        level: of the intervals, in (0, 1).
        resamples: of the bootstrap.
        seed: of the bootstrap.
        columns: the table's names of loss, N, D and C where they differ, such as {"loss": "test_loss"}.

    Returns:
        form, parameters (by name; null where nothing could be fitted), intervals (by name, [low, high] or null), level,
        num_runs, residual_rms (of the log loss), verdict ("accepted" or "refused") and reasons (texts).

    Raises:
        InputError: the arguments or the table are wrong; names file, line and column.
    """
    if form not in LAWS:
        raise InputError("the form of a fit (--form)", repr(form), f"name one of {', '.join(LAWS)}")
    if not 0 < level <= MAX_LEVEL:
        raise InputError("the level of the intervals (--level)", repr(level), f"a number from above 0 to {MAX_LEVEL}")
    law, mapping = LAWS[form], dict(columns or {})
    table = _read(Path(path))
    labels = _axes(law, x, table, mapping, path)
    names = [name for name in _present(table, mapping) if name in labels.values() or name != "C"]
    values = {name: _numbers(table, name, mapping, path) for name in ("loss", *names)}
    index = _design_points([values[name] for name in names], table)
    runs = np.bincount(index).astype(float)
    keys = np.stack([np.bincount(index, values[name]) / runs for name in names], 1)
    points = Points(
        axes={axis: np.bincount(index, values[name]) / runs for axis, name in labels.items()},
        labels=labels,
        loss=np.bincount(index, values["loss"]) / runs,
        runs=runs,
    )
    mixed = _mixed(labels, names, keys) if law.axes == ("x",) else []
    draws = draw(len(runs), resamples, seed, "table")
    found = estimate(law, points, pooled_noise(np.log(values["loss"]), index), draws, level)
    return _record(found, mixed, level, len(table))


def _design_points(axes: list[Array], table: pd.DataFrame) -> Index:
    """The index of each row's design point, from its values on the axes, numbered from 0."""
    exact = _numbered([np.unique(values, return_inverse=True)[1] for values in axes])
    if "seed" not in table.columns:
        return exact
    near = _numbered([_levels(values) for values in axes])
    # a seed that stands twice in a point tells two points of the design, however near they are
    twice = pd.DataFrame({"point": near, "seed": table["seed"].astype(str).to_numpy()}).duplicated().any()
    return exact if twice else near


def _levels(values: Array) -> Index:
    """The number of each value's level: values in order, with a new level where one exceeds the last by `DISTINCT`."""
    order = np.argsort(values, kind="stable")
    levels = np.empty(len(values), np.int64)
    levels[order] = np.concatenate([[0], np.cumsum(np.diff(np.log(values[order])) > math.log(DISTINCT))])
    return levels


def _numbered(levels: list[Index]) -> Index:
    return np.unique(np.stack(levels, 1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _record(found: Estimate, mixed: list[Reason], level: float, runs: int) -> dict[str, Any]:
    names, reasons = found.law.parameters, [*mixed, *found.reasons]
    fitted = found.fit
    return {
        "form": found.law.name,
        "parameters": {name: None if fitted is None else fitted.parameters[name] for name in names},
        "intervals": {name: list(found.intervals[name]) if name in found.intervals else None for name in names},
        "level": level,
        "num_runs": runs,
        "residual_rms": None if fitted is None else fitted.residual_rms,
        "verdict": accepted(reasons),
        "reasons": [str(reason) for reason in reasons],
    }


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"read the table {path}", "no such file", "name a CSV or Parquet file")
    table = _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)
    if table.empty:
        raise InputError(f"read the table {path}", "no rows", "write a line per run")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise InputError(f"read the table {path}", f"two columns {repeated[0]!r}", "name each column once")
    if {"seed", "run"} & set(table.columns) and table.duplicated().any():
        at = table.index[table.duplicated()][0]
        raise InputError(f"{path}, {_place(path, at)}", "a run that stands in the table before", "give each run once")
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        # a stored index is a column like any other
        table: pd.DataFrame = read_parquet(path).to_pandas(ignore_metadata=True)
    except RecordError as error:
        raise InputError(f"read the table {path}", error.found, "give a whole Parquet file") from None
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # a line with more fields than the header, 3,5 for 3.5 say, is no run whose last field may be dropped
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # as text: a number that is none must be told with its line, not turned into NaN
            table = pd.read_csv(
                path,
                dtype=str,
                header=None,
                keep_default_na=False,
                skipinitialspace=True,
                skip_blank_lines=False,  # so that a row's index tells its line
                index_col=False,
                encoding="utf-8-sig",
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeError, OSError) as error:
        found = f"no CSV ({' '.join(str(error).split())})"
        raise InputError(f"read the table {path}", found, "write a header and a line per run") from None
    names = table.iloc[0].fillna("").str.strip()
    table = table.iloc[1:].set_axis(list(names), axis=1).reset_index(drop=True)
    return table[(table.fillna("") != "").any(axis=1)]


def _place(path: Path | str, at: int) -> str:
    """A row in words: a CSV's first row stands on line 2; a Parquet file has rows and no lines."""
    return f"row {at + 1}" if Path(path).suffix.lower() in (".parquet", ".pq") else f"line {at + 2}"


def _present(table: pd.DataFrame, mapping: Mapping[str, str]) -> list[str]:
    return [name for name in AXES if mapping.get(name, name) in table.columns]


def _axes(law: Law, x: str | None, table: pd.DataFrame, mapping: Mapping[str, str], path: Path | str) -> dict[str, str]:
    """The column of each of the law's axes, such as {"x": "N"}; `InputError` where one is missing or ambiguous."""
    unknown = sorted(set(mapping) - {"loss", *AXES})
    if unknown:
        raise InputError("the mapping of columns", repr(unknown[0]), f"map one of loss, {', '.join(AXES)}")
    present = _present(table, mapping)
    if law.axes == ("x",):
        if x is None:
            varied = [name for name in present if table[mapping.get(name, name)].nunique() > 1] or present
            x = varied[0] if len(varied) == 1 else None
        if x is None:
            found = " and ".join(present) or "none of them"
            raise InputError(f"the axis of the fit (--x) to {path}", found, f"name one of {', '.join(AXES)}")
        if x not in AXES:
            raise InputError("the axis of the fit (--x)", repr(x), f"name one of {', '.join(AXES)}")
        labels = {"x": x}
    elif x is not None:
        raise InputError("the axis of the fit (--x)", repr(x), f"leave it out: {law.name} is fitted over N and D")
    else:
        labels = {axis: axis for axis in law.axes}
    for name in ("loss", *labels.values()):
        if mapping.get(name, name) not in table.columns:
            raise InputError(
                f"the column {mapping.get(name, name)} of {path}",
                f"the columns {', '.join(map(str, table.columns))}",
                f"call one of them {name}",
            )
    return labels


def _numbers(table: pd.DataFrame, name: str, mapping: Mapping[str, str], path: Path | str) -> Array:
    """A column as positive numbers; `InputError` names the first line where it is not."""
    column = mapping.get(name, name)
    for at, value in zip(table.index, table[column], strict=True):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise InputError(
                f"{path}, {_place(path, at)}, column {column}", repr(value), "give a positive, finite number"
            )
    return np.array([float(value) for value in table[column]])


def _mixed(labels: Mapping[str, str], names: list[str], keys: Array) -> list[Reason]:
    """Whether N or D takes several values at one value of the axis: the fit would mix two effects.

    Along C both vary by nature, and what is asked there is the loss at a compute, not at a grid point.
    """
    axis = names.index(labels["x"])
    if labels["x"] == "C":
        return []
    for other, name in enumerate(names):
        if other == axis:
            continue
        pairs = np.unique(keys[:, [axis, other]], axis=0)
        values, counts = np.unique(pairs[:, 0], return_counts=True)
        if (counts > 1).any():
            kept, members = np.unique(pairs[:, 1], return_counts=True)
            best = kept[len(members) - 1 - members[::-1].argmax()]
            return [
                Reason(
                    "mixed_axis",
                    f"{name} takes {counts.max()} values at {names[axis]} = {values[counts.argmax()]:.6g}",
                    f"keep the rows of one {name}, for instance {best:.6g} with {members.max()} values of "
                    f"{names[axis]}, or fit the joint form",
                )
            ]
    return []
