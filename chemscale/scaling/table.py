"""A law fitted to anybody's table: what `chemscale fit TABLE` does.

The table is CSV or Parquet with the columns loss and those of N, D, C that the form needs; seed and run are optional.
Rows that agree in N, D and the axis of the fit are replicates of one design point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chemscale.errors import InputError
from chemscale.io import read_parquet
from chemscale.scaling.bootstrap import draw, pooled_noise
from chemscale.scaling.estimate import Estimate, Points, estimate
from chemscale.scaling.law import LAWS, Array, Law
from chemscale.scaling.verdict import Reason, accepted

AXES = ("N", "D", "C")
RESAMPLES = 1000


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
        x: the axis of a single-axis form, N, D or C; may be left out where the table has just one of them.
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
    if not 0 < level < 1:
        raise InputError("the level of the intervals (--level)", repr(level), "a number between 0 and 1")
    law, mapping = LAWS[form], dict(columns or {})
    table = _read(Path(path))
    labels = _axes(law, x, table, mapping, path)
    names = [name for name in _present(table, mapping) if name in labels.values() or name != "C"]
    values = {name: _numbers(table, name, mapping, path) for name in ("loss", *names)}
    keys, inverse = np.unique(np.stack([values[name] for name in names], 1), axis=0, return_inverse=True)
    index = inverse.reshape(-1).astype(np.int64)
    runs = np.bincount(index).astype(float)
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
    if path.suffix.lower() in (".parquet", ".pq"):
        table: pd.DataFrame = read_parquet(path).to_pandas()
    else:
        try:
            # as text: a number that is none must be told with its line, not turned into NaN
            table = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                skip_blank_lines=False,  # so that a row's index tells its line
                index_col=False,
                encoding="utf-8-sig",
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            found = f"no CSV ({' '.join(str(error).split())})"
            raise InputError(f"read the table {path}", found, "write a header and a line per run") from None
        table.columns = table.columns.str.strip()
        table = table[(table.fillna("") != "").any(axis=1)]
    if table.empty:
        raise InputError(f"read the table {path}", "no rows", "write a line per run")
    return table


def _present(table: pd.DataFrame, mapping: Mapping[str, str]) -> list[str]:
    return [name for name in AXES if mapping.get(name, name) in table.columns]


def _axes(law: Law, x: str | None, table: pd.DataFrame, mapping: Mapping[str, str], path: Path | str) -> dict[str, str]:
    """The column of each of the law's axes, such as {"x": "N"}; `InputError` where one is missing or ambiguous."""
    unknown = sorted(set(mapping) - {"loss", *AXES})
    if unknown:
        raise InputError("the mapping of columns", repr(unknown[0]), f"map one of loss, {', '.join(AXES)}")
    present = _present(table, mapping)
    if law.axes == ("x",):
        if x is None and len(present) == 1:
            x = present[0]
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
                f"rename one or map it, {name}=NAME",
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
            # a CSV's first row stands on line 2; a Parquet file has rows and no lines
            where = f"row {at + 1}" if Path(path).suffix.lower() in (".parquet", ".pq") else f"line {at + 2}"
            raise InputError(f"{path}, {where}, column {column}", repr(value), "give a positive, finite number")
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
