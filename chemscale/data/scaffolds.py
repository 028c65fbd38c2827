"""The scaffolds of a data set's molecules, as `chemscale.data.prepare_scaffolds` found them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chemscale.data.manifest import read_manifest
from chemscale.errors import DataError
from chemscale.io import read_json, sha256_file


def read_record(folder: Path) -> dict[str, Any]:
    """The marker of a data folder's scaffolds.

    Raises:
        DataError: there is none, or it is one of other data.
    """
    path = folder / "scaffolds" / "scaffolds.json"
    if not path.exists():
        raise DataError(f"read the scaffolds in {folder}", f"no {path.name}", "run the data stage again")
    record: dict[str, Any] = read_json(path)
    if record["data_digest"] != read_manifest(folder)["digest"]:
        raise DataError(f"read {path}", "scaffolds of other data", "run the data stage again")
    return record


def stream(folder: Path) -> Iterator[pa.Array]:
    """The scaffolds of all rows, in the parts and the order of `chemscale.data.shards.stream`.

    Raises:
        DataError: a file is missing or changed, or they are scaffolds of other data.
    """
    for entry in read_record(folder)["files"]:
        path = folder / entry["file"]
        if not path.exists() or sha256_file(path) != entry["sha256"]:
            raise DataError(f"read {path}", "no such file, or a changed one", "run the data stage again")
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)["scaffold"]
