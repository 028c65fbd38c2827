"""The stage that computes the properties which probes predict: once for all cells of a data set.

`properties/DIGEST/` of a data folder, keyed by the digest of a probe's settings, holds `properties.parquet` and, last,
`manifest.json`: how many molecules were asked for and where each of them went.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from chemscale.data.manifest import read_manifest
from chemscale.data.pool import ordered_map
from chemscale.data.properties import candidates, compute, may_fit
from chemscale.data.sampling import split_rows
from chemscale.data.subsets import subset_keys
from chemscale.errors import DataError
from chemscale.io import digest, read_json, read_parquet, sha256_file, write_json, write_parquet

# molecules of a task: half a second
_TASK = 24
# of the data: every law is drawn on it, and no cell has seen it
SPLIT = "test"


def _field(name: str, kind: pa.DataType, description: str, unit: str | None = None) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=False, metadata=metadata)


_SCHEMA = pa.schema(
    [
        _field("row", pa.string(), "digest of the row's content, 32 hex digits"),
        _field("smiles", pa.string(), "canonical SMILES"),
        _field("selfies", pa.string(), "SELFIES 2 of the canonical SMILES"),
        _field("cluster", pa.string(), "Bemis-Murcko scaffold; without a ring the parent's SMILES"),
        _field("gap", pa.float64(), "HOMO-LUMO gap by GFN2-xTB", "eV"),
        _field("dipole", pa.float64(), "dipole moment by GFN2-xTB", "debye"),
    ]
)


def prepare(folder: Path, settings: Mapping[str, Any], code: str, workers: int) -> None:
    """Write `properties/DIGEST/` of a data folder; the same bytes for every number of workers.

    Molecules are the first in the order of a keyed hash (key: seed) of those in the test split that fit: see
    `chemscale.data.properties.candidates`.

    Args:
        folder: the data folder.
        settings: num_molecules, max_heavy_atoms and seed.
        code: the digest of the code that decides the values.
        workers: processes.

    Raises:
        DataError: the split has fewer molecules that fit, or the folder holds less than its manifest says.
    """
    from chemscale.data.xtb import source_record

    wanted, largest = settings["num_molecules"], settings["max_heavy_atoms"]
    chosen = list(islice(candidates(_in_order(folder, settings), largest), wanted))
    if len(chosen) < wanted:
        raise DataError(
            f"a probe of {wanted:,} molecules with 2 to {largest} heavy atoms",
            f"{len(chosen):,} in the test split of {folder.name}",
            "lower num_molecules or raise max_heavy_atoms",
        )
    tasks = [(part, settings["seed"]) for part in (chosen[at : at + _TASK] for at in range(0, len(chosen), _TASK))]
    outcomes = [outcome for part in ordered_map(compute, tasks, workers) for outcome in part]
    kept = [outcome.to_row() for outcome in outcomes if outcome.rejected is None]
    rejected = Counter(outcome.rejected for outcome in outcomes if outcome.rejected is not None)
    target = properties_folder(folder, settings)
    write_parquet(target / "properties.parquet", pa.Table.from_pylist(kept, schema=_SCHEMA))
    manifest = {
        "settings": dict(settings),
        "split": SPLIT,
        "data_digest": read_manifest(folder)["digest"],
        "code_digest": code,
        "source": source_record(),
        "asked": wanted,
        "kept": len(kept),
        "rejected": dict(sorted(rejected.items())),
        "sha256": sha256_file(target / "properties.parquet"),
    }
    write_json(target / "manifest.json", manifest)


def properties_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of the properties that a probe of these settings predicts."""
    return folder / "properties" / digest(dict(settings))[:12]


def load(folder: Path, settings: Mapping[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
    """The table of properties and its manifest; `DataError` where they are of other data, or changed."""
    target = properties_folder(folder, settings)
    manifest = read_json(target / "manifest.json")
    path = target / "properties.parquet"
    if manifest["data_digest"] != read_manifest(folder)["digest"] or sha256_file(path) != manifest["sha256"]:
        raise DataError(f"read {path}", "properties of other data, or a changed file", "run the data stage again")
    return read_parquet(path), manifest


def _in_order(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of the test split that may fit, by the keyed hash of each."""
    rows = []
    for table in split_rows(folder, SPLIT, ["row", "smiles", "selfies"]):
        rows += [row for row in table.to_pylist() if may_fit(row["smiles"], settings["max_heavy_atoms"])]
    if not rows:
        return []
    keys = subset_keys([row["row"] for row in rows], f"{folder.name}|properties", settings["seed"])
    return [rows[place] for place in np.argsort(keys, kind="stable")]
