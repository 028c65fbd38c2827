"""What every cell will take, before anything runs."""

from pathlib import Path

from chemscale.planning.plan import write
from chemscale.stage import logged

with logged(snakemake.log[0]):
    write(Path(snakemake.params.root))
