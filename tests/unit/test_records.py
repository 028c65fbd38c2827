"""The schema of a cell's record, and gathering: nothing missing or strange passes."""

import pandas as pd
import pyarrow as pa
import pytest

from chemscale.errors import RecordError
from chemscale.grid import Cell
from chemscale.io import write_json, write_parquet
from chemscale.records import METRIC_FIELDS, check_metrics, gather

CELL = {
    "study": "s", "family": "painn", "size": "w8", "num_samples": 32, "seed": 0, "control": None,
    "domain": "potentials", "knobs": {}, "protocol": {"kind": "one_pass"}, "training": {}, "data": {}, "threads": 1,
    "engine": {},
}  # fmt: skip
PATH = "cells/painn/w8/n32/seed0"


@pytest.fixture
def metrics():
    samples = {str: "x", int: 3, float: 1.5, dict: {}}
    values = {name: samples[kind] for name, kind in METRIC_FIELDS.items()}
    values |= {key: CELL[key] for key in ("study", "family", "size", "num_samples", "seed", "control", "domain")}
    return values | {"schema_version": 1, "test_metrics": {"force_rmse": 2.5}, "reasons": {"control": "of the grid"}}


def test_a_whole_record_passes(metrics):
    assert check_metrics(metrics, "here") == metrics


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"more": 1}, "unknown"),
        ({"steps": 1.5}, "steps = 1.5"),
        ({"steps": True}, "steps = True"),
        ({"test_metrics": None, "reasons": {"control": "x", "test_metrics": "x"}}, "no test_metrics"),
        ({"flops_6n": None}, "null without a reason"),
        ({"test_metrics": {"loss": 1.0}}, "test_metrics.loss"),
        ({"test_metrics": {"force_rmse": float("nan")}}, "test_metrics.force_rmse"),
        ({"test_metrics": {"force_rmse": "low"}}, "test_metrics.force_rmse"),
    ],
)
def test_a_strange_record_is_named(metrics, change, found):
    with pytest.raises(RecordError, match=found):
        check_metrics(metrics | change, "here")


def write(root, metrics):
    write_json(root / PATH / "metrics.json", metrics)
    write_json(root / PATH / "provenance.json", {"wall_s": 2.0, "attempts": 1})
    clusters = pa.table({"cluster": ["a"], "loss_sum": [3.0], "count": [2]})
    write_parquet(root / PATH / "test_clusters.parquet", clusters)


def test_a_cell_becomes_a_row(tmp_path, metrics):
    write(tmp_path, metrics)
    cells, clusters = gather(tmp_path, [CELL], [])
    row = cells.iloc[0]
    assert (row["cell"], row["test_loss"], row["test_force_rmse"], row["wall_s"]) == (PATH, 1.5, 2.5, 2.0)
    assert pd.isna(row["control"])
    assert not {"reasons", "test_metrics", "evaluation_digests"} & set(cells.columns)
    assert clusters.to_dict("records") == [{"cell": PATH, "cluster": "a", "loss_sum": 3.0, "count": 2}]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"size": "../../.."}, "size = '../../..'"),
        ({"family": "a/b"}, "family = 'a/b'"),
        ({"control": "/tmp"}, "control = '/tmp'"),
        ({"size": "w8\n"}, r"size = 'w8\\n'"),
        ({"num_samples": "32"}, "num_samples = '32'"),
        ({"seed": True}, "seed = True"),
        ({"seed": -1}, "seed = -1"),
        ({"num_samples": 2**63}, "num_samples = 9"),
        ({"knobs": []}, r"knobs = \[\]"),
        ({"more": 1}, "unknown"),
    ],
)
def test_a_cell_of_a_stranger_stays_in_its_folder(change, found):
    with pytest.raises(RecordError, match=found):
        Cell.from_dict(CELL | change)
    with pytest.raises(RecordError, match="found a list"):
        Cell.from_dict([CELL])


def test_a_number_that_no_table_holds_is_named(tmp_path, metrics):
    write(tmp_path, metrics | {"flops_full": 2**63})
    with pytest.raises(RecordError, match="flops_full = 9223372036854775808; a table holds"):
        gather(tmp_path, [CELL], [])


def test_a_provenance_that_is_no_object_is_named(tmp_path, metrics):
    write(tmp_path, metrics)
    write_json(tmp_path / PATH / "provenance.json", [1])
    with pytest.raises(RecordError, match=r"provenance\.json: found list"):
        gather(tmp_path, [CELL], [])


def test_a_missing_cell_is_refused_unless_it_is_waived(tmp_path, metrics):
    with pytest.raises(RecordError, match="no such file"):
        gather(tmp_path, [CELL], [])
    cells, clusters = gather(tmp_path, [CELL], [PATH])
    assert cells.empty
    assert clusters.empty
    write(tmp_path, metrics | {"num_samples": 64})
    with pytest.raises(RecordError, match="num_samples = 64"):
        gather(tmp_path, [CELL], [])
