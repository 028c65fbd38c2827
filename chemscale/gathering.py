"""The tables of a study, gathered from the records of its cells and of their evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemscale.evaluations import (
    COLUMNS,
    EVALUATION,
    ROW_COLUMNS,
    SPEED,
    SPEED_COLUMNS,
    cell_columns,
    read_evaluation,
    table_rows,
)
from chemscale.io import read_json, write_parquet
from chemscale.records import gather

if TYPE_CHECKING:
    import pandas as pd


def tables(root: Path, study: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables `cells`, `controls`, `test_clusters` and `evaluation` of a resolved study, by name.

    `cells` and `controls` have a row per run with its metrics, evaluation (null where it has none) and provenance;
    `test_clusters` is told by `chemscale.records.gather`; `evaluation` has a row per number of an evaluation: entry
    (its name), cell, evaluation (generation, probe or dynamics), metric, subject (whose it is: model or
    training_sample; the features of a probe; a molecule, or all), value, low, high (the interval), unit, reason (of a
    null).

    Raises:
        RecordError: a record of a cell that is not waived is missing or damaged.
    """
    import pandas as pd

    evaluated = [path for path in study["evaluated"] if path not in study["waived"]]
    records = {path: read_evaluation(root / path / EVALUATION) for path in evaluated}
    columns = {path: cell_columns(record, read_json(root / path / SPEED)) for path, record in records.items()}
    cells, clusters = gather(root, study["cells"], study["waived"])
    controls, _ = gather(root, study["controls"], study["waived"])
    rows = [row for path, record in records.items() for row in table_rows(path, record)]
    evaluation = pd.DataFrame(rows, columns=list(ROW_COLUMNS))
    numbers = ("value", "low", "high")
    evaluation = evaluation.astype({name: "float64" if name in numbers else "str" for name in ROW_COLUMNS})
    return {
        "cells": _with_evaluations(cells, columns),
        "controls": _with_evaluations(controls, columns),
        "test_clusters": clusters,
        "evaluation": evaluation,
    }


def _with_evaluations(cells: pd.DataFrame, columns: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The table of cells with all columns of evaluations, the same ones in every study."""
    found = cells.copy()
    for name in (*COLUMNS, *SPEED_COLUMNS):
        found[name] = [columns.get(path, {}).get(name) for path in found["cell"]]
        found[name] = found[name].astype("float64")
    return found


def gather_study(root: Path) -> None:
    """Write `tables/cells.parquet`, `controls`, `test_clusters` and `evaluation` of a study."""
    import pyarrow as pa

    study = read_json(root / "config.json")
    for name, frame in tables(root, study).items():
        write_parquet(root / "tables" / f"{name}.parquet", pa.Table.from_pandas(frame, preserve_index=False))
