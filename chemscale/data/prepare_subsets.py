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
from chemscale.data.subsets import RowsDigest, below_threshold, subset_keys
from chemscale.errors import DataError
from chemscale.io import atomic_path


def prepare(folder: Path, key: str, seed: int, num_samples: int) -> None:
    """Write `subsets/seed{seed}/n{num_samples}.parquet` of a data folder: the places of a subset's rows in the shards.

    The keys go through a temporary file: memory does not grow with the number of rows. The file's metadata name the
    data set, the digest of the data and that of the subset's rows. Another subset is another file.

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

    with disk_full_told(folder / "subsets"), tempfile.TemporaryFile(dir=folder) as keys_file:
        # the last key that is taken lies in the bucket (first 16 bits) in which the count passes num_samples
        counts = np.zeros(2**16, np.int64)
        for _, part in rows():
            keys = subset_keys(part, key, seed)
            counts += np.bincount((keys >> np.uint64(48)).astype(np.int64), minlength=2**16)
            keys_file.write(keys.tobytes())

        def stored() -> Iterator[NDArray[np.uint64]]:
            keys_file.seek(0)
            while content := keys_file.read(2**23):
                yield np.frombuffer(content, np.uint64)

        bucket = int(np.searchsorted(np.cumsum(counts), num_samples))
        within = np.sort(np.concatenate([keys[keys >> np.uint64(48) == bucket] for keys in stored()]))
        taken = num_samples - int(counts[:bucket].sum())
        last, equal_left = within[taken - 1], int((within[:taken] == within[taken - 1]).sum())

        digest = RowsDigest()
        keys_file.seek(0)
        with atomic_path(folder / "subsets" / f"seed{seed}" / f"n{num_samples}.parquet") as temporary:
            schema = pa.schema([pa.field("place", pa.int64(), nullable=False)])
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for places, part in rows():
                    keys = np.frombuffer(keys_file.read(8 * len(part)), np.uint64)
                    mine, equal_left = below_threshold(keys, last, equal_left)
                    writer.write_table(pa.table([pa.array(places[mine])], schema=schema))
                    digest.add(part[mine].tolist())
                writer.add_key_value_metadata(
                    {
                        "dataset": key,
                        "seed": str(seed),
                        "data_digest": manifest["digest"],
                        "subset_digest": digest.hexdigest(),
                    }
                )
