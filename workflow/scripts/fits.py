"""Laws, control effects, local slopes and contrasts."""

from pathlib import Path

from chemscale.scaling.study_fits import write
from chemscale.stage import logged

with logged(snakemake.log[0]):
    write(Path(snakemake.params.root))
