"""Checks of the data that a study was trained on: ledger, splits, passport, and the nested subsets of its cells."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chemscale.audit.findings import Findings
from chemscale.data.manifest import AMOUNTS
from chemscale.data.passport import group_counts, passport_of, row_batches
from chemscale.data.subsets import (
    MAX_CLUSTERS,
    RowsDigest,
    cluster_of,
    content_digest,
    listing_digest,
    split_of,
    time_splits,
)
from chemscale.data.tokenizer import Tokenizer
from chemscale.errors import RecordError
from chemscale.families import LANGUAGE
from chemscale.grid import Cell
from chemscale.io import canonical_json, digest, open_parquet, read_json, read_parquet
from chemscale.records import read_metrics
from chemscale.study import data_settings, wants_scaffolds


def check_data(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Every row of the ledger is accounted for, every split follows from its rule, no group is in two splits.

    And the passport says what manifest and rows say.
    """
    draws = defaultdict(set)
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        draws[cell.data["name"]].add((cell.seed, cell.num_samples))
    for name, entry in study["data"].items():
        where = f"data/{name}"
        manifest = read_json(root / where / "manifest.json")
        unsigned = {key: value for key, value in manifest.items() if key != "digest"}
        findings.equal(f"{where}/manifest.json: digest", manifest["digest"], digest(unsigned))
        settings = data_settings(study["config"]["data"][name])
        findings.equal(f"{where}/manifest.json: settings", manifest["settings"], settings)
        findings.equal(f"{where}/manifest.json: name", manifest["name"], entry["key"])
        _check_ledger(where, manifest, findings)
        _check_rows(root, where, manifest, findings)
        wanted = wants_scaffolds(study["config"]["data"][name])
        _check_passport(root, name, manifest, sorted(draws[name]), wanted, findings)
        if entry["domain"] == LANGUAGE:
            tokenizer = read_json(root / where / "tokenizer.json")
            findings.equal(f"{where}/tokenizer.json: digest", tokenizer["digest"], digest(tokenizer["vocabulary"]))
            findings.equal(f"{where}: tokenizer_digest", manifest["tokenizer_digest"], tokenizer["digest"])
            for file, content in Tokenizer(tokenizer["vocabulary"]).hugging_face_files().items():
                findings.equal(f"{where}/tokenizer/{file}", read_json(root / where / "tokenizer" / file), content)


def _check_ledger(where: str, manifest: dict[str, Any], findings: Findings) -> None:
    """The numbers of a manifest agree with each other."""
    where = f"{where}/manifest.json"
    amount = AMOUNTS[manifest["domain"]]
    shards, splits, rejected = manifest["shards"], manifest["splits"], manifest["rejected"]
    findings.equal(f"{where}: rows_in", manifest["rows_in"], manifest["rows_kept"] + sum(rejected.values()))
    findings.equal(f"{where}: rows_kept", manifest["rows_kept"], sum(shard["rows"] for shard in shards))
    of_shards, of_splits = (sum(part[amount] for part in parts) for parts in (shards, splits.values()))
    findings.equal(f"{where}: {amount} of all shards and of all splits", of_shards, of_splits)
    over_limit = rejected.get("over_time_limit", 0)
    findings.equal(f"{where}: rows over the time limit", over_limit, len(manifest["over_time_limit"]))
    findings.same_names(f"{where}: elements of splits", manifest["elements"], splits)
    for split, unknown in manifest.get("unknown_tokens", {}).items():
        inner = splits[split]["tokens"] - 2 * splits[split]["rows"]
        findings.equal(f"{where}: unknown tokens of {split} are among its tokens", 0 <= unknown <= inner, True)


def _check_passport(
    root: Path,
    name: str,
    manifest: dict[str, Any],
    draws: list[tuple[int, int]],
    wanted_scaffolds: bool,
    findings: Findings,
) -> None:
    where = f"data/{name}/passport.json"
    passport = read_json(root / where)
    rows = root / "data" / name / "rows.parquet"
    scaffolds = passport.get("scaffolds")
    with open_parquet(rows) as file:
        findings.equal(f"{where}: has scaffolds", scaffolds is not None, wanted_scaffolds)
        findings.equal(
            f"data/{name}/rows.parquet: has scaffolds", "scaffold" in file.schema_arrow.names, wanted_scaffolds
        )
    if scaffolds is not None and wanted_scaffolds:
        _check_listings(rows, f"data/{name}", manifest["shards"], ("row", "scaffold"), scaffolds["listings"], findings)
    expected = passport_of(name, manifest, rows, draws, scaffolds)
    findings.same_names(where, passport, expected)
    for key, value in expected.items():
        findings.equal(f"{where}: {key}", passport.get(key), json.loads(canonical_json(value)))
    for pair in expected["overlaps"]:
        one, other = pair["splits"]
        findings.equal(f"data/{name}/rows.parquet: rows both in {one} and {other}", pair["rows"], 0)
        findings.equal(f"data/{name}/rows.parquet: groups both in {one} and {other}", pair["groups"], 0)
    if manifest["domain"] != LANGUAGE:
        for split, counts in manifest["elements"].items():
            atoms = sum(length * count for length, count in expected["lengths"].get(split, []))
            findings.equal(f"data/{name}/manifest.json: elements.{split}, all atoms", sum(counts.values()), atoms)


