"""Checks of what was asked of cells beyond their loss: every number follows from the raw values beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from chemscale.audit.findings import Findings
from chemscale.data.passport import row_batches
from chemscale.data.subsets import SubsetDraw
from chemscale.evaluation.measures import results_of
from chemscale.evaluations import EVALUATION, EVALUATIONS, read_evaluation
from chemscale.grid import Cell
from chemscale.io import canonical_json, read_json
from chemscale.records import read_metrics


def check_evaluations(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """The cells that the config names are evaluated, as it says, and none more; their numbers follow from raw values.

    What all cells of one data set share (reference molecules, the probe's molecules and truths) is the same in each.
    """
    asked = {path: settings for path, settings in study["evaluated"].items() if path not in study["waived"]}
    found = {
        path.parent.relative_to(root).as_posix()
        for head in ("cells", "controls")
        for path in (root / head).rglob(EVALUATION)
    }
    # a cell that is waived may have been evaluated before
    found -= set(study["waived"])
    findings.same_names(f"cell with {EVALUATION}", found, asked)
    cells = {cell.path: cell for cell in map(Cell.from_dict, study["cells"])}
    shared: dict[str, tuple[str, str]] = {}
    codes: dict[str, tuple[str, str]] = {}
    trained_on = cache(partial(_groups_of_subset, root, study))  # cells of all sizes share a subset

    def same(where: str, what: str, value: Any) -> None:
        """Compare with the first cell's, whatever is shared by this name."""
        text = canonical_json(value)
        first, expected = shared.setdefault(what, (where, text))
        findings.equal(f"{where}: {what}, as in {first}", text == expected, True)

    for path in sorted(found & asked.keys()):
        where, cell = f"{path}/{EVALUATION}", cells[path]
        record = read_evaluation(root / where)
        metrics = read_metrics(root / path / "metrics.json")
        fits = study["config"]["fits"]
        expected = {
            "cell": path,
            "settings": asked[path],
            **{name: fits[name] for name in ("level", "resamples", "seed")},
            **{name: metrics[name] for name in ("config_digest", "data_digest", "subset_digest")},
            "weights_sha256": read_json(root / path / "checkpoint" / "weights.json")["sha256"],
        }
        for field, value in expected.items():
            findings.equal(f"{where}: {field}", record[field], value)
        first = codes.setdefault(cell.family, (path, record["code_digest"]))
        findings.equal(f"{where}: code_digest, beside {first[0]}'s", record["code_digest"], first[1])
        for part in EVALUATIONS:
            findings.equal(f"{where}: has {part}", record[part] is not None, asked[path][part] is not None)
        if record["generation"] is not None and asked[path]["generation"] is not None:
            settings, raw = asked[path]["generation"], record["generation"]
            _check_generation(cell, settings["num"], raw, findings)
            if study["config"]["data"][cell.data["name"]]["split_by"] == "constitution":
                # then a row's group is the digest of its constitution
                groups = trained_on(cell.data["name"], cell.seed, cell.num_samples)
                known = [constitution in groups for constitution in raw["generated"]["constitution"]]
                findings.equal(f"{where}: which molecules are known", raw["known"], known)
            kind = f"data {cell.data['name']}, num {settings['num']}, seed {settings['seed']}"
            for name in ("reference", "training_sample"):
                same(where, f"{name} of {kind}", raw[name])
        if record["probe"] is not None and asked[path]["probe"] is not None:
            settings, raw = asked[path]["probe"], record["probe"]
            total = sum(raw["molecules"].values()) + sum(raw["rejected"].values())
            findings.equal(f"{where}: molecules of all parts and rejected", total, settings["num_molecules"])
            findings.equal(f"{where}: test molecules", len(raw["test"]["smiles"]), raw["molecules"]["test"])
            kind = f"data {cell.data['name']}, {canonical_json(settings)}"
            for name in ("test", "molecules", "rejected", "source"):
                same(where, f"{name} of {kind}", raw[name])
            for features in ("morgan", "constant"):
                same(where, f"predictions by {features} of {kind}", raw["predictions"][features])
        if record["dynamics"] is not None and asked[path]["dynamics"] is not None:
            settings, raw = asked[path]["dynamics"], record["dynamics"]
            _check_dynamics(where, settings, raw, findings)
            for molecule, told in raw["molecules"].items():
                same(where, f"reference of {molecule} in {settings['key']}", told["reference_distances"])
        _check_results(where, record, findings)


def _check_dynamics(where: str, settings: dict[str, Any], raw: dict[str, Any], findings: Findings) -> None:
    """The molecules, replicas and times are those that the config asks for."""
    findings.equal(f"{where}: data of dynamics", raw["data"], settings["key"])
    if settings["molecules"] is not None:
        findings.equal(f"{where}: molecules", sorted(raw["molecules"]), sorted(settings["molecules"]))
    for molecule, told in raw["molecules"].items():
        findings.close(f"{where}: cap of {molecule}", told["cap_ps"], settings["nvt_ps"])
        columns = [told["ended_ps"], told["temperatures"], told["distances"]]
        columns += [] if told["free"] is None else [told["free"]["held"], told["free"]["energy_changes"]]
        findings.equal(f"{where}: replicas of {molecule}", {len(column) for column in columns}, {settings["replicas"]})
        findings.equal(f"{where}: {molecule} at constant energy", told["free"] is None, settings["nve_ps"] is None)
        ends = [end for end in told["ended_ps"] if end is not None]
        findings.equal(
            f"{where}: ends of {molecule} within the cap", all(0 < end <= told["cap_ps"] for end in ends), True
        )


def _check_generation(cell: Cell, num: int, raw: dict[str, Any], findings: Findings) -> None:
    """Every drawn string is accounted for."""
    where = f"{cell.path}/{EVALUATION}"
    read = len(raw["generated"]["smiles"])
    findings.equal(f"{where}: molecules", read + raw["unreadable"], num)
    findings.equal(f"{where}: strings drawn", raw["drawn"], num + sum(raw["left_out"].values()))
    for name in ("generated", "reference", "training_sample"):
        lengths = {len(column) for column in raw[name].values()}
        findings.equal(f"{where}: lengths of the columns of {name}", len(lengths), 1)


def _groups_of_subset(root: Path, study: dict[str, Any], name: str, seed: int, num_samples: int) -> set[str]:
    """The digests of the constitutions of a subset's molecules, drawn again by the keyed hash."""
    path = root / "data" / name / "rows.parquet"

    def parts(column: str) -> Iterator[list[str]]:
        for batch in row_batches(path, [column, "split"]):
            mine = np.flatnonzero(np.array(batch["split"].to_pylist()) == "train")
            yield batch[column].take(mine).to_pylist()

    with tempfile.TemporaryFile() as file:
        draw = SubsetDraw(parts("row"), study["data"][name]["key"], seed, file)
        chosen = zip(parts("group"), draw.chosen(num_samples), strict=True)
        return {group for groups, (mine, _) in chosen for group, taken in zip(groups, mine, strict=True) if taken}


def _check_results(where: str, record: dict[str, Any], findings: Findings) -> None:
    """The results are those that the raw values give, number by number."""

    def by_name(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {f"{row['evaluation']}, {row['metric']}, {row['subject']}": row for row in results}

    found, expected = by_name(record["results"]), by_name(results_of(record))
    findings.equal(f"{where}: results", len(record["results"]), len(found))
    for name in findings.same_names(f"{where}: result", found, expected):
        for field, value in expected[name].items():
            findings.close(f"{where}: {name}, {field}", found[name][field], value)
