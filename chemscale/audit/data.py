"""Checks of the data that a study was trained on: ledger, splits, and the nested subsets of its cells."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from chemscale.audit.findings import Findings
from chemscale.data.subsets import clusters_of, rows_digest, split_of, subset_order, time_splits
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.io import digest, read_json, read_parquet
from chemscale.records import read_metrics

_USED = ("train", "validation", "test")


def check_data(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Every row of the ledger is accounted for, every split follows from its rule, and no group is in two splits."""
    for name, entry in study["data"].items():
        where = f"data/{name}"
        manifest = read_json(root / where / "manifest.json")
        unsigned = {key: value for key, value in manifest.items() if key != "digest"}
        findings.equal(f"{where}/manifest.json: digest", manifest["digest"], digest(unsigned))
        settings = {key: value for key, value in study["config"]["data"][name].items() if key != "workers"}
        findings.equal(f"{where}/manifest.json: settings", manifest["settings"], settings)
        findings.equal(f"{where}/manifest.json: name", manifest["name"], entry["key"])
        rejected = sum(manifest["rejected"].values())
        findings.equal(f"{where}/manifest.json: rows_in", manifest["rows_in"], manifest["rows_kept"] + rejected)
        kept = sum(shard["rows"] for shard in manifest["shards"])
        findings.equal(f"{where}/manifest.json: rows_kept", manifest["rows_kept"], kept)
        _check_rows(root, where, manifest, findings)
        if entry["domain"] == LANGUAGE:
            tokenizer = read_json(root / where / "tokenizer.json")
            findings.equal(f"{where}/tokenizer.json: digest", tokenizer["digest"], digest(tokenizer["vocabulary"]))
            findings.equal(f"{where}: tokenizer_digest", manifest["tokenizer_digest"], tokenizer["digest"])


def _check_rows(root: Path, where: str, manifest: dict[str, Any], findings: Findings) -> None:
    table = read_parquet(root / where / "rows.parquet")
    rows, groups, splits, lengths = (table[column].to_pylist() for column in ("row", "group", "split", "length"))
    settings = manifest["settings"]
    findings.equal(f"{where}/rows.parquet: rows", len(rows), manifest["rows_kept"])
    findings.equal(f"{where}/rows.parquet: distinct rows", len(set(rows)), len(rows))
    findings.same_names(f"{where}: split", set(splits), manifest["splits"])
    members: dict[str, list[int]] = defaultdict(list)
    for index, split in enumerate(splits):
        members[split].append(index)
    amount = "tokens" if manifest["domain"] == LANGUAGE else "frames"
    for split, chosen in members.items():
        stated = manifest["splits"].get(split, {})
        total = sum(lengths[at] for at in chosen) if amount == "tokens" else len(chosen)
        found = {
            "rows": len(chosen),
            amount: total,
            "groups": len({groups[at] for at in chosen}),
            "digest": rows_digest([rows[at] for at in chosen]),
        }
        findings.equal(f"{where}/manifest.json: splits.{split}", stated, found)
    if settings["kind"] == "trajectories":
        _check_times(where, groups, splits, table["frame"].to_pylist(), settings, findings)
        # blocks of time: each is in one split, but for the frames that its border gives up to the gap
        found_in = {split: {groups[at] for at in members[split]} for split in _USED}
    else:
        found_in = {split: {groups[at] for at in members[split]} for split in members}
        for row, group, split in zip(rows, groups, splits, strict=True):
            findings.compared += 1
            if split != (rule := split_of(group, settings["validation"], settings["test"])):
                findings.differ(f"{where}/rows.parquet: row {row} is in {split}, its group's hash says {rule}")
    names = sorted(found_in)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            common = sorted(found_in[one] & found_in[other])
            findings.equal(f"{where}/rows.parquet: groups both in {one} and {other}", common[:3], [])


