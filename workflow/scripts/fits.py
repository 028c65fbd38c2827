"""Laws, control effects, local slopes and contrasts."""

from pathlib import Path

from chemscale.scaling.study_fits import write
from chemscale.stage import stage

with stage(snakemake):
    write(Path(snakemake.params.root))
