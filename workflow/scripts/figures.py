"""All figures of the report."""

from pathlib import Path

from chemscale.reporting.figures import draw_all
from chemscale.stage import stage

with stage(snakemake):
    draw_all(Path(snakemake.params.root))
