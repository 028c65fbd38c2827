"""A small study with planted laws, gathered and fitted by the package's own stages, ready to be reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from chemscale.evaluation.measures import results_of
from chemscale.evaluations import SCHEMA_VERSION, SPEED, SPEED_COLUMNS, write_evaluation
from chemscale.gathering import gather_study
from chemscale.grid import Cell, protocol_label
from chemscale.io import write_json, write_parquet
from chemscale.records import write_metrics
from chemscale.reporting.figures import draw_all
from chemscale.reporting.page import write_page
from chemscale.reporting.tables import write as write_data_table
from chemscale.scaling.study_fits import write as write_fits
from chemscale.study import load_study

CONFIG = """
study: planted
data:
  molecules: {kind: molecules, source: chemicals, validation: 0.02, test: 0.04}
  conformers: {kind: conformers, num_molecules: 200, frames_per_molecule: 10, validation: 0.1, test: 0.2}
families:
  chemgpt:
    data: molecules
    protocol: {kind: equal_steps, steps: 900}
    training: {batch_tokens: 512, learning_rate: {at_reference: 0.008, reference: 32, power: -0.8}}
    sizes:
      w8: {layers: 2, width: 8, heads: 1}
      w16: {layers: 2, width: 16, heads: 2}
      w40: {layers: 2, width: 40, heads: 5}
    grid:
      - {sizes: [w8, w16, w40], num_samples: [250, 500, 1000, 2000, 4000, 8000]}
      - {sizes: [w8, w40], num_samples: [250, 8000], seeds: [1, 2]}
  schnet: &potential
    data: conformers
    protocol: {kind: equal_steps, steps: 1200}
    training: {batch_frames: 4, learning_rate: {at_reference: 0.005, reference: 32, power: 0.0}}
    sizes:
      w16: {width: 16, interactions: 3, num_radial: 20, cutoff: 5.0}
      w64: {width: 64, interactions: 3, num_radial: 20, cutoff: 5.0}
    grid: [{sizes: [w16, w64], num_samples: [64, 256, 1024]}]
  painn:
    <<: *potential
    sizes:
      w8: {width: 8, interactions: 3, num_radial: 20, cutoff: 5.0}
      w32: {width: 32, interactions: 3, num_radial: 20, cutoff: 5.0}
    grid:
      - {sizes: [w8, w32], num_samples: [64, 256, 1024]}
      - {sizes: [w32], num_samples: [64, 1024], seeds: [1, 2]}
controls:
  chemgpt_more_steps:
    family: chemgpt
    protocol: {kind: equal_steps, steps: 1800}
    grid: [{sizes: [w40], num_samples: [250, 8000]}]
contrasts:
  width: {role: primary, between: [{family: chemgpt, size: w40}, {family: chemgpt, size: w8}]}
  waived: {role: primary, between: [{family: painn, size: w32}, {family: painn, size: w8}]}
  middle: {role: secondary, between: [{family: chemgpt, size: w16}, {family: chemgpt, size: w40}]}
  narrow: {role: secondary, between: [{family: chemgpt, size: w8}, {family: chemgpt, size: w16}]}
  architecture: {role: secondary, between: [{family: schnet, size: w64}, {family: painn, size: w32}]}
evaluate:
  chemgpt:
    grid: [{sizes: [w8, w16, w40], num_samples: [8000]}]
    generation: {num: 30}
    probe: {num_molecules: 60}
