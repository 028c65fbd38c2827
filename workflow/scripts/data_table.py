"""The numbers of the data sets, as a table."""

from pathlib import Path

from chemscale.reporting.tables import write
from chemscale.stage import stage

with stage(snakemake):
    write(Path(snakemake.params.root))
