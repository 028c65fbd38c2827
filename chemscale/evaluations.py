"""What an evaluation leaves behind: the schema of `evaluation.json`, and its rows and columns in a study's tables.

Imports nothing but the standard library at the top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemscale.errors import RecordError
from chemscale.io import read_json, write_json

SCHEMA_VERSION = 2
EVALUATION = "evaluation.json"
# beside it, what varies from run to run: each the name of a column, and a number or null
SPEED = "evaluation_speed.json"

# the properties that a probe predicts, with the unit of each
PROPERTIES = {"gap": "eV", "dipole": "debye"}
# what is compared between generated and validation molecules by Wasserstein's distance, with the unit of each
DESCRIPTORS = {"weight": "g/mol", "log_p": "1", "qed": "1", "rings": "rings", "heavy_atoms": "atoms"}
# the subject of what is measured of all molecules together
ALL = "all"
# what is measured of a potential's dynamics, with the unit of each
DYNAMICS = {
    "stability_time": "ps",
    "stable_share": "1",
    "distance_mae": "1",
    "temperature": "K",
    "energy_drift": "meV/atom/ps",
}
SHARES = ("validity", "uniqueness", "novelty")

_FIELDS: dict[str, type] = {
    "schema_version": int,
    "cell": str,
    "settings": dict,
    "level": float,
    "resamples": int,
    "seed": int,
    "config_digest": str,
    "data_digest": str,
    "subset_digest": str,
    "weights_sha256": str,
    "code_digest": str,
    "versions": dict,
    "generation": dict,
    "probe": dict,
    "dynamics": dict,
    "results": list,
}
EVALUATIONS = ("generation", "probe", "dynamics")
_RESULT: dict[str, type] = {
    "evaluation": str,
    "metric": str,
    "subject": str,
    "value": float,
    "low": float,
    "high": float,
    "unit": str,
    "reason": str,
}

# Columns that a study's evaluations add to its table of cells, with the metric and the subject that each holds
COLUMNS: dict[str, tuple[str, str, str]] = {
    **{f"generation_{name}": ("generation", name, "model") for name in SHARES},
    "generation_internal_diversity": ("generation", "internal_diversity", "model"),
    "generation_scaffold_overlap": ("generation", "scaffold_overlap", "model"),
    **{f"generation_wasserstein_{name}": ("generation", f"wasserstein_{name}", "model") for name in DESCRIPTORS},
    **{
        f"probe_{name}_{metric}": ("probe", f"{name}_{metric}", "trained")
        for name in PROPERTIES
        for metric in ("mae", "r2")
    },
    # of all molecules together, see `evaluation/stability.py`
    **{f"dynamics_{metric}": ("dynamics", metric, ALL) for metric in DYNAMICS},
}
SPEED_COLUMNS = ("dynamics_steps_per_s",)
# Columns of `tables/evaluation.parquet`; `entry` names a row
ROW_COLUMNS = ("entry", "cell", *_RESULT)


def result(
    evaluation: str,
    metric: str,
    subject: str,
    value: float | None,
    interval: tuple[float | None, float | None] | None,
    unit: str,
    reason: str | None = None,
) -> dict[str, Any]:
    """A number of an evaluation: whose it is (`subject`), its interval if it has one, and why anything is null."""
    low, high = interval or (None, None)
    values = (evaluation, metric, subject, value, low, high, unit, reason)
    return dict(zip(_RESULT, values, strict=True))


def check_evaluation(record: Any, where: str) -> dict[str, Any]:
    """`record` as a checked evaluation; `RecordError` names the first thing that is not as the schema says."""
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION or set(record) != set(_FIELDS):
        raise RecordError(f"read {where}", "no evaluation of this schema", "run the evaluation again")
    for field, kind in _FIELDS.items():
        if not isinstance(record[field], kind) and not (record[field] is None and field in EVALUATIONS):
            raise RecordError(f"read {where}", f"{field} = {record[field]!r}"[:200], "run the evaluation again")
    for found in record["results"]:
        if not isinstance(found, dict) or set(found) != set(_RESULT):
            raise RecordError(f"read {where}", f"the result {found!r}"[:200], "run the evaluation again")
        numbers = [found[name] for name in ("value", "low", "high")]
        if any(number is not None and not (isinstance(number, float) and math.isfinite(number)) for number in numbers):
            raise RecordError(f"read {where}", f"the numbers of {found!r}"[:200], "run the evaluation again")
        if None in numbers and not found["reason"]:
            raise RecordError(f"read {where}", f"a null without a reason in {found!r}"[:200], "run it again")
    return record


def read_evaluation(path: Path) -> dict[str, Any]:
    """The checked evaluation of a cell; `RecordError` where the file is missing, damaged or of another schema."""
    return check_evaluation(read_json(path), str(path))


def write_evaluation(path: Path, record: dict[str, Any]) -> None:
    """Write a cell's evaluation; it is checked against the schema first."""
    write_json(path, check_evaluation(record, str(path)))


def table_rows(cell: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a cell in `tables/evaluation.parquet`."""
    return [
        {"entry": f"{cell}:{found['evaluation']}:{found['metric']}:{found['subject']}", "cell": cell, **found}
        for found in record["results"]
    ]


def cell_columns(record: Mapping[str, Any], speed: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns that a cell's evaluation and its speed add to its row in the table of cells."""
    found = {(row["evaluation"], row["metric"], row["subject"]): row["value"] for row in record["results"]}
    return {column: found.get(key) for column, key in COLUMNS.items()} | {name: speed[name] for name in SPEED_COLUMNS}
