"""What a study keeps of its data, so that an audit needs no more: manifest, vocabulary, rows with splits, passport.

The passport says what was trained on: the snapshot, every row's fate, the overlap of splits, how many relatives by an
independent definition the splits still part, lengths, elements and the size of every subset that the study draws.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chemscale.data import scaffolds as scaffold_files
from chemscale.data.manifest import AMOUNTS, read_manifest
from chemscale.data.relatives import is_sampled, relative_key
from chemscale.data.shards import stream
from chemscale.data.subsets import (
    ALL_SPLITS,
    SPLITS,
    GroupCounts,
    RowsDigest,
    SubsetDraw,
    content_digest,
    count_groups,
    key_words,
    scaffold_digest,
)
from chemscale.data.tokenizer import Tokenizer
from chemscale.families import LANGUAGE
from chemscale.io import atomic_path, open_parquet, write_json

PASSPORT_VERSION = 2
# molecules whose relatives are looked for, about: a third of a millisecond each
_MOST_RELATIVES = 1_000_000


def prepare(study_root: Path, folder: Path, name: str, draws: Sequence[tuple[int, int]], scaffolds: bool) -> None:
    """Write `data/NAME/` of a study from a data folder: the passport last.

    `rows.parquet` has a row per kept row: row, group, split, length (tokens, or atoms of a frame), for frames their
    number among all attempts of their molecule, the digest of the scaffold where scaffolds were asked for (null for a
    molecule that has none), and for molecules `relative`, the digest of what `chemscale.data.relatives` calls their
    parent: null for a molecule that has none by that definition, or that is not in the sample of a large set.

    Args:
        study_root: the study's folder.
        folder: the data folder.
        name: the config's name of the data set.
        draws: (seed, num_samples) of every subset that the study draws from it.
        scaffolds: whether the study asks for scaffolds, which then are there.

    Raises:
        DataError: data or scaffolds are missing or changed.
    """
    target = study_root / "data" / name
    manifest = read_manifest(folder)
    language = manifest["domain"] == LANGUAGE
    if language:
        with atomic_path(target / "tokenizer.json") as temporary:
            shutil.copyfile(folder / "tokenizer.json", temporary)
        for file, content in Tokenizer.load(folder / "tokenizer.json").hugging_face_files().items():
            write_json(target / "tokenizer" / file, content)
    with atomic_path(target / "rows.parquet") as temporary:
        share = min(1.0, _MOST_RELATIVES / manifest["rows_kept"]) if language else None
        _write_rows(temporary, folder, share, scaffolds)
    with atomic_path(target / "manifest.json") as temporary:
        shutil.copyfile(folder / "manifest.json", temporary)
    computed = None
    if scaffolds:
        record = scaffold_files.read_record(folder)
        listings = [entry["listing"] for entry in record["files"]]
        computed = {"listings": listings, "not_found": record["not_found"]}
    write_json(target / "passport.json", passport_of(name, manifest, target / "rows.parquet", draws, computed))


def passport_of(
    name: str,
    manifest: Mapping[str, Any],
    rows: Path,
    draws: Sequence[tuple[int, int]],
    scaffolds: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The passport of a data set, by its manifest and `rows.parquet`.

    `scaffolds`, null where none were asked for, are the listings of the rows of each shard with their scaffolds, and
    how many were not found.
    """
    return {
        "schema_version": PASSPORT_VERSION,
        "name": name,
        "source": manifest["source"],
        "data_digest": manifest["digest"],
        "tokenizer_digest": manifest["tokenizer_digest"],
        "rows_in": manifest["rows_in"],
        "rows_kept": manifest["rows_kept"],
        "rejected": manifest["rejected"],
        "duplicates": manifest["rejected"].get("duplicate", 0),
        "over_time_limit": manifest["over_time_limit"],
        "warnings": manifest["warnings"],
        "unknown_tokens": manifest.get("unknown_tokens"),
        "amount": AMOUNTS[manifest["domain"]],
        "splits": manifest["splits"],
        "scaffolds": None if scaffolds is None else dict(scaffolds),
        "overlaps": measure_overlaps(rows),
        "relatives": measure_relatives(rows),
        "lengths": measure_lengths(rows),
        "elements": manifest["elements"],
        "subsets": measure_subsets(rows, manifest["name"], draws),
    }


