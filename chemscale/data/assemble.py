"""From sorted runs to shards: one set without duplicates, its vocabulary, Parquet shards, and the manifest last.

Nothing here holds more than a partition or a shard of the rows at once. Everything on the way lies in the folder of the
runs, whole or not at all, so that an interrupted assembly goes on where it was; the next stage removes it.
Rows lie in the order of their digests: as good as shuffled, and the same whatever came first.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chemscale.data.elements import count_elements, count_species
from chemscale.data.manifest import AMOUNTS, write_manifest
from chemscale.data.pool import ordered_map
from chemscale.data.runs import (
    Ledger,
    digest_words,
    hex_digests,
    merge,
    open_arrow,
    partitions,
    run_path,
    write_arrow,
)
from chemscale.data.shards import FRAMES_SCHEMA, LANGUAGE_SCHEMA, ROW_GROUP
from chemscale.data.subsets import ALL_SPLITS, RowsDigest, count_groups, listing_digest
from chemscale.data.tokenizer import CLS, SEP, UNK, vocabulary_of
from chemscale.errors import DataError
from chemscale.families import LANGUAGE, POTENTIALS
from chemscale.io import atomic_path, digest, read_json, sha256_file, write_json

_DUPLICATE = "duplicate"
_COUNTS = b"chemscale-counts"
_SPLIT_ROWS = 10_000


def prepare(section: Mapping[str, Any], folder: Path, markers: Sequence[Path], code: str, workers: int) -> None:
    """Write tokenizer (molecules), shards and `manifest.json`, in this order, from the runs of all chunks.

    The same runs give the same bytes for every number of workers.

    Args:
        section: the settings that decide the data's bytes, and max_reject_share, which decides whether they are taken.
        folder: the data folder.
        markers: the chunks' records.
        code: the digest of the code that decides the shards: what another code began is not gone on with.
        workers: processes.

    Raises:
        DataError: a run is missing, too many rows were rejected, or a split has no row.
    """
    log = logging.getLogger("chemscale.data")
    domain = LANGUAGE if section["kind"] == "molecules" else POTENTIALS
    chunks = [read_json(marker) for marker in markers]
    for chunk, marker in zip(chunks, markers, strict=True):
        if any(chunk[key] != chunks[0][key] for key in ("work", "units", "source", "warnings")):
            raise DataError(
                f"assemble {folder}", f"{marker} of another source than {markers[0]}", "run its chunks again"
            )
    work = folder / "work" / chunks[0]["work"]
    runs = [run_path(work, number) for number in range(chunks[0]["units"])]
    half_done = work / f"assembled-{digest(code)[:12]}"
    ledger = Ledger()
    for chunk in chunks:
        ledger.add(Ledger.from_dict(chunk["ledger"]))
    if missing := [run.name for run in runs if not run.exists()]:
        # the records promise what is not there (a stage that removes them was killed): read anew
        for marker in markers:
            marker.unlink()
        raise DataError(f"assemble {folder}", f"no {missing[0]} of {len(runs)} runs", "run the data stage again")
    half_done.mkdir(exist_ok=True)
    _check_rejects(section, ledger, chunks[0]["warnings"])

    tasks = [
        _Merge(runs, part, half_done / f"merged-{index:05d}.arrow")
        for index, part in enumerate(partitions(ledger.rows_kept))
    ]
    merged = list(ordered_map(_merge, tasks, workers))
    duplicates = sum(part.duplicates for part in merged)
    ledger.rows_kept -= duplicates
    if duplicates:
        ledger.rejected[_DUPLICATE] = duplicates
    log.info("%d of %d rows kept; rejected: %s", ledger.rows_kept, ledger.rows_in, dict(ledger.rejected))
    if domain == POTENTIALS:
        _check_rejects(section, ledger, chunks[0]["warnings"])  # a frame that comes twice was not meant to
    _check_splits(section, merged)

    tokenizer = None
    if domain == LANGUAGE:
        symbols: Counter[str] = Counter()
        for part in merged:
            symbols += Counter(part.symbols)
        tokenizer = vocabulary_of(section, symbols)
    vocabulary = None if tokenizer is None else tokenizer.vocabulary
    shard_tasks = [
        _Shard(slices, half_done / "shards" / f"shard-{index:05d}.parquet", vocabulary)
        for index, slices in enumerate(_slices(merged, section["rows_per_shard"]))
    ]
    shards = list(ordered_map(_write_shard, shard_tasks, workers))

    splits = _split_records(merged, ledger.rows_kept)
    unknown: Counter[str] = Counter()
    elements: dict[str, Counter[str]] = {split: Counter() for split in splits}
    for shard in shards:
        for split, counts in shard.elements.items():
            elements[split].update(counts)
        for split, amount in shard.amounts.items():
            splits[split][AMOUNTS[domain]] = splits[split].get(AMOUNTS[domain], 0) + amount
        unknown += Counter(shard.unknown)
    # from here on the folder changes: without a manifest it is not whole
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    (half_done / "shards").rename(folder / "shards")
    named = {Path(shard.entry["file"]).name for shard in shards}
    for other in (folder / "shards").iterdir():
        if other.name not in named:
            other.unlink()  # a shard's record, or what a writer that was killed has left
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")
    write_manifest(
        folder,
        name=folder.name,
        domain=domain,
        source=chunks[0]["source"],
        settings={key: value for key, value in section.items() if key != "max_reject_share"},
        shards=[shard.entry for shard in shards],
        ledger=ledger.to_dict(),
        warnings=chunks[0]["warnings"],
        splits=splits,
        elements={split: dict(sorted(counts.items())) for split, counts in elements.items()},
        tokenizer_digest=None if tokenizer is None else tokenizer.digest,
        unknown={split: unknown[split] for split in splits} if tokenizer is not None else None,
    )
    # the runs stay until the manifest has been accepted: the next stage removes them


def _check_rejects(section: Mapping[str, Any], ledger: Ledger, warnings: Sequence[str]) -> None:
    lost = sum(ledger.rejected.values())
    if lost > section["max_reject_share"] * ledger.rows_in or not ledger.rows_kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in ledger.rejected.most_common())
        raise DataError(
            f"{section['kind']}: at most {section['max_reject_share']:.1%} of {ledger.rows_in:,} rows rejected",
            "; ".join([f"{lost:,} ({reasons or 'no rows at all'})", *warnings]),
            "correct the source, or raise max_reject_share",
        )


def _check_splits(section: Mapping[str, Any], merged: Sequence[_Merged]) -> None:
    found = {split for part in merged for split in part.splits}
    wanted = ["train", *(split for split in ("validation", "test") if section[split] > 0)]
    if empty := [split for split in wanted if split not in found]:
        raise DataError(
            f"{section['kind']}: rows in {', '.join(wanted)}",
            f"none in {' and '.join(empty)}",
            "use more molecules or larger shares: the hash of a row's group gives its split",
        )


# --- merging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Merge:
    runs: list[Path]
    partition: tuple[int, int]
    path: Path


@dataclass(frozen=True)
class _Merged:
    """A partition without duplicates on disk: its rows, and what was counted of it."""

    path: Path
    rows: int
    duplicates: int
    splits: list[str]
    symbols: dict[str, int]  # of the training molecules, by symbol


def _merge(task: _Merge) -> _Merged:
    if not task.path.exists():
        table, duplicates = merge(task.runs, task.partition)
        splits = [ALL_SPLITS[code] for code in pc.unique(table["split"]).to_pylist()]
        symbols = _symbol_counts(table) if "selfies" in table.column_names else {}
        counts = {"rows": table.num_rows, "duplicates": duplicates, "splits": sorted(splits), "symbols": symbols}
        table = table.replace_schema_metadata({_COUNTS: json.dumps(counts)})
        write_arrow(task.path, table)
    return _Merged(task.path, **json.loads(open_arrow(task.path).schema.metadata[_COUNTS]))


def _symbols(selfies: pa.ChunkedArray) -> tuple[pa.DictionaryArray, Any]:
    """All symbols of SELFIES strings one after another, without their brackets, and how many each string has."""
    inner = pc.utf8_slice_codeunits(pc.replace_substring(selfies, "].[", "][.]["), 1, -1)
    parts = pc.split_pattern(inner, "][").combine_chunks()
    return parts.flatten().dictionary_encode(), np.diff(parts.offsets.to_numpy())


def _named(bare: str) -> str:
    return bare if bare == "." else f"[{bare}]"


def _symbol_counts(table: pa.Table) -> dict[str, int]:
    train = table.filter(pc.equal(table["split"], ALL_SPLITS.index("train")))
    counts: Counter[str] = Counter()
    # some at a time: split up, they take several times their room
    for first in range(0, train.num_rows, _SPLIT_ROWS):
        symbols, _ = _symbols(train["selfies"].slice(first, _SPLIT_ROWS))
        found = np.bincount(symbols.indices.to_numpy(), minlength=len(symbols.dictionary))
        counts.update(dict(zip(map(_named, symbols.dictionary.to_pylist()), found.tolist(), strict=True)))
    return dict(counts)


# --- shards -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shard:
    slices: list[tuple[Path, int, int]]
    path: Path
    vocabulary: tuple[str, ...] | None


@dataclass(frozen=True)
class _Written:
    """A shard on disk: its entry in the manifest; by split its tokens or frames, unknown tokens, and elements."""

    entry: dict[str, Any]
    amounts: dict[str, int]
    unknown: dict[str, int]
    elements: dict[str, dict[str, int]]


def _slices(merged: Iterable[_Merged], size: int) -> list[list[tuple[Path, int, int]]]:
    """The parts of merged partitions that make each shard of `size` rows."""
    shards: list[list[tuple[Path, int, int]]] = [[]]
    room = size
    for part in merged:
        begin = 0
        while begin < part.rows:
            if room == 0:
                shards.append([])
                room = size
            taken = min(room, part.rows - begin)
            shards[-1].append((part.path, begin, begin + taken))
            begin, room = begin + taken, room - taken
    return shards


def _write_shard(task: _Shard) -> _Written:
    record = task.path.with_suffix(".json")
    if not record.exists():
        parts = [open_arrow(path).slice(begin, end - begin) for path, begin, end in task.slices]
        table = pa.concat_tables([part.replace_schema_metadata() for part in parts]).combine_chunks()
        splits = table["split"].to_numpy()
        named = pa.DictionaryArray.from_arrays(pa.array(splits.astype(np.int8)), pa.array(ALL_SPLITS)).cast(pa.string())
        columns = {**_columns(table), "row": hex_digests(table["row"]), "group": hex_digests(table["group"])}
        columns["split"] = named
        unknown: dict[str, int] = {}
        schema = FRAMES_SCHEMA
        sizes = np.ones(table.num_rows, np.int64)
        if task.vocabulary is not None:
            schema = LANGUAGE_SCHEMA
            columns["tokens"], sizes, unknowns = _tokens(table["selfies"], task.vocabulary)
            unknown = _by_split(splits, unknowns)
        task.path.parent.mkdir(exist_ok=True)
        with atomic_path(task.path) as temporary:
            shard = pa.table([columns[name] for name in schema.names], schema=schema)
            pq.write_table(shard, temporary, compression="zstd", row_group_size=ROW_GROUP)
        amounts = _by_split(splits, sizes)
        elements = {}
        for code in np.unique(splits):
            part = table.filter(pa.array(splits == code))
            elements[ALL_SPLITS[code]] = (
                count_species(part["species"].combine_chunks().flatten().to_numpy())
                if task.vocabulary is None
                else count_elements(part["smiles"].to_pylist())
            )
        amount = AMOUNTS[LANGUAGE if task.vocabulary is not None else POTENTIALS]
        entry = {
            "file": f"shards/{task.path.name}",
            "sha256": sha256_file(task.path),
            "rows": table.num_rows,
            "listing": _listing(shard),
            amount: sum(amounts.values()),
        }
        write_json(record, {"entry": entry, "amounts": amounts, "unknown": unknown, "elements": elements})
    return _Written(**read_json(record))


def _listing(shard: pa.Table) -> str:
    """The digest of what `rows.parquet` will say of a shard's rows."""
    sized = "tokens" if "tokens" in shard.column_names else "species"
    columns = [shard[name].to_pylist() for name in ("row", "group", "split")]
    columns.append(pc.list_value_length(shard[sized]).to_pylist())
    if "frame" in shard.column_names:
        columns.append(shard["frame"].to_pylist())
    return listing_digest(columns)


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table[name] for name in table.column_names if name != "place"}


