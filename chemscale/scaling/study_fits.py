"""The laws of a study: which fits are made of its cells, and the tables that hold them.

Per family L(N) at the largest subset, L(D) at each size, L(N, D) on the whole grid and L(C) along the compute frontier,
with and without an irreducible loss; always of the test loss, always under one protocol. `design` tells what the axes
and the design points are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chemscale.errors import RecordError
from chemscale.io import read_json, read_parquet, write_parquet
from chemscale.scaling.contrasts import CONTRAST_COLUMNS, contrast_table
from chemscale.scaling.design import METRIC, Design, design
from chemscale.scaling.effects import CONTROL_COLUMNS, SLOPE_COLUMNS, control_table, local_slopes
from chemscale.scaling.estimate import Estimate, Points, estimate
from chemscale.scaling.law import LAWS, Array
from chemscale.scaling.verdict import Reason

__all__ = ["FIT_COLUMNS", "contrast_table", "control_table", "fit_study", "local_slopes", "write"]

SAME_COMPUTE = 1.25  # cells whose FLOPs differ by less are compared as of one compute
PARAMETERS = ("E", "A", "alpha", "B", "beta")

# The columns of tables/fits.parquet. `residuals` are log L - log f at `points`, in that order; `curve_*` draw the law
# with its interval over its range; x is the axis of the fit, for ND it is N and y is D.
FIT_COLUMNS: dict[str, str] = {
    "fit_id": "string",
    "family": "string",
    "domain": "string",
    "axis": "string",
    "form": "string",
    "metric": "string",
    "loss_unit": "string",
    "protocol": "string",
    "at": "string",
    "n_points": "int64",
    "n_runs": "int64",
    **dict.fromkeys(("x_min", "x_max", "y_min", "y_max"), "double"),
    **dict.fromkeys(PARAMETERS, "double"),
    **{f"{name}_{end}": "double" for name in PARAMETERS for end in ("low", "high")},
    "level": "double",
    "residual_rms": "double",
    "seed_sd": "double",
    "seed_dof": "int64",
    "lack_of_fit_p": "double",
    "resamples": "int64",
    "converged": "bool",
    "verdict": "string",
    **dict.fromkeys(("reasons", "notes", "cells_used", "cells_left_out", "points"), "list<string>"),
    **dict.fromkeys(("residuals", "curve_x", "curve", "curve_low", "curve_high"), "list<double>"),
}

_MAX_CLUSTERS_BYTES = 2**34


@dataclass(frozen=True)
class _Plan:
    """One set of design points to be fitted: `forms` along `axis`, with `at` held; `why` the others are left out."""

    label: str
    axis: str
    forms: tuple[str, ...]
    at: str
    points: list[int]
    why: str


def fit_study(
    cells: pd.DataFrame, clusters: pd.DataFrame, controls: pd.DataFrame, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """The fits of a study, a row each with the columns `FIT_COLUMNS`; a function of its arguments alone.

    Args:
        cells: as in tables/cells.parquet.
        clusters: as in tables/test_clusters.parquet; empty where the test set is taken as it is.
        controls: as in tables/controls.parquet; no law uses them, a control among the cells is an error.
        settings: `level` of the intervals, `resamples`, `seed`.

    Raises:
        RecordError: the tables contradict each other.
    """
    both = sorted(set(cells["cell"]) & set(controls["cell"]))
    if both or cells["control"].notna().any():
        found = both[0] if both else str(cells.loc[cells["control"].notna(), "cell"].iloc[0])
        raise RecordError("fit the study's cells", f"the control {found} among them", "gather the study again")
    rows: list[dict[str, Any]] = []
    for name in sorted(cells["family"].unique()):
        family = design(name, cells[cells["family"] == name], clusters, settings)
        for plan in _plans(family):
            rows += [_row(family, plan, form, settings) for form in plan.forms]
    frame = pd.DataFrame(rows, columns=list(FIT_COLUMNS))
    kinds = {"string": "str", "int64": "int64", "double": "float64", "bool": "bool"}
    return frame.astype({column: kinds[kind] for column, kind in FIT_COLUMNS.items() if kind in kinds})


def _plans(family: Design) -> list[_Plan]:
    points = family.points
    if points.empty:
        return []
    both = ("power", "offset")
    largest = int(points["num_samples"].max())
    plans = [
        _Plan("L(N)", "N", both, f"num_samples={largest}", _where(points["num_samples"] == largest), "another subset")
    ]
    sizes = points.drop_duplicates("size", keep="last")["size"].tolist()  # by N, the largest last
    # a size of the capacity ladder alone has no data axis
    along = [size for size in sizes if (points["size"] == size).sum() >= LAWS["power"].min_points] or sizes[-1:]
    for size in [along[-1], *along[:-1]]:
        label = "L(D)" if size == along[-1] else f"L(D)@{size}"
        plans.append(_Plan(label, "D", both, f"size={size}", _where(points["size"] == size), "another size"))
    plans.append(_Plan("L(N,D)", "ND", ("joint_power", "joint"), "whole grid", list(range(len(points))), ""))
    at = "compute frontier"
    if all(protocol.startswith("equal_steps") for protocol in family.protocols):
        at += "; steps are equal, so that compute varies by model size only"
    plans.append(_Plan("L(C)", "C", both, at, frontier(points), "above the compute frontier"))
    return plans


def _where(mask: pd.Series[bool]) -> list[int]:
    return [int(at) for at in np.flatnonzero(mask.to_numpy())]


def frontier(points: pd.DataFrame) -> list[int]:
    """The rows of `points` (columns C, loss) on the lower envelope of loss against compute, by rising C.

    Points whose C lies within a factor `SAME_COMPUTE` of the lowest of their group are of one compute, and the best of
    them stands for it: a few FLOPs more or less are no step along the axis. A group stays where it beats all cheaper
    ones.
    """
    compute, loss = points["C"].to_numpy(float), points["loss"].to_numpy(float)
    groups: list[list[int]] = []
    for at in np.argsort(compute, kind="stable"):
        if groups and compute[at] <= SAME_COMPUTE * compute[groups[-1][0]]:
            groups[-1].append(int(at))
        else:
            groups.append([int(at)])
    chosen: list[int] = []
    for group in groups:
        best = min(group, key=lambda at: loss[at])
        if not chosen or loss[best] < loss[chosen[-1]]:
            chosen.append(best)
    return chosen


def _row(family: Design, plan: _Plan, form: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    law, level = LAWS[form], float(settings["level"])
    chosen = family.points.iloc[plan.points]
    columns = ("N", "D") if plan.axis == "ND" else (plan.axis,)
    axes = {axis: chosen[column].to_numpy(float) for axis, column in zip(law.axes, columns, strict=True)}
    labels = dict(zip(law.axes, columns, strict=True))
    used = family.cells[family.cells["point"].isin(plan.points)]
    others = family.cells[~family.cells["point"].isin(plan.points)]
    first = family.cells.iloc[0]
    noise, told = family.noise_of(plan.points)
    row: dict[str, Any] = dict.fromkeys(FIT_COLUMNS)
    row.update(
        fit_id=f"{family.name}/{plan.label}/{form}",
        family=family.name,
        domain=first["domain"],
        axis=plan.axis,
        form=form,
        metric=METRIC,
        loss_unit=first["loss_unit"],
        protocol=" + ".join(family.protocols),
        at=plan.at,
        n_points=len(chosen),
        n_runs=len(used),
        level=level,
        seed_sd=np.nan if noise.sd is None else noise.sd,
        seed_dof=noise.dof,
        resamples=int(settings["resamples"]),
        cells_used=used["cell"].tolist(),
        cells_left_out=family.unusable + [f"{cell}: {plan.why}" for cell in others["cell"]],
        points=[f"{size}/n{number}" for size, number in zip(chosen["size"], chosen["num_samples"], strict=True)],
    )
    for end, values in zip("xy", axes.values(), strict=False):
        row[f"{end}_min"], row[f"{end}_max"] = float(values.min()), float(values.max())
    if len(family.protocols) > 1:
        reason = Reason(
            "mixed_protocols",
            f"cells under {' and '.join(family.protocols)}",
            "keep one protocol per family in a study; the others answer other questions",
        )
        return row | _unfitted([reason])
    points = Points(axes, labels, chosen["loss"].to_numpy(float), chosen["runs"].to_numpy(float))
    found = estimate(law, points, noise, family.draws.take(plan.points), level)
    row |= _fitted(found, axes)
    row["notes"] = [*told, *row["notes"]]
    if plan.axis == "C":
        row["notes"].append("the resamples keep this frontier: the interval leaves out the choice of its points")
    return row


def _unfitted(reasons: list[Reason]) -> dict[str, Any]:
    lists: dict[str, Any] = {name: [] for name in ("notes", "residuals", "curve_x", "curve", "curve_low", "curve_high")}
    return {"converged": False, "verdict": "refused", "reasons": [str(reason) for reason in reasons], **lists}


def _fitted(found: Estimate, axes: Mapping[str, Array]) -> dict[str, Any]:
    row = _unfitted(list(found.reasons)) | {"verdict": found.verdict, "notes": list(found.notes)}
    if found.fit is None:
        return row
    row.update(
        found.fit.parameters,
        residual_rms=found.fit.residual_rms,
        converged=found.fit.converged,
        residuals=found.fit.residuals.tolist(),
        lack_of_fit_p=found.lack_of_fit_p,
    )
    for name, (low, high) in found.intervals.items():
        row[f"{name}_low"], row[f"{name}_high"] = low, high
    if "x" in axes:
        curve = found.curve(float(axes["x"].min()), float(axes["x"].max()))
        names = ("curve_x", "curve", "curve_low", "curve_high")
        row.update({name: values.tolist() for name, values in zip(names, curve, strict=True)})
    return row


def write(root: Path) -> None:
    """Write tables/fits.parquet, contrasts, control_effects and slopes of a gathered study."""
    import pyarrow as pa

    tables = Path(root) / "tables"
    cells, controls = (read_parquet(tables / f"{name}.parquet").to_pandas() for name in ("cells", "controls"))
    # a row for each test cluster of each cell
    clusters = read_parquet(tables / "test_clusters.parquet", max_bytes=_MAX_CLUSTERS_BYTES).to_pandas()
    config = read_json(Path(root) / "config.json")["config"]
    kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    kinds |= {f"list<{name}>": pa.list_(kind) for name, kind in kinds.items()}
    for name, frame, columns in (
        ("fits", fit_study(cells, clusters, controls, config["fits"]), FIT_COLUMNS),
        ("contrasts", contrast_table(cells, clusters, config["contrasts"], config["fits"]), CONTRAST_COLUMNS),
        ("control_effects", control_table(cells, controls), CONTROL_COLUMNS),
        ("slopes", local_slopes(cells), SLOPE_COLUMNS),
    ):
        schema = pa.schema([(column, kinds[kind]) for column, kind in columns.items()])
        write_parquet(tables / f"{name}.parquet", pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
