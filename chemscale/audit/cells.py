"""Checks of the grid and of each cell's own records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from chemscale.audit.findings import Findings
from chemscale.config import StudyConfig
from chemscale.cost.flops import language_flops
from chemscale.cost.parameters import count
from chemscale.families import LANGUAGE, LOSS_UNITS
from chemscale.grid import Cell, protocol_label
from chemscale.io import read_json, read_parquet
from chemscale.planning.plan import plan_cell
from chemscale.records import CELL_FILES, loss_spikes, read_metrics
from chemscale.study import study_of


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


def check_records(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Each cell has all its records, and its metrics agree with its spec, its curve and its test clusters."""
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
    if cell.protocol["kind"] == "equal_steps":
        findings.equal(f"{where}: steps of the protocol", metrics["steps"], cell.protocol["steps"])
    elif cell.protocol["kind"] == "to_convergence":
        findings.within(f"{where}: steps of the protocol", metrics["steps"], 1, cell.protocol["steps"])

    clusters = read_parquet(root / cell.path / "test_clusters.parquet")
    expected["test_loss"] = math.fsum(clusters["loss_sum"].to_pylist()) / sum(clusters["count"].to_pylist())

    language = cell.domain == LANGUAGE
    seen = "tokens_seen" if language else "frames_seen"
    vocabulary = None
    if language:
        vocabulary = len(read_json(root / "data" / cell.data["name"] / "tokenizer.json")["vocabulary"])
    parameters = count(cell.family, cell.knobs, vocabulary)
    expected |= {"num_params": parameters.total, "num_params_non_embedding": parameters.non_embedding}
    expected["loss_unit"] = LOSS_UNITS[cell.domain]
    if vocabulary is not None:
        expected["flops_6n"] = 6 * parameters.non_embedding * metrics["tokens_seen"]
        # all products but attention's are a multiple of the tokens
        one = language_flops(cell.family, cell.knobs, vocabulary, [1])
        per_token = one["flops_full"] - one["flops_attention"]
        expected["flops_attention"] = metrics["flops_full"] - per_token * metrics["tokens_seen"]
    else:
        expected |= {"frames_unique": cell.num_samples, "samples_seen": metrics["frames_seen"]}
        found = metrics["test_metrics"]
        findings.close(f"{where}: test_metrics.force_mae", found.get("force_mae"), expected["test_loss"])
        for name in [name.removesuffix("force_mae") for name in found if name.endswith("force_mae")]:
            findings.within(
                f"{where}: test_metrics.{name}force_mae", found[f"{name}force_mae"], 0, found[f"{name}force_rmse"]
            )

    lines = (root / cell.path / "metrics.jsonl").read_text().splitlines()
    expected["loss_spikes"] = loss_spikes(lines)
    curve = [json.loads(line) for line in lines]
    steps = [line for line in curve if "loss" in line]
    validations = {line["step"]: line["val_loss"] for line in curve if "val_loss" in line}
    findings.equal(
        f"{cell.path}/metrics.jsonl: steps", [line["step"] for line in steps], list(range(1, len(steps) + 1))
    )
    last = steps[-1]
    expected |= {"steps": last["step"], seen: last[seen], "flops_full": last["flops_full"]}
    expected |= {"val_loss": min(validations.values()), "best_step": min(validations, key=validations.__getitem__)}
    for field, value in expected.items():
        findings.equal(f"{where}: {field}", metrics[field], value)
    return metrics