def _check_rows(root: Path, where: str, manifest: dict[str, Any], findings: Findings) -> None:
    """Rows are distinct and in order, and each split holds what the manifest says and its rule puts there."""
    path = root / where / "rows.parquet"
    settings = manifest["settings"]
    amount = AMOUNTS[manifest["domain"]]
    timed = settings["kind"] == "trajectories" or settings.get("split_by") == "time"
    times = _Times(manifest) if timed else None
    digests: dict[str, RowsDigest] = defaultdict(RowsDigest)
    amounts: dict[str, int] = defaultdict(int)
    last = ""
    for batch in row_batches(path, ["row", "group", "split", "length", *(["frame"] if timed else [])]):
        rows, groups, splits, lengths = (batch[column].to_pylist() for column in ("row", "group", "split", "length"))
        ordered = [last, *rows]
        if not all(one < other for one, other in itertools.pairwise(ordered)):
            findings.differ(f"{where}/rows.parquet: rows are not distinct and in order after {last or 'the first'}")
        last = rows[-1]
        names = np.array(splits)
        for split in set(splits):
            mine = names == split
            digests[split].add(np.array(rows, object)[mine].tolist())
            amounts[split] += int(np.array(lengths)[mine].sum()) if amount == "tokens" else int(mine.sum())
        findings.compared += len(rows)
        if times is not None:
            times.check(where, groups, splits, batch["frame"].to_pylist(), findings)
        else:
            for row, group, split in zip(rows, groups, splits, strict=True):
                if split != (rule := split_of(group, settings["validation"], settings["test"])):
                    findings.differ(f"{where}/rows.parquet: row {row} is in {split}, its group's hash says {rule}")
    listings = [shard["listing"] for shard in manifest["shards"]]
    columns = ("row", "group", "split", "length", "frame")
    _check_listings(path, where, manifest["shards"], columns, listings, findings)
    found = {
        split: {"rows": told.rows, amount: amounts[split], "digest": told.hexdigest()}
        for split, told in digests.items()
    }
    counts = group_counts(path)
    for split, numbers in found.items():
        numbers["groups"] = counts.groups[split]
    findings.equal(f"{where}/rows.parquet: rows", sum(told.rows for told in digests.values()), manifest["rows_kept"])
    findings.same_names(f"{where}: split", set(found), manifest["splits"])
    for split, numbers in found.items():
        findings.equal(f"{where}/manifest.json: splits.{split}", manifest["splits"].get(split, {}), numbers)


def _check_listings(
    path: Path,
    where: str,
    shards: list[dict[str, Any]],
    columns_listed: tuple[str, ...],
    listings: list[str],
    findings: Findings,
) -> None:
    """The columns of the rows are, shard by shard, those that were listed when they were made."""
    findings.equal(f"{where}/rows.parquet: listings of {', '.join(columns_listed)}", len(listings), len(shards))
    with open_parquet(path) as file:
        columns = [name for name in columns_listed if name in file.schema_arrow.names]
        waiting = pa.table({name: pa.array([], file.schema_arrow.field(name).type) for name in columns})
        batches = file.iter_batches(columns=columns, batch_size=100_000)
        for shard, listing in zip(shards, listings, strict=False):
            while waiting.num_rows < shard["rows"] and (batch := next(batches, None)) is not None:
                waiting = pa.concat_tables([waiting, pa.table(batch).cast(waiting.schema)])
            part, waiting = waiting.slice(0, shard["rows"]), waiting.slice(shard["rows"])
            found = listing_digest([part[name].to_pylist() for name in columns])
            told = f"{where}/rows.parquet: {', '.join(columns)} of {shard['file']}"
            findings.equal(told, found, listing)


_MOST_FRAMES = 10_000_000


