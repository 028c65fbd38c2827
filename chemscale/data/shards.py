"""The schemas of the Parquet shards, and the one way to read them: in a stream, checked against the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chemscale.data.manifest import read_manifest
from chemscale.errors import DataError
from chemscale.io import sha256_file

# rows of a row group: a reader holds one at a time, and several readers can share a shard
ROW_GROUP = 8192


def _field(name: str, kind: pa.DataType, description: str, unit: str | None = None) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=False, metadata=metadata)


_COMMON = [
    _field("row", pa.string(), "digest of the row's content, 32 hex digits"),
    _field("group", pa.string(), "digest of what must not straddle splits, 32 hex digits"),
    _field("split", pa.string(), "train, validation, test, or gap (used by none)"),
    _field("smiles", pa.string(), "canonical SMILES; empty where the source of frames has none"),
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
        _field("molecule", pa.string(), "the molecule's name, or its formula"),
        _field("frame", pa.int32(), "number of the frame among all attempts of its molecule, in order"),
        _field("species", pa.list_(pa.uint8()), "atomic numbers"),
        _field("positions", pa.list_(pa.float64()), "positions, atom by atom", "angstrom"),
        _field("energy", pa.float64(), "total energy", "eV"),
        _field("forces", pa.list_(pa.float64()), "forces, atom by atom", "eV/angstrom"),
    ]
)


def stream(folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Columns of all shards in the manifest's order, a row group at a time; each shard is checked before it is read.

    Raises:
        DataError: the folder holds less than its manifest says, or something else.
    """
    for shard in read_manifest(folder)["shards"]:
        path = folder / shard["file"]
        found = sha256_file(path)
        if found != shard["sha256"]:
            raise DataError(
                f"read {path}",
                f"sha256 {found[:12]} where the manifest says {shard['sha256'][:12]}",
                "run the data stage again",
            )
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows != shard["rows"]:
                raise DataError(
                    f"read {path}", f"{file.metadata.num_rows} rows of {shard['rows']}", "run the data stage again"
                )
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns)
