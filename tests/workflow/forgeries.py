"""Forgeries of a finished study, as somebody makes them who knows chemscale: every digest and copy is made again.

Each function changes a study's folder; what follows from the records is left to `forging.remade`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from forging import (
    EVALUATED,
    all_cells,
    change_clusters,
    change_config,
    change_evaluation,
    change_flops,
    change_manifest,
    curve_of,
    edit,
    keep_copies,
    keep_copies_of_broken,
    put_weights,
    write_curve,
)

from chemscale.config import StudyConfig
from chemscale.data.passport import passport_of
from chemscale.io import read_json, read_parquet, write_json
from chemscale.study import study_of

LANGUAGE_CELL = "cells/chemgpt/w16/n400/seed0"
POTENTIAL_CELL = "cells/painn/w8/n32/seed0"
PAIR = ("cells/painn/w8/n8/seed0", "cells/painn/w8/n8/seed1")


# --- class A ----------------------------------------------------------------------------------------------------------


def a6_impossible_metrics(root: Path) -> None:
    impossible = {"energy_mae": -5.0, "force_cosine": 7.0, "equivariance_error": -1.0}
    edit(root / POTENTIAL_CELL / "metrics.json", lambda metrics: metrics["test_metrics"].update(impossible))
    keep_copies(root, POTENTIAL_CELL)


def a8_flops_of_language_tripled(root: Path) -> None:
    change_flops(root, LANGUAGE_CELL, lambda flops: 3 * flops)


def a8b_flops_of_a_potential_divided(root: Path) -> None:
    change_flops(root, POTENTIAL_CELL, lambda flops: flops // 10)


def b1_one_seed_as_another(root: Path) -> None:
    first, second = (root / cell for cell in PAIR)
    ids = {key: read_json(second / "metrics.json")[key] for key in ("seed", "subset_digest", "config_digest")}
    for name in ("metrics.json", "metrics.jsonl", "test_clusters.parquet"):
        shutil.copyfile(first / name, second / name)
    edit(second / "metrics.json", lambda metrics: metrics.update(ids))
    keep_copies(root, PAIR[1])


def m4_a_validation_beyond_the_end(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    best = min(line["val_loss"] for line in curve_of(folder) if "val_loss" in line) * 0.9
    write_curve(folder, [*curve_of(folder), {"step": 777777, "val_loss": best}])
    edit(folder / "metrics.json", lambda metrics: metrics.update(best_step=777777, val_loss=best))
    keep_copies(root, LANGUAGE_CELL)


def m7_another_rate_and_a_negative_norm(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    lines = curve_of(folder)
    for line in lines:
        if "loss" in line:
            line |= {"learning_rate": 123.0, "gradient_norm": -1.0}
    write_curve(folder, lines)
    keep_copies(root, LANGUAGE_CELL)


def _missing_validation(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    lines = curve_of(folder)
    first = next(line for line in lines if "val_loss" in line)
    write_curve(folder, [line for line in lines if line is not first])
    keep_copies(root, LANGUAGE_CELL)


def _tripled_tokens(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    lines = curve_of(folder)
    for line in lines:
        if "tokens_seen" in line:
            line["tokens_seen"] *= 3
    write_curve(folder, lines)
    edit(
        folder / "metrics.json",
        lambda metrics: metrics.update(tokens_seen=3 * metrics["tokens_seen"], flops_6n=3 * metrics["flops_6n"]),
    )
    keep_copies(root, LANGUAGE_CELL)


def i1_times_and_memory_divided(root: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        for name in ("wall_s", "device_s"):
            told[name] /= 100
        told["peak_memory_bytes"] //= 100

    edit(root / LANGUAGE_CELL / "provenance.json", change)
    keep_copies(root, LANGUAGE_CELL)


def i2_impossible_times_and_energy(root: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told.update(wall_s=-5.0, flops_utilisation=40.0, energy_kwh=1e-9)
        told["reasons"].pop("energy_kwh", None)

    edit(root / LANGUAGE_CELL / "provenance.json", change)
    keep_copies(root, LANGUAGE_CELL)


def _lost_loss(value: float) -> Callable[[Path], None]:
    def forge(root: Path) -> None:
        folder = root / LANGUAGE_CELL

        def lose(losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
            lost = losses.copy()
            lost[0] = value
            return lost

        change_clusters(folder, lose)
        text = (folder / "metrics.json").read_text()
        before = f'"test_loss": {read_json(folder / "metrics.json")["test_loss"]!r}'
        total = math.nan if math.isnan(value) else value
        (folder / "metrics.json").write_text(text.replace(before, f'"test_loss": {json.dumps(total)}'))
        keep_copies_of_broken(root, LANGUAGE_CELL)

    return forge


def _all_losses(value: float) -> Callable[[Path], None]:
    """Every test cluster's loss made so small that the cell leaves each fit."""

    def forge(root: Path) -> None:
        change_clusters(root / LANGUAGE_CELL, lambda losses, counts: np.full(len(losses), value))
        edit(
            root / LANGUAGE_CELL / "metrics.json",
            lambda metrics: metrics.update(
                test_loss=math.fsum([value] * read_parquet(root / LANGUAGE_CELL / "test_clusters.parquet").num_rows)
                / sum(read_parquet(root / LANGUAGE_CELL / "test_clusters.parquet")["count"].to_pylist())
            ),
        )
        keep_copies(root, LANGUAGE_CELL)

    return forge