def _write_rows(path: Path, folder: Path, share: float | None, scaffolds: bool) -> None:
    language = share is not None
    sized, extra = ("tokens", ["smiles"]) if language else ("species", ["frame"])
    found = scaffold_files.stream(folder) if scaffolds else itertools.repeat(None)
    writer = None
    for table, texts in zip(stream(folder, ["row", "group", "split", sized, *extra]), found, strict=scaffolds):
        rows = table.select(["row", "group", "split"]).append_column(
            pa.field("length", pa.int64(), metadata={"unit": "tokens" if language else "atoms"}),
            pc.list_value_length(table[sized]).cast(pa.int64()),
        )
        if share is not None:
            keys = [relative_key(text) if is_sampled(text, share) else None for text in table["smiles"].to_pylist()]
            digests = [None if key is None else content_digest(key.encode()).hex() for key in keys]
            rows = rows.append_column("relative", pa.array(digests, pa.string()))
        else:
            rows = rows.append_column("frame", table["frame"])
        if texts is not None:
            digests = [scaffold_digest(text) for text in texts.to_pylist()]
            rows = rows.append_column("scaffold", pa.array(digests, pa.string()))
        rows = rows.replace_schema_metadata()
        writer = writer or pq.ParquetWriter(path, rows.schema, compression="zstd")
        writer.write_table(rows)
    assert writer is not None, "a data folder has rows"
    writer.close()


def row_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Columns of a `rows.parquet`, part by part."""
    with open_parquet(path) as file:
        yield from file.iter_batches(columns=columns, batch_size=100_000)


def _codes(split: pa.Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array([ALL_SPLITS.index(name) for name in split.to_pylist()], np.uint8)


def measure_lengths(rows: Path) -> dict[str, list[list[int]]]:
    """How many rows of each length every split has, by `rows.parquet`: [length, rows], in order."""
    found: dict[str, Counter[int]] = {}
    for batch in row_batches(rows, ["split", "length"]):
        splits = np.array(batch["split"].to_pylist())
        lengths = batch["length"].to_numpy()
        for split in np.unique(splits).tolist():
            values, counts = np.unique(lengths[splits == split], return_counts=True)
            found.setdefault(split, Counter()).update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return {split: [list(pair) for pair in sorted(counts.items())] for split, counts in found.items()}


def group_counts(rows: Path, column: str = "group") -> GroupCounts:
    """How many distinct groups (or other digests) each split has and each pair shares, by `rows.parquet`."""
    with open_parquet(rows) as file:
        total = file.metadata.num_rows

    def parts() -> Iterator[tuple[Any, Any]]:
        for batch in row_batches(rows, [column, "split"]):
            told = batch.filter(pc.is_valid(batch[column]))
            yield key_words(told[column].to_pylist()), _codes(told["split"])

    return count_groups(parts, total)


def measure_overlaps(rows: Path) -> list[dict[str, Any]]:
    """What every pair of train, validation and test has in common, by `rows.parquet`: rows, groups, scaffolds.

    `scaffolds` is null where none were asked for. Digests are told apart by their first 64 bits.
    """
    with open_parquet(rows) as file:
        known = file.schema_arrow.names
    by_row, by_group = group_counts(rows, "row"), group_counts(rows)
    by_scaffold = group_counts(rows, "scaffold") if "scaffold" in known else None
    return [
        {
            "splits": [one, other],
            "rows": by_row.common[one, other],
            "groups": by_group.common[one, other],
            "scaffolds": None if by_scaffold is None else by_scaffold.common[one, other],
        }
        for one, other in itertools.combinations(SPLITS, 2)
    ]


def measure_relatives(rows: Path) -> dict[str, Any] | None:
    """How many parents by the definition of `chemscale.data.relatives` straddle splits, by `rows.parquet`.

    None for frames. `rows`: rows that have such a parent and were looked at. `parents`: distinct ones among them, of
    which `straddle` are in more than one of train, validation and test. `digest`: of these rows with their parents.
    """
    with open_parquet(rows) as file:
        if "relative" not in file.schema_arrow.names:
            return None
    counts, told = group_counts(rows, "relative"), RowsDigest()
    for batch in row_batches(rows, ["row", "relative"]):
        known = batch.filter(pc.is_valid(batch["relative"]))
        told.add(pc.binary_join_element_wise(known["row"], known["relative"], " ").to_pylist())
    return {"rows": told.rows, "parents": counts.distinct, "straddle": counts.straddle, "digest": told.hexdigest()}


def measure_subsets(rows: Path, key: str, draws: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The length of every subset that a study draws, and the digest of its rows, by `rows.parquet`."""
    found = []
    for seed, group in itertools.groupby(sorted(draws), key=lambda draw: draw[0]):
        with tempfile.TemporaryFile() as file:
            draw = SubsetDraw((part["row"].to_pylist() for part in _training(rows)), key, seed, file)
            for _, num_samples in group:
                told, length = RowsDigest(), 0
                for part, (mine, _) in zip(_training(rows), draw.chosen(num_samples), strict=True):
                    chosen = part.filter(pa.array(mine))
                    told.add(chosen["row"].to_pylist())
                    length += pc.sum(chosen["length"]).as_py() or 0
                found.append({"seed": seed, "num_samples": num_samples, "length": length, "digest": told.hexdigest()})
    return found