fits: {level: 0.9, resamples: 200, seed: 0}
waived: [cells/painn/w8/n64/seed0]
"""
CLUSTERS = 100
# E, A, alpha, B, beta of the planted joint law
LAWS = {
    "chemgpt": (0.9, 9.0, 0.45, 60.0, 0.45),
    "schnet": (20.0, 3000.0, 0.35, 900.0, 0.3),
    "painn": (10.0, 2500.0, 0.35, 900.0, 0.35),
}


def metrics_of(cell: Cell, random: np.random.Generator) -> dict[str, Any]:
    """The record of a cell whose loss follows its family's planted law with noise of 0.6 %."""
    language = cell.domain == "language"
    width = cell.knobs["width"]
    params = 24 * width**2 + 22 * width if language else 9 * width**2 + 40 * width
    unique = cell.num_samples * 28 if language else cell.num_samples
    steps = cell.protocol["steps"]
    floor, a, alpha, b, beta = LAWS[cell.family]
    loss = (floor + a * params**-alpha + b * unique**-beta) * math.exp(0.006 * random.standard_normal())
    seen = steps * (512 if language else 4)
    values: dict[str, Any] = {
        "schema_version": 1,
        "status": "done",
        "study": cell.study,
        "domain": cell.domain,
        "family": cell.family,
        "size": cell.size,
        "num_samples": cell.num_samples,
        "seed": cell.seed,
        "control": cell.control,
        "protocol": protocol_label(cell.protocol),
        "learning_rate": cell.training["learning_rate"],
        "num_params": params + 600 * width,
        "num_params_non_embedding": params,
        "samples_seen": steps * 4,
        "tokens_seen": seen if language else None,
        "tokens_unique": unique if language else None,
        "frames_seen": None if language else seen,
        "frames_unique": None if language else unique,
        "flops_6n": 6 * params * seen if language else None,
        "flops_attention": params * seen if language else None,
        "flops_full": 7 * params * seen,
        "epochs": seen / unique,
        "steps": steps,
        "best_step": steps,
        "loss_spikes": 0,
        "retried_from_step": None,
        "val_loss": loss * 1.01,
        "test_loss": loss,
        "loss_unit": "nats per token" if language else "meV/angstrom per force component",
        **{f"{name}_digest": "0" * 64 for name in ("config", "data", "subset", "val", "test", "code")},
        "evaluation_digests": {},
        "test_metrics": {} if language else {"force_rmse": loss * 1.4, "energy_mae": loss / 9},
    }
    reasons = {name: "does not apply" for name, value in values.items() if value is None}
    return values | {"reasons": reasons}


