"""A split's rows in a stream, and a fixed sample of them: those of the smallest keyed hashes, as subsets are drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from chemscale.data.manifest import read_manifest
from chemscale.data.shards import stream
from chemscale.data.subsets import SubsetDraw
from chemscale.io import disk_full_told


def split_rows(folder: Path, split: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of all rows of a split, a part at a time, in the order of the shards."""
    for table in stream(folder, ["split", *columns]):
        yield table.filter(pc.equal(table["split"], split)).select(list(columns))


def sample(folder: Path, split: str, number: int, key: str, seed: int, columns: Sequence[str]) -> pa.Table:
    """Columns of `number` rows of a split, or of all where it has fewer, in the order of the shards.

    Args:
        folder: the data folder.
        split: train, validation or test.
        number: of rows.
        key: names the purpose: samples of different keys are independent of each other and of all subsets.
        seed: of the draw.
        columns: of the shards.

    Raises:
        DataError: the folder holds less than its manifest says.
    """
    number = min(number, read_manifest(folder)["splits"][split]["rows"])

    with disk_full_told(folder), tempfile.TemporaryFile(dir=folder) as file:
        draw = SubsetDraw(
            (part["row"].to_pylist() for part in split_rows(folder, split, ["row"])), f"{folder.name}|{key}", seed, file
        )
        chosen = zip(split_rows(folder, split, columns), draw.chosen(number), strict=True)
        return pa.concat_tables([part.filter(pa.array(mine)) for part, (mine, _) in chosen])