def _training(rows: Path) -> Iterator[pa.RecordBatch]:
    for batch in row_batches(rows, ["row", "split", "length"]):
        yield batch.filter(pc.equal(batch["split"], "train"))


def passport_rows(name: str, passport: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers of a passport as rows of `tables/passport.parquet`; a column that a kind lacks is missing.

    Columns: entry (the row's name), data (the config's name of the data set), kind, item, then by kind
    overlap: rows, groups, scaffolds that two splits share; relatives: rows that were looked at, groups (parents by the
    independent definition) and straddle; subset: seed, num_samples, length (tokens or atoms);
    length: the shortest, mean and longest row of a split (low, mean, high) and rows; element: atoms by split.
    """
    found: list[dict[str, Any]] = []
    for pair in passport["overlaps"]:
        numbers = {key: pair[key] for key in ("rows", "groups", "scaffolds")}
        found.append({"kind": "overlap", "item": " and ".join(pair["splits"]), **numbers})
    if (relatives := passport["relatives"]) is not None:
        numbers = {"rows": relatives["rows"], "groups": relatives["parents"], "straddle": relatives["straddle"]}
        found.append({"kind": "relatives", "item": ", ".join(SPLITS), **numbers})
    lengths = passport["lengths"]
    for split, counts in ((split, lengths[split]) for split in ALL_SPLITS if split in lengths):
        rows = sum(count for _, count in counts)
        total = sum(length * count for length, count in counts)
        numbers = {"low": counts[0][0], "mean": total / rows, "high": counts[-1][0], "rows": rows}
        found.append({"kind": "length", "item": split, **numbers})
    for subset in passport["subsets"]:
        numbers = {key: subset[key] for key in ("seed", "num_samples", "length")}
        found.append({"kind": "subset", "item": f"seed {subset['seed']}, {subset['num_samples']} rows", **numbers})
    elements = sorted({element for counts in passport["elements"].values() for element in counts})
    for element in elements:
        atoms = {f"{split}_atoms": passport["elements"].get(split, {}).get(element, 0) for split in SPLITS}
        found.append({"kind": "element", "item": element, **atoms})
    return [{"entry": f"{name}, {row['kind']}, {row['item']}", "data": name, **row} for row in found]