def d2_invented_seed(root: Path) -> None:
    """A seed that was never run: seed 0 with noise on its test losses, and with all of its identity made."""

    def add(config: dict[str, Any]) -> None:
        config["families"]["painn"]["grid"].append({"sizes": ["w8"], "num_samples": [8], "seeds": [2]})

    study = read_json(root / "config.json")
    add(study["config"])
    resolved = study_of(StudyConfig.model_validate(study["config"]), root / "config.json").resolved()
    write_json(root / "config.json", json.loads(json.dumps(resolved)))
    target = root / "cells/painn/w8/n8/seed2"
    shutil.copytree(root / PAIR[0], target)
    data = root / "data/conformers"
    manifest, old = read_json(data / "manifest.json"), read_json(data / "passport.json")
    draws = [*((subset["seed"], subset["num_samples"]) for subset in old["subsets"]), (2, 8)]
    passport = passport_of("conformers", manifest, data / "rows.parquet", draws, old["scaffolds"])
    write_json(data / "passport.json", passport)
    subset = next(part for part in passport["subsets"] if (part["seed"], part["num_samples"]) == (2, 8))
    cell = next(cell for cell in all_cells(root) if cell.path == "cells/painn/w8/n8/seed2")
    write_json(target / "config.json", cell.to_dict())
    edit(
        target / "metrics.json",
        lambda metrics: metrics.update(seed=2, subset_digest=subset["digest"], config_digest=cell.digest),
    )
    noise = np.random.default_rng(0)
    change_clusters(target, lambda losses, counts: losses * noise.normal(1, 0.02, len(losses)))
    keep_copies(root, cell.path)


def u1_weights_of_a_smaller_size(root: Path) -> None:
    put_weights(root, "cells/chemgpt/w32/n25/seed0", root / "cells/chemgpt/w8/n25/seed0/checkpoint/weights.safetensors")


def _weights_of_a_smaller_size_with_their_digest(root: Path) -> None:
    smaller = root / "cells/chemgpt/w8/n25/seed0/checkpoint/weights.safetensors"
    put_weights(root, "cells/chemgpt/w32/n25/seed0", smaller, with_spec=True)


def u2_random_weights(root: Path) -> None:
    put_weights(root, "cells/chemgpt/w32/n25/seed0", np.random.default_rng(0).bytes(5000))


def n11_weights_of_another_run(root: Path) -> None:
    other = root / "cells/chemgpt/w32/n50/seed0/checkpoint/weights.safetensors"
    path = root / "cells/chemgpt/w32/n25/seed0/checkpoint/weights.safetensors"
    path.unlink()
    path.hardlink_to(other)


def _weights_of_another_run_with_their_digest(root: Path) -> None:
    other = root / "cells/chemgpt/w32/n50/seed0/checkpoint/weights.safetensors"
    put_weights(root, "cells/chemgpt/w32/n25/seed0", other, with_spec=True)


def k3_facts_of_a_source(root: Path) -> None:
    facts = {"licence": "CC0-1.0", "sha256": "0" * 64, "version": "9.9", "citation": "me"}
    change_manifest(root, "conformers", lambda manifest: manifest["source"]["molecules"].update(facts))


