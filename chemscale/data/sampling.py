"""A fixed sample of a split's rows, in a stream: those of the smallest keyed hashes, as subsets are drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from chemscale.data.manifest import read_manifest
from chemscale.data.shards import stream
from chemscale.data.subsets import SubsetDraw
from chemscale.io import disk_full_told


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

    def parts(names: Sequence[str]) -> Iterator[pa.Table]:
        for table in stream(folder, ["split", *names]):
            yield table.filter(pa.array(np.array(table["split"].to_pylist()) == split)).select(list(names))

    with disk_full_told(folder), tempfile.TemporaryFile(dir=folder) as file:
        draw = SubsetDraw((part["row"].to_pylist() for part in parts(["row"])), f"{folder.name}|{key}", seed, file)
        chosen = zip(parts(columns), draw.chosen(number), strict=True)
        return pa.concat_tables([part.filter(pa.array(mine)) for part, mine in chosen])
