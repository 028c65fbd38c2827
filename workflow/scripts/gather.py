"""The records of all cells and of their evaluations, in four tables."""

from pathlib import Path

from chemscale.gathering import gather_study
from chemscale.stage import stage

with stage(snakemake):
    gather_study(Path(snakemake.params.root))
