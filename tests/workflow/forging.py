"""What forgeries of a finished study share: changes of a record that carry its digests and copies along."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from chemscale.audit import run
from chemscale.config import StudyConfig
from chemscale.data.passport import passport_of
from chemscale.evaluation.measures import results_of
from chemscale.gathering import gather_study
from chemscale.grid import Cell
from chemscale.io import digest, read_json, read_parquet, sha256_file, write_json, write_parquet
from chemscale.planning import plan
from chemscale.reporting import figures, page, tables
from chemscale.scaling import study_fits
from chemscale.study import study_of

EVALUATED = "cells/chemgpt/w16/n400/seed0/evaluation.json"
RECORDS = ("config.json", "metrics.json", "metrics.jsonl", "provenance.json", "test_clusters.parquet")


def remade(root: Path) -> None:
    """Make tables, fits, figures, the audit of the records, the page and the seal again.

    The last audit is left as it is: that it fails is for the next one to say.
    """
    plan.write(root)
    gather_study(root)
    study_fits.write(root)
    tables.write(root)
    figures.draw_all(root)
    records = run.audit(root)
    for check in records["checks"]:
        check.update(verdict="ok", evidence=[])  # a forger hides what fails
    write_json(root / "audit" / "records.json", {**records, "verdict": "ok"})
    page.write_page(root)
    run.seal(root)


# --- what forgeries share ---------------------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the value of a JSON file; a value that `change` returns takes its place."""
    value = read_json(path)
    changed = change(value)
    write_json(path, value if changed is None else changed)


def curve_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_curve(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def keep_copies(root: Path, cell: str) -> None:
    """Let the copies in `checkpoint/` say what the published records say."""
    folder = root / cell
    finished = folder / "checkpoint" / "finished"
    for name in RECORDS:
        shutil.copyfile(folder / name, finished / name)
    shutil.copyfile(folder / "metrics.jsonl", folder / "checkpoint" / "curve.jsonl")
    metrics = read_json(folder / "metrics.json")

    def mark(marker: dict[str, Any]) -> None:
        marker["files"] = {name: sha256_file(finished / name) for name in RECORDS}
        marker["identity"] |= {name: metrics[f"{name}_digest"] for name in ("config", "data", "code")}

    edit(finished / "complete.json", mark)


def change_clusters(folder: Path, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Change the summed losses of test clusters (given them and counts), and the test loss with them."""
    path = folder / "test_clusters.parquet"
    table = read_parquet(path)
    counts = np.array(table["count"].to_pylist())
    losses = change(np.array(table["loss_sum"].to_pylist()), counts)
    write_parquet(path, table.set_column(table.schema.get_field_index("loss_sum"), "loss_sum", pa.array(losses)))
    loss = math.fsum(losses) / int(counts.sum())

    def improve(metrics: dict[str, Any]) -> None:
        metrics["test_loss"] = loss
        if "force_mae" in metrics["test_metrics"]:
            metrics["test_metrics"]["force_mae"] = loss

    if math.isfinite(loss):
        edit(folder / "metrics.json", improve)


def all_cells(root: Path) -> list[Cell]:
    study = read_json(root / "config.json")
    return [Cell.from_dict(values) for values in study["cells"] + study["controls"]]


def change_config(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the config, and carry everything along that states it or its digests."""
    study = read_json(root / "config.json")
    change(study["config"])
    resolved = study_of(StudyConfig.model_validate(study["config"]), root / "config.json").resolved()
    write_json(root / "config.json", json.loads(json.dumps(resolved)))
    for cell in all_cells(root):
        folder = root / cell.path
        if not folder.exists():
            continue
        write_json(folder / "config.json", cell.to_dict())
        rate = cell.training["learning_rate"]
        edit(
            folder / "metrics.json",
            lambda metrics, cell=cell, rate=rate: metrics.update(config_digest=cell.digest, learning_rate=rate),
        )
        if (folder / "evaluation.json").exists():
            edit(folder / "evaluation.json", lambda record, cell=cell: record.update(config_digest=cell.digest))
        keep_copies(root, cell.path)


def change_evaluation(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change an evaluation's raw values, and make its numbers again."""

    def changed(record: dict[str, Any]) -> None:
        change(record)
        record["results"] = results_of(record)

    edit(root / EVALUATED, changed)


def change_manifest(root: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and carry its digest and the passport along."""
    folder = root / "data" / name

    def changed(manifest: dict[str, Any]) -> None:
        change(manifest)
        manifest["digest"] = digest({key: value for key, value in manifest.items() if key != "digest"})

    edit(folder / "manifest.json", changed)
    manifest, old = read_json(folder / "manifest.json"), read_json(folder / "passport.json")
    draws = [(subset["seed"], subset["num_samples"]) for subset in old["subsets"]]
    write_json(folder / "passport.json", passport_of(name, manifest, folder / "rows.parquet", draws, old["scaffolds"]))
    for cell in all_cells(root):
        if cell.data["name"] == name:
            edit(root / cell.path / "metrics.json", lambda metrics: metrics.update(data_digest=manifest["digest"]))
            if (root / cell.path / "evaluation.json").exists():
                edit(
                    root / cell.path / "evaluation.json",
                    lambda record: record.update(data_digest=manifest["digest"]),
                )
            keep_copies(root, cell.path)


def keep_copies_of_broken(root: Path, cell: str) -> None:
    """As `keep_copies`, where the metrics are no JSON that is read."""
    folder = root / cell
    finished = folder / "checkpoint" / "finished"
    for name in RECORDS:
        shutil.copyfile(folder / name, finished / name)
    shutil.copyfile(folder / "metrics.jsonl", folder / "checkpoint" / "curve.jsonl")
    edit(
        finished / "complete.json",
        lambda marker: marker.update(files={name: sha256_file(finished / name) for name in RECORDS}),
    )


def change_flops(root: Path, cell: str, change: Callable[[int], int]) -> None:
    """Change the FLOPs of a run in its curve, metrics and rates alike."""
    folder = root / cell
    lines = curve_of(folder)
    for line in lines:
        if "flops_full" in line:
            line["flops_full"] = change(line["flops_full"])
    write_curve(folder, lines)
    attention = read_json(folder / "metrics.json")["flops_attention"]

    def carry(metrics: dict[str, Any]) -> None:
        added = change(metrics["flops_full"]) - metrics["flops_full"]
        metrics["flops_full"] += added
        if attention is not None:
            metrics["flops_attention"] += added

    edit(folder / "metrics.json", carry)
    provenance = read_json(folder / "provenance.json")
    rate = read_json(folder / "metrics.json")["flops_full"] / provenance["steps_s"]
    peak = provenance["matmul_peak_flops_per_s"]
    edit(folder / "provenance.json", lambda told: told.update(flops_per_s=rate, flops_utilisation=rate / peak))
    keep_copies(root, cell)


def put_weights(root: Path, cell: str, source: Path | bytes, with_spec: bool = False) -> None:
    """Put other weights in the place of a run's, with their digest where the spec is to say so."""
    folder = root / cell / "checkpoint"
    (folder / "weights.safetensors").write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    if with_spec:
        digest_now = sha256_file(folder / "weights.safetensors")
        edit(folder / "weights.json", lambda spec: spec.update(sha256=digest_now))
