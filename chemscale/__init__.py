"""chemscale: neural scaling laws of chemical models, from raw data to an audited report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from chemscale.inference.calculator import ChemscaleCalculator

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


def calculator(
    cell_or_export_dir: str | Path,
    *,
    charge: int = 0,
    spin: int = 0,
    dtype: str = "float32",
    compiled: bool = False,
    threads: int = 1,
) -> ChemscaleCalculator:
    """An ASE calculator of a finished potential cell, or of a folder that `chemscale export --to ase` wrote.

    Energies are eV, forces eV/angstrom, stress eV/angstrom^3; totals and references are summed in float64.

    Args:
        cell_or_export_dir: such as "results/STUDY/cells/painn/w32/n1024/seed0".
        charge: of the structure in e, for a family that knows it.
        spin: its unpaired electrons, likewise.
        dtype: float32, or float64 for vibrations and tight minima.
        compiled: use machine code, which takes half a minute to build once for each size of a model.
        threads: of the processor that machine code may use.

    Raises:
        InputError: the folder holds no potential, or the potential knows neither charge nor spin.
        RecordError: its weights are missing or changed.
    """
    from chemscale.inference.calculator import ChemscaleCalculator

    return ChemscaleCalculator(
        cell_or_export_dir, charge=charge, spin=spin, dtype=dtype, compiled=compiled, threads=threads
    )