def _by_split(splits: Any, amounts: Any) -> dict[str, int]:
    return {ALL_SPLITS[code]: int(amounts[splits == code].sum()) for code in np.unique(splits)}


def _tokens(selfies: pa.ChunkedArray, vocabulary: Sequence[str]) -> tuple[pa.Array, Any, Any]:
    """The token ids of SELFIES strings, [CLS] first and [SEP] last; their numbers, and those of unknown ones."""
    symbols, counts = _symbols(selfies)
    ids = {token: index for index, token in enumerate(vocabulary)}
    known = np.array([ids.get(_named(bare), UNK) for bare in symbols.dictionary.to_pylist()], np.uint16)
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts + 2, out=offsets[1:])
    tokens = np.empty(offsets[-1], np.uint16)
    inside = np.ones(len(tokens), bool)
    inside[offsets[:-1]] = inside[offsets[1:] - 1] = False
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = CLS, SEP
    tokens[inside] = known[symbols.indices.to_numpy()]
    unknown = np.add.reduceat(tokens == UNK, offsets[:-1], dtype=np.int64)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)), counts + 2, unknown


# --- what the manifest says of the splits -----------------------------------------------------------------------------


def _split_records(merged: Sequence[_Merged], total: int) -> dict[str, dict[str, Any]]:
    """Rows, groups and digest of every split that has rows, from the merged partitions."""
    told = {split: RowsDigest() for split in ALL_SPLITS}
    for part in merged:
        table = open_arrow(part.path)
        splits = table["split"].to_numpy()
        names = np.array(hex_digests(table["row"]).to_pylist(), object)
        for code in np.unique(splits):
            told[ALL_SPLITS[code]].add(names[splits == code].tolist())

    def groups() -> Iterator[tuple[Any, Any]]:
        for part in merged:
            table = open_arrow(part.path)
            yield digest_words(table["group"])[0], table["split"].to_numpy()

    counts = count_groups(groups, total)
    return {
        split: {"rows": rows.rows, "groups": counts.groups[split], "digest": rows.hexdigest()}
        for split, rows in told.items()
        if rows.rows
    }
