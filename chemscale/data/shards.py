"""Parquet shards and their manifest: written whole, read only as the manifest says.

numpy and pyarrow suffice to read them: a compute node has no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chemscale.data.subsets import rows_digest
from chemscale.errors import DataError
from chemscale.io import digest, read_json, read_parquet, sha256_file, write_json, write_parquet

MANIFEST_VERSION = 1


def _field(name: str, kind: pa.DataType, description: str, unit: str | None = None) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=False, metadata=metadata)


_COMMON = [
    _field("row", pa.string(), "digest of the row's content, 32 hex digits"),
    _field("group", pa.string(), "digest of what must not straddle splits, 32 hex digits"),
    _field("split", pa.string(), "train, validation, test, or gap (used by none)"),
    _field("smiles", pa.string(), "canonical SMILES"),
]
LANGUAGE_SCHEMA = pa.schema(
    [
        *_COMMON,
        _field("selfies", pa.string(), "SELFIES 2 of the canonical SMILES"),
        _field("tokens", pa.list_(pa.uint16()), "token ids, [CLS] first and [SEP] last"),
    ]
)
FRAMES_SCHEMA = pa.schema(
    [
        *_COMMON,
        _field("molecule", pa.string(), "the molecule's name"),
        _field("frame", pa.int32(), "number of the frame among all attempts of its molecule, in order"),
        _field("species", pa.list_(pa.uint8()), "atomic numbers"),
        _field("positions", pa.list_(pa.float64()), "positions, atom by atom", "angstrom"),
        _field("energy", pa.float64(), "total energy", "eV"),
        _field("forces", pa.list_(pa.float64()), "forces, atom by atom", "eV/angstrom"),
    ]
)


def write_shards(
    folder: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, rows_per_shard: int
) -> list[dict[str, Any]]:
    """Write rows to `shards/shard-00000.parquet` ...; the manifest's entry of each shard.

    An entry holds file, sha256, rows and tokens or frames. Older shards of the folder are deleted first.
    """
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    for old in shards.iterdir():
        old.unlink()
    entries = []
    for number, chunk in enumerate(_chunks(rows, rows_per_shard)):
        table = pa.Table.from_pylist(chunk, schema=schema)
        path = shards / f"shard-{number:05d}.parquet"
        write_parquet(path, table)
        amount = (
            {"tokens": sum(len(row["tokens"]) for row in chunk)} if "tokens" in schema.names else {"frames": len(chunk)}
        )
        entries.append({"file": f"shards/{path.name}", "sha256": sha256_file(path), "rows": len(chunk), **amount})
    return entries


def _chunks(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_manifest(
    folder: Path,
    *,
    name: str,
    domain: str,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    shards: list[dict[str, Any]],
    rejected: Mapping[str, int],
    tokenizer_digest: str | None,
    unknown: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write `manifest.json`, the marker that a data folder is whole; it counts the splits from the shards themselves.

    Rows in = rows kept + rows rejected, by reason. `unknown` counts a split's tokens outside the vocabulary.
    """
    amount = "tokens" if domain == "language" else "frames"
    columns = ["row", "group", "split"] + (["tokens"] if amount == "tokens" else [])
    table = pa.concat_tables([read_parquet(folder / shard["file"], columns) for shard in shards])
    split_column = np.array(table["split"].to_pylist())
    rows, groups = table["row"].to_pylist(), table["group"].to_pylist()
    sizes = (
        np.diff(table["tokens"].combine_chunks().offsets.to_numpy()) if amount == "tokens" else np.ones(len(rows), int)
    )
    splits = {}
    for split in sorted(set(split_column.tolist())):
        index = np.flatnonzero(split_column == split)
        splits[split] = {
            "rows": len(index),
            amount: int(sizes[index].sum()),
            "groups": len({groups[position] for position in index}),
            "digest": rows_digest([rows[position] for position in index]),
        }
    kept = sum(shard["rows"] for shard in shards)
    manifest: dict[str, Any] = {
        "schema_version": MANIFEST_VERSION,
        "name": name,
        "domain": domain,
        "source": dict(source),
        "settings": dict(settings),
        "shards": shards,
        "rows_in": kept + sum(rejected.values()),
        "rows_kept": kept,
        "rejected": dict(sorted(rejected.items())),
        "splits": splits,
        "tokenizer_digest": tokenizer_digest,
    }
    if unknown is not None:
        manifest["unknown_tokens"] = dict(sorted(unknown.items()))
    manifest["digest"] = digest(manifest)
    write_json(folder / "manifest.json", manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole data folder.

    Raises:
        DataError: the manifest is missing or changed, or a shard is missing.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise DataError(f"read the data in {folder}", "no manifest.json", "run the data stage again")
    manifest: dict[str, Any] = read_json(path)
    if manifest.get("digest") != digest({key: value for key, value in manifest.items() if key != "digest"}):
        raise DataError(f"read {path}", "content that its own digest does not match", "run the data stage again")
    for shard in manifest["shards"]:
        if not (folder / shard["file"]).exists():
            raise DataError(f"read the data in {folder}", f"no {shard['file']}", "run the data stage again")
    return manifest


def read_columns(folder: Path, columns: list[str]) -> pa.Table:
    """Columns of all shards in the manifest's order, each shard checked against its sha256 and its rows.

    Raises:
        DataError: the folder holds less than its manifest says, or something else.
    """
    tables = []
    for shard in read_manifest(folder)["shards"]:
        path = folder / shard["file"]
        found = sha256_file(path)
        if found != shard["sha256"]:
            raise DataError(
                f"read {path}",
                f"sha256 {found[:12]} where the manifest says {shard['sha256'][:12]}",
                "run the data stage again",
            )
        table = read_parquet(path, columns)
        if table.num_rows != shard["rows"]:
            raise DataError(f"read {path}", f"{table.num_rows} rows of {shard['rows']}", "run the data stage again")
        tables.append(table)
    return pa.concat_tables(tables)


@dataclass(frozen=True)
class LanguageData:
    """Tokens of all molecules, one after the other: molecule i is tokens[offsets[i] : offsets[i + 1]]."""

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    rows: list[str]
    groups: list[str]
    splits: NDArray[np.str_]


@dataclass(frozen=True)
class FrameData:
    """Frames one after the other: frame i holds atoms offsets[i] ... offsets[i + 1] - 1; eV, angstrom, eV/angstrom."""

    species: NDArray[np.uint8]
    positions: NDArray[np.float64]
    forces: NDArray[np.float64]
    energies: NDArray[np.float64]
    offsets: NDArray[np.int64]
    rows: list[str]
    groups: list[str]
    splits: NDArray[np.str_]
    molecules: list[str]


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A list column as one flat array and the offsets of its rows."""
    values = column.combine_chunks()
    flat = values.flatten().to_numpy()
    offsets = values.offsets.to_numpy().astype(np.int64)
    return flat, offsets - offsets[0]


def load_language(folder: Path) -> LanguageData:
    """The tokens of a language data folder; `DataError` where it is not whole."""
    table = read_columns(folder, ["row", "group", "split", "tokens"])
    tokens, offsets = _flat(table["tokens"])
    return LanguageData(
        tokens, offsets, table["row"].to_pylist(), table["group"].to_pylist(), np.array(table["split"].to_pylist())
    )


def load_frames(folder: Path) -> FrameData:
    """The frames of a potential data folder; `DataError` where it is not whole."""
    table = read_columns(folder, ["row", "group", "split", "molecule", "species", "positions", "energy", "forces"])
    species, offsets = _flat(table["species"])
    positions, forces = (_flat(table[name])[0].reshape(-1, 3) for name in ("positions", "forces"))
    if not len(species) == len(positions) == len(forces):
        raise DataError(
            f"read the frames in {folder}",
            f"{len(species)} species, {len(positions)} positions, {len(forces)} forces",
            "run the data stage again",
        )
    return FrameData(
        species,
        positions,
        forces,
        table["energy"].to_numpy(),
        offsets,
        table["row"].to_pylist(),
        table["group"].to_pylist(),
        np.array(table["split"].to_pylist()),
        table["molecule"].to_pylist(),
    )
