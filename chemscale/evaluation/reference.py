"""What generated molecules are compared with: validation molecules, and as many training molecules as are generated.

The training molecules, drawn from the whole training split, stand for a perfect model: their distance from validation
is what is left when nothing is wrong but the number of molecules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chemscale.data.manifest import read_manifest
from chemscale.data.sampling import sample
from chemscale.errors import DataError
from chemscale.evaluation.descriptors import describe, parsed
from chemscale.io import read_parquet, write_parquet

# more would not move a distribution, and every evaluation keeps them
_MOST_VALIDATION = 5000
_SETS = {"reference": "validation", "training_sample": "train"}


def prepare(folder: Path, num: int, seed: int) -> None:
    """Write `reference/seed{seed}/n{num}.parquet` of a data folder: descriptors of both sets of molecules.

    Columns: set (reference or training_sample), and those of `chemscale.evaluation.descriptors.describe`.

    Raises:
        DataError: the folder holds less than its manifest says.
    """
    tables = []
    for name, split in _SETS.items():
        number = _MOST_VALIDATION if name == "reference" else num
        rows = sample(folder, split, number, "reference", seed, ["smiles"])
        columns = describe(parsed(rows["smiles"].to_pylist()))
        tables.append(pa.table({"set": [name] * len(columns["smiles"]), **columns}))
    told = {"data_digest": read_manifest(folder)["digest"]}
    write_parquet(_path(folder, num, seed), pa.concat_tables(tables, promote_options="permissive"), told)


def load(folder: Path, num: int, seed: int) -> dict[str, dict[str, list[Any]]]:
    """The columns of `reference` (without fingerprints, which nothing uses) and of `training_sample`.

    Raises:
        DataError: they are of other data.
    """
    path = _path(folder, num, seed)
    table = read_parquet(path)
    if (table.schema.metadata or {}).get(b"data_digest") != read_manifest(folder)["digest"].encode():
        raise DataError(f"read {path}", "molecules of other data", "run the data stage again")
    parts = {of: table.filter(pc.equal(table["set"], of)).drop_columns(["set"]) for of in _SETS}
    parts["reference"] = parts["reference"].drop_columns(["fingerprint"])
    return {of: part.to_pydict() for of, part in parts.items()}


def _path(folder: Path, num: int, seed: int) -> Path:
    return folder / "reference" / f"seed{seed}" / f"n{num}.parquet"
