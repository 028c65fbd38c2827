"""The numbers of the data sets, as a table."""

from pathlib import Path

from chemscale.reporting.tables import write
from chemscale.stage import logged

with logged(snakemake.log[0]):
    write(Path(snakemake.params.root))
