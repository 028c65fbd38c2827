"""The schema of an evaluation, and its numbers in the tables of a study."""

import pytest

from chemscale.errors import RecordError
from chemscale.evaluations import COLUMNS, check_evaluation, result
from chemscale.gathering import tables


@pytest.fixture
def record():
    return {
        "schema_version": 2, "cell": "cells/x", "settings": {}, "level": 0.9, "resamples": 200, "seed": 0,
        "config_digest": "", "data_digest": "", "subset_digest": "", "weights_sha256": "", "code_digest": "",
        "versions": {}, "generation": None, "probe": {}, "dynamics": None,
        "results": [result("probe", "gap_mae", "trained", 1.5, (1.0, 2.0), "eV"),
                    result("probe", "gap_r2", "trained", None, None, "1", "no spread")],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"schema_version": 1}, "no evaluation of this schema"),
        ({"more": 1}, "no evaluation of this schema"),
        ({"level": "high"}, "level = 'high'"),
        ({"settings": None}, "settings = None"),
        ({"results": [{"value": 1.0}]}, "the result"),
        ({"results": [result("probe", "gap_mae", "trained", float("nan"), (1.0, 2.0), "eV")]}, "the numbers of"),
        ({"results": [result("probe", "gap_mae", "trained", None, None, "eV")]}, "a null without a reason"),
    ],
)
def test_a_strange_record_is_named(record, change, found):
    assert check_evaluation(record, "here") == record
    with pytest.raises(RecordError, match=found):
        check_evaluation(record | change, "here")


def test_a_study_without_evaluations_has_the_same_columns(tmp_path):
    found = tables(tmp_path, {"cells": [], "controls": [], "evaluated": {}, "waived": []})
    assert set(COLUMNS) <= set(found["cells"].columns)
    assert {str(found["cells"][name].dtype) for name in COLUMNS} == {"float64"}
    assert found["evaluation"].empty
