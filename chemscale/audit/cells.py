"""Checks of the grid and of each cell's own records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from chemscale.audit.findings import Findings
from chemscale.audit.layout import FORMER, former_runs
from chemscale.config import StudyConfig
from chemscale.cost.parameters import count
from chemscale.families import LANGUAGE, LOSS_UNITS
from chemscale.grid import Cell, protocol_label
from chemscale.io import read_json, read_parquet
from chemscale.planning.plan import plan_cell
from chemscale.records import CELL_FILES, read_metrics
from chemscale.study import study_of

# a study beyond these takes longer to expand than its records take to be written
_MOST_CELLS, _MOST_RESAMPLES, _MOST_VALIDATIONS = 200_000, 100_000, 10_000
_MOST_DRAWN = 20_000  # molecules of one cell, each of which is compared with each


def check_budget(study: dict[str, Any], findings: Findings) -> None:
    """The config announces as many cells as there are specs, and no more resamples or validations than can be checked.

    It is read as it stands: nothing has checked or expanded it yet.
    """
    config = study["config"]
    families = [section for section in config["families"].values() if section is not None]
    for key, sections in (("cells", families), ("controls", list(config["controls"].values()))):
        announced = sum(
            len(block["sizes"]) * len(block["num_samples"]) * len(block["seeds"])
            for section in sections
            for block in section["grid"]
        )
        findings.equal(f"config.json: {key} of the grid", announced, len(study[key]))
        findings.within(f"config.json: number of {key}", announced, 0, _MOST_CELLS)
    findings.within("config.json: fits.resamples", config["fits"]["resamples"], 0, _MOST_RESAMPLES)
    for section in config["evaluate"].values():
        if section is not None and section.get("generation") is not None:
            findings.within("config.json: drawn molecules", section["generation"]["num"], 1, _MOST_DRAWN)
    for section in families:
        findings.within("config.json: validations", section["training"]["validations"], 1, _MOST_VALIDATIONS)


def check_grid(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """The study's cells are those of its config, its plan has them all, and no folder holds another."""
    expected = study_of(StudyConfig.model_validate(study["config"]), root / "config.json")
    resolved = json.loads(json.dumps(expected.resolved()))
    findings.same_names("config.json: key", study, resolved)
    for key in ("schema_version", "study", "config", "evaluated", "waived", "data"):
        findings.equal(f"config.json: {key}", study.get(key), resolved[key])
    for key in ("cells", "controls"):
        stored = {Cell.from_dict(values).path: values for values in study[key]}
        wanted = {Cell.from_dict(values).path: values for values in resolved[key]}
        for path in findings.same_names(f"config.json: {key}", stored, wanted):
            findings.equal(f"config.json: {key}: {path}", stored[path], wanted[path])
    rows = {row["cell"]: row for row in read_parquet(root / "tables" / "plan.parquet").to_pylist()}
    planned = {
        cell.path: plan_cell(cell, expected.longest_molecule(cell)) for cell in expected.cells + expected.controls
    }
    for path in findings.same_names("tables/plan.parquet", rows, planned):
        for column in ("N", "num_params", "D", "steps", "flops_full", "protocol"):
            findings.equal(f"tables/plan.parquet: {path}: {column}", rows[path][column], planned[path][column])
    folders = {
        path.parent.relative_to(root).as_posix()
        for head in ("cells", "controls")
        for path in (root / head).rglob("metrics.json")
        if "checkpoint" not in path.relative_to(root).parts
    }
    finished = set(planned) - set(study["waived"])
    findings.same_names("cell with metrics.json", folders - set(study["waived"]), finished)
    if former := former_runs(root):
        findings.notes.append(
            f"{FORMER}/ holds {former} finished runs that the config no longer has: nothing here tells why"
        )


def check_records(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Each cell has all its records, and its metrics agree with its spec and its test clusters."""
    codes: dict[str, tuple[str, str]] = {}  # a family's cells are trained by one code, or their losses do not compare
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            findings.notes.append(f"{cell.path} is waived")
            continue
        folder = root / cell.path
        missing = [name for name in CELL_FILES if not (folder / name).is_file()]
        if missing:
            findings.differ(f"{cell.path}: no {', '.join(missing)}")
            continue
        findings.equal(f"{cell.path}/config.json", read_json(folder / "config.json"), cell.to_dict())
        metrics = _check_cell(root, cell, findings)
        first = codes.setdefault(cell.family, (cell.path, metrics["code_digest"]))
        findings.equal(f"{cell.path}/metrics.json: code_digest, beside {first[0]}'s", metrics["code_digest"], first[1])


def _check_cell(root: Path, cell: Cell, findings: Findings) -> dict[str, Any]:
    where = f"{cell.path}/metrics.json"
    metrics = read_metrics(root / where)
    expected: dict[str, Any] = {
        "status": "done",
        "study": cell.study,
        "domain": cell.domain,
        "family": cell.family,
        "size": cell.size,
        "num_samples": cell.num_samples,
        "seed": cell.seed,
        "control": cell.control,
        "config_digest": cell.digest,
        "protocol": protocol_label(cell.protocol),
        "learning_rate": cell.training["learning_rate"],
        "epochs": metrics["samples_seen"] / cell.num_samples,
    }

    clusters = read_parquet(root / cell.path / "test_clusters.parquet")
    expected["test_loss"] = math.fsum(clusters["loss_sum"].to_pylist()) / sum(clusters["count"].to_pylist())

    language = cell.domain == LANGUAGE
    vocabulary = None
    if language:
        vocabulary = len(read_json(root / "data" / cell.data["name"] / "tokenizer.json")["vocabulary"])
    parameters = count(cell.family, cell.knobs, vocabulary)
    expected |= {"num_params": parameters.total, "num_params_non_embedding": parameters.non_embedding}
    expected["loss_unit"] = LOSS_UNITS[cell.domain]
    if not language:
        expected |= {"frames_unique": cell.num_samples, "samples_seen": metrics["frames_seen"]}
        found = metrics["test_metrics"]
        findings.close(f"{where}: test_metrics.force_mae", found.get("force_mae"), expected["test_loss"])
    for field, value in expected.items():
        findings.equal(f"{where}: {field}", metrics[field], value)
    return metrics
