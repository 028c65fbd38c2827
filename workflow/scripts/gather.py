"""The records of all cells, in three tables."""

from pathlib import Path

from chemscale.records import gather_study
from stage import logged

with logged(snakemake.log[0]):
    gather_study(Path(snakemake.params.root))
