"""What a cell leaves behind: the schema of its records, reading and writing them, and gathering them as rows.

Imports nothing but the standard library at the top; a compute node writes records without pandas.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.errors import RecordError
from chemscale.grid import Cell
from chemscale.io import parse_json, read_json, read_parquet, write_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

# Every field of metrics.json, with its type. A value that could not be had is null, and `reasons` says why.
METRIC_FIELDS: dict[str, type] = {
    "schema_version": int,
    "status": str,
    "study": str,
    "domain": str,
    "family": str,
    "size": str,
    "num_samples": int,
    "seed": int,
    "control": str,
    "protocol": str,
    "learning_rate": float,
    "num_params": int,
    "num_params_non_embedding": int,
    "samples_seen": int,
    "tokens_seen": int,
    "tokens_unique": int,
    "frames_seen": int,
    "frames_unique": int,
    "flops_6n": int,
    "flops_attention": int,
    "flops_full": int,
    "epochs": float,
    "steps": int,
    "best_step": int,
    "loss_spikes": int,
    "retried_from_step": int,
    "val_loss": float,
    "test_loss": float,
    "loss_unit": str,
    "config_digest": str,
    "data_digest": str,
    "subset_digest": str,
    "val_digest": str,
    "test_digest": str,
    "code_digest": str,
    "evaluation_digests": dict,
    "test_metrics": dict,
    "reasons": dict,
}

# Fields that are no column of a table as they are: the test metrics become columns of their own
_NESTED = ("evaluation_digests", "test_metrics", "reasons")

# What provenance.json adds to a row of the gathered table; these values vary between runs.
PROVENANCE_COLUMNS = (
    "wall_s",
    "device_s",
    "steps_s",
    "seen_per_s",
    "flops_utilisation",
    "shared_steps",
    "shared_s",
    "shared_flops",
    "energy_kwh",
    "peak_memory_bytes",
    "attempts",
    "started",
    "finished",
)

# A batch of unlike molecules or frames lies some tenths above its neighbours; twice their median is no such batch
_SPIKE, _SPIKE_WINDOW = 2.0, 50

# The files that a finished cell has; `checkpoint/` beside them is declared by no rule.
CELL_FILES = ("config.json", "metrics.json", "metrics.jsonl", "test_clusters.parquet", "provenance.json")


def loss_spikes(curve: Sequence[str]) -> int:
    """The number of steps of a curve whose loss is above twice the median of the steps before it.

    The median is over the 50 steps before it, and the first 50 are left out.

    Args:
        curve: lines of `metrics.jsonl`.
    """
    lines = [parse_json(line, f"read the curve, line {number}") for number, line in enumerate(curve, 1)]
    losses = [line["loss"] for line in lines if "loss" in line]
    recent: deque[float] = deque(maxlen=_SPIKE_WINDOW)
    spikes = 0
    for loss in losses:
        spikes += len(recent) == _SPIKE_WINDOW and loss > _SPIKE * statistics.median(recent)
        recent.append(loss)
    return spikes


def check_metrics(metrics: Any, where: str) -> dict[str, Any]:
    """`metrics` as a checked record; `RecordError` names the first field that is not as the schema says."""
    if not isinstance(metrics, dict):
        raise RecordError(f"read {where}", type(metrics).__name__, "run the cell again")
    if metrics.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"read {where}",
            f"schema version {metrics.get('schema_version')!r}",
            f"read it with the version that wrote it; this one reads {SCHEMA_VERSION}",
        )
    if set(metrics) != set(METRIC_FIELDS):
        missing, unknown = sorted(set(METRIC_FIELDS) - set(metrics)), sorted(set(metrics) - set(METRIC_FIELDS))
        raise RecordError(f"read {where}", f"missing {missing}, unknown {unknown}", "run the cell again")
    for field, kind in METRIC_FIELDS.items():
        value = metrics[field]
        if value is None:
            if not (isinstance(metrics["reasons"], dict) and metrics["reasons"].get(field)):
                raise RecordError(f"read {where}", f"{field} is null without a reason", "run the cell again")
        elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise RecordError(f"read {where}", f"{field} = {value!r}", f"a value of type {kind.__name__} is expected")
    if not isinstance(metrics["test_metrics"], dict):
        raise RecordError(f"read {where}", "no test_metrics", "run the cell again")
    for name, value in metrics["test_metrics"].items():
        # as a column it is test_NAME: it must not take the place of another one
        if f"test_{name}" in METRIC_FIELDS or not isinstance(value, float) or not math.isfinite(value):
            raise RecordError(f"read {where}", f"test_metrics.{name} = {value!r}", "run the cell again")
    return metrics


def read_metrics(path: Path) -> dict[str, Any]:
    """The checked metrics of a cell; `RecordError` where the file is missing, damaged or of another schema."""
    return check_metrics(read_json(path), str(path))


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write a cell's metrics; they are checked against the schema first."""
    write_json(path, check_metrics(metrics, str(path)))


