"""Vectors of molecules: the mean over a molecule's tokens of the features of the last layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from chemscale.data.molecule_files import Unreadable, own_file
from chemscale.data.tokenizer import PAD
from chemscale.errors import InputError
from chemscale.inference.language import LanguageModel, load
from chemscale.inference.outputs import output_file
from chemscale.io import atomic_path
from chemscale.models.decoder import Decoder

# read, embedded and written at a time
_ROWS = 10_000
# computed tokens of a batch, as in training's evaluation: large enough to be fast, small enough for the cache
_TOKENS = 4096
# what a model whose training molecules are not known is given
_POLICY = {"stereo": "keep", "fragments": "keep", "max_symbols": 2046, "split_by": "constitution"}


@torch.no_grad()
def vectors(model: Decoder, strings: list[list[int]]) -> NDArray[np.float32]:
    """The vectors [molecules, width] of token ids, [CLS] and [SEP] included; pads of a batch change nothing."""
    found = np.empty((len(strings), model.embedding.weight.shape[1]), np.float32)
    order = sorted(range(len(strings)), key=lambda row: len(strings[row]))
    first = 0
    for place in range(1, len(order) + 1):
        if place < len(order) and (place + 1 - first) * len(strings[order[place]]) <= _TOKENS:
            continue
        rows = order[first:place]
        block = torch.full((len(rows), len(strings[rows[-1]])), PAD)
        for line, row in enumerate(rows):
            block[line, : len(strings[row])] = torch.tensor(strings[row])
        lengths = torch.tensor([len(strings[row]) for row in rows])
        real = (torch.arange(block.shape[1]) < lengths[:, None]).unsqueeze(2)
        means = (model.hidden(block) * real).sum(1) / lengths[:, None]
        found[rows] = means.numpy()
        first = place
    return found


def embed(cell: Path, file: Path, out: Path, column: str | None = None) -> dict[str, Any]:
    """Write a Parquet file with a row for each row of a file of molecules; returns how many have a vector.

    Molecules are treated as the model's training molecules were (stereo, fragments). Columns: row (its number in the
    file), smiles (as it stands there), embedding (the vector; null without one), rejected (why there is none, or null).

    Args:
        cell: a finished language cell, or a Hugging Face folder of one.
        file: CSV, TSV, SMI, TXT (also .gz) or Parquet.
        out: the file to write.
        column: that holds the SMILES, for a table.

    Raises:
        InputError: the cell, the file or the column is missing, the file holds no molecules, `out` cannot be written or
            is an input, or a vector is not finite.
    """
    output_file(out, [cell, file])
    asked = load(cell)
    smiles = own_file(file, column)
    rejected: Counter[str] = Counter()
    rows = 0
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("smiles", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), asked.model.embedding.weight.shape[1])),
            pa.field("rejected", pa.string()),
        ]
    )
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part in _parts(smiles):
            table, reasons = _embedded(asked, part, rows, schema)
            writer.write_table(table)
            rejected.update(reasons)
            rows += len(part)
    if not rows:
        raise InputError(f"embed the molecules of {file}", "no row", "give a file with molecules")
    return {"rows": rows, "embedded": rows - rejected.total(), "rejected": dict(sorted(rejected.items()))}


def _parts(rows: Iterable[str | Unreadable]) -> Iterator[list[str | Unreadable]]:
    stream = iter(rows)
    while part := list(islice(stream, _ROWS)):
        yield part


def _embedded(
    asked: LanguageModel, part: list[str | Unreadable], first: int, schema: pa.Schema
) -> tuple[pa.Table, list[str]]:
    from chemscale.data.molecules import Converted, convert

    policy: Mapping[str, Any] = asked.policy or _POLICY
    reasons: list[str | None] = []
    strings: list[list[int]] = []
    for smiles in part:
        made = convert(smiles, policy)
        reasons.append(None if isinstance(made, Converted) else made)
        if isinstance(made, Converted):
            strings.append(asked.tokenizer.encode(made.selfies))
    found = vectors(asked.model, strings)
    if not np.isfinite(found).all():
        raise InputError("embed molecules", "vectors that are not finite", "give a model that was trained")
    known = iter(found)
    columns = {
        "row": list(range(first, first + len(part))),
        "smiles": [None if isinstance(text, Unreadable) else text.encode("utf-8", "replace").decode() for text in part],
        "embedding": [None if reason else next(known) for reason in reasons],
        "rejected": reasons,
    }
    return pa.table(columns, schema=schema), [reason for reason in reasons if reason]
