"""What every cell will take, before anything runs."""

from pathlib import Path

from chemscale.planning.plan import write
from chemscale.stage import stage

with stage(snakemake):
    write(Path(snakemake.params.root))