def _element_out_of_the_config(root: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        counts = manifest["elements"]["train"]
        counts["Xe"] = counts.pop("N")

    change_manifest(root, "conformers", change)


def k7_more_atoms_than_tokens(root: Path) -> None:
    change_manifest(root, "molecules", lambda manifest: manifest["elements"]["train"].update(Pu=10_000_000))


def l5_descriptors_of_the_reference(root: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        raw = record["generation"]
        for name in ("weight", "log_p", "qed"):
            wanted = np.quantile(raw["reference"][name], np.linspace(0, 1, len(raw["generated"][name])))
            raw["generated"][name] = wanted.tolist()

    change_evaluation(root, change)


def l8_no_molecules(root: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        generated = record["generation"]["generated"]
        generated["smiles"] = [f"not a molecule {number}" for number in range(len(generated["smiles"]))]

    change_evaluation(root, change)


def _reference_of_easier_molecules(root: Path) -> None:
    """Drawn molecules in place of validation molecules: nothing could be nearer to them."""

    def change(record: dict[str, Any]) -> None:
        raw = record["generation"]
        columns = raw["reference"].keys()
        raw["reference"] = {name: raw["generated"][name] for name in columns}

    change_evaluation(root, change)


def _duplicate_key(name: str, key: str) -> Callable[[Path], None]:
    def forge(root: Path) -> None:
        path = root / name
        text = path.read_text()
        path.write_text(text.replace("{", f"{{{key}, ", 1))

    return forge


def n3b_a_loss_of_minus_zero(root: Path) -> None:
    change_clusters(root / LANGUAGE_CELL, lambda losses, counts: np.full(len(losses), -0.0))
    edit(root / LANGUAGE_CELL / "metrics.json", lambda metrics: metrics.update(test_loss=-0.0))
    keep_copies(root, LANGUAGE_CELL)


def n21_an_unknown_line_of_the_curve(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    write_curve(folder, [*curve_of(folder), {"step": 60, "note": "the best run of all"}])
    keep_copies(root, LANGUAGE_CELL)


def p1_one_loss_for_all_clusters(root: Path) -> None:
    for cell in all_cells(root):
        change_clusters(root / cell.path, lambda losses, counts: counts * (losses.sum() / counts.sum()))
        keep_copies(root, cell.path)


def _one_pattern_for_all_runs(root: Path) -> None:
    """Losses of all runs of a family in one ratio: no noise of the test set is left between them."""
    cells = [cell.path for cell in all_cells(root) if cell.family == "painn"]
    pattern = np.array(read_parquet(root / cells[0] / "test_clusters.parquet")["loss_sum"].to_pylist())
    for cell in cells:
        change_clusters(root / cell, lambda losses, counts: pattern * (losses.sum() / pattern.sum()))
        keep_copies(root, cell)


def t1b_another_rate_in_the_config(root: Path) -> None:
    change_config(
        root, lambda config: config["families"]["chemgpt"]["training"]["learning_rate"].update(at_reference=0.016)
    )


def t2b_another_batch_in_the_config(root: Path) -> None:
    changed = {"batch_frames": 2, "weight_decay": 0.1, "validations": 3}
    change_config(root, lambda config: config["families"]["painn"]["training"].update(changed))


# --- class A*: the copies in checkpoint/ are forgotten --------------------------------------------------------------


def a1_a_better_test_loss(root: Path) -> None:
    change_clusters(root / LANGUAGE_CELL, lambda losses, counts: 0.85 * losses)


def a4_better_losses_of_a_potential(root: Path) -> None:
    folder = root / POTENTIAL_CELL
    change_clusters(folder, lambda losses, counts: 0.85 * losses)
    lines = curve_of(folder)
    for line in lines:
        if "val_loss" in line:
            line["val_loss"] *= 0.85
    write_curve(folder, lines)

    def improve(metrics: dict[str, Any]) -> None:
        metrics["val_loss"] = min(line["val_loss"] for line in lines if "val_loss" in line)
        metrics["test_metrics"]["force_rmse"] *= 0.85

    edit(folder / "metrics.json", improve)


def m2_better_validations(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    lines = curve_of(folder)
    for line in lines:
        if "val_loss" in line:
            line["val_loss"] *= 0.8
    write_curve(folder, lines)
    best = min(line["val_loss"] for line in lines if "val_loss" in line)
    edit(folder / "metrics.json", lambda metrics: metrics.update(val_loss=best))


def m9_a_flat_curve(root: Path) -> None:
    folder = root / LANGUAGE_CELL
    write_curve(folder, [{**line, "loss": 0.5} if "loss" in line else line for line in curve_of(folder)])


def q1_test_records_of_two_seeds_swapped(root: Path) -> None:
    one, other = (root / cell for cell in PAIR)
    losses = [np.array(read_parquet(at / "test_clusters.parquet")["loss_sum"].to_pylist()) for at in (one, other)]
    change_clusters(one, lambda _, counts: losses[1])
    change_clusters(other, lambda _, counts: losses[0])


def x1_a_controls_loss_is_the_grids(root: Path) -> None:
    grid = read_parquet(root / LANGUAGE_CELL / "test_clusters.parquet")["loss_sum"].to_pylist()
    control = root / "controls/chemgpt_more_steps/chemgpt/w16/n400/seed0"
    change_clusters(control, lambda losses, counts: np.array(grid) * 1.0001)


CURVE = f"{LANGUAGE_CELL}/metrics.jsonl"
METRICS = f"{LANGUAGE_CELL}/metrics.json"
PROVENANCE = f"{LANGUAGE_CELL}/provenance.json"
SMALL_RUN = "cells/chemgpt/w32/n25/seed0"
FIRST = "cells/chemgpt/w8/n25/seed0"
FIRST_POTENTIAL = "cells/painn/w4/n8/seed0"
WEIGHTS = f"{SMALL_RUN}/checkpoint/weights.safetensors"
CLUSTERS = f"{LANGUAGE_CELL}/test_clusters.parquet"

# Forgeries of records: what it does, the check that names it, and what the evidence names.
OF_RECORDS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a6": (a6_impossible_metrics, "values", f"{POTENTIAL_CELL}/metrics.json: test_metrics.energy_mae"),
    "a8": (a8_flops_of_language_tripled, "curves", f"{CURVE}: step 1, flops_full"),
    "a8b": (a8b_flops_of_a_potential_divided, "curves", f"{POTENTIAL_CELL}/metrics.jsonl: step 1, flops_full"),
    "b1": (b1_one_seed_as_another, "replicates", f"{PAIR[1]}/metrics.jsonl: 40 of 40 losses are those of {PAIR[0]}"),
    "c7c": (_lost_loss(math.nan), "values", METRICS),
    "c7d": (_lost_loss(math.inf), "values", METRICS),
    "d2": (d2_invented_seed, "replicates", "cells/painn/w8/n8/seed2/metrics.jsonl: 40 of 40 losses"),
    "d2, FLOPs": (d2_invented_seed, "curves", "cells/painn/w8/n8/seed2/metrics.jsonl: step "),
    "denormal loss": (_all_losses(1e-320), "values", f"{METRICS}: test_loss"),
    "i1": (i1_times_and_memory_divided, "provenance", f"{PROVENANCE}: steps_s"),
    "i2": (i2_impossible_times_and_energy, "provenance", f"{PROVENANCE}: wall_s"),
    "k3": (k3_facts_of_a_source, "sources", "data/conformers/manifest.json: source.molecules.licence"),
    "k7": (k7_more_atoms_than_tokens, "sources", "data/molecules/manifest.json: elements.train"),
    "elements": (_element_out_of_the_config, "sources", "data/conformers/manifest.json: elements.train: Xe"),
    "m4": (m4_a_validation_beyond_the_end, "curves", f"{CURVE}: read"),
    "m7": (m7_another_rate_and_a_negative_norm, "curves", f"{CURVE}: step 1, gradient_norm"),
    "missing validation": (_missing_validation, "curves", f"{CURVE}: steps of validations"),
    "more tokens": (_tripled_tokens, "curves", f"{CURVE}: step 1, tokens_seen"),
    "n1": (_duplicate_key(METRICS, '"test_loss": 1.0'), "values", "the key 'test_loss' stands twice"),
    "n1c": (_duplicate_key(CURVE, '"loss": 1.0'), "curves", "the key 'loss' stands twice"),
    "n3b": (n3b_a_loss_of_minus_zero, "values", f"{METRICS}: test_loss: -0.0"),
    "n11": (n11_weights_of_another_run, "copies", f"{WEIGHTS}: sha256"),
    "n11, digest": (
        _weights_of_another_run_with_their_digest,
        "copies",
        f"the very weights of {SMALL_RUN}",
    ),
    "n21": (n21_an_unknown_line_of_the_curve, "curves", "neither step 61 of 60 nor a validation"),
    "p1": (p1_one_loss_for_all_clusters, "replicates", "the same loss in all test clusters"),
    "p1, ratio": (_one_pattern_for_all_runs, "replicates", "losses in one ratio to those of"),
    "t1b": (t1b_another_rate_in_the_config, "curves", f"{FIRST}/metrics.jsonl: step 1, learning_rate"),
    "t2b": (t2b_another_batch_in_the_config, "curves", f"{FIRST_POTENTIAL}/metrics.jsonl: steps of validations"),
    "t2b, batch": (
        t2b_another_batch_in_the_config,
        "curves",
        f"{FIRST_POTENTIAL}/metrics.jsonl: step 1, frames_seen",
    ),
    "u1": (u1_weights_of_a_smaller_size, "copies", f"{WEIGHTS}: sha256"),
    "u1, digest": (_weights_of_a_smaller_size_with_their_digest, "copies", f"{WEIGHTS}: "),
    "u2": (u2_random_weights, "copies", WEIGHTS),
    # class A*
    "a1": (a1_a_better_test_loss, "copies", f"{CLUSTERS}: not as in checkpoint/finished"),
    "a4": (a4_better_losses_of_a_potential, "copies", f"{POTENTIAL_CELL}/metrics.json: not as in checkpoint/finished"),
    "m2": (m2_better_validations, "copies", f"{CURVE}: another curve than checkpoint/curve.jsonl"),
    "m9": (m9_a_flat_curve, "copies", f"{CURVE}: not as in checkpoint/finished"),
    "q1": (q1_test_records_of_two_seeds_swapped, "copies", f"{PAIR[0]}/test_clusters.parquet: not as in"),
    "x1": (x1_a_controls_loss_is_the_grids, "copies", "n400/seed0/test_clusters.parquet: not as in"),
    # seen by RDKit
    "l5": (l5_descriptors_of_the_reference, "molecules", f"{EVALUATED}: generated: molecule"),
    "reference": (_reference_of_easier_molecules, "molecules", "are no rows of validation"),
    "l8": (l8_no_molecules, "molecules", "which RDKit does not read as such"),
}
# Forgeries that leave records that no stage reads, or losses that no figure can show: nothing can be made of them.
BROKEN = ("c7c", "c7d", "n1", "n3b", "denormal loss")


# --- what lies in the folder beside records ------------------------------------------------------------------------


def j1_points_moved(root: Path) -> None:
    path = root / "figures" / "chemgpt_data.svg"
    text = path.read_text()
    first = text.index("<use ")
    place = text.index(' y="', first) + 4
    end = text.index('"', place)
    path.write_text(f"{text[:place]}{float(text[place:end]) + 40}{text[end:]}")


def j2_a_blank_picture(root: Path) -> None:
    path = root / "figures" / "chemgpt_data.png"
    path.write_bytes(path.read_bytes()[:60] + path.read_bytes()[-12:])


def _in_svg(inside: str) -> Callable[[Path], None]:
    def forge(root: Path) -> None:
        path = root / "figures" / "chemgpt_data.svg"
        path.write_text(path.read_text().replace("</svg>", inside))

    return forge


def n9_unknown_files(root: Path) -> None:
    for name in ("report/summary.html", "tables/fits_final.parquet", f"{LANGUAGE_CELL}/metrics_final.json"):
        (root / name).write_text("{}")


def w1_code_and_pickles(root: Path) -> None:
    for name in ("data/molecules/tokenizer/tokenization.py", f"{LANGUAGE_CELL}/checkpoint/state.pkl"):
        (root / name).write_text("x")


def records_verdict(text: str) -> Callable[[Path], None]:
    return lambda root: edit(root / "audit" / "records.json", lambda record: record.update(verdict=text))


def n16_further_keys(root: Path) -> None:
    edit(root / "audit" / "records.json", lambda record: record.update(verdict="failed", signed_by="the authors"))


def stage_of_the_records(root: Path) -> None:
    edit(root / "audit" / "records.json", lambda record: record.update(stage="all"))


# Forgeries that leave all records as they are: what it does, whether the page is written after it, check, evidence.
OF_THE_FOLDER: dict[str, tuple[Callable[[Path], None], bool, str, str]] = {
    "j1": (j1_points_moved, True, "pictures", "figures/chemgpt_data.svg: another picture"),
    "j2": (j2_a_blank_picture, True, "pictures", "figures/chemgpt_data.png: another picture"),
    "o3": (_in_svg("</svg><div style='position:fixed'>false</div>"), True, "pictures", "figures/chemgpt_data.svg"),
    "o5": (_in_svg("<scr<!-- -->ipt>alert(1)</script></svg>"), True, "pictures", "figures/chemgpt_data.svg"),
    "o6": (_in_svg("<meta http-equiv=refresh content='0;//x'></svg>"), True, "pictures", "figures/chemgpt_data.svg"),
    "n9": (n9_unknown_files, False, "files", "report/summary.html: no file of this study"),
    "w1": (w1_code_and_pickles, False, "files", "data/molecules/tokenizer/tokenization.py: no file of this study"),
    "n16": (n16_further_keys, True, "verdict", "audit/records.json: key: signed_by is unknown"),
    "n16b": (records_verdict("excellent: verified by retraining"), True, "verdict", "audit/records.json: verdict"),
    "stage": (stage_of_the_records, True, "verdict", "audit/records.json: stage"),
}
