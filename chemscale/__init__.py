"""chemscale: neural scaling laws of chemical models, from raw data to an audited report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import pandas as pd

__version__ = "0.1.0"


def load_cells(root: str | Path) -> pd.DataFrame:
    """The cells of a finished study, a row each, with the columns of `tables/cells.parquet`.

    Args:
        root: the study's folder, such as "results/quickstart".

    Raises:
        RecordError: the folder holds no gathered study.
    """
    from chemscale.io import read_parquet

    cells: pd.DataFrame = read_parquet(Path(root) / "tables" / "cells.parquet").to_pandas()
    return cells


def calculator(cell_or_export_dir: str | Path) -> NoReturn:
    """An ASE calculator of a finished potential cell: not there yet.

    Raises:
        InputError: always, until a version has it.
    """
    from chemscale.errors import InputError

    raise InputError(
        f"chemscale.calculator({str(cell_or_export_dir)!r})", "a function that is not there yet", "see CHANGELOG.md"
    )
