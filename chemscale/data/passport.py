"""What a study keeps of its data, so that an audit needs no more: manifest, vocabulary, rows with their splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from chemscale.data.shards import read_columns, read_manifest
from chemscale.io import atomic_path, write_parquet


def write_study_data(study_root: Path, folder: Path, name: str) -> None:
    """Copy a data folder's manifest and vocabulary to `data/NAME/` of a study, and write `rows.parquet` there.

    `rows.parquet` has a row per kept row: row, group, split and length (tokens, or atoms of a frame).
    """
    target = study_root / "data" / name
    manifest = read_manifest(folder)
    language = manifest["domain"] == "language"
    table = read_columns(folder, ["row", "group", "split", "tokens" if language else "species"])
    lengths = pc.list_value_length(table.column(3))
    rows = table.select([0, 1, 2]).append_column("length", lengths.cast(pa.int64()))
    if language:
        with atomic_path(target / "tokenizer.json") as temporary:
            shutil.copyfile(folder / "tokenizer.json", temporary)
    write_parquet(target / "rows.parquet", rows, {"length": "tokens" if language else "atoms"})
    with atomic_path(target / "manifest.json") as temporary:
        shutil.copyfile(folder / "manifest.json", temporary)
