"""The manifest of a data folder: what its shards hold, where every row went, and the marker that it is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.errors import DataError
from chemscale.families import LANGUAGE, POTENTIALS
from chemscale.io import digest, read_json, write_json

MANIFEST_VERSION = 2
# what the rows of a domain are counted in, beside rows
AMOUNTS = {LANGUAGE: "tokens", POTENTIALS: "frames"}


def write_manifest(
    folder: Path,
    *,
    name: str,
    domain: str,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    ledger: Mapping[str, Any],
    warnings: Sequence[str],
    splits: Mapping[str, Mapping[str, Any]],
    elements: Mapping[str, Mapping[str, int]],
    tokenizer_digest: str | None,
    unknown: Mapping[str, int] | None,
) -> None:
    """Write `manifest.json`, the marker that a data folder is whole.

    Rows in = rows kept + rows rejected, by reason: the `ledger` holds rows_in, rows_kept, rejected, over_limit (digests
    of rows that exceeded the time limit). `unknown` counts a split's tokens outside the vocabulary.
    """
    manifest: dict[str, Any] = {
        "schema_version": MANIFEST_VERSION,
        "name": name,
        "domain": domain,
        "source": dict(source),
        "settings": dict(settings),
        "shards": list(shards),
        "rows_in": ledger["rows_in"],
        "rows_kept": ledger["rows_kept"],
        "rejected": dict(sorted(ledger["rejected"].items())),
        "over_time_limit": sorted(ledger["over_limit"]),
        "warnings": list(warnings),
        "splits": splits,
        "elements": elements,
        "tokenizer_digest": tokenizer_digest,
    }
    if unknown is not None:
        manifest["unknown_tokens"] = dict(sorted(unknown.items()))
    assert ledger["rows_in"] == ledger["rows_kept"] + sum(ledger["rejected"].values()), "a row is in no account"
    manifest["digest"] = digest(manifest)
    write_json(folder / "manifest.json", manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole data folder.

    Raises:
        DataError: the manifest is missing or changed, or a shard is missing.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise DataError(f"read the data in {folder}", "no manifest.json", "run the data stage again")
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise DataError(f"read {path}", type(manifest).__name__, "run the data stage again")
    if manifest.get("digest") != digest({key: value for key, value in manifest.items() if key != "digest"}):
        raise DataError(f"read {path}", "content that its own digest does not match", "run the data stage again")
    for shard in manifest["shards"]:
        if not (folder / shard["file"]).exists():
            raise DataError(f"read the data in {folder}", f"no {shard['file']}", "run the data stage again")
    return manifest
