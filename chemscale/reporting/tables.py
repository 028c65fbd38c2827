"""The numbers of the data sets as a table: `tables/data.parquet`, a row per data set, from the manifests' copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chemscale.errors import RecordError
from chemscale.io import canonical_json, read_json, write_parquet

SPLITS = ("train", "validation", "test", "gap")
TEXTS = ("name", "kind", "source", "version", "licence", "citation", "digest", "tokenizer_digest", "rejected")


def write(root: Path) -> None:
    """Write `tables/data.parquet` of the study in `root`.

    Columns: name (the config's), kind, source, version, licence, citation, digest, tokenizer_digest (null without one),
    rejected (JSON: reason -> rows), then whole numbers: rows_in, rows_kept, rows_rejected, rejected_REASON for every
    reason of any set (null where the set does not know it), and for each split of train, validation, test and gap:
    SPLIT_rows, SPLIT_groups, SPLIT_tokens or SPLIT_frames (null where a set has no such split or unit).
    """
    import pyarrow as pa

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
