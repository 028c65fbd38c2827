"""What a cell's records belong to: the digests of its config, of its code and of all data that it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chemscale.data import arrays
from chemscale.families import POTENTIALS, reach
from chemscale.grid import Cell
from chemscale.io import digest


def cell_identity(cell: Cell, data_dir: Path, code: str, data_digest: Callable[[str], str]) -> dict[str, str]:
    """The digests that decide a cell's bits: `config`, `code`, `data`, `arrays`, and `data of NAME` of other test sets.

    Args:
        cell: the cell.
        data_dir: the folder of all prepared data.
        code: the digest of its family's code.
        data_digest: gives the digest of the manifest of a data set, by its key.

    Raises:
        RecordError: the record of an array is missing.
        DataError: the subset is missing.
    """
    cutoff = reach(cell.family, cell.knobs) if cell.domain == POTENTIALS else None
    key, others = cell.data["key"], cell.data["evaluations"]
    read = [
        arrays.content(data_dir / key, cutoff, (cell.seed, cell.num_samples)),
        *(arrays.content(data_dir / other, cutoff, None) for other in others.values()),
    ]
    return {"config": cell.digest, "data": data_digest(key), "arrays": digest(read), "code": code} | {
        f"data of {name}": data_digest(other) for name, other in others.items()
    }