def evaluation_of(cell: Cell, asked: dict[str, Any]) -> dict[str, Any]:
    """The record of an evaluation: a probe whose error falls with the width, and molecules that are random letters."""
    random = np.random.default_rng(5)
    shared = {"cluster": [str(row // 2) for row in range(20)], "smiles": ["C"] * 20}
    truth = {name: random.normal(4, 1, 20) for name in ("gap", "dipole")}
    scale = {"trained": 4 / cell.knobs["width"], "untrained": 0.5, "morgan": 0.4, "constant": 1.0}
    noise = random.normal(size=20)

    def molecules(count: int) -> dict[str, Any]:
        bits = random.integers(0, 256, (count, 128), dtype=np.uint8)
        numbers = ("weight", "log_p", "qed", "rings", "heavy_atoms")
        return {
            "smiles": [f"C{row}" for row in range(count)],
            "scaffold": [str(number) for number in random.integers(0, 4, count)],
            "fingerprint": [row.tobytes().hex() for row in bits],
            **{name: random.normal(size=count).tolist() for name in numbers},
        }

    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cell": cell.path,
        "settings": asked,
        "level": 0.9,
        "resamples": 200,
        "seed": 0,
        **{f"{name}_digest": "0" * 64 for name in ("config", "data", "subset", "code")},
        "weights_sha256": "0" * 64,
        "versions": {},
        "generation": {
            "generated": molecules(29),
            "known": [row < 3 for row in range(29)],
            "drawn": 31,
            "left_out": {"cut by the limit": 1},
            "unreadable": 1,
            "reference": molecules(40),
            "training_sample": molecules(30),
        },
        "probe": {
            "test": shared | {name: values.tolist() for name, values in truth.items()},
            "predictions": {
                features: {name: (values + error * noise).tolist() for name, values in truth.items()}
                for features, error in scale.items()
            },
            "strengths": {},
            "molecules": {"train": 27, "validation": 12, "test": 20},
            "rejected": {"scf_failed": 1},
            "source": {},
        },
        "dynamics": None,
    }
    return record | {"results": results_of(record)}


def build(root: Path, study: dict[str, Any]) -> None:
    """Write the folder of a finished study into `root`: records, tables and the audit's verdicts."""
    random = np.random.default_rng(0)
    write_json(root / "config.json", study)
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        metrics = metrics_of(cell, random)
        if cell.path in study["waived"]:
            failure = {"reason": "TrainingError: loss is nan at step 7 <b>&", "attempts": 2, "time": "2026-01-01"}
            write_json(root / cell.path / "checkpoint" / "failure.json", failure)
            continue
        write_metrics(root / cell.path / "metrics.json", metrics)
        write_json(
            root / cell.path / "provenance.json",
            {
                "started": "2026-01-01T10:00:00.000+00:00",
                "finished": "2026-01-01T10:00:05.000+00:00",
                "wall_s": 4.25,
                "device_s": None,
                "energy_kwh": None,
                "peak_memory_bytes": 412_000_000,
                "attempts": 1,
                "machine": {"processor": "A Processor", "cores": 2, "memory_bytes": 8_000_000_000, "system": "Linux"},
                "versions": {"python": "3.11.7", "torch": "2.13.0"},
                "repository": {"commit": "c0ffee", "changed": False},
            },
        )
        # the same molecules are hard for every cell; shares have the mean 1, so that the sum is the test loss
        share = np.exp(0.3 * np.random.default_rng(1).standard_normal(CLUSTERS))
        share /= share.mean()
        write_parquet(
            root / cell.path / "test_clusters.parquet",
            pa.table(
                {
                    "cluster": [f"{number:032x}" for number in range(CLUSTERS)],
                    "loss_sum": metrics["test_loss"] * share * 50,
                    "count": np.full(CLUSTERS, 50),
                }
            ),
        )
        if cell.path in study["evaluated"]:
            write_evaluation(root / cell.path / "evaluation.json", evaluation_of(cell, study["evaluated"][cell.path]))
            write_json(root / cell.path / SPEED, dict.fromkeys(SPEED_COLUMNS))
    for name, data in study["data"].items():
        unit = "tokens" if data["domain"] == "language" else "frames"
        splits = {
            split: {"rows": rows, "groups": rows // 2, unit: rows * 3, "digest": "d" * 64}
            for split, rows in (("train", 9000), ("validation", 200), ("test", 400))
        }
        manifest = {
            "schema_version": 1,
            "name": data["key"],
            "domain": data["domain"],
            "source": {
                "name": data["source"],
                "version": "1.5.2",
                "sha256": "a" * 64,
                "licence": "MIT",
                "citation": "A. Author, doi:10.1000/x",
            },
            "shards": [],
            "rows_in": 10_000,
            "rows_kept": 9600,
            "rejected": {"too_long": 390, "unparsable": 10} if unit == "tokens" else {"no_minimum": 400},
            "splits": splits,
            "tokenizer_digest": "b" * 64 if unit == "tokens" else None,
            "digest": "c" * 64,
            "settings": study["config"]["data"][name],
        }
        write_json(root / "data" / name / "manifest.json", manifest)
        write_json(root / "data" / name / "passport.json", passport_of(name, manifest, unit))
    check = {
        "name": "cells",
        "proves": "the table follows from the records",
        "verdict": "ok",
        "compared": 7,
        "evidence": ["all"],
    }
    for name in ("records", "audit"):
        write_json(root / "audit" / f"{name}.json", {"verdict": "ok", "checks": [check]})
    gather_study(root)
    write_fits(root)
    write_data_table(root)


def passport_of(name: str, manifest: dict[str, Any], unit: str) -> dict[str, Any]:
    """A passport in which no two numbers are equal by accident."""
    pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
    scaffolds = [31, 37, 41] if unit == "tokens" else [None] * 3
    return {
        "schema_version": 2,
        "name": name,
        "source": manifest["source"] | {"file": "a file.tsv"},
        "amount": unit,
        "warnings": [] if unit == "tokens" else ["forces have a root mean square of 23 eV/angstrom <b>&"],
        "over_time_limit": ["e" * 32] if unit == "tokens" else [],
        "overlaps": [
            {"splits": list(pair), "rows": 0, "groups": 0, "scaffolds": shared}
            for pair, shared in zip(pairs, scaffolds, strict=True)
        ],
        "relatives": {"rows": 9511, "parents": 8513, "straddle": 17} if unit == "tokens" else None,
        "lengths": {
            "train": [[7, 4000], [19, 5000]],
            "validation": [[8, 200]],
            "test": [[7, 100], [23, 300]],
        },
        "elements": {"train": {"C": 7001, "O": 5003}, "validation": {"C": 211}, "test": {"C": 401, "Br": 3}},
        "subsets": [
            {"seed": 0, "num_samples": 250, "length": 3301},
            {"seed": 1, "num_samples": 8000, "length": 99_991},
        ],
    }


def resolved(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """The resolved planted study, after `change` was made to its config."""
    config = yaml.safe_load(CONFIG)
    if change:
        change(config)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return load_study(path).resolved()


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a planted study with figures and page; nobody changes it."""
    folder = tmp_path_factory.mktemp("planted")
    root = folder / "results" / "planted"
    build(root, resolved(folder))
    draw_all(root)
    write_page(root)
    return root


@pytest.fixture(scope="session")
def study() -> Callable[..., Path]:
    """Builds a study like the planted one, without figures, after changes to its config and to the resolved study."""

    def make(
        folder: Path,
        change: Callable[[dict[str, Any]], None] | None = None,
        change_resolved: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        values = resolved(folder, change)
        if change_resolved:
            change_resolved(values)
        build(folder / "results", values)
        return folder / "results"

    return make
