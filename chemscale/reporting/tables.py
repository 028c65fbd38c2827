"""The numbers of the data sets as tables, from the copies of manifests and passports that the study keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from chemscale.data.passport import passport_rows
from chemscale.errors import RecordError
from chemscale.io import canonical_json, read_json, write_parquet

SPLITS = ("train", "validation", "test", "gap")
TEXTS = ("name", "kind", "source", "version", "licence", "citation", "digest", "tokenizer_digest", "rejected")

PASSPORT = [
    *((name, pa.string()) for name in ("entry", "data", "kind", "item")),
    *(
        (name, pa.int64())
        for name in ("rows", "groups", "scaffolds", "straddle", "seed", "num_samples", "length", "low", "high")
    ),
    ("mean", pa.float64()),
    *((f"{split}_atoms", pa.int64()) for split in ("train", "validation", "test")),
]


def write(root: Path) -> None:
    """Write `tables/data.parquet`, a row per data set, and `tables/passport.parquet` of the study in `root`.

    Columns of `data`: name (the config's), kind, source, version, licence, citation, digest, tokenizer_digest (null
    without one), rejected (JSON: reason -> rows), then whole numbers: rows_in, rows_kept, rows_rejected,
    rejected_REASON for every reason of any set (null where the set does not know it), and for each split of train,
    validation, test and gap: SPLIT_rows, SPLIT_groups, SPLIT_tokens or SPLIT_frames (null where a set has no such split
    or unit). Those of `passport` are told by `chemscale.data.passport.passport_rows`.
    """
    root = Path(root)
    names = list(read_json(root / "config.json")["data"])
    rows = [_row(name, root / "data" / name / "manifest.json") for name in names]
    reasons = sorted({column for row in rows for column in row if column.startswith("rejected_")})
    numbers = ["rows_in", "rows_kept", "rows_rejected", *reasons]
    numbers += [f"{split}_{what}" for split in SPLITS for what in ("rows", "groups", "tokens", "frames")]
    schema = pa.schema(
        [(name, pa.string()) for name in TEXTS] + [(name, pa.int64()) for name in numbers],
    )
    complete = [{column: row.get(column) for column in schema.names} for row in rows]
    write_parquet(root / "tables" / "data.parquet", pa.Table.from_pylist(complete, schema=schema))
    told = [row for name in names for row in passport_rows(name, read_json(root / "data" / name / "passport.json"))]
    columns = pa.schema(PASSPORT)
    complete = [{column: row.get(column) for column in columns.names} for row in told]
    write_parquet(root / "tables" / "passport.parquet", pa.Table.from_pylist(complete, schema=columns))


def _row(name: str, path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    try:
        source, rejected = manifest["source"], manifest["rejected"]
        row = {
            "name": name,
            "kind": manifest["settings"]["kind"],
            "source": source["name"],
            "version": source["version"],
            "licence": source["licence"],
            "citation": source["citation"],
            "digest": manifest["digest"],
            "tokenizer_digest": manifest["tokenizer_digest"],
            "rejected": canonical_json(rejected),
            "rows_in": manifest["rows_in"],
            "rows_kept": manifest["rows_kept"],
            "rows_rejected": sum(rejected.values()),
            **{f"rejected_{reason}": count for reason, count in rejected.items()},
        }
        for split, numbers in manifest["splits"].items():
            row |= {f"{split}_{what}": numbers[what] for what in numbers if what != "digest"}
    except KeyError as error:
        raise RecordError(f"read {path}", f"no key {error}", "prepare the data set again") from None
    return row