def _row(root: Path, cell: Mapping[str, Any], path: str) -> dict[str, Any]:
    metrics = read_metrics(root / path / "metrics.json")
    for field in ("family", "size", "num_samples", "seed", "control"):
        if metrics[field] != cell[field]:
            raise RecordError(
                f"gather {path}", f"{field} = {metrics[field]!r}", f"{cell[field]!r} is expected: run the cell again"
            )
    for field, value in metrics.items():
        if isinstance(value, int) and abs(value) >= 2**63:
            raise RecordError(f"gather {path}", f"{field} = {value}", "a table holds numbers of 64 bits")
    provenance = read_json(root / path / "provenance.json")
    if not isinstance(provenance, dict):
        raise RecordError(f"read {root / path / 'provenance.json'}", type(provenance).__name__, "run the cell again")
    row: dict[str, Any] = {"cell": path}
    row.update({field: metrics[field] for field in METRIC_FIELDS if field not in _NESTED})
    row.update({f"test_{name}": value for name, value in sorted(metrics["test_metrics"].items())})
    row.update({column: provenance.get(column) for column in PROVENANCE_COLUMNS})
    return row


def gather(root: Path, cells: list[dict[str, Any]], waived: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of finished cells and their test clusters, in the order of `cells`.

    Args:
        root: the study's folder.
        cells: the cells as `Cell.to_dict` gives them.
        waived: paths of cells that may be missing; they are left out.

    Returns:
        cells: a row each, the columns of `tables/cells.parquet`;
        clusters: cell, cluster, loss_sum, count.

    Raises:
        RecordError: a cell that is not waived is missing or damaged.
    """
    import pandas as pd

    rows, clusters = [], []
    for values in cells:
        path = Cell.from_dict(values).path
        if path in waived:
            continue
        rows.append(_row(root, values, path))
        table = read_parquet(root / path / "test_clusters.parquet").to_pandas()
        table.insert(0, "cell", path)
        clusters.append(table)
    whole = {name: "Int64" for name, kind in METRIC_FIELDS.items() if kind is int}
    texts = [name for name, kind in METRIC_FIELDS.items() if kind is str]
    columns = [
        "cell",
        *(name for name in METRIC_FIELDS if name not in _NESTED),
        *PROVENANCE_COLUMNS,
    ]
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    # typed by the schema: a column without any value must not change its type from study to study
    whole |= dict.fromkeys(("attempts", "shared_steps", "shared_flops"), "Int64")
    frame = frame.astype(whole | dict.fromkeys(texts, "str"))
    frame = frame.astype(
        {
            name: "float64"
            for name in frame.columns
            if METRIC_FIELDS.get(name) is float or (name.startswith("test_") and name not in METRIC_FIELDS)
        }
        | dict.fromkeys(
            ("wall_s", "device_s", "steps_s", "seen_per_s", "flops_utilisation", "shared_s", "energy_kwh"), "float64"
        )
        | {"peak_memory_bytes": "Int64"}
    )
    joined = (
        pd.concat(clusters, ignore_index=True)
        if clusters
        else pd.DataFrame({"cell": [], "cluster": [], "loss_sum": [], "count": []})
    )
    return frame, joined