class _Times:
    """The rule of trajectories: every frame is in the split of its place in time, and once."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        settings = manifest["settings"]
        durations = manifest["source"].get("durations")
        if durations is None:
            durations = dict.fromkeys(settings["molecules"], settings["frames_per_molecule"])
        if sum(durations.values()) > _MOST_FRAMES:
            found, do = f"{sum(durations.values()):,} frames of trajectories", "audit a study of fewer"
            raise RecordError("check splits by time", found, do)
        self._expected = {molecule: time_splits(settings, frames) for molecule, frames in durations.items()}
        # the digest of a group tells the molecule and the block
        self._blocks = {
            content_digest(f"{molecule}|{block}".encode()).hex(): (molecule, block)
            for molecule, times in self._expected.items()
            for block in {block for block, _ in times}
        }
        self._seen: set[tuple[str, int]] = set()

    def check(self, where: str, groups: list[str], splits: list[str], frames: list[int], findings: Findings) -> None:
        for group, split, frame in zip(groups, splits, frames, strict=True):
            if group not in self._blocks:
                findings.differ(f"{where}/rows.parquet: {group} is no block of time of its molecules")
                continue
            molecule, block = self._blocks[group]
            times = self._expected[molecule]
            if not 0 <= frame < len(times):
                findings.differ(f"{where}/rows.parquet: frame {frame} of {molecule}, which has {len(times)}")
            elif (block, split) != times[frame]:
                rule = times[frame]
                findings.differ(
                    f"{where}/rows.parquet: frame {frame} of {molecule} is in {split}, block {block}; "
                    f"its time says {rule[1]}, block {rule[0]}"
                )
            if (molecule, frame) in self._seen:
                findings.differ(f"{where}/rows.parquet: frame {frame} of {molecule} for the second time")
            self._seen.add((molecule, frame))


def check_subsets(root: Path, study: dict[str, Any], findings: Findings) -> None:
    """Each cell was trained on the first rows of its seed's keyed order, so subsets nest, and tested on test."""
    data = {name: _Rows(root, name, entry["domain"]) for name, entry in study["data"].items()}
    for values in study["cells"] + study["controls"]:
        cell = Cell.from_dict(values)
        if cell.path in study["waived"]:
            continue
        metrics = read_metrics(root / cell.path / "metrics.json")
        known = data[cell.data["name"]]
        where = f"{cell.path}/metrics.json"
        subset = known.subsets.get((cell.seed, cell.num_samples))
        if subset is None:
            findings.differ(f"data/{cell.data['name']}/passport.json: no subset of {cell.path}")
            continue
        findings.equal(f"{where}: data_digest", metrics["data_digest"], known.manifest["digest"])
        findings.equal(f"{where}: subset_digest", metrics["subset_digest"], subset["digest"])
        findings.equal(f"{where}: val_digest", metrics["val_digest"], known.digest("validation"))
        findings.equal(f"{where}: test_digest", metrics["test_digest"], known.digest("test"))
        further = {other: data[other].digest("test") for other in cell.data["evaluations"]}
        findings.equal(f"{where}: evaluation_digests", metrics["evaluation_digests"], further)
        if cell.domain == LANGUAGE:
            # the first token of each molecule is given, not predicted
            tokens = subset["length"] - cell.num_samples
            findings.equal(f"{where}: tokens_unique", metrics["tokens_unique"], tokens)
        clusters = read_parquet(root / cell.path / "test_clusters.parquet")
        counts = dict(zip(clusters["cluster"].to_pylist(), clusters["count"].to_pylist(), strict=True))
        findings.equal(f"{cell.path}/test_clusters.parquet: clusters and counts", counts, known.clusters)


class _Rows:
    """A data set by manifest, passport and rows, which `check_data` holds against each other."""

    def __init__(self, root: Path, name: str, domain: str) -> None:
        folder = root / "data" / name
        self.manifest: dict[str, Any] = read_json(folder / "manifest.json")
        subsets = read_json(folder / "passport.json")["subsets"]
        self.subsets = {(subset["seed"], subset["num_samples"]): subset for subset in subsets}
        test: dict[str, int] = defaultdict(int)
        for batch in row_batches(folder / "rows.parquet", ["group", "split", "length"]):
            held_out = batch.filter(pc.equal(batch["split"], "test"))
            for group, length in zip(held_out["group"].to_pylist(), held_out["length"].to_pylist(), strict=True):
                # the first token of a molecule is given, not predicted; a frame has three forces an atom
                test[group] += length - 1 if domain == LANGUAGE else 3 * length
        clusters: dict[str, int] = defaultdict(int)
        for group, amount in test.items():
            clusters[cluster_of(group, len(test) > MAX_CLUSTERS)] += amount
        self.clusters = dict(clusters)

    def digest(self, split: str) -> str:
        """The digest of a split's rows."""
        return str(self.manifest["splits"][split]["digest"])
