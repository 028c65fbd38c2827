from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from chemscale.errors import RecordError
from chemscale.io import read_json, read_parquet, write_json
from chemscale.reporting.summary import summary
from chemscale.reporting.tables import write


def test_the_data_table_is_the_manifests(planted: Path) -> None:
    rows = {row["name"]: row for row in read_parquet(planted / "tables" / "data.parquet").to_pylist()}
    assert set(rows) == {"molecules", "conformers"}
    for name, row in rows.items():
        manifest = read_json(planted / "data" / name / "manifest.json")
        assert row["rows_in"] == row["rows_kept"] + row["rows_rejected"] == manifest["rows_in"]
        assert row["source"] == manifest["source"]["name"]
        assert row["train_rows"] == manifest["splits"]["train"]["rows"]
        assert row["gap_rows"] is None
    assert rows["molecules"]["rejected_too_long"] == 390
    assert rows["conformers"]["rejected_too_long"] is None
    assert rows["molecules"]["test_tokens"] == 1200
    assert rows["conformers"]["test_frames"] == 1200
    assert rows["conformers"]["test_tokens"] is None
    assert rows["conformers"]["tokenizer_digest"] is None


def test_the_passport_table_is_the_passports(planted: Path) -> None:
    rows = {row["entry"]: row for row in read_parquet(planted / "tables" / "passport.parquet").to_pylist()}
    overlap = rows["molecules, overlap, train and test"]
    assert (overlap["rows"], overlap["groups"], overlap["scaffolds"]) == (0, 0, 37)
    assert rows["conformers, overlap, train and test"]["scaffolds"] is None
    test = rows["molecules, length, test"]
    assert (test["low"], test["mean"], test["high"], test["rows"]) == (7, (7 * 100 + 23 * 300) / 400, 23, 400)
    subset = rows["conformers, subset, seed 1, 8000 rows"]
    assert (subset["seed"], subset["num_samples"], subset["length"]) == (1, 8000, 99_991)
    bromine = rows["molecules, element, Br"]
    assert [bromine[f"{split}_atoms"] for split in ("train", "validation", "test")] == [0, 0, 3]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"data": {"molecules": {}}})
    write_json(tmp_path / "data" / "molecules" / "manifest.json", {"source": {}, "rejected": {}})
    with pytest.raises(RecordError, match=r"molecules/manifest\.json.*settings"):
        write(tmp_path)


def test_what_the_closing_lines_give_to_paste_is_quoted(planted: Path, tmp_path: Path) -> None:
    odd = tmp_path / "my $(runs) ü'x"
    odd.symlink_to(planted)
    lines = summary(odd, {"verdict": "failed", "checks": []}).splitlines()
    assert shlex.split(lines[0]) == ["report:", str(odd / "report" / "index.html")]
    command = next(line for line in lines if "chemscale audit" in line)
    assert shlex.split(command.partition(": ")[2]) == [".venv/bin/chemscale", "audit", str(odd)]


def test_closing_lines(planted: Path, tmp_path: Path) -> None:
    lines = summary(planted, {"verdict": "ok", "checks": []}).splitlines()
    assert lines[0] == f"report: {planted / 'report' / 'index.html'}"
    assert lines[-1] == "audit: ok"
    fits = read_parquet(planted / "tables" / "fits.parquet").to_pylist()
    accepted = [fit for fit in fits if fit["verdict"] == "accepted"]
    exponents = sum(fit[name] is not None for fit in accepted for name in ("alpha", "beta"))
    assert sum("equal_steps(" in line for line in lines) == exponents > 0
    answer = next(fit for fit in accepted if fit["fit_id"] == "chemgpt/L(D)/offset")
    expected = f"chemgpt L(D) offset: beta = {answer['beta']:.3f} [{answer['beta_low']:.3f}, {answer['beta_high']:.3f}]"
    assert any(expected in line and "size=w40" in line for line in lines)


def test_closing_lines_name_the_checks_that_failed(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "fits.parquet").write_bytes((planted / "tables" / "fits.parquet").read_bytes())
    checks = [{"name": "cells", "verdict": "ok"}, {"name": "digests", "verdict": "failed"}]
    lines = summary(tmp_path, {"verdict": "failed", "checks": checks}).splitlines()
    assert lines[-1] == "audit: failed (digests)"
    assert f"chemscale audit {tmp_path}" in lines[-2]
