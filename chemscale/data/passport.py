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

    `rows.parquet` has a row per kept row: row, group, split, length (tokens, or atoms of a frame), and for frames their
    number among all attempts of their molecule.
    """
    target = study_root / "data" / name
    manifest = read_manifest(folder)
    language = manifest["domain"] == "language"
    sized = "tokens" if language else "species"
    table = read_columns(folder, ["row", "group", "split", sized] + ([] if language else ["frame"]))
    rows = table.set_column(3, "length", pc.list_value_length(table[sized]).cast(pa.int64()))
    if language:
        with atomic_path(target / "tokenizer.json") as temporary:
            shutil.copyfile(folder / "tokenizer.json", temporary)
    write_parquet(target / "rows.parquet", rows, {"length": "tokens" if language else "atoms"})
    with atomic_path(target / "manifest.json") as temporary:
        shutil.copyfile(folder / "manifest.json", temporary)
