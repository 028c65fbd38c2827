"""Runs of every protocol, schedule and family pass the checks of a run's own records: no false alarm."""

import logging
import math
from dataclasses import replace

import pytest

from chemscale.audit.copies import check_copies
from chemscale.audit.curves import check_curves
from chemscale.audit.findings import Findings
from chemscale.audit.replicates import check_replicates
from chemscale.audit.values import check_provenance, check_values
from chemscale.data import passport
from chemscale.families import FAMILIES
from chemscale.training.job import Datasets
from chemscale.training.run import run_cell

LOG = logging.getLogger("test")
CHECKS = (check_values, check_curves, check_copies, check_replicates, check_provenance)
SHARED = (200, 400, 800)
# knobs that a tiny size of a family takes beside those of PaiNN
FURTHER = {
    "schnet": {"vectors": None},
    "baseline": {"vectors": None},
    "painn_scalar": {"vectors": False},
    "allegro": {"vectors": None, "tensors": 4, "l_max": 1, "neighbours": 2.0},
    "spookynet": {
        "vectors": None,
        "envelope": None,
        "long_cutoff": 4.0,
        "repulsion": True,
        "electrostatics": True,
        "dispersion": False,
    },
}


def audited(cells, root, data_dir):
    """Train cells, and what each check of their records names."""
    for cell in cells:
        run_cell(cell, root, Datasets(data_dir), "code", LOG, lambda: False)
    keys = {(cell.data["name"], cell.data["key"]) for cell in cells}
    for name, key in keys:
        draws = sorted({(cell.seed, cell.num_samples) for cell in cells if cell.data["name"] == name})
        passport.prepare(root, data_dir / key, name, draws, scaffolds=False)
    study = {
        "cells": [cell.to_dict() for cell in cells],
        "controls": [],
        "waived": [],
        "data": {name: {"key": key} for name, key in keys},
    }
    found = {}
    for check in CHECKS:
        findings = Findings(check.__name__, "something")
        check(root, study, findings)
        assert findings.compared > 0
        found[check.__name__] = findings.differences
    return found


NOTHING = {check.__name__: [] for check in CHECKS}


@pytest.mark.parametrize(
    ("domain", "protocol", "training"),
    [
        ("language", {"kind": "one_pass"}, {}),
        ("language", {"kind": "fixed_epochs", "epochs": 3}, {"schedule": "constant"}),
        ("language", {"kind": "equal_steps", "steps": 30}, {"schedule": "stable_decay", "warmup_steps": 4}),
        ("language", {"kind": "to_convergence", "steps": 300, "patience": 2}, {"validations": 12}),
        ("potentials", {"kind": "one_pass"}, {"validations": 1}),
        ("potentials", {"kind": "fixed_epochs", "epochs": 4}, {"schedule": "constant"}),
        ("potentials", {"kind": "to_convergence", "steps": 200, "patience": 1}, {"validations": 8}),
        ("potentials", {"kind": "equal_steps", "steps": 25}, {"batch_frames": 7, "schedule": "stable_decay"}),
    ],
)
def test_protocols_and_schedules(make_cell, data_dir, tmp_path, domain, protocol, training):
    cells = [make_cell(domain, seed, protocol, **training) for seed in (0, 1)]
    assert audited(cells, tmp_path, data_dir) == NOTHING


@pytest.mark.parametrize("family", [name for name in FURTHER if name in FAMILIES])
def test_families(make_cell, data_dir, tmp_path, family):
    cell = make_cell("potentials")
    knobs = {**cell.knobs, **FURTHER[family]}
    knobs = {name: value for name, value in knobs.items() if value is not None}
    # beside PaiNN's, whose FLOPs tell the same pairs of atoms
    cells = [cell, replace(cell, family=family, knobs=knobs)]
    assert audited(cells, tmp_path, data_dir) == NOTHING


def test_steps_that_runs_share(make_cell, tmp_path, write_data, make_strings):
    write_data(tmp_path / "data" / "toy-draw", make_strings(1200), draws=[(0, num) for num in SHARED])
    cell = make_cell(protocol={"kind": "one_pass"}, schedule="stable_decay", warmup_steps=5, decay=0.4, batch_tokens=64)
    cells = [
        replace(
            cell,
            num_samples=num,
            data={"name": "toy", "key": "toy-draw", "evaluations": {}},
            engine={**cell.engine, "shared_with": [other for other in SHARED if other != num]},
        )
        for num in SHARED
    ]
    assert audited(cells, tmp_path / "study", tmp_path / "data") == NOTHING


def test_a_run_that_diverged(make_cell, data_dir, tmp_path, monkeypatch):
    from chemscale.training import engine

    update, calls = engine.TorchEngine.update, []

    def diverge_once(self, rate):
        calls.append(rate)
        return math.nan if len(calls) == 15 else update(self, rate)

    monkeypatch.setattr(engine.TorchEngine, "update", diverge_once)
    cell = make_cell("potentials", retry_rate=0.5, validations=5)
    assert audited([cell], tmp_path, data_dir) == NOTHING
    assert len(calls) > 20
