"""Sorted runs on disk: how rows from many processes become one set without duplicates, in order, in bounded memory.

A run holds the rows of one unit of work, in the order of their digests, with the ledger of that unit. It is written
whole or not at all, so that work that was interrupted goes on after the last whole run. All runs together are read in
partitions of the digests' range: a partition fits in memory whatever the number of rows, and holds all copies of each
of its rows. The result does not depend on how rows are spread over runs, or how many partitions there are.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chemscale.errors import DataError
from chemscale.io import atomic_path, digest, write_json

Item = TypeVar("Item")

DIGEST = pa.binary(16)
# rows of a partition, about: some tens of megabytes
PARTITION_ROWS = 100_000
# a run's index says where each bucket of digests (their first 12 bits) begins
_BUCKETS = 4096
_LEDGER, _INDEX = b"chemscale-ledger", b"chemscale-index"


@dataclass
class Ledger:
    """Where the rows of a unit of work went: rows in, kept, rejected by reason.

    `over_limit` are the digests of rows that exceeded the time limit.
    """

    rows_in: int = 0
    rows_kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    over_limit: list[str] = field(default_factory=list)

    def add(self, other: Ledger) -> None:
        """Add the counts and notes of another unit."""
        self.rows_in += other.rows_in
        self.rows_kept += other.rows_kept
        self.rejected += other.rejected
        self.over_limit += other.over_limit

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain values."""
        return {**asdict(self), "rejected": dict(sorted(self.rejected.items()))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ledger:
        """The ledger of plain values."""
        return cls(**{**values, "rejected": Counter(values["rejected"])})


class ChunkUnits(Generic[Item]):
    """The units of a chunk: of all items of a source, those that are still to do, as a stream that counts as it goes.

    Unit u holds the items from u times `size` on, and is in chunk u modulo the number of chunks. Units whose run is
    there already are passed over.
    """

    def __init__(self, items: Iterable[Item], size: int, work: Path, chunk: tuple[int, int]) -> None:
        self._items, self._size, self._chunk = items, size, chunk
        self.work = work
        self.numbers: list[int] = []  # of the chunk's units, those with a run included
        self.total = 0  # units of all chunks together

    def __iter__(self) -> Iterator[tuple[int, list[Item]]]:
        items = iter(self._items)
        while unit := list(itertools.islice(items, self._size)):
            number, self.total = self.total, self.total + 1
            if number % self._chunk[1] == self._chunk[0]:
                self.numbers.append(number)
                if not run_path(self.work, number).exists():
                    yield number, unit


def work_folder(folder: Path, section: Mapping[str, Any], source: Mapping[str, Any], code: str) -> Path:
    """The folder of a data set's runs: another one for another source, section or code, so that none is mistaken."""
    return folder / "work" / digest([section, source, code])[:12]


def run_path(folder: Path, number: int) -> Path:
    """The file of a unit's run."""
    return folder / f"run-{number:06d}.arrow"


def write_run(path: Path, table: pa.Table, ledger: Ledger) -> None:
    """Write a unit's rows, sorted by (row, place), with its ledger; atomically.

    `table` has the columns `row` (digest, 16 bytes) and `place` (number of the row in the source), and any others.
    """
    order = np.lexsort((table["place"].to_numpy(), *reversed(digest_words(table["row"]))))
    table = table.take(pa.array(order)).combine_chunks()
    starts = np.arange(_BUCKETS + 1, dtype=np.uint64) * (2**64 // _BUCKETS)
    starts[-1] = 2**64 - 1
    index = np.searchsorted(digest_words(table["row"])[0], starts, "left").astype(np.uint32)
    index[-1] = table.num_rows
    table = table.replace_schema_metadata({_LEDGER: json.dumps(ledger.to_dict()), _INDEX: index.tobytes()})
    write_arrow(path, table)


def write_arrow(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow file, atomically; not compressed, so that slices of it are read in place."""
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


@contextmanager
def _reader(path: Path) -> Iterator[pa.ipc.RecordBatchFileReader]:
    try:
        with pa.memory_map(str(path)) as source:
            yield pa.ipc.open_file(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"read {path}", f"no whole Arrow file ({error})", "delete its data folder and run the data stage again"
        ) from None


def open_arrow(path: Path) -> pa.Table:
    """The table of an Arrow file, mapped into memory: only what is touched is read; `DataError` if it is damaged."""
    with _reader(path) as reader:
        return reader.read_all()


def read_ledger(path: Path) -> Ledger:
    """The ledger of a run; `DataError` if the run is damaged."""
    with _reader(path) as reader:
        return Ledger.from_dict(json.loads(reader.schema.metadata[_LEDGER]))


def finish_chunk(
    marker: Path,
    units: ChunkUnits[Any],
    results: Iterable[Ledger],
    what: str,
    source: Mapping[str, Any],
    warnings: Callable[[], list[str]] = list,
) -> None:
    """Wait for the units of a chunk, sum the ledgers of all its runs, and write the chunk's record to `marker`.

    `results` are the ledgers of the units as they are made, and `warnings` tells afterwards what is to be said of the
    source as a whole. The record holds `units` (their number in all chunks together), `ledger` (this chunk's), `work`
    (the name of the runs' folder), `source` and `warnings` (the manifest's).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    log, told = logging.getLogger("chemscale.data"), logging.getLogger("chemscale.progress")
    done = Ledger()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        for ledger in results:
            done.add(ledger)
            progress.update(bar, completed=done.rows_in)
            told.info("%s: %s rows read, %s of them kept", what, f"{done.rows_in:,}", f"{done.rows_kept:,}")
    total = Ledger()
    for number in units.numbers:
        total.add(read_ledger(run_path(units.work, number)))
    told_of_source = warnings()
    for warning in told_of_source:
        log.warning("%s", warning)
    record = {"units": units.total, "ledger": total.to_dict(), "warnings": told_of_source}
    write_json(marker, {**record, "work": units.work.name, "source": dict(source)})


def digest_words(column: pa.ChunkedArray) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first and the last eight bytes of 16-byte digests, as numbers in the order of the digests."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(values) == 0:
        empty = np.empty(0, np.uint64)
        return empty, empty
    raw = np.frombuffer(values.buffers()[1], dtype=">u8", count=2 * (values.offset + len(values)))
    words = raw.reshape(-1, 2)[values.offset :].astype(np.uint64)
    return words[:, 0], words[:, 1]


def hex_digests(column: pa.ChunkedArray) -> pa.Array:
    """16-byte digests as text of 32 hex digits."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    raw = values.buffers()[1][16 * values.offset : 16 * (values.offset + len(values))] if len(values) else b""
    text = pa.py_buffer(bytes(raw).hex().encode())
    offsets = pa.py_buffer(np.arange(0, 32 * len(values) + 1, 32, dtype=np.int32))
    return pa.StringArray.from_buffers(len(values), offsets, text)


def partitions(rows: int) -> list[tuple[int, int]]:
    """The partitions for so many rows: the buckets of digests, from the first up to before the last, of each."""
    number = min(_BUCKETS, max(1, -(-rows // PARTITION_ROWS)))
    edges = [_BUCKETS * index // number for index in range(number + 1)]
    return list(itertools.pairwise(edges))


def merge(runs: Sequence[Path], partition: tuple[int, int]) -> tuple[pa.Table, int]:
    """The distinct rows of all runs whose digests belong to a partition, in order, and the number of their copies.

    Of equal rows the one of the lowest place in the source is kept.
    """
    parts = []
    for path in runs:
        table = open_arrow(path)
        # the index keeps this from touching more of the run than its slice
        index = np.frombuffer(table.schema.metadata[_INDEX], np.uint32)
        begin, end = int(index[partition[0]]), int(index[partition[1]])
        if begin < end:
            # copied, so that one run at a time is mapped: a page that is touched brings its neighbours along
            copied = table.slice(begin, end - begin).take(pa.array(np.arange(end - begin)))
            parts.append(copied.replace_schema_metadata())
    if not parts:
        return table.slice(0, 0).replace_schema_metadata(), 0
    table = pa.concat_tables(parts)
    first, last = digest_words(table["row"])
    order = np.lexsort((table["place"].to_numpy(), last, first))
    distinct = np.ones(len(order), bool)
    distinct[1:] = (np.diff(first[order]) != 0) | (np.diff(last[order]) != 0)
    return table.take(pa.array(order[distinct])).combine_chunks(), int(len(order) - distinct.sum())
