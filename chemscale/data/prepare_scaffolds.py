"""The stage that finds the scaffolds of a data set's molecules: a step of its own, run only where a study asks for it.

`scaffolds/` of a data folder has a file for each shard, with a scaffold for each of its rows, and `scaffolds.json`, the
marker that all of them are there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chemscale.data.constitution import parent_smiles, quiet, scaffold
from chemscale.data.manifest import read_manifest
from chemscale.data.pool import ordered_map
from chemscale.data.shards import ROW_GROUP
from chemscale.data.subsets import listing_digest, scaffold_digest
from chemscale.io import atomic_path, digest, sha256_file, write_json

_SCHEMA = pa.schema(
    [
        pa.field(
            "scaffold",
            pa.string(),
            metadata={"description": "Bemis-Murcko scaffold, canonical SMILES; empty without rings; null if not found"},
        )
    ]
)
_MADE_BY = b"chemscale-made-by"


def prepare(folder: Path, code: str, workers: int) -> None:
    """Write `scaffolds/` of a data folder of molecules; the files are the same bytes for every number of workers.

    Files that this code made of the same shards are kept, so that an interrupted stage goes on. The marker names the
    digest of the data, `files` in the order of the shards (file, sha256, listing: the digest of rows and scaffolds as
    `rows.parquet` of a study will list them), and how many scaffolds were `not_found`.

    Args:
        folder: the data folder.
        code: the digest of the code that decides the scaffolds.
        workers: processes.

    Raises:
        DataError: the folder holds less than its manifest says.
    """
    manifest = read_manifest(folder)
    tasks = [_Task(folder, shard["file"], digest([code, shard["sha256"]])) for shard in manifest["shards"]]
    done = list(ordered_map(_find, tasks, workers))
    lost = sum(int(record.pop("not_found")) for record in done)
    if lost:
        logging.getLogger("chemscale.data").warning("no scaffold was found of %d molecules", lost)
    record = {"data_digest": manifest["digest"], "files": done, "not_found": lost}
    write_json(folder / "scaffolds" / "scaffolds.json", record)


@dataclass(frozen=True)
class _Task:
    folder: Path
    shard: str
    made_by: str


def _find(task: _Task) -> dict[str, Any]:
    """Write the scaffolds of one shard; its record."""
    source = task.folder / task.shard
    path = task.folder / "scaffolds" / source.name
    rows = pq.read_table(source, columns=["row", "smiles"])
    known = pq.read_schema(path).metadata if path.exists() else None
    if known is None or known.get(_MADE_BY) != task.made_by.encode():
        found = [scaffold_of(smiles) for smiles in rows["smiles"].to_pylist()]
        path.parent.mkdir(exist_ok=True)
        table = pa.table([pa.array(found, pa.string())], schema=_SCHEMA.with_metadata({_MADE_BY: task.made_by}))
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)
    scaffolds = pq.read_table(path)["scaffold"].to_pylist()
    return {
        "file": f"scaffolds/{path.name}",
        "sha256": sha256_file(path),
        "listing": listing_digest([rows["row"].to_pylist(), [scaffold_digest(text) for text in scaffolds]]),
        "not_found": scaffolds.count(None),
    }


def scaffold_of(smiles: str) -> str | None:
    """The scaffold of the parent of a molecule that was kept; None where RDKit finds none."""
    from rdkit import Chem

    try:
        quiet()
        return scaffold(parent_smiles(Chem.MolFromSmiles(smiles)))
    except Exception:
        # whatever a library makes of one molecule is no reason to lose the others: it is counted, and told in the log
        logging.getLogger("chemscale.data").exception("no scaffold of %r", smiles)
        return None