def _check_times(
    where: str, groups: list[str], splits: list[str], frames: list[int], settings: dict[str, Any], findings: Findings
) -> None:
    """Every frame is in the split of its place in time, and once; a group is one block of one molecule."""
    expected = time_splits(settings)
    block_of: dict[str, int] = {}
    for group, split, frame in zip(groups, splits, frames, strict=True):
        findings.compared += 1
        if not 0 <= frame < len(expected):
            findings.differ(f"{where}/rows.parquet: frame {frame} of a trajectory of {len(expected)}")
            continue
        block, rule = expected[frame]
        if split != rule:
            findings.differ(f"{where}/rows.parquet: frame {frame} of {group} is in {split}, its time says {rule}")
        if block_of.setdefault(group, block) != block:
            findings.differ(f"{where}/rows.parquet: {group} holds blocks {block_of[group]} and {block}")
    findings.equal(f"{where}/rows.parquet: frames", len(set(zip(groups, frames, strict=True))), len(frames))


def check_subsets(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Each cell was trained on the first rows of its seed's keyed order, so subsets nest, and tested on test."""
    data: dict[str, dict[str, Any]] = {}
    for name in study["data"]:
        table = read_parquet(root / "data" / name / "rows.parquet")
        rows, splits = np.array(table["row"].to_pylist()), np.array(table["split"].to_pylist())
        lengths = np.array(table["length"].to_pylist())
        data[name] = {
            "manifest": read_json(root / "data" / name / "manifest.json"),
            "train": rows[splits == "train"],
            "lengths": lengths[splits == "train"],
            "clusters": _test_clusters(
                [group for group, split in zip(table["group"].to_pylist(), splits, strict=True) if split == "test"],
                lengths[splits == "test"],
                study["data"][name]["domain"],
            ),
            "val_digest": rows_digest(rows[splits == "validation"].tolist()),
            "test_digest": rows_digest(rows[splits == "test"].tolist()),
        }
    orders: dict[tuple[str, int], Any] = {}
    subset_digests: dict[tuple[str, int, int], tuple[str, int]] = {}
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        metrics = read_metrics(root / cell.path / "metrics.json")
        name, key = cell.data["name"], cell.data["key"]
        known = data[name]
        draw = (name, cell.seed)
        if draw not in orders:
            orders[draw] = subset_order(known["train"].tolist(), key, cell.seed)
        subset = (name, cell.seed, cell.num_samples)
        if subset not in subset_digests:
            chosen = orders[draw][: cell.num_samples]
            findings.equal(f"data/{name}: training rows for {cell.path}", len(chosen), cell.num_samples)
            # the first token of a molecule is given, not predicted
            tokens = int((known["lengths"][chosen] - 1).sum())
            subset_digests[subset] = (rows_digest(known["train"][chosen].tolist()), tokens)
        where = f"{cell.path}/metrics.json"
        subset_digest, tokens = subset_digests[subset]
        findings.equal(f"{where}: data_digest", metrics["data_digest"], known["manifest"]["digest"])
        findings.equal(f"{where}: subset_digest", metrics["subset_digest"], subset_digest)
        findings.equal(f"{where}: val_digest", metrics["val_digest"], known["val_digest"])
        findings.equal(f"{where}: test_digest", metrics["test_digest"], known["test_digest"])
        further = {other: data[other]["test_digest"] for other in cell.data["evaluations"]}
        findings.equal(f"{where}: evaluation_digests", metrics["evaluation_digests"], further)
        if cell.domain == LANGUAGE:
            findings.equal(f"{where}: tokens_unique", metrics["tokens_unique"], tokens)
        clusters = read_parquet(root / cell.path / "test_clusters.parquet")
        counts = dict(zip(clusters["cluster"].to_pylist(), clusters["count"].to_pylist(), strict=True))
        findings.equal(f"{cell.path}/test_clusters.parquet: clusters and counts", counts, known["clusters"])


def _test_clusters(groups: list[str], lengths: Any, domain: str) -> dict[str, int]:
    """What the loss of each test cluster is summed over: predicted tokens, or components of forces."""
    counts: dict[str, int] = defaultdict(int)
    for cluster, length in zip(clusters_of(groups), lengths.tolist(), strict=True):
        # the first token of a molecule is given, not predicted
        counts[cluster] += length - 1 if domain == LANGUAGE else 3 * length
    return dict(counts)
