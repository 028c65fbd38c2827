"""The files of subsets: which rows of the shards each (seed, number of samples) takes, drawn in a stream."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chemscale.data.manifest import read_manifest
from chemscale.data.shards import stream
from chemscale.data.subsets import RowsDigest, SubsetDraw
from chemscale.errors import DataError
from chemscale.io import atomic_path


def prepare(folder: Path, key: str, seed: int, num_samples: int) -> None:
    """Write `subsets/seed{seed}/n{num_samples}.parquet` of a data folder: the rows of a subset in the shards' order.

    `place` is a row's place in the shards, `key` its keyed hash, in whose order the rows were drawn. The file's
    metadata name the data set, the digest of the data and that of the subset's rows. Another subset is another file.
    Memory does not grow with the number of rows.

    Raises:
        DataError: there are fewer training rows than asked for.
    """
    from chemscale.io import disk_full_told

    manifest = read_manifest(folder)
    training = manifest["splits"]["train"]["rows"]
    if num_samples > training:
        raise DataError(
            f"a subset of {num_samples:,} rows of {key}",
            f"{training:,} training rows that were kept",
            "ask for a smaller subset or for more data",
        )

    def rows() -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Training rows, a part at a time: the place of each in the shards, and its digest."""
        first = 0
        for table in stream(folder, ["row", "split"]):
            mine = np.flatnonzero(np.array(table["split"].to_pylist()) == "train")
            yield first + mine, np.array(table["row"].to_pylist(), object)[mine]
            first += table.num_rows

    with disk_full_told(folder / "subsets"), tempfile.TemporaryFile(dir=folder) as file:
        draw = SubsetDraw((part for _, part in rows()), key, seed, file)
        digest = RowsDigest()
        with atomic_path(folder / "subsets" / f"seed{seed}" / f"n{num_samples}.parquet") as temporary:
            schema = pa.schema(
                [pa.field("place", pa.int64(), nullable=False), pa.field("key", pa.uint64(), nullable=False)]
            )
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for (places, part), (mine, keys) in zip(rows(), draw.chosen(num_samples), strict=True):
                    writer.write_table(pa.table([pa.array(places[mine]), pa.array(keys)], schema=schema))
                    digest.add(part[mine].tolist())
                writer.add_key_value_metadata(
                    {
                        "dataset": key,
                        "seed": str(seed),
                        "data_digest": manifest["digest"],
                        "subset_digest": digest.hexdigest(),
                    }
                )
