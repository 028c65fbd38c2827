"""The records of all cells and of their evaluations, in four tables."""

from pathlib import Path

from chemscale.gathering import gather_study
from chemscale.stage import logged

with logged(snakemake.log[0]):
    gather_study(Path(snakemake.params.root))
